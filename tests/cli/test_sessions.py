"""pause, freeze, fork, delete, cleanup: through the real command line, daemon and simulated agent."""

from __future__ import annotations

import os
from pathlib import Path

from cli.shell import Shell, own_shell, shell
from cms.testing.script import ScriptedReply, call, prompt, say

__all__ = ["own_shell", "shell"]


def test_a_paused_session_takes_no_message_until_it_is_resumed(own_shell: Shell) -> None:
    pid = own_shell.ok("spawn", "resting", prompt("hello", say("here")), "--json").json()["pid"]
    paused = own_shell.ok("pause", "resting")
    assert paused.out == f"resting  ⏸ paused  pid {pid}\n"
    refused = own_shell.cms("send", "resting", "hello?")
    assert refused.code == 2
    assert "session 'resting' is paused: cannot take a message" in refused.err
    assert "cms resume resting" in refused.err
    assert own_shell.ok("list", "--status", "paused", "--json").json()["total"] == 1
    assert own_shell.ok("list", "--status", "created").out == "no session is created\n"
    assert own_shell.ok("resume", "resting", "--json").json()["status"] == "ready"
    again = own_shell.ok("send", "resting", prompt("still?", say("still here")), "--json").json()
    assert (again["text"], again["pid"]) == ("still here", pid)


def test_a_paused_session_finishes_what_it_does(shell: Shell) -> None:
    gate = shell.work_dir / "finish"
    shell.ok("spawn", "busy", "--detach", "--preset", "full", prompt("go", waits_for(gate), say("done")))
    shell.wait_until("busy", lambda found: str(found["activity"]).startswith("Bash"))
    assert shell.ok("pause", "busy", "--json").json()["status"] == "paused"
    gate.touch()
    shell.wait_until("busy", lambda found: not found["activity"])
    assert shell.ok("output", "busy", "--full").out == "done\n"


def test_a_message_with_the_resume_opens_the_door_even_of_one_at_work(shell: Shell) -> None:
    gate = shell.work_dir / "open"
    shell.ok("spawn", "door", "--detach", "--preset", "full", prompt("go", waits_for(gate), say("done")))
    shell.wait_until("door", lambda found: str(found["activity"]).startswith("Bash"))
    shell.ok("pause", "door", "--freeze")
    gate.touch()
    assert shell.ok("resume", "door", prompt("and?", say("more")), "--json").json()["text"] == "more"


def test_what_is_not_alive_cannot_be_paused(shell: Shell) -> None:
    shell.ok("spawn", "gone", prompt("hello", say("x")), "--stop")
    ran = shell.cms("pause", "gone", "--json")
    assert ran.code == 2
    assert '"code":"wrong_status"' in ran.out
    assert shell.cms("pause", "gon").code == 10


def test_a_frozen_session_stands_still_and_goes_on(shell: Shell) -> None:
    """It counts to a file; frozen it does not, and resumed it counts on to its end."""
    counter = shell.work_dir / "counter"
    counting_ = counting(counter, 60)
    shell.ok(
        *("spawn", "ice", "--detach", "--preset", "full"),
        prompt("go", call("Bash", command=counting_), say("counted")),
    )
    shell.wait_for(counter)
    assert shell.ok("pause", "ice", "--freeze", "--json").json()["status"] == "paused"
    size = counter.stat().st_size
    assert shell.status("ice")["activity"] == f"frozen: Bash {counting_}"
    refused = shell.cms("interrupt", "ice")
    assert (refused.code, "is paused: cannot be interrupted" in refused.err) == (2, True)
    assert counter.stat().st_size == size  # two commands took longer than it needs for the next line
    assert shell.ok("resume", "ice", "--json").json()["status"] == "busy"
    assert shell.ok("wait", "ice").out.startswith("ice  ✓ completed  $")
    assert counter.read_text().splitlines()[-1] == "60"


def test_a_frozen_session_can_be_killed_and_stopped(shell: Shell) -> None:
    for name, command in (("frozen-kill", "kill"), ("frozen-stop", "stop")):
        counter = shell.work_dir / name
        shell.ok(
            *("spawn", name, "--detach", "--preset", "full"),
            prompt("go", call("Bash", command=counting(counter, 10**6)), say("never")),
        )
        shell.wait_for(counter)
        shell.ok("pause", name, "--freeze")
        ended = shell.ok(command, name, "--json").json()
        receipt = ended["receipt"]
        assert isinstance(receipt, dict)
        assert receipt["empty"] is True
        if command == "stop":
            assert receipt["steps"][0]["name"] == "interrupt"
            assert receipt["steps"][0]["worked"] is True


def test_a_fork_goes_on_from_a_live_session_and_pays_for_itself(shell: Shell) -> None:
    first = shell.ok("spawn", "trunk", prompt("hello", say("one", cost_usd=0.5)), "--json").json()
    branch = shell.ok(
        *("fork", "trunk", "branch", prompt("your own way", say("two", cost_usd=0.25))),
        *("--model", "opus", "--json"),
    ).json()
    assert branch["text"] == "two"
    found = shell.status("branch")
    assert (found["model"], found["parentId"]) == ("opus", first["sessionId"])
    cost = found["totalCostUsd"]
    assert isinstance(cost, float)
    assert 0 < cost < 0.5  # its own call, and not the parent's
    assert found["interactionCount"] == 1
    assert shell.status("trunk")["pid"] == first["pid"]
    assert shell.status("trunk")["totalCostUsd"] == first["totalCostUsd"]
    history = shell.ok("history", "branch", "--json").list("interactions")
    assert [one["type"] for one in history] == ["fork"]
    # It is a session of its own from now on.
    shell.ok("stop", "branch")
    shell.ok("delete", "trunk", "--force")
    assert shell.ok("send", "branch", prompt("on", say("three")), "--json").json()["text"] == "three"


def test_forks_that_cannot_be(shell: Shell) -> None:
    shell.ok("spawn", "stem", prompt("hello", say("x")))
    cases = (
        (("fork", "stem"), 2, "fork needs a new name"),
        (("fork",), 2, "fork needs the name of a session"),
        (("fork", "stem", "a/b"), 2, "try 'a-b'"),
        (("fork", "stem", "stem"), 2, "a session named 'stem' already exists"),
        (("fork", "stam", "new"), 10, "did you mean 'stem'?"),
        (("fork", "stem", "new", "--model", "opos"), 2, "did you mean 'opus'?"),
        (("fork", "a", "b", "c", "--name", "d"), 2, "unexpected argument 'c'"),
    )
    for words, code, said in cases:
        ran = shell.cms(*words)
        assert (ran.code, said in ran.err) == (code, True), ran
    named = shell.ok("fork", "--name", "stem", "--new-name", "leaf", "--message", "go on", "--json")
    assert named.json()["name"] == "leaf"


def test_delete_leaves_the_money_and_says_where_the_log_went(shell: Shell) -> None:
    session = shell.ok("spawn", "waste", prompt("hello", say("x", cost_usd=0.5)), "--json").json()
    refused = shell.cms("delete", "waste")
    assert refused.code == 2
    assert "is ready: cannot be deleted" in refused.err
    assert "cms stop waste" in refused.err
    gone = shell.ok("delete", "waste", "--force", "--json").list("deleted")[0]
    receipt = gone["receipt"]
    assert isinstance(receipt, dict)
    assert receipt["empty"] is True
    assert shell.cms("status", "waste").code == 10
    log = Path(str(gone["log"]))
    assert log == shell.home / "trash" / f"waste-{session['sessionId']}.log"
    assert log.stat().st_size == gone["logBytes"]
    costs = shell.ok("cost", "--json").list("rows")
    assert next(row["cost"] for row in costs if row["name"] == "waste") == session["totalCostUsd"]


#: What is advised where no name is near.
HINT = "`cms list` shows all sessions"


def test_delete_several_and_purge(shell: Shell) -> None:
    for name in ("one", "two", "three"):
        shell.ok("spawn", name, prompt("hello", say("x")), "--stop")
    ran = shell.ok("delete", "one", "two", "--purge")
    assert [line.partition(" (")[0] for line in ran.out.splitlines()] == [
        "one: deleted with its logs",
        "two: deleted with its logs",
    ]
    ran = shell.cms("delete", "tree", "three", "one")
    assert (ran.code, "did you mean 'three'?" in ran.err) == (10, True)
    assert "no session named 'one'" in ran.err
    assert ran.out.startswith("three: deleted; its raw log (")
    assert ran.out.endswith(") is in the trash, its audit log stays\n")
    assert shell.cms("status", "three").code == 10
    assert not [one for one in (shell.home / "trash").iterdir() if one.name.startswith(("one", "two"))]


def test_several_are_held_up_and_ended_at_once_and_each_is_told(shell: Shell) -> None:
    for name in ("few-1", "few-2", "few-3"):
        shell.ok("spawn", name, prompt("hello", say("x")))
    paused = shell.ok("pause", "few-1", "few-2", "--json").list("sessions")
    assert [(one["name"], one["status"]) for one in paused] == [("few-1", "paused"), ("few-2", "paused")]
    resumed = {str(one["name"]) for one in shell.ok("resume", "--all", "--json").list("sessions")}
    assert {"few-1", "few-2"} <= resumed
    assert shell.cms("resume", "few-1", "--all").code == 2
    assert shell.ok("stop", "few-1").out == "few-1: stopped, nothing left running\n"
    ran = shell.cms("stop", "few-1", "nobody-there", "few-2")
    assert (ran.code, ran.out) == (10, "few-1: was not running\nfew-2: stopped, nothing left running\n")
    assert "no session named 'nobody-there'" in ran.err
    ran = shell.cms("kill", "few-3", "nobody-there", "--json")
    assert (ran.code, [one["status"] for one in ran.list("sessions")]) == (10, ["killed"])
    assert [(one["name"], one["error"]) for one in ran.list("failed")] == [
        ("nobody-there", {"code": "not_found", "message": "no session named 'nobody-there'", "hint": HINT})
    ]
    assert shell.cms("stop").code == 2
    assert shell.cms("stop", "few-1", "--all").code == 2


def test_all_of_them_are_ended_only_if_a_person_says_so(shell: Shell) -> None:
    shell.ok("spawn", "whole-0", prompt("hello", say("x")), "--stop")  # else there is nothing to delete
    for name in ("whole-1", "whole-2"):
        shell.ok("spawn", name, prompt("hello", say("x")))
    for command in ("kill", "delete"):
        ran = shell.cms(command, "--all")
        assert (ran.code, f"cms {command} --all --yes" in ran.err) == (2, True)
    assert shell.status("whole-1")["status"] == "ready"
    shell.ok("stop", "whole-1")
    killed = shell.ok("kill", "--all", "--yes").out.splitlines()
    assert "whole-2: killed, nothing left running" in killed
    assert not [line for line in killed if line.startswith("whole-1")]
    assert shell.ok("kill", "--all", "--yes", "--json").json() == {"sessions": [], "failed": []}
    assert shell.ok("stop", "--all").out == "nothing to do\n"
    shell.ok("spawn", "whole-3", prompt("hello", say("x")))
    gone = {str(one["name"]) for one in shell.ok("delete", "--all", "--yes", "--json").list("deleted")}
    assert {"whole-1", "whole-2"} <= gone
    assert shell.status("whole-3")["status"] == "ready"


def test_cleanup_names_what_it_removes_and_spares_what_lives(shell: Shell) -> None:
    shell.ok("spawn", "old", prompt("hello", say("x")), "--stop")
    shell.ok("spawn", "alive", prompt("hello", say("x")))
    assert "total: 0 sessions deleted" in shell.ok("cleanup").out
    assert shell.cms("cleanup", "--days", "soon").code == 2
    dry = shell.ok("cleanup", "--days", "0", "--dry-run")
    assert "old: would be deleted, raw log " in dry.out
    assert "alive: ready, left alone (--force kills it)" in dry.out
    assert shell.status("old")["status"] == "stopped"
    done = shell.ok("cleanup", "--days", "0", "--json").json()
    deleted = done["deleted"]
    assert isinstance(deleted, list)
    assert "old" in [one["name"] for one in deleted]
    assert isinstance(done["live"], list)
    assert "alive" in done["live"]
    assert shell.cms("status", "old").code == 10
    assert shell.status("alive")["status"] == "ready"
    for kept in (shell.home / "trash").iterdir():
        os.utime(kept, (0, 0))
    assert "trash: " in shell.ok("cleanup").out
    assert not list((shell.home / "trash").iterdir())


def waits_for(gate: Path) -> ScriptedReply:
    return call("Bash", command=f"until test -e {gate}; do sleep 0.01; done")


def counting(counter: Path, times: int) -> str:
    return f"for i in $(seq {times}); do echo $i >> {counter}; sleep 0.02; done"
