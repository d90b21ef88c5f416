"""Subscriptions that are full."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE, all_of, publish_numbers, take
from tests.reliability.helpers import deliver, read_line, session
from tests.support.peer import Peer
from tests.transports import MOST, Transport
from trio_nats import PendingLimits, Subscription
from trio_nats.events import Event, SlowConsumer
from trio_nats.testing import NatsServer


def drained(sub: Subscription) -> list[bytes]:
    return [sub.receive_nowait().data for _ in range(sub.pending[0])]


def slow(events: trio.abc.ReceiveChannel[Event]) -> list[tuple[int, int, int]]:
    assert isinstance(events, trio.MemoryReceiveChannel)
    found = []
    while True:
        try:
            event = events.receive_nowait()
        except trio.WouldBlock:
            return found
        if isinstance(event, SlowConsumer):
            assert event.subject == "news"
            found.append((event.pending_messages, event.pending_bytes, event.dropped))


@MOST
async def test_drop_newest_by_messages(transport: Transport, nats_server: NatsServer) -> None:
    limits = PendingLimits(messages=4)
    async with transport.open(nats_server, pending=limits) as nc, nc.events() as events:
        async with nc.subscribe("news") as news, nc.subscribe("other") as other:
            await publish_numbers(nc, "news", 1, 2, 3, 4)
            assert (news.dropped, slow(events)) == (0, [])
            await publish_numbers(nc, "news", 5, 6)
            assert (news.dropped, slow(events)) == (2, [(4, 4, 1)])
            # One free place does not end the episode; half of them do.
            news.receive_nowait()
            await publish_numbers(nc, "news", 7, 8)
            assert (news.dropped, slow(events)) == (3, [])
            assert drained(news) == [b"2", b"3", b"4", b"7"]
            await publish_numbers(nc, "news", 1, 2, 3, 4, 5)
            assert (news.dropped, slow(events)) == (4, [(4, 4, 4)])
            assert (other.dropped, nc.stats.dropped) == (0, 4)


@MOST
async def test_drop_oldest_by_messages(transport: Transport, nats_server: NatsServer) -> None:
    limits = PendingLimits(messages=3, when_full="drop_oldest")
    async with transport.open(nats_server) as nc, nc.events() as events:
        async with nc.subscribe("news", pending=limits) as news:
            await publish_numbers(nc, "news", 1, 2, 3, 4, 5)
            assert (news.dropped, nc.stats.dropped, slow(events)) == (2, 2, [(3, 3, 1)])
            assert drained(news) == [b"3", b"4", b"5"]


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_newest", [b"a" * 6, b"c"]), ("drop_oldest", [b"b" * 6, b"c"])]
)
@MOST
async def test_limits_by_bytes(
    transport: Transport, nats_server: NatsServer, policy: Any, kept: list[bytes]
) -> None:
    limits = PendingLimits(bytes=10, when_full=policy)
    async with transport.open(nats_server) as nc, nc.events() as events:
        async with nc.subscribe("news", pending=limits) as news:
            for data in (b"a" * 6, b"b" * 6, b"c"):
                await nc.publish("news", data)
            await nc.flush(PATIENCE)
            assert (news.pending, news.dropped) == ((2, 7), 1)
            assert slow(events) == [(1, 6, 1)]
            assert drained(news) == kept
            assert news.pending == (0, 0)


@MOST
async def test_headers_count_as_bytes(transport: Transport, nats_server: NatsServer) -> None:
    limits = PendingLimits(bytes=50)
    async with transport.open(nats_server) as nc:
        async with nc.subscribe("news", pending=limits) as news:
            await nc.publish("news", b"x", headers={"key": "v" * 50})
            await publish_numbers(nc, "news", 1)
            assert news.dropped == 1
            assert drained(news) == [b"1"]


@pytest.mark.parametrize("limits", [PendingLimits(messages=5), PendingLimits(bytes=50)])
@MOST
async def test_waiting_loses_nothing(
    transport: Transport, nats_server: NatsServer, limits: PendingLimits
) -> None:
    limits = PendingLimits(messages=limits.messages, bytes=limits.bytes, when_full="wait")
    count, block = 2000, 1000
    async with transport.open(nats_server) as nc, transport.open(nats_server) as other:
        async with nc.subscribe("news", pending=limits) as news, nc.events() as events:
            await nc.flush(PATIENCE)
            for number in range(count):
                await other.publish("news", b"%d" % number + b"." * block)
            await other.flush(PATIENCE)
            await trio.testing.wait_all_tasks_blocked(0.01)
            # What one read brings is taken in whole, and then no more is read.
            assert 0 < news.pending[0] < 200
            assert len(slow(events)) == 1
            received = [data.rstrip(b".") for data in await take(news, count)]
            assert received == [b"%d" % number for number in range(count)]
            assert (news.dropped, nc.stats.reconnects) == (0, 0)


@pytest.mark.parametrize("ending", ["leave", "drain", "close"])
@MOST
async def test_a_waiting_subscription_that_goes_away_holds_nobody_up(
    transport: Transport, nats_server: NatsServer, ending: str
) -> None:
    limits = PendingLimits(messages=1, when_full="wait")
    async with transport.open(nats_server) as nc:
        async with nc.subscribe("news") as news:
            async with (
                nc.subscribe("slow", pending=limits) as stuck,
                trio.open_nursery() as nursery,
            ):
                for _ in range(100):
                    await nc.publish("slow")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert nc._core.router.stalled == {stuck}
                if ending == "drain":
                    nursery.start_soon(stuck.drain)
                    await trio.testing.wait_all_tasks_blocked()
                    assert len(await all_of(stuck)) == 100
                elif ending == "close":
                    with trio.fail_after(PATIENCE):
                        await nc.aclose()
                    return
            await publish_numbers(nc, "news", 1)
            assert await take(news, 1) == [b"1"]


@MOST
async def test_a_slow_subscription_stalls_neither_others_nor_the_pong(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await read_line(peer, b"SUB news")
        await peer.send(b"".join(deliver(b"slow", b"1", b"x") for _ in range(100)) + b"PING\r\n")
        await read_line(peer, b"PONG")
        await peer.send(deliver(b"news", b"2", b"after"))
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        async with nc.subscribe("slow", pending=PendingLimits(messages=3)) as slow_one:
            async with nc.subscribe("news") as news:
                assert await take(news, 1) == [b"after"]
                assert (slow_one.pending[0], slow_one.dropped) == (3, 97)
