"""Messages received in batches: all that arrived, in order, once, also when tasks are cancelled."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import next_event, scripted, served
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import has_waiters, push, stalled
from tests.transports import ALL_BUT_WSS
from trio_nats import ConfigurationError, Msg, PendingLimits
from trio_nats.events import SlowConsumer

pytestmark = ALL_BUT_WSS


def numbered(start: int, count: int) -> list[Msg]:
    return [Msg.new("a", b"%d" % number) for number in range(start, start + count)]


async def test_a_batch_has_all_waiting_messages() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        for number in range(1000):
            await nc.publish("a", b"%d" % number)
        await nc.flush()
        batch = await sub.receive_batch()
        assert [int(msg.data) for msg in batch] == list(range(1000))
        assert sub.pending == (0, 0)
        with trio.move_on_after(0.01) as scope:
            await sub.receive_batch()
        assert scope.cancelled_caught, "a batch is never empty"


async def test_an_iteration_gets_everything_and_ends_with_the_subscription() -> None:
    async with served() as (nc, _), nc.subscribe("a", stop_after=2500) as sub:
        async with trio.open_nursery() as nursery:

            async def publish() -> None:
                for number in range(2500):
                    await nc.publish("a", b"%d" % number)

            nursery.start_soon(publish)
            got = []
            async for batch in sub.iter_batches():
                assert batch
                got += [int(msg.data) for msg in batch]
            assert got == list(range(2500))
        with pytest.raises(trio.EndOfChannel):
            await sub.receive_batch()


async def test_a_waiting_receiver_gets_the_whole_burst() -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        got: list[list[Msg]] = []

        async def receive() -> None:
            got.append(await sub.receive_batch(3))
            got.append(await sub.receive_batch(3))

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        push(sub, *numbered(0, 5))
        await trio.testing.wait_all_tasks_blocked()
        assert [[int(msg.data) for msg in batch] for batch in got] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("most", [1, 2, 7, 8])
async def test_a_batch_is_no_larger_than_asked_for(most: int) -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub:
        push(sub, *numbered(0, 7))
        sizes = []
        while sub.pending[0]:
            sizes.append(len(await sub.receive_batch(most)))
        assert sizes == [most] * (7 // most) + [7 % most] * (7 % most > 0)


@pytest.mark.parametrize(
    ("most", "error"),
    [(0, ConfigurationError), (-1, ConfigurationError), (1.5, TypeError), (True, TypeError)],
)
async def test_invalid_sizes(most: Any, error: type[Exception]) -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub:
        with pytest.raises(error, match="max_messages"):
            await sub.receive_batch(most)
        with pytest.raises(error, match="max_messages"):
            sub.iter_batches(most)


async def test_cancelled_at_any_moment_nothing_is_lost() -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        sent = 0
        got: list[int] = []

        def send(count: int) -> None:
            nonlocal sent
            push(sub, *numbered(sent, count))
            sent += count

        async def make() -> Operation:
            send(3)

            async def operation() -> None:
                got.extend(int(msg.data) for msg in await sub.receive_batch())
                got.extend(int(msg.data) for msg in await sub.receive_batch())

            return operation

        async def send_to_who_waits() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                if has_waiters(sub):
                    send(2)

        async def check() -> None:
            assert got == list(range(len(got)))
            assert len(got) + sub.pending[0] == sent

        nursery.start_soon(send_to_who_waits)
        assert await cancel_at_each_checkpoint(make, check) >= 1
        assert len(got) > 0
        nursery.cancel_scope.cancel()


async def test_a_consumer_that_takes_batches_lets_others_run() -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(640):
            push(sub, *numbered(0, 2))
            await sub.receive_batch()
        assert turns - before >= 19
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("most", [None, 2])
async def test_receiving_a_batch_makes_space_in_a_full_subscription(
    most: int | None,
) -> None:
    limits = PendingLimits(messages=4, when_full="wait")
    async with (
        scripted() as (nc, _),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits) as sub,
    ):
        for episode in (1, 2):
            push(sub, *numbered(0, 6))
            assert sub in stalled(nc)
            await next_event(events, SlowConsumer)
            while sub.pending[0]:
                await sub.receive_batch(most)
            assert stalled(nc) == set(), episode
            assert sub.pending == (0, 0)
