"""Where the environment says that protected files are, there they are protected."""

from __future__ import annotations

import pytest

from cms.session.path_rules import PathRules, moved_places
from cms.session.protected_defaults import COMMANDS, DEFAULT_PROTECTED, LISTS, MOVES

HOME, WORK = "/home/u", "/w"
PATTERNS = tuple(one.replace("~", HOME, 1) for one in DEFAULT_PROTECTED if one.startswith("~/"))


def rules(environ: dict[str, str], **more: tuple[str, ...]) -> PathRules:
    return PathRules(work_dir=WORK, home=HOME, resolve=str, environ=environ, **more)


def protects(given: PathRules, path: str) -> bool:
    return bool(given.match(given.locate(path, str)))


@pytest.mark.parametrize(("name", "place"), MOVES)
def test_every_variable_moves_what_it_stands_for(name: str, place: str) -> None:
    variable, _, below = name.partition("/")
    moved = "/moved/away"
    given = rules({variable: moved})
    # Either the place itself is protected, or something in it.
    own = place.replace("~", HOME, 1)
    inside = [one.removeprefix(own) for one in PATTERNS if one.startswith(f"{own}/")]
    whole = protects(rules({}), place)
    if not whole and not inside:  # nothing by default, but a person may protect something there
        assert name == "XDG_STATE_HOME"
        inside, given = ["/x"], rules({variable: moved}, protect=(f"{place}/x",))
    base = f"{moved}/{below}" if below else moved
    for path in ([base] if whole else []) + [base + one for one in inside]:
        assert protects(given, path), path
        assert not protects(rules({}), path)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"KUBECONFIG": "/a/one:/b/two"}, "/b/two"),
        ({"KUBECONFIG": "kube/config"}, "/w/kube/config"),
        ({"KUBECONFIG": "~/k"}, "/home/u/k"),
        ({"BASH_ENV": "$HOME/.env-of-bash", "HOME": HOME}, "/home/u/.env-of-bash"),
        ({"ENV": "${XDG}/rc", "XDG": "/x"}, "/x/rc"),
        ({"XDG_CONFIG_HOME": "/c"}, "/c/git/config"),
        ({"XDG_CONFIG_HOME": "/c/"}, "/c/systemd/user/x.service"),
        ({"DOCKER_CONFIG": "/d/../e"}, "/e/config.json"),
        ({"ZDOTDIR": "/z"}, "/z/.zshrc"),
        ({"EDITOR": "/home/u/bin/edit --wait"}, "/home/u/bin/edit"),
        ({"GIT_CONFIG_GLOBAL": ".gitconfig"}, "/w/.gitconfig"),
    ],
)
def test_values_as_people_write_them(environ: dict[str, str], path: str) -> None:
    assert protects(rules(environ), path)
    assert not protects(rules({}), path)


@pytest.mark.parametrize(
    "environ",
    [
        {"DOCKER_CONFIG": "/"},
        {"DOCKER_CONFIG": "/home"},
        {"DOCKER_CONFIG": HOME},
        {"KUBECONFIG": ":"},
        {"KUBECONFIG": ""},
        {"EDITOR": "vim"},
        {"GIT_CONFIG_GLOBAL": "/dev/null"},
        {"XDG_CONFIG_HOME": f"{HOME}/.config"},
        {"XDG_DATA_DIRS": "/usr/local/share:/usr/share"},
    ],
)
def test_what_moves_nothing(environ: dict[str, str]) -> None:
    """A value that would close the home, one that is the usual place, one in the system's folders."""
    assert moved_places(DEFAULT_PROTECTED, environ, HOME, WORK) == ()


def test_a_work_dir_that_a_variable_names_stays_open() -> None:
    given = rules({"GNUPGHOME": WORK})
    assert not protects(given, "/w/main.py")
    assert protects(rules({"KUBECONFIG": "/w/kube"}), "/w/kube")


def test_what_a_person_protects_is_moved_likewise() -> None:
    environ = {"XDG_CONFIG_HOME": "/c", "KUBECONFIG": "/k"}
    given = rules(environ, defaults=(), protect=("~/.config/mine", "~/.kube"))
    assert [path for path in ("/c/mine", "/k", "/c/git/config", "/x") if protects(given, path)] == [
        "/c/mine",
        "/k",
    ]


def test_what_a_person_allows_is_the_path_that_he_names() -> None:
    """To open the usual place opens no other."""
    given = rules({"KUBECONFIG": "/k"}, allow=("~/.kube",))
    assert protects(given, "/k")
    assert not protects(given, "~/.kube/config")
    assert not protects(rules({"KUBECONFIG": "/k"}, allow=("/k",)), "/k")


def test_the_tables_agree() -> None:
    variables = {name.partition("/")[0] for name, _ in MOVES}
    assert variables >= LISTS | COMMANDS
    assert not LISTS & COMMANDS
