"""Commands on what an isolated session has changed: diff, apply, discard, export."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cms.cli import flags, io, render, terminal
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.errors import ExitCode, MachineError, UsageError
from cms.json_output import json_object
from cms.rpc.changes import (
    CHANGE_APPLY,
    CHANGE_DIFF,
    CHANGE_DISCARD,
    CHANGE_EXPORT,
    ApplyParams,
    ApplyResult,
    DiffParams,
    DiffResult,
    DiscardParams,
    ExportParams,
)
from cms.units import plural

#: Columns of the numbers in a pipe.
_WIDTH = 80
#: How a line of a patch begins, and how it is painted: as git does.
_PAINT = (
    ("diff ", "1"), ("index ", "1"), ("--- ", "1"), ("+++ ", "1"), ("rename ", "1"), ("new ", "1"),
    ("deleted ", "1"), ("old ", "1"), ("similarity ", "1"), ("@@", "36"), ("+", "32"), ("-", "31"),
    ("#", "33"),
)  # fmt: skip


def diff(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    stat: Annotated[bool, flags.switch("--stat", "Show only the files and the numbers.")] = False,
    patch: Annotated[bool, flags.switch("--patch", "Show only the patch.")] = False,
    json: JsonFlag = False,
) -> int:
    """Show what an isolated session changed.

    The folder stays as it is until `cms apply`. Without flags the numbers come first, then the patch.
    Deletions, modes, links and binary files are shown too; files that git ignores are only counted. In a
    pipe, --patch prints what `git apply` takes.

    Examples::

        cms diff fix-auth
        cms diff fix-auth --stat
        cms diff fix-auth --patch > fix-auth.patch
    """
    who = flags.pick_name("diff", name, name_flag)
    style = io.out_style()
    params = DiffParams(who, patch=not json and not stat, files=json, width=style.width or _WIDTH)
    with io.daemon() as client:
        reply = client.call(CHANGE_DIFF, params)
    if json:
        io.show_json(json_object(reply, "-stat -patch"))
        return ExitCode.COMPLETED
    if stat or not patch:
        io.show_lines(_stat_lines(reply, style))
    if reply.patch:
        try:
            with Path(reply.patch).open("rb") as file:
                _show_patch(iter(file.readline, b""), style, apart=not patch)
        except OSError as error:
            raise MachineError(f"the patch cannot be read: {reply.patch}: {error.strerror}") from error
    return ExitCode.COMPLETED


def apply(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    conflict_markers: Annotated[
        bool, flags.switch("--conflict-markers", "Write conflicts too, with conflict markers.")
    ] = False,
    branch: Annotated[
        str, flags.text_flag("--branch", "Make a branch of it; leave the files as they are.", "NAME")
    ] = "",
    pr: Annotated[bool, flags.switch("--pr", "With --branch, open a pull request with `gh`.")] = False,
    json: JsonFlag = False,
) -> int:
    """Write an isolated session's changes to its folder, all or nothing.

    If the folder has changed since, text is merged. Where others changed the same lines it is a conflict:
    nothing is written, and every conflict is named. Protected paths and links that lead out of the folder are
    refused. After a crash the folder is either as it was or as it should be.

    With --branch, the session's commits (or one commit of all it left) become a branch of the folder's
    repository instead. Exit code 1: not applied.

    Examples::

        cms apply fix-auth
        cms apply fix-auth --branch fix-auth --pr
    """
    who = flags.pick_name("apply", name, name_flag)
    if pr and not branch:
        raise UsageError("--pr needs a branch", hint=f"cms apply {who} --branch NAME --pr")
    if branch and conflict_markers:
        raise UsageError("--branch and --conflict-markers exclude each other")
    gh = shutil.which("gh") if pr else None
    if pr and gh is None:
        raise UsageError("--pr needs gh, GitHub's command line tool, which is not installed")
    params = ApplyParams(who, conflict_markers=conflict_markers, branch=branch)
    with io.daemon() as client:
        reply = client.call(CHANGE_APPLY, params)
    if json:
        io.show_json(json_object(reply))
    else:
        io.show_lines(_apply_lines(reply, io.out_style()))
    if gh is not None and reply.applied:
        _open_pull_request(gh, reply)
    return ExitCode.COMPLETED if reply.applied else ExitCode.FAILED


def discard(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """Drop an isolated session's changes.

    Its folder stays as it is, and the session can be continued.

    Example::

        cms discard fix-auth
    """
    who = flags.pick_name("discard", name, name_flag)
    with io.daemon() as client:
        reply = client.call(CHANGE_DISCARD, DiscardParams(who))
    if json:
        io.show_json(json_object(reply))
    else:
        change = reply.change
        what = f"{plural(change.files, 'file')}, +{change.added} -{change.removed}"
        io.show_lines([f"{reply.name}: discarded ({what})"])
    return ExitCode.COMPLETED


def export(
    name: NameWord = None,
    target: Annotated[str | None, flags.word("FILE.patch, FILE.diff, or a new folder.")] = None,
    /,
    *,
    name_flag: NameFlag = None,
    json: JsonFlag = False,
) -> int:
    """Write an isolated session's changes to a patch or a new folder.

    A name that ends in .patch or .diff becomes a patch. Any other name becomes a new folder with the patch,
    the files as the session left them, and a list of all it changed. Existing files are never overwritten.

    Examples::

        cms export fix-auth fix-auth.patch
        cms export fix-auth ~/work/fix-auth
    """
    who, word = flags.pick_name_and_word("export", name, target, name_flag, "target")
    if not word:
        raise UsageError("export needs a target", hint=flags.usage_hint("export", "NAME TARGET"))
    place = Path(word).expanduser().absolute()
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent} is not a folder", hint="create it first")
    with io.daemon() as client:
        reply = client.call(CHANGE_EXPORT, ExportParams(who, str(place)))
    if json:
        io.show_json(json_object(reply))
    else:
        io.show_lines([f"{reply.name}: {plural(reply.files, 'file')} in {reply.target}"])
    if not reply.whole:
        io.warn("cms: part of the change is not in there, so it still counts as not exported")
        io.warn(
            f"     `cms apply {who} --branch NAME` brings the commits; export to a folder brings the rest"
        )
    return ExitCode.COMPLETED


# --- lines ----------------------------------------------------------------------------------------


def _stat_lines(reply: DiffResult, style: terminal.Style) -> list[str]:
    """The numbers, and what is not in the patch."""
    lines = [f"{reply.name}: {render.change_words(reply.change, reply.name, style)}"]
    if reply.live:
        lines.append("  still running; this is the change so far")
    lines += [f"  {_painted_stat(one, style)}" for one in render.safe(reply.stat, style).splitlines()]
    lines += [f"  commit: {render.one_line(one, style)}" for one in reply.commits]
    lines += [f"  left out: {render.one_line(f'{one.path}: {one.why}', style)}" for one in reply.left_out]
    return lines


def _painted_stat(line: str, style: terminal.Style) -> str:
    head, bar, tail = line.partition(" | ")
    if not style.colour or not bar:
        return line
    signs = tail.lstrip("0123456789 ")
    number = tail[: len(tail) - len(signs)]
    plus = signs.rstrip("-")
    return (
        f"{head}{bar}{number}{render.paint(plus, '32', style)}{render.paint(signs[len(plus) :], '31', style)}"
    )


def _apply_lines(reply: ApplyResult, style: terminal.Style) -> list[str]:
    if reply.branch:
        return [f"{reply.name}: branch {reply.branch} at {reply.commit[:12]} in {reply.folder}"]
    if not reply.applied:
        lines = [f"{reply.name}: not applied, nothing was changed in {reply.folder}"]
        for one in reply.refused:
            where = render.one_line(one.path or reply.folder, style)
            lines.append(f"  {where}: {render.one_line(one.detail or one.why, style)}")
        if any(one.why == "conflict" for one in reply.refused):
            lines.append(f"write them with conflict markers: cms apply {reply.name} --conflict-markers")
        return lines
    lines = [f"{reply.name}: applied to {reply.folder}, {plural(len(reply.written), 'path')} written"]
    lines += [f"  merged: {render.one_line(one, style)}" for one in reply.merged if one not in reply.marked]
    lines += [f"  conflict markers: {render.one_line(one, style)}" for one in reply.marked]
    return lines


def _show_patch(lines: Iterator[bytes], style: terminal.Style, *, apart: bool) -> None:
    """A patch as it is, or for a terminal, painted and without what could control it."""
    if not style.tty:
        if apart:
            io.show("\n")
        sys.stdout.flush()
        for line in lines:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return
    if apart:
        io.show("\n")
    for line in lines:
        text = render.safe(line.decode("utf-8", "replace").rstrip("\n"), style)
        paint = next((code for head, code in _PAINT if text.startswith(head)), "")
        io.show((render.paint(text, paint, style) if paint else text) + "\n")


def _open_pull_request(gh: str, reply: ApplyResult) -> None:
    """gh asks for what it needs on the terminal, and pushes the branch.

    Raises:
        MachineError: it failed; the branch is there.
    """
    done = subprocess.run(
        [gh, "pr", "create", "--head", reply.branch, "--fill"], cwd=reply.folder, check=False
    )
    if done.returncode:
        raise MachineError(
            f"gh failed with exit status {done.returncode}; the branch {reply.branch} is there",
            hint=f"git push -u origin {reply.branch}, then gh pr create --head {reply.branch}",
        )
