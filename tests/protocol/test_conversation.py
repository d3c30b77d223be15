"""claude's own record of a conversation, and what it tells a status line."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cms.protocol.conversation import Tally, read_status


def line(kind: str, **fields: object) -> bytes:
    return msgspec.json.encode({"type": kind, "uuid": "u", **fields})


def said(role: str, content: object, **fields: object) -> bytes:
    return line(role, message={"role": role, "content": content, "id": "m1"}, cwd="/project", **fields)


TEXT = [{"type": "thinking", "thinking": "..."}, {"type": "text", "text": "Done."}]
TOOL = [{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}]


def tally(*lines: bytes) -> Tally:
    found = Tally()
    found.feed(lines)
    return found


def test_a_conversation() -> None:
    found = tally(
        line("queue-operation", content="fix it"),
        said("user", "<command-name>/clear</command-name>"),
        said("user", "a caveat", isMeta=True),
        said("user", "fix it"),
        said("assistant", TOOL),
        said("assistant", TEXT),  # one reply, in two lines
        said("user", [{"type": "tool_result", "content": [{"type": "text", "text": "x"}]}]),
        said("assistant", [{"type": "text", "text": "a subagent's"}], isSidechain=True),
        b'{"type": "assistant", "mess',
        b"",
    )
    assert (found.turns, found.messages, found.first, found.answer) == (1, 1, "fix it", "Done.")
    assert (found.cwd, found.cost, found.complete) == ("/project", None, False)


def test_the_last_total_counts_and_only_where_nothing_was_said_after_it() -> None:
    usage = {"claude-x": {"inputTokens": 3, "outputTokens": 5, "costUSD": 0.25, "thinkingTokens": 0}}
    cost = line("cost-state", totalCostUSD=0.25, modelUsage=usage)
    found = tally(said("assistant", TEXT), line("cost-state", totalCostUSD=0.1), cost)
    assert found.complete
    assert found.cost is not None
    assert found.cost.total_cost_usd == 0.25
    assert found.cost.model_usage["claude-x"].output_tokens == 5
    assert not tally(cost, said("assistant", TEXT)).complete
    assert tally().complete


def test_the_status_line() -> None:
    one = "1edacc04-bd86-44ee-a010-dd080bd7b07e"
    line = b'{"session_id": "%b", "cost": {"total_cost_usd": 0.5}, "model": {"id": "m"}, "x": 1}'
    told = read_status(line % one.encode())
    assert told is not None
    assert (told.session_id, told.cost.total_cost_usd, told.model.id) == (one, 0.5, "m")
    assert read_status(b"{}") is None
    for forged in ("../../etc/passwd", "--settings=x", f"{one}\\n", f"../{one}"):
        assert read_status(line % forged.encode()) is None


@given(st.lists(st.binary(max_size=80)), st.binary(max_size=80))
def test_nothing_in_it_is_too_odd(lines: list[bytes], told: bytes) -> None:
    tally(*lines, *(said("user", one.decode("latin1")) for one in lines))
    read_status(told)
