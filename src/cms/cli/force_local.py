"""`cms kill NAME --force-local`: the end of a session's tree when neither the daemon nor the store answers.

It reads the one file in which the session's processes are noted (`store.live_files`), and asks the kernel.
"""

from __future__ import annotations

import time

from cms.cli import io, render
from cms.config import load_settings
from cms.containment import end_tree, identity
from cms.errors import ExitCode, SessionNotFound
from cms.json_output import json_object
from cms.session.model import Receipt, Step
from cms.store.live_files import read_all
from cms.units import nearest

_DEADLINE = 10.0


def kill_locally(name: str, *, json: bool) -> int:
    """End it and show the receipt; its session is told `failed` by the daemon once that looks.

    Raises:
        SessionNotFound: nothing is noted of a live session of that name (or id).
    """
    there = read_all(load_settings().live)
    found = next((one for one in there if name in (one.name, one.session_id)), None)
    if found is None:
        raise SessionNotFound(name, nearest(name, [one.name for one in there]))
    proof = end_tree(found.where, deadline=_DEADLINE)
    receipt = Receipt(
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
    if json:
        io.show_json(json_object(name=found.name, session_id=found.session_id, receipt=receipt))
    else:
        io.show_lines([found.name, *render.kill_lines(receipt, io.out_style())])
    if proof.empty:
        return ExitCode.COMPLETED
    io.warn(f"cms: {found.name} is NOT proved dead; it may still write in {found.work_dir}")
    return ExitCode.FAILED
