"""The walls around a session, with a real child: held, not held, lost; and what the verdict says of it.

The simulated agent runs real shells, and the gate lets all of them pass (preset full).
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

import cms
from cms.config import Settings
from cms.fleet.supervisor import Supervisor
from cms.session.model import Interaction, Outcome, SessionStatus, Walls
from cms.store import audit
from cms.testing.script import ScriptedReply, call, prompt, say
from fleet.kit import ask, at_work, consistent, delegate, make_settings, start, supervising, toil, until

SECRET = "KEY=1\n"


def shell(line: str) -> ScriptedReply:
    return call("Bash", command=line)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = make_settings(tmp_path)
    (tmp_path / "work/.env").write_text(SECRET)
    return found


def env_file(settings: Settings) -> Path:
    return settings.home.parent / "work/.env"


def walls_of(result: object) -> Walls:
    receipt = getattr(result, "receipt", None)
    assert receipt is not None
    assert isinstance(receipt.walls, Walls)
    return receipt.walls


async def test_what_is_held_stays_and_nothing_is_said(settings: Settings) -> None:
    async with supervising(settings) as supervisor:
        result = await delegate(
            supervisor, prompt("Try", shell("echo KEY=2 > .env; true"), say("done")), writes="workdir"
        )
        assert env_file(settings).read_text() == SECRET
        assert result.status is Outcome.COMPLETED
        assert result.reasons == ()
        walls = walls_of(result)
        assert walls.held > 1
        assert (walls.unheld, walls.lost, walls.changed, walls.outside) == ((), (), (), ())
        assert (await supervisor.get("one")).walls == walls


async def test_where_nothing_can_be_held_that_is_told_and_the_tripwire_sees(settings: Settings) -> None:
    weak = msgspec.structs.replace(settings, containment="guard")
    async with supervising(weak) as supervisor:
        result = await delegate(supervisor, prompt("Try", shell("echo KEY=2 > .env"), say("done")))
        assert env_file(settings).read_text() == "KEY=2\n"
        assert result.status is Outcome.PROTECTED_PATH
        assert result.error is not None
        assert ".env was changed" in result.error
        assert [v.message.endswith(".env was changed") for v in result.safety.violations] == [True]
        walls = walls_of(result)
        assert walls.held == 0
        assert len(walls.unheld) >= 1
        assert "protected paths: " in walls.unheld[0]
        assert any("not held by the operating system" in reason for reason in result.reasons)
        record = await supervisor.get("one")
        assert record.status is SessionStatus.STOPPED
        (one,) = await supervisor.interactions("one")
        assert one.outcome is Outcome.PROTECTED_PATH
        kinds = [(row.kind, row.verdict) for row in await supervisor.store.read(audit.entries, record.id)]
        assert ("safety", "not held") in kinds
        assert ("tripwire", "changed") in kinds
    await consistent(settings)


async def test_on_violation_deny_counts_and_goes_on(settings: Settings) -> None:
    weak = msgspec.structs.replace(settings, containment="guard")
    async with supervising(weak) as supervisor:
        result = await delegate(
            supervisor, prompt("Try", shell("echo KEY=2 > .env"), say("done")), on_violation="deny"
        )
        assert result.status is Outcome.COMPLETED
        assert result.safety.total_violations == 1


def save_as_editors_do(file: Path, text: str) -> None:
    """A new file under another name, renamed over the old one."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


async def toiling(supervisor: Supervisor, **changes: object) -> Interaction:
    """A message to a session that is at work on it, and will be until it is ended."""
    await start(supervisor, "one", **changes)
    message = await supervisor.submit("one", prompt("Work", toil(), say("done")), type="send")
    await at_work(supervisor)
    return message


async def wall_lost(supervisor: Supervisor) -> None:
    """Until that is told."""
    with supervisor.watch("one") as notes:
        async for note in notes:
            if note.kind == "note" and ".env is not held any more" in note.text:
                return


async def test_a_mount_that_an_editor_drops_ends_the_work_and_the_next_process_has_it_again(
    settings: Settings,
) -> None:
    async with supervising(settings) as supervisor:
        message = await toiling(supervisor)
        save_as_editors_do(env_file(settings), "KEY=3\n")
        await wall_lost(supervisor)
        done = await supervisor.finished(message)
        assert done.outcome is Outcome.PROTECTED_PATH
        assert ".env is not held any more" in done.error
        record, _ = await supervisor.stop("one")
        assert record.status is SessionStatus.STOPPED
        receipt = record.receipt
        assert receipt is not None
        assert receipt.empty
        assert receipt.walls is not None
        assert any(".env" in lost for lost in receipt.walls.lost)
        # Once it was not held any more nobody can say who wrote it.
        assert any(".env was changed" in one for one in receipt.walls.changed)
        rows = await supervisor.store.read(audit.entries, record.id)
        assert any((row.kind, row.verdict) == ("safety", "lost") for row in rows)
        await ask(supervisor, "one", prompt("Try", shell("echo KEY=4 > .env; true"), say("done")))
        assert env_file(settings).read_text() == "KEY=3\n"


async def test_a_mount_that_an_editor_drops_ends_a_session_that_rests(settings: Settings) -> None:
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.resume("one")
        save_as_editors_do(env_file(settings), "KEY=3\n")
        await until(lambda: supervisor.live_count() == 0)
        record = await supervisor.get("one")
        assert record.status is SessionStatus.STOPPED
        await ask(supervisor, "one", prompt("Try", shell("echo KEY=4 > .env; true"), say("done")))
        assert env_file(settings).read_text() == "KEY=3\n"


async def test_on_violation_deny_goes_on_without_the_mount_and_tells(settings: Settings) -> None:
    async with supervising(settings) as supervisor:
        message = await toiling(supervisor, on_violation="deny")
        save_as_editors_do(env_file(settings), "KEY=3\n")
        await wall_lost(supervisor)
        record = await supervisor.get("one")
        assert record.status is SessionStatus.BUSY
        assert record.walls is not None
        assert any(".env" in lost for lost in record.walls.lost)
        await supervisor.interrupt("one")
        assert (await supervisor.finished(message)).outcome is Outcome.INTERRUPTED


async def test_a_frozen_session_is_ended_for_a_lost_mount_only_when_it_goes_on(settings: Settings) -> None:
    async with supervising(settings) as supervisor:
        message = await toiling(supervisor)
        await supervisor.pause("one", freeze=True)
        save_as_editors_do(env_file(settings), "KEY=3\n")
        await wall_lost(supervisor)
        assert (await supervisor.get("one")).status is SessionStatus.PAUSED
        await supervisor.resume("one")
        assert (await supervisor.finished(message)).outcome is Outcome.PROTECTED_PATH


async def test_a_mount_that_was_dropped_since_the_last_look_is_not_taken_for_one_that_held(
    settings: Settings,
) -> None:
    async with supervising(settings) as supervisor:
        message = await toiling(supervisor)
        save_as_editors_do(env_file(settings), "KEY=3\n")
        _, receipt = await supervisor.kill("one")
        await supervisor.finished(message)
        assert receipt is not None
        assert receipt.walls is not None
        assert receipt.walls.changed == (f"{env_file(settings)} was changed",)
        assert receipt.walls.outside == ()


async def test_a_second_name_of_a_protected_file_is_told_and_trips(settings: Settings) -> None:
    env_file(settings).with_name("other").hardlink_to(env_file(settings))
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Try", shell("echo KEY=2 > other"), say("done")))
        assert env_file(settings).read_text() == "KEY=2\n"
        assert result.status is Outcome.PROTECTED_PATH
        assert walls_of(result).unheld == (f"{env_file(settings)}: it has another name (a hard link)",)


async def test_a_repository_that_the_work_makes_is_told_and_is_no_violation(settings: Settings) -> None:
    work = env_file(settings).parent
    async with supervising(settings) as supervisor:
        made = shell("git init -q . && git init -q new/one && git -C new/one config a.b c")
        result = await delegate(supervisor, prompt("Make", made, say("done")), writes="workdir")
        assert (work / "new/one/.git/config").exists()
        assert result.status is Outcome.COMPLETED
        assert result.reasons == ()
        assert walls_of(result).repositories == (str(work), f"{work}/new/one")
        # From now on they are held like any other.
        again = prompt("Again", shell("git config a.b d || git -C new/one config a.b d; true"), say("done"))
        assert (await supervisor.continue_("one", again)).status is Outcome.COMPLETED
        assert "b = c" in (work / "new/one/.git/config").read_text()


async def test_a_repository_that_brings_programs_is_in_the_verdict(settings: Settings) -> None:
    """The next `git status` of a person's would run them."""
    work = env_file(settings).parent
    script = (
        "git init -q one; git -C one config core.fsmonitor ./watch\n"
        "git init -q two; git init -q --bare three\n"
        "for d in two/.git three; do echo x > $d/hooks/pre-commit; chmod +x $d/hooks/pre-commit; done\n"
        "mkdir four; echo 'gitdir: ../one/.git' > four/.git"
    )
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Make", shell(script), say("done")))
    assert result.status is Outcome.COMPLETED
    assert set(walls_of(result).repository_programs) == {
        f"{work}/one: core.fsmonitor",
        f"{work}/two: hook pre-commit",
        f"{work}/three: hook pre-commit",
        f"{work}/four: core.fsmonitor",
    }
    assert sum("in which git runs what it brings" in reason for reason in result.reasons) == 4


async def test_without_safety_nothing_is_held_and_all_of_it_is_told(settings: Settings) -> None:
    async with supervising(settings) as supervisor:
        result = await delegate(
            supervisor, prompt("Try", shell("echo KEY=2 > .env"), say("done")), safety=False
        )
        assert env_file(settings).read_text() == "KEY=2\n"
        assert result.status is Outcome.COMPLETED
        assert walls_of(result) == Walls(safety=False)
        assert result.reasons == ("safety was off: no protected paths, no gate",)


async def test_what_may_not_be_read_reads_as_nothing(settings: Settings) -> None:
    work = env_file(settings).parent
    async with supervising(settings) as supervisor:
        result = await delegate(
            supervisor, prompt("Read", shell("cat .env > seen"), say("done")), protect_read=(".env",)
        )
        assert result.status is Outcome.COMPLETED
        assert (work / "seen").read_text() == ""


async def test_sessions_side_by_side_have_walls_of_their_own(settings: Settings) -> None:
    async with supervising(settings) as supervisor:
        results = []

        async def one(name: str, allowed: tuple[str, ...]) -> None:
            task = prompt("Try", shell(f"echo {name} >> .env; true"), say("done"))
            results.append(await delegate(supervisor, task, name=name, allow_write=allowed))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "bound", ())
            nursery.start_soon(one, "free", (".env",))
        assert env_file(settings).read_text() == SECRET + "free\n"
        await until(lambda: len(results) == 2)
        assert {result.status for result in results} == {Outcome.COMPLETED}


@pytest.mark.parametrize("containment", ["auto", "guard"])
async def test_what_cms_runs_on_is_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, containment: str
) -> None:
    """A stand-in for the daemon's own module, in the work dir as with a `.venv` there; and a new `git`."""
    module = env_file(settings).parent / "lib" / "cms" / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text("ours\n")
    monkeypatch.setattr(cms, "__file__", str(module))
    path = f"{env_file(settings).parent}/tools:{settings.environ['PATH']}"
    world = msgspec.structs.replace(
        settings, environ={**settings.environ, "PATH": path}, containment=containment
    )
    async with supervising(world) as supervisor:
        script = shell("mkdir tools; touch tools/git; echo evil > lib/cms/__init__.py; true")
        result = await delegate(supervisor, prompt("Try", script, say("done")))
        assert result.status is Outcome.PROTECTED_PATH
        held = supervisor.mechanism.guarantees.protected_paths.strong
        changed = [] if held else [f"{module} was changed (cms runs on it)"]
        tool = f"{env_file(settings).parent}/tools/git was created (cms runs on it)"
        assert walls_of(result).changed == (*changed, tool)
        assert module.read_text() == ("ours\n" if held else "evil\n")


# --- moved by the environment, named by git -----------------------------------------------------------


@pytest.mark.parametrize("containment", ["auto", "guard"])
async def test_what_the_environment_moves_is_held_or_trips(settings: Settings, containment: str) -> None:
    work = env_file(settings).parent
    moved = {"KUBECONFIG": f"{work}/a/kube:{work}/b/kube", "XDG_CONFIG_HOME": str(work / "conf")}
    for place in ("a/kube", "b/kube", "conf/git/config"):
        (work / place).parent.mkdir(parents=True)
        (work / place).write_text("mine\n")
    environ = {**settings.environ, **moved}
    world = msgspec.structs.replace(settings, environ=environ, containment=containment)
    async with supervising(world) as supervisor:
        if containment == "auto" and not supervisor.mechanism.guarantees.protected_paths.strong:
            pytest.skip("this machine has no walls")
        script = "for f in a/kube b/kube conf/git/config; do echo x > $f; done; true"
        result = await delegate(supervisor, prompt("Try", shell(script), say("done")))
    texts = {(work / place).read_text() for place in ("a/kube", "b/kube", "conf/git/config")}
    if containment == "auto":
        assert (texts, result.status) == ({"mine\n"}, Outcome.COMPLETED)
    else:
        assert (texts, result.status) == ({"x\n"}, Outcome.PROTECTED_PATH)
        assert len(walls_of(result).changed) == 3


async def test_a_moved_place_is_refused_by_its_name(settings: Settings) -> None:
    """Before it is there, so nothing can hold it."""
    moved = env_file(settings).parent / "kube"
    world = msgspec.structs.replace(settings, environ={**settings.environ, "KUBECONFIG": str(moved)})
    write = call("Write", file_path=str(moved), content="x")
    async with supervising(world) as supervisor:
        result = await delegate(supervisor, prompt("Try", write, say("done")))
        assert result.status is Outcome.PROTECTED_PATH
        assert not moved.exists()


async def test_what_git_would_run_is_refused_and_what_appears_is_told(settings: Settings) -> None:
    work = env_file(settings).parent
    async with supervising(settings) as supervisor:
        make = shell("git init -q . && git config core.hooksPath hooks && mkdir hooks")
        assert (await delegate(supervisor, prompt("Make", make, say("done")))).status is Outcome.COMPLETED
        hook = call("Write", file_path=str(work / "hooks" / "pre-commit"), content="#!/bin/sh\n")
        result = await delegate(supervisor, prompt("Try", hook, say("done")), name="two")
        assert result.status is Outcome.PROTECTED_PATH
        assert not (work / "hooks" / "pre-commit").exists()
        plant = shell("echo ../other > .git/commondir; echo x > hooks/post-commit; true")
        result = await delegate(supervisor, prompt("Try", plant, say("done")), name="three")
        assert result.status is Outcome.PROTECTED_PATH
        assert f"{work}/.git/commondir was created" in walls_of(result).changed
        if supervisor.mechanism.guarantees.protected_paths.strong:
            assert not (work / "hooks" / "post-commit").exists()
