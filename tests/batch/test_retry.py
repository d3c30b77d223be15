from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cms.batch.model import RETRY_ON, TaskStatus
from cms.batch.retry import Remains, Terms, Try, judge, may_have_acted, salvage
from cms.session.model import Outcome

TRIES = st.builds(
    Try,
    outcome=st.sampled_from(list(Outcome)),
    turns=st.integers(0, 3),
    acted=st.booleans(),
    api_status=st.none() | st.sampled_from([400, 401, 429, 500, 529]),
    resets_at=st.none() | st.sampled_from([500.0, 2000.0]),
)
TERMS = st.builds(
    Terms,
    retries=st.integers(0, 3),
    retry_on=st.just(RETRY_ON),
    max_api_failures=st.integers(1, 3),
    failures=st.integers(0, 4),
    api_failures=st.integers(0, 4),
)
NOW = 1000.0


@given(TRIES, TERMS, st.floats(0, 0.999))
def test_nothing_that_acted_is_begun_anew_by_itself(tried: Try, terms: Terms, jitter: float) -> None:
    fate = judge(tried, terms, NOW, jitter)
    if fate.status is TaskStatus.WAITING and not fate.go_on:
        assert not tried.acted or not tried.turns or fate.counts != "failure"
        if fate.counts == "failure":
            assert not tried.acted
    if tried.outcome is Outcome.COMPLETED:
        assert fate.status is TaskStatus.COMPLETED
    assert fate.due >= 0


@given(TRIES, st.integers(1, 5), st.integers(0, 3), st.floats(0, 0.999))
def test_trying_ends(tried: Try, max_api_failures: int, retries: int, jitter: float) -> None:
    """But for usage limits that reset and refused credentials, no task is tried for ever."""
    terms = Terms(retries=retries, retry_on=RETRY_ON, max_api_failures=max_api_failures)
    for _ in range(max_api_failures + retries + 1):
        fate = judge(tried, terms, NOW, jitter)
        if fate.status is not TaskStatus.WAITING or fate.trouble in ("limit", "auth"):
            return
        terms = Terms(
            retries=retries,
            retry_on=RETRY_ON,
            max_api_failures=max_api_failures,
            failures=terms.failures + (fate.counts == "failure"),
            api_failures=terms.api_failures + (fate.counts == "api_failure"),
        )
    raise AssertionError("it goes on and on")


def test_the_cases_by_name() -> None:
    terms = Terms(retries=1, retry_on=RETRY_ON)
    assert judge(Try(Outcome.FAILED, api_status=529), terms, NOW, 0).trouble == "overload"
    assert judge(Try(Outcome.FAILED, api_status=529, turns=2, acted=True), terms, NOW, 0).go_on
    assert judge(Try(Outcome.FAILED, api_status=401), terms, NOW, 0).trouble == "auth"
    limited = judge(Try(Outcome.RATE_LIMITED, api_status=429, resets_at=1500.0), terms, NOW, 0)
    assert (limited.trouble, limited.due) == ("limit", 500.0)
    assert (
        judge(Try(Outcome.RATE_LIMITED, api_status=429, resets_at=900.0), terms, NOW, 0).trouble == "overload"
    )
    assert judge(Try(Outcome.FAILED, api_status=400), terms, NOW, 0).counts == "failure"
    acted = judge(Try(Outcome.FAILED, turns=2, acted=True), terms, NOW, 0)
    assert acted.status is TaskStatus.FAILED
    assert "may have changed something" in acted.reason
    permitted = Terms(retries=1, retry_on=RETRY_ON, retry_acted=True)
    assert judge(Try(Outcome.FAILED, acted=True), permitted, NOW, 0).status is TaskStatus.WAITING
    assert judge(Try(Outcome.COST_EXCEEDED), terms, NOW, 0).status is TaskStatus.COST_EXCEEDED


@given(
    st.builds(
        Remains,
        sent=st.booleans(),
        turns=st.integers(0, 3),
        allowed=st.lists(st.sampled_from(["Read", "Bash", "Edit", "mcp__x"]), max_size=4),
        at_work=st.lists(st.sampled_from(["Read", "Bash"]), max_size=2),
    )
)
def test_what_was_cut_off_is_only_resumed_where_it_is_safe(remains: Remains) -> None:
    fate = salvage(remains)
    acts = sum(tool != "Read" for tool in remains.allowed)
    if fate.status is TaskStatus.WAITING and not fate.go_on:
        assert not remains.sent or (not acts and not remains.turns), "begun anew only where nothing was done"
    if fate.go_on:
        assert "Bash" not in remains.at_work, "no tool was at work"
    assert fate.status in (TaskStatus.WAITING, TaskStatus.INTERRUPTED)


def test_only_reading_does_not_act() -> None:
    assert not may_have_acted(["Read", "Grep", "TodoWrite"])
    assert may_have_acted(["Read", "Bash"])
    assert may_have_acted(["mcp__mail__send"])
