"""The gate's word on a single call: presets, protected places, questions, inputs that cannot be read."""

from __future__ import annotations

import msgspec
import pytest

from cms.protocol.messages import (
    HookAnswer,
    Init,
    PermissionDenied,
    PermitAnswer,
    RefuseAnswer,
    WorktreeAnswer,
)
from cms.session.gate import AWAY, NOBODY, GateDecision, Rules, judge
from cms.session.model import OnViolation, Outcome, Preset, Question
from cms.session.state import Breach, Breached, PendingCall
from cms.session.tool_input import describe
from session.world import START, WORK, World, calls, hook, located, permission, raw, rules, tasks, work_tree


def verdict(tool: str, given: object, rules: Rules, kind: str = "hook") -> GateDecision:
    call = PendingCall.of("r", "permission" if kind == "permission" else "hook", tool, raw(given), complete=1)
    return judge(msgspec.structs.replace(call, paths=located(call, rules).paths), rules)


INSIDE: dict[str, object] = {"file_path": f"{WORK}/a.py"}
OUTSIDE: dict[str, object] = {"file_path": "/home/u/other/a.py"}
SECRET: dict[str, object] = {"file_path": f"{WORK}/.env"}

#: Tool, input, and the word under read-only, review, edit, full, plan.
TABLE: list[tuple[str, dict[str, object], tuple[str, str, str, str, str]]] = [
    ("Read", INSIDE, ("allow", "allow", "allow", "allow", "allow")),
    ("Read", OUTSIDE, ("allow", "allow", "allow", "allow", "allow")),
    ("Read", SECRET, ("allow", "allow", "allow", "allow", "allow")),
    ("Grep", {"pattern": "x", "path": "/"}, ("allow", "allow", "allow", "allow", "allow")),
    ("TodoWrite", {"todos": []}, ("allow", "allow", "allow", "allow", "allow")),
    ("Write", INSIDE, ("deny", "deny", "allow", "allow", "deny")),
    ("Edit", {"file_path": "relative.py"}, ("deny", "deny", "allow", "allow", "deny")),
    ("Write", OUTSIDE, ("deny", "deny", "deny", "allow", "deny")),
    ("Edit", SECRET, ("deny", "deny", "deny", "deny", "deny")),
    ("NotebookEdit", {"notebook_path": "/etc/x.ipynb"}, ("deny", "deny", "deny", "deny", "deny")),
    ("Write", {"content": "x"}, ("deny", "deny", "deny", "deny", "deny")),
    ("Bash", {"command": "ls"}, ("deny", "deny", "pass", "allow", "deny")),
    ("Bash", {"command": "rm -rf /", "path": 7}, ("deny", "deny", "pass", "allow", "deny")),
    ("Agent", {"prompt": "x"}, ("deny", "allow", "allow", "allow", "deny")),
    ("WebFetch", {"url": "http://x"}, ("deny", "deny", "pass", "allow", "deny")),
    ("mcp__fs__read", {"path": f"{WORK}/x"}, ("deny", "deny", "pass", "allow", "deny")),
    ("mcp__fs__write", {"path": "~/.ssh/x"}, ("deny", "deny", "deny", "deny", "deny")),
    ("mcp__fs__write", {"path": "~/.ssh/x", "query": {"a": 1}}, ("deny", "deny", "deny", "deny", "deny")),
    ("NewTool", {"anything": [1]}, ("deny", "deny", "pass", "allow", "deny")),
    ("AskUserQuestion", {"questions": []}, ("deny", "deny", "deny", "deny", "deny")),
    ("ExitPlanMode", {"plan": "p"}, ("deny", "deny", "deny", "deny", "deny")),
]
_PRESETS: tuple[Preset, ...] = ("read-only", "review", "edit", "full", "plan")


@pytest.mark.parametrize(
    ("tool", "given", "preset", "word"),
    [
        (tool, given, preset, word)
        for tool, given, words in TABLE
        for preset, word in zip(_PRESETS, words, strict=True)
    ],
)
def test_presets(tool: str, given: dict[str, object], preset: Preset, word: str) -> None:
    assert verdict(tool, given, rules(preset)).effect == word


@pytest.mark.parametrize(("tool", "given", "words"), TABLE)
def test_nobody_is_there_to_permit_what_the_gate_passed(
    tool: str, given: dict[str, object], words: object
) -> None:
    assert verdict(tool, given, rules("full"), "permission").effect == "deny"
    answer = verdict("Bash", {"command": "x"}, rules(), "permission")
    assert (answer.reason, answer.by) == (NOBODY, "nobody")


@pytest.mark.parametrize(
    "tool", ["Write", "Edit", "MultiEdit", "NotebookEdit", "Read", "Grep", "AskUserQuestion"]
)
@pytest.mark.parametrize("given", [7, None, [], "text", {"file_path": 7}, {"path": []}, {"questions": 7}])
@pytest.mark.parametrize("preset", ["edit", "full"])
def test_a_call_of_a_tool_that_we_know_and_cannot_read_is_refused(
    tool: str, given: object, preset: Preset
) -> None:
    answer = verdict(tool, given, rules(preset))
    assert answer.effect == "deny"
    assert not answer.questions


def test_an_input_that_is_no_json_is_refused_and_never_raises() -> None:
    for odd in (b"", b"{", b"\xff", b"[" * 5000):
        call = PendingCall.of("r", "hook", "Write", msgspec.Raw(odd), complete=1)
        assert judge(call, rules("full")).effect == "deny"
        assert describe(call.input) == ""
        judge(msgspec.structs.replace(call, tool="Bash"), rules("full"))


@pytest.mark.parametrize("preset", _PRESETS)
def test_a_write_to_a_protected_place_is_a_violation(preset: Preset) -> None:
    for tool, given in (
        ("Write", SECRET),
        ("Edit", {"file_path": "~/.bashrc"}),
        ("Write", {"file_path": " /etc/passwd"}),
    ):
        answer = verdict(tool, given, rules(preset))
        assert (answer.effect, answer.violation) == ("deny", True)
    assert not verdict("mcp__fs__write", {"path": "~/.ssh/x"}, rules(preset)).violation, "it may only read"


def test_reads_are_refused_where_a_person_said_so() -> None:
    given_rules = rules(protect_read=["secrets"])
    for tool, given in (
        ("Read", {"file_path": "secrets/key"}),
        ("Grep", {"pattern": "x", "path": "secrets"}),
        ("mcp__fs__read", {"path": "./secrets/x"}),
    ):
        answer = verdict(tool, given, given_rules)
        assert (answer.effect, answer.violation) == ("deny", True)
    assert verdict("Read", {"file_path": "public"}, given_rules).effect == "allow"


@pytest.mark.parametrize(
    ("tool", "given"),
    [
        ("LSP", {"operation": "hover", "filePath": "secrets/key", "line": 1}),
        ("mcp__fs__get", {"uri": "file:///home/u/project/secrets/a%20b"}),
        ("mcp__fs__get", {"filename": "secrets"}),
        ("mcp__fs__get", {"options": [{"from": ["~/project/secrets/x"]}]}),
        ("mcp__fs__get", {"source_dir": "secrets"}),
        ("NewTool", {"x": ["a"] * 300 + ["secrets/x"]}),
    ],
)
def test_what_may_not_be_read_is_found_under_whatever_name(tool: str, given: dict[str, object]) -> None:
    for safety, word in ((True, "deny"), (False, "allow")):
        assert verdict(tool, given, rules("full", protect_read=["secrets"], safety=safety)).effect == word
    assert verdict(tool, given, rules("full", protect_read=["other"])).effect == (
        "deny" if tool == "NewTool" else "allow"
    )
    assert verdict(tool, given, rules("full")).effect == "allow"


@pytest.mark.parametrize(
    "given",
    [
        {"text": "what secrets do I have? see secrets/x and /etc"},
        {"query": "secrets"},
        {"url": "https://example.org/secrets/x"},
        {"content": "a\n/etc/passwd"},
        {"interpreter": "/usr/bin/python3"},  # (where it could be written: only what is named as a path)
    ],
)
def test_words_are_no_paths(given: dict[str, object]) -> None:
    assert verdict("mcp__x__do", given, rules("full", protect_read=["secrets"])).effect == "allow"


@pytest.mark.parametrize("on_violation", ["stop", "deny"])
def test_what_claude_refuses_to_read_by_our_rules_is_a_violation_too(on_violation: OnViolation) -> None:
    each = rules(protect_read=["secrets"], on_violation=on_violation)
    world = World(each).see(
        calls("1", "Read", file_path=f"{WORK}/public"),
        PermissionDenied(tool_use_id="use-1", tool_name="Read", message="no"),
        calls("2", "Read", file_path=f"{WORK}/secrets/key"),
        PermissionDenied(tool_use_id="use-2", tool_name="Read", message="no"),
    )
    turn = world.state.turn
    assert turn is not None
    stops = on_violation == "stop"
    assert [told.breach.outcome for told in world.breaches] == [Outcome.PROTECTED_PATH] * stops
    assert [one.violation for one in turn.denials] == [False, stops]


def test_without_the_net_all_is_allowed_but_questions() -> None:
    off = rules("read-only", safety=False)
    for tool, given, _ in TABLE:
        expected = "deny" if tool in ("AskUserQuestion", "ExitPlanMode") else "allow"
        assert verdict(tool, given, off).effect == expected
        assert verdict(tool, given, off, "permission").effect == expected


def test_a_mode_that_a_person_named_decides_but_never_over_protected_places() -> None:
    for mode, word in (("acceptEdits", "pass"), ("bypassPermissions", "allow"), ("dontAsk", "pass")):
        given_rules = rules(permission_mode=mode)
        assert verdict("Bash", {"command": "x"}, given_rules).effect == word
        assert verdict("Write", OUTSIDE, given_rules).effect == word
        assert verdict("Write", SECRET, given_rules).effect == "deny"
        assert verdict("Bash", {"command": "x"}, given_rules, "permission").effect == "deny"


def test_a_question_is_noted_in_full() -> None:
    asked = {
        "questions": [
            {
                "question": "Which?",
                "header": "H",
                "options": [{"label": "A", "description": "x"}, {"label": "B"}],
                "multiSelect": True,
            },
            {"question": "And?"},
        ]
    }
    answer = verdict("AskUserQuestion", asked, rules("full"))
    assert answer.questions == (Question("Which?", "H", ("A", "B"), True), Question("And?"))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"file_path": "/a"}, "/a"),
        ({"command": "one\ntwo"}, "one"),
        ({"command": "x" * 500}, "x" * 200),
        ({"command": ""}, ""),
        ({"command": "\n"}, ""),
        ({"url": "http://x", "pattern": "p"}, "http://x"),
        ({}, ""),
        ([], ""),
    ],
)
def test_a_call_in_a_line(given: object, text: str) -> None:
    assert describe(raw(given)) == text


# --- what follows from the word ---------------------------------------------------------------------


def answered(world: World, key: str) -> object:
    return world.answers[key].answer


def test_the_answers_to_a_hook() -> None:
    world = World(rules()).see(hook("1", "Read"), hook("2", "Bash"), hook("3", "Write", OUTSIDE))
    assert world.words == {"1": "allow", "2": "pass", "3": "deny"}
    first, second, third = (answered(world, key) for key in "123")
    assert isinstance(first, HookAnswer)
    assert first.hook_specific_output is not None
    assert first.hook_specific_output.permission_decision == "allow"
    assert second == HookAnswer(), "no opinion: the mode decides"
    assert isinstance(third, HookAnswer)
    assert third.hook_specific_output is not None
    assert third.hook_specific_output.permission_decision == "deny"
    assert third.continue_
    assert world.breaches == []


def test_the_answers_to_a_permission_question() -> None:
    world = World(rules()).see(permission("p1"))
    assert answered(world, "p1") == RefuseAnswer(NOBODY)
    free = World(rules(safety=False)).see(permission("p1", "Bash", {"command": "x"}))
    allowed = answered(free, "p1")
    assert isinstance(allowed, PermitAnswer)
    assert bytes(allowed.updated_input) == b'{"command":"x"}'


@pytest.mark.parametrize(("on", "ends"), [("stop", True), ("deny", False)])
def test_a_violation_ends_the_interaction_or_is_only_refused(on: OnViolation, ends: bool) -> None:
    world = World(rules(on_violation=on)).see(hook("1", "Write", SECRET))
    assert world.words == {"1": "deny"}
    assert world.answers["1"].denial is not None
    assert world.answers["1"].denial.violation
    assert [told.breach.outcome for told in world.breaches] == [Outcome.PROTECTED_PATH] * ends


def test_a_question_ends_the_interaction_and_is_no_refusal() -> None:
    world = World(rules()).see(hook("1", "AskUserQuestion", {"questions": [{"question": "Which?"}]}))
    assert [told.breach.outcome for told in world.breaches] == [Outcome.NEEDS_INPUT]
    assert world.answers["1"].denial is None
    assert world.state.turn is not None
    assert world.state.turn.questions == (Question("Which?"),)


def test_a_plan_ends_the_interaction_well() -> None:
    world = World(rules("plan")).see(hook("1", "ExitPlanMode", {"plan": "First this."}))
    assert [told.breach.outcome for told in world.breaches] == [Outcome.COMPLETED]
    assert world.state.turn is not None
    assert world.state.turn.plan == "First this."


@pytest.mark.parametrize("preset", ["edit", "full"])
def test_nothing_moves_the_work_out_of_the_folder_that_is_checked(preset: Preset) -> None:
    held = rules(preset), rules(preset, safety=False), rules(preset, permission_mode="bypassPermissions")
    for each in held:
        world = World(each).see(
            hook("1", "EnterWorktree", {"name": "side"}),
            hook("2", "EnterWorktree", {"path": 3}),
            hook("3", "Agent", {"prompt": "look", "isolation": "worktree"}),
            hook("4", "Agent", {"prompt": 7, "isolation": "remote", "description": []}),
            hook("5", "Agent", {"prompt": "look"}),
        )
        assert world.words == {"1": "deny", "2": "deny", "3": "deny", "4": "deny", "5": "allow"}


@pytest.mark.parametrize(
    ("cwd", "word"),
    [
        (WORK, "allow"),
        (f"{WORK}/sub", "allow"),
        (f"{WORK}/.claude", "allow"),
        ("", "allow"),  # claude does not say
        (f"{WORK}/.claude/worktrees/agent-1", "deny"),
        (f"{WORK}-2", "deny"),
        ("/home/u", "deny"),
    ],
)
@pytest.mark.parametrize("each", [rules("full"), rules("full", safety=False)])
def test_a_subagent_works_where_the_session_does(cwd: str, word: str, each: Rules) -> None:
    world = World(each).see(
        hook("main", cwd=cwd), hook("sub", agent="a", cwd=cwd), hook("look", "Read", INSIDE, "a", cwd)
    )
    assert world.words == {"main": "allow", "sub": word, "look": word}


def test_a_session_in_a_work_tree_is_at_home_there() -> None:
    tree = f"{WORK}/.claude/worktrees/mine"
    here = msgspec.structs.replace(rules("full"), folders=(tree,))
    world = World(here).see(
        hook("1", agent="a", cwd=tree), hook("2", agent="a", cwd=f"{WORK}/.claude/worktrees/other")
    )
    assert world.words == {"1": "allow", "2": "deny"}


@pytest.mark.parametrize("each", [rules(), rules("full", safety=False), rules(permission_mode="acceptEdits")])
def test_no_work_tree_is_made(each: Rules) -> None:
    """Where one is made all the same (a hook of the user's can), nothing is done in it, wherever it lies."""
    world = World(each).see(
        hook("1", cwd=f"{WORK}/sub"),
        hook("2", agent="a", cwd=f"{WORK}/trees/x"),
        work_tree("3"),
        hook("4", agent="b", cwd=f"{WORK}/sub"),
        hook("5", agent="c", cwd=f"{WORK}/trees/x"),
    )
    answer = world.answers["3"].answer
    assert isinstance(answer, WorktreeAnswer)
    assert answer.hook_specific_output.worktree_path == f"/dev/null/{AWAY}"
    assert world.words["2"] == world.words["4"] == world.words["1"]
    assert world.words["5"] == "deny"
    turn = world.state.turn
    assert turn is not None
    assert [(one.tool, one.detail) for one in turn.denials] == [
        ("WorktreeCreate", "agent-1"),
        ("Bash", "make"),
    ]
    assert turn.tool_calls == 4, "it is no tool call"
    assert turn.refused == 2


def test_a_refused_work_tree_does_not_end_the_turn_that_a_limit_ends() -> None:
    """The answer to the hook says nothing to the main conversation."""
    world = World().see(Breached(Breach(Outcome.TIME_EXCEEDED, "over", START)), work_tree("2"))
    assert isinstance(world.answers["2"].answer, WorktreeAnswer)
    assert world.state.turn is not None
    assert world.state.turn.refused_at is None


@pytest.mark.parametrize("where", [f"{WORK}/.claude/worktrees/side", "/elsewhere"])
def test_a_turn_that_begins_elsewhere_is_ended(where: str) -> None:
    world = World(rules("full")).see(Init(session_id="c", cwd=where), hook("1", cwd=where))
    (told,) = world.breaches
    assert told.breach.outcome is Outcome.FAILED
    assert f"claude moved to {where}, where no check runs" in told.breach.reason
    assert world.words == {"1": "deny"}
    assert not World(rules("full")).see(Init(session_id="c", cwd=WORK), hook("1")).breaches


def test_work_in_the_cloud_is_ended() -> None:
    world = World(rules("full")).see(hook("1", "Agent", {"prompt": "x"}), tasks("remote_agent"))
    (told,) = world.breaches
    assert told.breach.reason == "a subagent runs in the cloud, where no check runs: task 0"


@pytest.mark.parametrize(
    ("tool", "given", "whole"),
    [
        ("Bash", {"command": "a\nb", "description": "harmless", "timeout": 5}, "a\nb"),
        (
            "Bash",
            {"command": "a", "dangerouslyDisableSandbox": True, "run_in_background": True},
            "a\ndangerouslyDisableSandbox: true\nrun_in_background: true",
        ),
        ("Write", {"file_path": "/x", "content": "one\ntwo"}, "/x\ncontent: one\ntwo"),
        ("mcp__x__run", {"command": "ls", "script": "rm -rf ~"}, "ls\nscript: rm -rf ~"),
        (
            "mcp__x__run",
            {"command": "ls", "file_path": "/x", "args": ["a"]},
            'ls\nfile_path: /x\nargs: ["a"]',
        ),
        ("mcp__x__run", {"script": "rm"}, '{"script":"rm"}'),
        ("mcp__x__run", {"command": "ls", "file_path": 7}, "ls\nfile_path: 7"),
        ("mcp__x__run", ["rm"], '["rm"]'),
    ],
)
def test_who_permits_a_call_sees_all_that_it_is_given(tool: str, given: object, whole: str) -> None:
    assert PendingCall.of("r", "permission", tool, raw(given)).whole == whole
