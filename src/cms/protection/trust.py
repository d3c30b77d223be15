"""What a person trusts, and the folder that claude reads instead of the project's own configuration.

Trust is kept in `trust.json` in CMS_HOME, which no session can reach. A file and not the store: `cms trust`
is then as quick as a look, works with and without a daemon, and what is in force is what is in the file when
a session starts. It is replaced as a whole, under a lock, with mode 0600.

How the rest is kept from claude (measured on 2.1.332; the flag is known from 2.1.306 on):
`--project-config-root` makes it read settings, MCP servers, skills, commands, agents, output styles and
workflows from another folder, in every mode, while CLAUDE.md, nested ones and the rules still come from the
work dir. `--setting-sources=user` would take CLAUDE.md away as well; `--bare` and `--safe-mode` the user's
own configuration; `--restricted` the shell too. Without trust CLAUDE_CODE_IGNORE_PERSISTED_TRUST=1 is set
besides, with which claude itself runs no hook, helper or server of a project: a second wall, for the day on
which the first means something else.

Everything here touches the disk: call it in a thread.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from cms.errors import UNREADABLE, HomeUnusable
from cms.files import replace_file
from cms.protection.project import MAX_FILE, Project, Unread, read_project, read_regular
from cms.protection.scratch import write_files
from cms.session.project_config import decode_object, raising_rules, render
from cms.session.trust import Grant, Standing, TrustedBy, stand

NAME: Final = "trust.json"
_VERSION: Final = 1
_MAX_OWN: Final = 64 * 1024 * 1024


class _Book(msgspec.Struct, frozen=True):
    version: int = _VERSION
    folders: dict[str, Grant] = {}


class _ClaudesProject(msgspec.Struct, frozen=True):
    accepted: bool = msgspec.field(name="hasTrustDialogAccepted", default=False)


class _ClaudesFile(msgspec.Struct, frozen=True):
    projects: dict[str, _ClaudesProject] = {}


# --- what was accepted ----------------------------------------------------------------------------


def grants(home: Path) -> dict[str, Grant]:
    """What was accepted, by folder.

    Raises:
        HomeUnusable: the file is there and cannot be read. Then nothing is trusted, and that is said.
    """
    path = home / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise HomeUnusable(f"cannot read {path}: {exc.strerror}") from exc
    try:
        return dict(msgspec.json.decode(data, type=_Book).folders)
    except UNREADABLE as exc:
        raise HomeUnusable(f"{path} cannot be read: {exc}", hint="remove it, then trust again") from exc


@contextmanager
def _changing(home: Path) -> Iterator[dict[str, Grant]]:
    """What was accepted, to be changed; written when the block ends, while nobody else changes it."""
    path = home / NAME
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(home / f"{NAME}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise HomeUnusable(f"cannot write {path}: {exc.strerror}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        book = grants(home)
        yield book
        said = msgspec.json.encode(_Book(folders=dict(sorted(book.items()))))
        replace_file(path, msgspec.json.format(said))
    except OSError as exc:
        raise HomeUnusable(f"cannot write {path}: {exc.strerror}") from exc
    finally:
        os.close(lock)


def accept(home: Path, project: Project, *, at: float, by: TrustedBy = "person") -> Grant:
    """Trust a folder with what is in it now. Raises HomeUnusable."""
    items = tuple(item for item in project.items if item.kind != "unreadable")
    grant = Grant(items, at, by)
    with _changing(home) as book:
        book[project.folder] = grant
    return grant


def forget(home: Path, folder: str) -> bool:
    """Trust a folder no more; False if it was not. Raises HomeUnusable."""
    with _changing(home) as book:
        return book.pop(os.path.realpath(folder), None) is not None


# --- what holds for a folder ----------------------------------------------------------------------


def _candidates(project: Project) -> list[str]:
    """The folders whose trust holds for this one, the nearest first: itself, up to its repository's top."""
    folder, base = Path(project.folder), Path(project.base)
    chain = [folder, *(place for place in folder.parents if place.is_relative_to(base))]
    found = [str(place) for place in chain]
    if project.main != project.base:
        main = Path(project.main)
        found += [str(main / place.relative_to(base)) for place in chain]
    return list(dict.fromkeys(found))


def own_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's own configuration of claude is."""
    named = environ.get("CLAUDE_CONFIG_DIR")
    return Path(named) if named else Path(environ.get("HOME") or Path.home()) / ".claude"


def _claude_accepted(project: Project, environ: Mapping[str, str]) -> bool:
    """Whether a person trusted the folder, or the repository that it is in, in claude's own dialog."""
    config = environ.get("CLAUDE_CONFIG_DIR") or environ.get("HOME") or str(Path.home())
    try:
        own = read_regular(Path(os.path.realpath(config)), ".claude.json", _MAX_OWN)
        projects = msgspec.json.decode(own, type=_ClaudesFile).projects
    except (Unread, *UNREADABLE):
        return False
    return any(projects.get(folder, _ClaudesProject()).accepted for folder in _candidates(project))


def standing_of(
    project: Project,
    *,
    home: Path,
    environ: Mapping[str, str],
    globs: Sequence[str] = (),
    this_session: bool = False,
    now: float = 0.0,
) -> Standing:
    """Whether a folder is trusted. What claude's own dialog accepted is kept as it is at the first look.

    Args:
        home: CMS_HOME.
        environ: whose claude it is.
        globs: folders that the settings trust whatever they hold.
        this_session: whether the session was started with `--trust-project`.
        now: the time, in seconds since the epoch, for what is kept.

    Raises:
        HomeUnusable: what was accepted cannot be read or kept.
    """
    always: TrustedBy = "session" if this_session else ""
    if not always and any(_matches(glob, project.folder, environ) for glob in globs):
        always = "settings"
    items = project.items
    rules = raising_rules(project.sources)
    if not items:
        return stand(project.folder, items, (), rules=rules, always=always)
    book = grants(home)
    found = [book[folder] for folder in _candidates(project) if folder in book]
    accepted = not always and not found and _claude_accepted(project, environ)
    standing = stand(project.folder, items, found, rules=rules, always=always, claude_accepted=accepted)
    if standing.by == "claude" and accepted:
        accept(home, project, at=now, by="claude")
    return standing


def _matches(glob: str, folder: str, environ: Mapping[str, str]) -> bool:
    """Whether a folder is one that a glob of the settings names. Exact: other case is another folder."""
    if glob.startswith("~/"):
        glob = (environ.get("HOME") or str(Path.home())) + glob[1:]
    parts = re.split(r"(\*\*|\*|\?)", glob)
    wild = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    return (
        re.fullmatch("".join(wild.get(part) or re.escape(part) for part in parts), folder, re.DOTALL)
        is not None
    )


# --- what claude reads instead --------------------------------------------------------------------


def foreign_servers(root: Path) -> tuple[str, ...]:
    """Names of MCP servers in the folders above one that claude would look for them in."""
    names: list[str] = []
    for place in root.parents:
        with suppress(Unread):
            said = decode_object(read_regular(place, ".mcp.json", MAX_FILE)) or {}
            servers = said.get("mcpServers")
            names += list(servers) if isinstance(servers, dict) else []
    return tuple(dict.fromkeys(names))


def write_root(root: Path, project: Project, standing: Standing, *, every_tool: bool) -> None:
    """Make the folder that claude reads instead. It must not be there yet.

    It is a repository of its own as far as claude looks, so that nothing above it is taken for a part of it.

    Raises:
        OSError: it cannot be made.
    """
    root.mkdir(mode=0o700)
    git = root / ".git"
    for folder in (git / "objects", git / "refs"):
        folder.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    files = render(
        project.sources,
        folder=project.folder,
        trusted=standing.trusted,
        every_tool=every_tool,
        foreign=foreign_servers(Path(os.path.realpath(root))),
    )
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    write_files({root / name: data for name, data in files.items()})


def read_all(folder: str, added: Iterable[str], environ: Mapping[str, str]) -> tuple[Project, ...]:
    """The work dir's configuration, and that of each added folder. `environ`: whose claude it is."""
    own = own_folder(environ)
    more = (read_project(place, own=own, added_to=folder) for place in dict.fromkeys(added))
    return (read_project(folder, own=own), *more)
