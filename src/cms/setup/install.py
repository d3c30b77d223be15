"""Install and uninstall: each step told in a line, done or (`dry`) only told."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from cms.config import Settings, find_claude
from cms.errors import MachineError, UsageError
from cms.mcp.prompts import guide
from cms.session.model import Record
from cms.setup import edit_json
from cms.setup.backups import Notebook, digest, read, remove_if_empty, write
from cms.setup.claude_cli import NAME, Claude, Entry, Health, Scope, is_ours

SKILL = "delegate-with-cms"
SERVERS = "mcpServers"

_SKILL_HEAD = f"""---
name: {SKILL}
description: How to delegate work to other Claude Code agents through the cms tools (delegate, spawn, send). \
Read before delegating, or when work splits into parts: when it pays, how to split and to write tasks, which \
preset and limits, how to check results, how to spend little.
---

"""


class Report(Record, frozen=True):
    """What setup did, or with `dryRun` would do.

    Attributes:
        health: what Claude Code says of the server now; None if it was not asked.
    """

    action: Literal["install", "uninstall"]
    scopes: tuple[Scope, ...]
    changed: bool
    dry_run: bool
    steps: tuple[str, ...]
    config_files: tuple[str, ...]
    command: tuple[str, ...]
    guide: str | None
    health: Health | None
    detail: str = ""


class Setup:
    """One run. `folder` is the project."""

    def __init__(self, settings: Settings, folder: Path, *, dry: bool = False) -> None:
        self._settings = settings
        self._claude = Claude(find_claude(settings), settings.environ, folder)
        self._notebook = Notebook(settings.home)
        self._dry = dry
        self._steps: list[str] = []
        self._changed = False

    # --- install ------------------------------------------------------------------------------

    def install(self, scope: Scope, *, with_guide: bool | None) -> Report:
        """Register the server in a scope. `with_guide`: put the guide there, take it away, or leave it be.

        Raises:
            UsageError: a server of that name that is not ours is registered.
            MachineError: something could not be written, or `claude mcp add` failed.
        """
        entry = entry_for(self._settings, scope)
        self._register(scope, entry)
        guide_file = self._guide_file(scope)
        if with_guide:
            self._write_guide(guide_file)
        elif with_guide is False:
            self._remove_guide(guide_file)
        health, detail = (None, "") if self._dry else self._check(scope, entry)
        return self._report(
            "install",
            (scope,),
            entry=entry,
            guide=str(guide_file) if read(guide_file) is not None or (with_guide and self._dry) else None,
            health=health,
            detail=detail,
        )

    def _register(self, scope: Scope, entry: Entry) -> None:
        file = self._claude.file_of(scope)
        found, before = self._registered(file)
        if entry.same_as(found):
            self._steps.append(f"already registered in {file}")
            return
        if found is not None and not is_ours(found):
            raise UsageError(
                f"{file} has another server named {NAME}",
                hint=f"if you do not need it: {self._claude.shown(self._claude.remove_words(scope))}",
            )
        known = self._notebook.of(file)
        as_we_left = known is not None and before is not None and known.after == digest(before)
        if before is not None and not as_we_left:
            self._step(f"back up {file}", lambda: None)
        if not self._dry:
            if scope == "project":
                self._notebook.keep(file)
            # Whatever it is told to do, Claude Code also writes its own file, and its folder if it is new.
            self._notebook.keep(self._claude.user_file, (self._claude.config_folder,))
        text = before.decode() if before is not None else ""
        if found is not None:
            words = self._claude.remove_words(scope)
            self._step(self._claude.shown(words), lambda: self._claude.do(words))
            text = edit_json.remove(text, (SERVERS,), NAME) if text else text
        add = self._claude.add_words(scope, entry)
        self._step(self._claude.shown(add), lambda: self._claude.do(add))
        if self._dry:
            return
        if scope == "project" and before is not None:
            written = edit_json.get((read(file) or b"{}").decode(), (SERVERS, NAME))
            self._put(file, edit_json.insert(text, (SERVERS,), NAME, written).encode())
        if found is None or as_we_left:
            self._notebook.settle(file)
            self._notebook.settle(self._claude.user_file)

    def _registered(self, file: Path) -> tuple[object, bytes | None]:
        """What is registered under our name in a file, and the file."""
        data = read(file)
        if data is None or not data.strip():
            return None, data
        try:
            return edit_json.get(data.decode(), (SERVERS, NAME)), data
        except ValueError as error:
            raise MachineError(f"{file} cannot be read: {error}", hint="fix it first") from error

    def _check(self, scope: Scope, entry: Entry) -> tuple[Health, str]:
        file = self._claude.user_file
        as_we_left = self._notebook.way_back(file) is not None
        health, detail, seen = self._claude.health()
        if as_we_left:
            self._notebook.settle(file)  # the check itself makes Claude Code write into it
        if health == "pending approval" or (seen is not None and seen != scope):
            apart, why = self._claude.health_apart(entry)
            if apart != "connected":
                return apart, why
            # What it speaks of is the user's entry: it does so while the project's is not approved.
            return ("pending approval" if scope == "project" else "connected"), detail
        return health, detail

    # --- uninstall ----------------------------------------------------------------------------

    def uninstall(self, scopes: Sequence[Scope]) -> Report:
        """Take the server and the guide out of the scopes. What is not there is no error.

        Raises:
            MachineError: something could not be written, or `claude mcp remove` failed.
        """
        for scope in scopes:
            self._remove_guide(self._guide_file(scope))  # first: its folders lie in Claude Code's
            self._unregister(scope)
        return self._report("uninstall", tuple(scopes), entry=None, guide=None, health=None)

    def _unregister(self, scope: Scope) -> None:
        file = self._claude.file_of(scope)
        found, data = self._registered(file)
        if found is None or data is None:
            self._steps.append(f"not registered in {file}")
            if not self._dry:
                self._notebook.forget(file, drop_backup=False)
            return
        if not is_ours(found):
            self._steps.append(f"kept: {NAME} in {file} is another server")
            return
        back, known = self._notebook.way_back(file), self._notebook.of(file)
        own = self._claude.user_file
        aside = self._notebook.way_back(own) if self._registered(own)[0] is None else None
        words = self._claude.remove_words(scope)
        self._step(self._claude.shown(words), lambda: self._claude.do(words))
        if back is not None:
            what = "put back as it was" if back.existed else "removed, as it was not there before"
            self._step(f"{file}: {what}", lambda: self._notebook.go_back(back))
        elif scope == "project":
            text = edit_json.remove(data.decode(), (SERVERS,), NAME)
            if known is not None and not known.existed and json.loads(text) == {SERVERS: {}}:
                self._step(
                    f"{file}: removed, since nothing else is in it", lambda: file.unlink(missing_ok=True)
                )
            else:
                self._step(f"{file}: the rest is as it was", lambda: self._put(file, text.encode()))
        if self._dry:
            return
        if aside is not None:
            self._notebook.go_back(aside)
        for before in (back, aside):
            if before is not None and not before.existed:
                for folder in before.made:
                    _remove_claude_folder(Path(folder))
        self._notebook.forget(file, drop_backup=back is not None)
        if aside is not None:
            self._notebook.forget(own, drop_backup=True)

    # --- the guide ----------------------------------------------------------------------------

    def _guide_file(self, scope: Scope) -> Path:
        root = self._claude.config_folder if scope == "user" else self._claude.folder / ".claude"
        return root / "skills" / SKILL / "SKILL.md"

    def _write_guide(self, file: Path) -> None:
        wanted, there = guide_text().encode(), read(file)
        if there == wanted:
            self._steps.append(f"the guide is already there: {file}")
            return
        if there is not None and self._notebook.way_back(file) is None:
            raise UsageError(f"{file} has been changed", hint="remove or rename it, then try again")

        def put() -> None:
            parents = [file.parent, file.parent.parent, file.parent.parent.parent]
            self._notebook.keep(file, parents)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MachineError(f"cannot create {file.parent}: {error.strerror}") from error
            write(file, wanted)
            self._notebook.settle(file)

        self._step(f"write the guide {file}", put)

    def _remove_guide(self, file: Path) -> None:
        there = read(file)
        if there is None:
            return
        known, back = self._notebook.of(file), self._notebook.way_back(file)
        if back is None and there != guide_text().encode():
            self._steps.append(f"kept: {file} has changed since it was installed")
            return

        def take() -> None:
            file.unlink(missing_ok=True)
            remove_if_empty(file.parent)
            for folder in known.made if known is not None else ():
                remove_if_empty(Path(folder))
            self._notebook.forget(file, drop_backup=True)

        self._step(f"remove the guide {file}", take)

    # --- shared -------------------------------------------------------------------------------

    def _step(self, told: str, do: Callable[[], None]) -> None:
        self._steps.append(told)
        self._changed = True
        if not self._dry:
            do()

    def _put(self, file: Path, data: bytes) -> None:
        if read(file) != data:
            write(file, data)

    def _report(
        self,
        action: Literal["install", "uninstall"],
        scopes: tuple[Scope, ...],
        *,
        entry: Entry | None,
        guide: str | None,
        health: Health | None,
        detail: str = "",
    ) -> Report:
        return Report(
            action=action,
            scopes=scopes,
            changed=self._changed,
            dry_run=self._dry,
            steps=tuple(self._steps),
            config_files=tuple(str(self._claude.file_of(scope)) for scope in scopes),
            command=() if entry is None else (entry.command, *entry.args),
            guide=guide,
            health=health,
            detail=detail,
        )


def entry_for(settings: Settings, scope: Scope) -> Entry:
    """How this installation's server is started.

    A project's file is shared, so there the plain name is used where it leads to this installation; the
    user's own file gets the full path, because a `cms` on another PATH may be another one. Not `python -m
    cms` without `-P`: Claude Code starts servers in the project, which must not become a source of modules.
    """
    args: tuple[str, ...] = ("mcp",)
    script = Path(sys.executable).with_name("cms")
    on_path = shutil.which("cms", path=settings.environ.get("PATH"))
    if not script.is_file():
        command, args = sys.executable, ("-P", "-m", "cms", "mcp")
    elif scope == "project" and on_path is not None and Path(on_path).samefile(script):
        command = "cms"
    else:
        command = str(script)
    env = {}
    if settings.environ.get("CMS_HOME"):
        env["CMS_HOME"] = str(settings.home)
    if settings.environ.get("CMS_CLAUDE"):
        env["CMS_CLAUDE"] = settings.environ["CMS_CLAUDE"]
    return Entry(command, args, env)


def guide_text() -> str:
    """The strategy guide as a skill."""
    return _SKILL_HEAD + guide()


def _remove_claude_folder(folder: Path) -> None:
    """Remove Claude Code's folder if it has come to hold its own copies of the file we changed, no more."""
    try:
        inside = sorted(path for path in folder.rglob("*"))
    except OSError:
        return
    backups = folder / "backups"
    if all(path == backups or path.name.startswith(".claude.json.backup.") for path in inside):
        shutil.rmtree(folder, ignore_errors=True)
