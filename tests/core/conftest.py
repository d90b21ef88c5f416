"""What is marked with a choice of transports is tested over them, and all else over TCP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio.testing

from tests.connection.helpers import using_transport
from tests.transports import TCP, Transport


@pytest.fixture
def transport() -> Transport:
    """How ``scripted`` and ``served`` reach their servers."""
    return TCP


@pytest.fixture(autouse=True)
def way(transport: Transport) -> Iterator[None]:
    with using_transport(transport):
        yield


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Jumps once nothing has happened for a while, the kernel's buffers included."""
    return trio.testing.MockClock(autojump_threshold=0.02)
