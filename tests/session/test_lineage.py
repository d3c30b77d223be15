"""A child is never more than its parent, however the two are made."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cms.errors import UsageError
from cms.layers import narrow
from cms.live.argv import ARRANGEMENTS
from cms.options import OPTIONS
from cms.session.callers import Caller, ChildLimits
from cms.session.lineage import check_depth, check_room, scope
from cms.session.model import PRESETS, Limits, SessionOptions, SessionRecord, SessionStatus

CAPS = ChildLimits()
RULES = ("Bash(make *)", "Bash(pytest *)", "Read(/x)")


def record(
    options: SessionOptions, *, name: str = "parent", depth: int = 0, cost: float = 0.0
) -> SessionRecord:
    return SessionRecord(
        id=f"id-{name}",
        name=name,
        status=SessionStatus.READY,
        options=options,
        created=0.0,
        last_saved=0.0,
        depth=depth,
        total_cost_usd=cost,
    )


def some(rules: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(rules), unique=True).map(tuple)


amounts = st.none() | st.floats(0.001, 100)
folders = st.sampled_from(("/work", "/work/a", "/work/a/b", "/workshop", "/", "/other"))
options = st.builds(
    SessionOptions,
    name=st.just("x"),
    work_dir=folders,
    preset=st.sampled_from(PRESETS),
    limits=st.builds(
        Limits,
        max_cost=amounts,
        **{name: st.none() | st.integers(1, 9) for name in Limits.__struct_fields__ if name != "max_cost"},
    ),
    safety=st.booleans(),
    permission_mode=st.sampled_from(("", "plan", "dontAsk", "bypassPermissions")),
    agent=st.sampled_from(("", "reviewer", "builder")),
    allowed_tools=some(RULES),
    disallowed_tools=some(RULES),
    add_dirs=st.lists(folders, max_size=2).map(tuple),
    mcp_config=some(("m1", "m2")),
    settings=st.sampled_from(("", "s1", "s2")),
    protect=some(("p1", "p2")),
    protect_read=some(("p1", "p2")),
    allow_write=some(("w1", "./w2")),
    writes=st.sampled_from(("workdir", "anywhere")),
    verify=some(("v1", "v2")),
    fork_of=st.sampled_from(("", "conversation")),
    env_deny=some(("e1", "e2")),
    require_containment=st.sampled_from((None, "A", "B", "D")),
    allow_cms=st.booleans(),
    on_violation=st.sampled_from(("stop", "deny")),
    trust_project=st.booleans(),
    isolate=st.sampled_from(("no", "auto", "copy")),
    apply=st.sampled_from((None, "on-pass")),
)


#: What a child may say whatever its parent is. What a parent may not do its child must not do for it: a new
#: option needs a rule in the table, or a place here.
HARMLESS = {
    *("model", "system_prompt", "append_system_prompt", "fallback_model", "effort"),
    *("ask_timeout", "allow_cms", "tags"),
    *(
        "context",
        "json_schema",
        "judge",
        "judge_max_cost",
        "judge_model",
        "repair",
        "retries",
        "retry_on",
        "retry_acted",
        "repo",
    ),
}


def test_every_option_was_thought_of() -> None:
    assert {field for field, option in OPTIONS.items() if option.child == "own"} == HARMLESS


def within(folder: str, roots: tuple[str, ...]) -> bool:
    return any(PurePosixPath(folder).is_relative_to(root) for root in roots)


@given(options, options, st.floats(0, 120))
def test_a_child_has_nothing_that_its_parent_has_not(
    wanted: SessionOptions, have: SessionOptions, spent: float
) -> None:
    try:
        child = narrow(wanted, record(have, cost=spent))
    except UsageError:
        return
    mine, theirs = ARRANGEMENTS[child.preset].tools, ARRANGEMENTS[have.preset].tools
    assert theirs is None or (mine is not None and set(mine) - {"ExitPlanMode"} <= set(theirs))
    assert child.safety or not have.safety
    assert have.trust_project or not child.trust_project
    assert have.isolate == "no" or child.isolate != "no"
    assert have.apply or not child.apply
    assert child.permission_mode == have.permission_mode or have.permission_mode == "bypassPermissions"
    assert child.agent == have.agent or not have.agent
    assert child.on_violation == "stop" or have.on_violation == "deny"
    roots = (have.work_dir, *have.add_dirs)
    assert all(within(folder, roots) for folder in (child.work_dir, *child.add_dirs))
    assert set(child.allowed_tools) <= set(have.allowed_tools)
    assert set(child.disallowed_tools) >= set(have.disallowed_tools)
    assert set(child.protect) >= set(have.protect)
    assert set(child.protect_read) >= set(have.protect_read)
    assert set(child.allow_write) <= set(have.allow_write)
    assert child.writes == "workdir" or have.writes == "anywhere"
    assert set(child.mcp_config) <= set(have.mcp_config)
    assert child.settings in ("", have.settings)
    asks = have.permission_mode not in ("", "bypassPermissions")
    every_command = have.preset == "full" and not have.disallowed_tools and not asks
    assert every_command or set(child.verify) <= set(have.verify)
    assert not child.fork_of
    assert set(child.env_deny) >= set(have.env_deny)
    if have.require_containment is not None:
        assert child.require_containment is not None
        assert child.require_containment <= have.require_containment
    if have.limits.max_cost is not None:
        assert child.limits.max_cost is not None
        assert 0 < child.limits.max_cost <= have.limits.max_cost - spent
    for key in Limits.__struct_fields__:
        cap = getattr(have.limits, key)
        assert cap is None or getattr(child.limits, key) <= cap


@given(options)
def test_a_child_may_be_as_its_parent_is(have: SessionOptions) -> None:
    """Cutting costs nothing where nothing is too much."""
    have = replace(have, fork_of="")
    child = narrow(have, record(have))
    assert child == have


def test_what_a_parent_says_of_its_own_folder_holds_in_a_child_s() -> None:
    """`./` is another place for a child that works further down."""
    have = SessionOptions(
        name="parent",
        work_dir="/work",
        protect=("./a/x", "b/c", "~/d", "../e"),
        protect_read=("./a/y",),
        allow_write=("./a/.env", ".npmrc"),
        disallowed_tools=(
            "Bash(./run)",
            "Edit(a/**)",
            "Write(./a/x)",
            "Read(/a/y)",
            "Read(.env)",
            "Read(//etc/x)",
            "Read(~/x)",
            "Write",
        ),
    )
    same = narrow(SessionOptions("child", "/work", protect=("f",)), record(have))
    assert same.protect == ("f", *have.protect)
    child = narrow(SessionOptions("child", "/work/a", allow_write=("./.env", ".npmrc")), record(have))
    assert child.protect == ("/work/a/x", "b/c", "~/d", "/e")
    assert child.protect_read == ("/work/a/y",)
    assert child.disallowed_tools == (
        "Bash(./run)",
        "Edit(//work/a/**)",
        "Write(//work/a/x)",
        "Read(//work/a/y)",
        "Read(.env)",
        "Read(//etc/x)",
        "Read(~/x)",
        "Write",
    )
    with pytest.raises(UsageError, match="writable path"):
        narrow(SessionOptions("child", "/work/a", allow_write=("./a/.env",)), record(have))


def test_a_folder_beside_the_parent_s_is_not_inside_of_it() -> None:
    parent = record(SessionOptions("p", "/work", preset="full"))
    with pytest.raises(UsageError, match="folder /workshop"):
        narrow(SessionOptions("c", "/workshop"), parent)


def test_who_has_spent_everything_can_give_nothing() -> None:
    parent = record(SessionOptions("p", "/work", limits=Limits(max_cost=1.0)), cost=1.0)
    with pytest.raises(UsageError, match="nothing left to spend"):
        narrow(SessionOptions("c", "/work"), parent)


@pytest.mark.parametrize(("depth", "allow", "fine"), [
    (0, True, True), (1, True, True), (2, False, True), (2, True, False), (3, False, False),
])  # fmt: skip
def test_depth_ends(depth: int, allow: bool, fine: bool) -> None:
    wanted = SessionOptions("c", "/work", allow_cms=allow)
    if fine:
        check_depth(Caller(depth), wanted, CAPS)
    else:
        with pytest.raises(UsageError, match="depth"):
            check_depth(Caller(depth), wanted, CAPS)


def test_fan_out_counts_one_s_own_children_only() -> None:
    base = SessionOptions("c", "/work")
    mine = [replace(record(base, name=f"m{n}", depth=1), started_by="p") for n in range(8)]
    clients = [record(base, name=f"c{n}", depth=1) for n in range(8)]
    people = [record(base, name=f"p{n}") for n in range(50)]
    check_room(Caller(1, "p"), [*mine[1:], *clients, *people], CAPS)
    check_room(Caller(1, ""), [*mine, *clients[1:], *people], CAPS)
    check_room(Caller(0, ""), [*mine, *clients, *people], CAPS)
    for caller, live in ((Caller(1, "p"), mine), (Caller(1, ""), clients)):
        with pytest.raises(UsageError, match="8 sessions started from here are alive") as caught:
            check_room(caller, live, CAPS)
        assert live[0].name in caught.value.message


def test_each_family_has_a_budget_of_its_own() -> None:
    assert scope("a") != scope("b")
