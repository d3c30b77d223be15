"""What a verb of the socket protocol is. Each is declared once, by the structs of its noun.

The modules of `NOUNS` hold the params, the results and the verbs of one noun each; a command loads only what
it speaks of. Everything else comes from the declaration: `Client.call` knows from it what it gets back, the
server what it decodes, what may be cancelled, what a session may ask for. To add one, declare it, and bind it
to what does it in `daemon.handlers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Generic, TypeVar

from cms.errors import InternalError
from cms.session.model import Record

P = TypeVar("P", bound=Record)
R = TypeVar("R", bound=Record)
Other = TypeVar("Other", bound=Record)

#: The modules of this package that declare verbs.
NOUNS = (
    "daemon",
    "sessions",
    "changes",
    "questions",
    "overview",
    "audit",
    "money",
    "search",
    "batches",
    "metrics",
    "attachments",
    "conversations",
)


class Nothing(Record, frozen=True):
    """No params, or no result worth a word."""


class AnyVerb:
    """One verb, where the types do not matter.

    Attributes:
        name: what a request calls it: its noun, a dot, what is done.
        params: the struct that a request brings.
        results: the structs of which an answer brings one; with several, `Response.kind` says which.
        cancellable: a `cancel` ends it early, and its answer says so. The others are short, or not to be left
            half done.
        inside: a session may ask for it at its child socket, about sessions below it. Whatever it names
            stands in the params as `name`, `names` or `after`.
        idempotent: asked twice it does no more than asked once, so it can be asked again when nobody knows
            what became of it.
        while_stopping: a daemon that is about to leave still does it.
        any_protocol: means the same in every version of the protocol.
    """

    name: str
    params: type[Record]
    results: tuple[type[Record], ...]
    cancellable: bool
    inside: bool
    idempotent: bool
    while_stopping: bool
    any_protocol: bool

    def __repr__(self) -> str:
        return f"<Verb {self.name}>"


class Verb(AnyVerb, Generic[P, R]):
    """One verb with the types of its params and of its result, by which a call is checked."""

    params: type[P]
    results: tuple[type[R], ...]

    def __init__(
        self,
        name: str,
        params: type[P],
        result: type[R],
        *,
        cancellable: bool = False,
        inside: bool = False,
        idempotent: bool = False,
        while_stopping: bool = False,
        any_protocol: bool = False,
    ) -> None:
        self.name = name
        self.params = params
        self.results = (result,)
        self.cancellable = cancellable
        self.inside = inside
        self.idempotent = idempotent
        self.while_stopping = while_stopping
        self.any_protocol = any_protocol

    def or_(self, other: type[Other]) -> Verb[P, R | Other]:
        """The same verb with one more result. (Several in one tuple would be known as `Record` only.)"""
        verb: Verb[P, R | Other] = Verb(
            self.name,
            self.params,
            other,
            cancellable=self.cancellable,
            inside=self.inside,
            idempotent=self.idempotent,
            while_stopping=self.while_stopping,
            any_protocol=self.any_protocol,
        )
        verb.results = (*self.results, other)
        return verb

    def result_named(self, kind: str) -> type[R]:
        """The struct of a result. `kind`: its name, "" for the first.

        Raises:
            InternalError: the verb has no such result.
        """
        for result in self.results:
            if kind in ("", result.__name__):
                return result
        raise InternalError(f"the answer to {self.name} is a {kind}, which nobody expects")

    def checked(self, result: Record) -> R:
        """A result that did not come through the client.

        Raises:
            InternalError: it is none of this verb.
        """
        if not isinstance(result, self.results):
            raise InternalError(f"{self.name} gave {type(result).__name__}")
        return result


def all_verbs() -> dict[str, AnyVerb]:
    """Every verb that there is by its name. Loads every noun: for the daemon and for tests."""
    return {
        verb.name: verb
        for noun in NOUNS
        for verb in vars(import_module(f"cms.rpc.{noun}")).values()
        if isinstance(verb, AnyVerb)
    }
