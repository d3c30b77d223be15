"""How processes ended, in lines: what `stop`, `kill` and `top` say. Pure, with `render`'s rules."""

from __future__ import annotations

from collections.abc import Sequence

from cms.cli.render import cut, one_line, receipt_line, session_line
from cms.cli.terminal import Style
from cms.session.model import Receipt, SessionRecord
from cms.units import brief, clock, plural


def end_line(session: SessionRecord, receipt: Receipt | None) -> str:
    """`fix-auth: stopped, nothing left running`, of an end that is proved."""
    if receipt is None:
        return f"{session.name}: was not running"
    return f"{session.name}: {session.status.value}, nothing left running"


def stopped_lines(session: SessionRecord, receipt: Receipt | None, style: Style) -> list[str]:
    return [session_line(session, style), f"  {end_words(session, receipt, style)}"]


def end_words(session: SessionRecord, receipt: Receipt | None, style: Style) -> str:
    """How it was ended now; where there was nothing to end, when that had ended."""
    if receipt is not None:
        return receipt_line(receipt)
    before = session.receipt
    return "nothing was alive" + (f": it had ended at {clock(before.at, style.zone)}" if before else "")


def killed_lines(session: SessionRecord, receipt: Receipt | None, style: Style) -> list[str]:
    """The receipt of a kill: what was alive, what was done, how long it took, and that nothing is left."""
    lines = [session_line(session, style)]
    if receipt is None:
        return [*lines, f"  {end_words(session, None, style)}"]
    return [*lines, *kill_lines(receipt, style)]


def kill_lines(receipt: Receipt, style: Style) -> list[str]:
    """What a kill met and did, without the session."""
    lines: list[str] = []
    done, proof = (receipt.how[:-1], receipt.how[-1:]) if receipt.empty else (receipt.how, ())
    took = next((step.seconds for step in reversed(receipt.steps) if step.name == "kill"), receipt.seconds)
    lines += _processes("was alive", receipt.alive, style)
    lines += [f"  done       {'; '.join(done)}"] if done else []
    lines += [f"  took       {brief(took)} ({receipt.mechanism})"]
    if receipt.empty:
        return [*lines, f"  left       nothing: {'; '.join(proof) or 'proved empty'}"]
    return [*lines, *_processes("STILL ALIVE", receipt.left, style)]


def _processes(label: str, found: Sequence[str], style: Style, *, most: int = 20) -> list[str]:
    """`pid command` lines below a count."""
    total = plural(len(found), "process", "processes")
    lines = [f"  {label:<9}  {total}"]
    lines += [cut(f"    {one_line(each, style)}", style.width, style) for each in found]
    return lines if len(found) <= most else [*lines[: most + 1], f"    and {len(found) - most} more"]
