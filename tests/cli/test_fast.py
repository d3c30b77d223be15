"""A command that only asks is quick because of what it does not import. Counted, not timed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.scripted import serve
from cli.test_commands import SCRIPT

#: Imported by nothing that only asks: event loops, help rendering, servers, and what only rare paths need.
FORBIDDEN = {
    *("cyclopts", "attrs", "docstring_parser", "trio", "rich", "mcp", "asyncio", "anyio", "h11"),
    *("typing_extensions", "inspect", "ast"),
    *("difflib", "dataclasses", "shutil", "subprocess", "tempfile", "logging", "sqlite3"),
    *("cms.live", "cms.fleet", "cms.store", "cms.protocol"),
    *(
        "cms.options",
        "cms.layers",
        "cms.cli.option_flags",
        "cms.cli.delegation",
        "cms.cli.progress",
        "cms.cli.parser",
    ),
    "cms.cli.cost",
}

PROBE = """
import os, sys
from cms.cli import main

def end(code, exit=os._exit):
    print("\\n".join(sys.modules), file=sys.stderr, flush=True)
    exit(code)

os._exit = end
main()
"""


def modules_of(*words: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
        check=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "--json"),
        ("status", "fix-auth"),
        ("output", "fix-auth"),
        ("send", "fix-auth", "hello"),
    ],
    ids=" ".join,
)
def test_what_a_fast_command_does_not_import(home: Path, words: tuple[str, ...]) -> None:
    with serve(home, SCRIPT):
        loaded = modules_of(*words)
    assert "cms.cli.render" in loaded
    assert not loaded & FORBIDDEN


def test_how_much_comes_on_top_of_msgspec(home: Path) -> None:
    base = subprocess.run(
        [sys.executable, "-c", "import sys, msgspec; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    with serve(home, SCRIPT):
        ours = modules_of("list") - set(base.stdout.split())
    # Our own, and the standard library's for sockets and files. Before raising this, look at
    # `python -X importtime -m cms list`.
    assert len(ours) <= 46, sorted(ours)


def test_no_light_declaration_is_left_when_cyclopts_takes_over() -> None:
    program = """
import sys
from importlib import import_module
from cms.cli import quick
for name in quick.MODULES:
    import_module(name)
light = sys.modules["cms.cli.declare"].Parameter
quick.withdraw()
for name, module in list(sys.modules.items()):
    for found in vars(module).values() if name.startswith("cms.cli.") else ():
        said = getattr(found, "__metadata__", ())
        if found is light or light in map(type, (found, *said)):
            print(name)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == ""
