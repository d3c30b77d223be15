"""The same namespaces made by our own shim, for machines that have no bwrap.

It asks for Linux 5.12 and for user namespaces (or root). bwrap comes first where it is there: it is older,
read by more people, and some distributions let it, and not any other program, make user namespaces.
"""

from __future__ import annotations

import os

from cms.runtime.containment import _launch, _mounts
from cms.runtime.containment._bwrap import namespace_guarantees, needs_user_namespace, process_rlimit
from cms.runtime.containment._cgroup import Delegation
from cms.runtime.containment._container import Container, NamespaceContainer
from cms.runtime.containment._mechanism import Mechanism
from cms.runtime.containment._model import Spec
from cms.runtime.containment._shim import Orders


class UnshareMechanism(Mechanism):
    """A pid, ipc and mount namespace by unshare(2), and a cgroup if one can be had."""

    def __init__(self, delegation: Delegation | None) -> None:
        self.name = "unshare+cgroup" if delegation is not None else "unshare"
        self.delegation = delegation
        self.guarantees = namespace_guarantees(delegation)

    async def start(self, spec: Spec) -> Container:
        """See `Mechanism.start`."""
        plan = _mounts.plan(spec)
        argv, env, cwd = _launch.bytes_of(spec)
        own_user = needs_user_namespace(plan)

        def orders(control: int, stdio: tuple[int, ...]) -> Orders:
            return Orders(
                "unshare",
                argv,
                env,
                cwd,
                control,
                stdio,
                os.getpid(),
                user_namespace=own_user,
                mounts=tuple((step.word, os.fsencode(step.path)) for step in plan.steps),
                sandbox=plan.sandbox,
                nproc=process_rlimit(spec) if own_user else 0,
            )

        return await _launch.launch(
            spec,
            plan,
            NamespaceContainer,
            mechanism=self.name,
            wrap=lambda shim: shim,
            orders=orders,
            delegation=self.delegation,
        )
