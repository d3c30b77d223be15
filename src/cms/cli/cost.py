"""`cms cost`: the ledger, as a table with bars, as JSON, or as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.declare import Parameter
from cms.cli.flags import JsonFlag
from cms.cli.terminal import Style
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object, plain
from cms.rpc.money import LEDGER_TOTALS, ROWS, CostParams, CostResult, CostRow
from cms.session.model import Grouping, TokenUsage
from cms.units import money, plural

_BAR = 24  # columns of the longest bar
_FIGURES = 38  # columns between the name and the bar, and one to spare


def cost(
    *,
    by: Annotated[
        Grouping, Parameter(name="--by", metavar="WHAT", help="Group by this.", show_choices=True)
    ] = "session",
    since: Annotated[float | None, flags.since("Count only since then: today, 24h, 7d or a date.")] = None,
    limit: Annotated[int, flags.count("--limit", "Show at most N rows.")] = ROWS,
    csv: Annotated[bool, flags.switch("--csv", "Print CSV, for a spreadsheet.")] = False,
    json: JsonFlag = False,
) -> int:
    """Show what was spent, by session, model, tag, day or week.

    A terminal shows a bar for each row, and days and weeks as a chart, too. Days and weeks (ISO, from Monday)
    are local time. A session with two tags counts in both of their rows; the total counts it once.

    Comes from the ledger, so deleted sessions count too, and a fork counts only what it spent itself. `>=`
    marks an amount that may be higher: a process died before it reported.

    Examples::

        cms cost
        cms cost --by day --since 30d
        cms cost --by tag --since 30d --csv > cost.csv
    """
    if csv and json:
        raise UsageError("--csv and --json exclude each other")
    with io.daemon() as client:
        reply = client.call(LEDGER_TOTALS, CostParams(by=by, since=since, limit=limit))
    if json:
        rows = [json_object(row, "key name cost=usage.cost_usd exact usage") for row in reply.rows]
        spent = {"total_cost_usd": reply.total.cost_usd, "exact": reply.exact, "usage": reply.total}
        io.show_json(json_object(by=by, since=since, rows=rows, more=reply.more, **spent))
    elif csv:
        io.show_bytes(as_csv(reply.rows))
        if reply.more:
            io.warn(f"cms: only {plural(len(reply.rows), 'row')} shown; --limit N shows more")
    else:
        io.show_lines([*_chart(reply, by, io.out_style()), *lines(reply, by, io.out_style())])
    return ExitCode.COMPLETED


def as_csv(rows: Sequence[CostRow]) -> bytes:
    """A line for each row below one of names, in UTF-8; money as in `--json`."""
    import csv

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = TokenUsage.__struct_fields__
    writer.writerow(("key", "name", *names, "exact"))
    for row in rows:
        figures = [_figure(plain(name, getattr(row.usage, name))) for name in names]
        writer.writerow((_cell(row.key), _cell(row.name), *figures, str(row.exact).lower()))
    return text.getvalue().encode(errors="replace")


def _figure(value: object) -> str:
    """A number without an exponent: not every spreadsheet knows one."""
    return f"{value:.10f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula: names can be an agent's."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _chart(reply: CostResult, by: Grouping, style: Style) -> list[str]:
    if style.width is None or by not in ("day", "week"):
        return []
    from cms.cli.cost_chart import columns

    found = columns({row.key: row.usage.cost_usd for row in reply.rows}, by, style)
    return [*found, ""] if found else []


def lines(reply: CostResult, by: Grouping, style: Style) -> list[str]:
    """The table: name, cost, share, a bar, tokens in and out; a total below."""
    if not reply.rows:
        return ["nothing was spent"]
    names = [render.one_line(_name(row, by), style) for row in reply.rows]
    width = max(render.display_width(name) for name in (by.upper(), *names))
    bar_width = _BAR
    if style.width is not None:
        width = min(width, max(10, style.width - _BAR - _FIGURES))
        bar_width = max(0, min(_BAR, style.width - width - _FIGURES))
    most = max(row.usage.cost_usd for row in reply.rows)
    total = reply.total.cost_usd
    found = [render.paint(f"{by.upper():<{width}}        COST  SHARE      IN     OUT", "1", style)]
    for name, row in zip(names, reply.rows, strict=True):
        label = render.cut(name, width, style)
        label += " " * (width - render.display_width(label))
        spent = money(row.usage.cost_usd, exact=row.exact)
        share = f"{row.usage.cost_usd / total:.0%}" if total else ""
        drawn = render.bar(row.usage.cost_usd, most, bar_width, style)
        found.append(
            f"{label}  {spent:>10}  {share:>5}  {tokens(_into(row)):>6}  "
            f"{tokens(row.usage.output_tokens):>6}  {drawn}".rstrip()
        )
    rest = " of all; --limit N shows more rows" if reply.more else ""
    found += ["", f"total: {money(total, exact=reply.exact)}{rest}"]
    return found


def _name(row: CostRow, by: Grouping) -> str:
    return row.name or row.key or ("(no tag)" if by == "tag" else "(unknown)")


def _into(row: CostRow) -> int:
    usage = row.usage
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens


def tokens(number: int) -> str:
    """A count of tokens in at most six columns: `950`, `12.3k`, `4.5M`."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{letter}"
    return str(number)
