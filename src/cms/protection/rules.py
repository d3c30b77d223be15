"""From what a person chose about a session to the rules that it is judged by.

The one place where links are resolved for it: the gate itself knows no file system.
"""

from __future__ import annotations

from pathlib import Path

from cms.session.gate import Rules
from cms.session.model import SessionOptions
from cms.session.paths import PathRules


def build_rules(options: SessionOptions, environ_home: str) -> Rules:
    """The rules of a session from what a person chose; this is where links are resolved for it."""
    work_dir = Path(options.work_dir)

    def resolve(path: str) -> str:
        return str(Path(path).resolve())

    folders = [options.work_dir, resolve(options.work_dir)]
    for extra in options.add_dirs:
        folders += [str(work_dir / extra), resolve(str(work_dir / extra))]
    return Rules(
        limits=options.limits,
        preset=options.preset,
        paths=PathRules(
            work_dir=options.work_dir,
            home=environ_home,
            resolve=resolve,
            protect=options.protect,
            allow=options.allow_write,
        ),
        read_paths=PathRules(
            work_dir=options.work_dir,
            home=environ_home,
            resolve=resolve,
            protect=options.protect_read,
            defaults=(),
        ),
        folders=tuple(dict.fromkeys(folders)),
        safety=options.safety,
        permission_mode=options.permission_mode,
        stop_on_violation=options.on_violation == "stop",
        ask_timeout=options.ask_timeout,
    )
