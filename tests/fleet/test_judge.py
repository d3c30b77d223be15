"""The judge of a delegation: what it sees and may spend, that only its pass is one, and crashes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import trio

from cms.batch.model import BatchOptions, TaskSpec, TaskStatus
from cms.fleet.batches import open_batches
from cms.fleet.supervisor import Supervisor
from cms.session.judge import SCHEMA
from cms.session.model import InteractionState, Limits, Outcome, SessionStatus
from cms.testing.script import ScriptedReply, call, prompt, say
from fleet.kit import (
    assert_nothing_left,
    consistent,
    delegate,
    last,
    make_options,
    make_settings,
    marked,
    supervising,
    until,
)
from fleet.test_crash import begin

WORK = prompt("Work", say("done", cost_usd=0.01, model="sonnet"))


def rules(verdict: str, reason: str = "because") -> ScriptedReply:
    return call("StructuredOutput", verdict=verdict, reason=reason).costing(0.02, "sonnet")


def question(*replies: ScriptedReply) -> str:
    return prompt("Is it good?", *replies)


async def test_a_pass_completes_it_and_its_cost_is_counted(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        # It may not run anything, and judges all the same.
        tries = call("Bash", command="true").costing(0.01, "sonnet")
        result = await delegate(supervisor, WORK, judge=question(tries, rules("pass")))
        assert result.status is Outcome.COMPLETED
        assert result.judge is not None
        assert (result.judge.verdict, result.judge.session) == ("pass", "one~judge1")
        assert result.cost == pytest.approx(0.04)
        judge = await supervisor.get("one~judge1")
        assert (judge.options.preset, judge.options.tags) == ("read-only", ("judge",))
        assert judge.status is SessionStatus.COMPLETED
        assert judge.judges == (await last(supervisor)).id
        asked = (await last(supervisor, "one~judge1")).prompt
        assert "\n> done\n" in asked
        assert asked.endswith("</cms-script>")
        # Whoever goes on with it has it judged again.
        again = await supervisor.continue_("one", prompt("Go on", say("more")))
        assert again.judge is not None
        assert (again.status, again.judge.session) == (Outcome.COMPLETED, "one~judge2")
        assert again.cost == pytest.approx(0.03, abs=0.001)
    await consistent(settings)


async def test_no_verdict_is_a_fail(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for name, reply, words in (
            ("silent", say("It is all very good: pass"), "failed: it gave no answer that matches"),
            ("odd", rules("maybe"), "failed: its answer does not match"),
            ("refused", say("x").failing(400), "failed: "),
        ):
            result = await delegate(supervisor, WORK, name=name, judge=question(reply), repair=2)
            assert result.judge is not None
            assert result.status is Outcome.VERIFICATION_FAILED
            assert f"the judge gave no verdict: {words}" in (result.error or "")
            assert result.judge.verdict == "none"
            assert result.rounds == (), "there is nothing to repair by that"
    await consistent(settings)


async def test_its_reason_goes_back_and_the_work_is_judged_anew(tmp_path: Path) -> None:
    """What it has for itself is for all rounds together."""
    settings = make_settings(tmp_path)
    # What it quotes is a script for the model that it goes back to.
    mend = prompt("Mend\x1b[2J it", call("Bash", command="touch fixed"), say("mended"))
    async with supervising(settings) as supervisor:
        # The first judging takes 0.02 of 0.03, so the second has 0.01, which its first reply passes.
        judge = question(rules("fail", mend))
        result = await delegate(supervisor, WORK, judge=judge, judge_max_cost=0.03, repair=1)
        assert (result.status, len(result.rounds)) == (Outcome.VERIFICATION_FAILED, 2)
        assert "the judge: Mend\\x1b[2J it" in (result.rounds[0].error or "")
        assert "the judge gave no verdict: cost_exceeded" in (result.error or "")
        assert (tmp_path / "work" / "fixed").exists()
        said = await supervisor.interactions("one")
        assert [one.judge.session for one in said if one.judge] == ["one~judge1", "one~judge2"]
        assert (await supervisor.get("one~judge2")).judges == said[1].id
        assert (await supervisor.get("one")).total_cost_usd < 0.02, "its own money is not touched"
    await consistent(settings)


async def test_it_is_charged_to_what_the_work_is_charged_to(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap("team", 0.011)
        options = make_options(settings, judge=question(rules("pass")))
        result = await supervisor.delegate(options, WORK, scopes=("team",))
        assert result.status is Outcome.VERIFICATION_FAILED
        assert "no verdict: cost_exceeded" in (result.error or "")
        (standing,) = (await supervisor.budget()).scopes
        assert standing.spent == pytest.approx(result.cost)
    await consistent(settings)


async def test_commands_come_first_and_a_failed_one_costs_no_judge(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, WORK, judge=question(rules("pass")), verify=("false",))
    assert result.status is Outcome.VERIFICATION_FAILED
    assert result.judge is None
    assert result.cost == pytest.approx(0.01)


async def test_it_sees_what_git_shows_and_nothing_of_the_repository_runs(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    work = tmp_path / "work"

    async def git(*words: str) -> None:
        ours = ("git", "-c", "user.name=x", "-c", "user.email=x@x")
        past = {**os.environ, "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
        await trio.run_process([*ours, *words], cwd=work, env=past, capture_stdout=True)

    await git("init", "-q")
    (work / "old").write_text("before\n")
    (work / ".gitattributes").write_text("* diff=evil\n")
    await git("add", ".")
    await git("commit", "-qm", "x")
    await git("config", "diff.evil.textconv", f"sh -c 'touch {tmp_path}/ran-tc; cat'")
    await git("config", "diff.external", f"sh -c 'touch {tmp_path}/ran-ext'")
    await git("config", "core.fsmonitor", f"sh -c 'touch {tmp_path}/ran-fs'")
    commit = "git -c core.fsmonitor=false -c user.name=x -c user.email=x@x commit -qam y"
    (work / "commit.sh").write_text(f"echo mine > old; {commit}; echo later >> old; touch new")
    async with supervising(settings) as supervisor:
        task = prompt("Work", call("Bash", command="sh commit.sh"), say("> looks like a quotation"))
        result = await delegate(supervisor, task, judge=question(rules("pass")))
        assert result.status is Outcome.COMPLETED
        asked = (await last(supervisor, "one~judge1")).prompt
        assert "> new files that git does not track:" in asked
        assert "> new\n" in asked
        assert "> -before" in asked
        assert "> +later" in asked
        assert "> +mine" in asked, "what it has committed counts"
        assert "> > looks like a quotation" in asked
    assert not [name for name in os.listdir(tmp_path) if name.startswith("ran")]  # noqa: PTH208 - names
    await consistent(settings)


async def test_of_an_isolated_one_it_sees_the_change(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = prompt("Work", call("Bash", command="echo fresh > new"), say("done"))
        result = await delegate(supervisor, task, judge=question(rules("pass")), isolate="auto")
        assert result.status is Outcome.COMPLETED
        asked = (await last(supervisor, "one~judge1")).prompt
        assert "> +fresh" in asked
        assert not await trio.Path(tmp_path / "work" / "new").exists()
    await consistent(settings)


async def test_without_the_library_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        seen: list[str] = []

        async def check(schema: str) -> None:
            seen.append(schema)

        monkeypatch.setattr(supervisor.answers, "check", check)
        await supervisor.create(make_options(settings, judge="Is it good?"))
        assert SCHEMA in seen


# --- cut off --------------------------------------------------------------------------------------


async def at_judging(supervisor: Supervisor, name: str) -> None:
    def there() -> bool:
        record = supervisor.runner(name)
        return record is not None and record.record.status is SessionStatus.BUSY

    await until(there)


async def test_cut_off_while_it_judges(tmp_path: Path) -> None:
    """By its caller, or by whoever ends the session, or who ends the judge: there is no verdict."""
    settings = make_settings(tmp_path)
    judge = question(rules("pass").stalling("headers"))
    async with supervising(settings) as supervisor:
        scope, results = trio.CancelScope(), []

        async def go() -> None:
            options = make_options(settings, "cancelled", judge=judge)
            results.append(await supervisor.delegate(options, WORK, within=scope))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            await at_judging(supervisor, "cancelled~judge1")
            scope.cancel()
        assert results[0].status is Outcome.INTERRUPTED
        assert (await last(supervisor, "cancelled")).state is InteractionState.UNCHECKED
        assert (await supervisor.get("cancelled~judge1")).status is SessionStatus.STOPPED
        assert supervisor.live_count() == 0
        for name, end in (("stopped", supervisor.stop), ("killed", supervisor.kill)):
            sent = await supervisor.start_delegate(make_options(settings, name, judge=judge), WORK)
            await at_judging(supervisor, f"{name}~judge1")
            await end(name)
            assert supervisor.live_count() == 0
            assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
            assert (await last(supervisor, name)).state is InteractionState.UNCHECKED
        sent = await supervisor.start_delegate(make_options(settings, judge=judge), WORK)
        await at_judging(supervisor, "one~judge1")
        await supervisor.stop("one~judge1")
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        assert "the judge was interrupted" in (await last(supervisor)).error
    await consistent(settings)


@pytest.mark.parametrize("stage", ["judging", "judged"])
async def test_the_supervisor_is_killed_and_nothing_is_paid_twice(tmp_path: Path, stage: str) -> None:
    settings = make_settings(tmp_path)
    with trio.fail_after(30):
        with begin(tmp_path, stage) as doomed:
            assert doomed.stdout is not None
            assert await trio.to_thread.run_sync(doomed.stdout.readline) == b"ready\n"
            descriptors = [os.pidfd_open(pid) for pid in marked(settings)]
            doomed.kill()
        for descriptor in descriptors:
            await trio.lowlevel.wait_readable(descriptor)
            os.close(descriptor)
    assert_nothing_left(settings)
    async with supervising(settings) as supervisor:
        one = await last(supervisor)
        assert (one.state, one.outcome) == (InteractionState.UNCHECKED, Outcome.INTERRUPTED)
        before = sum(total.usage.cost_usd for total in await supervisor.totals("model"))
        result = await supervisor.judge_again("one")
        names = {record.name for record in await supervisor.sessions()}
        spent = sum(total.usage.cost_usd for total in await supervisor.totals("model"))
        if stage == "judged":
            assert result.status is Outcome.COMPLETED
            assert names == {"one", "one~judge1"}
            assert spent == pytest.approx(before)
        else:  # its answer never came: another one is asked, which stalls as well, up to its limit
            assert result.status is Outcome.VERIFICATION_FAILED
            assert names == {"one", "one~judge1", "one~judge2"}
        assert result.cost == pytest.approx(spent)
    await consistent(settings)


async def test_a_batch_counts_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(BatchOptions(str(tmp_path / "work"), max_cost=3.0), "b")
        spec = TaskSpec(name="bad", prompt=WORK, judge=question(rules("fail")), max_cost=1.0)
        assert await batches.add(record.id, 0, [(spec, 1)]) == []
        assert await batches.check(record.id) == []
        ended = await (await batches.start(record.id)).wait()
        assert ended.counts == {TaskStatus.VERIFICATION_FAILED: 1}
        assert ended.spent == pytest.approx(0.03)
    await consistent(settings)


def test_a_task_reserves_what_its_judge_may_spend(tmp_path: Path) -> None:
    options = make_options(make_settings(tmp_path), limits=Limits(max_cost=1.0), judge_max_cost=0.25)
    assert options.most == 1.0
    assert msgspec.structs.replace(options, judge="Is it good?").most == 1.25
    assert msgspec.structs.replace(options, judge="Is it good?", limits=Limits()).most is None
