"""Changes that are applied by themselves: in turn, checked on what is there by then, or kept, and why."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from cms.batch.model import BatchOptions, TaskSpec
from cms.errors import UsageError
from cms.fleet import applying
from cms.fleet.batches import open_batches
from cms.fleet.supervisor import Supervisor
from cms.options import Layer
from cms.session.model import DelegateResult, Isolate, Outcome
from cms.testing.script import call, prompt, say
from fleet.kit import delegate, make_options, make_settings, supervising, until
from fleet.test_isolation import bash, seen, work

__all__ = ["work"]


def twenty_lines(folder: Path) -> None:
    """A file that several can change in different places, and a repository that knows what it was."""
    (folder / "code").write_text("".join(f"{n}\n" for n in range(20)))
    git = ("git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run((*git, *words), check=True)


WAYS: tuple[Isolate, ...] = ("overlay", "copy")


async def test_what_passed_is_in_the_folder_before_the_verdict(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        checks = ("echo x >> ran; grep new code",)
        result = await delegate(
            supervisor, bash("echo new > code; rm gone"), isolate="auto", apply="on-pass", verify=checks
        )
        assert result.status is Outcome.COMPLETED, result
        assert result.change is not None
        assert (result.change.state, result.change.files) == ("applied", 2)
        after = {"code": "new\n", "sub": "/", "sub/deep": "deep\n"}
        assert seen(work) == after
        rows = (await supervisor.audit("one")).rows
        assert [one.entry.verdict for one in rows if one.entry.kind == "change"] == ["applied"]
        # Who judges it once more after a crash applies nothing twice, and finds it applied.
        (work / "code").write_text("mine\n")
        with supervisor.merge_queue.turn("one") as turn:
            assert await turn.land() == ()
        assert seen(work) == {**after, "code": "mine\n"}
        await supervisor.delete("one")


async def test_three_at_once_two_apply_and_the_third_conflicts(tmp_path: Path, work: Path) -> None:
    """Each waits until the others have begun, so all start from the same folder, by an overlay or a copy."""
    settings = make_settings(tmp_path)
    results: dict[str, DelegateResult] = {}
    async with supervising(settings) as supervisor:

        async def one(name: str, how: Isolate, script: str) -> None:
            wait = f"touch {tmp_path}/begun-{name}; while ! test -e {tmp_path}/go; do sleep 0.01; done; "
            results[name] = await delegate(
                supervisor,
                bash(wait + script),
                name=name,
                isolate=how,
                apply="on-pass",
                verify=("test -s code && ls a b 2>/dev/null | wc -l > count",),
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a", "overlay", "echo a > a; sed -i s/old/first/ code")
            nursery.start_soon(one, "b", "copy", "echo b > b; rm gone")
            nursery.start_soon(one, "c", "copy", "echo c > c; sed -i s/old/third/ code")
            await until(lambda: all((tmp_path / f"begun-{name}").exists() for name in "abc"))
            (tmp_path / "go").touch()
        outcomes = {name: result.status for name, result in results.items()}
        assert outcomes.pop("b") is Outcome.COMPLETED, results["b"]
        assert sorted(outcomes.values()) == [Outcome.COMPLETED, Outcome.VERIFICATION_FAILED], results
        loser = next(name for name, outcome in outcomes.items() if outcome is not Outcome.COMPLETED)
        assert "not applied: code: both changed the same lines" in (results[loser].error or "")
        summary = (await supervisor.get(loser)).change
        assert summary is not None
        assert summary.state == "kept"
        assert "both changed" in summary.note
        winner = {"a": "first", "c": "third"}
        (won,) = {"a", "c"} - {loser}
        assert seen(work) == {
            "b": "b\n",
            "code": f"{winner[won]}\n",
            "sub": "/",
            "sub/deep": "deep\n",
            won: f"{won}\n",
        }
        # It keeps its change, and a person can still have it.
        outcome = await applying.apply(supervisor, loser, conflict_markers=True)
        assert outcome.applied
        assert (work / loser).read_text() == f"{loser}\n"


@pytest.mark.parametrize("how", WAYS)
async def test_it_is_checked_again_on_what_is_there_by_then(tmp_path: Path, work: Path, how: Isolate) -> None:
    """Each passes by itself; the two together do not."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        results: dict[str, DelegateResult] = {}

        async def one(name: str) -> None:
            wait = f"touch {tmp_path}/begun-{name}; while ! test -e {tmp_path}/go; do sleep 0.01; done; "
            results[name] = await delegate(
                supervisor,
                bash(f"{wait} echo {name} > {name}; rm -r sub; mkdir sub; echo x > sub/new-{name}"),
                name=name,
                isolate=how,
                apply="on-pass",
                verify=("! (test -e a && test -e b)", "echo litter > litter; test ! -e sub/deep"),
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a")
            nursery.start_soon(one, "b")
            await until(lambda: all((tmp_path / f"begun-{name}").exists() for name in "ab"))
            (tmp_path / "go").touch()
        assert sorted(result.status for result in results.values()) == [
            Outcome.COMPLETED,
            Outcome.VERIFICATION_FAILED,
        ]
        (won,) = (name for name, result in results.items() if result.status is Outcome.COMPLETED)
        (lost,) = {"a", "b"} - {won}
        error = results[lost].error
        assert error is not None
        assert error.startswith("not applied, on what is there now: check failed: ! (test -e a && test -e b)")
        assert set(seen(work)) == {"code", "gone", "sub", f"sub/new-{won}", won}


async def test_somebody_else_changed_the_same_file_elsewhere_in_it(tmp_path: Path, work: Path) -> None:
    """It is merged, and what comes of that is checked again."""
    twenty_lines(work)
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = bash(
            f"sed -i s/^0$/zero/ code; touch {tmp_path}/begun; "
            f"while ! test -e {tmp_path}/go; do sleep 0.01; done"
        )
        checks = (f"wc -l < code >> {tmp_path}/seen; grep -c '^[a-z]' code >> {tmp_path}/seen",)
        results = []

        async def run() -> None:
            results.append(await delegate(supervisor, task, isolate="auto", apply="on-pass", verify=checks))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until((tmp_path / "begun").exists)
            text = (work / "code").read_text().replace("19\n", "nineteen\n")
            (work / "code").write_text(text)
            (tmp_path / "go").touch()
        assert results[0].status is Outcome.COMPLETED, results
        lines = (work / "code").read_text().splitlines()
        assert (lines[0], lines[-1]) == ("zero", "nineteen")
        # Once on what it left, once on what was merged.
        assert (tmp_path / "seen").read_text().split() == ["20", "1", "20", "2"]
        assert results[0].change is not None
        assert "merged with changes by others: code" in results[0].change.note


async def test_cancelled_while_it_is_checked_again_it_stays_a_change(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        hold = (
            f"test ! -e {tmp_path}/second || {{ touch {tmp_path}/held; sleep 600; }}; touch {tmp_path}/second"
        )
        twenty_lines(work)
        task = bash(
            f"sed -i s/^0$/zero/ code; touch {tmp_path}/begun; "
            f"while ! test -e {tmp_path}/go; do sleep 0.01; done"
        )
        options = make_options(settings, isolate="auto", apply="on-pass", verify=(hold,))
        scope = trio.CancelScope()
        results = []

        async def run() -> None:
            results.append(await supervisor.delegate(options, task, within=scope))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until((tmp_path / "begun").exists)
            (work / "code").write_text((work / "code").read_text().replace("19\n", "nineteen\n"))
            (tmp_path / "go").touch()
            await until((tmp_path / "held").exists)
            scope.cancel()
        assert results[0].status is Outcome.INTERRUPTED
        change = results[0].change
        assert change is not None
        assert change.state == "kept"
        assert (work / "code").read_text().startswith("0\n")
        outcome = await applying.apply(supervisor, "one")
        assert outcome.merged == (b"code",)


async def test_when_there_is_nothing_to_apply(tmp_path: Path, work: Path) -> None:
    """It did not pass; it changed nothing; there is no isolation."""
    settings = make_settings(tmp_path)
    before = seen(work)
    async with supervising(settings) as supervisor:
        task = bash("echo new > code")
        result = await delegate(
            supervisor, task, name="failed", isolate="auto", apply="on-pass", verify=("false",)
        )
        assert result.status is Outcome.VERIFICATION_FAILED
        assert result.change is not None
        assert result.change.state == "kept"
        task = prompt("Look", call("Bash", command="cat code"), say("fine"))
        result = await delegate(supervisor, task, isolate="auto", apply="on-pass", verify=("true",))
        assert result.status is Outcome.COMPLETED, result
        assert result.change is not None
        assert result.change.empty
        await supervisor.delete("failed", force=True)
        await supervisor.delete("one")
        assert not list(settings.layers.iterdir())
        with pytest.raises(UsageError, match="needs --isolate"):
            await delegate(supervisor, bash("true"), apply="on-pass")
        assert seen(work) == before


async def test_a_batch_of_isolated_tasks(tmp_path: Path, work: Path) -> None:
    """What each left is in its result, the report and a patch; one that a crash of ours follows stays so."""
    settings = make_settings(tmp_path)
    patches, report, out = tmp_path / "patches", tmp_path / "report.md", tmp_path / "out.jsonl"
    patches.mkdir()
    options = BatchOptions(
        str(work),
        patches=str(patches),
        report=str(report),
        out=str(out),
        defaults=Layer(isolate="auto", apply="on-pass", verify=("true",), preset="full"),
    )
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(options, "b")
        specs = [
            (TaskSpec(name=name, prompt=bash(f"echo {name} >> {file}")), line)
            for line, (name, file) in enumerate((("a", "code"), ("b", "code"), ("c", "new")))
        ]
        assert await batches.add(record.id, 0, specs) == []
        ended = await (await batches.start(record.id)).wait()
    assert ended.total == 3
    told = {task["name"]: task for task in map(msgspec.json.decode, out.read_bytes().splitlines())}
    applied = {name for name, task in told.items() if task["change"]["state"] == "applied"}
    assert applied >= {"c"}
    assert applied & {"a", "b"}
    for name, task in told.items():
        assert (task["status"] == "completed") == (name in applied), task
        assert f"+{name}" in (patches / f"{name}.patch").read_text()
    assert "1 file, +1 -0" in report.read_text()
    lines = (work / "code").read_text().splitlines()
    assert set(lines) == {"old"} | (applied - {"c"})


async def beaten(
    supervisor: Supervisor, place: Path, first: str, second: str, **options: Any
) -> DelegateResult:
    """What became of the second of two in one folder: the first was applied before it ended."""
    results: list[DelegateResult] = []

    async def late() -> None:
        wait = f"touch {place}/begun; while ! test -e {place}/go; do sleep 0.01; done"
        results.append(
            await delegate(
                supervisor, bash(f"{second}; {wait}"), name="late", isolate="auto", apply="on-pass", **options
            )
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        await until((place / "begun").exists)
        early = await delegate(supervisor, bash(first), name="early", isolate="auto", apply="on-pass")
        assert early.status is Outcome.COMPLETED, early
        (place / "go").touch()
    return results[0]


def solution(command: str) -> str:
    """A line for a file: whoever is shown it runs the command."""
    return prompt("Solve it", call("Bash", command=command), say("solved")).replace("\n", " ")


async def test_a_conflict_is_put_right_by_the_session_that_has_it(tmp_path: Path, work: Path) -> None:
    """It is told what the other has changed, and decides about the lines that both did; others stay."""
    settings = make_settings(tmp_path)
    twenty_lines(work)
    (tmp_path / "line").write_text(solution("sed -i 's/^mine$/both/' code") + "\n")
    first = f"sed -i -e 's/^15$/fifteen/' -e '/^3$/r {tmp_path}/line' -e '/^3$/d' code"
    async with supervising(settings) as supervisor:
        late = await beaten(
            supervisor, tmp_path, first, "sed -i 's/^3$/mine/' code", verify=("test -s code",), repair=1
        )
        assert late.status is Outcome.COMPLETED, late
        assert late.change is not None
        assert late.change.state == "applied"
        assert [one.status for one in late.rounds] == [Outcome.VERIFICATION_FAILED, Outcome.COMPLETED]
        assert "not applied: code: both changed the same lines" in (late.rounds[0].error or "")
        lines = (work / "code").read_text().splitlines()
        assert lines[3] == "both"
        assert lines[15] == "fifteen"
        assert len(lines) == 20
        starts = [row for row in (await supervisor.audit("late")).rows if row.entry.kind == "start"]
        assert len(starts) == 1, "in the same process"
        assert not supervisor.merge_queue._locks


async def test_a_conflict_that_nobody_puts_right_stays_one(tmp_path: Path, work: Path) -> None:
    settings = make_settings(tmp_path)
    twenty_lines(work)
    (tmp_path / "line").write_text(solution("true") + "\n")
    first = f"sed -i -e '/^3$/r {tmp_path}/line' -e '/^3$/d' code"
    async with supervising(settings) as supervisor:
        late = await beaten(supervisor, tmp_path, first, "sed -i 's/^3$/mine/' code", repair=2)
        assert late.status is Outcome.VERIFICATION_FAILED
        assert "not applied: code: both changed" in (late.error or "")
        assert late.change is not None
        assert late.change.state == "kept"
        assert len(late.rounds) == 3
        assert "mine" not in (work / "code").read_text()


async def test_what_fails_on_what_is_there_by_then_is_put_right(tmp_path: Path, work: Path) -> None:
    """The check's output on the folder as it would be goes back to the session."""
    settings = make_settings(tmp_path)
    (tmp_path / "line").write_text(solution("rm b") + "\n")
    check = f"if test -e a && test -e b; then cat {tmp_path}/line; false; fi"
    async with supervising(settings) as supervisor:
        late = await beaten(
            supervisor, tmp_path, "touch a", "touch b; echo new > code", verify=(check,), repair=1
        )
        assert late.status is Outcome.COMPLETED, late
        assert set(seen(work)) == {"a", "code", "gone", "sub", "sub/deep"}
        assert (work / "code").read_text() == "new\n"
