"""Where protected paths are found on the disk, and what the tripwire sees of a change."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.protection import survey as survey_module
from cms.protection import tripwire
from cms.protection.protected_paths import ProtectedPaths, find_new, find_protected_paths
from cms.protection.rules import build_rules
from cms.protection.tripwire import HASHED, MISSING, Mark, compare, is_whole, mark, snapshot, snapshot_again
from cms.session.gate import Rules
from cms.session.model import SessionOptions


class Ground:
    """A home and a work dir, and the rules for them."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.work = root / "work"
        self.environ = {"HOME": str(self.home), "PATH": os.defpath}
        self.home.mkdir()
        self.work.mkdir()

    def rules(
        self,
        *extra: Path,
        protect: tuple[str, ...] = (),
        allow: tuple[str, ...] = (),
        read: tuple[str, ...] = (),
    ) -> Rules:
        options = SessionOptions(
            name="x",
            work_dir=str(self.work),
            add_dirs=tuple(map(str, extra)),
            protect=protect,
            allow_write=allow,
            protect_read=read,
        )
        return build_rules(options, self.environ)

    def find(self, *extra: Path, **rules: tuple[str, ...]) -> ProtectedPaths:
        return find_protected_paths(self.rules(*extra, **rules), self.environ)

    def put(self, *names: str) -> None:
        for name in names:
            path = self.home / name[2:] if name.startswith("~/") else self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def named(self, found: Iterable[Path]) -> set[str]:
        """Those in the home or the work dir, in short."""
        names = set()
        for path in found:
            if path.is_relative_to(self.work):
                names.add(str(path.relative_to(self.work)))
            elif path.is_relative_to(self.home):
                names.add(f"~/{path.relative_to(self.home)}")
        return names


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_what_exists_is_held_and_the_rest_is_watched(ground: Ground) -> None:
    ground.put(".env", "a/b/.env.local", ".env.example", "main.py", "~/.bashrc", "~/.ssh/id_rsa")
    ground.put(".git/hooks/x", ".git/config", ".git/objects/aa/.env", "node_modules/p/.env")
    found = ground.find()
    assert ground.named(found.protected) == {
        ".env", "a/b/.env.local", ".git/hooks", ".git/config", "~/.bashrc", "~/.ssh"
    }  # fmt: skip
    watched = ground.named(map(Path, found.watched))
    assert watched >= ground.named(found.protected)
    assert {".mcp.json", ".claude/settings.json", "~/.zshrc", ".git/info/attributes"} <= watched
    assert found.unheld == ()


def test_the_systems_folders_are_held_by_their_real_names_and_not_watched(ground: Ground) -> None:
    found = ground.find()
    assert Path("/usr") in found.protected
    assert Path("/etc") in found.protected
    assert not {Path("/dev"), Path("/proc"), Path("/run")} & set(found.protected)
    assert not any(path.is_symlink() for path in found.protected)
    assert not {Path("/usr"), Path("/etc"), Path("/bin")} & set(map(Path, found.watched))


def test_claude_can_write_its_folder_but_not_its_settings(ground: Ground) -> None:
    ground.put("~/.claude/settings.json", "~/.claude/projects/x.jsonl", "~/.claude.json", "~/.claude/hooks/h")
    held = ground.named(ground.find().protected)
    assert held == {"~/.claude/settings.json", "~/.claude/hooks"}


def test_our_own_folder_is_held_and_of_it_the_person_s_file_watched(ground: Ground) -> None:
    """The daemon writes there while every session runs: each of them would be told of it."""
    ground.put("~/.claude-multi-session/cms.db", "~/.claude-multi-session/config.toml")
    found = ground.find()
    assert ground.named(found.protected) == {"~/.claude-multi-session"}
    ours = {name for name in ground.named(map(Path, found.watched)) if "multi" in name}
    assert ours == {"~/.claude-multi-session/config.toml"}


def test_what_a_person_allows_is_not_held(ground: Ground) -> None:
    ground.put(".env", "sub/.env", ".git/hooks/x", ".git/config")
    assert ground.named(ground.find(allow=(".env", ".git/hooks")).protected) == {".git/config"}
    assert Path("/usr") not in ground.find(allow=("/usr",)).protected


def test_what_a_person_protects_is_held(ground: Ground) -> None:
    ground.put("keys/a.pem", "keys/deep/b.pem", "docs/x.md", "data/1/x", "~/notes")
    found = ground.find(protect=("*.pem", "./docs", "data/**", "~/notes"))
    assert ground.named(found.protected) == {"keys/a.pem", "keys/deep/b.pem", "docs", "data", "~/notes"}


def test_what_may_not_be_read_is_hidden(ground: Ground) -> None:
    ground.put(".env", "sub/.env", "keys/a")
    found = ground.find(read=(".env", "./keys"))
    assert ground.named(found.hidden) == {".env", "sub/.env", "keys"}
    assert ground.find().hidden == ()


def test_what_may_not_be_read_is_hidden_where_it_was_moved(ground: Ground) -> None:
    ground.put("kube", "conf/mine/x", "docker/config.json")
    ground.environ |= {
        "KUBECONFIG": f"/none:{ground.work}/kube",
        "XDG_CONFIG_HOME": str(ground.work / "conf"),
    }
    ground.environ["DOCKER_CONFIG"] = str(ground.work / "docker")
    found = ground.find(read=("~/.kube", "~/.config/mine"))
    assert ground.named(found.hidden) == {"kube", "conf/mine"}
    assert {"kube", "docker"} <= ground.named(found.protected)


def test_what_runs_at_login_does_so_in_the_home_that_the_system_knows(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever HOME says: ssh, cron and the login itself do not ask it."""
    real = ground.work.parent / "real"
    (real / ".ssh").mkdir(parents=True)
    (real / ".bashrc").write_text("x")
    entry = pwd.struct_passwd(("u", "x", os.getuid(), 0, "", str(real), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: entry)
    rules = ground.rules()
    for name in (".ssh/authorized_keys", ".bashrc", ".config/systemd/user/x.service", ".pam_environment"):
        assert rules.paths.match(rules.paths.locate(str(real / name), str)), name
    assert not rules.paths.match(rules.paths.locate(str(real / "notes"), str))
    found = find_protected_paths(rules, ground.environ)
    assert {real / ".ssh", real / ".bashrc"} <= set(found.protected)
    assert str(real / ".zlogout") in found.watched


@pytest.mark.parametrize(
    "name",
    [
        *(".xprofile", ".xsessionrc", ".xinitrc", ".pam_environment", ".zlogout", ".cshrc", ".inputrc"),
        *(".config/environment.d/x.conf", ".local/share/systemd/user/x.service", ".tmux.conf", ".gdbinit"),
        *(".local/share/dbus-1/services/x.service", ".config/plasma-workspace/env/x.sh", ".vimrc", ".pgpass"),
        *(".cargo/config.toml", ".config/pip/pip.conf", ".terraformrc", ".m2/settings.xml", ".my.cnf"),
    ],
)
def test_files_that_run_by_themselves_and_credentials(ground: Ground, name: str) -> None:
    ground.put(f"~/{name}")
    rules = ground.rules()
    path = ground.home / name
    assert rules.paths.match(rules.paths.locate(str(path), str))
    held = find_protected_paths(rules, ground.environ).protected
    assert any(path.is_relative_to(one) for one in held)


def test_a_home_that_must_be_written_is_told_and_not_held(ground: Ground) -> None:
    found = ground.find(protect=(str(ground.home),))
    assert ground.home not in found.protected
    assert str(ground.home) in [one.path for one in found.unheld]
    assert "and the session must write there" in found.unheld[0].why


def test_a_work_dir_in_a_protected_place_opens_itself_and_nothing_beside_it(ground: Ground) -> None:
    ground.put("~/.aws/config", "~/.aws/project/x/.env")
    ground.work = ground.home / ".aws" / "project"
    found = ground.find()
    assert ground.named(found.protected) == {"~/.aws", "x/.env"}
    assert found.reopened == (ground.work,)
    assert [one.path for one in found.unheld] == [str(ground.work)]
    assert "protected, but the session works there" in found.unheld[0].why
    watched = ground.named(map(Path, found.watched))
    assert "~/.aws/config" in watched
    assert not {"~/.aws", "."} & watched
    # An added folder is there to be read.
    ground.work = ground.home
    assert ground.home / ".aws" in ground.find(ground.home / ".aws" / "project").protected


def test_the_repository_above_the_work_dir_counts(ground: Ground) -> None:
    ground.put(".git/hooks/x", ".git/config")
    inside = ground.work / "packages" / "one"
    inside.mkdir(parents=True)
    ground.work = inside
    found = ground.find()
    ground.work = inside.parents[1]
    assert ground.named(found.protected) == {".git/hooks", ".git/config"}


def test_the_hooks_of_a_worktree_are_elsewhere(ground: Ground, tmp_path: Path) -> None:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(ground.home)}

    def git(*words: str, cwd: Path) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=cwd, env=environ, check=True, capture_output=True)

    main = tmp_path / "main"
    main.mkdir()
    git("init", "-q", cwd=main)
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=main)
    (ground.work).rmdir()
    git("worktree", "add", "-q", str(ground.work), cwd=main)
    found = ground.find()
    assert {main / ".git/hooks", main / ".git/config", ground.work / ".git"} <= set(found.protected)


@pytest.mark.parametrize("how", ["fifo", "endless", "big"])
def test_a_git_file_that_never_ends_holds_nobody_up(ground: Ground, how: str) -> None:
    git = ground.work / ".git"
    if how == "fifo":
        os.mkfifo(git)
    elif how == "endless":
        git.symlink_to("/dev/zero")
    else:
        git.write_bytes(b"x" * 1_000_000)
    os.mkfifo(ground.work / ".env")
    assert ".env" in ground.named(ground.find().protected)


def test_a_huge_work_dir_is_searched_in_part_and_told(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "MOST_ENTRIES", 10)
    ground.put(*(f"many/{number}" for number in range(20)), ".env")
    found = ground.find()
    assert ".env" in ground.named(found.protected)
    assert [str(one) for one in found.unheld] == [
        f"{ground.work}: too big: not all of it was searched for protected files"
    ]


def test_a_loop_of_links_is_not_followed(ground: Ground) -> None:
    (ground.work / "again").symlink_to(ground.work)
    ground.put(".env")
    assert ground.named(ground.find().protected) == {".env"}


def test_what_was_created_deep_down_is_found(ground: Ground) -> None:
    ground.put("old/.git/HEAD")
    rules = ground.rules()
    ground.put("a/b/.env", "a/c/main.py", "new/.git/HEAD", "bare/HEAD", "bare/objects/x", "bare/refs/x")
    found, repositories = find_new(rules)
    assert ground.named(found) == {"a/b/.env"}
    assert ground.named(repositories) == {"new/.git", "bare"}


# --- the tripwire ---------------------------------------------------------------------------------


def words(root: Path, before: dict[str, Mark]) -> list[str]:
    return [str(change).removeprefix(f"{root}/") for change in compare(before, snapshot([root]))]


def test_each_kind_of_change_is_named(tmp_path: Path) -> None:
    for name in ("same", "edited", "gone", "moded", "replaced", "folder/inside"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    (tmp_path / "link").symlink_to("same")
    (tmp_path / "folder2").mkdir()
    before = snapshot([tmp_path])
    (tmp_path / "edited").write_text("after!")
    (tmp_path / "gone").unlink()
    (tmp_path / "moded").chmod(0o777)
    (tmp_path / "replaced").unlink()
    (tmp_path / "replaced").symlink_to("same")
    (tmp_path / "folder/inside").write_text("after")
    (tmp_path / "folder/new").write_text("after")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("edited")
    assert words(tmp_path, before) == [
        "edited was changed",
        "folder/inside was changed",
        "folder/new was created",
        "gone was removed",
        "link was changed",
        "moded had mode 644 and has 777",
        "replaced was a file and is a link",
    ]


def test_what_only_looks_changed_is_not(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the same")
    before = snapshot([tmp_path])
    os.utime(secret, (1, 1))
    copy = tmp_path / "copy"
    copy.write_text("the same")
    copy.replace(secret)  # an editor that saves without a change
    os.link(secret, tmp_path.parent / "other name")
    assert words(tmp_path, before) == []


def test_a_forged_time_hides_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("before")
    was = secret.stat()
    before = snapshot([secret])
    secret.write_text("after!")
    os.utime(secret, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert [change.what for change in compare(before, snapshot([secret]))] == ["was changed"]


def test_a_big_file_is_compared_by_its_times(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * (HASHED + 1))
    before = snapshot([big])
    assert before[str(big)].digest == ""
    assert compare(before, snapshot([big])) == ()
    with big.open("r+b") as file:
        file.write(b"y")
    assert [change.what for change in compare(before, snapshot([big]))] == ["was changed"]


def test_a_big_file_whose_time_was_put_back_is_seen(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * (HASHED + 1))
    before, was = snapshot([big]), big.stat()
    with big.open("r+b") as file:
        file.write(b"y")
    os.utime(big, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert [change.what for change in compare(before, snapshot([big]))] == ["was changed"]


def test_what_two_sessions_have_seen_is_kept_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    one, other = snapshot([tmp_path, tmp_path / "missing"]), snapshot([tmp_path, tmp_path / "missing"])
    kept = {id(thing) for found in (one, other) for item in found.items() for thing in item}
    assert len(one) == 3
    assert len(kept) == 6


def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert mark(tmp_path / "pipe").kind == "other"
    assert mark(tmp_path / "nothing") == MISSING


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=4)),
    st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=4)),
)
def test_changes_are_named_exactly(was: dict[str, bytes], now: dict[str, bytes]) -> None:
    def marks(contents: dict[str, bytes]) -> dict[str, Mark]:
        return {
            name: Mark("file", size=len(data), digest=data.hex() or "empty")
            for name, data in contents.items()
        }

    changed = {change.path for change in compare(marks(was), marks(now))}
    assert changed == {name for name in {*was, *now} if was.get(name) != now.get(name)}


def test_more_than_can_be_watched_makes_no_change_of_what_only_came_before_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tripwire, "MOST_FILES", 4)
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        for number in range(2):
            (folder / f"{number}").write_text("x")
    before = snapshot(folders)
    assert not is_whole(before)
    (folders[0] / "new").write_text("x")
    assert compare(before, snapshot_again(before, folders)) == ()
    seen = next(path for path in map(Path, before) if path.is_file())
    seen.write_text("y")
    (change,) = compare(before, snapshot_again(before, folders))
    assert str(change) == f"{seen} was changed"
    seen.unlink()
    (change,) = compare(before, snapshot_again(before, folders))
    assert str(change) == f"{seen} was removed"


def test_the_store_is_never_opened_by_the_tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes a database that he opened beside SQLite takes the locks away that hold it."""
    home = tmp_path / "project" / "home"
    home.mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    for name in ("cms.db", "cms.db-wal", "config.toml"):
        (home / name).write_text("x")
    opened: list[str] = []
    digest = tripwire._digest

    def noting(path: str) -> str:
        opened.append(Path(path).name)
        return digest(path)

    monkeypatch.setattr(tripwire, "_digest", noting)
    before = snapshot([tmp_path], home)
    assert (set(opened), str(home / "cms.db") in before) == ({"config.toml"}, False)
    (home / "cms.db").write_text("y")
    (home / "config.toml").write_text("y")
    changes = compare(before, snapshot_again(before, [tmp_path / "link", tmp_path], tmp_path / "link"))
    assert [str(change) for change in changes] == [f"{home / 'config.toml'} was changed"]
