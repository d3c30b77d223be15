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
    """And a shell that only read does not hide that the change was refused."""
    command = call("Bash", command="npm run build; echo made > made.txt")
    first = delegate(world, call("Bash", command="ls"), command, DONE)
    assert (first.code, first.json()["status"]) == (3, "needs_input"), first.out
    assert denials(first) == [("Bash", "nobody")]
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


def test_what_a_conversation_says_of_each_message(world: World) -> None:
    """One that a hook of the user's keeps back, empty and broken answers, commands of claude's own."""
    settings(world, hook("UserPromptSubmit", "if grep -q 'Keep this'; then echo not today >&2; exit 2; fi"))
    assert world.cms("spawn", "one", prompt("Hello", say("here"))).code == 0

    def send(message: str) -> Ran:
        return world.cms("send", "one", message, "--json")

    kept = send(prompt("Keep this back", DONE))
    assert (kept.code, kept.json()["outcome"], kept.json()["turns"]) == (1, "failed", 0), kept.out
    assert "not today" in str(kept.json()["error"])
    # claude takes a reply that was cut off for the end.
    cut = msgspec.structs.replace(say("I go on in a moment."), stop_reason="pause_turn")
    for last, error in (
        ((say(""), say("")), "the model gave no answer"),
        ((cut,), "the model's last reply was cut off (pause_turn)"),
    ):
        ran = send(prompt("Work", WRITE, *last))
        assert (ran.code, ran.json()["outcome"], ran.json()["error"]) == (1, "failed", error), ran.out
    cost = send("/cost")
    assert (cost.code, cost.json()["outcome"], cost.json()["turns"]) == (0, "completed", 0), cost.out
    assert cost.json()["text"], "and the model was not asked"
    # (An unknown one goes to the model.)
    for command, code in (("/clear", 0), ("/nosuch", 0), ("/plan it", 1), ("/exit", 1)):
        ran = send(command)
        assert (ran.code, ran.json()["outcome"]) == (code, "failed" if code else "completed"), ran.out


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


# --- what is missing --------------------------------------------------------------------------------


def test_a_conversation_is_gone_on_with_where_it_was_begun_and_while_it_is_there(world: World) -> None:
    config = world.root / "config"
    config.mkdir()
    gone = {"mcpServers": {"gone": {"command": "/nonexistent"}}}
    (config / ".claude.json").write_text(json.dumps(gone))
    elsewhere = {"CLAUDE_CONFIG_DIR": str(config)}
    first = world.cms("delegate", "one", prompt("Work", DONE), "--json", env=elsewhere)
    assert (first.json()["status"], first.json()["canContinue"]) == ("completed", True), first.out
    assert "an MCP server was not there: gone (failed)" in str(first.json()["reasons"])
    go_on = ("continue", "one", prompt("Go on", say("Here I am.")), "--json")
    again = world.cms(*go_on)
    assert (again.code, again.json()["response"]) == (0, "Here I am."), (again.out, again.err)

    transcripts = list((config / "projects").rglob("*.jsonl"))
    assert transcripts
    for transcript in transcripts:
        transcript.write_bytes(b"")  # as a full disk leaves it
    ran = world.cms(*go_on)
    assert (ran.code, ran.json()["canContinue"]) == (1, False), ran
    for transcript in transcripts:
        transcript.unlink()
    ran = world.cms(*go_on)
    assert ran.code != 0
    assert "No conversation found" in ran.out
    assert "send it again" not in ran.out + ran.err
    if os.geteuid() != 0:  # (who writes all the same)
        (config / "projects").chmod(0o500)
        ran = world.cms("delegate", "two", prompt("Work", DONE), "--json", env=elsewhere)
        assert ran.json()["canContinue"] is False
        (config / "projects").chmod(0o700)


# --- plan mode --------------------------------------------------------------------------------------


def repository(world: World) -> None:
    git = ("git", "-C", str(world.work_dir), "-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)


@pytest.mark.parametrize("flags", [("--preset", "full"), ("--permission-mode", "bypassPermissions")])
def test_the_model_changes_neither_the_mode_nor_the_place_that_was_chosen(
    world: World, flags: tuple[str, str]
) -> None:
    """claude's own work trees: the work would lie in `.claude/worktrees`, and the check would not see it."""
    world.env["IS_SANDBOX"] = "1"
    repository(world)
    plan = (call("EnterPlanMode"), call("ExitPlanMode", plan="I would"))
    look = {"description": "look", "prompt": prompt("Look", say("seen")), "subagent_type": "general-purpose"}
    away = (call("EnterWorktree", name="side"), call("Agent", isolation="worktree", **look))
    bash = call("Bash", command="touch b.txt")
    checked = (*flags, "--verify", "test -e a.txt -a -e b.txt")
    ran = delegate(world, *plan, *away, WRITE, bash, DONE, flags=checked)
    assert (ran.code, ran.json()["status"]) == (0, "completed"), ran.out
    assert ran.json()["response"] == "All done.", "and not the plan that nobody asked for"
    assert set(denials(ran)) >= {("EnterPlanMode", "gate"), ("EnterWorktree", "gate"), ("Agent", "gate")}
    assert (world.work_dir / "a.txt").exists()
    assert (world.work_dir / "b.txt").exists()
    assert not (world.work_dir / ".claude" / "worktrees").exists()


def side_agent(world: World, isolation: str) -> ScriptedReply:
    """A call of a subagent whose own definition wants it isolated, and that writes."""
    agents = world.home / ".claude" / "agents"
    agents.mkdir(parents=True, exist_ok=True)
    text = f"---\nname: {isolation}\ndescription: d\nisolation: {isolation}\n---\nDo.\n"
    (agents / f"{isolation}.md").write_text(text)
    told = prompt("Make it", call("Bash", command="touch made"), WRITE, say("made"))
    return call("Agent", description="make", prompt=told, subagent_type=isolation, run_in_background=False)


def test_no_work_is_done_in_a_work_tree_that_claude_makes(world: World, claude: str) -> None:
    world.env["IS_SANDBOX"] = "1"
    repository(world)
    # The definition isolates the agent and the call does not say it, so that the gate cannot see it.
    # (Without a login, remote is a work tree.)
    agents = (side_agent(world, "worktree"), side_agent(world, "remote"))
    ran = delegate(world, *agents, DONE, flags=("--preset", "full", "--verify", "true"))
    assert (ran.code, ran.json()["status"]) == (3, "needs_input"), ran.out
    assert denials(ran) == [("WorktreeCreate", "gate")] * 2
    assert world.cms("logs", "one", "--raw").out.count("work in the work dir") >= 2
    trees = world.work_dir / ".claude" / "worktrees"
    assert not trees.exists()

    # A conversation that somebody left in one: claude goes back there when it goes on.
    away = prompt("Go", call("EnterWorktree", name="side"), DONE)
    session = f"--resume={ran.json()['sessionId']}"
    left = {**world.env, "CLAUDE_CODE_TMPDIR": str(world.root)}
    resume = [claude, "-p", session, "--dangerously-skip-permissions", away]
    subprocess.run(resume, cwd=world.work_dir, env=left, check=True, capture_output=True)
    assert (trees / "side").exists()
    ran = world.cms("continue", "one", prompt("Work", WRITE, DONE), "--json")
    assert (ran.code, ran.json()["status"]) == (1, "failed"), ran.out
    assert "side, where no check runs; start a session in that folder" in str(ran.json()["error"])
    assert not (trees / "side" / "a.txt").exists()


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


def test_the_plan_is_the_answer(world: World) -> None:
    start = ["spawn", "one", "--preset", "plan"]
    for replies, plan in (
        ((call("ExitPlanMode").saying("1. Do it."), say("That is all.")), "1. Do it.\n\nThat is all."),
        ((call("ExitPlanMode"), say("1. Do it.")), "1. Do it."),
        ((call("ExitPlanMode", plan="1. Do it."), say("Never said.")), "1. Do it."),
        ((say("1. Do it."),), "1. Do it."),
    ):
        ran = world.cms(*start, prompt("Work", *replies), "--json")
        assert (ran.code, ran.json()["outcome"], ran.json()["text"]) == (0, "completed", plan), ran.out
        assert ran.json()["denials"] == [], ran.out
        start = ["send", "one"]
