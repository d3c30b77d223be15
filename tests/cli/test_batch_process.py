"""`cms batch` as a shell runs it: real daemon, simulated agents, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

import forks
from cms.config import load_settings
from cms.errors import ExitCode
from cms.rpc.client import NoDaemon, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.testing.agent import write_launcher
from cms.testing.script import ScriptedReply, call, prompt, say
from receiver import receiver

#: Seconds; the full size of what is small here (CMS_TEST_ROWS) needs more.
PATIENCE = float(os.environ.get("CMS_TEST_PATIENCE", "60"))


class Shell:
    """Commands in a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.work = folder / "work"
        self.work.mkdir()
        launcher = write_launcher(folder / "claude")
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CMS_")},
            "HOME": str(folder),
            "CMS_HOME": str(self.home),
            "CMS_CLAUDE": str(launcher),
            "CMS_REHEARSAL_RETRY_MS": "1",
            "CMS_GRACE": "2",
        }

    @contextmanager
    def start(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [sys.executable, "-m", "cms", *words],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def __call__(self, *words: str, stdin: str | None = None) -> Ran:
        code, out, err = forks.run(
            words, env=self.env, cwd=self.work, stdin=(stdin or "").encode(), timeout=PATIENCE
        )
        return Ran(code, out.decode(), err.decode())

    def file(self, tasks: Sequence[dict[str, object]], name: str = "tasks.json") -> str:
        path = self.work / name
        if name.endswith("l"):
            path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
        else:
            path.write_text(json.dumps(tasks))
        return str(path)

    def daemon_pid(self) -> int:
        with connect(load_settings(self.env), start=False) as client:
            return client.daemon.pid

    def newest(self) -> dict[str, object]:
        batch: dict[str, object] = self("batches", "--json").json()["batches"][0]
        return batch


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One daemon for the tests of this file: each has names of its own for its tasks."""
    with open_shell(tmp_path_factory.mktemp("shell")) as here:
        yield here


@pytest.fixture(scope="module")
def empty_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """For the tests that are to begin nothing, and look whether something has begun."""
    with open_shell(tmp_path_factory.mktemp("empty")) as here:
        yield here


@pytest.fixture
def own_shell(tmp_path: Path) -> Iterator[Shell]:
    """For a test that kills the daemon."""
    with open_shell(tmp_path) as here:
        yield here


@contextmanager
def open_shell(folder: Path) -> Iterator[Shell]:
    shell = Shell(folder)
    yield shell
    try:
        with connect(load_settings(shell.env), start=False) as client:
            pid = client.daemon.pid
            client.call(DAEMON_STOP, DaemonStopParams(grace=2.0))
            client.wait_until_gone(time.monotonic() + PATIENCE)
        wait_for(lambda: gone(pid))
    except NoDaemon:
        pass


def wait_for(condition: Callable[[], bool], every: float = 0.02) -> None:
    """`every`: seconds, more for a condition that costs something."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "what was waited for did not come"
        time.sleep(every)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def task(name: str, *replies: ScriptedReply, needs: Sequence[str] = (), **more: object) -> dict[str, object]:
    text = prompt(f"Do {name}.", *(replies or (say(f"{name} is done", cost_usd=0.01),)))
    return {"name": name, "prompt": text, **({"needs": list(needs)} if needs else {}), **more}


READ = call("Read", file_path="/etc/hostname")


def test_a_table_in_cells_and_attempts(shell: Shell) -> None:
    """Rows by filter and name, a check that a row's value goes into, what passed, the chosen, the report."""
    rows = shell.work / "rows.csv"
    rows.write_text("id,title,good\na,first {{row.id}},yes\nb,second,no\nc,${{ third }},yes\n")
    (shell.work / "yes").touch()
    told = prompt("Do {{row.title}}.", say("done", cost_usd=0.01))
    common = (
        "batch",
        "--data",
        "rows.csv",
        "--prompt",
        told,
        "--row-name",
        "id",
        "--verify",
        "test -e {{row.good}}",
    )
    ran = shell(*common, "--matrix", "model=opus,haiku", "--attempts", "2", "--best-of", "verify",
                "--filter", "id!=c", "--report", "r.md", "--json")  # fmt: skip
    assert ran.code == ExitCode.VERIFICATION_FAILED, ran.err
    batch = ran.json()
    assert batch["counts"] == {"completed": 4, "verification_failed": 4}
    tasks = {one["name"]: one for one in batch["tasks"]}
    assert list(tasks)[:3] == ["a.opus.1", "a.opus.2", "a.haiku.1"]
    one = tasks["a.haiku.2"]
    assert (one["base"], one["row"], one["cell"], one["attempt"]) == ("a", "1", "model=haiku", 2)
    assert [name for name, one in tasks.items() if one["chosen"]] == ["a.opus.1", "a.haiku.1"]
    opus, haiku = batch["scores"]
    assert (opus["cell"], opus["tasks"], opus["counted"], opus["passed"]) == ("model=opus", 2, 4, 2)
    assert [(rate["k"], rate["rate"], rate["tasks"]) for rate in haiku["rates"]] == [(1, 0.5, 2), (2, 0.5, 2)]
    assert opus["rates"][0]["low"] < 0.5 < opus["rates"][0]["high"]
    report = (shell.work / "r.md").read_text()
    assert "## Pass rates" in report
    assert "| model=haiku | 2 | 2 of 4 | 0.500 (0.095-0.905) | 0.500 (0.095-0.905) |" in report
    shown = shell("batch", "show", batch["id"])
    assert "pass@2 (95 %)" in shown.out
    assert "a.opus.1 (chosen)" in shown.out
    assert "attempts at one task share a folder" in shown.out
    planned = shell(*common, "--attempts", "2", "--limit", "1", "--plan", "--fresh")
    assert "  table    " in planned.out
    assert "rows.csv, at most 1; 2 attempts" in planned.out
    # With one that passed of each, the batch has done its work.
    ran = shell(*common, "--attempts", "2", "--best-of", "vote", "--filter", "id=c", "--fresh")
    assert ran.code == ExitCode.COMPLETED, ran.err


def test_a_batch_is_steered_from_the_shell(shell: Shell) -> None:
    """What failed is done again once its check can pass; what that was is in the audit."""
    tasks = [task("first", verify=["test -e there"]), task("second", needs=["first"]), task("third")]
    ran = shell("batch", "--file", shell.file(tasks), "--json")
    assert ran.code == ExitCode.VERIFICATION_FAILED, ran.err
    batch = ran.json()["id"]
    assert shell("batch", "requeue", batch, "--errored").code == ExitCode.USAGE
    (shell.work / "there").touch()
    done = shell("batch", "requeue", batch, "--reason", "the file is there", "--json")
    assert (done.code, done.json()["changed"]) == (0, 2), done.err
    assert shell("batch", "show", batch, "--follow").code == ExitCode.COMPLETED
    assert shell.newest()["counts"] == {"completed": 3}
    assert "the file is there" in shell("audit", batch).out
    refused = shell("batch", "set", batch, "--max-cost", "3")
    assert (refused.code, "its limits cannot be changed" in refused.err) == (ExitCode.USAGE, True)
    assert "all its tasks have ended" in shell("batch", "cancel", batch, "first").err


def test_a_detached_table_survives_kills_and_costs_nothing_again(own_shell: Shell) -> None:
    """Rows x attempts with a failing check; the daemon is killed twice; then again from the same file.

    CMS_TEST_ROWS=300 is the full size.
    """
    count = int(os.environ.get("CMS_TEST_ROWS", "3"))
    rows = own_shell.work / "rows.csv"
    rows.write_text("id,good\n" + "".join(f"r{n},{'no' if n % 3 == 0 else 'yes'}\n" for n in range(count)))
    (own_shell.work / "yes").touch()
    told = prompt("Do {{row.id}}.", READ, say("done", cost_usd=0.01).after(0.1))
    words = ("batch", "--data", str(rows), "--prompt", told, "--row-name", "id", "--attempts", "2",
             "--verify", "test -e {{row.good}}", "--max-parallel", "4", "--json")  # fmt: skip
    results = own_shell.folder / "out.jsonl"  # beside the work dir, which is to be the same again
    started = own_shell(*words, "--stagger", "0.01s", "--detach", "--out", str(results))
    assert started.code == 0, started.err
    batch = started.json()["id"]
    for ended in (count // 2, count):
        wait_for(lambda: count_lines(results) >= ended)  # noqa: B023 - called at once
        pid = own_shell.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: gone(pid))  # noqa: B023 - likewise
        own_shell("batches")  # the next command starts another daemon, which goes on with it by itself
    own_shell("batch", "show", batch, "--follow")
    named = [json.loads(line)["name"] for line in results.read_text().splitlines()]
    told_again = own_shell("batch", "requeue", batch, "--errored")
    if told_again.code == 0:
        own_shell("batch", "show", batch, "--follow")
    whole = own_shell("batch", "show", batch, "--json").json()
    assert sorted(named) == sorted(one["name"] for one in whole["tasks"]), "each exactly once"
    bad = len(range(0, count, 3))
    assert whole["counts"] == {"completed": 2 * (count - bad), "verification_failed": 2 * bad}
    (score,) = whole["scores"]
    assert [(rate["k"], round(rate["rate"], 6)) for rate in score["rates"]] == [
        (1, round(1 - bad / count, 6)),
        (2, round(1 - bad / count, 6)),
    ]
    with sqlite3.connect(own_shell.home / "cms.db") as db:
        made = dict(db.execute("SELECT name, json_extract(rest, '$.totalTurns') FROM sessions"))
        ends = "SELECT count(*) FROM interactions WHERE json_extract(rest, '$.outcome') LIKE ?"
        done = [db.execute(ends, (end,)).fetchone()[0] for end in ("completed", "verification_failed")]
    db.close()
    # What was killed before the model had answered is begun anew, in the place of that.
    assert {name for name in made if "~" not in name} == {one["name"] for one in whole["tasks"]}
    assert not any(turns for name, turns in made.items() if "~" in name)
    assert done == [2 * (count - bad), 2 * bad], "no row is done twice"
    again = own_shell(*words, "--fresh")
    assert again.json()["counts"] == whole["counts"], again.err
    assert (again.json()["totalCostUsd"], again.json()["reused"]) == (0.0, 2 * count)
    assert again.json()["scores"][0]["rates"] == score["rates"]


def test_what_is_wrong_with_a_table_is_one_line_and_nothing_begins(empty_shell: Shell) -> None:
    (empty_shell.work / "rows.csv").write_text("title,n\na,1\nb\n")
    (empty_shell.work / "tasks.yaml").write_text("tasks:\n- name: a\n")
    file = empty_shell.file([{"name": "a", "prompt": "${{ matrix.os }} ${{ needs.build.outputs.x }}"}])
    for words, message in (
        (("--prompt", "{{row.titel}}", "--data", "rows.csv"),
         "line 2: {{row.titel}} uses the field 'titel', which the table does not have (did you mean"),
        (("--prompt", "{{row.title}}", "--data", "rows.csv"), "rows.csv: line 3: 1 values for 2 fields"),
        (("--prompt", "x", "--data", "rows.xlsx"), "cannot be read as a table"),
        (("--prompt", "x", "--data", "none.csv"), "--data: there is no file"),
        (("--prompt", "x", "--limit", "3"), "--limit needs a table"),
        (("--prompt", "x", "--best-of", "vote"), "--best-of needs several attempts"),
        (("--prompt", "x", "--attempts", "2", "--best-of", "verify"), "--verify, and task 'task.1' has none"),
        (("--prompt", "x", "--matrix", "modle=a,b"), "did you mean 'model'?"),
        (("--file", "tasks.yaml"), "write tasks as JSON, JSON Lines or TOML"),
        (("--file", "rows.csv"), "give the table with --data"),
        (("--file", file, "--prompt", "x"), "batch needs one of"),
        (("--resume", "x", "--attempts", "2"), "--attempts is for --file"),
        (("--resume", "x", "--push-branches"), "--push-branches is for --file"),
    ):  # fmt: skip
        ran = empty_shell("batch", *words)
        assert ran.code == ExitCode.USAGE, (words, ran.out)
        assert message in ran.err.replace("\n     ", " "), words
    assert empty_shell("batches", "--json").json()["batches"] == []
    assert empty_shell("batch", "--file", file, "--plan").code == ExitCode.COMPLETED


def test_agents_with_a_graph(shell: Shell) -> None:
    """CMS_TEST_AGENTS=24 is the full size."""
    third = int(os.environ.get("CMS_TEST_AGENTS", "6")) // 3
    tasks = [task(f"t{n}") for n in range(2 * third)]
    tasks += [task(f"u{n}", needs=[f"t{n}", f"t{n + third}"]) for n in range(third)]
    first = tasks[2 * third]
    first["prompt"] = f"First said: {{{{needs.t0.response}}}}. {first['prompt']}"
    ran = shell("batch", "--file", shell.file(tasks), "--max-parallel", "6", "--out", "out.jsonl",
                "--report", "r.md")  # fmt: skip
    assert ran.code == ExitCode.COMPLETED, ran.err
    lines = ran.out.splitlines()
    assert sorted(line.split()[1] for line in lines[: len(tasks)]) == sorted(
        str(one["name"]) for one in tasks
    )
    assert f"{len(tasks)} completed of {len(tasks)} tasks" in ran.out
    assert ran.err == "", "quiet in a pipe"
    written = [json.loads(line) for line in (shell.work / "out.jsonl").read_text().splitlines()]
    assert {line["name"]: line["response"] for line in written}["t3"] == "t3 is done"
    assert f"u{third - 1}" in (shell.work / "r.md").read_text()
    batch = shell.newest()
    assert (batch["status"], batch["exitCode"]) == ("completed", 0)
    shown = shell("batch", "show", str(batch["id"])[:-1], "--json").json()
    assert [one["name"] for one in shown["tasks"]] == [one["name"] for one in tasks]
    assert {one["status"] for one in shown["tasks"]} == {"completed"}
    history = shell("history", "u0", "--full")
    assert "First said: t0 is done." in history.out
    ours = {one["name"] for one in tasks}
    sessions = [one for one in shell("list", "--json").json()["sessions"] if one["name"] in ours]
    assert {session["status"] for session in sessions} == {"completed"}, "stopped, and can be continued"
    again = shell("batch", "--file", shell.file(tasks))
    assert again.code == ExitCode.USAGE
    assert "there is a session 't0' already" in again.err
    fresh = shell("batch", "--file", shell.file(tasks[:1]), "--fresh", "--keep-alive", "--json")
    assert fresh.code == ExitCode.COMPLETED
    statuses = {one["name"]: one["status"] for one in shell("list", "--json").json()["sessions"]}
    assert (statuses["t0"], statuses["t0~1"], statuses["t1"]) == ("ready", "completed", "completed")
    assert shell("send", "t0", "Still there?").code == 0
    assert "t0~1" in shell("cost").out
    both = shell("batch", "show", "t")
    assert (both.code, " batches start with 't'" in both.err) == (ExitCode.USAGE, True), both.err


def test_failures_are_told_and_give_the_exit_code(shell: Shell) -> None:
    """On stdout, later by `batch show`, to commands and by a web hook."""
    tasks = [
        task("well"),
        task("refused", say("no").failing(400, times=9, message="prompt is odd")),
        task("after", needs=["refused"]),
        task("again", say("fine").failing(400, times=9), retries=1),
    ]
    with receiver() as (address, heard):
        ran = shell("batch", "--file", shell.file(tasks, "tasks.jsonl"), "--json", "--webhook", address,
                    "--on-done", "cat > done.json; exit 3",
                    "--on-fail", "cat >> fail.jsonl; echo >> fail.jsonl")  # fmt: skip
    assert ran.code == ExitCode.FAILED
    whole = ran.json()
    assert {one["name"]: one["status"] for one in whole["tasks"]} == {
        "well": "completed",
        "refused": "failed",
        "after": "skipped",
        "again": "failed",  # the fault of the script comes again with a new session
    }
    assert "prompt is odd" in str({one["name"]: one["error"] for one in whole["tasks"]}["refused"])
    assert {one["name"]: one["tries"] for one in whole["tasks"]}["again"] == 2
    shown = shell("batch", "show", str(shell.newest()["id"]), "--failed")
    assert "after  skipped: it needs 'refused', which ended failed" in shown.out
    assert "well" not in shown.out.partition("\n\n")[0]

    own = shell.work / "own"
    own.touch()
    assert (shell.work / "done.json").stat().st_mode == own.stat().st_mode, "not the daemon's umask"
    done = json.loads((shell.work / "done.json").read_text())
    assert (done["event"], done["batch"]["status"]) == ("done", "failed")
    lines = [json.loads(line) for line in (shell.work / "fail.jsonl").read_text().splitlines()]
    assert {one["name"] for line in lines for one in line["tasks"]} == {"refused", "again"}
    assert {str(heard.get_nowait()["event"]) for _ in range(heard.qsize())} == {"done", "fail"}
    assert "--on-done: exit status 3" in str(shell.newest()["warnings"]), "told, and no more than that"


@pytest.mark.parametrize("flags", [(), ("--foreground",)])
def test_ctrl_c_brings_it_to_rest_and_resume_goes_on(shell: Shell, flags: tuple[str, ...]) -> None:
    part = "f" if flags else "d"
    quick, slow, later = (f"{what}{part}" for what in ("quick", "slow", "later"))
    tasks = [
        task(quick),
        task(slow, READ, say("slow is done", cost_usd=0.01).after(600)),
        task(later),
    ]
    words = ("batch", "--file", shell.file(tasks), "--max-parallel", "1", *flags)
    with shell.start(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[1] == quick
        database = shell.home / "cms.db"
        wait_for(lambda: slow in running(database))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == ExitCode.INTERRUPTED, (out, err)
    assert "stopped" in out
    batch = shell.newest()
    assert (batch["status"], batch["stoppedBy"]) == ("stopped", "asked")
    shown = shell("batch", "show", str(batch["id"]), "--json").json()
    statuses = {one["name"]: one["status"] for one in shown["tasks"]}
    assert statuses == {quick: "completed", slow: "waiting", later: "waiting"}
    # It goes on in its own conversation, which has no script any more and answers at once.
    ran = shell("batch", "--resume", str(batch["id"]), *flags)
    assert ran.code == ExitCode.COMPLETED, ran.out + ran.err
    assert "3 completed of 3 tasks" in ran.out
    told = shell("history", slow, "--json").json()["interactions"]
    assert [one["type"] for one in told] == ["delegate", "continue"]
    assert len(shell("history", quick, "--json").json()["interactions"]) == 1, "done is not done again"


def running(database: Path) -> set[str]:
    """Tasks whose agents have used a tool, by the store."""
    db = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        rows = db.execute(
            "SELECT s.name FROM decisions AS d JOIN sessions AS s ON s.id = d.session_id"
            " WHERE d.tool = 'Read'"
        ).fetchall()
    except sqlite3.OperationalError:
        return set()  # the daemon is just making its tables
    finally:
        db.close()
    return {name for (name,) in rows}


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_pause_resume_cancel(shell: Shell) -> None:
    tasks = [task(f"slowly{n}", say("done").after(0.5)) for n in range(6)]
    shell("batch", "--file", shell.file(tasks), "--max-parallel", "1", "--detach")
    batch_id = str(shell.newest()["id"])
    paused = shell("batch", "pause", batch_id, "--json").json()
    assert paused["status"] == "paused"
    wait_for(lambda: "running" not in str(shell.newest()["counts"]), every=0.1)
    assert shell.newest()["status"] == "paused"
    shell("batch", "resume", batch_id)
    assert shell.newest()["status"] == "running"
    cancelled = shell("batch", "cancel", batch_id, "--json").json()
    assert cancelled["status"] == "cancelled"
    counts = cancelled["counts"]
    assert sum(counts.values()) == 6
    assert "running" not in counts
    assert "waiting" not in counts
    assert shell("batch", "resume", batch_id).code == ExitCode.USAGE
    assert shell("batch", "show", "nothing").code == ExitCode.NOT_FOUND


def test_refused_credentials_stop_it(shell: Shell) -> None:
    tasks = [task(f"refused{n}", say("never").failing(401, times=50)) for n in range(4)]
    ran = shell("batch", "--file", shell.file(tasks), "--max-parallel", "2", "--json")
    whole = ran.json()
    assert ran.code == ExitCode.FAILED
    assert (whole["status"], whole["stoppedBy"]) == ("stopped", "auth")
    assert {one["status"] for one in whole["tasks"]} == {"waiting"}
    assert "refused the credentials" in str(whole["reason"])


def test_a_plan_starts_nothing(empty_shell: Shell) -> None:
    name = empty_shell.file([task("a", maxCost=0.5), task("b", needs=["a"], maxCost=0.5)])
    fits = empty_shell("batch", "--file", name, "--plan", "--json")
    assert fits.code == ExitCode.COMPLETED
    assert fits.json()["costLimit"] == 1.0
    tight = empty_shell("batch", "--file", name, "--plan", "--max-cost", "0.2")
    assert tight.code == ExitCode.USAGE
    assert "could never start" in tight.out
    assert empty_shell("batches").out.startswith("no batches yet")
    assert "no sessions yet" in empty_shell("list").out


def test_mistakes_are_told_all_at_once(empty_shell: Shell) -> None:
    path = empty_shell.work / "bad.jsonl"
    path.write_text(
        '{"name":"a"}\n{"name":"b","prompt":"x","modle":"opus"}\n{"name":"c","prompt":"x","workDir":"nope"}\n'
    )
    ran = empty_shell("batch", "--file", str(path))
    assert ran.code == ExitCode.USAGE
    assert "line 1: task 'a' has no prompt" in ran.err
    assert "line 2: unknown key 'modle' (did you mean 'model'?)" in ran.err
    assert "line 3: task 'c': workDir:" in ran.err
    assert "nothing was started" in ran.err
    ring = empty_shell.file([task("a", needs=["b"]), task("b", needs=["a"]), task("a")], "ring.json")
    assert "line 1: there is already a task 'a' (line 1)" in empty_shell("batch", "--file", ring).err
    ring = empty_shell.file([task("a", needs=["b"]), task("b", needs=["a"])], "ring.jsonl")
    assert "tasks need each other in a circle: 'a' (line 1) needs 'b' (line 2) needs 'a'" in (
        empty_shell("batch", "--file", ring).err
    )
    assert empty_shell("batches").out.startswith("no batches yet")
    assert empty_shell("batch").code == ExitCode.USAGE
    assert empty_shell("batch", "--file", "-", stdin="[]").err.count("there is no task in it") >= 1


def test_a_client_that_is_killed_brings_its_batch_to_rest(shell: Shell) -> None:
    tasks = [task(f"slow{n}", READ, say("late").after(600)) for n in range(2)]
    with shell.start("batch", "--file", shell.file(tasks), "--max-parallel", "1") as process:
        database = shell.home / "cms.db"
        wait_for(database.exists)
        wait_for(lambda: "slow0" in running(database))
        process.kill()
    wait_for(lambda: shell.newest()["status"] == "stopped", every=0.2)
    assert shell.newest()["counts"] == {"waiting": 2}


def test_a_terminal_gets_a_status_line_that_leaves_no_trace(shell: Shell) -> None:
    tasks = [task(f"shown{n}", say("done", cost_usd=0.01).after(1.0)) for n in range(2)]
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cms", "batch", "--file", shell.file(tasks), "--max-parallel", "1"],
        cwd=shell.work,
        env={**shell.env, "TERM": "xterm", "COLUMNS": "80", "LANG": "C.UTF-8", "NO_COLOR": "1"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    raw = b""
    try:
        while data := os.read(master, 65536):
            raw += data
    except OSError:  # EIO: the last process that held the terminal has ended
        pass
    os.close(master)
    assert process.wait(PATIENCE) == 0
    text = raw.decode()
    assert "░ 1/2  1 running" in text
    left = "\n".join(line.rsplit("\r\x1b[2K", 1)[-1] for line in text.replace("\r\n", "\n").split("\n"))
    assert "░" not in left
    assert left.startswith("✓ shown0  $0.0050  ")
    assert all(len(part) < 80 for part in re.split("[\r\n]+", text) if " running " in part)
