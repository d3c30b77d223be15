"""`cms kill NAME --force-local`: the end of a session's trees when neither the daemon nor the store answers.

It reads the files in which the processes of live sessions are noted (`store.live_files`), and asks the
kernel. What ends is what `cms kill` ends: the session, its checks, and the sessions that it started.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cms.cli import end_lines, io
from cms.config import load_settings
from cms.containment import end_tree, identity
from cms.errors import ExitCode, SessionNotFound
from cms.json_output import json_object
from cms.session.model import Receipt, Step
from cms.store.live_files import LiveFile, read_all
from cms.units import nearest

_DEADLINE = 10.0


def kill_locally(names: Sequence[str], *, verbose: bool, json: bool) -> int:
    """End them and say so; the daemon says `failed` of the sessions once it looks.

    Args:
        names: of sessions, or their ids; none: all that are noted.

    Raises:
        SessionNotFound: nothing is noted of a live session that is named.
    """
    there = read_all(load_settings().live)
    for name in names:
        if not any(name in (one.name, one.session_id) for one in there):
            raise SessionNotFound(name, nearest(name, [one.name for one in there]))
    found = [one for one in there if not names or {one.name, one.session_id} & set(names)]
    found.sort(key=lambda one: one.check)
    for one in found:  # grows: what a session started may have started others
        found += [each for each in there if one.session_id == each.started_by != "" and each not in found]
    ended = [(one, _end(one)) for one in found]
    if json:
        _show_json(ended, one_alone=len(names) == 1)
    for one, receipt in ended if not json else ():
        title = f"{one.name} (a check)" if one.check else one.name
        if verbose or not receipt.empty:
            io.show_lines([title, *end_lines.kill_lines(receipt, io.out_style())])
        else:
            io.show_lines([f"{title}: killed, nothing left running"])
    if not ended and not json:
        io.show_lines(["nothing is running"])
    alive = [one for one, receipt in ended if not receipt.empty]
    for one in alive:
        io.warn(f"cms: {one.name} is NOT proved dead; it may still write in {one.work_dir}")
    return ExitCode.FAILED if alive else ExitCode.COMPLETED


def _show_json(ended: Sequence[tuple[LiveFile, Receipt]], *, one_alone: bool) -> None:
    if not one_alone:
        sessions = [
            {"name": one.name, "sessionId": one.session_id, "check": one.check, "receipt": json_object(each)}
            for one, each in ended
        ]
        io.show_json({"sessions": sessions})
        return
    (first, receipt), *others = ended
    also = [{"name": one.name, "check": one.check, "receipt": each} for one, each in others]
    io.show_json(json_object(name=first.name, session_id=first.session_id, receipt=receipt, also=also))


def _end(one: LiveFile) -> Receipt:
    proof = end_tree(one.where, deadline=_DEADLINE)
    return Receipt(
        reason="killed without the daemon",
        steps=(Step("kill", proof.seconds, proof.empty),),
        alive=tuple(f"{member.pid} {member.command}" for member in proof.alive),
        seconds=proof.seconds,
        mechanism=proof.mechanism,
        empty=proof.empty,
        left=tuple(f"{member.pid} {member.command}" for member in proof.left),
        at=time.time(),
        how=proof.how,
        left_ids=tuple(map(identity, proof.left)),
    )
