"""Notifications through the library apprise, in a process of their own each time.

apprise loads more than a hundred plugins (40 MB, half a second), and its log lines may hold addresses, which
are secrets: so not in here. They are handed over on stdin, and nothing that the process prints is told but
this module's own answer.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from cms.errors import UsageError
from cms.fleet.side_process import ask_process

PATIENCE: Final = 30.0  # seconds for one look, or for all addresses of one notification


class Request(msgspec.Struct, frozen=True):
    """What the process is asked. Without a title: only whether the addresses are some."""

    urls: tuple[str, ...]
    title: str = ""
    body: str = ""


class Reply(msgspec.Struct, frozen=True):
    """What it found.

    Attributes:
        missing: apprise is not installed.
        bad: addresses that are none, by their places from 1 on.
        failed: how many of the others could not be reached.
    """

    missing: bool = False
    bad: tuple[int, ...] = ()
    failed: int = 0


async def check(urls: tuple[str, ...]) -> None:
    """Whether notifications can be sent there.

    Raises:
        UsageError: one is no address of apprise's, or that is not installed. No address is told again.
    """
    found = await _ask(Request(urls))
    if isinstance(found, str):
        raise UsageError(f"--notify: {found}")
    if found.missing:
        raise UsageError(
            "--notify needs the library apprise", hint="pip install 'claude-multi-session[notify]'"
        )
    if found.bad:
        which = "" if len(urls) == 1 else f" (number {found.bad[0]})"
        raise UsageError(
            f"--notify: apprise cannot send to that address{which}",
            hint="like ntfy://TOPIC, dbus://, mailto://USER:PASSWORD@gmail.com",
        )


async def send(urls: tuple[str, ...], title: str, body: str) -> str:
    """Send to each address; returns what went wrong, or ""."""
    found = await _ask(Request(urls, title, body))
    if isinstance(found, str):
        return found
    failed = len(urls) if found.missing else len(found.bad) + found.failed
    return f"{failed} of {len(urls)} could not be sent" if failed else ""


async def _ask(request: Request) -> Reply | str:
    """The process's answer, or why there is none."""
    try:
        found = await ask_process("cms.fleet.notifications", request, Reply, PATIENCE)
    except OSError as error:
        return f"could not be started ({error.strerror or error})"
    except msgspec.MsgspecError:
        return "apprise broke"
    return found or f"not done after {PATIENCE:g} s"


def answer(request: Request) -> Reply:
    """In the process."""
    try:
        import apprise
    except ImportError:
        return Reply(missing=True)
    bad: list[int] = []
    failed = 0
    for place, url in enumerate(request.urls, 1):
        one = apprise.Apprise()
        if not one.add(url):
            bad.append(place)
        elif request.title:
            failed += not one.notify(title=request.title, body=request.body)
    return Reply(bad=tuple(bad), failed=failed)


def main() -> None:
    """The program: a `Request` on stdin, a `Reply` on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    sys.stdout.buffer.write(msgspec.json.encode(answer(request)))


if __name__ == "__main__":
    main()
