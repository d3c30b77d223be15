"""Where a session may write: what is found on the disk, and what a stranger's files cannot make of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import cms
from cms.containment import Spec, find_mechanism
from cms.protection.places import Places, find_places, transcript_folder
from cms.protection.protected_paths import ProtectedPaths, find_all_paths, walled
from cms.protection.rules import build_rules
from cms.protection.trusted_base import find_base_files, find_trusted
from cms.session.model import SessionOptions


class World:
    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.work = self.home / "work"
        self.work.mkdir(parents=True)
        self.environ = {"HOME": str(self.home), "PATH": os.defpath}

    def find(self, *opened: str, folder: Path | None = None, **environ: str) -> Places:
        found = find_places([str(folder or self.work)], opened, {**self.environ, **environ})
        assert found is not None
        return found

    def git(self, *words: str, cwd: Path | None = None) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")
        subprocess.run(
            ["git", *identity, *words],
            cwd=cwd or self.work,
            env=self.environ,
            check=True,
            capture_output=True,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_work_dir_is_written_and_the_home_is_a_copy(world: World) -> None:
    found = world.find()
    assert found.writable == (world.work,)
    assert found.covered == (world.home, Path("/tmp"), Path("/var/tmp"), world.home / ".claude")
    names = {str(path.relative_to(world.home / ".claude")) for path in found.lasting}
    assert names == {f"projects/{transcript_folder(str(world.work))}", "file-history", "todos", "tasks"}
    assert all(path.is_dir() for path in found.lasting)


def test_the_root_as_work_dir_is_anywhere(world: World) -> None:
    assert find_places(["/"], (), world.environ) is None


def test_what_a_person_opens(world: World) -> None:
    options = SessionOptions(
        name="x",
        work_dir=str(world.work),
        allow_write=("~/data/**", "/srv/none", ".env", "*.pem", "./sub", "~/*.txt"),
    )
    (world.home / "data").mkdir()
    (world.work / "sub").mkdir()
    opened = build_rules(options, world.environ).opened
    assert opened == (f"{world.home}/data", "/srv/none", f"{world.work}/sub")
    assert world.find(*opened).writable == (world.work, world.home / "data", world.work / "sub")


def test_caches_that_the_environment_moves(world: World, tmp_path: Path) -> None:
    moved = tmp_path / "cargo"
    moved.mkdir()
    found = world.find(CARGO_HOME=str(moved), CLAUDE_CONFIG_DIR=str(tmp_path / "conf"), GOPATH="relative")
    assert {moved, tmp_path / "conf"} <= set(found.covered)
    assert moved in found.caches
    temporary = world.find(TMPDIR=str(moved))
    assert moved in temporary.covered
    assert moved not in temporary.caches, "where there are no copies it is not to be written for real"
    assert tmp_path / "conf" / "todos" in found.lasting


@pytest.mark.parametrize(
    ("work_dir", "name"),
    [("/a/b_c.d", "-a-b-c-d"), ("/" + "x" * 199, "-" + "x" * 199), ("/" + "x" * 200, ""), ("/\u00e9", "")],
)
def test_the_name_of_the_transcripts(work_dir: str, name: str) -> None:
    assert transcript_folder(work_dir) == name


# --- git ----------------------------------------------------------------------------------------------


def test_a_folder_of_a_repository(world: World) -> None:
    world.git("init", "-q")
    sub = world.work / "sub"
    sub.mkdir()
    found = world.find(folder=sub)
    assert found.writable == (sub, world.work / ".git")
    assert found.readable == (world.work,)


def test_a_home_kept_in_git_is_no_repository_of_what_lies_in_it(world: World) -> None:
    world.git("init", "-q", cwd=world.home)
    assert world.find().writable == (world.work,)


def test_a_worktree(world: World) -> None:
    main = world.home / "main"
    main.mkdir()
    world.git("init", "-q", cwd=main)
    world.git("commit", "-q", "--allow-empty", "-m", "one", cwd=main)
    world.git("worktree", "add", "-q", str(world.work / "tree"), cwd=main)
    found = world.find(folder=world.work / "tree")
    git = main / ".git"
    assert set(found.writable) == {
        *(world.work / "tree", git / "worktrees" / "tree"),
        *(git / "objects", git / "refs", git / "logs"),
    }
    assert found.readable == (git,)


def test_a_submodule(world: World) -> None:
    inner, outer = world.home / "inner", world.home / "outer"
    for folder in (inner, outer):
        folder.mkdir()
        world.git("init", "-q", cwd=folder)
        world.git("commit", "-q", "--allow-empty", "-m", "one", cwd=folder)
    world.git("submodule", "add", "-q", str(inner), "sub", cwd=outer)
    assert world.find(folder=outer / "sub").writable == (outer / "sub", outer / ".git" / "modules" / "sub")


@pytest.mark.parametrize("kind", ["plain", "worktree", "submodule", "fifo", "link", "huge"])
def test_a_git_file_opens_no_folder_that_does_not_name_it_back(world: World, kind: str) -> None:
    """It is the agent's to write."""
    target = world.home / ".ssh"
    target.mkdir()
    entry = world.work / ".git"
    if kind == "fifo":
        os.mkfifo(entry)
    elif kind == "link":
        entry.symlink_to(target)
    elif kind == "huge":
        entry.write_text(f"gitdir: {target}\n" * 100_000)
    elif kind == "worktree":
        # Of somebody else: it names its own work tree, and not this one.
        folder = world.home / "other" / ".git" / "worktrees" / "x"
        folder.mkdir(parents=True)
        (folder / "gitdir").write_text(f"{world.home}/other-tree/.git\n")
        (folder / "commondir").write_text("../..\n")
        entry.write_text(f"gitdir: {folder}\n")
    elif kind == "submodule":
        folder = world.home / "outer" / ".git" / "modules" / "x"
        folder.mkdir(parents=True)
        (folder / "config").write_text("[core]\n\tworktree = ../../../x\n")
        entry.write_text(f"gitdir: {folder}\n")
    else:
        entry.write_text(f"gitdir: {target}\n")
    found = world.find()
    assert found.writable == (world.work,)
    assert found.readable == ()


# --- what we run on -----------------------------------------------------------------------------------


def test_what_we_run_on_is_held_where_it_lies_in_the_work_dir(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_trusted([str(world.work)], ()) == ()
    prefix = world.work / ".venv"
    claude = world.work / "node_modules" / "claude"
    for path in (prefix / "bin", claude.parent):
        path.mkdir(parents=True)
    claude.write_text("#!/bin/sh\n")
    claude.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(cms, "__file__", str(prefix / "lib" / "cms" / "__init__.py"))
    assert set(find_trusted([str(world.work)], (str(claude),))) == {prefix, claude}
    # Made in the work dir itself: what of it is no work of the agent's.
    monkeypatch.setattr(sys, "prefix", str(world.work))
    (world.work / "bin").mkdir()
    assert set(find_trusted([str(world.work)], ())) == {world.work / "bin"}
    assert Path(os.path.realpath(sys.base_prefix)) in find_trusted([str(world.work)], (), anywhere=True)


def test_what_we_run_on_is_refused_at_the_gate_and_looked_at_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = world.work / ".venv"
    module = prefix / "lib" / "cms" / "__init__.py"
    for path in (module, prefix / "lib" / "cms" / "daemon.py", prefix / "bin" / "git"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ours\n")
        path.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(cms, "__file__", str(module))
    environ = {**world.environ, "PATH": f"tools:{prefix}/bin:{os.defpath}"}
    rules = build_rules(SessionOptions(name="x", work_dir=str(world.work)), environ)
    assert rules.paths.match(rules.paths.locate(str(module), str))
    paths = find_all_paths(rules, environ)
    assert prefix in paths.protected
    # Not each file's content, but git's settings.
    assert [path for path in paths.watched if path.startswith(f"{prefix}/")] == [f"{prefix}/etc/gitconfig"]
    expected = {module, module.parent / "daemon.py", prefix / "pyvenv.cfg", prefix / "bin" / "git"}
    assert expected | {world.work / "tools" / "git", world.work / "tools" / "bwrap"} <= set(
        map(Path, paths.base)
    )
    assert all(Path(path).is_relative_to(world.work) for path in paths.base)
    everything = set(map(Path, find_base_files(rules.folders, (), environ, anywhere=True)))
    assert {Path(trio.__file__), Path(os.path.realpath(sys.executable))} <= everything


async def test_an_environment_in_the_work_dir_cannot_be_changed(world: World) -> None:
    """Nor be moved out of the way."""
    mechanism = await find_mechanism()
    if not mechanism.guarantees.protected_paths.strong:
        pytest.skip("this machine has no walls")
    module = world.work / ".venv" / "lib" / "cms" / "daemon.py"
    module.parent.mkdir(parents=True)
    module.write_text("ours\n")
    script = "exec 2>/dev/null; echo evil > .venv/lib/cms/daemon.py; mv .venv v; rm -rf .venv; ls -A"
    paths = ProtectedPaths(protected=(world.work / ".venv",), places=world.find())
    spec = Spec(argv=("/bin/sh", "-c", script), env=world.environ, cwd=world.work)
    with trio.fail_after(20):
        async with await mechanism.start(walled(spec, paths)) as container:
            assert await container.stdout.receive_some() == b".venv\n"
    assert module.read_text() == "ours\n"


async def test_an_agent_of_ssh_is_still_there(world: World) -> None:
    import socket

    mechanism = await find_mechanism()
    if not mechanism.guarantees.copy_on_write.strong:
        pytest.skip("this machine has no copy-on-write")
    places = [world.home / name for name in ("agent", "other")]
    listeners = [socket.socket(socket.AF_UNIX) for _ in places]
    for listener, place in zip(listeners, places, strict=True):
        listener.bind(str(place))
        listener.listen()
    source = (
        "import socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try: socket.socket(socket.AF_UNIX).connect(path); print('there')\n"
        "    except OSError: print('gone')\n"
    )
    python = str(Path(sys.executable).resolve())  # noqa: ASYNC240
    found = world.find(SSH_AUTH_SOCK=str(places[0]))
    argv = (python, "-I", "-S", "-c", source, *map(str, places))
    spec = Spec(argv=argv, env=world.environ, cwd=world.work)
    with trio.fail_after(20):
        async with await mechanism.start(walled(spec, ProtectedPaths(places=found))) as container:
            said = b""
            while chunk := await container.stdout.receive_some():
                said += chunk
    for listener in listeners:
        listener.close()
    assert said == b"there\ngone\n"
