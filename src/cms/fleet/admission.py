"""What a session must meet before anything of it is started."""

from __future__ import annotations

from cms.config import Settings
from cms.containment import Level, Mechanism
from cms.errors import ContainmentError
from cms.session.model import SessionOptions


def check_containment(mechanism: Mechanism, settings: Settings, options: SessionOptions) -> None:
    """Whether this machine holds a session as well as was asked for, by it or by the settings.

    Raises:
        ContainmentError: it does not.
    """
    wanted, have = options.require_containment or settings.require_containment, mechanism.level
    if wanted is not None and have < Level(wanted):
        raise ContainmentError(
            f"{options.name!r} needs containment level {wanted}, but this machine has level {have.value} "
            f"({mechanism.name})",
            hint="`cms doctor` shows what is missing and how to get it",
        )
