"""A node's own folder (`CMS_HOME/node`): who it is, that it is the only one, what it does, what it took.

Known by it even to commands that load nothing: `cms node status` and `cms node drain` read `state.json` and
look who holds the lock.

A claim is made before anything of an assignment is begun, with O_EXCL and on disk: whatever the engine says,
the node that holds the claim never begins the same one again. How it ended is written into it, so that what a
node that was cut off had done can be read there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Final, Literal

import msgspec

from cms.batch.remote import Card, Done
from cms.errors import UNREADABLE, HomeUnusable, UsageError
from cms.files import create_file, replace_file, sync_folder
from cms.session.model import Record

Standing = Literal["open", "draining", "full", "cut_off", "stopping"]

#: Seconds for which claims are kept: longer than any engine remembers.
KEEP: Final = 100 * 86400.0
#: Bytes that are written to see whether anything can be.
_PROBE: Final = 65536


class Busy(Record, frozen=True):
    """An assignment that a node has now. `session`: what its session is called there."""

    id: str
    session: str
    since: float
    cost: float = 0.0
    activity: str = ""


class NodeState(Record, frozen=True):
    """What a node says of itself to its own machine.

    Attributes:
        done: tasks since it was started.
        page: the engine's own, of its tasks.
    """

    card: Card
    address: str
    pid: int
    started: float
    standing: Standing = "open"
    why: str = ""
    busy: tuple[Busy, ...] = ()
    done: int = 0
    cost_today: float = 0.0
    day: str = ""
    page: str = ""


class Claim(Record, frozen=True, omit_defaults=True):
    """`told`: whether the engine took the answer."""

    id: str
    at: float
    done: Done | None = None
    told: bool = False


class NodeFolder:
    """The folder of the node of one home."""

    def __init__(self, home: Path) -> None:
        self.path = home / "node"
        self._lock = -1

    # --- read by anybody --------------------------------------------------------------------------

    def running(self) -> NodeState | None:
        """What the node of this home does; None: none runs."""
        try:
            lock = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return self.last()
        finally:
            os.close(lock)
        return None

    def last(self) -> NodeState | None:
        """What a node of this home has said last, whether it still runs or not."""
        try:
            return msgspec.json.decode((self.path / "state.json").read_bytes(), type=NodeState)
        except (OSError, *UNREADABLE):
            return None

    # --- of the node itself -----------------------------------------------------------------------

    def take(self) -> None:
        """Be the only node of this home, until the process ends.

        Raises:
            UsageError: there is one.
            HomeUnusable: nothing can be written there.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "claims").mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnusable(f"cannot write {self.path}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"a node is already running in {self.path.parent}", hint="`cms node status` shows it"
            ) from None

    def identity(self) -> str:
        """What this node is called, for good: by its host, and a few letters for its home."""
        path = self.path / "id"
        try:
            known = path.read_text().strip()
        except OSError:
            known = ""
        if not known:
            host = "".join(letter for letter in socket.gethostname().split(".")[0] if letter.isalnum())[:30]
            known = f"{host or 'node'}-{secrets.token_hex(3)}"
            replace_file(path, known.encode())
        return known

    def write(self, state: NodeState) -> None:
        """For who asks; not worth a sync."""
        try:
            replace_file(self.path / "state.json", msgspec.json.encode(state), durable=False)
        except OSError:
            pass  # a full disk must not end what runs

    def disk_trouble(self) -> str:
        """Why nothing can be written here now; "" if it can."""
        path = self.path / f"probe.{secrets.token_hex(4)}"
        try:
            replace_file(path, bytes(_PROBE))
            path.unlink()
        except OSError as error:
            return f"{self.path} cannot be written: {error.strerror or error}"
        return ""

    def claim(self, job: str) -> bool:
        """Whether it is ours to begin: nobody has claimed it here before. On disk when this returns.

        Raises:
            OSError: it cannot be written; then it must not be begun.
        """
        try:
            create_file(self._claim(job), msgspec.json.encode(Claim(job, time.time())))
        except FileExistsError:
            return False
        sync_folder(self.path / "claims")
        return True

    def finish(self, job: str, done: Done, *, told: bool) -> None:
        """Write down how it ended."""
        try:
            replace_file(self._claim(job), msgspec.json.encode(Claim(job, time.time(), done, told)))
        except OSError:
            pass  # the engine has it, or nobody: the claim itself stands

    def claimed(self, job: str) -> Claim | None:
        try:
            return msgspec.json.decode(self._claim(job).read_bytes(), type=Claim)
        except (OSError, *UNREADABLE):
            return None

    def forget_old(self, now: float) -> None:
        """Remove claims that no engine can ask for again: much older than now, and than the newest of them.

        A clock that is wrong today, or was when the newest was made, removes none.
        """
        found = []
        for path in (self.path / "claims").iterdir():
            try:
                found.append((path.stat().st_mtime, path))
            except OSError:
                continue
        newest = max((at for at, _ in found), default=0.0)
        for at, path in found:
            if at < min(now, newest) - KEEP:
                path.unlink(missing_ok=True)

    def _claim(self, job: str) -> Path:
        return self.path / "claims" / hashlib.sha256(job.encode()).hexdigest()
