"""The verdict on the real binary: nothing is `completed` that was not asked, answered, done or permitted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping

import msgspec
import pytest

from cli.shell import Ran
from cms.testing.script import ScriptedReply, call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real

WRITE = call("Write", file_path="a.txt", content="x")
DONE = say("All done.")


def settings(world: World, value: Mapping[str, object]) -> None:
    """The user's own."""
    (world.home / ".claude").mkdir()
    (world.home / ".claude" / "settings.json").write_text(json.dumps(value))


def hook(event: str, command: str, matcher: str = "") -> dict[str, object]:
    return {"hooks": {event: [{"matcher": matcher, "hooks": [{"type": "command", "command": command}]}]}}


def delegate(world: World, *replies: ScriptedReply, flags: tuple[str, ...] = (), task: str = "Work") -> Ran:
    return world.cms("delegate", "one", prompt(task, *replies), *flags, "--json")


def test_the_next_step_that_is_named_does_what_was_refused(world: World) -> None:
    command = call("Bash", command="npm run build; echo made > made.txt")
    first = delegate(world, command, DONE)
    assert (first.code, first.json()["status"]) == (3, "needs_input"), first.out
    words = shlex.split(str(first.json()["nextStep"]))
    assert words[:4] == ["cms", "continue", "one", "go on"]
    assert set(words[4::2]) == {"--allow"}
    assert world.cms("status", "one", "--json").json()["nextStep"] == first.json()["nextStep"]
    again = world.cms("continue", "one", prompt("Go on", command, DONE), *words[4:], "--json")
    assert (again.code, again.json()["status"]) == (0, "completed"), (words, again.out)
    assert (world.work_dir / "made.txt").read_text() == "made\n"


def denials(ran: Ran) -> list[tuple[str, str]]:
    safety = ran.json()["safety"]
    assert isinstance(safety, dict)
    return [(one["tool"], one["by"]) for one in safety["denials"]]


# --- nothing was asked, nothing was answered --------------------------------------------------------


def test_a_message_that_a_hook_of_the_users_keeps_back(world: World) -> None:
    settings(world, hook("UserPromptSubmit", "echo not today >&2; exit 2"))
    ran = delegate(world, DONE)
    assert (ran.code, ran.json()["status"]) == (1, "failed"), ran.out
    assert "not today" in str(ran.json()["error"])
    assert ran.json()["turns"] == 0


def test_an_empty_answer(world: World) -> None:
    ran = delegate(world, WRITE, say(""), say(""))
    assert (ran.code, ran.json()["status"]) == (1, "failed"), ran.out
    assert ran.json()["error"] == "the model gave no answer"


def test_commands_of_claudes_own(world: World) -> None:
    assert world.cms("spawn", "one", prompt("Hello", say("here"))).code == 0
    for command in ("/cost", "/clear"):
        ran = world.cms("send", "one", command, "--json")
        assert (ran.code, ran.json()["outcome"]) == (0, "completed"), ran.out
    for command in ("/nosuch", "/plan it", "/exit"):  # (an unknown one goes to the model)
        ran = world.cms("send", "one", command, "--json")
        unknown = command == "/nosuch"
        assert (ran.code, ran.json()["outcome"]) == ((0, "completed") if unknown else (1, "failed")), ran.out
    ran = world.cms("delegate", "two", "/cost", "--json")
    assert (ran.code, ran.json()["status"]) == (0, "completed"), ran.out
    assert "without asking the model" in str(ran.json()["reasons"])
    assert ran.json()["response"]


# --- refused by somebody else -----------------------------------------------------------------------


def test_refused_by_the_users_own_rules_and_hook(world: World) -> None:
    rules: dict[str, object] = {"permissions": {"deny": ["NotebookEdit", "Bash(touch *)"]}}
    settings(world, rules | hook("PreToolUse", "echo hands off >&2; exit 2", "Write"))
    replies = (
        call("Bash", command="ls"),
        call("NotebookEdit", notebook_path="a.ipynb", new_source="x"),  # it is gone, and never at the gate
        call("Bash", command="touch a.txt"),
        WRITE,
    )
    ran = delegate(world, *replies, DONE, flags=("--preset", "full"))
    assert (ran.code, ran.json()["status"]) == (3, "needs_input"), ran.out
    assert denials(ran) == [("NotebookEdit", "claude"), ("Bash", "claude"), ("Write", "claude")]
    assert "hands off" in ran.out
    assert not (world.work_dir / "a.txt").exists()


def test_a_reading_shell_does_not_hide_that_the_change_was_refused(world: World) -> None:
    ran = delegate(world, call("Bash", command="ls"), call("Bash", command="touch b"), DONE)
    assert (ran.code, ran.json()["status"]) == (3, "needs_input"), ran.out
    assert denials(ran) == [("Bash", "nobody")]


# --- what is missing --------------------------------------------------------------------------------


def test_a_server_of_the_users_that_does_not_start_is_told(world: World) -> None:
    gone = {"mcpServers": {"gone": {"command": "/nonexistent"}}}
    (world.home / ".claude.json").write_text(json.dumps(gone))
    ran = delegate(world, DONE)
    assert ran.json()["status"] == "completed"
    assert "an MCP server was not there: gone (failed)" in str(ran.json()["reasons"])


def test_a_conversation_is_gone_on_with_where_it_was_begun(world: World) -> None:
    elsewhere = {"CLAUDE_CONFIG_DIR": str(world.root / "config")}
    first = world.cms("delegate", "one", prompt("Work", DONE), "--json", env=elsewhere)
    assert first.json()["canContinue"] is True, first.out
    again = world.cms("continue", "one", prompt("Go on", say("Here I am.")), "--json")
    assert (again.code, again.json()["response"]) == (0, "Here I am."), (again.out, again.err)


def test_what_has_no_transcript_is_not_promised(world: World) -> None:
    assert delegate(world, DONE).json()["canContinue"] is True
    projects = world.home / ".claude" / "projects"
    for transcript in projects.rglob("*.jsonl"):
        transcript.unlink()
    ran = world.cms("continue", "one", prompt("Go on", DONE), "--json")
    assert ran.code != 0
    assert "No conversation found" in ran.out
    assert "send it again" not in ran.out + ran.err
    assert world.cms("delegate", "empty", prompt("Work", DONE)).code == 0
    for transcript in projects.rglob("*.jsonl"):
        transcript.write_bytes(b"")  # as a full disk leaves it
    ran = world.cms("continue", "empty", prompt("Go on", DONE), "--json")
    assert (ran.code, ran.json()["canContinue"]) == (1, False), ran
    if os.geteuid() != 0:  # (who writes all the same)
        projects.chmod(0o500)
        ran = world.cms("delegate", "two", prompt("Work", DONE), "--json")
        assert ran.json()["canContinue"] is False
        projects.chmod(0o700)


# --- plan mode --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [("--preset", "full"), ("--permission-mode", "bypassPermissions")])
def test_the_model_does_not_change_the_mode_that_was_chosen(world: World, flags: tuple[str, str]) -> None:
    world.env["IS_SANDBOX"] = "1"
    bash = call("Bash", command="touch b.txt")
    plan = (call("EnterPlanMode"), call("ExitPlanMode", plan="I would"))
    ran = delegate(world, *plan, WRITE, bash, DONE, flags=flags)
    assert (ran.code, ran.json()["status"]) == (0, "completed"), ran.out
    assert ran.json()["response"] == "All done.", "and not the plan that nobody asked for"
    assert ("EnterPlanMode", "gate") in denials(ran)
    assert (world.work_dir / "a.txt").exists()
    assert (world.work_dir / "b.txt").exists()


def test_a_reply_that_was_cut_off_is_no_end(world: World) -> None:
    """claude takes it for one."""
    cut = msgspec.structs.replace(say("I go on in a moment."), stop_reason="pause_turn")
    ran = delegate(world, WRITE, cut, flags=("--preset", "full"))
    assert (ran.code, ran.json()["error"]) == (1, "the model's last reply was cut off (pause_turn)"), ran.out


def repository(world: World) -> None:
    git = ("git", "-C", str(world.work_dir), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)


def test_the_work_stays_where_it_is_checked(world: World) -> None:
    """claude's own work trees: the work would lie in `.claude/worktrees`, and the check would not see it."""
    repository(world)
    look = {"description": "look", "prompt": prompt("Look", say("seen")), "subagent_type": "general-purpose"}
    apart, make = call("Agent", isolation="worktree", **look), call("Bash", command="touch made")
    flags = ("--preset", "full", "--verify", "test -e made")
    ran = delegate(world, call("EnterWorktree", name="side"), apart, make, DONE, flags=flags)
    assert (ran.code, ran.json()["status"]) == (0, "completed"), ran.out
    assert denials(ran) == [("EnterWorktree", "gate"), ("Agent", "gate")]
    assert not (world.work_dir / ".claude" / "worktrees").exists()


def side_agent(world: World, isolation: str) -> ScriptedReply:
    """A call of a subagent whose own definition wants it isolated, and that writes."""
    agents = world.home / ".claude" / "agents"
    agents.mkdir(parents=True, exist_ok=True)
    text = f"---\nname: {isolation}\ndescription: d\nisolation: {isolation}\n---\nDo.\n"
    (agents / f"{isolation}.md").write_text(text)
    told = prompt("Make it", call("Bash", command="touch made"), WRITE, say("made"))
    return call("Agent", description="make", prompt=told, subagent_type=isolation, run_in_background=False)


def test_an_agent_that_is_isolated_by_its_definition(world: World) -> None:
    """The call does not say it, so that the gate cannot see it. (Without a login, remote is a work tree.)"""
    repository(world)
    agents = (side_agent(world, "worktree"), side_agent(world, "remote"))
    ran = delegate(world, *agents, DONE, flags=("--preset", "full", "--verify", "true"))
    assert (ran.code, ran.json()["status"]) == (3, "needs_input"), ran.out
    assert denials(ran) == [("WorktreeCreate", "gate")] * 2
    assert world.cms("logs", "one", "--raw").out.count("work in the work dir") >= 2
    assert not (world.work_dir / ".claude" / "worktrees").exists()


def test_an_agent_whose_work_tree_a_hook_of_the_users_makes(world: World) -> None:
    """claude takes the folder that one of its hooks names; nothing is done in there."""
    repository(world)
    agent = side_agent(world, "worktree")
    tree = world.work_dir / "trees" / "x"
    made = hook("WorktreeCreate", f"mkdir -p {tree} && echo {tree}")
    (world.home / ".claude" / "settings.json").write_text(json.dumps(made))
    ran = delegate(world, agent, DONE, flags=("--preset", "full", "--verify", "true"))
    assert (ran.code, ran.json()["status"]) == (3, "needs_input"), ran.out
    assert denials(ran)[0] == ("WorktreeCreate", "gate")  # (and its calls, where that hook was quicker)
    assert not list(tree.iterdir())


def test_a_conversation_that_was_left_in_a_work_tree(world: World, claude: str) -> None:
    """claude goes back there when it goes on."""
    world.env["IS_SANDBOX"] = "1"
    repository(world)
    session = str(delegate(world, DONE).json()["sessionId"])
    away = prompt("Go", call("EnterWorktree", name="side"), DONE)
    resume = [claude, "-p", f"--resume={session}", "--dangerously-skip-permissions", away]
    left = {**world.env, "CLAUDE_CODE_TMPDIR": str(world.root)}
    subprocess.run(resume, cwd=world.work_dir, env=left, check=True, capture_output=True)
    assert (world.work_dir / ".claude" / "worktrees" / "side").exists()
    ran = world.cms("continue", "one", prompt("Work", WRITE, DONE), "--json")
    assert (ran.code, ran.json()["status"]) == (1, "failed"), ran.out
    assert "side, where no check runs; start a session in that folder" in str(ran.json()["error"])
    assert not (world.work_dir / ".claude" / "worktrees" / "side" / "a.txt").exists()


@pytest.mark.parametrize(
    ("replies", "response"),
    [
        ((call("ExitPlanMode").saying("1. Do it."), say("That is all.")), "1. Do it.\n\nThat is all."),
        ((call("ExitPlanMode"), say("1. Do it.")), "1. Do it."),
        ((say("1. Do it."),), "1. Do it."),
    ],
)
def test_the_plan_is_the_answer(world: World, replies: tuple[ScriptedReply, ...], response: str) -> None:
    ran = delegate(world, *replies, flags=("--preset", "plan"))
    assert (ran.code, ran.json()["status"]) == (0, "completed"), ran.out
    assert ran.json()["response"] == response
    assert denials(ran) == []


def test_a_batch_builds_what_was_planned(world: World) -> None:
    planned = prompt("Plan it", call("ExitPlanMode", plan="Write a.txt."))
    tasks = [
        {"name": "plan", "prompt": planned, "preset": "plan"},
        {
            "name": "build",
            "needs": ["plan"],
            "prompt": "Build: {{needs.plan.response}} " + prompt("", WRITE, DONE),
        },
    ]
    file = world.root / "tasks.jsonl"
    file.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    ran = world.cms("batch", "--file", str(file), "--json")
    assert ran.code == 0, (ran.out, ran.err)
    assert (world.work_dir / "a.txt").exists()
    asked = world.cms("history", "build", "--json").json()["interactions"]
    assert isinstance(asked, list)
    assert "Build: Write a.txt." in asked[0]["prompt"]
