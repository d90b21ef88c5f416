"""All tests of this room run over every transport: messages do not know how they travel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.messages.helpers import by_way_of
from tests.transports import TCP, TLS, WS, Transport


@pytest.fixture(autouse=True, params=[TCP, TLS, WS], ids=["tcp", "tls", "ws"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """How ``scripted`` and ``served`` reach their servers."""
    with by_way_of(request.param):
        yield request.param
