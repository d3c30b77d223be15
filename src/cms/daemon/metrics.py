"""The metrics of a daemon: what its store has counted, what lives now, and what it takes itself."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cms._version import __version__
from cms.session.model import LiveSession, SessionStatus, TokenUsage
from cms.session.plan_usage import UsageWindow
from cms.store.counters import Figures
from cms.telemetry.metrics import MOST, Family, Sample, by_label, gauge

if TYPE_CHECKING:
    from cms.daemon.call import Host
    from cms.fleet.supervisor import Supervisor

_TOKENS = ("input", "output", "cache_read_input", "cache_creation_input")


async def gather(supervisor: Supervisor, host: Host) -> tuple[Family, ...]:
    """All that there is in numbers."""
    held, exports = await supervisor.figures(), supervisor.telemetry.exports
    living = of_daemon(supervisor.live(), host.clients, host.began)
    return (*of_store(held), *living, *of_exports(exports.sent, exports.lost))


def of_exports(sent: int, lost: int) -> Iterator[Family]:
    """What became of spans since the daemon began."""
    for word, number, text in (
        ("sent", sent, "Spans that went to a collector, since the daemon's start."),
        ("lost", lost, "Spans that did not, since the daemon's start."),
    ):
        yield Family(f"cms_otel_spans_{word}_total", "counter", text, (Sample(number),))


def of_store(held: Figures) -> Iterator[Family]:
    """What has happened in this home, and how its sessions, batches and budgets stand."""
    known = dict.fromkeys((status.value for status in SessionStatus), 0.0)
    yield by_label("cms_sessions", "gauge", "Sessions, by status.", "status", {**known, **held.sessions})
    yield from _money(held)
    yield from _plan(held.plan)
    so_far = held.counters

    def count(name: str) -> Mapping[str, float]:
        return so_far.get(name, {})

    yield by_label(
        "cms_messages_total", "counter", "Messages that have ended, by outcome.", "outcome", count("messages")
    )
    yield _total("cms_turns_total", "Calls of the API that messages took, once they have ended.", so_far)
    yield _total("cms_work_seconds_total", "Seconds that messages took.", so_far, "seconds")
    yield _split(
        "cms_tool_calls_total", "Tool calls that the gate let pass or refused.", ("tool", "verdict"), so_far
    )
    yield by_label(
        "cms_refusals_total",
        "counter",
        "Tool calls that were refused, by whom: the gate, claude's own rules, a person, or nobody to ask.",
        "by",
        count("refusals"),
    )
    yield by_label(
        "cms_limits_reached_total",
        "counter",
        "Limits and violations that ended work, by the outcome that they led to.",
        "outcome",
        count("limits"),
    )
    yield _split(
        "cms_process_ends_total",
        "Ends of claude processes: by force or not, and whether it was proved that nothing was left.",
        ("how", "proof"),
        so_far,
        "ends",
    )
    yield _total("cms_batch_parks_total", "Times that a usage limit parked a batch.", so_far, "parks")
    yield by_label("cms_batches", "gauge", "Batches, by status.", "status", held.batches)
    yield by_label("cms_batch_tasks", "gauge", "Tasks of all batches, by status.", "status", held.tasks)


def _money(held: Figures) -> Iterator[Family]:
    spent = _by_model(held.spent)
    usd = {model: usage.cost_usd for model, usage in spent.items()}
    yield by_label("cms_cost_usd_total", "counter", "US dollars spent, by model.", "model", usd)
    tokens = (
        Sample(getattr(usage, f"{kind}_tokens"), {"model": model, "type": kind})
        for model, usage in sorted(spent.items())
        for kind in _TOKENS
    )
    yield Family("cms_tokens_total", "counter", "Tokens, by model and type.", tuple(tokens))
    yield gauge("cms_spent_today_usd", "US dollars spent since midnight (local time).", held.today)
    for name, help_, field in (
        ("cms_budget_limit_usd", "What may be spent, where a budget says so.", "cap"),
        ("cms_budget_used_usd", "What was spent of a budget.", "used"),
        ("cms_budget_reserved_usd", "What messages under way have reserved of a budget.", "held"),
    ):
        samples = tuple(Sample(getattr(one, field), {"scope": one.scope}) for one in held.budgets)
        yield Family(name, "gauge", help_, samples)


def _plan(windows: Sequence[UsageWindow]) -> Iterator[Family]:
    running = windows[:MOST]
    used = tuple(Sample(one.used, {"window": one.name}) for one in running if one.used is not None)
    yield Family(
        "cms_plan_used_ratio", "gauge", "Part of the subscription's window that is used, 0 to 1.", used
    )
    ends = tuple(Sample(one.resets_at, {"window": one.name}) for one in running if one.resets_at is not None)
    yield Family(
        "cms_plan_resets_timestamp_seconds", "gauge", "When that window resets, since the epoch.", ends
    )
    heard = tuple(Sample(one.heard, {"window": one.name}) for one in running)
    yield Family(
        "cms_plan_heard_timestamp_seconds", "gauge", "When claude told that, since the epoch.", heard
    )


def _by_model(spent: Mapping[str, TokenUsage]) -> dict[str, TokenUsage]:
    """Of very many models the cheapest together, as "other"."""
    dearest = sorted(spent, key=lambda model: (-spent[model].cost_usd, model))
    found = {model: spent[model] for model in dearest[:MOST]}
    if rest := dearest[MOST:]:
        found["other"] = sum((spent[model] for model in rest), TokenUsage())
    return found


def _total(name: str, text: str, so_far: Mapping[str, Mapping[str, float]], key: str = "") -> Family:
    value = so_far.get(key or name.removeprefix("cms_").removesuffix("_total"), {}).get("", 0.0)
    return Family(name, "counter", text, (Sample(value),))


def _split(
    name: str,
    text: str,
    labels: tuple[str, ...],
    so_far: Mapping[str, Mapping[str, float]],
    key: str = "calls",
) -> Family:
    """A family whose counter's label is one word for each of `labels`."""
    samples = (
        Sample(value, dict(zip(labels, words.split(" "), strict=True)))
        for words, value in sorted(so_far.get(key, {}).items())
    )
    return Family(name, "counter", text, tuple(samples))


def of_daemon(live: Sequence[LiveSession], clients: int, began: float) -> Iterator[Family]:
    """What lives now, and what this process takes.

    Args:
        began: when it began to serve, in seconds since the epoch.
    """
    yield gauge("cms_up", "Whether a daemon answers.", 1)
    yield Family("cms_build_info", "gauge", "The daemon's version.", (Sample(1, {"version": __version__}),))
    yield gauge("cms_live_sessions", "Sessions with a process.", len(live))
    yield gauge("cms_session_processes", "Processes of all sessions.", sum(one.processes for one in live))
    yield gauge("cms_session_memory_bytes", "Memory of all sessions.", sum(one.memory for one in live))
    yield gauge("cms_queued_messages", "Messages that wait for their turn.", sum(one.queued for one in live))
    yield gauge(
        "cms_open_questions", "Calls that wait for a person's answer.", sum(one.questions for one in live)
    )
    yield gauge("cms_clients", "Connections to the daemon.", clients)
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield Family(
        "process_cpu_seconds_total",
        "counter",
        "Seconds of CPU time that the daemon took; sessions are not in it.",
        (Sample(used.ru_utime + used.ru_stime),),
    )
    yield gauge("process_start_time_seconds", "When the daemon began, in seconds since the epoch.", began)
    yield gauge("process_resident_memory_bytes", "Memory of the daemon.", _resident(used.ru_maxrss))
    with suppress(OSError):
        yield gauge(
            "process_open_fds", "Open files of the daemon.", sum(1 for _ in Path("/dev/fd").iterdir()) - 1
        )


def _resident(most: int) -> int:
    """Bytes now; where the system does not tell, the most that there were (`most`, as `getrusage` has it)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return most if sys.platform == "darwin" else most * 1024
