"""Imports go one way. This walks all of them, in the source itself, and fails on an arrow that points up.

The order of the rooms is that of the map in ARCHITECTURE.md: a module may import its own room and the rooms
before it. Imports inside functions count too: they save time, they do not change who knows whom.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec
import pytest

SRC = Path(__file__).parent.parent / "src"

MAP = Path(__file__).parent.parent / "ARCHITECTURE.md"


def read_map(text: str) -> tuple[str, ...]:
    """The rooms of ARCHITECTURE.md's table "The map", from the ground up: its first column."""
    table = text.partition("## The map")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
    return tuple(
        name.removesuffix(".py").rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)
    )


#: A room is a module or a package under src/cms. It may import itself and the rooms before it.
ROOMS = read_map(MAP.read_text())

#: Rooms that may import only these of ours, wherever they stand.
ONLY: dict[str, frozenset[str]] = {
    # The fakes stand for the other side: what they shared with us they could not prove.
    "testing": frozenset({"testing", "protocol", "errors", "session"}),
    "batch": frozenset(
        {"batch", "errors", "units", "session", "protocol", "option_kinds", "options", "layers"}
    ),
    "containment": frozenset({"containment", "disk", "errors", "files", "units"}),
    "changes": frozenset({"changes", "errors", "files", "units"}),
    "page": frozenset({"page", "batch", "json_output", "session"}),
}

#: Time is an argument and I/O is somebody else's in these packages.
PURE = ("protocol", "session")
IMPURE_MODULES = frozenset(
    {
        "asyncio", "concurrent", "ctypes", "fcntl", "glob", "http", "importlib", "io", "logging", "mmap",
        "multiprocessing", "os", "pathlib", "random", "resource", "secrets", "select", "selectors", "shutil",
        "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "trio",
        "urllib", "uuid",
    }
)  # fmt: skip
IMPURE_CALLS = frozenset({"open", "print", "input"})
CLOCKS = frozenset({"now", "utcnow", "today"})

#: Commands that only ask must load none of these.
SLOW = frozenset({"trio", "rich", "mcp", "asyncio", "sqlite3", "h11", "subprocess"})
#: The commands that run sessions in the process itself.
RUNS_SESSIONS = frozenset({"cli.foreground"})


class Arrow(msgspec.Struct, frozen=True):
    """One import: who, what, where, and when it happens."""

    importer: str
    imported: str
    line: int
    lazy: bool  # inside a function
    typing: bool  # under TYPE_CHECKING

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules(src: Path = SRC) -> dict[str, Path]:
    """Every module under src/cms by its name without `cms.`; the package itself is ""."""
    found = {}
    for path in sorted((src / "cms").rglob("*.py")):
        parts = path.relative_to(src / "cms").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def arrows(src: Path = SRC) -> tuple[Arrow, ...]:
    """Every import of every module."""
    known = modules(src)
    return tuple(
        arrow
        for name, path in known.items()
        for arrow in _arrows(name, ast.parse(path.read_text()), known, is_package=path.stem == "__init__")
    )


def _arrows(
    name: str,
    node: ast.AST,
    known: dict[str, Path],
    *,
    is_package: bool,
    lazy: bool = False,
    typing: bool = False,
) -> Iterator[Arrow]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue  # no import is in one
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        checking = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        for imported in _imported(name, child, known, is_package=is_package):
            line = child.lineno if isinstance(child, ast.stmt) else 0
            yield Arrow(name, imported, line, lazy, typing)
        yield from _arrows(name, child, known, is_package=is_package, lazy=inside, typing=checking)


def _imported(name: str, node: ast.AST, known: dict[str, Path], *, is_package: bool) -> list[str]:
    """What a statement imports, ours as `cms.x.y` down to the module, others by their first name."""
    if isinstance(node, ast.Import):
        return [
            alias.name if alias.name.startswith("cms") else alias.name.split(".")[0] for alias in node.names
        ]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = ["cms", *name.split(".")] if name else ["cms"]
        package = package[: len(package) - node.level + is_package]
        base = ".".join([*package, *([node.module] if node.module else [])])
    if base == "pathlib" and all(alias.name.startswith("Pure") for alias in node.names):
        return ["pathlib.PurePath"]  # reckons with names, and touches no file
    if base != "cms" and not base.startswith("cms."):
        return [base.split(".")[0]]
    found = []
    for alias in node.names:
        deeper = f"{base}.{alias.name}"
        found.append(deeper if deeper.removeprefix("cms.") in known else base)
    return found


def room_of(module: str) -> str:
    """The room that a module belongs to; "" for the package itself and for what is in no room."""
    first = module.split(".")[0]
    return first if first in ROOMS else ""


def complaints(src: Path = SRC) -> list[str]:
    """Everything that is wrong, in words."""
    wrong = [
        f"{name} is in no room: add it to the map in ARCHITECTURE.md, as low as it can stand"
        for name in modules(src)
        if name and not room_of(name)
    ]
    for arrow in arrows(src):
        if not (arrow.imported == "cms" or arrow.imported.startswith("cms.")):
            continue
        here, there = room_of(arrow.importer), room_of(arrow.imported.removeprefix("cms").removeprefix("."))
        if arrow.importer == "":
            # The public face of the library: it may show anything, but loads nothing that is not asked for.
            if there != "_version" and not arrow.lazy and not arrow.typing:
                wrong.append(f"{arrow}: not before somebody asks for it")
        elif not here or not there or here == there:
            continue  # told above, the package itself, or a room's own business
        elif ROOMS.index(there) > ROOMS.index(here):
            wrong.append(f"{arrow}: {here} is not above {there}")
        elif here in ONLY and there not in ONLY[here]:
            wrong.append(f"{arrow}: {here} may import only {', '.join(sorted(ONLY[here]))}")
    return list(dict.fromkeys(wrong))


def test_the_map_names_every_room_and_no_other() -> None:
    assert sorted(ROOMS) == sorted({name.split(".")[0] for name in modules() if name})


def test_every_arrow_points_down() -> None:
    assert complaints() == []


def test_the_pure_rooms_know_no_clock_and_no_input_or_output() -> None:
    wrong = [
        str(arrow)
        for arrow in arrows()
        if arrow.importer.split(".")[0] in PURE and arrow.imported in IMPURE_MODULES
    ]
    for name, path in modules().items():
        if name.split(".")[0] not in PURE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=called)) if called in IMPURE_CALLS:
                    wrong.append(f"{name}:{node.lineno} calls {called}")
                case ast.Call(func=ast.Attribute(attr=called)) if called in CLOCKS:
                    wrong.append(f"{name}:{node.lineno} calls {called}")
    assert wrong == []


def test_only_nodes_speak_to_the_engine() -> None:
    """Its client is asyncio, and that and trio do not share a process."""
    others = {
        arrow.importer
        for arrow in arrows()
        if arrow.imported.split(".")[0] in ("asyncio", "temporalio")
        and arrow.importer.split(".")[0] not in ("nodes", "mcp")
    }
    assert others == set()


def test_the_pure_rooms_need_nothing_but_msgspec() -> None:
    foreign = {
        arrow.imported
        for arrow in arrows()
        if arrow.importer.split(".")[0] in PURE
        and not arrow.imported.startswith("cms")
        and arrow.imported.split(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == {"msgspec"}


def loaded_by(entry: str) -> dict[str, str]:
    """Everything that is loaded when this module is, and by whom: imports outside functions, followed."""
    known = modules()
    outgoing: dict[str, list[Arrow]] = {}
    for arrow in arrows():
        if not arrow.lazy and not arrow.typing:
            outgoing.setdefault(arrow.importer, []).append(arrow)
    found: dict[str, str] = {f"cms.{entry}": entry}
    todo = [entry]
    while todo:
        name = todo.pop()
        # A module's packages are loaded before it.
        parts = name.split(".")
        packages = [".".join(parts[:length]) for length in range(len(parts))]
        for package in packages:
            if package in known and f"cms.{package}".rstrip(".") not in found:
                found[f"cms.{package}".rstrip(".")] = name
                todo.append(package)
        for arrow in outgoing.get(name, []):
            if arrow.imported not in found:
                found[arrow.imported] = str(arrow)
                target = arrow.imported.removeprefix("cms").removeprefix(".")
                if arrow.imported.startswith("cms") and target in known:
                    todo.append(target)
    return found


@pytest.mark.parametrize("entry", ["cli", "cli.app", "rpc.client"])
def test_commands_that_only_ask_load_nothing_slow(entry: str) -> None:
    if entry not in modules():
        pytest.fail(f"{entry} is gone: name the module that commands begin with")
    loaded = loaded_by(entry)
    slow = {
        what: by
        for what, by in loaded.items()
        if what in SLOW - {"subprocess"}
        or what.startswith(("cms.live", "cms.fleet", "cms.store", "cms.daemon", "cms.mcp", "cms.testing"))
    }
    assert slow == {}


def test_commands_reach_sessions_through_the_daemon() -> None:
    """Only the foreground runs them itself; and whoever goes there goes lazily."""
    wrong = [
        str(arrow)
        for arrow in arrows()
        if arrow.importer.split(".")[0] == "cli"
        and arrow.imported.startswith(("cms.live", "cms.fleet", "cms.store"))
        # Plain files, read without a database; and a look at names without a lock, for TAB.
        and arrow.imported not in ("cms.store.rawlog", "cms.store.live_files", "cms.store.read_only")
        and arrow.importer not in RUNS_SESSIONS
    ]
    wrong += [
        f"{arrow}: at its top"
        for arrow in arrows()
        if arrow.importer.split(".")[0] == "cli"
        and arrow.imported.removeprefix("cms.")
        in {*RUNS_SESSIONS, "daemon.main", "selftest.demo", "selftest.doctor", "selftest.drill.run"}
        and not arrow.lazy
        and not arrow.typing
    ]
    assert wrong == []


def test_the_mcp_sdk_is_loaded_by_its_server_alone() -> None:
    """Its import takes most of a second."""
    assert {arrow.importer.split(".")[0] for arrow in arrows() if arrow.imported == "mcp"} <= {"mcp"}


def test_nothing_is_loaded_in_a_circle() -> None:
    outgoing: dict[str, set[str]] = {}
    for arrow in arrows():
        if not arrow.lazy and not arrow.typing and arrow.imported.startswith("cms."):
            outgoing.setdefault(arrow.importer, set()).add(arrow.imported.removeprefix("cms."))
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            pytest.fail(" -> ".join([*path[path.index(name) :], name]))
        if name not in done:
            for target in sorted(outgoing.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(outgoing):
        visit(name, ())


# --- the checker itself -----------------------------------------------------------------------------


def tree(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in {"__init__.py": "", **files}.items():
        path = tmp_path / "cms" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"errors.py": "from cms.config import x"}, "errors is not above config"),
        ({"errors.py": "import cms.config"}, "errors is not above config"),
        ({"errors.py": "def f():\n    from cms import config"}, "errors is not above config"),
        ({"session/state.py": "from ..live.runner import x"}, "session is not above live"),
        ({"session/state.py": "from ..cli.app import x", "cli/app.py": ""}, "is not above cli"),
        (
            {"session/path_rules.py": "from .. import batch", "batch/model.py": ""},
            "session is not above batch",
        ),
        ({"testing/api.py": "from cms.units import x"}, "testing may import only"),
        ({"containment/_proc.py": "from cms.session.model import x"}, "containment may import only"),
        ({"newroom.py": ""}, "newroom is in no room: add it to the map"),
        ({"__init__.py": "from cms.fleet.supervisor import x"}, "not before somebody asks for it"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, files: dict[str, str], word: str) -> None:
    others = {"config.py": "", "units.py": "", "session/model.py": "", "live/runner.py": ""}
    others |= {"fleet/supervisor.py": ""}
    found = complaints(tree(tmp_path, {**others, **files}))
    assert len(found) == 1, found
    assert word in found[0]


def test_right_arrows_are_not_complained_about(tmp_path: Path) -> None:
    files = {
        "errors.py": "import enum",
        "session/model.py": "from ..errors import x",
        "session/state.py": "from cms.session import model\nfrom .model import y",
        "containment/__init__.py": "from ._a import x",
        "containment/_a.py": "from . import _b",
        "containment/_b.py": "",
        "__init__.py": "def f():\n    from cms.cli import app",
        "cli/app.py": "from cms import errors",
    }
    assert complaints(tree(tmp_path, files)) == []


# --- the words about it ------------------------------------------------------------------------------


def test_the_walks_name_what_is_there() -> None:
    """`module:Class.method` in ARCHITECTURE.md is a definition in that module."""
    walks = MAP.read_text().partition("## Four walks")[2].partition("\n## ")[0]
    known = modules()
    missing = []
    for module, name in re.findall(r"`([a-z_.]+):([A-Za-z_.]+)`", walks):
        body: list[ast.stmt] = ast.parse(known[module].read_text()).body if module in known else []
        for part in name.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            body = found[0].body if found and isinstance(found[0], ast.ClassDef) else []
            if not found:
                missing.append(f"{module}:{name}")
                break
    assert missing == []


def test_the_documents_name_files_that_are_there() -> None:
    root = MAP.parent
    for document in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"):
        for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", (root / document).read_text()):
            assert (SRC / "cms" / path).exists() or (root / path).exists(), f"{document}: {path}"


def _functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        if not isinstance(child, ast.expr):
            yield from _functions(child)


def test_no_function_is_longer_than_a_page_and_no_module_than_ten() -> None:
    tables = {"store.schema", "session.fold"}
    long_modules = {"protocol.messages", "session.state", "containment._shim", "testing.hostile"}
    wrong = []
    for name, path in modules().items():
        text = path.read_text()
        if text.count("\n") > 600 and name not in long_modules:
            wrong.append(f"{name}: {text.count(chr(10))} lines")
        for function in _functions(ast.parse(text)):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > 80 and name not in tables:
                wrong.append(f"{name}:{function.name}: {length} lines")
    assert wrong == []
