"""Process containers: start a tree of processes in one, freeze it, kill all of it, prove it empty.

    mechanism = await find_mechanism()
    async with await mechanism.start(Spec(argv=("claude", ...), env=..., cwd=...)) as container:
        ...
    # here every process of the tree is gone, or `proof.empty` was False and said so

Where to read on: `_model.py` (the words), `_container.py` (what a kill rests on), `_shim.py` (the one program
of ours inside), `_launch.py` (why nothing foreign runs before all is in place), `_mounts.py` (protected and
hidden paths), `_cgroup.py`, then one file for each mechanism and `_probe.py`, which finds the best of them.
"""

from __future__ import annotations

from cms.containment._container import Container
from cms.containment._from_outside import Whereabouts, end_tree
from cms.containment._mechanism import Mechanism
from cms.containment._model import (
    Attempt,
    Guarantee,
    Guarantees,
    Layer,
    Level,
    LimitsHit,
    LostMount,
    Member,
    Proof,
    Report,
    Spec,
    Statistics,
)
from cms.containment._probe import find_mechanism, probe
from cms.containment._strays import end_strays, identity, still_alive

__all__ = [
    "Attempt",
    "Container",
    "Guarantee",
    "Guarantees",
    "Layer",
    "Level",
    "LimitsHit",
    "LostMount",
    "Mechanism",
    "Member",
    "Proof",
    "Report",
    "Spec",
    "Statistics",
    "Whereabouts",
    "end_strays",
    "end_tree",
    "find_mechanism",
    "identity",
    "probe",
    "still_alive",
]
