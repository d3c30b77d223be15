"""Batches over several hosts, as people run them: an engine, nodes and a head, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cms.batch.address import parse
from cms.batch.remote import MOST
from cms.nodes.engine import connect
from cms.nodes.state import Claim
from cms.testing.script import call
from nodes.kit import Head, Host, Proxy, Server, eventually, sleeps, task

Hosts = Callable[[str], Any]


def test_a_batch_over_two_nodes_goes_on_when_the_engine_is_killed(
    server: Server, head: Head, node: Host, hosts: Hosts
) -> None:
    one, two = node, hosts("two")
    label = "both"
    two.start_node(server.url(), "--labels", label)
    marks = head.work_dir / "marks-of-both"
    marks.mkdir()
    # Four at once: neither node has the slots for all of them.
    wait = f"until test -e {marks}/go; do sleep 0.05; done"
    tasks = [task(f"t{n}", call("Bash", command=f"echo x >> {marks}/{n}; {wait}")) for n in range(4)]
    tasks.append(task("last", needs=["t0", "t3"], prompt="x {{needs.t0.response}}"))
    running = head.begin(tasks, server.url(heartbeat=20), "--labels", label, "--max-cost", "6")
    eventually(lambda: len(list(marks.iterdir())) == 4, "they are at work")
    server.kill()
    time.sleep(1)
    server.start()
    (marks / "go").write_text("x\n")
    out, err = running.communicate(timeout=40)
    assert running.returncode == 0, (out, err)
    done = json.loads(out)
    assert done["counts"] == {"completed": 5}
    assert {path.read_text() for path in marks.iterdir()} == {"x\n"}, "each is begun once"
    nodes = {str(each["node"]) for each in done["tasks"]}
    assert nodes == {one.node_id, two.node_id}
    claims = claims_of(one, done["id"]) + claims_of(two, done["id"])
    assert len(claims) == 5
    assert all(claim.told and claim.done is not None for claim in claims)

    assert all(abs(seen - time.time()) < 60 for seen in asyncio.run(clocks(server)))

    both = head.batch([task("g")], server.url(), "--labels", f"gpu,{label}")
    assert [each["node"] for each in both.list("tasks")] == [one.node_id]
    fleet = head.ok("fleet", "--on", server.url(), "--json").list("nodes")
    assert {one.node_id, two.node_id} <= {str(each["id"]) for each in fleet}
    wrong = head.batch([task("a")], server.url(), "--labels", "gpu,tpu")
    assert wrong.code == 2
    assert "all of the labels 'gpu,tpu'" in wrong.err
    wrong = head.batch([task("a", isolate="auto")], server.url(), "--label", label)
    assert wrong.code == 2
    assert "--isolate" in wrong.err
    both_ways = {"isolate": "auto", "apply": "on-pass"}
    wrong = head.batch([task("a", **both_ways)], server.url(), "--repo", "file:///x")
    assert wrong.code == 2
    assert "--apply" in wrong.err

    two.ok("node", "drain", "--wait")
    assert two.node.wait(20) == 0
    assert two.cms("node", "status").code == 11


def claims_of(node: Host, batch: object) -> list[Claim]:
    return [claim for claim in node.claims() if claim.id.startswith(f"{batch}/")]


async def clocks(server: Server) -> list[float]:
    """The engine's own, as it is told to who knows of no node, and to who does."""
    engine = await connect(parse(server.url()))
    alone = await engine.now()
    assert await engine.cards()
    return [alone, await engine.now()]


def test_nodes_that_are_killed_frozen_and_cut_off(server: Server, head: Head, hosts: Hosts) -> None:
    """What each had begun is ended before anybody calls it lost: by its daemon, by its lease, by itself."""
    killed, frozen, cut = hosts("killed"), hosts("frozen"), hosts("cut")
    url, proxy = server.url(heartbeat=6), Proxy(server.port)
    killed.start_node(url, "--labels", "faults", slots=1)
    frozen.start_node(url, "--labels", "faults", slots=1)
    cut.start_node(url.replace(str(server.port), str(proxy.port)), "--labels", "faults", slots=1)
    marks = head.work_dir / "marks-of-long"
    marks.mkdir()
    tasks = [task(f"long{number}", sleeps(60, marks / f"{number}"), maxCost=0.25) for number in range(3)]
    tasks.append(task("quick"))
    running = head.begin(tasks, url, "--label", "faults", "--max-cost", "3")
    eventually(lambda: len(list(marks.iterdir())) == 3, "each node has a task")
    rest = hosts("rest")
    rest.start_node(url, "--labels", "faults")
    proxy.cut = True
    frozen.node.send_signal(signal.SIGSTOP)
    killed.node.send_signal(signal.SIGKILL)
    eventually(lambda: not killed.sleepers(), "its daemon has ended what was the node's", 5)
    eventually(lambda: not cut.sleepers() and not frozen.sleepers(), "they are fenced", 10)
    assert running.poll() is None, "somebody called them lost while they may have been at work"
    out, _ = running.communicate(timeout=60)
    batch = json.loads(out)
    assert running.returncode == 1
    assert {path.read_text() for path in marks.iterdir()} == {"x\n"}
    proxy.cut = False
    frozen.node.send_signal(signal.SIGCONT)
    by_node = {each["node"]: each for each in batch["tasks"] if each["name"].startswith("long")}
    assert by_node.keys() == {killed.node_id, frozen.node_id, cut.node_id}
    assert by_node[killed.node_id]["status"] == "lost"
    for node in (frozen, cut):
        eventually(lambda node=node: _left(node).done is not None, "it has its receipt")  # type: ignore[misc]
        claim = _left(node)
        assert claim.done.result.receipt is not None
        # On a busy machine a node may have been cut off before it was cut: then the engine has heard of it.
        assert claim.told == (by_node[node.node_id]["status"] == "interrupted")
        assert claim.told <= claim.done.fenced
    lost = [each for each in by_node.values() if each["status"] == "lost"]
    assert all("no heartbeat" in each["error"] and not each["costExact"] for each in lost)
    assert batch["counts"]["completed"] == 1

    # What is lost is begun anew where somebody says so.
    mark = head.work_dir / "mark-again"
    again = task("again", sleeps(60, mark))
    running = head.begin([again], server.url(heartbeat=3), "--label", "faults", "--rerun-lost")
    left = [frozen, cut, rest]
    eventually(lambda: any(host.sleepers() for host in left), "it is at work")
    (first,) = (host for host in left if host.sleepers())
    first.node.send_signal(signal.SIGKILL)
    left.remove(first)
    eventually(lambda: any(host.sleepers() for host in left), "it is begun anew")
    assert mark.read_text() == "x\nx\n", "once"
    assert not first.sleepers()
    begun = time.monotonic()
    running.send_signal(signal.SIGINT)
    eventually(lambda: not any(host.sleepers() for host in left), "a cancel reaches it", 10)
    assert time.monotonic() - begun < 5
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert json.loads(out)["tasks"][0]["tries"] == 2
    proxy.close()


def _left(node: Any) -> Any:
    """The claim of a node's long task."""
    return next(claim for claim in node.claims() if "/long" in claim.id)


def test_each_task_has_a_checkout_of_its_own(server: Server, head: Head, node: Host, tmp_path: Path) -> None:
    """Of a folder with work that is not committed; what each changes comes back as a patch."""
    head.git("init", "-q", "-b", "main")
    (head.work_dir / "old").write_text("one\n")
    (head.work_dir / "binary").write_bytes(bytes(range(256)))
    head.git("add", ".")
    head.git("commit", "-q", "-m", "first")
    (head.work_dir / "old").write_text("not committed\n")
    (head.work_dir / "shared").mkdir()
    (head.work_dir / ".gitignore").write_text("shared\nignored\n*.json\nother\n")
    other = head.work_dir / "other"
    other.mkdir()
    (other / "theirs").write_text("two\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "other"]):
        head.git("-C", str(other), *words)
    evil = "git config core.fsmonitor 'touch ../evil'; git config filter.x.clean 'touch ../evil'; echo 1 > x"
    tasks = [
        task(
            "edits",
            call("Bash", command="cat old > new; echo more >> old; rm binary; touch ignored"),
            isolate="auto",
        ),
        task("nothing"),
        task("evil", call("Bash", command=f"{evil}; echo '* filter=x' > .gitattributes")),
        task("other", call("Bash", command="cat theirs > copy"), repo=f"file://{other}"),
    ]
    ran = head.batch(tasks, server.url(), "--repo", ".", "--artifacts", "shared")
    assert ran.code == 0, ran.out
    patches = {str(each["name"]): str(each["patch"]) for each in ran.list("tasks")}
    assert not patches["nothing"]
    assert "+++ b/x" in Path(patches["evil"]).read_text()
    assert "+two" in Path(patches["other"]).read_text()
    eventually(lambda: not list(node.home.with_name("cms-work").iterdir()), "what was told is cleared away")
    assert not list(node.root.rglob("evil"))
    head.git("add", "old")
    head.git("apply", "--index", patches["edits"])
    assert (head.work_dir / "old").read_text() == "not committed\nmore\n"
    assert (head.work_dir / "new").read_text() == "not committed\n"
    assert not (head.work_dir / "binary").exists()
    assert not (head.work_dir / "ignored").exists()

    # What is too large to travel comes by the branch that each task's change is pushed to.
    large = task("large", call("Bash", command="seq 300000 > numbers"))
    url = f"file://{other}"
    tasks = [large, task("gone", repo=f"file://{tmp_path}/none")]
    ran = head.batch(tasks, server.url(), "--repo", url, "--push-branches")
    assert ran.code == 1, ran.out
    told, gone = ran.list("tasks")
    assert (told["status"], gone["status"]) == ("completed", "failed")
    assert "git: fatal" in str(gone["error"])
    assert Path(str(told["patch"])).stat().st_size > MOST
    head.git("-C", str(other), "checkout", "-q", str(told["branch"]))
    head.git("-C", str(other), "checkout", "-q", "-")
    head.git("-C", str(other), "apply", str(told["patch"]))
    assert (other / "numbers").read_text().endswith("\n300000\n")
    refused = head.batch([task("a")], server.url(), "--repo", ".", "--artifacts", "shared", "--push-branches")
    assert refused.code == 2
    assert "--push-branches needs a repository" in refused.err

    assert head.batch([task("a")], server.url(), "--repo", "ext::sh -c evil").code == 2
    assert head.batch([task("a")], server.url(), "--repo", ".").code == 2, "no folder to put the bundle"
    here = head.cms("batch", "--file", head.file([task("a", repo="file:///x")]))
    assert here.code == 2
    assert "repo is for nodes (--on URL)" in here.err


def test_a_head_dies_and_moves_to_another_home(server: Server, node: Host, hosts: Hosts) -> None:
    head, url = hosts("head"), server.url()
    marks = head.work_dir / "marks"
    marks.mkdir()
    moved = [task("moved", sleeps(4, marks / "moved")), task("rest", needs=["moved"])]
    left = [task("left", sleeps(60, marks / "left"))]
    running = [head.begin(moved, url, "--max-cost", "3"), head.begin(left, url, file="left.json")]
    eventually(lambda: len(list(marks.iterdir())) == 2, "two are at work")
    head.kill_daemon()
    for child in running:
        child.communicate(timeout=20)
    other = hosts("head-2")
    shutil.copytree(head.home, other.home, ignore=shutil.ignore_patterns("*.sock"))
    assert len(node.sleepers()) == 2, "what is at work goes on"
    ran = other.cms("batch", "--resume", "tasks", "--json", timeout=40)
    assert ran.code == 0, ran
    assert ran.json()["counts"] == {"completed": 2}
    # The other one is brought up again, too: it hears the same, and begins nothing twice.
    again = head.cms("batch", "--resume", "tasks", "--json", timeout=40)
    assert again.json()["counts"] == {"completed": 2}
    # What a dead head has left at work can be cancelled, too.
    assert len(node.sleepers()) == 1
    head.ok("batch", "cancel", "left")
    assert not node.sleepers()
    assert head.counts("left") == {"interrupted": 1}
    assert {path.read_text() for path in marks.iterdir()} == {"x\n"}
    assert len(claims_of(node, ran.json()["id"])) == 2
    assert len(claims_of(node, head.show("left")["id"])) == 1


def test_an_engine_that_is_not_there(head: Head) -> None:
    ran = head.batch([task("nowhere")], "temporal://127.0.0.1:1/default")
    assert ran.code == 11, ran
    assert "no engine at" in ran.err
    batches = head.ok("batches", "--json").list("batches")
    for url, says in (
        ("redis://127.0.0.1", "not an engine address"),
        ("temporal://u:p@127.0.0.1", "contain a secret"),
    ):
        ran = head.batch([task("never")], url)
        assert ran.code == 2, ran
        assert says in ran.err
    assert head.ok("batches", "--json").list("batches") == batches


def test_a_namespace_that_is_not_there(server: Server, head: Head) -> None:
    url = f"temporal://127.0.0.1:{server.port}/nowhere"
    ran = head.batch([task("no-namespace")], url)
    assert ran.code == 2, ran
    assert "no namespace 'nowhere'" in ran.err
    assert head.cms("node", "--on", url).code == 2
