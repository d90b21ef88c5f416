"""How often a connection shows that it is alive, by the way it takes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.peer import Peer
from tests.support.scripts import session
from tests.transports import ALL_TRANSPORTS, Transport
from trio_nats import ConfigurationError, open_nats


@ALL_TRANSPORTS
@pytest.mark.parametrize("given", [None, 7.0])
async def test_an_idle_connection_survives_the_proxies_there_are(
    transport: Transport, given: float | None, clock: trio.testing.MockClock
) -> None:
    """Those before WebSocket servers close what has been idle for 60 seconds."""
    times: list[float] = []
    heard = trio.Event()

    async def listen(peer: Peer) -> None:
        for _ in range(3):
            assert await peer.expect_line() == b"PING"
            times.append(trio.current_time())
            await peer.send(b"PONG\r\n")
        heard.set()
        await peer.serve()

    async with transport.scripted(session(listen)) as server:
        async with transport.open(server, ping_interval=given, connect_timeout=1e6) as nc:
            opened = trio.current_time()
            clock.autojump_threshold = 0.05
            await heard.wait()
            clock.autojump_threshold = float("inf")
            usual = 25.0 if transport.websocket else 120.0
            expected = usual if given is None else given
            gaps = [later - before for before, later in zip([opened, *times], times, strict=False)]
            assert gaps == pytest.approx([expected] * 3)
            assert nc.stats.reconnects == 0


def test_an_interval_must_be_a_time() -> None:
    with pytest.raises(ConfigurationError, match="ping_interval"):
        open_nats("nats://a", ping_interval=0)


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Stands still until it is told to jump."""
    return trio.testing.MockClock()
