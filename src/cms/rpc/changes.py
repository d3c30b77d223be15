"""What an isolated session has changed: looked at, applied, exported, dropped."""

from __future__ import annotations

from cms.changes.model import FileChange
from cms.rpc.verbs import Verb
from cms.session.model import ChangeSummary, Record


class LeftPath(Record, frozen=True):
    """A path that is not part of a change, or not applied, and why. `path` "": all of it."""

    path: str
    why: str
    detail: str = ""


class DiffParams(Record, frozen=True):
    """What a session has changed. `patch`: write it as a patch; `files`: name each path."""

    name: str
    patch: bool = False
    files: bool = False
    width: int = 80  # of the numbers in text


class DiffResult(Record, frozen=True):
    """A change, as of now.

    Attributes:
        folder: that it is a change of.
        stat: the numbers as text, a line for each file.
        patch: the file of ours that holds the patch; "": none was asked for.
        commits: the subjects of the newest commits that it made.
        live: the session is at work on it.
    """

    name: str
    folder: str
    change: ChangeSummary
    stat: str
    patch: str = ""
    files: tuple[FileChange, ...] = ()
    left_out: tuple[LeftPath, ...] = ()
    commits: tuple[str, ...] = ()
    live: bool = False


class ApplyParams(Record, frozen=True):
    """Bring a change into its folder.

    Attributes:
        conflict_markers: write what conflicts with markers in it.
        branch: bring it as this branch of the folder's repository instead.
    """

    name: str
    conflict_markers: bool = False
    branch: str = ""


class ApplyResult(Record, frozen=True):
    """What came of it: all of it, or nothing.

    Attributes:
        written: paths; `merged`, `marked`: those of them that others had changed, too, and that have markers.
        refused: what stands in the way.
        commit: that the branch stands at.
    """

    name: str
    folder: str
    applied: bool
    written: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    refused: tuple[LeftPath, ...] = ()
    branch: str = ""
    commit: str = ""


class DiscardParams(Record, frozen=True):
    """Drop a change that was not applied."""

    name: str


class DiscardResult(Record, frozen=True):
    name: str
    change: ChangeSummary


class ExportParams(Record, frozen=True):
    """Write a change to a place of the user's: a new file, as a patch, or a new folder, with its files."""

    name: str
    target: str  # absolute


class ExportResult(Record, frozen=True):
    """`whole`: nothing of the change is missing there."""

    name: str
    target: str
    files: int
    whole: bool


CHANGE_DIFF = Verb("change.diff", DiffParams, DiffResult)
CHANGE_APPLY = Verb("change.apply", ApplyParams, ApplyResult)
CHANGE_DISCARD = Verb("change.discard", DiscardParams, DiscardResult)
CHANGE_EXPORT = Verb("change.export", ExportParams, ExportResult)
