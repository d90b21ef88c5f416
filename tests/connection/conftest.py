"""All tests of this room run over every transport: messages do not know how they travel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.connection.helpers import using_transport
from tests.transports import TCP, TLS, WS, Transport


@pytest.fixture(params=[TCP, TLS, WS], ids=["tcp", "tls", "ws"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """How ``scripted`` and ``served`` reach their servers, where a test does not say otherwise."""
    assert isinstance(request.param, Transport)
    return request.param


@pytest.fixture(autouse=True)
def way(transport: Transport) -> Iterator[None]:
    with using_transport(transport):
        yield
