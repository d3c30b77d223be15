"""What travels between a batch, its engine and the nodes that do its tasks: values, and nothing else.

A batch that runs `--on` an engine reserves in its own store, and hands each try of a task over as an
`Assignment` under an id that is used once (`job_id`). A node answers with `Done`, and tells meanwhile by
`Pulse` what it does.
Between the daemon and the process that speaks to the engine (`cms.nodes.bridge`) go the commands and events
below, a line of JSON each.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from cms.errors import UsageError
from cms.session.model import ContainmentLevel, DelegateResult, Record, SessionOptions
from cms.units import NAME_PATTERN, BadValue

#: Raised whenever the meaning of `Assignment` or `Done` changes. It is in the names of the queues, so that a
#: node never gets what it would misread.
PROTOCOL: Final = 2
#: Bytes of a `Assignment` or a `Done`. An engine takes 2 MB; what is larger goes beside it (`--artifacts`).
MOST: Final = 1024 * 1024
#: Bytes of a line between the daemon and the bridge: a task that is longer is not handed over, an answer that
#: is longer not told. Less than what either of them reads.
LONGEST: Final = 48 * 1024 * 1024
#: The part of the heartbeat's time-out after which a node that hears nothing ends its own sessions: the rest
#: is for ending them before anybody may call them lost.
FENCE: Final = 0.5
#: Of that time-out, too: for how long it ends them politely. The rest is for force, and its proof.
GRACE: Final = 0.25
#: How the branches begin that nodes push to: no other one is ever replaced.
BRANCHES: Final = "cms/"
#: Submitted at once, for each slot of the fleet: a node that becomes free finds work without asking.
AHEAD: Final = 1.3

_MAX_NAME: Final = 64
#: Labels of one node: it polls a queue for each set of them.
MOST_LABELS: Final = 5
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
#: What git takes for a place and not for an option or a program (`ext::`).
_SOURCE: Final = re.compile(r"(?:bundle:[0-9a-f]{64}|(?:https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+)\Z")
_REF: Final = re.compile(r"(?!-)(?!.*\.\.)[\w./+@-]{1,200}\Z")


def job_id(batch: str, task: str, tries: int) -> str:
    """The id of one try of a task, the same for whoever asks, and used once."""
    return f"{batch}/{task}/{tries}"


def session_name(task: str, job: str) -> str:
    """What the session of a job is called on its node, where other batches have tasks of that name too."""
    word = _ODD.sub("-", task).lstrip("-")[: _MAX_NAME - 9]  # of a row or a cell it has slashes
    return f"{word or 'task'}-{hashlib.sha256(job.encode()).hexdigest()[:8]}"


def branch_name(batch: str, session: str) -> str:
    """The branch of its repository that gets what a task changed, by the name of its session at the node."""
    return f"{BRANCHES}{batch}/{re.sub(r'[.]{2,}|^[.]', '-', session)}"


def check_labels(value: object) -> tuple[str, ...]:
    """Labels of a node, or those that a batch needs: `gpu,big`.

    Raises:
        BadValue: one is not a valid label, or they are too many.
    """
    if not isinstance(value, str):
        raise BadValue(f"{value!r} is not a list of labels", hint="as in gpu,big")
    found = tuple(sorted({word.strip() for word in value.split(",") if word.strip()}))
    for word in found:
        if not re.match(NAME_PATTERN, word):
            raise BadValue(f"{word!r} is not a valid label", hint="letters, digits, '.', '_' and '-'")
    if len(found) > MOST_LABELS:
        raise BadValue(f"more than {MOST_LABELS} labels")
    return found


def queue_of(label: str) -> str:
    """The queue of tasks that need these labels, sorted, with commas between them; "": any node."""
    return f"cms.{PROTOCOL}.{label}" if label else f"cms.{PROTOCOL}"


def queues_of(labels: Sequence[str]) -> list[str]:
    """The queues that a node with these labels serves: one for each set of them that a task may need."""
    sets = (
        some for count in range(len(labels) + 1) for some in itertools.combinations(sorted(labels), count)
    )
    return [queue_of(",".join(some)) for some in sets]


def own_queue(node: str) -> str:
    """The queue that only this node serves: for what can only be done where it was begun."""
    return f"cms.{PROTOCOL}/{node}"


class Repo(Record, frozen=True, omit_defaults=True):
    """What a task works on: a repository that its node checks out into a folder of the task's own.

    Attributes:
        url: where it is cloned from; "" with `bundle`.
        ref: what is checked out; "" is the repository's default.
        bundle: the digest of a bundle among the artifacts, in which `ref` is a commit.
    """

    url: str = ""
    ref: str = ""
    bundle: str = ""

    @classmethod
    def parse(cls, text: str) -> Repo:
        """`URL`, `URL#REF` or `bundle:DIGEST#COMMIT`.

        Raises:
            UsageError: it is none.
        """
        source, _, ref = text.rpartition("#") if "#" in text else (text, "", "")
        if not _SOURCE.match(source) or (ref and not _REF.match(ref)):
            raise UsageError(f"--repo: {text[:80]!r} is not a repository", hint="a folder, URL or URL#REF")
        if source.startswith("bundle:"):
            return cls(bundle=source.removeprefix("bundle:"), ref=ref)
        return cls(url=source, ref=ref)


class Assignment(Record, frozen=True, omit_defaults=True):
    """One try of a task, as a node is asked to do it.

    Attributes:
        session: what its session is called on the node.
        go_on: in that session, which is there; `prompt` is the message.
        heartbeat: seconds without a word after which the engine calls it lost.
        pulse: seconds between two words.
        branch: of its repository, to which what it changed is pushed; "": none.
        artifacts: the folder that all hosts share, for what is too large to travel.
        beside: fields of `options`, or `prompt` or `context`, that are there: field -> digest.
        asked: the options that somebody has set (`asked_of`): a node that is older may not know one.
    """

    id: str
    batch: str
    task: str
    session: str
    version: str
    options: SessionOptions
    prompt: str
    context: str = ""
    go_on: bool = False
    heartbeat: float = 60.0
    pulse: float = 1.0
    repo: Repo | None = None
    branch: str = ""
    artifacts: str = ""
    beside: Mapping[str, str] = {}
    protocol: int = PROTOCOL
    asked: tuple[str, ...] = ()


def asked_of(options: Record) -> tuple[str, ...]:
    """The options that are not as they would be by themselves: who does not know one must not go on."""
    found: list[str] = []
    for field in msgspec.structs.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Record):
            found += [f"{field.encode_name}.{name}" for name in asked_of(value)]
        elif field.required or value != field.default:
            found.append(field.encode_name)
    return tuple(found)


def unknown_to(options: Record, asked: Sequence[str]) -> list[str]:
    """Those of the options that this version has no place for."""
    places = {field.encode_name: getattr(options, field.name) for field in msgspec.structs.fields(options)}
    unknown = []
    for name in asked:
        head, _, rest = name.partition(".")
        inner = places.get(head)
        if head not in places or (rest and isinstance(inner, Record) and unknown_to(inner, [rest])):
            unknown.append(name)
    return unknown


class Trouble(Record, frozen=True):
    """An error of ours, as it travels."""

    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Done(Record, frozen=True, omit_defaults=True):
    """How a job ended on its node.

    Attributes:
        result: what its session came to; None: there was no session, or nobody knows.
        trouble: why there is no result.
        refused: the node does not take it, and nothing of it was begun: another one may.
        begun: a session was made: `cost` and `exact` are its, where there is no result.
        allowed: the tools that the gate let through, a name for each call.
        fenced: the node was cut off from the engine, and ended it by itself.
        patch: what it changed in its `repo`; `beside` where that is too large.
        branch: of that repository, which has the same as its newest commit.
        commit: that commit.
        fetch: the patch is too large to travel, and is to be read from there.
        beside: `response` or `patch` among the artifacts: field -> digest.
    """

    node: str
    host: str
    result: DelegateResult | None = None
    trouble: Trouble | None = None
    refused: bool = False
    begun: bool = False
    cost: float = 0.0
    exact: bool = True
    allowed: tuple[str, ...] = ()
    fenced: bool = False
    patch: str = ""
    branch: str = ""
    commit: str = ""
    fetch: bool = False
    beside: Mapping[str, str] = {}


class Pulse(Record, frozen=True, omit_defaults=True):
    """What a node says of a job on its way.

    Attributes:
        answered: the API has answered it.
        retries: how often its claude met trouble of the API's and tried again by itself.
    """

    node: str
    cost: float = 0.0
    turns: int = 0
    activity: str = ""
    answered: bool = False
    retries: int = 0


class Card(Record, frozen=True, omit_defaults=True):
    """What a node says of itself: it is its identity at the engine.

    Attributes:
        level: of its containment.
    """

    id: str
    host: str
    slots: int
    version: str
    labels: tuple[str, ...] = ()
    level: ContainmentLevel | None = None
    protocol: int = PROTOCOL

    def serves(self, label: str) -> bool:
        """Whether tasks of this version of cms that need these labels come to it."""
        return self.protocol == PROTOCOL and set(filter(None, label.split(","))) <= set(self.labels)


# --- between the daemon and the bridge --------------------------------------------------------------


class Submit(Record, frozen=True, tag_field="type", tag="submit"):
    """Have a job done, or follow the one of that id if it was submitted before. Answered by one `Ended`.

    Attributes:
        node: the only one that can do it; "": any that serves `label`.
        since: when it was first meant to be submitted, seconds since the epoch by the engine's clock.
        again: it may have been submitted before. Then it is not, unless the engine remembers all that time.
        engine: what the engine was known by then; "" if nobody noted it.
    """

    job: Assignment
    label: str = ""
    node: str = ""
    since: float = 0.0
    again: bool = False
    engine: str = ""


class CancelJob(Record, frozen=True, tag_field="type", tag="cancel"):
    id: str
    reason: str = ""


Command = Submit | CancelJob


class Ready(Record, frozen=True, tag_field="type", tag="ready"):
    """The engine is there.

    Attributes:
        engine: what it is known by: where that changes, it has forgotten all it knew.
        now: by its clock, seconds since the epoch: that of a head may be wrong, or be set.
    """

    engine: str
    cards: tuple[Card, ...] = ()
    now: float = 0.0


class Unable(Record, frozen=True, tag_field="type", tag="unable"):
    """The bridge gives up: nothing can be asked of the engine."""

    trouble: Trouble


class Fleet(Record, frozen=True, tag_field="type", tag="fleet"):
    """The nodes that are there."""

    cards: tuple[Card, ...]


class Word(Record, frozen=True, tag_field="type", tag="word"):
    """The engine can, or cannot, be reached now; for a person."""

    text: str = ""


class Beat(Record, frozen=True, tag_field="type", tag="beat"):
    id: str
    pulse: Pulse


class Ended(Record, frozen=True, tag_field="type", tag="ended"):
    """What became of a job: `done`; or without it by `how`.

    `unbegun`: nothing of it was ever begun, and nothing will be. `lost`: it is unknown what became of it, and
    nothing of it is at work any more. `unknown`: the engine cannot be asked; it may be at work.
    """

    id: str
    how: str
    done: Done | None = None
    reason: str = ""
    node: str = ""


Event = Ready | Unable | Fleet | Word | Beat | Ended
