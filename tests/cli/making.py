"""Records for tests, with every field that a test does not care about filled in."""

from __future__ import annotations

import msgspec

from cms.session.model import (
    DelegateResult,
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    Receipt,
    Reply,
    Safety,
    SessionOptions,
    SessionRecord,
    SessionStatus,
    Step,
)

#: 2026-11-22 11:30:00 UTC.
NOW = 1795347000.0

RECEIPT = Receipt(
    reason="stop",
    steps=(Step("interrupt", 0.2, False), Step("eof", 0.1, True)),
    returncode=0,
    seconds=0.3,
    mechanism="pidns",
    empty=True,
    at=NOW - 60,
)
UNPROVED = Receipt(
    reason="kill",
    steps=(Step("kill", 2.0, False),),
    alive=("41 python", "42 sh"),
    seconds=2.0,
    left=("41 python",),
    at=NOW,
)


def session(
    name: str = "fix-auth",
    *,
    status: SessionStatus = SessionStatus.READY,
    model: str = "sonnet",
    limits: Limits | None = None,
    created: float = NOW - 180,
    cost: float = 0.1234,
    turns: int = 3,
    pid: int | None = 4242,
    receipt: Receipt | None = None,
    unknown_lines: int = 0,
    noise_lines: int = 0,
) -> SessionRecord:
    return SessionRecord(
        id="11111111-1111-4111-8111-111111111111",
        name=name,
        status=status,
        options=SessionOptions(name=name, work_dir="/srv/app", model=model, limits=limits or Limits()),
        created=created,
        last_saved=NOW - 2.5,
        claude_session_id="22222222-2222-4222-8222-222222222222",
        pid=pid,
        total_cost_usd=cost,
        total_turns=turns,
        interaction_count=2,
        receipt=receipt,
        unknown_lines=unknown_lines,
        noise_lines=noise_lines,
    )


def interaction(
    *,
    number: int = 2,
    prompt: str = "also add a test",
    response: str = "Done.\nTwo tests added.",
    state: InteractionState = InteractionState.DONE,
    error: str = "",
) -> Interaction:
    return Interaction(
        id="33333333-3333-4333-8333-333333333333",
        session_id="11111111-1111-4111-8111-111111111111",
        number=number,
        type="send",
        prompt=prompt,
        timestamp=NOW - 90,
        state=state,
        response=response,
        cost=0.05,
        turns=2,
        duration=12.34,
        ended=NOW - 77.66,
        error=error,
    )


def reply(name: str = "fix-auth", text: str = "Done.", outcome: Outcome = Outcome.COMPLETED) -> Reply:
    return Reply(
        name=name,
        status=SessionStatus.READY,
        text=text,
        cost=0.05,
        turns=2,
        duration=12340,
        is_error=outcome is not Outcome.COMPLETED,
        session_id="11111111-1111-4111-8111-111111111111",
        interaction_id="33333333-3333-4333-8333-333333333333",
        pid=4242,
        outcome=outcome,
    )


def result(name: str = "fix-auth", outcome: Outcome = Outcome.COMPLETED) -> DelegateResult:
    return DelegateResult(
        status=outcome,
        name=name,
        response="All tests pass.",
        error=None if outcome is Outcome.COMPLETED else f"it ended as {outcome.value}",
        cost=0.25,
        turns=5,
        duration=65432,
        tools_used=("Read", "Edit"),
        can_continue=True,
        safety=Safety(),
        session_id="11111111-1111-4111-8111-111111111111",
        receipt=RECEIPT,
    )


def changed(record: SessionRecord, **options: object) -> SessionRecord:
    return msgspec.structs.replace(record, **options)
