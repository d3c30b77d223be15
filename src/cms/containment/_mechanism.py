"""What every mechanism is: a name, its promises, and a way to start a command."""

from __future__ import annotations

import abc
import os

from cms.containment._cgroup import Delegation
from cms.containment._container import Container
from cms.containment._model import Guarantee, Guarantees, Level, Spec
from cms.containment._seccomp import seccomp_filter

STRONG = Guarantee("strong")


def cap(controller: str, delegation: Delegation | None) -> Guarantee:
    """What a cap is worth with a cgroup controller, and without."""
    if delegation is not None and controller in delegation.controllers:
        return STRONG
    return Guarantee(
        "weak", f"by looking at the tree twice a second; our cgroup has no {controller} controller"
    )


def no_tampering(*, walls: bool) -> Guarantee:
    """What the system call filter is worth, with a /proc of the tree's own and without."""
    if not seccomp_filter():
        return Guarantee("none", f"no system call filter for {os.uname().machine}")
    return STRONG if walls else Guarantee("weak", "/proc/PID/mem can be written where the kernel lets it")


class Mechanism(abc.ABC):
    """A way to hold a process tree on this machine. One object serves any number of containers.

    Attributes:
        name: short, for people and receipts.
        guarantees: what it promises here, per thing that can be asked.
    """

    name: str
    guarantees: Guarantees

    @property
    def level(self) -> Level:
        """Where that stands among all machines."""
        return self.guarantees.level

    @abc.abstractmethod
    async def start(self, spec: Spec) -> Container:
        """Start a command. Either it runs in its container when this returns, or nothing is left.

        Raises:
            ContainmentError: the container could not be made, or the command not be run.
            WorkDirError: the command cannot start in its `cwd`.
        """

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} level {self.level.value}>"
