"""`cms kill NAME --force-local`: the end of a session's trees when neither the daemon nor the store answers.

It reads the files in which the processes of live sessions are noted (`store.live_files`), and asks the
kernel. What ends is what `cms kill` ends: the session, its checks, and the sessions that it started.
"""

from __future__ import annotations

import time

from cms.cli import io, render
from cms.config import load_settings
from cms.containment import end_tree, identity
from cms.errors import ExitCode, SessionNotFound
from cms.json_output import json_object
from cms.session.model import Receipt, Step
from cms.store.live_files import LiveFile, read_all
from cms.units import nearest

_DEADLINE = 10.0


def kill_locally(name: str, *, json: bool) -> int:
    """End them and show the receipts; the daemon says `failed` of the sessions once it looks.

    Raises:
        SessionNotFound: nothing is noted of a live session of that name (or id).
    """
    there = read_all(load_settings().live)
    found = [one for one in there if name in (one.name, one.session_id)]
    if not found:
        raise SessionNotFound(name, nearest(name, [one.name for one in there]))
    found.sort(key=lambda one: one.check)
    for one in found:  # grows: what a session started may have started others
        found += [each for each in there if one.session_id and each.started_by == one.session_id]
    ended = [(one, _end(one)) for one in found]
    if json:
        (first, receipt), *others = ended
        also = [{"name": one.name, "check": one.check, "receipt": each} for one, each in others]
        io.show_json(json_object(name=first.name, session_id=first.session_id, receipt=receipt, also=also))
    else:
        for one, receipt in ended:
            title = f"{one.name} (a check)" if one.check else one.name
            io.show_lines([title, *render.kill_lines(receipt, io.out_style())])
    alive = [one for one, receipt in ended if not receipt.empty]
    for one in alive:
        io.warn(f"cms: {one.name} is NOT proved dead; it may still write in {one.work_dir}")
    return ExitCode.FAILED if alive else ExitCode.COMPLETED


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
