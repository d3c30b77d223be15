"""The parts of a node and of its bridge that need no engine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from cms.batch import ends, throttle
from cms.batch.address import Address, parse
from cms.batch.forecast import SESSION_BYTES
from cms.batch.model import Place, Task, TaskOptions, TaskStatus
from cms.batch.remote import (
    MOST,
    Assignment,
    Card,
    Done,
    Repo,
    asked_of,
    branch_name,
    job_id,
    session_name,
    unknown_to,
)
from cms.cli.node_render import fleet_json, fleet_lines, node_lines
from cms.cli.terminal import Style
from cms.errors import UsageError
from cms.fleet import machine
from cms.nodes import artifacts, start
from cms.nodes.checkout import CheckoutError, check_out, checked_out, read_branch
from cms.nodes.engine import Attendance, identity_of
from cms.nodes.look import Overview
from cms.nodes.start import PRESSURE, has_room, memory_pressure, unit
from cms.nodes.state import KEEP, NodeFolder, NodeState
from cms.session.model import DelegateResult, Limits, Outcome, Safety, SessionOptions
from cms.units import MAX_NAME, check_name
from nodes.kit import eventually

CARD = Card("n-1", "host", 2, "0.1", ("gpu",))


def job(prompt: str = "do it", *, folder: str = "", **options: str) -> Assignment:
    made = SessionOptions("t", "/work", **options)  # type: ignore[arg-type]
    return Assignment("b/t/1", "b", "t", "t-1", "0.1", made, prompt, artifacts=folder)


def result(response: str) -> DelegateResult:
    return DelegateResult(
        Outcome.COMPLETED, "t-1", response, None, 0.5, 3, 1000, ("Bash",), True, Safety(), session_id="s"
    )


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("temporal://h", Address("h:7233")),
        ("temporal://h:1/ns", Address("h:1", "ns")),
        ("temporal://[::1]:1/ns?heartbeat=2m", Address("[::1]:1", "ns", 120.0)),
        ("temporal://h/ns?ui=https://u/t/", Address("h:7233", "ns", ui="https://u/t/")),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "h:7233", "http://h", "temporal://", "temporal://h:x", "temporal://h/a/b", "temporal://h#x"),
        *("temporal://h?tls=1", "temporal://h?heartbeat=soon", "temporal://h?heartbeat=1", "temporal://k@h"),
        *(
            "temporal://h?ui=",
            "temporal://h?ui=file:///x",
            "temporal://h?ui=https://k:s@u",
            "temporal://h?ui=//u",
        ),
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_the_engine_s_own_page_is_told() -> None:
    address = parse("temporal://h/ns?ui=https://u/t/")
    assert address.page == "https://u/t/namespaces/ns/activities"
    assert parse("temporal://h").page == ""
    assert str(address) == "temporal://h:7233/ns"
    state = NodeState(CARD, str(address), 1, 0.0, page="https://node/x")
    fleet = Overview("temporal://h:7233/ns", ((CARD, state),), page=address.page)
    style = Style(tty=False, colour=False)
    assert fleet_lines(fleet, 0.0, style)[-1] == f"the engine's page: {address.page}"
    assert fleet_json(fleet)["page"] == address.page
    assert "page" not in "".join(fleet_lines(msgspec.structs.replace(fleet, page=""), 0.0, style)[-1:])
    assert "  page         https://node/x" in node_lines(state, 0.0, style)


def test_a_session_at_a_node_has_a_name_of_its_own() -> None:
    one, two = job_id("b", "t", 1), job_id("b", "t", 2)
    assert session_name("t", one) != session_name("t", two)
    for name in ("n" * MAX_NAME, "t/row 7/cell", "-", "ü"):
        assert check_name(session_name(name, one)).endswith(session_name("t", one)[1:])


class TestArtifacts:
    def test_what_fits_travels_by_itself(self) -> None:
        packed = artifacts.packed(job())
        assert artifacts.unpacked(msgspec.json.decode(packed, type=Assignment)) == job()

    def test_what_is_too_large_goes_beside(self, tmp_path: Path) -> None:
        large = job("x" * 2 * MOST, folder=str(tmp_path), append_system_prompt="be brief")
        packed = artifacts.packed(large)
        assert len(packed) < MOST
        assert artifacts.unpacked(msgspec.json.decode(packed, type=Assignment)) == large

    def test_an_answer_that_is_too_large_goes_beside(self, tmp_path: Path) -> None:
        done = Done("n", "h", result("y" * 2 * MOST))
        packed = artifacts.packed_answer(done, str(tmp_path))
        assert len(packed) < MOST
        decoded = msgspec.json.decode(packed, type=Done)
        assert artifacts.unpacked_answer(decoded, str(tmp_path), 3 * MOST) == done

        with pytest.raises(artifacts.ArtifactError, match="its response is"):
            artifacts.unpacked_answer(decoded, str(tmp_path), MOST)

    def test_a_patch_that_is_too_large_stays_in_its_branch(self) -> None:
        done = Done("n", "h", result("y"), patch="x" * MOST, branch="cms/b/t", commit="c")
        told = msgspec.json.decode(artifacts.packed_answer(done, ""), type=Done)
        assert told == msgspec.structs.replace(done, patch="", fetch=True)
        small = msgspec.structs.replace(done, patch="x")
        assert msgspec.json.decode(artifacts.packed_answer(small, ""), type=Done) == small

    def test_without_a_folder_it_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(artifacts.ArtifactError, match="--artifacts"):
            artifacts.packed(job("x" * 2 * MOST))
        told = msgspec.json.decode(
            artifacts.packed_answer(Done("n", "h", result("y" * 2 * MOST)), ""), type=Done
        )
        assert told.result is not None
        assert told.result.status is Outcome.FAILED
        assert told.result.cost == 0.5
        assert "--artifacts" in (told.result.error or "")

    def test_what_is_not_what_it_was_is_refused(self, tmp_path: Path) -> None:
        digest = artifacts.store(str(tmp_path), b"good")
        (tmp_path / digest[:2] / digest).write_bytes(b"evil")
        with pytest.raises(artifacts.ArtifactError, match="does not have"):
            artifacts.load(str(tmp_path), digest)
        for other in ("../../etc/passwd", "0" * 64, ""):
            with pytest.raises(artifacts.ArtifactError):
                artifacts.load(str(tmp_path), other)


class TestFolder:
    def test_a_claim_is_made_once(self, tmp_path: Path) -> None:
        folder = NodeFolder(tmp_path)
        folder.take()
        assert folder.claim("b/t/1")
        assert not folder.claim("b/t/1")
        assert folder.claim("b/t/2")
        assert not NodeFolder(tmp_path).claim("b/t/1")
        folder.finish("b/t/1", Done("n", "h", result("r")), told=True)
        kept = folder.claimed("b/t/1")
        assert kept is not None
        assert kept.done is not None
        assert kept.told

    def test_claims_outlive_every_engine(self, tmp_path: Path) -> None:
        folder = NodeFolder(tmp_path)
        folder.take()
        folder.claim("b/t/1")
        (first,) = (folder.path / "claims").iterdir()
        at = first.stat().st_mtime
        folder.forget_old(at + 10 * KEEP)
        assert not folder.claim("b/t/1"), "a clock that is wrong today"
        folder.claim("b/t/2")
        os.utime(first, (at - KEEP + 60, at - KEEP + 60))
        folder.forget_old(at)
        assert not folder.claim("b/t/1")
        os.utime(first, (at - KEEP - 60, at - KEEP - 60))
        folder.forget_old(at - KEEP)
        assert not folder.claim("b/t/1"), "or when the newest was made"
        folder.forget_old(at)
        assert folder.claim("b/t/1")
        assert not folder.claim("b/t/2")

    def test_one_node_for_each_home(self, tmp_path: Path) -> None:
        folder, other = NodeFolder(tmp_path), NodeFolder(tmp_path)
        assert other.running() is None
        folder.take()
        with pytest.raises(UsageError, match="already running"):
            other.take()
        assert other.running() is None  # it has said nothing yet
        folder.write(NodeState(CARD, "temporal://h:1/ns", 1, 0.0))
        found = other.running()
        assert found is not None
        assert found.card == CARD
        assert folder.identity() == other.identity()


class TestEnds:
    task = Task(0, "t", 1, TaskStatus.RUNNING, TaskOptions(SessionOptions("t", "/w"), "p"), reserved=2.0)
    place = Place("n", "h", "t-1")

    def test_a_lost_task_is_over_and_its_cost_is_not_known(self) -> None:
        end = ends.lost(self.task, "gone", 0.1, 5.0, self.place, rerun=False)
        assert end.applied(self.task, 9.0).status is TaskStatus.LOST
        assert not end.exact
        assert end.cost == 0.1

    def test_it_is_begun_anew_where_somebody_said_so_but_not_for_ever(self) -> None:
        task, tries = self.task, 0
        while task.status is not TaskStatus.LOST:
            end = ends.lost(task, "gone", 0.0, 5.0, self.place, rerun=True)
            task = end.applied(task, 9.0)
            tries += 1
        assert tries == ends.RERUNS + 1

    def test_who_is_refused_everywhere_fails(self) -> None:
        task = self.task
        for _ in range(ends.REFUSALS - 1):
            end = ends.refused(task, "no container", 0.5)
            assert end.fate.status is TaskStatus.WAITING
            assert end.exact
            task = end.applied(task, 0.0)
        assert ends.refused(task, "no container", 0.5).fate.status is TaskStatus.FAILED


def test_an_option_that_a_node_does_not_know_is_named() -> None:
    options = SessionOptions("t", "/w", safety=False, limits=Limits(max_turns=3))
    asked = asked_of(options)
    assert asked == ("name", "workDir", "limits.maxTurns", "safety")
    assert not unknown_to(options, asked)
    assert unknown_to(options, (*asked, "limits.maxFuel", "fuel", "fuel.kind")) == [
        "limits.maxFuel",
        "fuel",
        "fuel.kind",
    ]


def test_a_repository_by_its_url(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *who, *words], cwd=source, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q", "-b", "main")
    (source / "file").write_text("one\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("tag", "v1")
    (source / "file").write_text("two\n")
    git("commit", "-q", "-a", "-m", "two")
    node, work = tmp_path / "node", tmp_path / "work"
    url = f"file://{source}"
    newest = check_out(Repo.parse(url), node, work, "a", "")
    assert (newest.folder / "file").read_text() == "two\n"
    assert newest.patch() == ""
    older = check_out(Repo.parse(f"{url}#{git('rev-parse', 'v1')}"), node, work, "b", "")
    assert (older.folder / "file").read_text() == "one\n"
    older = check_out(Repo.parse(f"{url}#v1"), node, work, "b", "")
    assert (older.folder / "file").read_text() == "one\n"
    (older.folder / "more").write_text("x\n")
    again = checked_out(Repo.parse(f"{url}#v1"), node, work, "b")
    assert "+++ b/more" in again.patch()
    branch = branch_name("b-1", "a..b-1234")
    commit = again.push(url, branch, "more")
    assert git("rev-parse", branch) == commit
    assert git("rev-parse", f"{branch}^") == git("rev-parse", "v1")
    assert read_branch(url, branch, commit) == again.patch()
    (older.folder / "more").write_bytes("ä\n".encode("latin-1"))
    assert again.push(url, branch, "again") == git("rev-parse", branch) != commit
    with pytest.raises(CheckoutError, match="no longer"):
        read_branch(url, branch, commit)
    git("checkout", "-q", "v1")
    (tmp_path / "patch").write_text(again.patch())
    git("apply", str(tmp_path / "patch"))
    assert (source / "more").read_bytes() == b"\xe4\n", "text in another encoding comes back as it was"
    for there, name in ((url, "main"), (f"file://{tmp_path}/none", branch)):
        with pytest.raises(CheckoutError):
            again.push(there, name, "no")
    older.remove()
    assert not older.folder.exists()
    with pytest.raises(CheckoutError, match="git: fatal"):
        check_out(Repo.parse(f"{url}#none"), node, work, "c", "")


@pytest.mark.parametrize("text", ["ext::sh -c x", "--upload-pack=x", "file:///x#--y", "file:///x#a..b", "x"])
def test_what_is_no_repository(text: str) -> None:
    with pytest.raises(UsageError):
        Repo.parse(text)


def test_who_is_there_is_told_without_a_common_clock() -> None:
    one, two = (msgspec.structs.replace(CARD, id=name) for name in ("n-1", "n-2"))
    for far in (0.0, -3600.0, 1e9):  # from the engine's clock to ours
        there = Attendance()

        def look(
            now: float, first: float, second: float, *, far: float = far, there: Attendance = there
        ) -> str:
            polls = [(identity_of(one), first + far), ("?", far + 1e6), (identity_of(two), second + far)]
            return " ".join(card.id for card in there.take(polls, now))

        assert look(0, 0, -1) == "n-1 n-2"
        assert look(20, 15, -1) == "n-1 n-2"
        assert look(40, 35, -1) == "n-1", "it has not polled for longer than a poll takes"
        assert look(60, 35, 55) == "n-1 n-2"
        assert look(70, 35, 55) == "n-2"
        assert look(90, 35, 55) == ""
        assert not there.take([], 100)
        assert Attendance().take([(identity_of(one), far), (identity_of(two), far - 200)], 0) == (one,)


def test_the_window_follows_the_fleet() -> None:
    now = throttle.initial(10)
    assert throttle.resized(now, 30).window == 30
    narrow = throttle.retried(throttle.resized(now, 30), 100.0)
    assert throttle.resized(narrow, 40).window == narrow.window == 15
    assert throttle.resized(narrow, 4).window == 4


def test_pressure(tmp_path: Path) -> None:
    file = tmp_path / "memory"
    file.write_text(
        "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.00 avg60=0 avg300=0 total=1\n"
    )
    assert memory_pressure(file) == 12.5
    assert memory_pressure(tmp_path / "none") == 0.0
    assert has_room(0) == ""


@pytest.mark.parametrize(
    ("running", "free", "waits", "why"),
    [
        (0, 0, 99.0, ""),  # one is always borne
        (1, 10 * SESSION_BYTES, PRESSURE, ""),
        (1, SESSION_BYTES, 0.0, "memory is low"),
        (1, 10 * SESSION_BYTES, PRESSURE + 1, "programs wait for memory 11 % of the time"),
    ],
)
def test_a_machine_under_pressure_bears_no_more(
    monkeypatch: pytest.MonkeyPatch, running: int, free: int, waits: float, why: str
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    monkeypatch.setattr(start, "memory_pressure", lambda: waits)
    assert has_room(running) == why


def test_the_unit_names_this_python_and_home(tmp_path: Path) -> None:
    text = unit({"CMS_HOME": str(tmp_path)})
    assert f"Environment=CMS_HOME={tmp_path}" in text
    assert "node --on" in text
    assert "KillMode=process" in text, "the daemon outlives the node that has started it"
    assert "RestartSec=10" in text, "five starts in ten seconds, and systemd gives up"


# --- a development server -------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no util-linux")
def test_a_development_server_does_not_outlive_its_node(tmp_path: Path) -> None:
    """Nor does it where nobody can end it any more: the node is killed."""
    (tmp_path / "node").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stand_in = tmp_path / "temporal"
    stand_in.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, signal, socket\n"
        "os.environ['USER']\n"
        f"listener = socket.create_server(('127.0.0.1', {port}))\n"
        "signal.pause()\n"
    )
    stand_in.chmod(0o755)
    node = (
        "import os, signal; from pathlib import Path; from cms.nodes.start import _dev_server\n"
        f"server = _dev_server(Path({str(tmp_path)!r}), {port}, None)\n"
        "print(server.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env.pop("USER", None)  # as for a service; Temporal does not start then
    ran = subprocess.run([sys.executable, "-c", node], env=env, capture_output=True, check=False)
    server = int(ran.stdout)
    eventually(lambda: not psutil.pid_exists(server), "it has gone with its node")
