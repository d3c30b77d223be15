"""The checks that a delegation must pass before it counts as completed (`--verify COMMAND`).

The agent's word that it is done is a claim; a command that fails is a fact. Each check runs in a container
of its own in the session's work dir, through the shell, one after another, and all of them run even if one
fails. What they start ends with them, and they have the session's caps on memory and processes.

A check runs what the agent wrote (`pytest` runs its conftest.py), so it stands behind the same walls: what is
protected or hidden for the session is so for its checks, and they get no more of the environment.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.config import Settings
from cms.containment import Container, Layer, Mechanism, Spec
from cms.disk import ask_disk
from cms.errors import CmsError, DiskTimeout, StoreError
from cms.live.argv import build_environment
from cms.live.workspace import ENVIRON
from cms.protection.path_guard import PATIENCE
from cms.protection.protected_paths import ProtectedPaths, find_all_paths, layered, walled
from cms.protection.rules import build_rules
from cms.protection.scratch import hidden_scratch
from cms.session.judge import MOST_CHANGE
from cms.session.model import Judgement, SessionOptions
from cms.session.rounds import MOST_EACH, Failure
from cms.store import live_files
from cms.units import BadValue, check_commands

#: Seconds for one check where the session has no time limit of its own.
_TIMEOUT = 900.0
#: Bytes of each of its streams that are kept: what a repair can be told of.
_TAIL = 2 * MOST_EACH
#: Seconds for what was written last to be read.
_PIPES = 0.5

#: How a check ends that somebody else ended: it says nothing of the work.
_FROM_OUTSIDE: Final = f"signal {signal.SIGKILL}"

#: A command that waits for a line: it begins when it is noted where it runs, so that whoever must end it
#: without us finds it; if we die before that it never begins.
_GATED: Final = 'read -r go && exec /bin/sh -c "$1" </dev/null'

_Drain = Callable[[trio.abc.ReceiveStream, str], Awaitable[None]]


class Checked(msgspec.Struct, frozen=True):
    """What the checks came to.

    Attributes:
        misfit: why the answer is none of the shape that was asked for: then nothing else was checked.
        failures: each one that has run and failed.
        not_run: why one of them has not run at all: nothing is known of the work by that.
        judge: what the judge said, if one was asked.
        final: there is nothing in it that a repair could put right.
    """

    failures: tuple[Failure, ...] = ()
    not_run: str = ""
    misfit: str = ""
    judge: Judgement | None = None
    final: bool = False

    @property
    def failed(self) -> tuple[str, ...]:
        """A line for each failure."""
        return tuple(failure.line for failure in self.failures)

    def with_failures(self, *failures: Failure) -> Checked:
        """The same with more of them."""
        return msgspec.structs.replace(self, failures=(*self.failures, *failures))


async def run_checks(
    mechanism: Mechanism, settings: Settings, options: SessionOptions, layers: Sequence[Layer] = ()
) -> Checked:
    """Run the session's checks.

    Args:
        layers: what they see of the folder, where that is not the folder itself.
    """
    if not options.verify:
        return Checked()
    failures: list[Failure] = []
    not_run = ""
    try:
        spec_of = await _walls(settings, options, layers)
    except DiskTimeout as error:
        return Checked(not_run=str(error))
    for command in options.verify:
        try:
            check_commands(command)
        except BadValue as error:  # of an earlier version, which took it
            failures.append(Failure(f"check failed: {error}"))
            continue
        try:
            container = await mechanism.start(spec_of(command))
        except (OSError, CmsError) as error:
            if await _is_gone(options.work_dir):
                # The work's own doing.
                failures.append(Failure(f"check failed: {command}: the work dir is gone"))
            else:
                not_run = not_run or f"{command}: could not be started ({error})"
            continue
        try:
            trouble = await _check(container, options, settings.live)
        except StoreError as error:  # the disk is full: whoever must end it without us would not find it
            not_run = not_run or f"{command}: could not be noted ({error})"
            continue
        if trouble is not None:
            why, output = trouble
            if why.startswith(_FROM_OUTSIDE):  # by a person, or by a machine that ran out of memory
                not_run = not_run or f"{command}: it was killed"
                continue
            failures.append(Failure(f"check failed: {command}: {why}", output))
    return Checked(tuple(failures), not_run)


async def _walls(
    settings: Settings, options: SessionOptions, layers: Sequence[Layer]
) -> Callable[[str], Spec]:
    """How a shell command is run in the session's work dir, behind its walls.

    Raises:
        DiskTimeout: what is protected could not be found out.
    """
    env = build_environment(settings.environ, deny=options.env_deny)
    if layers:
        env |= ENVIRON

    def find() -> ProtectedPaths:
        rules = build_rules(options, settings.environ)
        paths = find_all_paths(rules, settings.environ)
        return layered(paths, layers, rules) if layers else paths

    paths = await ask_disk(find, "the protected paths", seconds=PATIENCE)

    def spec_of(command: str) -> Spec:
        spec = Spec(
            argv=("/bin/sh", "-c", _GATED, "sh", command),
            env=env,
            cwd=Path(options.work_dir),
            hidden=(settings.home, *hidden_scratch()),
            max_memory=options.limits.max_memory,
            max_procs=options.limits.max_procs,
            label=f"{options.name}: verify",
            umask=settings.umask,
            open_files=settings.open_files,
        )
        return walled(spec, paths)

    return spec_of


#: What git shows, without what the repository would have it run. `$SINCE`: seconds since the epoch; what was
#: committed from then on is shown as well.
_CHANGE: Final = """
git() { command git -c core.fsmonitor=false -c core.hooksPath=/dev/null --no-optional-locks --no-pager "$@"; }
git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { echo "(not a git repository)"; exit; }
base=$(git rev-list -1 --before="$SINCE" HEAD 2>/dev/null)
[ -n "$base" ] || base=$(git hash-object -t tree /dev/null)
echo "new files that git does not track:"; git ls-files --others --exclude-standard -- . | head -n 200
for how in --stat --patch; do git diff "$how" --no-ext-diff --no-textconv --no-color "$base" -- .; done
"""
#: Seconds that git may take.
_SHOWING: Final = 30.0


async def shown_change(
    mechanism: Mechanism, settings: Settings, options: SessionOptions, *, since: float
) -> str:
    """What git shows of the work dir's change since then, bounded; or why nothing can be shown."""
    # (git knows whole seconds. Rather a commit too many than one of the work's too few.)
    command = f"SINCE={int(since) - 1}; {_CHANGE}"
    try:
        container = await mechanism.start((await _walls(settings, options, ()))(command))
        shown, where = b"", container.whereabouts()
        async with container:
            with live_files.noted_check(settings.live, options.name, options.work_dir, where):
                await _begin(container)
                with trio.move_on_after(_SHOWING):
                    while len(shown) < MOST_CHANGE and (data := await container.stdout.receive_some(65536)):
                        shown += data
    except (OSError, CmsError, trio.BrokenResourceError) as error:
        return f"(it cannot be shown: {error})"
    text = shown[:MOST_CHANGE].decode("utf-8", "replace")
    return f"{text}\n[the rest is left out]" if len(shown) > MOST_CHANGE else text


async def _is_gone(work_dir: str) -> bool:
    try:
        return not await ask_disk(Path(work_dir).is_dir, "the work dir")
    except DiskTimeout:
        return False


async def _check(container: Container, options: SessionOptions, live: Path) -> tuple[str, str] | None:
    """Why it failed, and the end of what it has printed; None: it passed."""
    tails = {"out": b"", "err": b""}

    async def drain(stream: trio.abc.ReceiveStream, key: str) -> None:
        while data := await stream.receive_some(65536):
            tails[key] = (tails[key] + bytes(data))[-_TAIL:]

    timeout = options.limits.max_time or _TIMEOUT
    status: int | str = f"not done after {timeout:g} s"
    async with container:
        with live_files.noted_check(live, options.name, options.work_dir, container.whereabouts()):
            async with container:  # ended before it is forgotten
                await _begin(container)
                with trio.move_on_after(timeout):
                    status = await _finish(container, drain)
    if status == 0:
        return None
    out, err = (tails[key].strip().decode("utf-8", "replace") for key in ("out", "err"))
    output = "\n".join(part for part in (out, err) if part)
    if isinstance(status, str):
        return status, output
    how = f"exit status {status}" if status > 0 else f"signal {-status}"
    lines = (err or out).splitlines()
    return (f"{how}: {lines[-1][:200]}" if lines else how), output


async def _begin(container: Container) -> None:
    """It is noted: let it run."""
    with suppress(trio.BrokenResourceError):  # it has died: that is told by its exit status
        await container.stdin.send_all(b"go\n")
    await container.stdin.aclose()


async def _finish(container: Container, drain: _Drain) -> int | str:
    """The exit status, or why there is none."""
    ends: list[int | str] = []
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            ends.append(f"exceeded its limit of {await container.watch_limits()}")
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        async with trio.open_nursery() as pipes:
            pipes.start_soon(drain, container.stdout, "out")
            pipes.start_soon(drain, container.stderr, "err")
            ends.append(await container.wait())
            # A daemon that the check left behind may hold the pipes open; it is ended with the container.
            pipes.cancel_scope.deadline = trio.current_time() + _PIPES
        nursery.cancel_scope.cancel()
    return ends[0]
