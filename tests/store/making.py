"""Records to test with: plain ones, and hypothesis strategies for any."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from hypothesis import strategies as st

from cms.config import Settings
from cms.session.audit import AuditEntry
from cms.session.model import (
    Denial,
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    Question,
    Receipt,
    SessionOptions,
    SessionRecord,
    SessionStatus,
    Step,
    TokenUsage,
)
from cms.store.database import Database
from cms.store.money import add_charges
from cms.store.records import Charge
from cms.store.sessions import save_end


def session(
    number: int = 1, *, status: SessionStatus = SessionStatus.READY, cost: float = 0.0
) -> SessionRecord:
    return SessionRecord(
        id=f"session-{number}",
        name=f"name-{number}",
        status=status,
        options=SessionOptions(name=f"name-{number}", work_dir="/work", limits=Limits(max_cost=2.0)),
        created=1000.0 + number,
        last_saved=1000.0 + number,
        total_cost_usd=cost,
        pid=4242,
    )


def interaction(
    number: int = 1, *, of: int = 1, state: InteractionState = InteractionState.QUEUED
) -> Interaction:
    return Interaction(
        id=f"interaction-{of}-{number}",
        session_id=f"session-{of}",
        number=number,
        type="send",
        prompt=f"prompt {number}",
        timestamp=2000.0 + number,
        state=state,
    )


def charge(
    cost: float,
    *,
    of: int = 1,
    number: int = 1,
    model: str = "sonnet",
    at: float = 3000.0,
    exact: bool = True,
) -> Charge:
    return Charge(
        session_id=f"session-{of}",
        interaction_id=f"interaction-{of}-{number}",
        process=f"process-{of}",
        model=model,
        usage=TokenUsage(10, 20, 30, 40, cost),
        at=at,
        process_total=cost,
        exact=exact,
    )


def entry(number: int = 1, *, of: int = 1) -> AuditEntry:
    return AuditEntry(
        session_id=f"session-{of}",
        interaction_id=f"interaction-{of}-1",
        at=float(number),
        tool="Edit",
        detail=f"file {number}",
        verdict="allowed",
    )


def receipt(reason: str = "stop") -> Receipt:
    return Receipt(reason=reason, steps=(Step("eof", 0.06, True),), returncode=0, empty=True, at=5.0)


def commit(
    db: Database, session: SessionRecord, *interactions: Interaction, charges: Sequence[Charge], ended: bool
) -> None:
    """All that can be written of a session, in one transaction."""
    save_end(db, session, interactions, receipt() if ended else None, process="p1")
    add_charges(db, charges)


_PROGRAM = """
import os, sys
from pathlib import Path
import trio
sys.path.insert(0, sys.argv[2])
from store import making
from cms.config import Settings
from cms.session.model import InteractionState, SessionStatus
from cms.store import money, sessions, turns
from cms.store.store import open_store

settings = Settings(home=Path(sys.argv[1]))
"""


def program(text: str, settings: Settings, *words: str) -> list[str]:
    """The argv of another process on the same store; its own words begin at `sys.argv[3]`."""
    return [sys.executable, "-c", _PROGRAM + text, str(settings.home), str(Path(__file__).parents[1]), *words]


texts = st.text(max_size=30)
amounts = st.floats(min_value=0, max_value=1e9)
times = st.floats(min_value=0, max_value=1e11)
counts = st.integers(min_value=0, max_value=2**62)
tokens = st.builds(TokenUsage, counts, counts, counts, counts, amounts)
limits = st.builds(
    Limits, st.none() | amounts, st.none() | counts, st.none() | amounts, max_memory=st.none() | counts
)
several_texts = st.lists(texts, max_size=3).map(tuple)
options = st.builds(
    SessionOptions,
    name=texts,
    work_dir=texts,
    model=texts,
    limits=limits,
    safety=st.booleans(),
    allowed_tools=several_texts,
    verify=several_texts,
)
receipts = st.builds(
    Receipt,
    reason=texts,
    steps=st.lists(st.builds(Step, st.sampled_from(["eof", "kill"]), amounts, st.booleans()), max_size=2).map(
        tuple
    ),
    returncode=st.none() | st.integers(-64, 255),
    alive=several_texts,
    empty=st.booleans(),
)
sessions = st.builds(
    SessionRecord,
    id=texts,
    name=texts,
    status=st.sampled_from(SessionStatus),
    options=options,
    created=times,
    last_saved=times,
    parent_id=texts,
    pid=st.none() | counts,
    total_cost_usd=amounts,
    cost_exact=st.booleans(),
    total_turns=counts,
    error=texts,
    receipt=st.none() | receipts,
)
interactions = st.builds(
    Interaction,
    id=texts,
    session_id=st.just("session-1"),
    number=counts,
    type=texts,
    prompt=texts,
    timestamp=times,
    state=st.sampled_from(InteractionState),
    response=texts,
    cost=amounts,
    cost_exact=st.booleans(),
    duration=amounts,
    ended=st.none() | times,
    outcome=st.none() | st.sampled_from(Outcome),
    tools_used=several_texts,
    denials=st.lists(st.builds(Denial, texts, texts, texts), max_size=2).map(tuple),
    questions=st.lists(st.builds(Question, texts, texts, several_texts), max_size=2).map(tuple),
    usage=st.dictionaries(texts, tokens, max_size=2),
)

replace = msgspec.structs.replace
