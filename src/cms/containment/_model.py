"""The words this package speaks: what a container is asked for, what it promises, and what it proves.

Values only. Nothing here starts, signals or reads a process.
"""

from __future__ import annotations

import enum
import functools
from pathlib import Path
from typing import Literal

import msgspec


@functools.total_ordering
class Level(enum.Enum):
    """How much a machine can hold an agent to; `A` is the most, and `Level.A > Level.B`.

    A level is read off the guarantees, never declared: see `Guarantees.level`.
    """

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    E = "E"

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Level):
            return NotImplemented
        return self.value > other.value


Strength = Literal["strong", "weak", "none"]


class Guarantee(msgspec.Struct, frozen=True):
    """One promise: how far it goes, and in a few words why not further."""

    strength: Strength
    why: str = ""

    @property
    def strong(self) -> bool:
        """True if no program inside the container is known to get round it."""
        return self.strength == "strong"


class Guarantees(msgspec.Struct, frozen=True, rename="camel"):
    """What a mechanism promises on this machine, one field for each thing that can be asked of it.

    `cms doctor --json` shows it as it is.

    - `kill_all`: kill ends every descendant, whatever it does to escape.
    - `dies_with_supervisor`: our own death, SIGKILL included, ends them too.
    - `protected_paths`: the tree cannot change what was named as protected.
    - `hidden_paths`: the tree cannot reach what was named as hidden.
    - `freeze`: a frozen tree runs no instruction until it is thawed.
    - `memory_cap`, `process_cap`: the tree cannot take more than it was given.
    - `no_tampering`: no process of the tree can trace another, write its memory or take its descriptors.
    - `copy_on_write`: what the tree writes outside of its own places is a copy that is gone at the end.

    The level says nothing about the last two.
    """

    kill_all: Guarantee
    dies_with_supervisor: Guarantee
    protected_paths: Guarantee
    hidden_paths: Guarantee
    freeze: Guarantee
    memory_cap: Guarantee
    process_cap: Guarantee
    no_tampering: Guarantee = Guarantee("none")
    copy_on_write: Guarantee = Guarantee("none")

    @property
    def level(self) -> Level:
        """A: all strong. B: a kill that holds, and walls. C: the kill alone. D: best effort."""
        ends = self.kill_all.strong and self.dies_with_supervisor.strong
        walls = self.protected_paths.strong and self.hidden_paths.strong
        rest = self.freeze.strong and self.memory_cap.strong and self.process_cap.strong
        if ends and walls and rest:
            return Level.A
        if ends and walls:
            return Level.B
        return Level.C if ends else Level.D


class Layer(msgspec.Struct, frozen=True):
    """A folder that is never changed, whatever the tree writes in it: copy-on-write, with the copies kept.

    Attributes:
        folder: where it is seen.
        upper: where what is written goes: a folder of our own, outside of `folder`.
        work: an empty folder on the same file system as `upper`, for the kernel. None: no overlay, `upper` is
            a whole copy, and is seen instead.
        under: layers of others that are seen too, read-only, what counts most last.
    """

    folder: Path
    upper: Path
    work: Path | None
    under: tuple[Path, ...] = ()


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One command and the container it is to run in.

    `protected` and `hidden` hold in both modes. `sandbox` decides about everything else: False leaves the
    file system as it is (a process container only), True makes it read-only but for `writable`, `covered`
    and `layers`, with a private /dev and a read-only /proc. Where /tmp and /var/tmp are none of these, they
    are private, too.

    Attributes:
        argv: the command; `argv[0]` is looked up on the PATH of `env`.
        env: the whole environment of the command; nothing of ours is added.
        cwd: where it starts.
        writable: what the tree may write when `sandbox` is True, and what it may in spite of `protected`
            above it (a missing one is an error).
        covered: folders of which the tree may write a copy, in memory, which is gone at the end. One that is
            not there is left out.
        layers: folders of which the copies are kept, without `sandbox`, too. Below them nothing is
            `protected`: what is there can only be changed as a copy.
        caches: written for real where the machine cannot cover a folder of `covered`: that one is read-only.
        readable: what is read-only where nothing else is said; of use where it lies in a private place.
        protected: read-only for the tree; names are kept, too (see `_mounts`).
        hidden: unreachable for the tree: a folder reads as empty, a file or socket as /dev/null (or not).
        shown: folders that the tree sees, read-only, though they lie in a hidden one.
        own: folders that it sees and may write, though they lie in a hidden one.
        placeholders: create an empty file for each protected path that does not exist, for as long as the
            container lives, so that the tree cannot create it. Else such a path is told by `unenforced`.
        max_memory: bytes for the whole tree, or None.
        max_procs: processes (threads count where the kernel does the counting) for the whole tree, or None.
        label: for people, in errors and receipts.
        umask: for the files that the tree makes; -1: ours.
        open_files: the soft limit on open files of each process; 0: ours.
        sockets: stdin and stdout are sockets. A pipe is opened by any process of the same user through
            /proc/PID/fd, a socket by none. For what speaks a protocol: `echo > /dev/stdout` needs a pipe.
        terminal: a pseudo-terminal's device that is stdin, stdout and stderr instead, and the command's
            controlling terminal; nobody else's may it be. `Container.stdin` and its like lead nowhere then.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    writable: tuple[Path, ...] = ()
    covered: tuple[Path, ...] = ()
    layers: tuple[Layer, ...] = ()
    caches: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    protected: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    shown: tuple[Path, ...] = ()
    own: tuple[Path, ...] = ()
    placeholders: bool = False
    max_memory: int | None = None
    max_procs: int | None = None
    label: str = ""
    umask: int = -1
    open_files: int = 0
    sockets: bool = False
    terminal: Path | None = None
    sandbox: bool = False


class Member(msgspec.Struct, frozen=True):
    """A process of the tree at one instant.

    Attributes:
        pid: as the host counts.
        started: clock ticks since boot; with `pid` it names a process for good.
        command: its command line (or [name]), cut.
        state: one letter as in ps: R, S, D, T, Z ...
        rss: resident memory in bytes.
        threads: how many it has.
    """

    pid: int
    started: int
    command: str
    state: str
    rss: int
    threads: int = 1


class Proof(msgspec.Struct, frozen=True):
    """The receipt of a kill: what was alive, what was done, and whether anything is left.

    Attributes:
        mechanism: the container's mechanism.
        alive: the members just before.
        rounds: how many times the tree had to be struck.
        seconds: from the decision to the last process gone.
        empty: True only if the kernel said so (where `kill_all` is not strong: as far as can be told, see
            `how`); False is the state `unkilled`.
        left: the members that are still there if not `empty`.
        how: what was done and what the proof rests on, in order.
    """

    mechanism: str
    alive: tuple[Member, ...]
    rounds: int
    seconds: float
    empty: bool
    left: tuple[Member, ...] = ()
    how: tuple[str, ...] = ()


class Statistics(msgspec.Struct, frozen=True):
    """What the tree takes just now.

    Attributes:
        processes: how many there are.
        threads: how many they have in all.
        rss: resident bytes, shared pages counted once for each process that maps them.
        memory: bytes as the cgroup counts them, None without a memory controller.
        frozen: True between freeze and thaw.
    """

    processes: int
    rss: int
    memory: int | None
    frozen: bool
    threads: int = 0


class LimitsHit(msgspec.Struct, frozen=True):
    """How often the kernel held the tree back; zero where it does not count (no cgroup controllers).

    `full`: the tree was seen with as many threads as it may have, or a few less (whoever was refused one more
    has often ended of it). That is all that can be known of a cap that the kernel holds without counting,
    RLIMIT_NPROC.
    """

    memory: int = 0
    processes: int = 0
    full: bool = False


class LostMount(msgspec.Struct, frozen=True):
    """A path whose protection is not there (any more), and why."""

    path: Path
    why: str


class Attempt(msgspec.Struct, frozen=True):
    """One step that the probe really did on this machine, and how it went."""

    step: str
    ok: bool
    detail: str = ""
    hint: str = ""


class Report(msgspec.Struct, frozen=True):
    """What `cms doctor` shows: the mechanism found, its promises, and what would make it better."""

    mechanism: str
    level: Level
    guarantees: Guarantees
    attempts: tuple[Attempt, ...]
    seconds: float

    @property
    def missing(self) -> tuple[Attempt, ...]:
        """The steps that failed and that something can be done about."""
        return tuple(attempt for attempt in self.attempts if not attempt.ok and attempt.hint)
