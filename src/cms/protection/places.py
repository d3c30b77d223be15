"""Where a session may write: in its folders. The rest of the home and /tmp it writes as copies (`writes`).

All else is read-only. Copies are gone at the end of the session, where the machine can make them; where not,
those places are read-only too, and the usual caches are written (`cms doctor` says which).

What claude itself writes (2.1.332, seen with strace), and what becomes of it
- `projects/FOLDER/ID.jsonl`, and folders beside it: its transcripts, appended to in place. Of its own folder
  they are written for real, for a conversation must last; of other folders' it has copies.
- `file-history`, `todos`, `tasks`: what `/rewind` and a resumed conversation need: for real.
- `.claude.json`: by a temporary file and rename, under the folder `.claude.json.lock`. A copy: it names MCP
  servers and trusted folders for all sessions to come. (A rename over a file that is a mount gives EBUSY, and
  then claude writes in place.)
- `sessions`, `shell-snapshots`, `session-env`, `plugins`, `backups`, `statsig`: of the process. Copies.
- `.credentials.json`: see `live.login`. The session does not see it.

A sandbox that covers the home cannot cover the sockets in it: what is there of an ssh agent is shown.

Everything here touches the disk: call it in a thread (`cms.disk`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cms.files import open_regular

#: In claude's folder: what a conversation needs to last, besides its transcripts.
_LASTING: Final = ("file-history", "todos", "tasks")
_TRANSCRIPTS: Final = "projects"
#: claude cuts longer names of transcript folders, and adds a hash.
_LONGEST_NAME: Final = 200
_TEMPORARY: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (they are covered, not used)
#: Below a home: written for real where nothing can be copy-on-write.
_CACHES: Final = (
    ".cache", ".npm", ".yarn", ".pnpm-store", ".local/share/pnpm", ".bun/install/cache", ".cargo/registry",
    ".cargo/git", ".rustup/tmp", ".gradle/caches", ".m2/repository", ".nuget/packages", "go/pkg", ".ccache",
    ".local/state", ".claude", ".claude.json",
)  # fmt: skip
#: Variables that move a tool's caches and state out of the home.
_MOVED: Final = (
    "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "CARGO_HOME", "RUSTUP_HOME",
    "GOPATH", "GOCACHE", "GOMODCACHE", "PIP_CACHE_DIR", "UV_CACHE_DIR", "POETRY_CACHE_DIR", "PIPX_HOME",
    "PYENV_ROOT", "npm_config_cache", "NPM_CONFIG_CACHE", "YARN_CACHE_FOLDER", "PNPM_HOME", "BUN_INSTALL",
    "NVM_DIR", "GRADLE_USER_HOME", "MAVEN_USER_HOME", "NUGET_PACKAGES", "CCACHE_DIR", "SCCACHE_DIR",
    "HF_HOME", "TORCH_HOME", "PLAYWRIGHT_BROWSERS_PATH",
)  # fmt: skip
#: Variables that name a socket which honest work needs.
_SOCKETS: Final = ("SSH_AUTH_SOCK",)
_LONGEST_FILE: Final = 4096


class Places(msgspec.Struct, frozen=True):
    """What a session may write, and how.

    Attributes:
        writable: for real.
        lasting: likewise, by claude alone: its transcripts.
        covered: as copies.
        caches: for real where copies cannot be had; else as copies.
        readable: read-only, though they lie in what is covered: a copy would only seem to be written.
        shown: sockets that would be out of reach.
    """

    writable: tuple[Path, ...] = ()
    lasting: tuple[Path, ...] = ()
    covered: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    shown: tuple[Path, ...] = ()


def find_places(folders: Sequence[str], opened: Sequence[str], environ: Mapping[str, str]) -> Places | None:
    """The places of a session that writes in its work dir; None if that is everything.

    Args:
        folders: where it works, the work dir first.
        opened: what a person opened for it besides.
        environ: the session's.
    """
    roots = tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))
    if Path("/") in roots:
        return None
    home, config = homes(environ)
    written = [*roots, *(Path(path) for path in opened if os.path.lexists(path))]
    read_only: list[Path] = []
    for root in roots:
        for path, writes in _git_folders(root, Path(os.path.realpath(home))):
            (written if writes else read_only).append(path)
    moved = [Path(value) for name in _MOVED if (value := environ.get(name, "")).startswith("/")]
    temporary = [*_TEMPORARY, *([Path(own)] if (own := environ.get("TMPDIR", "")).startswith("/") else [])]
    caches = [*(home / name for name in _CACHES), config, *moved]
    sockets = (Path(value) for name in _SOCKETS if (value := environ.get(name, "")))
    return Places(
        writable=tuple(dict.fromkeys(written)),
        lasting=tuple(_lasting(config, roots[0])),
        covered=tuple(dict.fromkeys((home, *temporary, config, *moved))),
        caches=tuple(path for path in dict.fromkeys(caches) if os.access(path, os.F_OK)),
        readable=tuple(dict.fromkeys(read_only)),
        shown=tuple(path for path in sockets if path.is_socket()),
    )


def homes(environ: Mapping[str, str]) -> tuple[Path, Path]:
    """The home, and claude's own folder."""
    home = Path(environ.get("HOME") or "~").expanduser()
    return home, Path(environ.get("CLAUDE_CONFIG_DIR") or home / ".claude")


def layered_folders(folder: str, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """What an isolated session sees as copies: its folder, and what git writes beside it."""
    root = Path(os.path.realpath(folder))
    found = _git_folders(root, Path(os.path.realpath(homes(environ)[0])))
    return (root, *(path for path, writes in found if writes and not path.is_relative_to(root)))


def _lasting(config: Path, work_dir: Path) -> Iterator[Path]:
    """What claude writes that must last; made if it is not there, for only what is there can be opened."""
    name = transcript_folder(str(work_dir))
    for path in (config / _TRANSCRIPTS / name, *(config / one for one in _LASTING)):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue  # then claude cannot write it either, and says so
        yield path


def transcript_folder(work_dir: str) -> str:
    """The name of the folder with the transcripts of a work dir; "" where claude hashes it: of all."""
    name = re.sub(r"[^a-zA-Z0-9]", "-", work_dir)
    return name if len(name) <= _LONGEST_NAME and work_dir.isascii() else ""


def _git_folders(root: Path, home: Path) -> Iterator[tuple[Path, bool]]:
    """Where git keeps what it writes, if that is not below the folder; and what must not seem written.

    A `.git` file is the agent's to write, and could name any folder. It is believed only if the folder that
    it names, which the agent cannot write, names it back.
    """
    top = next((place for place in (root, *root.parents) if os.path.lexists(place / ".git")), None)
    if top is None or (top == home and root != home):
        return  # a home kept in git is not the repository of all that lies in it
    entry = top / ".git"
    if top != root:
        # Its files outside of the folder: a checkout must fail there, not seem done.
        yield top, False
    if entry.is_dir() and not entry.is_symlink():
        if top != root:
            yield entry, True
        return
    named = _read(entry).removeprefix("gitdir:").strip()
    folder = Path(os.path.realpath(top / named)) if named else entry
    common = Path(os.path.realpath(folder / (_read(folder / "commondir").strip() or ".")))
    if folder.parent == common / "worktrees" and Path(_read(folder / "gitdir").strip()) == entry:
        # Packing of refs fails there, which loses nothing; as a copy it would lose them.
        yield common, False
        yield folder, True
        for name in ("objects", "refs", "logs"):
            if (common / name).is_dir():
                yield common / name, True
    elif "modules" in folder.parts and _submodule_of(folder) == top:
        yield folder, True


def _submodule_of(folder: Path) -> Path | None:
    """The work tree that the settings of a submodule's git folder name."""
    found = re.search(r"^\s*worktree\s*=\s*(.+?)\s*$", _read(folder / "config"), re.MULTILINE)
    return Path(os.path.realpath(folder / found[1])) if found else None


def _read(path: Path) -> str:
    """The text of a small regular file; "" for anything else."""
    try:
        fd = open_regular(path)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(_LONGEST_FILE).decode("utf-8", "surrogateescape")
