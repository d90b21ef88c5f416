"""Fixtures of the tests with other clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.helpers import Clients, running_server


@pytest.fixture(scope="module")
def clients() -> Iterator[Clients]:
    """The clients, connected to a server with JetStream of their own."""
    with running_server() as server, Clients(server.url) as clients:
        yield clients


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A name for what a test stores."""
    return "".join(c if c.isalnum() else "_" for c in request.node.name)[:60]
