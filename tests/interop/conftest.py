"""Fixtures of the tests with other clients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.interop.helpers import KEY_VALUE_CLIENTS, Client, Clients, missing, running_server

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    """The clients, connected to a server with JetStream of their own."""
    with running_server() as server, Clients(server.url) as clients:
        yield clients


@pytest.fixture
def node(clients: Clients) -> Client:
    """The client for Node, for tests that make no sense without it."""
    return clients["node"]


@pytest.fixture(autouse=True)
def _needs_clients(request: pytest.FixtureRequest) -> None:
    """Skip a test whose parameters name a client that is missing.

    In the test itself, pytest-trio would lose the reason.
    """
    params = request.node.callspec.params.values() if hasattr(request.node, "callspec") else ()
    for name in {str(value).partition(" ")[0] for value in params} & set(KEY_VALUE_CLIENTS):
        if fault := missing(name):
            pytest.skip(fault)


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A name for what a test stores."""
    return f"{request.function.__name__[:40]}_{next(NUMBERS)}"
