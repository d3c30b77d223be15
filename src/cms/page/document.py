"""The HTML around a page: on the server an empty one, in a file with the values that it shows.

The text of a value never becomes HTML: values stand in a script element that no browser runs, as JSON without
one `<`. A file brings a policy of its own along (`Content-Security-Policy`), as the server sends one.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, Literal

import msgspec

from cms.batch.model import BatchRecord
from cms.batch.report import Gathered
from cms.page.data import TEXTS, Event, batch_event, tasks_event

Kind = Literal["sessions", "session", "batches", "batch"]

ASSETS: Final = Path(__file__).parent / "assets"
#: The scripts, each behind those that it imports.
SCRIPTS: Final = (
    "dom.js", "words.js", "charts.js", "parts.js", "table.js", "questions.js", "diff.js", "acts.js",
    "sessions.js", "session.js", "batches.js", "app.js",
)  # fmt: skip
#: Nothing is loaded from elsewhere, nothing inline is run, and no script can make HTML of a text.
_COMMON: Final = (
    "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
SERVED_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    f"frame-ancestors 'none'; {_COMMON}"
)
_FILE_POLICY: Final = (
    f"default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; {_COMMON}"
)
_IMPORT: Final = re.compile(r'^import (\{[^}]*\}) from "\./([a-z]+\.js)";', re.MULTILINE)
_EXPORT: Final = re.compile(r"^export (?:function|const) (\w+)", re.MULTILINE)
#: Characters of a report in which tasks may tell as much as anywhere; beyond, they tell the shorter texts.
_MOST: Final = 8_000_000
_SHORT_TEXTS: Final = (60, 0)
_TITLES: Final[dict[Kind, str]] = {
    "sessions": "Sessions",
    "session": "Session",
    "batches": "Batches",
    "batch": "Batch",
}
_NO_SCRIPT: Final = (
    "<noscript><p>This page shows its values by a script, and scripts are off here.</p></noscript>"
)


def asset(name: str) -> str:
    """The text of an asset."""
    return (ASSETS / name).read_text()


@cache
def joined_script() -> str:
    """All scripts as one that is no module: a browser loads no modules from files."""
    parts = []
    for name in SCRIPTS:
        text = _IMPORT.sub(r'const \1 = modules["\2"];', asset(name))
        exported = ", ".join(_EXPORT.findall(text))
        text = _EXPORT.sub(lambda found: found[0].removeprefix("export "), text)
        parts.append(f'(() => {{\n{text}modules["{name}"] = {{ {exported} }};\n}})();\n')
    return '"use strict";\n(() => {\nconst modules = {};\n' + "".join(parts) + "})();\n"


def served(kind: Kind, base: str, *, feed: str, csrf: str = "") -> str:
    """A page of the server: it fills itself from `feed`.

    Args:
        base: the path that all others begin with, ending in a slash.
        csrf: what acts are sent with; "": it only looks.
    """
    settings = {"page": kind, "where": "live", "base": base, "feed": feed, "acts": f"{base}acts"}
    if csrf:
        settings |= {"act": "yes", "csrf": csrf}
    head = (
        f'<link rel="icon" href="{_e(base)}assets/icon.svg">'
        f'<link rel="stylesheet" href="{_e(base)}assets/view.css">'
        f'<script type="module" src="{_e(base)}assets/app.js"></script>'
    )
    nav = {"sessions": f"{base}sessions", "batches": f"{base}batches"}
    return _html(settings, _TITLES[kind] + " · cms", head, "", nav)


def filed(kind: Kind, events: Sequence[Event], title: str, made: str) -> str:
    """A page of an export, beside `view.css` and `view.js`. `made`: when, in words."""
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{_e(_FILE_POLICY)}">'
        '<link rel="stylesheet" href="view.css"><script src="view.js" defer></script>'
    )
    nav = {"sessions": "index.html", "batches": "batches.html"}
    return _html({"page": kind, "where": "files"}, title, head, _values(events), nav, made)


def alone(kind: Kind, events: Sequence[Event], title: str) -> str:
    """A page in one file that needs nothing else."""
    style, script = asset("view.css"), joined_script()
    policy = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; {_COMMON}"
    # The title first: by it cms knows its own report.
    head = f'<meta http-equiv="Content-Security-Policy" content="{_e(policy)}"><style>{style}</style>'
    body = f"{_values(events)}<script>{script}</script>"
    return _html({"page": kind, "where": "alone"}, title, head, body, {})


def batch_report(batch: BatchRecord, found: Gathered, now: float) -> str:
    """What became of a batch, as a page in one file. `now`: seconds since the epoch."""
    head = batch_event(batch, found.scores, found.by_model, batch.ended or now, found.left_out)
    text = ""
    for texts in (TEXTS, _SHORT_TEXTS):
        tasks = tasks_event(zip(found.places, found.shown, strict=True), texts=texts)
        text = alone("batch", (head, tasks), f"Batch {batch.id}")
        if len(text) <= _MOST:
            break
    return text


def _values(events: Iterable[Event]) -> str:
    text = msgspec.json.encode(list(events)).decode()
    # Within JSON a `<` stands in strings alone: so nothing can end the element, or begin a comment.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f'<script type="application/json" id="data">{text}</script>'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _html(
    settings: dict[str, str], title: str, head: str, body: str, nav: dict[str, str], foot: str = ""
) -> str:
    data = "".join(f' data-{name}="{_e(value)}"' for name, value in settings.items())
    here = "sessions" if settings["page"].startswith("session") else "batches"
    links = "".join(
        f'<a href="{_e(where)}"{" aria-current=page" if name == here else ""}>{name.capitalize()}</a>'
        for name, where in nav.items()
    )
    bar = f'<nav aria-label="Pages">{links}</nav><p id="state" role="status"></p>' if nav else ""
    return (
        '<!doctype html>\n<html lang="en"'
        f'{data}>\n<head><meta charset="utf-8"><title>{_e(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="referrer" content="no-referrer">{head}</head>\n<body>\n'
        '<a class="skip" href="#main">To the contents</a>\n'
        f'<header><div class="bar"><b>cms</b>{bar}</div></header>\n'
        '<div class="wrap"><p id="said" role="status"></p></div>\n'
        f'<main id="main" tabindex="-1"></main>{_NO_SCRIPT}\n'
        f"<footer>{_e(foot)}</footer>\n{body}\n</body></html>\n"
    )
