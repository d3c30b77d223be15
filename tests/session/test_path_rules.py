"""Protected paths: however a path is spelled, whatever links lie on its way."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cms.session import path_rules as module
from cms.session.path_rules import PathRules, compile_pattern, fold_name
from cms.session.protected_defaults import DEFAULT_PROTECTED
from session.world import HOME, WORK, Located, paths, resolver

PLAIN = paths()

PROTECTED = [
    "~/.ssh",
    "~/.ssh/authorized_keys",
    "~/.ssh/deep/er",
    "/home/u/.ssh/id",
    "/home/u/.bashrc",
    ".env",
    ".env.production",
    "sub/dir/.env",
    ".env/inside",
    ".git/hooks/pre-commit",
    ".git/config",
    "sub/.git/config",
    ".git/modules/a/b/config",
    ".git/modules/a/hooks/post-checkout",
    ".claude/settings.json",
    ".mcp.json",
    "~/.claude-multi-session/cms.db",
    "/etc/passwd",
    "/usr/bin/x",
    "/dev/sda",
    "id_rsa",
]
FREE = [
    "a.py",
    "src/environment.py",
    ".envrc2",
    "x.env",
    ".github/workflows/ci.yml",
    ".gitignore",
    ".git/HEAD",
    ".env.example",
    "sub/.env.template",
    "/dev/null",
    "/tmp/x",
    "/home/u/notes",
    "/home/other/.ssh/x",
    "bashrc",
    "~other/x",
]


@pytest.mark.parametrize("path", PROTECTED)
def test_protected(path: str) -> None:
    assert PLAIN.match(path)


@pytest.mark.parametrize("path", FREE)
def test_free(path: str) -> None:
    assert PLAIN.match(path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "../.ssh/x",
        "./../../u/.ssh/x",
        "//home/u/.ssh/x",
        "///home/u/.ssh/x",
        "/home/u/./.ssh//x",
        "/etc/../home/u/.ssh/x",
        "/home/u/.SSH/x",
        "/HOME/U/.ssh/x",
        ".ENV",
        ".eNv.Local",
        "\N{FULLWIDTH LATIN SMALL LETTER E}.env/../.env",
        ".\N{FULLWIDTH LATIN SMALL LETTER E}nv",
        ".\N{LATIN SMALL LETTER LONG S}sh/../.env",
        "/home/u/.\N{LATIN SMALL LETTER LONG S}sh/x",
        " ~/.ssh/x",
        "~/.ssh/x ",
        "\t/home/u/.ssh/x\n",
        "\N{NO-BREAK SPACE}\N{ZERO WIDTH NO-BREAK SPACE}/home/u/.ssh/x",
        "~/.ssh\n/x/../../.ssh",
        "a\0b",
        "x/" * 3000,
    ],
)
def test_spellings_that_are_caught(path: str) -> None:
    assert PLAIN.match(path)


def test_decomposed_and_composed_names_are_one() -> None:
    given_rules = paths(protect=["geheim-\N{LATIN SMALL LETTER U WITH DIAERESIS}"])
    assert given_rules.match("geheim-u\N{COMBINING DIAERESIS}")
    assert given_rules.match("GEHEIM-U\N{COMBINING DIAERESIS}/x")


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "path"),
    [
        ({f"{WORK}/keys": "/home/u/.ssh"}, "keys/id"),
        ({f"{WORK}/keys": "../.ssh"}, "keys"),
        ({f"{WORK}/a": "b", f"{WORK}/b": "/etc"}, "a/passwd"),
        # Text first: the tools take `..` out before they open, so `link/../a` is `a`, and that is a link.
        ({f"{WORK}/link": "/srv/x/y", f"{WORK}/a": "/home/u/.ssh"}, "link/../a/id"),
        # System first: whoever does not take it out lands elsewhere.
        ({f"{WORK}/link": "/home/u/.ssh/sub"}, "link/../id"),
        # The work dir or the home is itself behind a link.
        ({"/home/u": "/data/u"}, "/data/u/.ssh/id"),
        ({"/home/u": "/data/u"}, "~/.ssh/id"),
        ({"/home/u/.ssh": "/home/u/dotfiles/ssh"}, "/home/u/dotfiles/ssh/id"),
        ({"/etc": "/private/etc"}, "/private/etc/passwd"),
        # A loop cannot be resolved.
        ({f"{WORK}/l": "m", f"{WORK}/m": "l"}, "l/x"),
    ],
)
def test_links_to_protected_places_are_caught(links: dict[str, str], path: str) -> None:
    assert paths(links=links).match(path)


def test_links_that_go_nowhere_bad_are_free() -> None:
    assert paths(links={f"{WORK}/out": "/srv/out"}).match("out/x") == ""


@pytest.mark.parametrize("error", [OSError(40, "loop"), RuntimeError("Symlink loop"), ValueError("null")])
def test_what_cannot_be_resolved_is_protected(error: Exception) -> None:
    def resolve(path: str) -> str:
        if path.endswith("odd"):
            raise error
        return path

    given_rules = Located(PathRules(work_dir=WORK, home=HOME, resolve=resolve), resolve)
    assert "cannot be resolved" in given_rules.match("odd")
    assert not given_rules.within("odd", [WORK])
    assert given_rules.match("even") == ""


def test_the_real_file_systems_loops_are_caught(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "in").symlink_to(tmp_path / "home" / ".ssh")

    def resolve(path: str) -> str:
        return str(Path(path).resolve())

    plain = PathRules(work_dir=str(tmp_path), home=str(tmp_path / "home"), resolve=resolve)
    given_rules = Located(plain, resolve)
    assert given_rules.match("in/id") == "~/.ssh"
    assert given_rules.match("fresh/file") == ""
    # Python 3.13 resolves a loop to itself instead of raising: then the path is what it says.
    assert given_rules.match("a/x") == "" or "cannot be resolved" in given_rules.match("a/x")


# --- patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("secret", "/a/b/secret", True),
        ("secret", "/a/b/secret/c", True),
        ("secret", "/a/b/secrets", False),
        ("a/b", "/x/a/b", True),
        ("a/b", "/a/x/b", False),
        ("*.pem", "/a/x.pem", True),
        ("*.pem", "/a/x.pem/y", True),
        ("*.pem", "/a/.pem", True),
        ("a*c", "/abc", True),
        ("a*c", "/ab/c", False),
        ("a?c", "/abc", True),
        ("a?c", "/ac", False),
        ("a?c", "/a/c", False),
        ("/srv/**/keys", "/srv/keys", True),
        ("/srv/**/keys", "/srv/a/b/keys/x", True),
        ("/srv/**/keys", "/other/srv/keys", False),
        ("/srv/**/**/keys", "/srv/a/keys", True),
        ("**/keys", "/a/keys", True),
        ("/srv", "/srv", True),
        ("/srv", "/srvx", False),
        ("/srv/", "/srv/x", True),
        ("/", "/anything", True),
        ("~", "/home/u/x", True),
        ("~/x", "/home/u/x", True),
        ("~x", "/home/u/~x", True),
        ("[a]", "/[a]", True),
        ("[a]", "/a", False),
        ("a.b", "/axb", False),
        ("./only", "/home/u/project/only/x", True),
        ("./only", "/home/u/project/sub/only", False),
        ("../shared", "/home/u/shared/x", True),
        (".", "/home/u/project/x", True),
        (".", "/home/u/other", False),
        ("/srv/../etc2", "/etc2", True),
        ("~/../v", "/home/v/x", True),
        ("", "/anything", False),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    assert bool(compile_pattern(pattern, HOME, WORK).fullmatch(fold_name(path))) is matches
    assert bool(paths(protect=[pattern]).match(path)) is (matches or bool(PLAIN.match(path)))


def test_what_is_allowed_wins_and_reaches_below() -> None:
    given_rules = paths(allow=[".env.local", "./deploy/.git", "/etc/app"])
    assert given_rules.match(".env.local") == ""
    assert given_rules.match("sub/.env.local") == ""
    assert given_rules.match("deploy/.git/config") == ""
    assert given_rules.match("/etc/app/x") == ""
    for still in (".env", ".git/config", "sub/deploy/.git/config", "/etc/passwd"):
        assert given_rules.match(still)


@pytest.mark.parametrize("pattern", ["", "./nothing", "nothing/*"])
def test_a_pattern_that_allows_nothing_of_it_opens_nothing(pattern: str) -> None:
    for path in PROTECTED:
        assert paths(allow=[pattern]).match(path)


def test_what_is_allowed_does_not_follow_a_link_that_the_agent_may_have_made() -> None:
    given_rules = paths(links={f"{WORK}/out": "/home/u/.ssh"}, allow=["./out"])
    assert given_rules.match("out/authorized_keys") == "~/.ssh"


def test_what_is_allowed_holds_behind_a_linked_work_dir() -> None:
    given_rules = paths(links={"/home/u/project": "/data/p"}, allow=["./x/.env"])
    assert given_rules.match("x/.env") == ""
    assert given_rules.match("/data/p/x/.env") == ""
    assert given_rules.match("y/.env")


def test_a_default_that_covers_the_whole_work_dir_is_not_meant() -> None:
    for work_dir, links in (("/opt/app", {}), ("/home/u/app", {"/home/u/app": "/opt/app"})):
        given_rules = paths(work_dir=work_dir, links=links)
        assert given_rules.match("x.py") == ""
        assert given_rules.match(".env")
        assert given_rules.match("/etc/passwd")
        assert given_rules.match("/opt/other") == "/opt"
    assert paths(work_dir="/opt/app", protect=["/opt"]).match("x.py") == "/opt"


@pytest.mark.parametrize(
    ("work_dir", "inside", "beside"),
    [
        ("/etc/nginx", "nginx.conf", "/etc/shadow"),
        ("/home/u/.ssh/x", "y", "~/.ssh/authorized_keys"),
        ("/home/u/p/.git/hooks", "pre-commit", "../config"),
        ("/home/u/p/.git/hooks/sub", "x", "../pre-commit"),
    ],
)
def test_a_work_dir_in_a_protected_place_opens_only_itself(work_dir: str, inside: str, beside: str) -> None:
    given_rules = paths(work_dir=work_dir)
    assert given_rules.match(inside) == ""
    assert given_rules.match(beside)
    assert given_rules.match(".env")


@pytest.mark.parametrize(
    "path",
    [".env.sample/hooks", "~/.ssh/.env.sample", ".git/hooks/.env.example", "/etc/.env.dist", "/dev/null/x"],
)
def test_an_exception_is_one_file_and_opens_no_protected_tree(path: str) -> None:
    assert PLAIN.match(path)
    assert paths(protect=[".env.*"]).match(".env.sample") == ".env.*"


def test_matching_costs_little_whatever_the_path() -> None:
    """Counted in processor time with two orders of room: quadratic matching would take minutes."""
    began = time.process_time()
    for path in (".git/modules/" * 300, "a/" * 2000, ".env." * 800, "/" * 4096, "x" * 10_000_000):
        PLAIN.match(path)
    assert time.process_time() - began < 5


# --- within ---------------------------------------------------------------------------------------


def test_within() -> None:
    given_rules = paths(links={f"{WORK}/out": "/srv", f"{WORK}/in": f"{WORK}/src"})
    folders = [WORK, "/home/u/extra/"]
    assert given_rules.rules.absolute("//home/u//x") == "/home/u/x"
    for path in ("a", "./a", "in/a", WORK, f"/{WORK}/a", "/home/u/extra/b", "x/../y", "."):
        assert given_rules.within(path, folders), path
    for path in ("out/a", "..", "/home/u/projectile", "/home/u/extras", "~/x", " /etc/x", "a/../../x", "/"):
        assert not given_rules.within(path, folders), path
    assert given_rules.within("/anything", ["/"])
    assert not given_rules.within("a", [])


def test_within_needs_the_resolved_folder_too() -> None:
    given_rules = paths(links={"/home/u/project": "/data/p"})
    assert not given_rules.within("a", [WORK])
    assert given_rules.within("a", [WORK, "/data/p"])


# --- properties -----------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", ".env", ".ssh", ".git", "hooks", "config", "link", "...", "é", ".claude"])
_PATHS = st.tuples(
    st.sampled_from(["", "/", "~/", "./", "../", "/home/u/", "/etc/"]), st.lists(_NAMES, max_size=5)
).map(lambda drawn: drawn[0] + "/".join(drawn[1]))
LINKED = paths(links={f"{WORK}/link": "/srv/elsewhere"})


@given(_PATHS, st.integers(0, 8), st.sampled_from(["/./", "//", "/x/../", "/x/y/../../", "/././"]))
def test_detours_never_change_the_answer(path: str, at: int, detour: str) -> None:
    """Put in place of any slash. (`x` is no link: over a link, `..` means something else to the system.)"""
    slashes = [found.start() for found in re.finditer("/", path)]
    # Before the first name a doubled slash or a detour would make `~` or a relative path another one.
    slashes = [slash for slash in slashes if slash > 0 and path[:slash] != "~"]
    assume(slashes)
    slash = slashes[at % len(slashes)]
    longer = path[:slash] + detour + path[slash + 1 :]
    assert LINKED.match(longer) == LINKED.match(path)
    assert LINKED.within(longer, [WORK]) == LINKED.within(path, [WORK])


@given(_PATHS, st.sampled_from(["a", "deep/er", ".x"]))
def test_all_below_a_protected_folder_is_protected(path: str, below: str) -> None:
    if LINKED.match(path):
        assert LINKED.match(f"{path}/{below}")


@given(_PATHS)
def test_case_never_opens_anything(path: str) -> None:
    if PLAIN.match(path):
        assert PLAIN.match(path.upper())


@given(_PATHS, _NAMES)
def test_more_protection_never_opens_and_more_allowance_never_closes(path: str, pattern: str) -> None:
    if PLAIN.match(path):
        assert paths(protect=[pattern]).match(path)
    else:
        assert not paths(allow=[pattern]).match(path)


@given(st.text(max_size=60))
def test_any_text_is_judged(path: str) -> None:
    PLAIN.match(path)
    PLAIN.within(path, [WORK])


@given(st.text(alphabet="a/.*?~[", max_size=12), _PATHS)
def test_any_pattern_compiles_and_is_judged(pattern: str, path: str) -> None:
    paths(protect=[pattern], allow=[pattern]).match(path)


def test_the_resolver_of_these_tests_follows_links_as_the_system_does(tmp_path: Path) -> None:
    top = tmp_path.resolve()
    (top / "real" / "sub").mkdir(parents=True)
    (top / "absolute").symlink_to(top / "real")
    (top / "relative").symlink_to("real/sub")
    (top / "real" / "up").symlink_to("..")
    links = {
        f"{top}/absolute": f"{top}/real",
        f"{top}/relative": "real/sub",
        f"{top}/real/up": "..",
    }
    resolve = resolver(links)
    for path in (
        "absolute/sub",
        "relative/../x",
        "real/up/relative",
        "absolute/up/absolute",
        "none/../x",
        ".",
    ):
        assert resolve(f"{top}/{path}") == str(Path(f"{top}/{path}").resolve()), path


def test_every_default_protects_what_it_names() -> None:
    for pattern in DEFAULT_PROTECTED:
        path = pattern.replace("**", "a/b").replace("*", "x")
        assert PLAIN.match(path), pattern
        assert PLAIN.match(f"{path}/below"), pattern


@pytest.mark.parametrize("pattern", ["//srv/x", "/srv/./x", "/srv//x/", "/srv/y/../x", "/SRV/X", "/srv/x/**"])
def test_one_place_however_it_is_written(pattern: str) -> None:
    rules = PathRules(work_dir=WORK, home=HOME, resolve=str, protect=[pattern])
    for path in ("/srv/x", "/srv/x/y", "/srv/X/z"):
        assert rules.match(rules.locate(path, str)) == pattern
    assert not rules.match(rules.locate("/srv/xy", str))
    assert not rules.match(rules.locate("/srv", str))


def test_the_next_session_compiles_nothing_anew() -> None:
    """A batch starts thousands, each perhaps in a work dir of its own."""

    def rules(work_dir: str) -> PathRules:
        return PathRules(work_dir=work_dir, home="/home/u", resolve=str, protect=["*.pem", "/srv/x"])

    rules("/w/1")
    before = module._expression.cache_info().misses
    rules("/w/2")
    assert module._expression.cache_info().misses == before
