"""Copy-on-write: what a tree writes outside of its own places is seen by it alone, and gone at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trio

import mounting
from cms.containment import Layer, Mechanism, Spec, _mounts
from cms.containment import _probe as probing
from cms.errors import ContainmentError
from cms.testing import hostile
from containment.children import ENV, read_all, read_until, shell


class World:
    """A home with a project in it, and something beside both."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.project = self.home / "src" / "project"
        self.outside = root / "outside"
        self.project.mkdir(parents=True)
        self.outside.mkdir()
        (self.home / ".config").mkdir()
        for path in (self.home / "notes", self.outside / "file", self.home / ".config" / "tool"):
            path.write_text("mine\n")
        (self.project / "code").write_text("old\n")

    def spec(self, script: str, *, cwd: Path | None = None, **more: object) -> Spec:
        spec = shell(script, cwd or self.project)
        spec = msgspec.structs.replace(spec, sandbox=True, writable=(self.project,), covered=(self.home,))
        spec = msgspec.structs.replace(spec, shown=(self.outside,))  # for /tmp is private
        return msgspec.structs.replace(spec, **more)

    def state(self) -> dict[str, str]:
        """Everything that is not the project's."""
        return {
            str(path): path.read_text() if path.is_file() else ""
            for top in (self.home, self.outside)
            for path in top.rglob("*")
            if not path.is_relative_to(self.project)
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def run(mechanism: Mechanism, spec: Spec) -> str:
    with trio.fail_after(20):
        async with await mechanism.start(spec) as container:
            assert await container.verify_mounts() == ()
            return (await read_all(container.stdout)).decode()


async def test_only_the_work_dir_is_written(walled: Mechanism, world: World) -> None:
    before = world.state()
    script = (
        "echo new > code; echo copy > ~/notes; cat ~/notes; mkdir -p ~/.cache/x && echo c > ~/.cache/x/y\n"
        "rm ~/.config/tool; mv ~/.config ~/moved; ls -A ~\n"
        f"echo x 2>/dev/null > {world.outside}/file; cat {world.outside}/file"
    )
    spec = world.spec(script, env={**ENV, "HOME": str(world.home)})
    said = await run(walled, spec)
    assert said == "copy\n.cache\nmoved\nnotes\nsrc\nmine\n"
    assert (world.project / "code").read_text() == "new\n"
    assert world.state() == before


async def test_no_attack_reaches_what_is_covered(walled: Mechanism, world: World) -> None:
    """Every way known to change a file: here each changes a copy."""
    target = world.home / ".config" / "tool"
    before = world.state()
    argv = hostile.command("walls", world.project / "beat", str(target))
    with trio.fail_after(20):
        async with await walled.start(world.spec("", argv=argv)) as container:
            said = (await read_until(container, b"\nready\n")).decode()
    assert said.count(":") == 18
    assert "\nwrite: went through" in f"\n{said}"
    assert world.state() == before, said


async def test_nothing_is_carried_across(walled: Mechanism, world: World) -> None:
    """A hard link or a rename from a copy into the work dir, a bind mount, the cover taken away."""
    (world.project / "link").symlink_to(world.outside / "file")
    attempts = (
        f"ln {world.home}/notes linked",
        f"ln {world.outside}/file linked",
        f"mv -T {world.home}/src {world.home}/gone",
        f"umount {world.home}",
        f"umount -l {world.home}",
        f"mount --bind {world.outside} {world.home}",
        f"mount -o remount,rw,bind {world.outside}",
        f"unshare -rm umount -l {world.home}",
        f"rm -f {world.outside}/file",
        f"touch {world.outside}/new",
        "echo evil > link",
        f"mv code {world.outside}/file",
    )
    before = world.state()
    script = "\n".join(f"({attempt}) 2>/dev/null && echo through: '{attempt}'" for attempt in attempts)
    assert await run(walled, world.spec(f"{script}\necho done")) == "done\n"
    assert world.state() == before
    assert sorted(path.name for path in world.project.iterdir()) == ["code", "link"]


async def test_the_place_itself_keeps_its_mode(walled: Mechanism, world: World) -> None:
    world.home.chmod(0o1777)
    assert await run(walled, world.spec(f"stat -c %a {world.home}")) == "1777\n"


@pytest.mark.parametrize("name", ["a,b", "a:b", "a\\b", "a b", "a\nb", "\u00e9"])
async def test_odd_names(walled: Mechanism, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    world = World(tmp_path / name)
    assert await run(walled, world.spec("echo x > ../../notes; cat ../../notes; echo y > code")) == "x\n"
    assert (world.home / "notes").read_text() == "mine\n"
    assert (world.project / "code").read_text() == "y\n"


# --- where the work dir and the home may lie ----------------------------------------------------------


async def test_a_home_that_is_a_link(walled: Mechanism, world: World) -> None:
    home = world.outside / "link"
    home.symlink_to(world.home)
    script = f"echo x > {home}/notes; cat {home}/notes; echo y > code"
    spec = world.spec(script, covered=(home,), writable=(home / "src" / "project",))
    assert await run(walled, spec) == "x\n"
    assert (world.home / "notes").read_text() == "mine\n"
    assert (world.project / "code").read_text() == "y\n"


async def test_a_work_dir_that_is_the_home(walled: Mechanism, world: World) -> None:
    """It is the work dir that counts; a folder in it can still be covered, and keeps its name."""
    claude = world.home / ".config" / "claude"
    claude.mkdir()
    (claude / "settings").write_text("mine\n")
    script = (
        "echo x > notes; echo x > .config/claude/settings; cat .config/claude/settings\n"
        "mv .config c 2>/dev/null && echo moved; mv .config/claude c 2>/dev/null && echo moved; true"
    )
    spec = world.spec(script, cwd=world.home, writable=(world.home,), covered=(world.home, claude))
    assert await run(walled, spec) == "x\n"
    assert (world.home / "notes").read_text() == "x\n"
    assert (claude / "settings").read_text() == "mine\n"


async def test_a_home_inside_of_another_cover(walled: Mechanism, world: World, tmp_path: Path) -> None:
    """As /tmp is, where the home lies in it: one cover does."""
    script = f"echo x > ~/notes; cat ~/notes; touch {tmp_path}/new && ls {tmp_path}"
    spec = world.spec(script, covered=(world.home, tmp_path), env={**ENV, "HOME": str(world.home)})
    assert await run(walled, spec) == "x\nhome\nnew\noutside\n"
    assert not (world.home.parent / "new").exists()
    assert (world.home / "notes").read_text() == "mine\n"


async def test_a_folder_of_its_own_below_one_of_another_user_s(walled: Mechanism, world: World) -> None:
    """As pam_tmpdir makes /tmp/user/1000: the kernel copies no folder of a strange owner's."""
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    middle, own = world.outside / "user", world.outside / "user" / "1000"
    own.mkdir(parents=True)
    (own / "file").write_text("mine\n")
    os.chown(middle, 12345, 12345)
    script = (
        f"echo x > {own}/file; cat {own}/file; mktemp -d {own}/XXXX > /dev/null && echo made; echo y > code"
    )
    assert await run(walled, world.spec(script, covered=(world.outside, own))) == "x\nmade\n"
    assert [path.name for path in own.iterdir()] == ["file"]
    assert (own / "file").read_text() == "mine\n"


async def test_what_is_not_there_is_left_out(walled: Mechanism, world: World) -> None:
    spec = world.spec("echo fine", covered=(world.home, world.home / "gone", Path("/")))
    assert await run(walled, spec) == "fine\n"


async def test_protected_and_hidden_paths_below_a_cover(walled: Mechanism, world: World) -> None:
    (world.home / "secret").mkdir()
    (world.home / "secret" / "key").write_text("key")
    script = "echo x 2>/dev/null > ../../.config/tool; cat ../../.config/tool; ls ../../secret; echo end"
    config = world.home / ".config" / "tool"
    spec = world.spec(script, protected=(config, world.home / "none"), hidden=(world.home / "secret",))
    with trio.fail_after(20):
        async with await walled.start(spec) as container:
            assert container.unenforced == ()  # what is not there can only be made as a copy
            assert (await read_all(container.stdout)).decode() == "mine\nend\n"


# --- what is mounted below ----------------------------------------------------------------------------


@pytest.fixture
def with_mounts() -> Iterator[World]:
    """A file system below the home that can be covered, one that cannot, and a file that is a mount."""
    with mounting.folder_for_mounts() as root:
        world = World(root)
        points = [world.home / "tmpfs", world.home / "proc", world.home / "notes"]
        for point in points[:2]:
            point.mkdir()
        with mounting.mounted(
            ("-t", "tmpfs", "none", str(points[0])),
            ("-t", "proc", "none", str(points[1])),
            ("--bind", str(world.outside / "file"), str(points[2])),
        ):
            (points[0] / "file").write_text("mounted\n")
            yield world


async def test_mounts_below_a_cover(walled: Mechanism, with_mounts: World) -> None:
    """The kernel covers no folder with a mount below: it is read-only, and what is in it is covered."""
    script = (
        "cd ../..; echo x 2>/dev/null > new && echo through; echo copy > .config/tool; cat .config/tool\n"
        "cat tmpfs/file; echo copy > tmpfs/file; cat tmpfs/file; cat proc/sys/kernel/ostype\n"
        "echo x 2>/dev/null > proc/sys/kernel/hostname && echo through\n"
        "cat notes; echo x 2>/dev/null > notes; cat notes"
    )
    assert await run(walled, with_mounts.spec(script)) == "copy\nmounted\ncopy\nLinux\nmine\nmine\n"
    assert (with_mounts.home / ".config" / "tool").read_text() == "mine\n"
    assert (with_mounts.home / "tmpfs" / "file").read_text() == "mounted\n"
    assert (with_mounts.outside / "file").read_text() == "mine\n"


async def test_a_work_dir_with_mounts_below_that_is_covered_too(
    walled: Mechanism, with_mounts: World
) -> None:
    spec = with_mounts.spec("echo x > new; cat new", cwd=with_mounts.home, writable=(with_mounts.home,))
    assert await run(walled, spec) == "x\n"
    assert (with_mounts.home / "new").read_text() == "x\n"


async def test_mounts_below_what_is_hidden_stay_hidden(walled: Mechanism, with_mounts: World) -> None:
    spec = with_mounts.spec("ls ../../tmpfs ../..", hidden=(with_mounts.home / "tmpfs",))
    assert "file" not in await run(walled, spec)


# --- layers that are kept -----------------------------------------------------------------------------


@pytest.fixture
def layer(world: World, tmp_path: Path) -> Layer:
    folders = tmp_path / "layer" / "upper", tmp_path / "layer" / "work"
    for folder in folders:
        folder.mkdir(parents=True)
    return Layer(world.project, *folders)


async def test_a_layer_is_kept(walled: Mechanism, world: World, layer: Layer) -> None:
    spec = world.spec("echo new > code; echo more > more; cat code", writable=(), layers=(layer,))
    assert await run(walled, spec) == "new\n"
    assert (world.project / "code").read_text() == "old\n"
    assert (layer.upper / "code").read_text() == "new\n"
    again = world.spec("cat code more; rm code; ls", writable=(), layers=(layer,))
    assert await run(walled, again) == "new\nmore\nmore\n"
    assert [path.name for path in world.project.iterdir()] == ["code"]


async def test_a_layer_in_what_it_covers(walled: Mechanism, world: World) -> None:
    upper, work = world.project / "upper", world.project / "work"
    for folder in (upper, work):
        folder.mkdir()
    with pytest.raises(ContainmentError, match="lie in one another"):
        await walled.start(world.spec(":", writable=(), layers=(Layer(world.project, upper, work),)))
    gone = Layer(world.project, world.outside / "gone", world.outside)
    with pytest.raises(ContainmentError, match="is not a folder"):
        await walled.start(world.spec(":", writable=(), layers=(gone,)))


async def test_a_link_planted_in_a_kept_layer(walled: Mechanism, world: World, layer: Layer) -> None:
    """It stands where a protected file is to be held: the container is refused, and nobody follows it."""
    (world.project / ".env").write_text("secret\n")
    plant = world.spec(f"ln -sf {world.outside}/file .env", writable=(), layers=(layer,))
    await run(walled, plant)
    assert (layer.upper / ".env").is_symlink()
    spec = world.spec(
        "echo evil > .env; cat .env", writable=(), layers=(layer,), protected=(world.project / ".env",)
    )
    try:
        await run(walled, spec)
    except ContainmentError:
        pass
    assert (world.outside / "file").read_text() == "mine\n"
    assert (world.project / ".env").read_text() == "secret\n"


async def test_what_is_protected_below_a_layer_changes_as_a_copy(
    walled: Mechanism, world: World, layer: Layer
) -> None:
    """Bound there, the real file would hide the copy that an earlier container left."""
    (world.project / ".env").write_text("real\n")
    spec = world.spec(
        "echo mine >> .env; cat .env; rm .env",
        writable=(),
        layers=(layer,),
        protected=(world.project / ".env", world.project / "missing"),
        placeholders=True,
    )
    assert await run(walled, spec) == "real\nmine\n"
    assert (world.project / ".env").read_text() == "real\n"
    assert "missing" not in await run(walled, msgspec.structs.replace(spec, argv=("/bin/ls", "-A")))


async def test_what_is_hidden_stays_hidden_below_a_layer(
    walled: Mechanism, world: World, layer: Layer
) -> None:
    (world.project / "secret").write_text("secret\n")
    script = "cat secret; mv secret elsewhere 2>/dev/null; cat elsewhere 2>/dev/null; echo done"
    spec = world.spec(script, writable=(), layers=(layer,), hidden=(world.project / "secret",))
    for _ in range(2):
        assert await run(walled, spec) == "done\n"


async def test_a_layer_on_the_layers_of_others(walled: Mechanism, world: World, layer: Layer) -> None:
    (world.project / "gone").write_text("x\n")
    first = world.spec("echo new > code; rm gone; mkdir d; echo y > d/y", writable=(), layers=(layer,))
    await run(walled, first)
    upper, work = (layer.upper.parent / name for name in ("upper-2", "work-2"))
    for folder in (upper, work):
        folder.mkdir()
    on_top = Layer(world.project, upper, work, (layer.upper,))
    spec = world.spec("cat code d/y; ls; echo z >> d/y", writable=(), layers=(on_top,))
    assert await run(walled, spec) == "new\ny\ncode\nd\n"
    assert (layer.upper / "d" / "y").read_text() == "y\n"
    assert (upper / "d" / "y").read_text() == "y\nz\n"


async def test_a_copy_in_the_place_of_a_folder(walled: Mechanism, world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "code").write_text("copy\n")
    spec = world.spec("cat code; echo new > code", writable=(), layers=(Layer(world.project, copy, None),))
    assert await run(walled, spec) == "copy\n"
    assert (copy / "code").read_text() == "new\n"
    assert (world.project / "code").read_text() == "old\n"


async def test_a_layer_without_a_sandbox(walled: Mechanism, world: World, layer: Layer) -> None:
    spec = world.spec("echo new > code; echo x > ../written", sandbox=False, writable=(), layers=(layer,))
    await run(walled, spec)
    assert (world.project / "code").read_text() == "old\n"
    assert (world.project.parent / "written").read_text() == "x\n"


async def test_whether_a_layer_can_be_kept_is_found_by_doing_it(
    walled: Mechanism, world: World, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = layer.upper
    async with trio.open_nursery() as nursery:  # several at once do not get in each other's way
        for _ in range(3):
            nursery.start_soon(expect_layer, walled, world.project, place)
    assert not list(place.iterdir())
    assert "No such file" in await walled.why_no_layer(world.outside / "gone", place)
    assert "is mounted below it" in await walled.why_no_layer(Path("/"), place)
    monkeypatch.setattr(walled, "_layers", {})
    assert "lie in one another" in await walled.why_no_layer(world.project.parent, world.project)


async def expect_layer(mechanism: Mechanism, folder: Path, place: Path) -> None:
    assert await mechanism.why_no_layer(folder, place) == ""


# --- where it cannot be had ---------------------------------------------------------------------------


async def test_without_overlays_caches_are_written_and_nothing_else(
    walled: Mechanism, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walled, "_coverable", {world.home: False})
    cache = world.home / ".cache"
    cache.mkdir()
    script = (
        f"echo x > {cache}/x; echo y > code; echo x 2>/dev/null > ../../notes || echo refused\n"
        "echo t > /tmp/t && cat /tmp/t; touch /var/tmp/t && ls /var/tmp"
    )
    spec = world.spec(script, caches=(cache, world.home / "gone"))
    assert await run(walled, spec) == "refused\nt\nt\n"
    assert (cache / "x").read_text() == "x\n"
    assert (world.project / "code").read_text() == "y\n"
    assert not os.path.lexists("/var/tmp/t")  # noqa: ASYNC240


async def test_a_folder_that_cannot_be_covered_is_found_out(
    walled: Mechanism, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looked at once: when the container could not be made with it."""
    starts: list[Spec] = []
    start = walled.start_without_fallback

    async def refuse(spec: Spec) -> object:
        starts.append(spec)
        if spec.covered:
            raise _mounts.NotMounted("overlay: it is refused")
        return await start(spec)

    monkeypatch.setattr(walled, "_coverable", {})
    monkeypatch.setattr(walled, "start_without_fallback", refuse)
    for _ in range(2):
        assert (
            await run(walled, world.spec("echo x 2>/dev/null > ../../notes || echo refused")) == "refused\n"
        )
    assert [bool(spec.covered) for spec in starts] == [True, True, False, False]


async def test_what_changes_between_the_plan_and_its_mounts_is_looked_at_again(
    walled: Mechanism, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that has gone by then; likewise one that something is mounted in."""
    gone = world.outside / "gone"
    gone.mkdir()
    make_plan = _mounts.make_plan

    async def plan(spec: Spec) -> _mounts.Plan:
        made = await make_plan(spec)
        if gone in {step.path for step in made.steps} and "echo fine" in spec.argv:
            gone.rmdir()
        return made

    monkeypatch.setattr(_mounts, "make_plan", plan)
    assert await run(walled, world.spec("echo fine", covered=(world.home, gone))) == "fine\n"
    assert not gone.exists()


async def test_folders_are_not_looked_at_on_trio_s_thread(
    walled: Mechanism, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may be on a network that does not answer."""
    here, looked = threading.get_ident(), []

    def noting(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(path: object, *args: object, **more: object) -> object:
            if isinstance(path, str | os.PathLike) and str(path).startswith(str(world.home)):
                looked.append((str(path), threading.get_ident()))
            return real(path, *args, **more)

        return call

    caches = (world.home / ".cache", world.home / ".npm")
    spec = world.spec("echo fine", caches=caches)
    for coverable in ({}, {world.home: False}):
        monkeypatch.setattr(walled, "_coverable", coverable)
        with monkeypatch.context() as patch:
            for name in ("stat", "lstat"):
                patch.setattr(os, name, noting(name))
            assert await run(walled, spec) == "fine\n"
    assert {str(path) for path in (world.home, *caches)} <= {path for path, _ in looked}
    assert [path for path, thread in looked if thread == here] == []


async def test_the_probe_tells_where_it_cannot_be_had(
    walled: Mechanism, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_spec: Spec) -> object:
        raise ContainmentError("overlay: it is refused")

    monkeypatch.setattr(walled, "guarantees", walled.guarantees)
    assert (await probing.exercise_cover(walled)).ok
    monkeypatch.setattr(walled, "start_without_fallback", refuse)
    attempt = await probing.exercise_cover(walled)
    assert (attempt.ok, attempt.detail) == (False, "overlay: it is refused")
    assert walled.guarantees.copy_on_write.strength == "none"
    assert "read-only, except caches" in walled.guarantees.copy_on_write.why
