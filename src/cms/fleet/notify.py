"""The hooks and the webhook of a batch. None of it can stop the work.

- `--on-done`, `--on-fail`, `--on-park`: shell lines with the news as JSON on stdin, a minute each, in turn.
  Failures that come while a hook runs are told together in the next call, so many of them is a few calls.
- `--webhook`: the same JSON, posted.
- `--notify`: the same in words, by apprise.

Whatever goes wrong here is told (`warn`) and forgotten.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import msgspec
import trio

from cms.batch.model import BatchOptions, BatchRecord, TaskView
from cms.config import caller_environ
from cms.errors import UsageError
from cms.fleet import notifications
from cms.json_output import json_object
from cms.session.model import DelegateResult, Record
from cms.units import plural

log = logging.getLogger(__name__)

HOOK_TIMEOUT: Final = 60.0
WEBHOOK_TIMEOUT: Final = 15.0
#: Failures told in one call; the rest is counted.
TOLD: Final = 100

#: Tasks that a notification names.
_NAMED: Final = 5

EventName = Literal["done", "fail", "park"]
Warn = Callable[[str], None]


#: What is told of a batch. Not its options: they hold settings, MCP servers' tokens, and this webhook.
_FACTS: Final = (
    "id source=options.source work_dir=options.work_dir status total counts spent exact created started ended"
    " until eta reason stopped_by parallel reserved warnings"
)


class News(Record, frozen=True):
    """What a hook reads on stdin, and a webhook is posted (`told`)."""

    event: EventName
    batch: BatchRecord
    tasks: tuple[TaskView, ...] = ()
    more: int = 0  # failures that are not in `tasks`

    def told(self) -> bytes:
        """As JSON."""
        batch = json_object(self.batch, _FACTS)
        return msgspec.json.encode(json_object(self, "event tasks more", batch=batch))

    def title_and_body(self) -> tuple[str, str]:
        """For a notification."""
        batch = self.batch
        if self.event == "fail":
            count = len(self.tasks) + self.more
            title = f"batch {batch.id}: {plural(count, 'task')} did not complete"
            named = [f"{one.name}: {one.status.value}" for one in self.tasks[:_NAMED]]
            body = [*named, *(["..."] if count > len(named) else [])]
        else:
            title = f"batch {batch.id}: {batch.status.value}"
            ended = ", ".join(f"{number} {status.value}" for status, number in batch.counts.items())
            body = [*filter(None, (ended, batch.reason))]
        about = "" if batch.exact else "at least "
        return f"cms: {title}", "\n".join((*body, f"{about}${batch.spent:.2f}"))


async def check_news(options: BatchOptions) -> None:
    """Whether who is to be told can be.

    Raises:
        UsageError: an address is none, or what it needs is missing.
    """
    check_webhook(options.webhook)
    if options.notify:
        await notifications.check(options.notify)


def check_webhook(url: str) -> None:
    """Whether that is a web address, or none.

    Raises:
        UsageError: it is not. It may be a secret, and is not told again.
    """
    if url and not url.startswith(("http://", "https://")):
        raise UsageError("--webhook: that is not a web address", hint="it begins with http:// or https://")


class Notifier:
    """Tells what happens to whoever wants to know; in a task of its own, so that nobody waits for it."""

    def __init__(self, options: BatchOptions, warn: Warn, *, umask: int = -1) -> None:
        """`umask`: for the files that hooks make; -1: ours."""
        self._options = options
        self._umask = umask
        self._warn = warn
        self._failures: list[TaskView] = []
        self._more = 0
        self._noted: set[str] = set()
        self._others: list[News] = []
        self._latest: BatchRecord | None = None
        self._news = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    @property
    def wants_failures(self) -> bool:
        return bool(self._options.on_fail or self._everything)

    @property
    def _everything(self) -> bool:
        """Whether somebody is told everything."""
        return bool(self._options.webhook or self._options.notify)

    def note_walls(self, result: DelegateResult) -> None:
        """Warn, once for all tasks, of what is the same for each in a folder: what was left out of that."""
        walls = None if result.receipt is None else result.receipt.walls
        for line in () if walls is None else (*walls.left_out, *walls.mistakes):
            if line not in self._noted:
                self._noted.add(line)
                self._warn(line)

    def failed(self, batch: BatchRecord, task: TaskView) -> None:
        """A task ended, and did not complete."""
        if not self.wants_failures:
            return
        self._latest = batch
        if len(self._failures) < TOLD:
            self._failures.append(task)
        else:
            self._more += 1
        self._wake()

    def parked(self, batch: BatchRecord) -> None:
        if self._options.on_park or self._everything:
            self._others.append(News("park", batch))
            self._wake()

    def done(self, batch: BatchRecord) -> None:
        if self._options.on_done or self._everything:
            self._others.append(News("done", batch))
            self._wake()

    async def drained(self) -> None:
        """Until everything has been told."""
        await self._idle.wait()

    async def run(self) -> None:
        """Tell, until cancelled."""
        while True:
            news = self._take()
            if news is None:
                self._idle.set()
                self._news = trio.Event()
                await self._news.wait()
                continue
            try:
                await self._tell(news)
            except Exception as error:
                log.exception("a hook was not told because of a bug in cms")
                self._warn(f"--on-{news.event}: not told because of a bug in cms: {error!r}")

    def _wake(self) -> None:
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._news.set()

    def _take(self) -> News | None:
        if self._failures and self._latest is not None:
            news = News("fail", self._latest, tuple(self._failures), self._more)
            self._failures, self._more = [], 0
            return news
        return self._others.pop(0) if self._others else None

    async def _tell(self, news: News) -> None:
        options = self._options
        command = {"done": options.on_done, "fail": options.on_fail, "park": options.on_park}[news.event]
        data = news.told()
        if command:
            await self._hook(news.event, command, data)
        if options.webhook:
            await self._post(options.webhook, data)
        if options.notify:
            trouble = await notifications.send(options.notify, *news.title_and_body())
            if trouble:
                self._warn(f"--notify: {trouble}")

    async def _hook(self, event: EventName, command: str, data: bytes) -> None:
        trouble = await run_hook(command, data, cwd=self._options.work_dir, umask=self._umask)
        if trouble:
            self._warn(f"--on-{event}: {trouble}")

    async def _post(self, url: str, data: bytes) -> None:
        trouble = await trio.to_thread.run_sync(post, url, data, abandon_on_cancel=True)
        if trouble:
            self._warn(f"--webhook: {trouble}")


async def run_hook(
    command: str, data: bytes, *, cwd: str, umask: int = -1, timeout: float = HOOK_TIMEOUT
) -> str:
    """Run a shell line with `data` on stdin; returns what went wrong, or "".

    It is the user's own command, so it runs as the user and not in a container. Its process group is gone
    when this returns.
    """
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - on this thread on purpose, like every start (containment)
            ("/bin/sh", "-c", command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env=caller_environ.get(),
            start_new_session=True,
            umask=umask,
        )
    except OSError as error:
        return f"could not be started ({error.strerror or error})"
    assert process.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
    stdin = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
    process.stdin.close()
    ended = False
    try:
        with trio.move_on_after(timeout):
            with suppress(trio.BrokenResourceError):  # it does not have to read
                await stdin.send_all(data)
            await stdin.aclose()
            await trio.to_thread.run_sync(_wait_unreaped, process.pid, abandon_on_cancel=True)
            ended = True
    finally:
        # No checkpoint from here on: whoever cancels the hook must not cut its end short.
        stdin.close()
        # Before it is reaped: its number is still its own.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not ended:
        return f"not done after {timeout:g} s, killed"
    status = process.returncode
    if status:
        return f"exit status {status}" if status > 0 else f"ended by signal {-status}"
    return ""


def _wait_unreaped(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def post(url: str, data: bytes, timeout: float = WEBHOOK_TIMEOUT) -> str:
    """POST JSON; returns what went wrong, or "". Blocks."""
    import urllib.error  # here: it takes a twentieth of a daemon's start
    import urllib.request

    if not url.startswith(("http://", "https://")):
        return "that is not a web address"
    request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
        url, data, {"content-type": "application/json", "user-agent": "cms"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - likewise
            answer.read(1)
    except urllib.error.HTTPError as error:
        return f"answered {error.code}"
    except (OSError, ValueError) as error:
        return str(error.reason if isinstance(error, urllib.error.URLError) else error)
    return ""
