"""The screens of `cms top`, as lines. Pure: what the daemon said, what the person chose, and the size.

Every line fits the width. What an agent wrote is escaped, and where it is not plain ASCII the cursor is put
to its column afterwards: no terminal needs to agree with us on how wide an emoji is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from cms.cli import render, usage
from cms.cli.log_lines import fitting, moment_lines
from cms.cli.questions import question_lines
from cms.cli.render import paint
from cms.cli.status import short_folder
from cms.cli.terminal import Style, escape
from cms.rpc.overview import OverviewResult
from cms.session.model import LiveSession, SessionStatus
from cms.session.questions import OpenQuestion
from cms.session.transcript import Moment
from cms.units import money, plural, short_span, size

#: What is on the screen.
Page = Literal["list", "details", "help", "answer"]

_LEAST: Final = 16  # lines of a screen that has them
_LEAST_LOG: Final = 3  # lines that must be free for its log to be shown
_KEYS: Final = {
    "list": "j/k move  enter more  a answer  l log  p pause  s stop  x kill  ? help  q quit",
    "details": "j/k move  enter back  a answer  l log  p pause  s stop  x kill  ? help  q quit",
    "help": "? back  q quit",
    "answer": "enter send  esc back",
    "permission": "y allow  n deny  esc back",
}
HELP: Final = (
    ("up, k / down, j", "choose a session; page up and down, home and end"),
    ("enter", "its details and the end of its log, and back"),
    ("a", "answer its question, or allow or deny what it waits for"),
    ("l", "follow its log; q comes back"),
    ("p", "pause: it takes no more messages; again: it goes on"),
    ("f", "freeze every process of it where it stands; again: it goes on"),
    ("i", "interrupt what it does, after a y; it stays alive"),
    ("s", "stop it, after a y"),
    ("x", "kill it and all that it started, after a y"),
    ("?", "this help, and back"),
    ("q, ctrl-c", "leave; no session is ended by that"),
)
#: Sessions come in this order, by name (s2 before s10) among the same.
_RANKS: Final = tuple(map(SessionStatus, ("busy", "starting", "paused", "attached", "ready")))


_NUMBERS: Final = re.compile(r"[0-9]+|[^0-9]+")


class View(msgspec.Struct, frozen=True):
    """What is to be shown.

    Attributes:
        chosen: the session's name; "" where there is none.
        home: the person's home folder, for short paths.
        message: what the last key came to.
        open: what the chosen session waits for.
        asked: which of several questions of one call is being answered.
        typed: what was typed of the answer.
        moments: the end of the chosen session's log.
    """

    reply: OverviewResult
    chosen: str = ""
    page: Page = "list"
    home: str = ""
    message: str = ""
    open: OpenQuestion | None = None
    asked: int = 0
    typed: str = ""
    moments: tuple[Moment, ...] = ()

    @property
    def session(self) -> LiveSession | None:
        return next((one for one in self.reply.sessions if one.session.name == self.chosen), None)


def ordered(reply: OverviewResult) -> OverviewResult:
    """Those first that wait for a person, then those that work."""

    def rank(one: LiveSession) -> tuple[int, list[tuple[int, str]]]:
        status, parts = one.session.status, _NUMBERS.findall(one.session.name)
        first = 0 if one.questions else 1 + _RANKS.index(status) if status in _RANKS else 9
        return first, [(int(part), "") if part.isdecimal() else (0, part) for part in parts]

    return msgspec.structs.replace(reply, sessions=tuple(sorted(reply.sessions, key=rank)))


def frame(view: View, height: int, style: Style) -> list[str]:
    """A whole screen: at most `height` lines, each at most as wide as the style says."""
    keys: str = view.page
    body: list[str]
    room = max(1, height - 2)
    match view.page:
        case "help":
            body = _help_lines(style)
        case "answer" if view.open is not None:
            body = answer_lines(view, room, style)
            keys = "permission" if view.open.kind == "permission" else "answer"
        case "details" if (one := view.session) is not None:
            body = details_lines(view, one, room, style)
        case _:
            body = list_lines(view, room, style)
            keys = "list"
    body = body[:room]
    body += [""] * (room - len(body))
    message = paint(render.cut(render.one_line(view.message, style), style.width, style), "33", style)
    foot = paint(render.cut(_KEYS[keys], style.width, style), "2", style)
    return [*body, message, foot][:height]


# --- the list -------------------------------------------------------------------------------------


def list_lines(view: View, room: int, style: Style) -> list[str]:
    """The sums, as much of the table as fits around the chosen one, and the chosen one below."""
    sums = render.cut(sums_line(view.reply), style.width, style)
    sessions = view.reply.sessions
    if not sessions:
        return [sums, "", "no live sessions; start one: cms spawn NAME PROMPT"]
    chosen = view.session
    below = _chosen_lines(view, chosen, style) if chosen is not None and room + 2 >= _LEAST else []
    visible = max(1, room - 2 - len(below))
    at = next((n for n, one in enumerate(sessions) if one is chosen), 0)
    first = min(max(0, at - visible // 2), max(0, len(sessions) - visible))
    shown = sessions[first : first + visible]
    lines = table(view.reply, shown, view.home, style, chosen=view.chosen)
    if (left := visible - len(shown)) > 0:
        lines.append("")
    if below and left > _LEAST_LOG:
        below += ["", *log_tail(view.moments, left - 2, style)]
    if len(sessions) > visible:
        place = f"{first + 1}-{first + len(shown)} of "
        sums = render.cut(place + sums_line(view.reply), style.width, style)
    return [sums, *lines, *below]


def sums_line(reply: OverviewResult) -> str:
    asking = sum(one.questions > 0 for one in reply.sessions)
    plan = usage.brief(reply.plan, reply.at, Style(tty=True))
    words = (
        plural(len(reply.sessions), "live session"),
        f"{sum(one.session.status is SessionStatus.BUSY for one in reply.sessions)} busy",
        f"{asking} waiting for you" if asking else "",
        size(sum(one.memory for one in reply.sessions)),
        f"{money(reply.spent_today)} today",
        f"plan {plan}" if plan else "",
    )
    return ", ".join(word for word in words if word)


def table(
    reply: OverviewResult, shown: Sequence[LiveSession], home: str, style: Style, *, chosen: str = ""
) -> list[str]:
    """Heads, and a line for each of the sessions shown. The columns are as wide as all of them need."""
    rows = {one.session.name: _row(one, reply.at, home, style) for one in reply.sessions}
    heads = ("STATE", "NAME", "TIME", "TURNS", "COST", "MODEL", "FOLDER", "MEM", "PROCS", "TASK")
    columns = list(zip(heads, *rows.values(), strict=True))
    widths = [max(render.display_width(cell) for cell in column) for column in columns]
    kept = _fit(widths, style.width)
    lines = [paint(_table_line(heads, kept, style, mark="  ").rstrip(), "1", style)]
    for one in shown:
        name = one.session.name
        if name == chosen:
            line = paint(_table_line(rows[name], kept, style, mark="> "), "7", style)
        else:
            line = _table_line(rows[name], kept, style, mark="  ", colour=_state(one, style)[1]).rstrip()
        lines.append(line)
    return lines


def _row(one: LiveSession, now: float, home: str, style: Style) -> tuple[str, ...]:
    session, limits = one.session, one.session.options.limits
    spent = money(session.total_cost_usd, exact=session.cost_exact)
    if limits.max_cost is not None:
        spent += f"/{limits.max_cost:.2f}"
    turns = str(session.total_turns)
    if limits.max_turns is not None:
        turns += f"/{limits.max_turns}"
    return (
        _state(one, style)[0],
        session.name,
        short_span(now - one.since) if one.since else "",
        turns,
        spent,
        render.one_line(session.options.model, style),
        render.one_line(short_folder(session.options.work_dir, home), style),
        size(one.memory),
        str(one.processes),
        render.one_line(one.task, style),
    )


def doing(one: LiveSession, style: Style) -> str:
    """What it does now, and what waits for it, in a line."""
    words = [one.activity] if one.activity and not one.questions else []
    if one.questions:
        words.append(f"asks {plural(one.questions, 'question')}: cms ask {one.session.name}")
    if one.queued:
        words.append(f"{plural(one.queued, 'message')} waiting")
    return render.cut(render.one_line("; ".join(words), style), style.width, style)


def whole_table(reply: OverviewResult, home: str, style: Style) -> list[str]:
    """All of them, each with what it does below it, and the sums: for `--once`."""
    if not reply.sessions:
        return ["no live sessions; start one: cms spawn NAME PROMPT", "", sums_line(reply)]
    head, *lines = table(reply, reply.sessions, home, style)
    found = [head]
    inner = style if style.width is None else msgspec.structs.replace(style, width=style.width - 4)
    for one, line in zip(reply.sessions, lines, strict=True):
        found.append(line)
        if (words := doing(one, inner)) != "":
            found.append(f"    {paint(words, '2', style)}")
    return [*found, "", render.cut(sums_line(reply), style.width, style)]


#: Of each column: its least and its greatest width, and the width of a terminal that has it.
_COLUMNS: Final = (
    (5, 10, 0),  # STATE
    (8, 24, 0),  # NAME
    (4, 6, 0),  # TIME
    (5, 9, 56),  # TURNS
    (4, 16, 44),  # COST
    (5, 12, 100),  # MODEL
    (6, 30, 110),  # FOLDER
    (3, 9, 120),  # MEM
    (5, 5, 150),  # PROCS
    (4, 999, 64),  # TASK
)
_RIGHT: Final = (2, 3, 4, 7, 8)
_NAME: Final = 1
_MODEL: Final = 5
_FOLDER: Final = 6
_TASK: Final = 9


def _fit(widths: list[int], width: int | None) -> list[tuple[int, int]]:
    """Which columns are shown, and how wide. The last takes what is left."""
    if width is None:
        return list(enumerate(widths))
    kept = [
        (n, min(max(widths[n], least), most))
        for n, (least, most, from_width) in enumerate(_COLUMNS)
        if width >= from_width
    ]
    over = 2 + sum(w for _, w in kept) + len(kept) - 1 - width
    shown = dict(kept)
    if over < 0 and _TASK in shown:
        shown[_TASK] -= over
    # What gives way, down to what: the name, the task, the folder, the model, and the name again.
    for give, least in ((_NAME, 14), (_TASK, 20), (_FOLDER, 6), (_MODEL, 5), (_NAME, 8), (_TASK, 8)):
        if over > 0 and give in shown:
            less = max(0, min(over, shown[give] - least))
            shown[give] -= less
            over -= less
    return list(shown.items())


def _table_line(
    cells: Sequence[str], kept: Sequence[tuple[int, int]], style: Style, *, mark: str, colour: str = ""
) -> str:
    line, column, last = mark, len(mark), kept[-1]
    for n, width in kept:
        cell = cells[n]
        cell = render.cut_start(cell, width, style) if n == _FOLDER else render.cut(cell, width, style)
        gap = " " * (width - render.display_width(cell))
        column += width + 1
        aligned = gap + cell if n in _RIGHT else cell + gap
        line += paint(aligned, colour, style) if n == 0 else aligned
        if (n, width) != last:
            if style.tty and not cell.isascii():
                line += f"\x1b[{column}G"
            line += " "
    return line


def _state(one: LiveSession, style: Style) -> tuple[str, str]:
    """`busy` with its icon, and the colour."""
    icons = render.STATUS_ICONS[one.session.status]
    if one.questions:
        return render.with_icon("asks", ("?", "?", ""), style), "1;33"
    if one.frozen:
        return render.with_icon("frozen", icons, style), icons[2]
    return render.with_icon(one.session.status.value, icons, style), icons[2]


# --- the chosen one -------------------------------------------------------------------------------


def _chosen_lines(view: View, one: LiveSession, style: Style) -> list[str]:
    """What it does, what it was told, and where it is."""
    return [
        _rule(one.session.name, style),
        _doing_line(view, one, style),
        _labelled("task", one.task, style),
        _labelled("in", _about(view, one), style),
    ]


def _rule(title: str, style: Style) -> str:
    mark = "─" if style.icons == "unicode" else "-"
    width = style.width or 80
    return paint(f"{mark * 2} {title} {mark * width}"[:width], "2", style)


def _labelled(label: str, text: str, style: Style, colour: str = "") -> str:
    line = render.cut(f"{label:<6} {render.one_line(text, style)}", style.width, style)
    return paint(line, colour, style) if colour else line


def _doing_line(view: View, one: LiveSession, style: Style) -> str:
    if one.questions:
        asked = view.open if view.open is not None and view.open.name == one.session.name else None
        return _labelled("asks", f"(press a) {_asked_words(asked)}", style, "1;33")
    doing = one.activity or {
        SessionStatus.READY: "nothing, waiting for a message",
        SessionStatus.BUSY: "the model is working",
        SessionStatus.PAUSED: "paused",
    }.get(one.session.status, one.session.status.value)
    return _labelled("now", doing, style)


def _asked_words(asked: OpenQuestion | None) -> str:
    if asked is None:
        return "a question"
    if asked.kind == "permission":
        return f"to use {asked.tool} {asked.detail}"
    return "; ".join(
        f"{one.question} ({' / '.join(choice.label for choice in one.choices)})" for one in asked.questions
    )


def _about(view: View, one: LiveSession) -> str:
    options = one.session.options
    words = [
        short_folder(options.work_dir, view.home),
        options.model,
        options.preset,
        *(() if options.safety else ("SAFETY OFF",)),
        plural(one.processes, "process", "processes"),
        size(one.memory),
    ]
    if one.queued:
        words.append(f"{plural(one.queued, 'message')} waiting")
    return ", ".join(words)


def details_lines(view: View, one: LiveSession, room: int, style: Style) -> list[str]:
    """All about one session, and the end of its log."""
    session, limits = one.session, one.session.options.limits
    state, colour = _state(one, style)
    passed = short_span(view.reply.at - one.since) if one.since else ""
    room_for_name = (style.width or 80) - render.display_width(state) - len(passed) - 4
    name = render.cut(session.name, max(room_for_name, 0), style)
    head = f"{name}  {paint(state, colour, style)}  {passed}".rstrip()
    used = [
        _used_line(
            "cost",
            session.total_cost_usd,
            limits.max_cost,
            money(session.total_cost_usd, exact=session.cost_exact),
            f"${limits.max_cost:.2f}" if limits.max_cost is not None else "",
            style,
        ),
        _used_line(
            "turns",
            session.total_turns,
            limits.max_turns,
            str(session.total_turns),
            str(limits.max_turns),
            style,
        ),
    ]
    other = render.limits_words(limits)
    lines = [
        head,
        _doing_line(view, one, style),
        _labelled("task", one.task, style),
        _labelled("in", _about(view, one), style),
        *used,
        *([_labelled("limits", other, style)] if other else []),
        _rule("log", style),
    ]
    return [*lines, *log_tail(view.moments, room - len(lines), style)]


def _used_line(label: str, value: float, most: float | None, used: str, limit: str, style: Style) -> str:
    if not most:
        return _labelled(label, f"{used}, no limit", style)
    drawn = render.bar(value, most, 20, style)
    colour = "31" if value >= 0.9 * most else "33" if value >= 0.7 * most else "32"
    gap = " " * (20 - len(drawn))
    text = f" {used} of {limit}"
    if (style.width or 80) < 29 + len(text):
        return _labelled(label, text.strip(), style)
    return f"{label:<6} {paint(drawn, colour, style)}{gap}{text}"


def log_tail(moments: Iterable[Moment], room: int, style: Style) -> list[str]:
    """The newest lines of a log, as `cms logs` shows them."""
    lines = [line for moment in moments for line in moment_lines(moment, style)]
    while lines and not lines[0]:
        lines.pop(0)
    return lines[-room:] if room > 0 else []


# --- a person's answer ----------------------------------------------------------------------------


def answer_lines(view: View, room: int, style: Style) -> list[str]:
    """What it asks, and what was typed so far."""
    one = view.open
    if one is None:
        return []
    left = short_span(one.expires - view.reply.at)
    if one.kind == "permission":
        head = f"{one.name} wants to use {one.tool}; it waits {left} more"
        body, whole = permission_lines(one, room - 2, style)
        more = [] if whole else [paint(render.cut(_too_long(one), style.width, style), "1;33", style)]
        return [
            paint(render.cut(render.one_line(head, style), style.width, style), "1", style),
            "",
            *body,
            *more,
        ]
    question = one.questions[view.asked]
    number = f" ({view.asked + 1} of {len(one.questions)})" if len(one.questions) > 1 else ""
    head = f"{one.name} asks{number}; it waits {left} more"
    several = ", several with commas" if question.multi_select else ""
    hint = f"A number{several}, or your own words. Enter sends, esc goes back."
    mark = "█" if style.icons == "unicode" else "_"
    typed = render.cut_start(
        f"> {render.one_line(view.typed, style) if view.typed.strip() else ''}{mark}",
        style.width or 80,
        style,
    )
    fixed = 6
    told = [render.cut(line, style.width, style) for line in question_lines(question, style)]
    return [
        paint(render.cut(head, style.width, style), "1", style),
        "",
        *told[: max(1, room - fixed)],
        "",
        paint(render.cut(hint, style.width, style), "2", style),
        typed,
    ]


def permission_lines(one: OpenQuestion, room: int, style: Style) -> tuple[list[str], bool]:
    """What is to be permitted, every character of it shown as itself; and whether that is all of it."""
    width = style.width or 80
    lines: list[str] = []
    for line in (one.whole or one.detail).split("\n"):
        rest = escape(line)
        while True:
            head = fitting(rest, width - 2)
            lines.append(f"  {head}".rstrip())
            rest = rest[len(head) :]
            if not rest:
                break
    return (lines, True) if len(lines) <= room else (lines[: room - 1], False)


def _too_long(one: OpenQuestion) -> str:
    return f"longer than this screen; cms ask {one.name} shows all of it"


def _help_lines(style: Style) -> list[str]:
    width = max(len(keys) for keys, _ in HELP)
    lines = [render.cut(f"  {keys:<{width}}  {what}", style.width, style) for keys, what in HELP]
    return [paint("Keys in cms top", "1", style), "", *lines]
