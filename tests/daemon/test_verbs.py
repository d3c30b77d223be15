"""Each verb is declared once, and one handler does it."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

from cms.config import Settings
from cms.daemon.handlers.batches import BatchHandlers
from cms.daemon.server import Server
from cms.rpc.verbs import NOUNS, AnyVerb, all_verbs
from daemon.fake import FakeSupervisor


class NoBatches:
    """Batches that are only bound, never asked."""

    store = None


def test_every_verb_has_exactly_one_handler(tmp_path: Path) -> None:
    batches = BatchHandlers(NoBatches()).all  # type: ignore[arg-type] # only bound, never called
    server = Server(FakeSupervisor(), Settings(home=tmp_path), extra=batches)
    assert {name: handler.verb for name, handler in server.handlers.items()} == all_verbs()


def test_every_verb_is_declared_once_and_named_as_its_constant() -> None:
    declared = [
        (name, verb.name)
        for noun in NOUNS
        for name, verb in vars(import_module(f"cms.rpc.{noun}")).items()
        if isinstance(verb, AnyVerb)
    ]
    assert not [name for name, count in Counter(name for _, name in declared).items() if count > 1]
    assert not [pair for pair in declared if pair[0] != pair[1].upper().replace(".", "_")]


def test_every_module_with_verbs_is_among_the_nouns() -> None:
    rpc = Path(next(iter(import_module("cms.rpc").__path__)))
    with_verbs = {path.stem for path in rpc.glob("*.py") if "\nfrom cms.rpc.verbs import" in path.read_text()}
    assert with_verbs - {"client"} == set(NOUNS)
