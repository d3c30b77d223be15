"""The login of a session: a copy of the user's, without what renews it, kept up by us.

claude keeps its login in `.credentials.json`: an access token for some hours, and a refresh token that buys
the next pair once. Renewed twice with one refresh token, or renewed and not saved, it is gone, and the user
is logged out everywhere. Seen in 2.1.332 (with strace, against a token endpoint on loopback):

- Within 300 s of the end, before a request, it makes the folders `.oauth_refresh.lock` and `CONFIG.lock`,
  reads the file again (another may have been first), asks for new tokens, and writes the file through a
  temporary one and a rename, under `.storage-write.lock`. These locks are names in and beside its config
  folder: who sees a copy of that takes locks of its own, and renews a second time.
- Told that a refresh token is not known, it empties the login in the file.
- A login without a refresh token it uses to the end, and when the file has changed it reads it again before
  the next request.
- `claude auth status` renews a login that is about to end, with all the locks.

So a session whose home is a copy does not see the user's file. `CLAUDE_SECURESTORAGE_CONFIG_DIR` shows
claude a folder of ours, read-only, with a copy in which no refresh token is. Before the login ends we renew
the user's by `claude auth status`, outside of every session, and copy it again. The tokens of MCP servers
are in the same file and treated likewise: a session uses them while they hold, and cannot renew them.

What an agent can still do: use the access token, or send it somewhere; it ends by itself within hours.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.config import Settings
from cms.containment import Mechanism, Spec
from cms.disk import ask_disk, read_small
from cms.errors import CmsError, DiskTimeout
from cms.files import replace_file
from cms.live.argv import build_environment
from cms.protection.places import homes

FILE: Final = ".credentials.json"
#: Where claude looks for the file, if not in its config folder.
VARIABLE: Final = "CLAUDE_SECURESTORAGE_CONFIG_DIR"
#: Seconds before its end from which claude renews a login.
_RENEWABLE: Final = 300.0
#: We do so a little later, not all at once.
_RENEW: Final = (180.0, 270.0)
_LOOK_EVERY: Final = 15.0
_AGAIN_AFTER: Final = 30.0
_PATIENCE: Final = 60.0
_MOST: Final = 1024 * 1024

_Renew = Callable[[], Awaitable[None]]
_turn: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("login")


class Login:
    """The login of one session.

    Attributes:
        folder: what claude is to be shown.
        source: the user's own file.
        hidden: what the session is not to see.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path, renew: _Renew) -> None:
        self.folder = folder
        self.source = Path(environ.get(VARIABLE) or homes(environ)[1]) / FILE
        self._renew = renew
        self._seen = b""
        self._limiter = trio.CapacityLimiter(1)
        self._tried = -math.inf
        self.hidden: tuple[Path, ...] = ()

    async def prepare(self) -> None:
        """Make the folder and the copy; renew first what is about to end.

        Raises:
            OSError: the folder cannot be made.
            DiskTimeout: the user's file cannot be read.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._look(_RENEWABLE)
        if await ask_disk(lambda: os.path.lexists(self.source), "the login"):
            self.hidden = (self.source,)

    async def keep(self) -> None:
        """Keep it good, for ever."""
        margin = random.uniform(*_RENEW)  # noqa: S311 (not for secrets)
        while True:
            await trio.sleep(_LOOK_EVERY)
            with suppress(OSError, DiskTimeout):  # the disk is full, say: what there is may do
                await self._look(margin)

    async def _look(self, margin: float) -> None:
        raw = await self._read()
        if _ends_within(raw, margin) and trio.current_time() >= self._tried + _AGAIN_AFTER:
            self._tried = trio.current_time()
            async with _the_turn():
                if _ends_within(await self._read(), margin):
                    # A failure is none of the session's: claude says when it is refused.
                    with suppress(OSError, CmsError):
                        await self._renew()
            raw = await self._read()
        self._copy(raw)

    async def _read(self) -> bytes:
        """The user's file, as a stranger's: where there are no copies an agent can put a pipe there."""
        return await ask_disk(lambda: _read(self.source), "the login", limiter=self._limiter)

    def _copy(self, raw: bytes) -> None:
        if raw == self._seen:
            return
        copied = without_refresh_tokens(raw)
        path = self.folder / FILE
        if copied is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, copied, durable=False)
        self._seen = raw


def _the_turn() -> trio.Lock:
    try:
        return _turn.get()
    except LookupError:
        _turn.set(trio.Lock())
        return _turn.get()


async def copy_login(
    mechanism: Mechanism, settings: Settings, claude: tuple[str, ...], folder: Path
) -> Login:
    """The login of a session whose home is a copy, in that folder.

    Raises:
        OSError: the folder cannot be made.
    """
    env = build_environment(settings.environ)
    login = Login(settings.environ, folder, lambda: renew_login(mechanism, claude, env, settings.home))
    await login.prepare()
    return login


async def renew_login(
    mechanism: Mechanism, claude: tuple[str, ...], env: Mapping[str, str], cwd: Path
) -> None:
    """Let claude renew the user's login, outside of every session.

    Args:
        cwd: a folder that no agent writes.

    Raises:
        ContainmentError: it could not be started.
    """
    spec = Spec(
        argv=(*claude, "auth", "status", "--json"), env=dict(env), cwd=cwd, label="claude auth status"
    )
    with trio.move_on_after(_PATIENCE):
        async with await mechanism.start(spec) as container:
            await container.stdin.aclose()
            while await container.stdout.receive_some():
                pass


def without_refresh_tokens(raw: bytes) -> bytes | None:
    """The file as a session may see it; None if there is no login in it."""
    found = _decode(raw)
    if not found:
        return None
    login = _part(found, "claudeAiOauth")
    if login:
        found["claudeAiOauth"] = {key: value for key, value in login.items() if key != "refreshToken"}
    servers = _part(found, "mcpOAuth")
    if servers:
        found["mcpOAuth"] = {
            name: {key: value for key, value in server.items() if key != "refreshToken"}
            for name, server in servers.items()
            if isinstance(server, dict)
        }
    return msgspec.json.encode(found)


def _part(found: dict[str, object], name: str) -> dict[str, object]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _decode(raw: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _ends_within(raw: bytes, seconds: float) -> bool:
    """Whether a login is about to end and can be renewed."""
    login = _part(_decode(raw), "claudeAiOauth")
    ends = login.get("expiresAt")
    return bool(
        login.get("refreshToken") and isinstance(ends, int | float) and time.time() + seconds >= ends / 1000
    )


def _read(path: Path) -> bytes:
    try:
        return read_small(path, _MOST)
    except OSError:
        return b""
