"""What this machine has, found by trying: for `cms doctor`, and for whoever must decide whether to start.

Nothing is spent and nothing is left behind but the home, if there was none: a container is made and killed,
`claude` is asked for its version and for its login (`claude auth status`, which calls nobody) and is shaken
hands with (`fitness`), a file is written into the home and removed, and a daemon is asked for its status if
one runs.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
import trio

from cms._version import __version__
from cms.config import Settings, find_claude, load_settings, load_settings_and_file
from cms.containment import Attempt, Guarantees, Level, find_mechanism, probe
from cms.errors import ClaudeNotFound, ClaudeUnfit, CmsError
from cms.home import prepare_home
from cms.live.argv import build_environment
from cms.live.workspace import why_no_overlay
from cms.protocol.versions import MINIMUM, Standing, standing
from cms.rpc.client import NoDaemon, connect
from cms.rpc.daemon import DAEMON_STATUS
from cms.rpc.verbs import Nothing
from cms.selftest.fitness import try_claude
from cms.session.model import Record

#: Seconds for one question to `claude`; a cold start takes a second.
_PATIENCE = 20.0
_ANOTHER = "run it by hand; CMS_CLAUDE can name another one"
_SPARE = 100 * 1024 * 1024

Login = Literal["yes", "no", "unknown"]


class Problem(Record, frozen=True):
    """Something that is wrong or could be better."""

    what: str
    why: str
    hint: str
    fatal: bool  # cms cannot do its work with it


class Containment(Record, frozen=True):
    """What holds sessions here. `guarantees` is None where nothing does."""

    mechanism: str
    level: str
    guarantees: Guarantees | None
    attempts: tuple[Attempt, ...]
    seconds: float


class Claude(Record, frozen=True):
    path: str
    version: str
    login: Login
    method: str  # "api_key", "oauth_token" ..., as claude calls it
    simulated: bool
    standing: Standing  # what is known of that version
    fit: bool = False  # it has shown what safety rests on


class Home(Record, frozen=True):
    path: str
    usable: bool
    free: int  # bytes


class Daemon(Record, frozen=True):
    running: bool
    pid: int = 0
    version: str = ""
    containment: str = ""
    live: int = 0


class Isolation(Record, frozen=True):
    """What `--isolate` gives here: `overlay`, `copy` or `none`; and why no better."""

    kind: str
    why: str = ""


class Checkup(Record, frozen=True):
    """Everything `cms doctor` tells."""

    ok: bool
    containment: Containment
    claude: Claude | None
    home: Home
    isolation: Isolation
    daemon: Daemon
    problems: tuple[Problem, ...]
    cms: str
    python: str
    trio: str
    platform: str


def examine(environ: Mapping[str, str] | None = None) -> Checkup:
    """Look at everything that counts in this environment. What is wrong is in the answer, not raised.

    Raises:
        UsageError: a variable of ours holds what cannot be meant.
    """
    problems: list[Problem] = []
    try:
        settings = load_settings_and_file(environ)
    except CmsError as error:
        settings = load_settings(environ)
        problems.append(Problem("config", error.message, error.hint, fatal=True))
    return trio.run(_examine, settings, problems)


async def _examine(settings: Settings, problems: list[Problem]) -> Checkup:
    found: list[Containment] = []
    agents: list[Claude | None] = []
    async with trio.open_nursery() as nursery:

        async def look_at_claude() -> None:
            agents.append(await _claude(settings, problems))

        async def look_at_containment() -> None:
            found.append(await _containment(settings, problems))

        nursery.start_soon(look_at_claude)
        nursery.start_soon(look_at_containment)
    claude = agents[0]
    if (
        claude is not None
        and claude.version
        and claude.standing != "too old"
        and found[0].guarantees is not None
    ):
        claude = msgspec.structs.replace(claude, fit=await _is_fit(settings, problems))
    home = _home(settings, problems)
    isolation = await _isolation(settings, home, problems)
    daemon = await trio.to_thread.run_sync(_daemon, settings, found[0], problems)
    return Checkup(
        ok=not any(problem.fatal for problem in problems),
        containment=found[0],
        claude=claude,
        home=home,
        isolation=isolation,
        daemon=daemon,
        problems=tuple(sorted(problems, key=lambda problem: not problem.fatal)),
        cms=__version__,
        python=platform.python_version(),
        trio=version("trio"),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


async def _containment(settings: Settings, problems: list[Problem]) -> Containment:
    try:
        report = await probe(settings.containment)
    except CmsError as error:
        problems.append(Problem("containment", error.message, error.hint, fatal=True))
        return Containment("none", "none", None, (), 0.0)
    if report.level < Level.C:
        why = f"level {report.level.value}: {report.guarantees.kill_all.why}"
        problems.append(Problem("containment", why, "this is missing", fatal=True))
    problems += [Problem(each.step, each.detail, each.hint, fatal=False) for each in report.missing]
    return Containment(
        report.mechanism, report.level.value, report.guarantees, report.attempts, report.seconds
    )


async def _claude(settings: Settings, problems: list[Problem]) -> Claude | None:
    def wrong(why: str, hint: str, *, fatal: bool = True) -> None:
        problems.append(Problem("claude", why, hint, fatal=fatal))

    try:
        argv = find_claude(settings)
    except ClaudeNotFound as error:
        wrong(error.message, error.hint)
        return None
    answers: dict[str, tuple[int, str]] = {}
    async with trio.open_nursery() as nursery:

        async def ask(*words: str) -> None:
            answers[words[0]] = await _run((*argv, *words), settings)

        nursery.start_soon(ask, "--version")
        nursery.start_soon(ask, "auth", "status", "--json")
    code, said = answers["--version"]
    if code != 0:
        wrong(f"{argv[0]} does not run: {_last(said)}", _ANOTHER)
        return Claude(argv[0], "", "unknown", "", simulated=False, standing="unknown")
    login, method = _read_login(answers["auth"][1])
    simulated = "simulated" in said
    if login == "no":
        hint = "run `claude` and log in, or set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN"
        wrong("it is not logged in", hint)
    if simulated:
        wrong("this is the simulated agent, which does no work", "unset CMS_CLAUDE", fatal=False)
    version = said.split()[0] if said else ""
    known = standing(version)
    if known == "too old":
        # It is not started at all: it knows our flags as little as its version.
        wrong(ClaudeUnfit(version, "it is too old", MINIMUM).message, _ANOTHER)
    return Claude(argv[0], version, login, method, simulated, known)


async def _is_fit(settings: Settings, problems: list[Problem]) -> bool:
    try:
        mechanism = await find_mechanism(settings.containment)
        await try_claude(settings, find_claude(settings), mechanism)
    except (CmsError, OSError) as error:
        why = str(error) if isinstance(error, ClaudeUnfit) else f"it does not start: {error}"
        problems.append(Problem("claude", why, _ANOTHER, fatal=True))
        return False
    return True


class _AuthStatus(msgspec.Struct, rename="camel"):
    logged_in: bool
    auth_method: str = ""


def _read_login(said: str) -> tuple[Login, str]:
    """From `claude auth status --json`; a version that does not know it leaves it unknown."""
    try:
        status = msgspec.json.decode(said, type=_AuthStatus)
    except msgspec.DecodeError:
        return "unknown", ""
    return ("yes", status.auth_method) if status.logged_in else ("no", "")


async def _run(argv: tuple[str, ...], settings: Settings) -> tuple[int, str]:
    """Exit status and stdout (stderr where there is none); -1 if it did not end or could not be started."""
    env = build_environment(settings.environ)
    env.setdefault("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
    try:
        with trio.fail_after(_PATIENCE):
            done = await trio.run_process(
                argv, env=env, capture_stdout=True, capture_stderr=True, stdin=subprocess.DEVNULL, check=False
            )
    except OSError as error:
        return -1, error.strerror or str(error)
    except trio.TooSlowError:
        return -1, f"no answer within {_PATIENCE:g} s"
    return done.returncode, (done.stdout or done.stderr).decode(errors="replace").strip()


def _last(text: str) -> str:
    return text.splitlines()[-1][:200] if text.strip() else "it prints nothing"


def _home(settings: Settings, problems: list[Problem]) -> Home:
    home, free = settings.home, 0
    try:
        prepare_home(home)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        found = os.statvfs(home)
        free = found.f_bavail * found.f_frsize
    except CmsError as error:
        problems.append(Problem("home", error.message, error.hint, fatal=True))
    except OSError as error:
        why = f"cannot write into {home}: {error.strerror or error}"
        problems.append(
            Problem("home", why, "free some space, or set CMS_HOME to another folder", fatal=True)
        )
    else:
        if free < _SPARE:
            why = f"only {free // 2**20} MiB free in {home}"
            problems.append(
                Problem("home", why, "raw logs grow; `cms cleanup` removes old ones", fatal=False)
            )
        return Home(str(home), usable=True, free=free)
    return Home(str(home), usable=False, free=free)


async def _isolation(settings: Settings, home: Home, problems: list[Problem]) -> Isolation:
    """By doing it, in a folder of the system's temporary ones."""
    try:
        mechanism = await find_mechanism(settings.containment)
    except CmsError as error:
        return Isolation("none", error.message)
    if not home.usable:
        return Isolation("none", f"{home.path} cannot be used")
    with tempfile.TemporaryDirectory(prefix="cms-probe-") as folder:
        why = await why_no_overlay(mechanism, settings, Path(folder))
    if not why:
        return Isolation("overlay")
    problems.append(
        Problem("isolation", f"no overlay: {why}", "--isolate copies the folder instead", fatal=False)
    )
    walls = mechanism.guarantees.protected_paths
    return Isolation("copy", why) if walls.strong else Isolation("none", walls.why or why)


def _daemon(settings: Settings, here: Containment, problems: list[Problem]) -> Daemon:
    if not settings.home.is_dir():
        return Daemon(running=False)
    try:
        with connect(settings, start=False) as client:
            status = client.call(DAEMON_STATUS, Nothing())
    except NoDaemon:
        return Daemon(running=False)
    except CmsError as error:
        problems.append(Problem("daemon", error.message, error.hint, fatal=False))
        return Daemon(running=False)
    mechanism = status.containment.partition(",")[0]
    if mechanism != here.mechanism:
        why = (
            f"it runs its sessions with {status.containment}; started from here it would use {here.mechanism}"
        )
        problems.append(
            Problem("daemon", why, "run `cms daemon stop`; the next command starts it again", fatal=False)
        )
    return Daemon(True, status.pid, status.version, status.containment, status.live)
