"""`cms drill`: that it holds here, that it can fail, and that it says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
import trio

import forks
import ordinary_user
from cli.shell import Ran
from cms.cli.selftest import drill
from cms.containment import Container, Proof
from cms.errors import ExitCode
from cms.selftest.drill import machine, trials
from cms.selftest.drill import run as drills
from cms.selftest.drill.run import DrillReport, run_drill
from cms.selftest.drill.trials import Case, Finding, Plan
from cms.testing.agent import write_launcher


def run(tmp_path: Path, *words: str, env: dict[str, str] | None = None) -> Ran:
    """The command, with a simulated agent where the real one would play."""
    (tmp_path / "tmp").mkdir()
    claude = write_launcher(tmp_path / "claude")
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "CMS_CLAUDE": str(claude), **(env or {})}
    code, out, err = forks.run(("drill", *words), env=environ, cwd=tmp_path, timeout=100)
    return Ran(code, out.decode(), err.decode())


def left_in(folder: Path) -> list[Path]:
    """What is there but the folder that all homes of a user share, which stays, empty."""
    shared = folder / f"cms-{os.getuid()}"
    found = [*folder.iterdir(), *(shared.iterdir() if shared.exists() else ())]
    return [path for path in found if path != shared]


def test_a_quick_drill(tmp_path: Path) -> None:
    groups = (
        "kill",
        "freeze",
        "walls",
        "caps",
        "folder",
    )  # the others are the real binary's (test_kill_real.py)
    ran = run(tmp_path, "--quick", "--json", *(f"--only={group}" for group in groups))
    report = msgspec.json.decode(ran.out, type=DrillReport)
    failed = [case for case in report.cases if case.verdict == "failed"]
    assert not failed
    assert (ran.code, report.ok, report.quick) == (0, True, True)
    assert {case.group for case in report.cases} == set(groups)
    assert {case.name for case in report.cases} >= {
        *("orphan", "comets", "git hook", "CMS_HOME", "--max-procs", "moved place", "copy-on-write"),
        *("git", "planted link", "fifo", "child"),
    }
    assert all(case.milliseconds for case in report.cases if case.group == "kill" and case.verdict == "held")
    assert left_in(tmp_path / "tmp") == [], "a drill leaves nothing behind"
    mark = f"TMPDIR={tmp_path / 'tmp'}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                assert mark not in (folder / "environ").read_bytes().split(b"\0"), folder
            except OSError:
                continue


def test_a_drill_of_an_ordinary_user(tmp_path: Path) -> None:
    """What holds for root must hold for everybody else, too."""
    python = ordinary_user.require_python()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, ordinary_user.NOBODY, ordinary_user.NOBODY)
        done = ordinary_user.as_nobody(
            [python, "-m", "cms", "drill", "--quick", "--json", "--only", "walls", "--only", "folder"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": folder,
                "TMPDIR": folder,
                "CMS_CLAUDE": "/bin/true",
                "PYTHONPATH": os.pathsep.join((ordinary_user.SOURCE, ordinary_user.PACKAGES)),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd="/",
            within=100,
        )
    report = msgspec.json.decode(done.stdout, type=DrillReport)
    assert [case for case in report.cases if case.verdict == "failed"] == []
    assert (done.returncode, {case.group for case in report.cases}) == (0, {"walls", "folder"})


async def one_case(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, group: str, *, strict: bool = False
) -> DrillReport:
    """One hostile case ("kill"), or the walls around one file ("walls")."""
    said: list[str] = []
    monkeypatch.setattr(machine, "QUICK", ("orphan",))
    for name in ("_hidden", "_assassin", "_exits", "_moved", "_copied", "_outside", "_forge"):
        monkeypatch.setattr(machine.Machine, name, _nothing)
    plan = Plan(quick=True, strict=strict, only=(group,))
    with trio.fail_after(40):
        report = await run_drill(tmp_path, said.append, plan)
    assert said[-1].startswith("\ncertified" if report.ok else "\nNOT CERTIFIED")
    return report


async def _nothing(*_: object) -> Finding:
    await trio.lowlevel.checkpoint()
    return Finding()


def of(report: DrillReport, name: str) -> Case:
    return next(case for case in report.cases if case.name == name)


async def test_a_kill_that_leaves_something_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container that claims a proof and kills nobody: the heartbeat tells."""
    kill, aclose = Container.kill, Container.aclose
    lied: list[Container] = []

    async def lie(container: Container, *, deadline: float) -> Proof:
        if not container.spec.label.startswith("case-"):
            return await kill(container, deadline=deadline)
        if container not in lied:
            lied.append(container)
        await trio.lowlevel.checkpoint()
        return Proof(container.mechanism, (), 1, 0.001, empty=True, how=("nothing",))

    monkeypatch.setattr(Container, "kill", lie)

    async def leave(container: Container, *, deadline: float = 5.0) -> None:
        if container in lied:
            await trio.lowlevel.checkpoint()
        else:
            await aclose(container, deadline=deadline)

    monkeypatch.setattr(Container, "aclose", leave)
    try:
        report = await one_case(monkeypatch, tmp_path, "kill")
        assert of(report, "orphan").verdict == "failed"
        assert "something still ran" in of(report, "orphan").detail
        assert not report.ok
    finally:
        for container in lied:
            await kill(container, deadline=5)
            for stream in (container.stdin, container.stdout, container.stderr):
                await stream.aclose()


async def test_what_is_not_promised_fails_only_when_asked_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CMS_CONTAINMENT", "guard")  # no walls at all
    for strict in (False, True):
        (tmp_path / str(strict)).mkdir()
        report = await one_case(monkeypatch, tmp_path / str(strict), "walls", strict=strict)
        assert (report.containment, report.level) == ("guard", "D")
        assert of(report, "git hook").verdict == "unpromised"
        assert of(report, "git hook").detail.startswith("changed, by ")
        assert report.ok != strict


async def test_what_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trials, "PATIENCE", 0.01)
    report = await one_case(monkeypatch, tmp_path, "kill")
    assert of(report, "orphan").detail == "it did not end"
    monkeypatch.setattr(trials, "TOTAL_QUICK", 0.0)
    (tmp_path / "more").mkdir()
    report = await one_case(monkeypatch, tmp_path / "more", "kill")
    assert {case.verdict for case in report.cases} == {"untested"}


def test_the_exit_code_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (ExitCode.COMPLETED, ExitCode.FAILED):
        monkeypatch.setattr(drills, "main", lambda _plan, code=code, **_: code)
        assert drill(quick=True) == code


def test_a_group_that_there_is_not(tmp_path: Path) -> None:
    ran = run(tmp_path, "--only", "everything")
    assert (ran.code, ran.out) == (2, "")
    assert "one of kill, freeze, walls, caps, folder, limits, crash" in ran.err


def test_a_mechanism_that_there_is_not_is_told_as_such(tmp_path: Path) -> None:
    ran = run(tmp_path, "--quick", env={"CMS_CONTAINMENT": "moat"})
    assert ran.code == ExitCode.USAGE
    assert "there is no containment mechanism 'moat'" in ran.err


def test_ctrl_c_ends_it_without_a_word_and_leaves_nothing(tmp_path: Path) -> None:
    claude = write_launcher(tmp_path / "claude")
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "cms", "drill", "--only", "kill"],
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "CMS_CLAUDE": str(claude)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        assert child.stdout is not None
        while "held" not in child.stdout.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
    assert child.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in said
    assert left_in(tmp_path / "tmp") == []
