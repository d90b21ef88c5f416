"""The largest message a server takes: told late, and told again by another server."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.connection.helpers import fill, have_wait, scripted
from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    after,
    info_with,
    receive_n,
    session,
    shorten_overlap,
    until,
)
from tests.support.internals import open_requests
from tests.support.jwts import Operator
from tests.support.peer import Peer, ScriptedServer, info_line
from tests.transports import ALL_TRANSPORTS, Transport
from trio_nats import ConfigurationError, ConnectError, Credentials, MaxPayloadError, open_nats
from trio_nats.events import Disconnected, MessagesDiscarded
from trio_nats.testing import NatsServer

# --- the account's own ----------------------------------------------------------------------------


async def test_the_limit_of_the_account_holds_from_the_first_message_on() -> None:
    operator = Operator(payload=1000)
    auth = Credentials(text=operator.user().creds)
    async with NatsServer(config=operator.config) as server:
        for _ in range(20):
            async with open_nats(server.url, auth=auth) as nc:
                # Not a checkpoint between entering and this.
                with pytest.raises(MaxPayloadError):
                    nc.publish_nowait("a", bytes(1001))
                nc.publish_nowait("a", bytes(1000))
                assert nc.server_info.max_payload == 1000
                await nc.flush()
                assert nc.stats.reconnects == 0


@ALL_TRANSPORTS
async def test_info_after_the_first_pong_is_used(transport: Transport) -> None:
    line = info_line(max_payload=1000, server_name="newest")
    for cut in (0, 1, 5, 40, len(line) - 1, len(line)):

        async def tell(peer: Peer, cut: int = cut) -> None:
            await peer.send_info()
            await peer.accept_connect(pong=False)
            await peer.send(b"PONG\r\n" + line[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(line[cut:] + b"PONG\r\n")
            await peer.serve()

        async with transport.scripted(tell) as server, transport.open(server) as nc:
            assert nc.server_info.max_payload == 1000
            assert nc.server_info.server_name == "newest"
            with pytest.raises(MaxPayloadError):
                await nc.publish("a", bytes(1001))


async def test_a_peer_that_floods_between_the_first_pongs_is_disconnected() -> None:
    async def flood(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect(pong=False)
        await peer.send(b"PONG\r\n")
        while True:
            await peer.send(b"-ERR 'x'\r\n" * 1000 + b"MSG a 1 1000\r\n%b\r\n" % bytes(1000))

    async with ScriptedServer(flood) as server:
        with pytest.raises(ConnectError, match="without answering a PING"):
            async with open_nats(server.url):
                pass


async def test_info_that_comes_while_moving_is_used_at_once() -> None:
    async def first(peer: Peer) -> None:
        await after(b"never", Peer.serve)(peer)

    async def second(peer: Peer) -> None:
        # The answer to the PING behind our subscriptions, and more.
        assert await peer.expect_line() == b"PING"
        await peer.send(info_with(max_payload=1000, server_name="newest") + b"PONG\r\n")
        await peer.serve()

    async with (
        ScriptedServer(session(first), session(second)) as server,
        open_nats(server.url, reconnect=QUICK) as nc,
    ):
        shorten_overlap(nc)
        await nc.reconnect()
        assert nc.server_info.server_name == "newest"
        with pytest.raises(MaxPayloadError):
            nc.publish_nowait("a", bytes(1001))


# --- another server's -----------------------------------------------------------------------------


async def test_messages_too_large_for_the_next_server_do_not_affect_others() -> None:
    async with NatsServer() as first, NatsServer(config="max_payload: 1000") as second:
        servers = [first.url, second.url]
        async with (
            open_nats(second.url) as witness,
            witness.subscribe("a") as inbox,
            open_nats(servers, randomize=False, reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            await witness.flush()
            await first.kill()
            await until(events, Disconnected)
            for number in range(100):
                await nc.publish("a", b"%d" % number)
                await nc.publish(f"big.{number}", bytes(1001))
            with pytest.raises(MaxPayloadError, match="1,001 bytes"):
                await nc.request("a.request", bytes(1001), timeout=HANG_TIMEOUT)
            told = await until(events, MessagesDiscarded)
            assert (told.server, told.messages) == (second.url, 101)
            assert told.subjects == tuple(f"big.{number}" for number in range(16))
            assert isinstance(told.reason, MaxPayloadError)
            await nc.flush(timeout=HANG_TIMEOUT)
            assert [msg.data for msg in await receive_n(inbox, 100)] == [
                b"%d" % n for n in range(100)
            ]
            stats = nc.stats
            assert (stats.discarded, stats.lost_in_flight, stats.reconnects) == (101, 0, 1)
            assert stats.outbox_bytes == 0


async def test_headers_unsupported_by_the_next_server_do_not_affect_others() -> None:
    async def old(peer: Peer) -> None:
        await peer.send_info(headers=None)
        await peer.accept_connect()
        await peer.serve()

    lose = trio.Event()

    async def loses(peer: Peer) -> None:
        await lose.wait()
        peer.close()

    async with ScriptedServer(session(loses), old) as server:
        async with open_nats(server.url, reconnect=QUICK) as nc, nc.events() as events:
            await nc.publish("with", b"1", headers={"a": "b"})
            await nc.publish("without", b"2")
            lose.set()
            await until(events, Disconnected)
            await nc.publish("with", b"3", headers={"a": "b"})
            await nc.publish("without", b"4")
            told = await until(events, MessagesDiscarded)
            assert (told.messages, told.subjects) == (1, ("with",))
            assert isinstance(told.reason, ConfigurationError)
            await nc.flush(timeout=HANG_TIMEOUT)
            assert (await server.peer(1)).payloads[-1] == b"4"
            assert nc.stats.discarded == 1


async def test_lowering_a_limit_drops_waiting_messages() -> None:
    async with scripted() as (nc, peer):
        await fill(nc, 2_000_000)
        await nc.publish("small", b"x")
        async with nc.events() as events:
            await peer.send(info_with(max_payload=1000, headers=True))
            told = await until(events, MessagesDiscarded)
            assert told.subjects == ("a",)
            assert told.messages == nc.stats.discarded > 0
        while not (await peer.expect_line()).startswith(b"PUB small "):
            await peer.receive_exactly(100_002)
        assert await peer.receive_exactly(3) == b"x\r\n"


async def test_publishers_that_wait_for_room_are_told() -> None:
    async with scripted(outbox_size=1_000_000) as (nc, peer):
        await fill(nc, 900_000)
        await nc.publish("a", bytes(200_000))

        async def many() -> None:
            async with nc.request_many("c", bytes(1001)):
                raise AssertionError("it was sent")

        waits = [
            lambda: nc.publish("b", bytes(1001)),
            lambda: nc.request("b", bytes(1001), timeout=HANG_TIMEOUT),
            many,
        ]
        async with trio.open_nursery() as nursery:
            told = [error for wait in waits for error in [await have_wait(nursery, wait, 1)]]
            await peer.send(info_with(max_payload=1000, headers=True))
        assert [type(error) for errors in told for error in errors] == [MaxPayloadError] * 3
        assert open_requests(nc) == 0
