"""budget and audit: through the real command line, daemon and simulated agent."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest

from cli.shell import Ran, Shell, own_shell, shell
from cms.testing.script import call, prompt, say

__all__ = ["own_shell", "shell"]

#: Ten replies of five cents.
WORK = prompt("Work", *[call("Read", file_path="a").costing(0.05, "sonnet") for _ in range(10)], say("done"))


def test_a_budget_is_set_shown_held_and_cleared(own_shell: Shell) -> None:
    empty = own_shell.ok("budget", "show", "--json").json()
    assert empty == {"spentToday": 0.0, "spentEver": 0.0, "scopes": []}
    assert "no cap is set" in own_shell.ok("budget", "show").out
    put = own_shell.ok("budget", "set", "--daily", "$0.12", "--total", "9", "--json").json()
    assert put["scopes"] == [
        {"scope": scope, "cap": cap, "spent": 0.0, "unknown": 0.0, "reserved": 0.0, "atWork": 0, "left": cap}
        for scope, cap in (("all", 9.0), ("day", 0.12))
    ]
    ended = own_shell.cms("delegate", "one", WORK, "--json")
    assert ended.code == 4
    assert ended.json()["cost"] == pytest.approx(0.15, abs=0.001)
    shown = own_shell.ok("budget", "show").out
    assert "today's budget: $0.1500 of $0.1200 used, $0.0000 left" in shown
    assert "the total budget: $0.1500 of $9.0000 used, $8.8500 left" in shown
    refused = own_shell.cms("spawn", "two", WORK)
    assert refused.code == 4
    assert "today's budget is used up" in refused.out + refused.err
    left = own_shell.ok("budget", "clear", "--daily", "--json").json()
    assert "'scope': 'all'" in str(left["scopes"])
    assert "'scope': 'day'" not in str(left["scopes"])
    assert own_shell.ok("send", "two", prompt("Hello", say("hi")), "--json").json()["text"] == "hi"
    assert own_shell.ok("budget", "clear", "--json").json()["scopes"] == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "budget set needs --daily, --total or both"),
        (("--daily", "0"), "'0' is not a positive amount in US dollars"),
        (("--daily", "much"), "'much' is not an amount in US dollars"),
        (("--weekly", "5"), "unknown flag '--weekly'"),
    ],
)
def test_what_cannot_be_a_budget(shell: Shell, words: tuple[str, ...], error: str) -> None:
    ran = shell.cms("budget", "set", *words)
    assert ran.code == 2
    assert error in ran.err


class Row(msgspec.Struct):
    kind: str
    verdict: str
    tool: str
    detail: str
    seal: str


class Broken(msgspec.Struct):
    number: int
    why: str


class Log(msgspec.Struct):
    ok: bool
    length: int
    head: str
    rows: list[Row]
    broken: Broken | None


def log_of(ran: Ran) -> Log:
    return msgspec.json.decode(ran.out, type=Log)


def test_the_audit_log_is_read_and_verified(shell: Shell) -> None:
    (shell.work_dir / "a").write_text("x")
    write = call("Write", file_path=".git/config", content="y")
    task = prompt("Work\nin two lines", call("Read", file_path="a"), write, say("done"))
    assert shell.cms("delegate", "logged", task, "--on-violation", "deny").code == 3
    log = log_of(shell.ok("audit", "logged", "--json"))
    assert log.ok
    assert (log.length, log.head) == (len(log.rows), log.rows[-1].seal)
    assert [(row.kind, row.verdict) for row in log.rows] == [
        ("start", "started"),
        ("message", "sent"),
        ("call", "allowed"),
        ("call", "refused"),
        ("end", "proved"),
    ]
    assert log.rows[1].detail == "Work"
    assert [row.tool for row in log.rows[2:4]] == ["Read", "Write"]
    read = shell.ok("audit", "logged").out.splitlines()
    assert len(read) == log.length + 1
    assert read[-1] == f"{log.length} rows, all seals intact; head {log.head}"
    assert shell.ok("audit", "logged", "--verify").out.splitlines() == read[-1:]
    assert log_of(shell.ok("audit", "logged", "--verify", "--head", log.head, "--json")).rows == []
    elsewhere = shell.cms("audit", "logged", "--verify", "--head", "0" * 64)
    assert elsewhere.code == 1
    assert "the log was rewritten or belongs to another" in elsewhere.out
    assert shell.cms("audit", "logge").code == 10


def test_the_audit_log_outlives_its_session_until_it_is_purged(shell: Shell) -> None:
    shell.ok("delegate", "gone", prompt("Hello", say("hi")))
    number = str(shell.ok("status", "gone", "--json").json()["id"])
    said = shell.ok("delete", "gone").out
    assert "its audit log stays" in said
    log = log_of(shell.ok("audit", "gone", "--json"))
    assert (log.rows[-1].kind, log.rows[-1].verdict, log.rows[-1].detail) == ("delete", "deleted", "gone")
    assert log_of(shell.ok("audit", number, "--verify", "--json")).head == log.head
    # Once the name is somebody else's, the id still finds it.
    shell.ok("delegate", "gone", prompt("Hello", say("hi")))
    assert log_of(shell.ok("audit", "gone", "--json")).head != log.head
    assert log_of(shell.ok("audit", number, "--json")).head == log.head
    assert "deleted with its logs" in shell.ok("delete", "gone", "--purge").out
    cleaned = shell.ok("cleanup", "--days", "0", "--purge").out
    assert "audit logs of sessions deleted before: 1 removed" in cleaned
    assert shell.cms("audit", number).code == 10


def test_a_log_that_was_tampered_with_is_told_at_its_first_wrong_row(shell: Shell) -> None:
    shell.ok("delegate", "forged", prompt("Hello", say("hi")))
    number = shell.ok("status", "forged", "--json").json()["id"]
    db = sqlite3.connect(shell.home / "cms.db")
    db.execute("DROP TRIGGER decisions_no_update")
    db.execute("UPDATE decisions SET reason = 'x' WHERE number = 2 AND session_id = ?", (number,))
    db.commit()
    db.close()
    ran = shell.cms("audit", "forged", "--verify", "--json")
    assert ran.code == 1
    assert log_of(ran).broken == Broken(2, "it was changed, or the row before it was")
    shown = shell.cms("audit", "forged")
    assert shown.code == 1
    assert len(shown.out.splitlines()) == 2


def test_safety_off_is_loud_and_recorded(shell: Shell) -> None:
    ran = shell.ok("delegate", "unsafe", prompt("Hello", say("hi")), "--no-safety", "--json")
    assert "safety is OFF" in ran.err
    assert "'safety': False" in str(ran.json()["receipt"])
    assert "safety was off: no protected paths, no gate" in str(ran.json()["reasons"])
    assert shell.status("unsafe")["safety"] is False
    rows = log_of(shell.ok("audit", "unsafe", "--json")).rows
    assert (rows[1].kind, rows[1].verdict) == ("safety", "off")


def test_repetition_is_stopped_and_told(shell: Shell) -> None:
    task = prompt("Work", *[call("Read", file_path="a") for _ in range(20)], say("done"))
    ran = shell.cms("delegate", "stuck", task, "--max-repeats", "3", "--json")
    assert ran.code == 12
    assert ran.json()["status"] == "stalled"
    assert ran.json()["error"] == "no progress: the same Read call 3 times in a row"
    assert ran.json()["turns"] == 4
