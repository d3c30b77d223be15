from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes.kit import Head, Host, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One engine for the tests of a module, and no longer: others look whether a child of theirs is left."""
    engine = Server(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.kill()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[[str], Host]]:
    """Machines by their names."""
    made: list[Host] = []

    def make(name: str) -> Host:
        made.append((Head if name.startswith("head") else Host)(tmp_path / name))
        return made[-1]

    yield make
    for host in made:
        host.leave()
    for host in made:
        assert not host.survivors()
