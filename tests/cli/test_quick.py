"""A plain line is read without cyclopts, and as cyclopts would read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import get_type_hints

import cyclopts
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.cli import declare, parser, quick
from cms.cli.flags import mark_hyphens

# cyclopts stands before the commands, so that both readers look at the same declarations.
assert not declare.LIGHT


@pytest.fixture(autouse=True, scope="module")
def _one_instant() -> Iterator[None]:
    """`--since 15m` is the same for both readers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cms.cli.flags.time", SimpleNamespace(time=lambda: 1_800_000_000.0))
        yield


COMMANDS: dict[str, Callable[..., object]] = {
    name: getattr(import_module(target.partition(":")[0]), target.partition(":")[2])
    for name, target in quick._TARGETS.items()
}
_FLAGS = sorted(
    {
        flag
        for command in COMMANDS.values()
        for hint in get_type_hints(command, include_extras=True).values()
        if hasattr(hint, "__metadata__")
        for flag in hint.__metadata__[0].name or ()
    }
)
_WORDS = [
    *("a", "fix-auth", "two words", "7", "0", "-1", "1.5", "15m", "busy", "day", "session", "today", "x=y"),
    *("", "-", "--", "-h", "--help", "-x", "--nope", "--no-json", "--json=true", "--name=", "é", "--full-"),
]


def by_cyclopts(words: list[str]) -> quick.Values | None:
    app = parser.build()
    try:
        command, bound, _ = app.parse_args(mark_hyphens(words))
    except cyclopts.CycloptsError:
        return None
    if command not in COMMANDS.values():
        return None  # the help
    return bound.args, bound.kwargs


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(sorted(COMMANDS)),
    st.lists(
        st.sampled_from(_WORDS)
        | st.sampled_from(_FLAGS)
        | st.builds("{}={}".format, st.sampled_from(_FLAGS), st.sampled_from(_WORDS)),
        max_size=5,
    ),
)
def test_what_is_read_without_cyclopts_is_what_cyclopts_reads(name: str, words: list[str]) -> None:
    found = quick.read(COMMANDS[name], words)
    if found is not None:
        assert found == by_cyclopts([name, *words])


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "list --json --status busy --limit 5 --after fix-auth",
        "status fix-auth --json",
        "send fix-auth hello --json",
        "send fix-auth - --detach",
        "wait a b --any --timeout=15m",
        "kill fix-auth",
        "stop fix-auth --grace 2s",
        "cost --by day --since 7d --json",
    ],
)
def test_what_people_type_is_plain(line: str) -> None:
    name, *words = line.split()
    assert quick.read(COMMANDS[name], words) is not None


@pytest.mark.parametrize("line", ["list --help", "list --limit 0", "list x", "send --nope", "status -- a"])
def test_the_rest_is_for_cyclopts(line: str) -> None:
    name, *words = line.split()
    assert quick.read(COMMANDS[name], words) is None
