"""A real server for tests of commands, which call ``trio.run`` and so are not async."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.cli.helpers import running


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Return the URL of a server that all tests share, run by ``trio-nats server``."""
    with running("server", "--port", 0) as server:
        server.said("Press Ctrl-C to stop")
        yield server.output.strip()
        server.kill(signal.SIGTERM)
        assert server.finish() == 128 + signal.SIGTERM
