"""The same namespaces made by our own shim, for machines that have no bwrap.

It asks for Linux 5.12 and for user namespaces (or root). bwrap comes first where it is there: it is older,
read by more people, and some distributions let it, and not any other program, make user namespaces.
"""

from __future__ import annotations

import os
from pathlib import Path

from cms.containment import _launch, _mounts
from cms.containment._bwrap import namespace_guarantees, needs_user_namespace, process_rlimit
from cms.containment._cgroup import Delegation
from cms.containment._container import Container, NamespaceContainer
from cms.containment._mechanism import Mechanism
from cms.containment._model import Spec


class UnshareMechanism(Mechanism):
    """A pid, ipc and mount namespace by unshare(2), and a cgroup if one can be had."""

    def __init__(self, delegation: Delegation | None) -> None:
        name = "unshare+cgroup" if delegation is not None else "unshare"
        super().__init__(name, namespace_guarantees(delegation))
        self.delegation = delegation

    async def start_without_fallback(self, spec: Spec) -> Container:
        """See `Mechanism.start`."""
        plan = await _mounts.make_plan(spec)
        orders = _launch.orders_for("unshare", spec)
        orders.mounts = tuple(map(_order, plan.steps))
        orders.sandbox = plan.sandbox
        orders.user_namespace = needs_user_namespace(plan)
        if orders.user_namespace:
            orders.nproc = process_rlimit(spec)
        return await _launch.launch(
            spec,
            plan,
            NamespaceContainer,
            mechanism=self.name,
            wrap=lambda shim, _program: shim,
            orders=orders,
            delegation=self.delegation,
        )


def _order(step: _mounts.Step) -> tuple[str, bytes, tuple[bytes, ...]]:
    folders: tuple[Path, ...] = ()
    if (layer := step.layer) is not None:
        folders = (layer.upper,) if layer.work is None else (layer.upper, layer.work, *layer.under)
    return step.word, os.fsencode(step.path), tuple(map(os.fsencode, folders))
