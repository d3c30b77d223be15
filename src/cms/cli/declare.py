"""With what commands declare their flags: cyclopts' own classes, or light ones with the same names.

cyclopts takes two thirds of what a fast command takes. So the modules of those commands import these names
from here, and `cms.cli.quick` reads the declarations where the command line is a plain one; only where it is
not (help, an error, a rare form) is cyclopts loaded, and those modules once more with it
(`cms.cli.quick.withdraw`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

#: Whether these are the light ones.
LIGHT = "cyclopts" not in sys.modules

if TYPE_CHECKING or not LIGHT:
    from cyclopts import Group, Parameter, Token
else:

    class Token:
        """One word of a command line."""

    class Group:
        """A heading of the help; nothing here shows help."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

    class Parameter:
        """What `cms.cli.quick` reads of a declaration."""

        def __init__(self, name=(), *, converter=None, **_):
            self.name = (name,) if isinstance(name, str) else tuple(name)
            self.converter = converter

        @classmethod
        def combine(cls, first, *_):
            return first


__all__ = ["LIGHT", "Group", "Parameter", "Token"]
