"""What is marked with a choice of transports is tested over them, and all else over TCP.

How messages travel matters to the modules in which many bytes go in or out, which are marked as a
whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
