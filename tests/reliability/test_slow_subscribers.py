"""Subscriptions nobody empties: their limits hold, and the others do not notice."""

from __future__ import annotations

import pytest
import trio

from tests.reliability.helpers import HANG_TIMEOUT, eventually, receive_n, session, until
from tests.support.peer import Peer
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import PendingLimits
from trio_nats.events import SlowConsumer
from trio_nats.options import FullPolicy

COUNT = 1_000


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
@ALL_BUT_WSS
async def test_a_full_subscription_drops_and_others_get_everything(
    transport: Transport, policy: FullPolicy
) -> None:
    limits = PendingLimits(messages=100, when_full=policy)
    async with transport.server() as server, transport.open(server) as nc, nc.events() as events:
        async with nc.subscribe("a", pending_limits=limits) as slow, nc.subscribe("a") as good:
            for number in range(COUNT):
                await nc.publish("a", b"%d" % number)
            assert [int(msg.data) for msg in await receive_n(good, COUNT)] == list(range(COUNT))
            await nc.flush(timeout=HANG_TIMEOUT)
            assert slow.pending == (100, sum(len(str(n)) for n in kept(policy)))
            assert slow.dropped == nc.stats.dropped == COUNT - 100
            assert [int(msg.data) for msg in await receive_n(slow, 100)] == kept(policy)
            assert (await until(events, SlowConsumer)).subject == "a"
            # One event for the whole episode, and one for the next.
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
            for number in range(101):
                await nc.publish("a", b"%d" % number)
            again = await until(events, SlowConsumer)
            assert again.dropped == COUNT - 100 + 1


def kept(policy: FullPolicy) -> list[int]:
    return list(range(100) if policy == "drop_newest" else range(COUNT - 100, COUNT))


@ALL_BUT_WSS
async def test_bytes_are_a_limit_too_and_count_headers(transport: Transport) -> None:
    limits = PendingLimits(bytes=1_000)
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("a", pending_limits=limits) as slow:
            for _ in range(10):
                await nc.publish("a", b"." * 200, headers={"h": "." * 200})
            await nc.flush(timeout=HANG_TIMEOUT)
            messages, size = slow.pending
            assert messages == 2
            assert 800 < size <= 1_000
            assert slow.dropped == 8


@pytest.mark.slow
@ALL_BUT_WSS
async def test_wait_stops_reading_until_there_is_space(transport: Transport) -> None:
    limits = PendingLimits(messages=50, when_full="wait")
    async with transport.server() as server, transport.open(server) as pub:
        async with transport.open(server) as nc, nc.events() as events:
            async with nc.subscribe("a", pending_limits=limits) as slow, nc.subscribe("b") as other:
                await nc.flush(timeout=HANG_TIMEOUT)
                for number in range(20_000):
                    await pub.publish("a", b"%d" % number + b"." * 100)
                await pub.publish("b", b"behind")
                await pub.flush(timeout=HANG_TIMEOUT)
                await until(events, SlowConsumer)
                # What one read brought has a place, and nothing is read behind it.
                assert slow.pending[0] < 2_000
                assert other.pending == (0, 0)
                got = await receive_n(slow, 20_000)
                numbers = [int(msg.data.rstrip(b".")) for msg in got]
                assert numbers == list(range(20_000))
                assert (await receive_n(other, 1))[0].data == b"behind"
                assert nc.stats.dropped == 0


@ALL_BUT_WSS
async def test_a_stalled_subscription_that_is_left_lets_the_others_go_on(
    transport: Transport,
) -> None:
    limits = PendingLimits(messages=1, when_full="wait")
    async with transport.server() as server, transport.open(server) as nc:
        async with nc.subscribe("b") as other:
            async with nc.subscribe("a", pending_limits=limits):
                async with nc.events() as events:
                    for _ in range(3):
                        await nc.publish("a", b"x")
                    await until(events, SlowConsumer)
                await nc.publish("b", b"behind")
            assert (await receive_n(other, 1))[0].data == b"behind"


@ALL_BUT_WSS
async def test_closing_a_stalled_connection_is_not_held_up(transport: Transport) -> None:
    limits = PendingLimits(messages=1, when_full="wait")
    async with transport.server() as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with (
                transport.open(server, close_timeout=1000) as nc,
                nc.subscribe("a", pending_limits=limits),
            ):
                async with nc.events() as events:
                    for _ in range(3):
                        await nc.publish("a", b"x")
                    await until(events, SlowConsumer)


@ALL_BUT_WSS
async def test_a_slow_subscription_never_delays_a_pong(transport: Transport) -> None:
    limits = PendingLimits(messages=1)

    async def asks(peer: Peer) -> None:
        await peer.expect_line(b"SUB")
        await peer.send(b"MSG a 1 1\r\nx\r\n" * 1_000 + b"PING\r\n")
        await peer.expect_line(b"PONG")
        await peer.serve()

    async with transport.scripted(session(asks)) as server:
        async with transport.open(server) as nc, nc.subscribe("a", pending_limits=limits) as slow:
            await eventually(lambda: slow.dropped == 999)
            await nc.flush(timeout=HANG_TIMEOUT)


@ALL_BUT_WSS
async def test_replies_have_the_limits_of_a_subscription(transport: Transport) -> None:
    limits = PendingLimits(messages=10)
    async with transport.server() as server, transport.open(server) as service:
        async with service.subscribe("svc") as questions, trio.open_nursery() as nursery:

            async def serve() -> None:
                async for msg in questions:
                    for _ in range(100):
                        await msg.respond(b"reply")

            nursery.start_soon(serve)
            await service.flush(timeout=HANG_TIMEOUT)
            async with transport.open(server, pending_limits=limits) as nc:
                many = nc.request_many("svc", timeout=HANG_TIMEOUT, stop_after=100)
                async with many as replies:
                    await eventually(lambda: nc.stats.dropped == 90)
                    with trio.fail_after(HANG_TIMEOUT):
                        assert len([reply async for reply in replies]) == 10
                assert nc.stats.dropped == 90
            nursery.cancel_scope.cancel()
