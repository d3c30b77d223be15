"""`cms trust`: what a folder's own Claude Code configuration would start, and a person's word on it.

Needs no daemon: what is trusted is a file in CMS_HOME (`protection.trust`).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.cli.terminal import escape
from cms.config import Settings, load_settings_and_file
from cms.errors import ExitCode, UsageError
from cms.protection.project import Project, read_project
from cms.protection.trust import accept, forget, grants, own_folder, standing_of
from cms.session.model import Record
from cms.session.project_config import Item
from cms.session.trust import Standing, TrustedBy, stand
from cms.units import ago


class ItemView(Record, frozen=True):
    """One thing. `change` since it was trusted: `new`, `changed` (`before` is what it was), `gone`, or ""."""

    kind: str
    path: str
    name: str
    what: str
    change: str = ""
    before: str = ""


class TrustView(Record, frozen=True):
    """A folder. `by`: `person`, `claude` (its own dialog), `settings`, or "" where nobody trusts it."""

    folder: str
    trusted: bool
    by: TrustedBy
    at: float | None = None
    items: tuple[ItemView, ...] = ()
    never: tuple[str, ...] = ()


class TrustList(Record, frozen=True):
    folders: tuple[TrustView, ...]


def trust(
    dir: Annotated[str | None, flags.word("The folder. [default: the current one]")] = None,  # noqa: A002 - what help calls it
    /,
    *,
    yes: Annotated[bool, flags.switch("--yes", "Trust what is shown without asking.")] = False,
    remove: Annotated[bool, flags.switch("--remove", "Stop trusting the folder.")] = False,
    list_: Annotated[bool, flags.switch("--list", "List the trusted folders.")] = False,
    json: JsonFlag = False,
) -> int:
    """Show what a folder's own Claude configuration would start, and trust it.

    A repository can bring hooks, MCP servers, helper commands, plugins, environment variables, and skills,
    commands and agents with commands or rights (.claude, .mcp.json). Sessions ignore all of it until you
    trust it. CLAUDE.md, rules and plain skills reach the model without trust.

    You trust what is there now. When it changes, it is ignored again and the difference is shown here. The
    folder's permission rules never count, trusted or not: use --allow. What you accepted in Claude's own
    trust dialog counts as it was at the first look.

    On a terminal it asks; elsewhere it only shows, unless --yes. Exit code 1: not trusted.

    `trust = ["~/src/mine/**"]` under [settings] in config.toml trusts folders whatever they hold; --trust-
    project trusts one for a single session.

    Examples::

        cms trust
        cms trust ~/src/project --yes
        cms trust --list
        cms trust ~/src/project --remove
    """
    settings = load_settings_and_file()
    if settings.inside:
        raise UsageError("a session cannot trust a folder", hint="ask the person who started it")
    if sum((yes, remove, list_)) > 1 or (list_ and dir is not None):
        raise UsageError("--yes, --remove and --list exclude each other, and --list takes no folder")
    if list_:
        return _list(settings, json=json)
    folder = dir or str(Path.cwd())
    if remove:
        if not forget(settings.home, folder):
            raise UsageError(f"{folder} is not trusted", hint="`cms trust --list` shows what is")
        if json:
            io.show_json(TrustView(os.path.realpath(folder), trusted=False, by=""))
        else:
            io.show_lines([escape(f"{os.path.realpath(folder)} is no longer trusted")])
        return ExitCode.COMPLETED
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder")
    project = read_project(folder, own=own_folder(settings.environ))
    standing = _stand(project, settings)
    if standing.trusted or not any(item.kind != "unreadable" for item in standing.items):
        _tell(_view(standing), json=json)
        return ExitCode.COMPLETED
    if not yes:
        _tell(_view(standing), json=json)
        if json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            io.warn("cms: not trusted; `--yes` trusts exactly this")
            return ExitCode.FAILED
        if not io.asks("Trust exactly this?"):
            return ExitCode.FAILED
    grant = accept(settings.home, project, at=time.time())
    standing = stand(project.folder, project.items, [grant], rules=standing.rules)
    if yes:
        _tell(_view(standing, at=grant.at), json=json)
    else:
        io.show_lines(["trusted"])
    return ExitCode.COMPLETED


def _stand(project: Project, settings: Settings) -> Standing:
    return standing_of(
        project, home=settings.home, environ=settings.environ, globs=settings.trust, now=time.time()
    )


def _list(settings: Settings, *, json: bool) -> int:
    views = []
    for folder, grant in grants(settings.home).items():
        project = read_project(folder, own=own_folder(settings.environ))
        standing = stand(folder, project.items, [grant])
        changed = standing.difference
        views.append(_view(standing, at=grant.at) if standing.trusted or changed else _view(standing))
    answer = TrustList(tuple(views))
    if json:
        io.show_json(answer)
        return ExitCode.COMPLETED
    style = io.out_style()
    lines = [
        f"{view.folder}  {'trusted' if view.trusted else 'CHANGED since it was trusted'}, "
        f"{ago(view.at or 0.0, time.time())}"
        for view in views
    ]
    io.show_lines([render.one_line(line, style) for line in lines] or ["no folder is trusted"])
    return ExitCode.COMPLETED


# --- showing it -----------------------------------------------------------------------------------


def _view(standing: Standing, *, at: float | None = None) -> TrustView:
    difference = standing.difference
    before = {now.key: was for was, now in difference.changed}
    new = {item.key for item in difference.new}
    return TrustView(
        folder=standing.folder,
        trusted=standing.trusted,
        by=standing.by,
        at=at,
        items=(
            *(_item(item, new=item.key in new, before=before.get(item.key)) for item in standing.items),
            *(ItemView(item.kind, item.path, item.name, item.what, "gone") for item in difference.gone),
        ),
        never=standing.rules,
    )


def _item(item: Item, *, new: bool, before: Item | None) -> ItemView:
    change = "new" if new else "changed" if before else ""
    return ItemView(item.kind, item.path, item.name, item.what, change, before.what if before else "")


def _tell(view: TrustView, *, json: bool) -> int:
    if json:
        io.show_json(view)
    else:
        io.show_lines(_lines(view))
    return ExitCode.COMPLETED


def _lines(view: TrustView) -> list[str]:
    """All of it, whole: a person is to know what he permits."""
    if view.trusted:
        how = {"claude": " in claude's own dialog", "settings": " by the settings"}.get(view.by, "")
        head = f"{view.folder} is trusted{how}"
    elif view.items:
        head = f"{view.folder} is not trusted. It would bring:"
    else:
        head = f"{view.folder} brings nothing that needs trust"
    lines = [escape(head)]
    for item in view.items:
        change = f"  [{item.change}]" if item.change else ""
        name = f" {item.name}" if item.name else ""
        lines.append(escape(f"  {item.kind}{name}  ({item.path}){change}"))
        lines += [f"    - {escape(line)}" for line in item.before.splitlines()]
        mark = "+ " if item.before else ""
        lines += [f"    {mark}{escape(line)}" for line in item.what.splitlines()]
    if view.never:
        lines.append("  Never in force, trusted or not (name them with --allow):")
        lines += [f"    {escape(rule)}" for rule in view.never]
    return lines
