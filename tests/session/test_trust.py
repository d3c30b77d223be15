"""Trust is for a content: what a person accepted, held against what is there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cms.session.project_config import Item
from cms.session.trust import Grant, notices, stand, summary

HOOK = Item("hook", ".claude/settings.json", "Stop 1", "./x", "d1")
SERVER = Item("server", ".mcp.json", "s", "run s", "d2")
LOST = Item("unreadable", ".claude/settings.json", what="not a regular file")

items = st.lists(
    st.builds(
        Item,
        st.sampled_from(["hook", "server", "program"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["1", "2"]),
        st.just(""),
        st.sampled_from(["x", "y"]),
    ),
    unique_by=lambda item: item.key,
)


@given(items, items)
def test_what_was_accepted_is_trusted_and_nothing_more(accepted: list[Item], present: list[Item]) -> None:
    standing = stand("/p", present, [Grant(tuple(accepted))])
    assert standing.trusted == (set(present) <= set(accepted))
    assert bool(standing.difference) == (not standing.trusted)
    shown = {*standing.difference.new, *(now for _, now in standing.difference.changed)}
    assert shown == (set() if standing.trusted else set(present) - set(accepted))


def test_without_a_word_nothing_is_trusted() -> None:
    standing = stand("/p", [HOOK, SERVER], [])
    assert not standing.trusted
    assert standing.left_out == (HOOK, SERVER)
    [said] = notices(standing)
    assert "(not trusted): 1 hook, MCP server s" in said
    assert "`cms trust /p`" in said


def test_a_change_is_told_as_one() -> None:
    changed = Item("hook", HOOK.path, HOOK.name, "./y", "d3")
    standing = stand("/p", [changed, SERVER], [Grant((HOOK,))])
    assert standing.difference.changed == ((HOOK, changed),)
    assert standing.difference.new == (SERVER,)
    assert "(changed since it was trusted)" in notices(standing)[0]


def test_the_acceptance_of_claudes_own_dialog_counts_until_something_was_kept() -> None:
    assert stand("/p", [HOOK], [], claude_accepted=True).by == "claude"
    assert not stand("/p", [HOOK], [Grant((SERVER,))], claude_accepted=True).trusted


def test_what_a_parent_folder_was_trusted_with_holds_below_it() -> None:
    assert stand("/p/sub", [HOOK, SERVER], [Grant((SERVER,)), Grant((HOOK,))]).trusted


def test_what_cannot_be_read_is_never_in_force_and_never_asked_for() -> None:
    standing = stand("/p", [HOOK, LOST], [Grant((HOOK,))])
    assert standing.trusted
    assert standing.left_out == (LOST,)
    assert "cms trust" not in notices(standing)[0]


def test_the_settings_and_the_flag_trust_whatever_is_there() -> None:
    for by in ("settings", "session"):
        assert stand("/p", [HOOK], [Grant(())], always=by).by == by


def test_rules_are_told_of_though_nothing_else_is_there() -> None:
    assert notices(stand("/p", [], [], rules=["Bash(npm test)"])) == (
        "permission rules of /p do not count (Bash(npm test)); use --allow",
    )
    assert notices(stand("/p", [], [])) == ()


def test_a_summary_stays_in_a_line() -> None:
    many = [Item("hook", "a", str(n)) for n in range(1000)]
    assert summary(many) == "1000 hooks"
    assert summary([Item("program", "x.sh"), HOOK]) == "1 hook"
