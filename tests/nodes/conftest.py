from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes.kit import Head, Host, Server

Hosts = Callable[[str], Host]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One engine for the tests of a module, and no longer: others look whether a child of theirs is left."""
    engine = Server(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.kill()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Machines by their names."""
    with machines(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Machines that serve all tests of a module."""
    with machines(tmp_path_factory.mktemp("hosts")) as make:
        yield make


@pytest.fixture(scope="module")
def head(lasting: Hosts) -> Host:
    """For a test that does not kill its head, and has names of its own for its tasks."""
    return lasting("head")


@pytest.fixture(scope="module")
def node(lasting: Hosts, server: Server) -> Host:
    """A host with a node, for a test that does not kill it."""
    host = lasting("node")
    host.start_node(server.url(), "--labels", "both,gpu")
    return host


@contextmanager
def machines(folder: Path) -> Iterator[Hosts]:
    made: list[Host] = []

    def make(name: str) -> Host:
        made.append((Head if name.startswith("head") else Host)(folder / name))
        return made[-1]

    yield make
    for host in made:
        host.leave()
    for host in made:
        assert not host.survivors()
