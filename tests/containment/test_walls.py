"""Protected and hidden paths, against programs that want them, and against the world outside."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import msgspec
import pytest
import trio

from cms.containment import Mechanism, Spec
from cms.errors import ContainmentError
from cms.testing import hostile
from containment.children import ENV, python, read_all, read_until, shell

SANDBOX = pytest.mark.parametrize("sandbox", [False, True], ids=["mild", "sandbox"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A work dir with something in it that must not change."""
    project = tmp_path / "project"
    (project / ".git" / "hooks").mkdir(parents=True)
    (project / ".git" / "config").write_text("original")
    (project / ".git" / "hooks" / "pre-commit").write_text("original")
    (project / "file").write_text("text")
    return project


def walled_in(spec: Spec, project: Path, **more: tuple[Path, ...] | bool) -> Spec:
    return msgspec.structs.replace(spec, writable=(project,), **more)


def state(path: Path) -> tuple[int, int, str]:
    here = path.stat()
    return here.st_ino, here.st_mode, path.read_text()


@SANDBOX
@pytest.mark.parametrize("target", ["file", ".git/config", ".git/hooks/pre-commit"])
async def test_no_attack_changes_a_protected_file(
    walled: Mechanism, project: Path, target: str, sandbox: bool
) -> None:
    path = project / target
    before = state(path)
    beat = project / "beat"
    argv = hostile.command("walls", beat, str(path))
    spec = walled_in(Spec(argv=argv, env=ENV, cwd=project), project, protected=(path,), sandbox=sandbox)
    with trio.fail_after(20):
        async with await walled.start(spec) as container:
            said = (await read_until(container, b"\nready\n")).decode()
            assert await container.verify_mounts() == ()
            assert container.unenforced == ()
    through = [line for line in said.splitlines() if line.endswith("went through")]
    assert state(path) == before, said
    assert not through, said
    assert said.count(":") == 18


async def test_the_attacks_are_attacks(mechanism: Mechanism, project: Path) -> None:
    """Without protection they go through; that shows that the test above can fail."""
    path = project / ".git" / "config"
    argv = hostile.command("walls", project / "beat", str(path))
    with trio.fail_after(20):
        async with await mechanism.start(Spec(argv=argv, env=ENV, cwd=project)) as container:
            said = (await read_until(container, b"\nready\n")).decode()
    assert path.read_text() == "owned"
    for name in ("write", "rename_over", "move_folder", "remove_folder", "temporary_file", "proc_fd"):
        assert f"{name}: went through" in said


@SANDBOX
async def test_a_protected_folder(walled: Mechanism, project: Path, sandbox: bool) -> None:
    hooks = project / ".git" / "hooks"
    script = (
        "touch .git/hooks/new; rm .git/hooks/pre-commit; mv .git/hooks x; mv .git y; rm -rf .git; echo done"
    )
    spec = walled_in(shell(script, project), project, protected=(hooks,), sandbox=sandbox)
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            await read_until(container, b"done\n")
    assert [path.name for path in hooks.iterdir()] == ["pre-commit"]


@SANDBOX
async def test_git_still_works(walled: Mechanism, project: Path, sandbox: bool) -> None:
    """With its config and hooks protected, git still works."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    shutil.rmtree(project / ".git")
    script = (
        "git add file && git commit -qm one && git checkout -qb new && git gc -q && git log --oneline | wc -l"
    )
    env = {**ENV, "HOME": str(project), "GIT_CONFIG_NOSYSTEM": "1"}
    await trio.run_process(["git", "init", "-q", str(project)], env=env)
    for name, value in (("user.name", "n"), ("user.email", "e@example.org")):
        await trio.run_process(["git", "-C", str(project), "config", name, value], env=env)
    protected = (project / ".git" / "config", project / ".git" / "hooks")
    spec = msgspec.structs.replace(
        walled_in(shell(script, project), project, protected=protected, sandbox=sandbox), env=env
    )
    with trio.fail_after(20):
        async with await walled.start(spec) as container:
            assert (await read_all(container.stdout)).strip() == b"1"
            assert await container.wait() == 0


@SANDBOX
async def test_hidden_paths_cannot_be_reached(
    walled: Mechanism, tmp_path: Path, project: Path, sandbox: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "store").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(home / "s"))
    listener.listen()
    source = (
        "import os, socket, sys\n"
        "home, secret = sys.argv[1:]\n"
        "print(os.listdir(home))\n"
        "for attempt in (lambda: socket.socket(socket.AF_UNIX).connect(home + '/s'),\n"
        "                lambda: open(home + '/new', 'w'), lambda: open(home + '/store'),\n"
        "                lambda: os.rename(secret, secret + '2'), lambda: open(secret).read()[0]):\n"
        "    try: attempt(); print('got through')\n"
        "    except (OSError, IndexError) as error: print(type(error).__name__)\n"
    )
    spec = python(source, project, str(home), str(tmp_path / "secret"))
    spec = walled_in(spec, project, hidden=(home, tmp_path / "secret"), sandbox=sandbox)
    with listener, trio.fail_after(10):
        async with await walled.start(spec) as container:
            said = (await read_all(container.stdout)).decode().splitlines()
    assert said[0] == "[]"
    assert len(said) == 6
    assert "got through" not in said
    assert (home / "store").read_text() == "secret"


@SANDBOX
@pytest.mark.parametrize("below", [True, False])
async def test_a_program_inside_of_a_hidden_folder(
    walled: Mechanism, tmp_path: Path, project: Path, sandbox: bool, below: bool
) -> None:
    """As where somebody installs into our own folder, or `claude` into /tmp."""
    home = tmp_path / "home"
    program = home / "bin" / "program" if below else home / "program"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho runs\nls /tmp\n")
    program.chmod(0o755)
    (home / "store").write_text("secret")
    spec = Spec(argv=(str(program), str(home)), env=ENV, cwd=project)
    with trio.fail_after(10):
        async with await walled.start(walled_in(spec, project, hidden=(home,), sandbox=sandbox)) as container:
            assert (await read_all(container.stdout)).startswith(b"runs\n")


@SANDBOX
async def test_a_work_dir_inside_of_a_hidden_folder(walled: Mechanism, tmp_path: Path, sandbox: bool) -> None:
    home = tmp_path / "home"
    work = home / "work"
    work.mkdir(parents=True)
    (home / "store").write_text("secret")
    spec = shell(f"echo x > made; cat {home}/store; ls {home}", work)
    spec = msgspec.structs.replace(spec, hidden=(home,), writable=(work,), sandbox=sandbox)
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            assert await read_all(container.stdout) == b"work\n"
    assert (work / "made").read_text() == "x\n"


@SANDBOX
async def test_a_writable_folder_inside_of_a_protected_one(
    walled: Mechanism, tmp_path: Path, project: Path, sandbox: bool
) -> None:
    inner = project / "inner"
    inner.mkdir()
    (inner / ".env").touch()
    script = "touch ../beside; touch here; echo x > .env; mv ../inner ../moved; echo done"
    spec = Spec(
        argv=("/bin/sh", "-c", script), env=ENV, cwd=inner, writable=(inner,), sandbox=sandbox,
        protected=(project, inner / ".env"),
    )  # fmt: skip
    with trio.fail_after(20):
        async with await walled.start(spec) as container:
            await read_until(container, b"done")
    assert (inner / "here").exists()
    assert not (project / "beside").exists()
    assert (inner / ".env").read_text() == ""


async def test_a_sandbox_writes_only_where_it_may(walled: Mechanism, tmp_path: Path, project: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    script = (
        f"touch {outside}/x; touch /usr/x; touch /etc/x; echo yes > made; echo private > /tmp/p; "
        "echo private > /dev/shm/p && echo x > /dev/null; cat /tmp/p; ls -A /tmp /run"
    )
    spec = walled_in(shell(script, project), project, sandbox=True)
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            said = await read_all(container.stdout)
    assert said.startswith(b"private\n")
    assert list(outside.iterdir()) == []
    assert (project / "made").read_text() == "yes\n"
    places = [Path(name) for name in ("/usr/x", "/etc/x", "/tmp/p", "/dev/shm/p")]
    assert not [place for place in places if os.path.lexists(place)]  # noqa: ASYNC240


async def test_a_rename_from_outside_is_noticed(walled: Mechanism, project: Path) -> None:
    """An editor saves by renaming over: that drops the mount, for everybody."""
    path = project / "file"
    spec = walled_in(shell("cat", project), project, protected=(path,))
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            assert await container.verify_mounts() == ()
            with container.watch_mounts() as changed:
                with trio.move_on_after(0.05) as quiet:
                    await changed()
                assert quiet.cancelled_caught
                (project / "file.new").write_text("saved")
                (project / "file.new").rename(path)
                await changed()
                assert [lost.path for lost in await container.verify_mounts()] == [path]
                with trio.move_on_after(0.05) as quiet:
                    await changed()
                assert quiet.cancelled_caught


async def test_a_missing_path_is_told_and_watched(walled: Mechanism, project: Path) -> None:
    path = project / ".env"
    spec = walled_in(shell("read line; echo x > .env; echo done", project), project, protected=(path,))
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            assert [lost.path for lost in container.unenforced] == [path]
            assert await container.verify_mounts() == ()
            await container.stdin.send_all(b"go\n")
            await read_until(container, b"done\n")
            assert [lost.path for lost in await container.verify_mounts()] == [path]


async def test_a_placeholder_holds_a_missing_path(walled: Mechanism, project: Path) -> None:
    path = project / ".env"
    spec = walled_in(
        shell("echo x > .env || echo refused", project), project, protected=(path,), placeholders=True
    )
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            assert container.unenforced == ()
            assert await read_all(container.stdout) == b"refused\n"
            assert path.read_bytes() == b""
    assert not path.exists()


async def test_a_link_is_told(walled: Mechanism, project: Path) -> None:
    (project / "real").write_text("original")
    (project / "link").symlink_to("real")
    spec = walled_in(shell("echo x > real || echo refused", project), project, protected=(project / "link",))
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            assert [lost.path for lost in container.unenforced] == [project / "link"]
            assert await read_all(container.stdout) == b"refused\n"
    assert (project / "real").read_text() == "original"


async def test_odd_names(walled: Mechanism, project: Path) -> None:
    path = project / "a b\t\\c\n\u00e9"
    path.write_text("original")
    spec = walled_in(
        python("import sys; open(sys.argv[1], 'w')", project, str(path)), project, protected=(path,)
    )
    with trio.fail_after(10):
        async with await walled.start(spec) as container:
            assert await container.verify_mounts() == ()
            assert await container.wait() == 1
    assert path.read_text() == "original"


async def test_a_writable_path_that_is_not_there(walled: Mechanism, project: Path) -> None:
    spec = walled_in(shell("true", project), project / "gone", sandbox=True)
    with pytest.raises(ContainmentError, match="does not exist"):
        await walled.start(spec)


async def test_without_walls_all_of_it_is_told(mechanism: Mechanism, project: Path) -> None:
    if mechanism.guarantees.protected_paths.strong:
        pytest.skip(f"{mechanism.name} has walls")
    paths = (project / "file", project / ".env")
    spec = walled_in(shell("true", project), project, protected=paths[:1], hidden=paths[1:])
    with trio.fail_after(10):
        async with await mechanism.start(spec) as container:
            assert tuple(lost.path for lost in container.unenforced) == paths
