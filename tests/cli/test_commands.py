"""Whole commands in this process, against a daemon that answers from a script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cli.conftest import Cms
from cli.making import RECEIPT, UNPROVED, interaction, reply, result, session
from cli.scripted import Answer, serve
from cms.cli.sessions import reply_exit
from cms.errors import ExitCode, NameTaken, SessionNotFound, StoreError
from cms.rpc.daemon import DaemonStatus, DaemonStopParams
from cms.rpc.overview import UsageResult
from cms.rpc.sessions import (
    AcceptedResult,
    ContinueParams,
    DelegateParams,
    InteractionsParams,
    InteractionsResult,
    ListParams,
    NameParams,
    SendParams,
    SessionResult,
    SessionsResult,
    SpawnParams,
    StopParams,
    StopResult,
)
from cms.rpc.verbs import Nothing
from cms.session.model import Limits, Outcome, Record, SessionOptions, SessionStatus, exit_code_of

SESSION_ID = "11111111-1111-4111-8111-111111111111"
MESSAGE_ID = "33333333-3333-4333-8333-333333333333"
ACCEPTED = AcceptedResult("fix-auth", SESSION_ID, MESSAGE_ID)


def always(answer: Answer) -> Callable[[Record], Answer]:
    return lambda _: answer


SCRIPT = {
    "session.spawn": always(reply()),
    "session.send": always(reply()),
    "session.resume": always(SessionResult(session())),
    "session.delegate": always(result()),
    "session.continue": always(result()),
    "session.interrupt": always(SessionResult(session(), "")),
    "session.stop": always(StopResult(session(status=SessionStatus.STOPPED, pid=None), RECEIPT)),
    "session.kill": always(StopResult(session(status=SessionStatus.KILLED, pid=None), RECEIPT)),
    "session.get": always(SessionResult(session(limits=Limits(max_cost=2.0, max_turns=50)), "Edit a.py")),
    "session.list": always(SessionsResult((session(), session("docs")), 0.2468, 2)),
    "session.interactions": always(InteractionsResult(session(), (interaction(),))),
    "usage.get": always(UsageResult((), 0.0)),
    "daemon.status": always(DaemonStatus(7, "0.1", "/h", 3.0, 1, 2, 1, "bwrap (B)", "/bin/claude", 600.0)),
    "daemon.stop": always(Nothing()),
}


def options(tmp_path: Path, **more: object) -> SessionOptions:
    return msgspec.structs.replace(SessionOptions(name="fix-auth", work_dir=str(tmp_path)), **more)


# --- what reaches the daemon ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("send", "fix-auth", "hello"),
        ("input", "fix-auth", "hello"),
        ("send", "--name", "fix-auth", "--message", "hello"),
        ("send", "--name=fix-auth", "--message=hello"),
        ("send", "--message", "hello", "fix-auth"),
        ("send", "--name", "fix-auth", "hello"),
        ("send", "--name", "fix-auth", "--", "hello"),
    ],
)
def test_send_however_it_is_spelt(cms: Cms, home: Path, words: tuple[str, ...]) -> None:
    with serve(home, SCRIPT) as daemon:
        assert cms(*words).code == 0
    assert daemon.received == [SendParams("fix-auth", "hello")]


@pytest.mark.parametrize(
    "words",
    [
        ("--message", "--hello"),
        ("--message=--hello",),
        ("--", "--hello"),
    ],
)
def test_a_value_may_begin_with_hyphens(cms: Cms, home: Path, words: tuple[str, ...]) -> None:
    with serve(home, SCRIPT) as daemon:
        assert cms("send", "fix-auth", *words).code == 0
    assert daemon.received == [SendParams("fix-auth", "--hello")]


def test_even_a_value_that_is_a_flag_of_ours(cms: Cms, home: Path) -> None:
    with serve(home, SCRIPT) as daemon:
        for value in ("--help", "--json", "--version", "--stop", "-h"):
            assert cms("send", "fix-auth", f"--message={value}").code == 0
            assert daemon.received.pop() == SendParams("fix-auth", value)
            ran = cms("send", "fix-auth", "--", value)
            assert ran.code == 0, ran
            assert daemon.received.pop() == SendParams("fix-auth", value)


def test_a_message_on_stdin_and_from_a_file(cms_process: Cms, home: Path, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("from a file")
    with serve(home, SCRIPT) as daemon:
        assert cms_process("send", "fix-auth", "-", stdin="from stdin").code == 0
        assert cms_process("send", "fix-auth", "--message-file", str(tmp_path / "m.txt"), "--stop").code == 0
    assert daemon.received == [
        SendParams("fix-auth", "from stdin"),
        SendParams("fix-auth", "from a file", stop=True),
    ]


def test_spawn_with_the_originals_flags(
    cms: Cms, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serve(home, SCRIPT) as daemon:
        assert cms("spawn", "--name", "fix-auth", "--prompt", "go").code == 0
        ran = cms(
            *("spawn", "fix-auth", "go", "--stop", "--model", "opus", "--permission-mode", "plan"),
            *("--allowed-tools", "Read,Edit", "--system-prompt", "Be", "--max-budget", "1.5"),
            *("--agent", "tester", "--work-dir", "."),
        )
        assert ran.code == 0, ran.err
    assert daemon.received == [
        SpawnParams(options(tmp_path), "go"),
        SpawnParams(
            options(
                tmp_path,
                model="opus",
                permission_mode="plan",
                allowed_tools=("Read", "Edit"),
                system_prompt="Be",
                limits=Limits(max_cost=1.5),
                agent="tester",
            ),
            "go",
            stop=True,
        ),
    ]


def test_delegate_defaults_and_every_flag(
    cms: Cms, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mcp.json").write_text("{}")
    limits = Limits(max_cost=2.0, max_turns=50, max_silence=1800.0, max_repeats=10, max_retry_time=900.0)
    defaults = options(tmp_path, delegated=True, limits=limits)
    with serve(home, SCRIPT) as daemon:
        assert cms("delegate", "fix-auth", "do it").code == 0
        assert daemon.received.pop() == DelegateParams(defaults, "do it")
        ran = cms(
            *("delegate", "--name", "fix-auth", "--task", "--it", "--model", "haiku", "--preset", "full"),
            *("--max-cost", "0.5", "--max-turns", "7", "--max-time", "2h", "--max-silence", "90s"),
            *("--max-repeats", "4", "--max-retry-time", "3m"),
            *("--max-tool-calls", "9", "--max-memory", "1G", "--max-procs", "64", "--context", "more"),
            *("--system-prompt", "S", "--append-system-prompt", "A", "--agent", "G", "--no-safety"),
            *("--allow", "Bash(pytest *)", "--allow", "Edit", "--allowed-tools", "Read,Grep"),
            *("--disallowed-tools", "WebFetch", "--protect", "*.key", "--protect", "b"),
            *("--protect-read", "s/**", "--allow-write", ".env", "--on-violation", "deny"),
            *("--env-deny", "AWS_*", "--env-deny", "GITHUB_TOKEN"),
            *("--verify", "pytest -q", "--verify", "ruff check", "--permission-mode", "dontAsk"),
            *("--effort", "high", "--fallback-model", "opus", "--add-dir", "."),
            *("--mcp-config", "mcp.json", "--settings", '{"a":1}'),
        )
        assert ran.code == 0, ran.err
    assert daemon.received == [
        DelegateParams(
            options(
                tmp_path,
                model="haiku",
                preset="full",
                limits=Limits(
                    max_cost=0.5, max_turns=7, max_time=7200.0, max_silence=90.0, max_tool_calls=9,
                    max_memory=1024**3, max_procs=64, max_repeats=4, max_retry_time=180.0,
                ),
                delegated=True,
                safety=False,
                permission_mode="dontAsk",
                allowed_tools=("Bash(pytest *)", "Edit", "Read", "Grep"),
                disallowed_tools=("WebFetch",),
                system_prompt="S",
                append_system_prompt="A",
                agent="G",
                fallback_model="opus",
                effort="high",
                add_dirs=(str(tmp_path),),
                mcp_config=(str(tmp_path / "mcp.json"),),
                settings='{"a":1}',
                protect=("*.key", "b"),
                protect_read=("s/**",),
                allow_write=(".env",),
                env_deny=("AWS_*", "GITHUB_TOKEN"),
                on_violation="deny",
                verify=("pytest -q", "ruff check"),
            ),
            "--it",
            "more",
        )
    ]  # fmt: skip
    assert "safety is OFF" in ran.err


def test_continue_raises_only_the_limits_that_are_given(cms: Cms, home: Path) -> None:
    with serve(home, SCRIPT) as daemon:
        assert cms("continue", "fix-auth", "go on").code == 0
        assert cms("continue", "fix-auth", "go on", "--max-cost", "5").code == 0
    assert daemon.of(ContinueParams) == [
        ContinueParams("fix-auth", "go on"),
        ContinueParams("fix-auth", "go on", limits=Limits(max_cost=5.0)),
    ]


def test_the_other_commands_ask_for_what_they_say(cms: Cms, home: Path) -> None:
    with serve(home, SCRIPT) as daemon:
        for words in (
            "resume fix-auth", "interrupt fix-auth", "stop fix-auth", "stop --name fix-auth --grace 2m",
            "kill fix-auth", "status fix-auth", "output fix-auth", "history fix-auth --last 3", "list",
            "list --status busy", "daemon stop",
        ):  # fmt: skip
            ran = cms(*words.split())
            assert ran.code == 0, ran
    assert daemon.received == [
        NameParams("fix-auth"),
        NameParams("fix-auth"),
        StopParams("fix-auth"),
        StopParams("fix-auth", 120.0),
        NameParams("fix-auth"),
        NameParams("fix-auth"),
        InteractionsParams("fix-auth", 1),
        Nothing(),
        InteractionsParams("fix-auth", 1),
        InteractionsParams("fix-auth", 3),
        ListParams(),
        ListParams("busy"),
        DaemonStopParams(),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("spawn", "fix-auth", "go", "--detach"),
        ("send", "fix-auth", "go", "--detach"),
        ("resume", "fix-auth", "go", "--detach"),
        ("delegate", "fix-auth", "go", "--detach"),
        ("continue", "fix-auth", "go", "--detach"),
    ],
)
def test_detach_does_not_wait(cms: Cms, home: Path, words: tuple[str, ...]) -> None:
    with serve(home, dict.fromkeys(SCRIPT, always(ACCEPTED))) as daemon:
        ran = cms(*words)
        as_json = cms(*words, "--json")
    assert ran.code == as_json.code == 0
    assert "cms output fix-auth" in ran.out
    assert as_json.json() == {
        "name": "fix-auth",
        "sessionId": ACCEPTED.session_id,
        "interactionId": ACCEPTED.interaction_id,
        "accepted": True,
    }
    params = daemon.received[0]
    assert params.detach if isinstance(params, DelegateParams | ContinueParams) else not params.wait  # type: ignore[attr-defined] # one of the three that have it


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_the_exit_code_says_how_a_delegation_ended(cms: Cms, home: Path, outcome: Outcome) -> None:
    with serve(home, {"session.delegate": always(result(outcome=outcome))}):
        ran = cms("delegate", "fix-auth", "go", "--json")
    assert ran.code == exit_code_of(outcome)
    assert ran.json()["status"] == outcome.value


@pytest.mark.parametrize("outcome", Outcome)
def test_and_how_an_answer_ended(cms: Cms, home: Path, outcome: Outcome) -> None:
    with serve(home, {"session.send": always(reply(outcome=outcome))}):
        assert cms("send", "fix-auth", "go").code == exit_code_of(outcome)


def test_an_error_never_reads_as_success() -> None:
    assert reply_exit(msgspec.structs.replace(reply(), is_error=True)) is ExitCode.FAILED


@pytest.mark.parametrize("command", ["kill", "stop"])
def test_an_end_that_is_not_proved_is_a_failure(cms: Cms, home: Path, command: str) -> None:
    script = {f"session.{command}": always(StopResult(session(status=SessionStatus.ERROR), UNPROVED))}
    with serve(home, script):
        ran = cms(command, "fix-auth")
    assert ran.code == ExitCode.FAILED
    assert "STILL ALIVE" in ran.out
    assert ran.out.count("41 python") == (2 if command == "kill" else 1)
    assert "cms: fix-auth is NOT proved dead; no session is started in /srv/app" in ran.err
    with serve(home, {f"session.{command}": always(StopResult(session(), None))}):
        ran = cms(command, "fix-auth")
    assert (ran.code, ran.out) == (0, "fix-auth: was not running\n")


def test_no_daemon(cms: Cms, home: Path) -> None:
    ran = cms("daemon", "status")
    assert (ran.code, ran.out) == (ExitCode.DAEMON_UNAVAILABLE, f"no daemon is running for {home}\n")
    assert cms("daemon", "status", "--json").json() == {"home": str(home), "running": False, "stopped": False}
    assert cms("daemon", "stop").code == 0


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SessionNotFound("fix-auht", "fix-auth"), 10),
        (NameTaken("fix-auth"), 2),
        (StoreError("the disk is full", hint="free some space"), 1),
    ],
)
def test_what_the_daemon_raises(
    cms: Cms, home: Path, error: SessionNotFound | NameTaken | StoreError, code: int
) -> None:
    with serve(home, {"session.get": always(error)}):
        ran = cms("status", "x")
        as_json = cms("status", "x", "--json")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"cms: {error.message}\n     {error.hint}\n"
    assert as_json.code == code
    assert as_json.json() == {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    assert as_json.err == ran.err


LISTS = "`cms help` lists all commands"
FLAGS = "`cms {} --help` lists its flags"
COMMANDS_OF = "`cms {} --help` lists its commands"
SEND, DELEGATE = FLAGS.format("send"), FLAGS.format("delegate")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("sned x y", "unknown command 'sned'", f"did you mean 'send'? {LISTS}"),
        ("frobnicate", "unknown command 'frobnicate'", LISTS),
        ("help sedn", "unknown command 'sedn'", f"did you mean 'send'? {LISTS}"),
        (
            "daemon stat",
            "unknown command 'stat'",
            "did you mean 'status'? " + COMMANDS_OF.format("daemon"),
        ),
        ("batch shwo x", "unknown command 'shwo'", "did you mean 'show'? " + FLAGS.format("batch")),
        ("batch lst", "unknown command 'lst'", "did you mean `cms batches`? " + FLAGS.format("batch")),
        ("node list", "unknown command 'list'", "did you mean `cms fleet`? " + FLAGS.format("node")),
        (
            "batch tasks.json",
            "unexpected argument 'tasks.json'",
            "give the file with --file; " + FLAGS.format("batch"),
        ),
        ("send x --mesage y", "unknown flag '--mesage'", f"did you mean '--message'? {SEND}"),
        ("send x --zzz y", "unknown flag '--zzz'", SEND),
        ("send x --prompt-file y", "unknown flag '--prompt-file'", f"did you mean '--message-file'? {SEND}"),
        ("send x --message", "--message needs a value", SEND),
        ("send x y z", "unexpected argument 'z'", f"quote a text of several words; {SEND}"),
        ("send", "send needs the name of a session", "usage: cms send NAME MESSAGE (cms send --help)"),
        ("send x", "send needs a message", "usage: cms send NAME MESSAGE (cms send --help)"),
        ("status", "status needs the name of a session", "usage: cms status NAME (cms status --help)"),
        ("list --status bsy", "there is no status 'bsy'", "did you mean 'busy'?"),
        ("delegate x y --preset reed-only", "--preset cannot be 'reed-only'", "did you mean 'read-only'?"),
        ("delegate x y --preset z", "--preset cannot be 'z'", "one of read-only, review, edit, full, plan"),
        ("delegate x y --on-violation stpo", "--on-violation cannot be 'stpo'", "did you mean 'stop'?"),
        (
            "delegate x y --max-cost -1",
            "invalid value for --max-cost: '-1' is not a positive amount in US dollars",
            DELEGATE,
        ),
        (
            "delegate x y --max-turns 0",
            "invalid value for --max-turns: '0' is not positive; at least 1",
            DELEGATE,
        ),
        (
            "delegate x y --max-time soon",
            "invalid value for --max-time: 'soon' is not a duration: write 90, 90s, 15m or 2h",
            DELEGATE,
        ),
        ("delegate x y --model sonett", "there is no model 'sonett'", "did you mean 'sonnet'?"),
        (
            "delegate x y --detach --foreground",
            "--detach and --foreground exclude each other",
            "",
        ),
        (
            "batch --resume b --task-max-cost 3",
            "--resume goes on with the tasks as they were; flags for tasks need --file",
            "limits of the whole batch can change: --max-cost, --max-time, --max-parallel ...",
        ),
        (
            "spawn x y --stop --detach",
            "--stop and --detach exclude each other",
            "",
        ),
        (
            "spawn x y --max-budget 1 --max-cost 2",
            "--max-budget and --max-cost are the same flag; give one",
            "",
        ),
    ],
)
def test_usage_errors_are_one_line_and_a_hint(cms: Cms, words: str, message: str, hint: str) -> None:
    ran = cms(*words.split())
    err = f"cms: {message}\n" + (f"     {hint}\n" if hint else "")
    assert (ran.code, ran.out, ran.err) == (ExitCode.USAGE, "", err)


def test_a_usage_error_with_json_is_an_object_too(cms: Cms) -> None:
    ran = cms("send", "x", "--mesage", "y", "--json")
    assert ran.code == ExitCode.USAGE
    assert ran.json() == {
        "error": {
            "code": "usage",
            "message": "unknown flag '--mesage'",
            "hint": "did you mean '--message'? `cms send --help` lists its flags",
        }
    }


def test_a_work_dir_that_is_not_there(cms: Cms, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    ran = cms("delegate", "x", "y", "--work-dir", str(tmp_path / "projct"))
    assert ran.code == ExitCode.USAGE
    assert ran.err == (
        f"cms: --work-dir: {tmp_path / 'projct'} does not exist\n     did you mean {tmp_path / 'project'}?\n"
    )


def test_a_bug_of_ours_is_one_line_too(cms: Cms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cms.cli.io.daemon", lambda: 1 / 0)
    ran = cms("list")
    assert ran.code == ExitCode.FAILED
    assert ran.err.startswith("cms: internal error: ZeroDivisionError: division by zero\n")


# --- text and JSON --------------------------------------------------------------------------------


def test_output_full_is_the_response_alone(cms: Cms, home: Path) -> None:
    with serve(home, SCRIPT):
        assert cms("output", "fix-auth", "--full").out == "Done.\nTwo tests added.\n"


def test_a_session_without_messages_has_no_output(cms: Cms, home: Path) -> None:
    with serve(home, {"session.interactions": always(InteractionsResult(session(), ()))}):
        ran = cms("output", "fix-auth")
        assert (ran.code, ran.err) == (
            1,
            "cms: fix-auth has no message yet\n     send one: cms send fix-auth MESSAGE\n",
        )
        assert cms("history", "fix-auth").code == 0


SESSION_JSON: dict[str, object] = {
    "name": "fix-auth",
    "status": "ready",
    "model": "sonnet",
    "id": "11111111-1111-4111-8111-111111111111",
    "claudeSessionId": "22222222-2222-4222-8222-222222222222",
    "workDir": "/srv/app",
    "totalCostUsd": 0.1234,
    "costExact": True,
    "totalTurns": 3,
    "interactionCount": 2,
    "toolCalls": 0,
    "pid": 4242,
    "created": "2026-11-22T11:27:00.000Z",
    "lastSaved": "2026-11-22T11:29:57.500Z",
    "preset": "edit",
    "delegated": False,
    "safety": True,
    "limits": {
        "maxCost": None, "maxTurns": None, "maxTime": None, "maxSilence": None,
        "maxToolCalls": None, "maxMemory": None, "maxProcs": None, "maxRepeats": None, "maxRetryTime": None,
    },
    "parentId": "",
    "depth": 0,
    "error": "",
    "claudeVersion": "",
    "unknownLines": 0,
    "noiseLines": 0,
    "receipt": None,
    "walls": None,
    "change": None,
    "isolate": "no",
    "capsHit": [],
    "tags": [],
}  # fmt: skip
INTERACTION_JSON: dict[str, object] = {
    "number": 2,
    "type": "send",
    "timestamp": "2026-11-22T11:28:30.000Z",
    "prompt": "also add a test",
    "response": "Done.\nTwo tests added.",
    "cost": 0.05,
    "duration": 12340,
    "id": "33333333-3333-4333-8333-333333333333",
    "state": "done",
    "ended": "2026-11-22T11:28:42.340Z",
    "costExact": True,
    "turns": 2,
    "isError": False,
    "error": "",
    "outcome": None,
    "toolsUsed": [],
    "toolCalls": 0,
    "denials": [],
    "questions": [],
    "usage": {},
    "output": None,
    "round": 0,
    "attachments": [],
    "judge": None,
}
RECEIPT_JSON: dict[str, object] = {
    "reason": "stop",
    "steps": [
        {"name": "interrupt", "seconds": 0.2, "worked": False},
        {"name": "eof", "seconds": 0.1, "worked": True},
    ],
    "returncode": 0,
    "alive": [],
    "seconds": 0.3,
    "mechanism": "pidns",
    "empty": True,
    "left": [],
    "at": "2026-11-22T11:29:00.000Z",
    "walls": None,
    "how": [],
}


def test_the_json_of_commands_that_ask(cms: Cms, home: Path) -> None:
    script = {**SCRIPT, "session.get": always(SessionResult(session(), "Edit a.py"))}
    with serve(home, script):
        listed = cms("list", "--json")
        status = cms("status", "fix-auth", "--json")
        output = cms("output", "fix-auth", "--json")
        history = cms("history", "fix-auth", "--json")
    assert listed.json() == {
        "sessions": [
            {**SESSION_JSON, "outcome": None},
            {**SESSION_JSON, "name": "docs", "outcome": None},
        ],
        "total": 2,
        "totalCostUsd": 0.2468,
        "more": False,
    }
    assert status.json() == {
        **SESSION_JSON,
        "activity": "Edit a.py",
        "lastInteraction": INTERACTION_JSON,
        "nextStep": None,
    }
    assert output.json() == {**INTERACTION_JSON, "name": "fix-auth", "status": "ready", "change": None}
    assert history.json() == {
        "name": "fix-auth",
        "status": "ready",
        "interactions": [INTERACTION_JSON],
        "totalCostUsd": 0.1234,
    }
    for ran in (listed, status, output, history):
        assert ran.err == ""
        assert ran.out.count("\n") == 1


def test_the_json_of_commands_that_act(cms: Cms, home: Path) -> None:
    with serve(home, SCRIPT):
        assert cms("stop", "fix-auth", "--json").json() == {
            **SESSION_JSON, "status": "stopped", "pid": None, "receipt": RECEIPT_JSON,
        }  # fmt: skip
        assert cms("resume", "fix-auth", "--json").json() == SESSION_JSON
        assert cms("interrupt", "fix-auth", "--json").json() == SESSION_JSON
        assert cms("send", "fix-auth", "go", "--json").json() == {
            "name": "fix-auth",
            "status": "ready",
            "text": "Done.",
            "cost": 0.05,
            "turns": 2,
            "duration": 12340,
            "isError": False,
            "sessionId": "11111111-1111-4111-8111-111111111111",
            "interactionId": "33333333-3333-4333-8333-333333333333",
            "pid": 4242,
            "error": "",
            "totalCostUsd": 0.0,
            "outcome": "completed",
            "questions": [],
            "denials": [],
            "nextStep": None,
        }
        assert cms("delegate", "fix-auth", "go", "--json").json() == {
            "status": "completed",
            "name": "fix-auth",
            "response": "All tests pass.",
            "error": None,
            "cost": 0.25,
            "turns": 5,
            "duration": 65432,
            "toolsUsed": ["Read", "Edit"],
            "canContinue": True,
            "safety": {"enabled": True, "totalViolations": 0, "violations": [], "denials": []},
            "reasons": [],
            "questions": [],
            "sessionId": "11111111-1111-4111-8111-111111111111",
            "costExact": True,
            "toolCalls": 0,
            "receipt": RECEIPT_JSON,
            "change": None,
            "output": None,
            "rounds": [],
            "verified": [],
            "nextStep": None,
            "judge": None,
        }
        status = cms("daemon", "status", "--json").json()
    assert status == {
        "pid": 7, "version": "0.1", "home": "/h", "uptime": 3.0, "live": 1, "sessions": 2, "clients": 1,
        "containment": "bwrap (B)", "claude": "/bin/claude", "idleExit": 600.0, "running": True,
    }  # fmt: skip


def test_the_daemons_log(cms: Cms, home: Path) -> None:
    ran = cms("daemon", "logs")
    assert ran.code == 1
    assert "no log yet" in ran.err
    home.mkdir()
    (home / "daemon.log").write_text("".join(f"line {number}\n" for number in range(100)))
    assert cms("daemon", "logs", "--lines", "2").out == "line 98\nline 99\n"
    assert cms("daemon", "logs").out.count("\n") == 50
    assert cms("daemon", "logs", "--lines", "1", "--json").json() == {
        "path": str(home / "daemon.log"),
        "lines": ["line 99"],
    }


# --- help -----------------------------------------------------------------------------------------


def test_help_names_every_preset_and_exit_code(cms: Cms) -> None:
    from cms.session.model import PRESETS

    text = cms("--help-all").out
    for preset in PRESETS:
        assert f"\n  {preset} " in text
    for code in ExitCode:
        assert f"{int(code)} " in text


def test_version(cms: Cms) -> None:
    from cms._version import __version__

    assert cms("--version").out == f"{__version__}\n"
