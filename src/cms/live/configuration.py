"""What a session's `claude` reads as its configuration, made before it starts and out of the session's reach.

In a folder of its own, read-only for the session, there is for the work dir and for each added folder what
stands in for the project's own configuration (`protection.trust`).

What was asked for by flag and cannot be meant is an error here, before anything starts; what only `claude`
can say of it (`session.in_force`) is asked of it before the first message.

Everything here touches the disk, the project's too: call it in a thread (`cms.disk`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from cms.config import Settings
from cms.errors import UsageError
from cms.live.argv import SETTINGS_FILE
from cms.protection.project import Project, Unread, read_regular
from cms.protection.trust import own_folder, read_all, standing_of, write_root
from cms.session.in_force import Expected
from cms.session.model import SessionOptions
from cms.session.project_config import SETTINGS, anchored, decode_object, servers_at
from cms.session.trust import Standing, notices

#: Bytes of a file that a flag names.
_MAX_GIVEN: Final = 16 * 1024 * 1024
#: Where claude looks for what an added folder brings (from 2.1.332 on; before that, claude's own rules hold).
_ROOTS: Final = "additionalDirectoryConfigRoots"
#: Without CLAUDE.md (nested ones too), rules and what sessions have noted of the folder (measured: 2.1.332).
_PLAIN: Final = {"CLAUDE_CODE_DISABLE_CLAUDE_MDS": "1", "CLAUDE_CODE_DISABLE_AUTO_MEMORY": "1"}


class Configuration(msgspec.Struct, frozen=True):
    """What a process is started with.

    Attributes:
        folder: what holds it, and whatever else `claude` is given in files.
        root: in it, what `claude` takes for the project's own configuration.
        settings: in the place of `--settings`: JSON, or "".
        mcp_config: in the place of `--mcp-config`, JSON: claude would start servers in `root`.
        trusted: whether the work dir is.
        plain: nothing of any folder is to be shown to the model unasked.
        left_out: what is not in force, and how to let it in.
        expected: what `claude` is to be asked before the first message.
    """

    folder: Path
    root: Path
    settings: str
    mcp_config: tuple[str, ...]
    trusted: bool
    plain: bool
    left_out: tuple[str, ...]
    expected: Expected

    def take_place(self, options: SessionOptions) -> SessionOptions:
        """The options with what claude is given instead of the user's files."""
        return msgspec.structs.replace(options, settings=self.settings, mcp_config=self.mcp_config)

    def with_status_line(self, command: Callable[[str], str]) -> Configuration:
        """With a status line command, made from the one that is in force without it ("": none is)."""
        said = decode_object(self.settings.encode()) or {}
        given = (found.get("statusLine") for found in (said, self.expected.project, self.expected.user))
        line: dict[str, object] = next((one for one in given if isinstance(one, dict)), {})
        before = line.get("command")
        ours = command(before if isinstance(before, str) else "")
        said = {**said, "statusLine": {**line, "type": "command", "command": ours}}
        return msgspec.structs.replace(self, settings=msgspec.json.encode(said).decode())

    @property
    def environ(self) -> dict[str, str]:
        """What to add to the environment of `claude`."""
        return (_PLAIN if self.plain else {}) | (
            {} if self.trusted else {"CLAUDE_CODE_IGNORE_PERSISTED_TRUST": "1"}
        )


def prepare_configuration(
    options: SessionOptions, settings: Settings, folder: Path, *, now: float
) -> Configuration:
    """Make it, in a folder that is empty.

    Raises:
        UsageError: `--settings` or `--mcp-config` is not a JSON object, or is not there.
        HomeUnusable: what is trusted cannot be read or kept.
        OSError: the folder cannot be written.
    """
    said = _given_settings(options.settings)
    given_servers = [_given(text, "--mcp-config") for text in options.mcp_config]
    servers = tuple(name for given in given_servers for name in _names(given))
    added = [str(Path(options.work_dir) / one) for one in options.add_dirs]
    projects = read_all(options.work_dir, added, settings.environ)
    if options.plain_folder:
        projects = tuple(Project(one.folder, one.base, one.main) for one in projects)
    standings = [_standing(project, options, settings, now) for project in projects]
    every_tool = (
        options.preset == "full" or not options.safety or options.permission_mode == "bypassPermissions"
    )
    roots = [folder / f"root-{number}" for number in range(len(projects))]
    for root, project, standing in zip(roots, projects, standings, strict=True):
        write_root(root, project, standing, every_tool=every_tool)
    instead = {
        name: str(root)
        for given, project, root in zip(dict.fromkeys(added), projects[1:], roots[1:], strict=True)
        for name in (os.path.normpath(given), project.folder)  # as it is given, and as it is
    }
    given_all = {**said, _ROOTS: instead} if instead else said
    return Configuration(
        folder=folder,
        root=roots[0],
        settings=msgspec.json.encode(given_all).decode() if given_all else "",
        mcp_config=tuple(
            msgspec.json.encode(servers_at(given, options.work_dir)).decode() for given in given_servers
        ),
        trusted=standings[0].trusted,
        plain=options.plain_folder,
        left_out=tuple(line for standing in standings for line in notices(standing, every_tool=every_tool)),
        expected=Expected(
            agent=options.agent,
            effort=options.effort,
            settings=said,
            settings_file=str(folder / SETTINGS_FILE),
            user=_users(settings.environ),
            servers=servers,
            project=decode_object(_own(roots[0])) or {},
            trusted=standings[0].trusted,
        ),
    )


def _users(environ: Mapping[str, str]) -> dict[str, object]:
    """The user's own settings, as far as they can be read."""
    try:
        return decode_object(read_regular(own_folder(environ).resolve(), "settings.json", _MAX_GIVEN)) or {}
    except (Unread, OSError):
        return {}


def _standing(project: Project, options: SessionOptions, settings: Settings, now: float) -> Standing:
    return standing_of(
        project,
        home=settings.home,
        environ=settings.environ,
        globs=settings.trust,
        this_session=options.trust_project,
        now=now,
    )


def _own(root: Path) -> bytes:
    try:
        return (root / SETTINGS).read_bytes()
    except FileNotFoundError:
        return b"{}"


# --- what flags give ------------------------------------------------------------------------------


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{")


def _given(text: str, flag: str) -> dict[str, object]:
    """The JSON object that a flag gives, or that is in the file that it names."""
    what = "what it gives" if _is_json(text) else text
    try:
        path = Path(text)
        data = text.encode() if _is_json(text) else read_regular(path.parent.resolve(), path.name, _MAX_GIVEN)
    except (Unread, OSError, ValueError) as exc:
        raise UsageError(f"{flag}: {what} cannot be read: {exc}") from None
    said = decode_object(data)
    if said is None:
        raise UsageError(f"{flag}: {what} is not a JSON object")
    return said


def _given_settings(text: str) -> dict[str, object]:
    if not text:
        return {}
    said = _given(text, "--settings")
    # Rules about files are about the folder of the file that they stand in, and we put it elsewhere.
    return said if _is_json(text) else anchored(said, str(Path(text).parent.absolute()))


def _names(servers: dict[str, object]) -> Iterator[str]:
    found = servers.get("mcpServers")
    yield from found if isinstance(found, dict) else ()
