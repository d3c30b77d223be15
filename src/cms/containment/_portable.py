"""Where there is neither Linux nor anything like it (macOS): what can be done with `ps` and signals.

No atomic kill, no freezer, no walls: a process that leaves its parent and clears its environment is missed,
and one that forks fast enough may outrun the looking. All of that is reported as level E. What holds: the
shim ends the tree when the supervisor dies, and no pid is signalled that was not just seen to be ours.

It runs on Linux, too, which is how it is tested; it is never chosen there.
"""

from __future__ import annotations

import os
import signal

import msgspec

from cms.containment import _launch, _mounts
from cms.containment._container import MARKER, Container, GuardContainer, until
from cms.containment._mechanism import Mechanism, cap
from cms.containment._model import Guarantee, Guarantees, Level, Member, Spec
from cms.containment._proc import COMMAND_CUT
from cms.containment._shim import look

_NO_MOUNTS = "this system has no mount namespaces"
_LOOKED = Guarantee("weak", "found by looking with ps: a process can hide, or outrun it")


class PortableContainer(GuardContainer):
    """A tree known by its parents and by a marker in its environment."""

    def _hold(self) -> None:
        """There are no pidfds; the shim, as its parent, is asked to signal the command."""

    def _let_go(self) -> None:
        """See `_hold`."""

    def _terminate(self) -> None:
        self._control.send("terminate")

    def _members(self) -> tuple[Member, ...]:
        if self._closed:
            return ()
        rows = look(self._shim, self._marker())
        return tuple(
            Member(pid=pid, started=started, command=command.strip()[:COMMAND_CUT], state=state, rss=rss)
            for pid, started, state, rss, command in rows
        )

    def _signal(self, member: Member, number: signal.Signals) -> None:
        try:
            os.kill(member.pid, number)  # seen to be ours a few milliseconds ago
        except OSError:
            pass  # gone, or it changed its user

    async def _reap(self) -> None:
        self._child.kill()
        # Waiting for SIGCHLD belongs to the program that we are part of.
        await until(lambda: self._child.poll() is not None)

    def _evidence(self) -> str:
        return "two looks at all processes found no member"


class PortableMechanism(Mechanism):
    """The last resort, for systems that are not Linux."""

    def __init__(self) -> None:
        walls = Guarantee("none", _NO_MOUNTS)
        guarantees = Guarantees(
            kill_all=_LOOKED,
            dies_with_supervisor=_LOOKED,
            protected_paths=walls,
            hidden_paths=walls,
            freeze=Guarantee("weak", "SIGSTOP to each process"),
            memory_cap=cap("memory", None),
            process_cap=cap("pids", None),
            no_tampering=Guarantee("none", "this system has no system call filter"),
            copy_on_write=walls,
        )
        super().__init__("portable", guarantees)

    @property
    def level(self) -> Level:
        """Below everything that Linux offers."""
        return Level.E

    async def start_without_fallback(self, spec: Spec) -> Container:
        """See `Mechanism.start`. Adds one variable to the environment, by which members are known."""
        plan = _mounts.without_mounts(spec, _NO_MOUNTS)
        marked = msgspec.structs.replace(spec, env={**spec.env, MARKER: plan.token})
        orders = _launch.orders_for("guard", marked)
        orders.seccomp = b""
        orders.marker = f"{MARKER}={plan.token}".encode()
        return await _launch.launch(
            spec,
            plan,
            PortableContainer,
            mechanism=self.name,
            wrap=lambda shim, _program: shim,
            orders=orders,
            delegation=None,
        )
