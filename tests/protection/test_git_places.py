"""What git reads and runs is found without asking git, wherever it is; git itself shows what it runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.protection import git_places as module
from cms.protection.git_config import Entry, from_environment, parse
from cms.protection.git_places import find_git_places
from cms.protection.protected_paths import find_protected_paths
from cms.protection.rules import build_rules
from cms.protection.survey import survey
from cms.session.model import SessionOptions
from sampling import sized

IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")


class World:
    """A home, and a repository in it."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.work = self.home / "work"
        self.work.mkdir(parents=True)
        self.environ = {"HOME": str(self.home), "PATH": os.defpath, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(self, *words: str, cwd: Path | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["git", *IDENTITY, *words],
            cwd=cwd or self.work,
            env=self.environ,
            check=check,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout

    def config(self, text: str, place: str = "work/.git/config") -> None:
        path = self.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(text)

    def put(self, place: str, text: str = "") -> Path:
        path = self.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def found(self, *folders: Path) -> set[str]:
        roots = folders or (self.work,)
        repositories = survey(roots, ()).repositories
        places = find_git_places(roots, repositories, self.environ)
        return {str(path.relative_to(self.home)) for path in places if path.is_relative_to(self.home)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.git("init", "-q", ".")
    return made


def test_a_plain_repository(world: World) -> None:
    assert world.found() == {
        *(f"work/.git/{name}" for name in ("config", "config.worktree", "commondir", "hooks")),
        *("work/.git/info/attributes", ".gitconfig", ".config/git/config", ".config/git/attributes"),
    }


@pytest.mark.parametrize("value", ["hooks", "./hooks", "~/work/hooks", "{home}/work/hooks", '"hooks"'])
@pytest.mark.parametrize("level", ["user", "repository", "work tree", "include", "condition", "command"])
def test_hooks_path_at_every_level(world: World, value: str, level: str) -> None:
    """And git really runs them."""
    ran = world.home / "ran"
    world.put("work/hooks/pre-commit", f"#!/bin/sh\ntouch {ran}\n")
    text = f"[core]\n\thooksPath = {value.format(home=world.home)}\n"
    if level == "user":
        world.config(text, ".gitconfig")
    elif level == "repository":
        world.config(text)
    elif level == "work tree":
        world.config("[extensions]\n\tworktreeConfig = true\n")
        world.config(text, "work/.git/config.worktree")
    elif level == "include":
        world.config("[include]\n\tpath = ../more\n")
        world.config("[include]\n\tpath = .git/again\n", "work/more")
        world.config(text, "work/.git/again")
    elif level == "condition":
        world.config(f'[includeIf "gitdir:{world.home}/"]\n\tpath = ~/other\n', ".gitconfig")
        world.config(text, "other")
    else:
        bare = value.format(home=world.home).strip('"')
        world.environ |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "core.HooksPath",
            "GIT_CONFIG_VALUE_0": bare,
        }
    world.git("commit", "-q", "--allow-empty", "-m", "x")
    assert ran.exists()
    found = world.found()
    assert "work/hooks" in found
    if level == "include":
        assert {"work/more", "work/.git/again"} <= found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[core]\n fsmonitor = ./tools/watch\n", "work/tools/watch"),
        ('[core]\n sshCommand = "./tools/ssh -v"\n', "work/tools/ssh"),
        ("[core]\n editor = ~/bin/edit --wait\n", "bin/edit"),
        ("[core]\n attributesFile = ~/attributes\n", "attributes"),
        ('[credential]\n helper = "!tools/login get"\n', "work/tools/login"),
        ('[credential "https://example.org"]\n helper = ./tools/login\n', "work/tools/login"),
        ('[filter "x"]\n clean = tools/clean %f\n', "work/tools/clean"),
        ('[filter "x"]\n smudge = python tools/smudge.py\n', "work/tools/smudge.py"),
        ('[filter "x"]\n process = python smudge.py\n', "work/smudge.py"),
        ('[diff "x"]\n textconv = sh -c \'tools/text "$1"\'\n', "work/tools/text"),
        ('[merge "x"]\n driver = tools/merge %O %A %B\n', "work/tools/merge"),
        ("[diff]\n external = ./tools/diff\n", "work/tools/diff"),
        ("[gpg]\n program = ../bin/gpg\n", "bin/gpg"),
        ('[gpg "ssh"]\n allowedSignersFile = signers\n', "work/signers"),
        ("[alias]\n st = !tools/st\n", "work/tools/st"),
        ('[difftool "x"]\n cmd = tools/x $LOCAL\n', "work/tools/x"),
        ("[sequence]\n editor = tools/todo\n", "work/tools/todo"),
        ("[newsection]\n\tofTomorrow = run tools/new\n", "work/tools/new"),
        ("[init]\n templateDir = ~/template\n", "template"),
        ("[core]\n hooksPath = .husky/_\n", "work/.husky"),
        ("[core]\n hooksPath = .\n", "work/pre-commit"),
        ("[core]\n hooksPath = ~/\n", "post-checkout"),
    ],
)
def test_what_a_setting_names(world: World, text: str, place: str) -> None:
    world.config(text)
    world.put(place)
    assert place in world.found()
    assert not world.found() & {"", "work", "."}


def test_a_command_that_is_not_there_yet(world: World) -> None:
    """Who makes it is run."""
    world.config('[core]\n fsmonitor = ./watch\n[filter "x"]\n clean = tools/clean\n')
    assert {"work/watch", "work/tools/clean"} <= world.found()


def test_what_only_looks_like_a_command(world: World) -> None:
    world.config(
        '[user]\n name = A main\n[remote "o"]\n url = ./main\n fetch = +refs/heads/*:refs/remotes/o/*\n'
        '[branch "a/b"]\n merge = refs/heads/main\n[core]\n fsmonitor = true\n editor = vi\n'
        "[init]\n defaultBranch = main\n[commit]\n template = tools/template\n"
    )
    before = world.found()
    for name in ("main", "vi", "true", "tools/template", "refs/heads/main"):
        world.put(f"work/{name}")
    assert world.found() == before


def test_a_commondir_brings_another_s_settings(world: World) -> None:
    """As git takes it: the hooks are run that lie there."""
    ran = world.home / "ran"
    world.put("work/other/hooks/pre-commit", f"#!/bin/sh\ntouch {ran}\n")
    world.git("init", "-q", "--bare", "../bare")
    (world.home / "bare" / "hooks").rename(world.home / "bare" / "h")
    world.config("[core]\n bare = false\n hooksPath = ../work/other/hooks\n", "bare/config")
    assert "bare/config" not in world.found()
    world.put("work/.git/commondir", "../../bare\n")
    world.git("commit", "-q", "--allow-empty", "-m", "x")
    found = world.found()
    assert {"work/.git/commondir", "bare/config", "bare/hooks", "bare/info/attributes"} <= found
    assert ran.exists()


def test_work_trees_share_settings_and_have_their_own(world: World) -> None:
    world.git("commit", "-q", "--allow-empty", "-m", "x")
    world.git("worktree", "add", "-q", "../tree")
    world.config("[core]\n hooksPath = my-hooks\n")
    tree = world.home / "tree"
    found = world.found(tree)
    assert {"tree/.git", "tree/my-hooks", "work/.git/config", "work/.git/info/attributes"} <= found
    assert {"work/.git/worktrees/tree/config.worktree", "work/.git/worktrees/tree/commondir"} <= found
    assert {"tree/my-hooks", "work/my-hooks"} <= world.found(), "the other trees' as well"


def test_submodules(world: World) -> None:
    inner = world.home / "inner"
    inner.mkdir()
    world.git("init", "-q", cwd=inner)
    world.git("commit", "-q", "--allow-empty", "-m", "x", cwd=inner)
    world.git("submodule", "add", "-q", str(inner), "deep/sub")
    world.config("[core]\n\thooksPath = own-hooks\n", "work/.git/modules/deep/sub/config")
    module = "work/.git/modules/deep/sub"
    wanted = {f"{module}/{name}" for name in ("config", "hooks", "commondir", "info/attributes")}
    wanted |= {"work/deep/sub/.git", "work/deep/sub/own-hooks"}
    assert wanted <= world.found()
    assert wanted <= world.found(world.work / "deep" / "sub")


def test_repositories_below_and_above(world: World) -> None:
    below, bare = world.work / "a" / "b", world.work / "a" / "c.git"
    below.mkdir(parents=True)
    world.git("init", "-q", cwd=below)
    world.git("init", "-q", "--bare", str(bare))
    world.config("[core]\n hooksPath = hooks\n", "work/a/b/.git/config")
    found = world.found()
    assert {"work/a/b/hooks", "work/a/b/.git/config", "work/a/c.git/config", "work/a/c.git/hooks"} <= found
    assert {"work/.git/config", "work/.git/commondir"} <= world.found(world.work / "a")


def test_variables_of_git(world: World) -> None:
    world.git("init", "-q", "--bare", "../elsewhere")
    world.environ |= {
        "GIT_DIR": "../elsewhere",
        "GIT_CONFIG_GLOBAL": str(world.home / "global"),
        "GIT_SSH_COMMAND": "./my-ssh -v",
        "GIT_CONFIG_PARAMETERS": "'core.fsmonitor=./one' 'core.editor'='./two --wait'",
    }
    world.config("[include]\n path = more\n", "global")
    assert {"elsewhere/config", "elsewhere/hooks", "global", "more"} <= world.found()
    assert {"work/my-ssh", "work/one", "work/two"} <= world.found()


@pytest.mark.parametrize("kind", ["fifo", "endless", "loop", "long", "nul", "root", "deep"])
def test_a_stranger_s_files_hold_nobody_up(world: World, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = world.work / ".git" / "config"
    config.unlink()
    if kind == "fifo":
        os.mkfifo(config)
    elif kind == "endless":
        config.symlink_to("/dev/zero")
    elif kind == "loop":
        config.write_text("[include]\n path = config\n path = ./config\n path = ../.git/config\n")
    elif kind == "long":
        config.write_text(f"[core]\n hooksPath = {'x' * 5000}\n editor = ./{'y' * 5000}\n" * 50)
    elif kind == "nul":
        config.write_bytes(b"[core]\n hooksPath = a\0b\n editor = ./c\0d \xff\n")
    elif kind == "root":
        config.write_text("[core]\n hooksPath = /\n attributesFile = /\n[include]\n path = ~/\n path = /\n")
        (world.work / ".git" / "commondir").write_text("../../../../../../../..\n")
    else:
        monkeypatch.setattr(module, "_MOST_FILES", 20)
        for number in range(100):
            world.config(f"[include]\n path = {number + 1}\n", f"work/.git/{number}")
        config.write_text("[include]\n path = 0\n")
    found = find_git_places((world.work,), (world.work / ".git",), world.environ)
    needed = (world.work, world.home)
    assert not any(one.is_relative_to(path) for path in found for one in needed)
    assert len(found) < 500


def test_the_gate_the_walls_and_the_tripwire_have_it(world: World) -> None:
    world.config("[core]\n hooksPath = .githooks\n fsmonitor = ./watch\n")
    hook = world.put("work/.githooks/pre-commit")
    options = SessionOptions(name="x", work_dir=str(world.work))
    rules = build_rules(options, world.environ)
    for path in (hook, world.work / "watch", world.work / ".git" / "commondir"):
        assert rules.paths.match(rules.paths.locate(str(path), str)), path
    paths = find_protected_paths(rules, world.environ)
    assert hook.parent in paths.protected
    assert {hook.parent, world.work / "watch", world.work / ".git" / "commondir"} <= set(
        map(Path, paths.watched)
    )
    # Who says so may have his hooks written.
    import msgspec

    allowed = build_rules(msgspec.structs.replace(options, allow_write=(".githooks",)), world.environ)
    assert not allowed.paths.match(allowed.paths.locate(str(hook), str))
    assert hook.parent not in find_protected_paths(allowed, world.environ).protected


# --- the files of settings ----------------------------------------------------------------------------

_PIECES = (
    "[core]", '[a "B.c"]', '[A "q\\"x"]', "[sec.Sub]", "\n", "\n", "\n", "key", " = ", "=", "value",
    '"', "\\\\", '\\"', "\\n", "\\\n", " ", "\t", "#", ";", "\r\n", "x-y", "Key2", "  tail  ", "a b",
)  # fmt: skip


@settings(max_examples=sized(60), deadline=None)
@given(pieces=st.lists(st.sampled_from(_PIECES), max_size=14))
def test_settings_are_read_as_git_reads_them(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    """What git takes, we see; of what it refuses we may see more."""
    file = tmp_path_factory.getbasetemp() / "config"
    file.write_bytes("".join(pieces).encode())
    done = subprocess.run(
        ["git", "config", "-z", "-f", str(file), "--list"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        entries = [entry.partition("\n") for entry in done.stdout.split("\0")[:-1]]
        in_section = [Entry(key, value) for key, _, value in entries if "." in key]
        assert list(parse("".join(pieces))) == in_section
    else:
        list(parse("".join(pieces)))


def test_settings_of_the_environment() -> None:
    environ = {
        "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "Core.Editor", "GIT_CONFIG_VALUE_0": "a",
        "GIT_CONFIG_KEY_1": "Filter.X.Clean", "GIT_CONFIG_VALUE_1": "b", "GIT_PAGER": "c",
    }  # fmt: skip
    assert list(from_environment(environ)) == [
        Entry("core.editor", "a"),
        Entry("filter.X.clean", "b"),
        Entry("core.pager", "c"),
    ]
    assert list(from_environment({"GIT_CONFIG_COUNT": "many"})) == []
