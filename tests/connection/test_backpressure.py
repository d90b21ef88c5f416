"""What happens to publishers when the server is slow: order, room, and turns."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    all_of,
    another,
    fill,
    hurry,
    nothing_was_sent,
    scripted,
    served,
    taking_turns,
)
from tests.support.internals import open_requests
from tests.transports import ALL_BUT_WSS
from trio_nats import OutboxFullError

pytestmark = ALL_BUT_WSS


async def test_order_is_kept_across_tasks_and_chunks() -> None:
    async with served() as (nc, server), another(server) as other:
        called: list[bytes] = []

        async def publish_all(name: bytes) -> None:
            for number in range(5000):
                data = b"%b %d " % (name, number) + b"x" * (number % 90)
                headers = {"k": "v"} if number % 3 == 0 else None
                await nc.publish("a", data, headers=headers)
                called.append(data)

        async with other.subscribe("a", stop_after=10_000) as sub:
            await other.flush()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish_all, b"one")
                nursery.start_soon(publish_all, b"two")
            assert await all_of(sub) == called


async def test_a_full_outbox_can_raise() -> None:
    async with scripted(outbox_size=1_500_000, when_outbox_full="raise") as (nc, peer):
        count = await fill(nc, 1_500_000, each=500_000)
        with pytest.raises(
            OutboxFullError, match=r"\d bytes are waiting.*is 1,500,000\)"
        ) as caught:
            await nc.publish("refused", b"")
        assert isinstance(caught.value, trio.WouldBlock)
        with pytest.raises(OutboxFullError):
            await nc.request("refused", b"")
        with pytest.raises(OutboxFullError):
            nc.publish_nowait("refused", b"")
        assert open_requests(nc) == 0
        hurry(nc)
        for _ in range(count):
            await peer.expect_line(b"PUB a 500000")
            await peer.receive_exactly(500_002)
        await trio.testing.wait_all_tasks_blocked()
        assert nc.stats.outbox_bytes == 0
        await nc.publish("accepted", b"")
        await peer.expect_line(b"PUB accepted 0")


async def test_a_full_outbox_makes_publishers_wait() -> None:
    peak = 0

    async def publish(number: int) -> None:
        nonlocal peak
        await nc.publish(f"waiting.{number}", b"x" * 500_000)
        peak = max(peak, nc.stats.outbox_bytes)

    async with scripted(outbox_size=1_500_000) as (nc, peer):
        count = await fill(nc, 1_500_000, each=500_000)
        async with trio.open_nursery() as nursery:
            for number in range(9):
                nursery.start_soon(publish, number)
            await trio.testing.wait_all_tasks_blocked()
            assert nc.stats.out_messages == count
            hurry(nc)
            lines = []
            for _ in range(count + 9):
                lines.append(await peer.expect_line(b"PUB "))
                await peer.receive_exactly(500_002)
        assert lines[:count] == [b"PUB a 500000"] * count
        assert sorted(lines[count:]) == [b"PUB waiting.%d 500000" % number for number in range(9)]
        assert peak < 1_500_000 + 500_100
        await nothing_was_sent(nc, peer)


async def test_a_publisher_that_waits_can_be_cancelled() -> None:
    async with scripted(outbox_size=1_500_000) as (nc, peer):
        count = await fill(nc, 1_500_000, each=500_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nc.publish, "cancelled")
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert nc.stats.out_messages == count
        hurry(nc)
        for _ in range(count):
            await peer.expect_line(b"PUB a 500000")
            await peer.receive_exactly(500_002)
        await nothing_was_sent(nc, peer)


async def test_publishing_without_waiting_needs_room() -> None:
    # Whatever publish() would do: this cannot wait.
    async with scripted(outbox_size=100) as (nc, peer):
        nc.publish_nowait("a", bytes(200))
        with pytest.raises(trio.WouldBlock):
            nc.publish_nowait("refused", b"x")
        await peer.expect_line(b"PUB a 200")
        await peer.receive_exactly(202)
        await trio.testing.wait_all_tasks_blocked()
        nc.publish_nowait("again", b"x")
        await peer.expect_line(b"PUB again 1")


async def test_publishers_share_the_room() -> None:
    counts = [0, 0, 0]

    async def publish(index: int) -> None:
        while True:
            await nc.publish("a", bytes(5000))
            counts[index] += 1

    async with scripted(outbox_size=10_000) as (nc, peer), trio.open_nursery() as nursery:
        await fill(nc, 10_000)
        for index in range(3):
            nursery.start_soon(publish, index)
        await trio.testing.wait_all_tasks_blocked()
        assert counts == [0, 0, 0]
        nursery.start_soon(peer.serve)
        while sum(counts) < 300:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert min(counts) >= 30, counts


async def test_a_publishing_loop_lets_others_run_at_least_once_a_chunk() -> None:
    async with scripted() as (nc, _), taking_turns() as turns:
        for _ in range(12_000):
            await nc.publish("a", b"x" * 100)
        assert turns.taken >= 6  # in ten chunks


async def test_publishing_notices_a_cancellation_at_once() -> None:
    async with scripted() as (nc, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await nc.publish("never", b"")
        assert scope.cancelled_caught
        await nothing_was_sent(nc, peer)


async def test_nothing_waits_any_more_once_the_connection_is_closed() -> None:
    async with scripted() as (nc, _):
        await fill(nc, 1024 * 1024)
    assert nc.stats.outbox_bytes == 0
