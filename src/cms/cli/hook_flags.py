"""The flags by which a person is told of a message: hooks, a webhook, notifications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cms.cli.declare import Group
from cms.cli.flags import grouped, many, text_flag
from cms.errors import UsageError
from cms.session.hooks import Hooks

_NEWS = Group("News of this message", sort_key=6.5)

OnDone = Annotated[
    str, text_flag("--on-done", "Run when it completes, with JSON on stdin.", "CMD", _NEWS, rare=True)
]
OnFail = Annotated[str, text_flag("--on-fail", "Run when it ends in any other way.", "CMD", _NEWS, rare=True)]
OnAsk = Annotated[str, text_flag("--on-ask", "Run when it needs an answer.", "CMD", _NEWS, rare=True)]
Webhook = Annotated[
    str, text_flag("--webhook", "POST the same JSON there each time.", "URL", _NEWS, rare=True)
]
Notify = Annotated[
    tuple[str, ...],
    grouped(
        many(
            "--notify",
            "Notify a desktop, phone or chat each time: an apprise URL, or @FILE of them. Repeatable.",
            "URL",
        ),
        _NEWS,
        rare=True,
    ),
]


def hooks(on_done: str, on_fail: str, on_ask: str, webhook: str, notify: tuple[str, ...]) -> Hooks:
    """What was typed.

    Raises:
        UsageError: a file of addresses cannot be read.
    """
    return Hooks(on_done, on_fail, on_ask, webhook, addresses(notify))


def addresses(notify: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses of `--notify`, those of files among them.

    Raises:
        UsageError: a file cannot be read.
    """
    return tuple(url for word in notify for url in (_read(word[1:]) if word.startswith("@") else (word,)))


def _read(name: str) -> tuple[str, ...]:
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--notify: cannot read {name}: {why}") from None
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
