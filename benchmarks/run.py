"""The runner: measures, each beside what people would use instead, and writes the table.

    python -m benchmarks --write              all of it; the table of benchmarks/README.md is written anew
    python -m benchmarks reading store        some of it, told only
    python -m benchmarks --json new.json      the figures, for a machine
    python -m benchmarks --compare old.json   exit code 1 if something is slower than it was then
    python -m benchmarks --small              less of everything: for a loaded machine, or to try the runner

What it is held against (`PEERS`) is installed into an environment of its own, kept in benchmarks/.peers; all
is measured there, cms too. Ratios are taken within one run, in turns; times are the best of several.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks import commands, isolation, many, reading, sessions, store, trees
from benchmarks.figures import ROOT, Figure, Run, commit, machine, slower, table

#: What people would use instead, as it is installed beside cms.
PEERS = ("orjson", "claude-agent-sdk")
_PLACE = ROOT / "benchmarks" / ".peers"
_README = ROOT / "benchmarks" / "README.md"
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"

#: In the order of the table. Each is told whether to do less.
MEASURES: dict[str, Callable[[bool], list[Figure]]] = {
    "reading": reading.figures,
    "commands": commands.figures,
    "store": store.figures,
    "trees": trees.figures,
    "isolation": isolation.figures,
    "sessions": sessions.figures,
    "many": many.figures,
    "overhead": sessions.overhead,
}


def enter_peers() -> None:
    """Go on in the environment of the peers, which is made if it is not there."""
    if Path(sys.prefix) == _PLACE:
        return
    python = _PLACE / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(_PLACE)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-e", str(ROOT), "psutil", *PEERS], check=True)
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", "benchmarks", *sys.argv[1:]])  # noqa: S606 - no shell is wanted


def write_table(run: Run, *, small: bool) -> None:
    """Put the figures into the README, between their marks."""
    text = _README.read_text()
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    how = " with --small" if small else ""
    head = f"Measured{how} at {run.commit} on {run.machine} (load {run.load:.1f} before).\n"
    _README.write_text("\n".join([before + _BEGIN, head, *table(run.figures), "", _END]) + after)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(MEASURES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="tell what is slower than in that file")
    parser.add_argument("--small", action="store_true", help="measure less of everything")
    parser.add_argument("--write", action="store_true", help="write the table of benchmarks/README.md anew")
    parser.add_argument("--here", action="store_true", help="in this environment, without what it lacks")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in MEASURES]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}: one of {', '.join(MEASURES)}")
    if not given.here:
        enter_peers()
    run = Run(machine(), commit(), os.getloadavg()[0], [])
    for name in given.names or MEASURES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        run.figures += MEASURES[name](given.small)
    print("\n".join([run.machine, "", *table(run.figures)]))
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(run)))
    if given.write:
        write_table(run, small=given.small)
    if given.compare:
        found = slower(msgspec.json.decode(given.compare.read_bytes(), type=Run), run)
        print("\n" + "\n".join(f"slower: {one}" for one in found) if found else "\nnothing is slower")
        sys.exit(bool(found))
