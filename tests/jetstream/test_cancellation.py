"""Cancelled at whatever moment, nothing is left behind and everything goes on."""

from __future__ import annotations

import pytest

from tests.jetstream.helpers import HANG_TIMEOUT, connected, filled, stored
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import open_requests
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import Connection
from trio_nats.jetstream import JetStreamError, UnacknowledgedError
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.slow]


async def sound(nc: Connection) -> None:
    """The connection works, and holds nothing of what was cancelled."""
    assert nc.stats.subscriptions == 0
    assert open_requests(nc) == 0
    await nc.flush(timeout=HANG_TIMEOUT)
    assert nc.stats.reconnects == 0


async def settle(nc: Connection) -> None:
    """Until there is nothing in the connection that comes with its first request."""
    await nc.request_many("x", timeout=1).aclose()
    await nc.flush()


async def test_a_publisher(nats_server: NatsServer) -> None:
    """Whatever was published is stored in order, without gaps but at the end."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        await settle(nc)
        async with no_leaks():
            before = all_tasks()

            async def make() -> Operation:
                await nc.flush()
                await stream.purge()

                async def operation() -> None:
                    async with js.publisher(max_pending=2) as publisher:
                        acks = [await publisher.publish("s.a", str(n)) for n in range(5)]
                        await acks[0]
                        await acks[4]

                return operation

            async def check() -> None:
                assert all_tasks() == before
                await sound(nc)
                numbers = [int(m.data) for m in await stored(stream)]
                assert numbers == list(range(len(numbers)))

            assert await cancel_at_each_checkpoint(make, check, background=True) >= 8


async def test_a_publisher_with_failures(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await filled(js, 0)
        await settle(nc)
        before = all_tasks()

        async def make() -> Operation:
            async def operation() -> None:
                with pytest.raises(UnacknowledgedError):
                    async with js.publisher() as publisher:
                        await publisher.publish("other")
                        await publisher.publish("s.a")

            return operation

        async def check() -> None:
            assert all_tasks() == before
            await sound(nc)

        assert await cancel_at_each_checkpoint(make, check) >= 3


@pytest.mark.requires_server("2.11")
async def test_getting_many_goes_on(nats_server: NatsServer) -> None:
    """Nothing is missed and nothing comes twice."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 7)
        await settle(nc)
        found: list[int] = []
        paged = stream.get_msgs()

        async def make() -> Operation:
            nonlocal paged
            found.clear()
            paged = stream.get_msgs(max_messages=2)

            async def operation() -> None:
                async for msg in paged:
                    found.append(msg.seq)  # noqa: PERF401 -- what was found before it is cancelled

            return operation

        async def check() -> None:
            found.extend([msg.seq async for msg in paged])
            assert found == [1, 2, 3, 4, 5, 6, 7]
            await sound(nc)

        assert await cancel_at_each_checkpoint(make, check) >= 7


@pytest.mark.requires_server("2.12")
async def test_an_atomic_batch(nats_server: NatsServer) -> None:
    """All or nothing, whenever it stops; and if it can go on, it is all there."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0, allow_atomic=True)
        await settle(nc)
        batch = js.atomic_batch()

        async def make() -> Operation:
            nonlocal batch
            await stream.purge()
            batch = js.atomic_batch()

            async def operation() -> None:
                for number in range(4):
                    await batch.add("s.a", str(number))
                await batch.commit()

            return operation

        async def check() -> None:
            await sound(nc)
            numbers = [int(m.data) for m in await stored(stream)]
            assert numbers in ([], [0, 1, 2, 3])
            if not numbers and len(batch):
                count = len(batch)
                try:
                    assert (await batch.commit()).count == count
                except JetStreamError:
                    assert (await stream.refresh()).state.messages == 0

        assert await cancel_at_each_checkpoint(make, check) >= 3
