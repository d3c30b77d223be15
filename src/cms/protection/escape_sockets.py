"""Ways out that are no hole in a container: servers of the same user that start what they are asked to.

What `systemd-run --user`, a tmux server or Docker starts for somebody is that server's child and not theirs.
No kill of ours reaches it, and no wall of ours stands around it. So their sockets are hidden from a session,
but for those that `--allow-write` names (who needs Docker says so: `--allow-write /run/docker.sock`).

A session's own tmux is not meant: it gets a folder for it (`TMUX_TMPDIR`), and that server ends with it.

Not found here, and said in SECURITY.md: servers that nobody here has heard of, or that listen on the network,
on abstract sockets or in places of their own (`tmux -S`), and what is started after the session was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cms.protection.links import Lookup, locate
from cms.session.path_rules import PathRules


def find_escape_sockets(rules: PathRules, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The sockets, and folders of sockets, of such servers that are there now and that nobody has allowed.

    Args:
        rules: the session's, for what `--allow-write` takes out.
        environ: the session's, for where the servers say that they are.
    """
    lookup = Lookup()
    found = dict.fromkeys(Path(lookup.real(str(path))) for path in _candidates(environ))
    return tuple(path for path in found if _is_there(path) and not rules.allows(locate(rules, str(path))))


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    uid = os.getuid()
    own = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    # systemd of the user, and through the bus whatever else it can start
    yield from (own / "bus", own / "systemd")
    yield from _unix_paths(environ.get("DBUS_SESSION_BUS_ADDRESS", ""), r"path=([^,;]+)")
    if uid == 0:
        yield from (Path("/run/systemd/private"), Path("/run/dbus/system_bus_socket"))
    # terminal multiplexers
    yield Path(environ.get("TMUX_TMPDIR") or "/tmp") / f"tmux-{uid}"  # noqa: S108 (where tmux puts it)
    yield from _unix_paths(environ.get("TMUX", ""), r"^([^,]+)")
    yield from (Path("/run/screen"), Path("/tmp/screens"), Path(environ.get("SCREENDIR") or "/run/screen"))  # noqa: S108
    # other sessions of Claude Code, whose model does what a message says, with that session's rights
    temporary = Path(environ.get("TMPDIR") or "/tmp")  # noqa: S108 (where claude puts them)
    yield from (own / "cc-socks", temporary / "cc-socks", Path(f"/tmp/cc-socks-{uid}"))  # noqa: S108
    # containers
    for name in ("docker.sock", "podman", "containerd", "buildkit", "crio"):
        yield from (Path("/run") / name, own / name)
    yield from _unix_paths(environ.get("DOCKER_HOST", ""), r"^unix://(.+)")
    yield from (
        Path("/var/snap/lxd/common/lxd"),
        Path("/var/lib/incus"),
        Path("/run/libvirt"),
        own / "libvirt",
    )
    # editors and window managers, which run commands for whoever asks
    yield from (own / "emacs", own / "zellij", own / "i3", *own.glob("nvim.*"), *own.glob("sway-ipc.*"))
    for name in ("NVIM", "SWAYSOCK", "I3SOCK"):
        yield from _unix_paths(environ.get(name, ""), r"(.+)")


def _unix_paths(text: str, pattern: str) -> Iterator[Path]:
    for path in re.findall(pattern, text):
        if path.startswith("/"):
            yield Path(path)


def _is_there(path: Path) -> bool:
    """Whether it can be reached, and is no place that much else is in."""
    try:
        return len(path.parts) > 2 and os.access(path, os.R_OK | os.W_OK)
    except OSError:
        return False
