"""Without namespaces: a subreaper as guardian, and a cgroup if one can be had.

Every orphan of the tree becomes a child of the shim, which kills its children until it has none. A process
that forks and exits faster than the shim can read the list may outrun that: without a cgroup the kill is
weak. Landlock's signal scope (kernel 6.12) keeps the tree from killing the guardian, or us; without it a
hostile program of the same user can.
"""

from __future__ import annotations

import sys

import msgspec

from cms.containment import _launch, _mounts
from cms.containment._cgroup import Delegation
from cms.containment._container import MARKER, Container, GuardContainer
from cms.containment._mechanism import STRONG, Mechanism, cap, no_tampering
from cms.containment._model import Guarantee, Guarantees, Spec

_NO_MOUNTS = "needs namespaces, which this machine does not allow"


class ScanMechanism(Mechanism):
    """The fall-back: process containers from signals, a subreaper and what /proc tells."""

    def __init__(self, delegation: Delegation | None, *, scoped: bool) -> None:
        name = "guard+cgroup" if delegation is not None else "guard"
        super().__init__(name, _guarantees(delegation, scoped=scoped))
        self.delegation = delegation
        self.scoped = scoped

    async def start_without_fallback(self, spec: Spec) -> Container:
        """See `Mechanism.start`. Adds one variable to the environment, by which strays are known as ours."""
        plan = _mounts.without_mounts(spec, _NO_MOUNTS)
        marked = msgspec.structs.replace(spec, env={**spec.env, MARKER: plan.token})
        orders = _launch.orders_for("guard", marked)
        orders.scoped = self.scoped
        return await _launch.launch(
            spec,
            plan,
            GuardContainer,
            mechanism=self.name,
            wrap=lambda shim, _program: shim,
            orders=orders,
            delegation=self.delegation,
        )


def has_signal_scope() -> bool:
    """True if Landlock can scope signals here: ABI 6, which is Linux 6.12."""
    if sys.platform != "linux":
        return False
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    create_ruleset, version = 444, 1
    return (
        int(libc.syscall(ctypes.c_long(create_ruleset), None, ctypes.c_size_t(0), ctypes.c_uint32(version)))
        >= 6
    )


def _guarantees(delegation: Delegation | None, *, scoped: bool) -> Guarantees:
    walls = Guarantee("none", _NO_MOUNTS)
    outrun = Guarantee("weak", "a process that forks and exits in a loop may outrun the guardian")
    killable = Guarantee(
        "weak", "a process of the same user can kill the guardian (needs Linux 6.12 with Landlock)"
    )
    ends = killable if not scoped else STRONG if delegation is not None else outrun
    return Guarantees(
        kill_all=ends,
        dies_with_supervisor=ends,
        protected_paths=walls,
        hidden_paths=walls,
        freeze=STRONG if delegation is not None else Guarantee("weak", "SIGSTOP to each process, no cgroup"),
        memory_cap=cap("memory", delegation),
        process_cap=cap("pids", delegation),
        no_tampering=no_tampering(walls=False),
        copy_on_write=walls,
    )
