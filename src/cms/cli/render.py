"""Records to lines for a person. Pure: no clock, no file, no terminal; `now` and `Style` are arguments.

Figures as the original shows them: costs with four decimals, durations in seconds with one, ages as
just now / Nm / Nh / Nd ago, prompts cut at 100 (`output`) or 200 (`history`) characters, responses at 300.

Text that an agent wrote is not trusted: on a terminal its control characters are shown as `?`, so that it
cannot move the cursor, retitle the window or answer for the person. In a pipe it passes unchanged, because
there it is data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from cms.cli.terminal import PROBE, Style, neutral
from cms.cli.terminal import paint as paint  # those who render take it from here
from cms.rpc.sessions import AcceptedResult
from cms.session.model import (
    ChangeSummary,
    DelegateResult,
    Denial,
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    Question,
    Receipt,
    Reply,
    SessionRecord,
    SessionStatus,
    Walls,
)
from cms.units import ago, brief, clock, in_seconds, money, plural, size, time_word

#: status: (icon, its ASCII stand-in, SGR colour).
STATUS_ICONS: dict[SessionStatus, tuple[str, str, str]] = {
    SessionStatus.CREATED: ("○", "o", "2"),
    SessionStatus.STARTING: ("◐", ".", "33"),
    SessionStatus.READY: ("●", "*", "32"),
    SessionStatus.BUSY: ("⟳", ">", "33"),
    SessionStatus.PAUSED: ("⏸", "=", "36"),
    SessionStatus.ATTACHED: ("⌨", "&", "36"),
    SessionStatus.STOPPED: ("□", "-", "2"),
    SessionStatus.KILLED: ("⊘", "/", "31"),
    SessionStatus.FAILED: ("✗", "x", "31"),
    SessionStatus.ERROR: ("✗", "x", "31"),
    SessionStatus.COMPLETED: ("✓", "+", "32"),
}

OUTCOME_ICONS: dict[Outcome, tuple[str, str, str]] = {
    Outcome.COMPLETED: ("✓", "+", "32"),
    Outcome.NEEDS_INPUT: ("?", "?", "33"),
    Outcome.FAILED: ("✗", "x", "31"),
    Outcome.COST_EXCEEDED: ("$", "$", "31"),
    Outcome.TURNS_EXCEEDED: ("#", "#", "31"),
    Outcome.TIME_EXCEEDED: ("@", "@", "31"),
    Outcome.STALLED: ("~", "~", "31"),
    Outcome.PROTECTED_PATH: ("!", "!", "31"),
    Outcome.VERIFICATION_FAILED: ("✗", "x", "31"),
    Outcome.RATE_LIMITED: ("%", "%", "33"),
    Outcome.INTERRUPTED: ("⊘", "/", "33"),
}


#: Takes away the icons that this package writes by itself: each is a column wide.
_OUR_OWN = str.maketrans("", "", PROBE)


# --- small pieces ---------------------------------------------------------------------------------


def safe(text: str, style: Style) -> str:
    """An agent's text as it may go to this stream (`terminal.neutral`)."""
    return neutral(text) if style.tty else text


def one_line(text: str, style: Style) -> str:
    return safe(" ".join(text.split()), style)


def display_width(text: str) -> int:
    """Columns that a text takes: wide letters and emoji take two, what is added to a letter none."""
    if text.isascii() or text.translate(_OUR_OWN).isascii():
        return len(text)
    from rich.cells import cell_len  # has the tables of wcwidth; only where needed

    return cell_len(text)


def cut(text: str, width: int | None, style: Style) -> str:
    """The text in at most `width` columns, with an ellipsis when something is missing."""
    if width is None or display_width(text) <= width:
        return text
    mark = "…" if style.icons == "unicode" else "..."
    room, kept = max(0, width - len(mark)), []
    for letter in text:
        room -= display_width(letter)
        if room < 0:
            break
        kept.append(letter)
    while kept and display_width("".join(kept)) > width - len(mark):  # emoji that are made of several
        kept.pop()
    return ("".join(kept) + mark)[: max(width, 0)]


def cut_start(text: str, width: int, style: Style) -> str:
    """The end of a text in at most `width` columns: of a path that is what tells it from others."""
    if display_width(text) <= width:
        return text
    mark = "…" if style.icons == "unicode" else "..."
    while text and display_width(text) + len(mark) > width:
        text = text[1:]
    return (mark + text)[: max(width, 0)]


def cut_characters(text: str, limit: int) -> str:
    """The original's cut: so many characters, then `...`."""
    return text if len(text) <= limit else text[:limit] + "..."


def bar(value: float, most: float, width: int, style: Style) -> str:
    """A bar that is as long as the value is big; nothing in a pipe, where a program may be reading."""
    if style.width is None or most <= 0:
        return ""
    part = max(0.0, min(1.0, value / most)) * width
    if style.icons != "unicode":
        return "#" * (max(1, round(part)) if value > 0 and width else 0)
    eighths = round(part * 8)
    if value > 0 and width:
        eighths = max(1, eighths)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()


def icons_of(what: SessionStatus | Outcome) -> tuple[str, str, str]:
    """The icon, its stand-in and the colour."""
    return STATUS_ICONS[what] if isinstance(what, SessionStatus) else OUTCOME_ICONS[what]


def with_icon(word: str, icons: tuple[str, str, str], style: Style) -> str:
    """A word behind its icon, uncoloured, so that it can be measured."""
    if style.icons == "none":
        return word
    return f"{icons[0] if style.icons == 'unicode' else icons[1]} {word}"


def status_word(status: SessionStatus, style: Style) -> str:
    """`● ready` (uncoloured, so that it can be measured)."""
    return with_icon(status.value, STATUS_ICONS[status], style)


def outcome_word(outcome: Outcome, style: Style) -> str:
    return with_icon(outcome.value, OUTCOME_ICONS[outcome], style)


def paint_status(status: SessionStatus, style: Style) -> str:
    return paint(status_word(status, style), STATUS_ICONS[status][2], style)


def paint_outcome(outcome: Outcome, style: Style) -> str:
    return paint(outcome_word(outcome, style), OUTCOME_ICONS[outcome][2], style)


def fields(rows: Iterable[tuple[str, str]], *, indent: str = "  ") -> list[str]:
    """`label  value` lines, aligned; rows without a value are left out."""
    kept = [(label, value) for label, value in rows if value]
    width = max((len(label) for label, _ in kept), default=0)
    return [f"{indent}{label:<{width}}  {value}" for label, value in kept]


def table(
    rows: Sequence[Sequence[str]],
    style: Style,
    *,
    right: Collection[int] = (),
    shrink: Iterable[tuple[int, int]] = (),
    from_end: Collection[int] = (),
    colours: tuple[int, Sequence[str]] = (0, ()),
) -> list[str]:
    """Rows in aligned columns, the heads first.

    Args:
        right: columns that are aligned to the right.
        shrink: where the style's width does not do: columns that give way in turn, each down to so much.
        from_end: columns of which the end is kept where they are cut.
        colours: a column, and what its cell below the heads is painted in, row by row.
    """
    widths = [max(display_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    if style.width is not None:
        over = sum(widths) + 2 * (len(widths) - 1) - style.width
        for column, least in shrink:
            give = max(0, min(over, widths[column] - least))
            widths[column] -= give
            over -= give

    def line(cells: Sequence[str], colour: str = "") -> str:
        out = []
        for position, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            text = cut_start(cell, width, style) if position in from_end else cut(cell, width, style)
            gap = " " * (width - display_width(text))
            if position == colours[0]:
                text = paint(text, colour, style)
            out.append(gap + text if position in right else text + gap)
        return "  ".join(out).rstrip()

    heads, *others = rows
    painted = colours[1] or [""] * len(others)
    return [
        paint(line(heads), "1", style),
        *(line(cells, colour) for cells, colour in zip(others, painted, strict=True)),
    ]


# --- parts ----------------------------------------------------------------------------------------


def receipt_line(receipt: Receipt) -> str:
    """How a process tree ended: `stop: interrupt, then eof ended it in 90 ms, proved empty (bwrap)`."""
    gentle = any(step.worked and step.name in ("eof", "terminate") for step in receipt.steps)
    # After a gentle end the kill is only the broom that the proof needs, unless something still lived.
    names = [step.name for step in receipt.steps if step.name != "kill" or receipt.alive or not gentle]
    steps = ", then ".join(names)
    if not steps:
        how = "had ended by itself"
    elif receipt.empty:
        how = f"{steps} ended it in {brief(receipt.seconds)}"
    else:
        how = f"{steps} did not end it in {brief(receipt.seconds)}"
    parts = [f"{receipt.reason}: {how}"]
    if receipt.alive:
        parts.append(f"{len(receipt.alive)} alive when force was used")
    if receipt.empty:
        parts.append("proved empty")
    elif receipt.left:
        parts.append(f"STILL ALIVE: {'; '.join(receipt.left)}")
    else:
        parts.append("NOT proved empty")
    mechanism = f" ({receipt.mechanism})" if receipt.mechanism else ""
    return ", ".join(parts) + mechanism


def left_words(receipt: Receipt) -> str:
    """That nothing is left of a process tree; how it ended only where that is not proved."""
    return f"{receipt.reason}, nothing left running" if receipt.empty else receipt_line(receipt)


def limits_words(limits: Limits) -> str:
    words = []
    if limits.max_time is not None:
        words.append(f"time {time_word(limits.max_time)}")
    if limits.max_silence is not None:
        words.append(f"silence {time_word(limits.max_silence)}")
    if limits.max_repeats is not None:
        words.append(f"repeats {limits.max_repeats}")
    if limits.max_retry_time is not None:
        words.append(f"API retries {time_word(limits.max_retry_time)}")
    if limits.max_memory is not None:
        words.append(f"memory {size(limits.max_memory)}")
    if limits.max_procs is not None:
        words.append(f"processes {limits.max_procs}")
    return ", ".join(words)


def question_lines(questions: Sequence[Question], style: Style) -> list[str]:
    lines = []
    for question in questions:
        lines.append(f"asks: {one_line(question.question, style)}")
        lines.extend(f"  - {one_line(option, style)}" for option in question.options)
    return lines


def denial_lines(
    denials: Sequence[Denial], style: Style, *, most: int = 10, told: str | None = None
) -> list[str]:
    """A line for each refused call. `told`: a reason that was told before."""
    lines = []
    for denial in denials[:most]:
        what = f"{one_line(denial.tool, style)} {cut(one_line(denial.detail, style), 60, style)}".rstrip()
        why = "" if denial.reason == told else one_line(denial.reason, style).removeprefix("refused: ")
        lines.append(f"refused: {what}: {why}" if why else f"refused: {what}")
    if len(denials) > most:
        lines.append(f"refused: {len(denials) - most} more")
    return lines


def next_lines(step: str | None, style: Style, *, indent: str = "") -> list[str]:
    """The command that goes on from here (`session.next_step`)."""
    return [f"{indent}{paint('next:', '1', style)} {safe(step, style)}"] if step else []


def answered_well(last: Interaction) -> bool:
    return last.state is InteractionState.DONE and last.outcome in (None, Outcome.COMPLETED)


def interaction_fate(last: Interaction, style: Style) -> str:
    """What became of a message, in a line."""
    join = ", " if _outcome_of(last) is None else ": "
    return f"#{last.number} {last.type}{join}{fate_words(last, style)}"


def _outcome_of(last: Interaction) -> Outcome | None:
    """How it ended, where that is all that there is to say."""
    open_ = (InteractionState.DOUBTFUL, InteractionState.UNCHECKED)
    return None if last.state in open_ else last.outcome


def fate_words(last: Interaction, style: Style) -> str:
    """The same without the message's number."""
    why = f": {one_line(last.error, style)}" if last.error else ""
    if (outcome := _outcome_of(last)) is not None:
        return paint_outcome(outcome, style) + (why if last.error != outcome.value else "")
    return {
        InteractionState.QUEUED: "stored, not sent yet",
        InteractionState.SENT: "sent, not begun yet",
        InteractionState.RUNNING: "being worked on",
        InteractionState.CHECKING: "answered, being checked",
        InteractionState.DONE: "answered",
        InteractionState.FAILED: f"failed{why}",
        InteractionState.INTERRUPTED: f"interrupted{why}; what it did before stands",
        InteractionState.UNCHECKED: f"answered, not checked{why}",
        InteractionState.DOUBTFUL: f"in doubt{why}; it may have reached claude or not, and is not sent again",
    }[last.state]


# --- whole commands -------------------------------------------------------------------------------


def status_lines(
    session: SessionRecord,
    activity: str,
    last: Interaction | None,
    now: float,
    style: Style,
    *,
    plan: str = "",
    next_step: str | None = None,
) -> list[str]:
    """Everything `status` tells. `plan`: how much of the plan is used, in a line."""
    limits = session.options.limits
    passed = session.options.verify if last is not None and last.outcome is Outcome.COMPLETED else ()
    told = "" if last is None else last.error
    spent = money(session.total_cost_usd, exact=session.cost_exact)
    not_understood = ", ".join(
        f"{plural(number, word)}"
        for number, word in ((session.unknown_lines, "unknown line"), (session.noise_lines, "noise line"))
        if number
    )
    return [
        f"{session.name}  {paint_status(session.status, style)}",
        *fields(
            (
                ("model", session.options.model),
                ("session id", session.conversation),
                ("work dir", session.options.work_dir),
                ("preset", session.options.preset + ("" if session.options.safety else ", SAFETY OFF")),
                ("cost", f"{spent} of {money(limits.max_cost)}" if limits.max_cost is not None else spent),
                ("turns", _of(session.total_turns, limits.max_turns)),
                (
                    "tool calls",
                    _of(session.tool_calls, limits.max_tool_calls)
                    if session.tool_calls or limits.max_tool_calls
                    else "",
                ),
                ("limits", limits_words(limits)),
                ("tags", one_line(", ".join(session.options.tags), style)),
                ("interactions", str(session.interaction_count)),
                ("pid", "" if session.pid is None else str(session.pid)),
                ("created", f"{clock(session.created, style.zone)} ({ago(session.created, now)})"),
                ("last saved", f"{clock(session.last_saved, style.zone)} ({ago(session.last_saved, now)})"),
                ("now", one_line(activity, style)),
                ("isolated", "" if session.walls is None else one_line(session.walls.isolation, style)),
                (
                    "change",
                    "" if session.change is None else change_words(session.change, session.name, style),
                ),
                *walls_fields(session.walls, style),
                *(("cap hit", one_line(hit, style)) for hit in session.caps_hit),
                ("last message", "" if last is None else interaction_fate(last, style)),
                *(("check passed", one_line(check, style)) for check in passed),
                ("last end", "" if session.receipt is None else left_words(session.receipt)),
                ("error", "" if session.error == told else one_line(session.error, style)),
                ("not understood", not_understood),
                ("claude", session.claude_version),
                ("plan", plan),
                ("next", "" if next_step is None else safe(next_step, style)),
            )
        ),
    ]


def walls_fields(walls: Walls | None, style: Style) -> list[tuple[str, str]]:
    """What holds the protected paths; each that nothing holds, by name."""
    if walls is None:
        return []
    notes = [("note", one_line(one, style)) for one in (*walls.left_out, *walls.mistakes)]
    if not walls.safety:
        return notes
    held = f"{plural(walls.held, 'path')} held by the system"
    more = [("not held", one) for one in (*walls.unheld, *walls.lost)]
    more += [("changed", one) for one in (*walls.changed, *walls.outside)]
    return [("protected", held), *((name, one_line(one, style)) for name, one in more), *notes]


def _of(used: int, limit: int | None) -> str:
    return str(used) if limit is None else f"{used} of {limit}"


def output_lines(
    last: Interaction, style: Style, *, full: bool, session: SessionRecord | None = None
) -> list[str]:
    """The last prompt and its response; with `full` the response alone."""
    if full:
        return safe(last.response, style).split("\n")
    lines = [
        f"prompt:  {one_line(cut_characters(last.prompt, 100), style)}",
        f"time:    {clock(last.timestamp, style.zone)}",
    ]
    if not answered_well(last):
        lines.append(f"state:   {interaction_fate(last, style)}")
    if session is not None and session.change is not None:
        lines.append(f"change:  {change_words(session.change, session.name, style)}")
    if last.response:
        lines += ["", *safe(last.response, style).split("\n")]
    return lines


def history_lines(
    session: SessionRecord, interactions: Sequence[Interaction], style: Style, *, full: bool
) -> list[str]:
    """Every interaction: number, type, time, prompt, response, cost, duration."""
    if not interactions:
        return [f"{session.name}: no messages yet"]
    lines = []
    for item in interactions:
        head = (
            f"#{item.number} {item.type}  {clock(item.timestamp, style.zone)}  "
            f"{money(item.cost, exact=item.cost_exact)}  {in_seconds(item.duration)}"
        )
        lines.append(paint(head, "1", style))
        if not answered_well(item):
            lines.append(f"  {fate_words(item, style)}")
        lines += _block("prompt", item.prompt, 200, style, full=full)
        if item.attachments:
            from cms.session.attachments import told  # what it loads is more than most answers need

            lines += [f"  attached: {one_line(told(one), style)}" for one in item.attachments]
        if item.response:
            lines += _block("response", item.response, 300, style, full=full)
        lines.append("")
    lines.append(
        f"total: {plural(len(interactions), 'interaction')}, {money(sum(item.cost for item in interactions))}"
    )
    return lines


def _block(label: str, text: str, limit: int, style: Style, *, full: bool) -> list[str]:
    if not full:
        return [f"  {label}: {one_line(cut_characters(text, limit), style)}"]
    return [f"  {label}:", *(f"    {line}".rstrip() for line in safe(text, style).split("\n"))]


def reply_lines(reply: Reply, style: Style) -> list[str]:
    """The answer to one message: name, status, cost, turns, duration, text."""
    figures = (money(reply.cost), plural(reply.turns, "turn"), in_seconds(reply.duration / 1000))
    lines = ["  ".join((reply.name, paint_status(reply.status, style), *figures))]
    if reply.is_error or reply.outcome is not Outcome.COMPLETED:
        asks = any(one.question == reply.error for one in reply.questions)
        why = f": {one_line(reply.error, style)}" if reply.error and not asks else ""
        outcome = reply.outcome if reply.outcome is not Outcome.COMPLETED else Outcome.FAILED
        lines.append(paint_outcome(outcome, style) + (why if reply.error != outcome.value else ""))
    lines += denial_lines(reply.denials, style, told=reply.error)
    lines += question_lines(reply.questions, style)
    if reply.text:
        lines += ["", *safe(reply.text, style).split("\n")]
    if (step := next_lines(reply.next_step, style)) and reply.outcome is not Outcome.COMPLETED:
        lines += ["", *step]
    return lines


def delegate_lines(result: DelegateResult, style: Style) -> list[str]:
    """The verdict of a delegation and what it rests on, then the response."""
    figures = (
        money(result.cost, exact=result.cost_exact),
        plural(result.turns, "turn"),
        in_seconds(result.duration / 1000),
    )
    lines = ["  ".join((paint_outcome(result.status, style), result.name, *figures))]
    if result.error and not any(one.question == result.error for one in result.questions):
        lines.append(f"error: {one_line(result.error, style)}")
    known = (
        result.error,
        f"{plural(len(result.safety.denials), 'tool call')} refused",
    )  # they are named below
    label = "note" if result.status is Outcome.COMPLETED else "because"  # (a good end needs no reason)
    lines += [f"{label}: {one_line(why, style)}" for why in result.reasons if why not in known]
    lines += [f"check passed: {one_line(check, style)}" for check in result.verified]
    if (said := result.judge) is not None:
        why = one_line(said.reason, style) if said.verdict == "pass" else ""  # else it is the error
        lines.append("  ".join(part for part in (f"judge: {said.verdict}", money(said.cost), why) if part))
    if result.rounds:
        told = (f"{one.status.value} {money(one.cost)}" for one in result.rounds)
        lines.append(f"rounds: {', '.join(told)}")
    if result.tools_used:
        lines.append(f"tools: {one_line(', '.join(result.tools_used), style)}")
    if result.change is not None:
        lines.append(f"change: {change_words(result.change, result.name, style)}")
    if not result.safety.enabled:
        lines.append("safety: OFF (--no-safety)")
    if result.safety.total_violations:
        lines.append(f"safety: {plural(result.safety.total_violations, 'violation')}")
        lines += [f"  {one_line(violation.message, style)}" for violation in result.safety.violations]
    denials = [denial for denial in result.safety.denials if not denial.violation]
    lines += denial_lines(denials, style, told=result.error)
    lines += question_lines(result.questions, style)
    if result.receipt is not None and not result.receipt.empty:
        lines.append(f"end: {receipt_line(result.receipt)}")
    if result.response:
        lines += ["", *safe(result.response, style).split("\n")]
    if step := next_lines(result.next_step, style):
        lines += ["", *step]
    return lines


def change_words(change: ChangeSummary, name: str, style: Style) -> str:
    """What an isolated session has changed, and what became of it, in a line."""
    if change.empty and not change.note:
        return "nothing was changed"
    what = f"{plural(change.files, 'file')}, +{change.added} -{change.removed}"
    if change.commits:
        what += f", {plural(change.commits, 'commit')}"
    how = f" (cms diff {name}, cms apply {name})" if change.state == "kept" else ""
    fate = "applied" if change.state == "applied" else f"not applied{how}"
    return f"{what}, {fate}" + (f": {one_line(change.note, style)}" if change.note else "")


def accepted_lines(reply: AcceptedResult) -> list[str]:
    return [
        f"{reply.name}: accepted, running in the background",
        f"look at it: cms status {reply.name}, then cms output {reply.name}",
    ]


def session_line(session: SessionRecord, style: Style) -> str:
    pid = "" if session.pid is None else f"  pid {session.pid}"
    return f"{session.name}  {paint_status(session.status, style)}{pid}"
