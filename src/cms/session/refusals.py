"""What claude refuses by itself, and what ran though nobody permitted it, in the state of a session. Pure."""

from __future__ import annotations

import msgspec

from cms.session.acts import is_loss, may_change
from cms.session.model import Denial
from cms.session.state import State
from cms.session.tool_input import ToolInput

_replace = msgspec.structs.replace


def refuse(state: State, use: str, tool: str, reason: str, given: ToolInput | None = None) -> State:
    """claude refused a call by itself: by its mode, by the user's own rule or hook, or as none that it knows.

    That it does so is said in up to three ways; a call counts once.
    """
    turn = state.turn
    if turn is None or use in turn.denied_ids:
        return state
    _, known = turn.calls.get(use, ("", None))
    given = given or known or ToolInput()
    at_work = {key: acts for key, acts in turn.at_work.items() if key != use}
    # What it was let through for, where nothing more is told of it.
    loss = is_loss(tool, given) or turn.at_work.get(use, False)
    denial = Denial(tool, given.detail, reason, by="claude")
    turn = _replace(
        turn,
        denials=(*turn.denials, denial),
        denied_ids=turn.denied_ids | {use},
        refused=turn.refused + loss,
        at_work=at_work,
        calls={key: call for key, call in turn.calls.items() if key != use},
    )
    return _replace(state, turn=turn)


def permit(state: State, use: str) -> State:
    """A call that nobody permitted ran: a hook of the user's own did, and claude had heard that before us."""
    turn = state.turn
    if turn is None:
        return state
    tool, given = turn.unpermitted[use]
    denials, about = list(turn.denials), (tool, given.detail, "nobody")
    place = next((n for n, one in enumerate(denials) if (one.tool, one.detail, one.by) == about), None)
    if place is not None:
        del denials[place]
    turn = _replace(
        turn,
        denials=tuple(denials),
        denied_ids=turn.denied_ids - {use},
        unpermitted={key: call for key, call in turn.unpermitted.items() if key != use},
        refused=turn.refused - is_loss(tool, given),
        acted=turn.acted + may_change(tool, given),
    )
    return _replace(state, turn=turn)
