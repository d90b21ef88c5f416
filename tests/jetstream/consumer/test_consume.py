"""Consuming from real servers: all of it, through restarts and moves, by many at a time."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected, filled, retried_placement
from tests.jetstream.scripted_server import QUICK
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import ConnectionLostError, ReconnectPolicy, open_nats
from trio_nats.jetstream import (
    Consumer,
    ConsumerDeletedError,
    Messages,
    OrderedConsumer,
    RetentionPolicy,
)
from trio_nats.testing import NatsCluster, NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


@pytest.mark.parametrize(
    "options", [{}, {"max_messages": 1}, {"max_messages": 7, "threshold": 7}, {"max_bytes": 2000}]
)
async def test_stored_and_new_messages_are_received(
    nats_server: NatsServer, options: dict[str, int]
) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 50)
        consumer = await stream.create_consumer("c")
        async with consumer.consume(**options) as messages:
            for number in range(60):
                if number == 50:
                    for late in range(50, 60):
                        await js.publish("s.1", str(late))
                msg = await messages.receive()
                assert msg.data == b"%d" % number
                await msg.ack()
        await nc.flush()
        assert nc.stats.subscriptions == 0
        assert await consumer.fetch(no_wait=True) == []


async def test_max_bytes_bounds_what_waits(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        for _ in range(50):
            await js.publish("s.1", bytes(100_000))
        consumer = await stream.create_consumer("c")
        async with consumer.consume(max_bytes=1_000_000) as messages:
            for _ in range(50):
                await (await messages.receive()).ack()
                await nc.flush()
                assert nc.stats.pending_bytes <= 1_000_000


async def test_one_consumer_is_consumed_in_several_places(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 90)
        consumer = await stream.create_consumer("c", ack_wait=60)
        came: Counter[bytes] = Counter()

        async def worker(messages: Messages) -> None:
            async for msg in messages:
                came[msg.data] += 1
                await msg.ack()
                if len(came) == 90:
                    nursery.cancel_scope.cancel()

        async with (
            consumer.consume(max_messages=4) as one,
            consumer.consume(max_messages=4) as two,
            trio.open_nursery() as nursery,
        ):
            for messages in (one, one, two):
                nursery.start_soon(worker, messages)
        assert came == Counter(b"%d" % number for number in range(90))


async def test_receiving_continues_after_a_restart() -> None:
    async with (
        NatsServer(jetstream=True) as server,
        connected(server, reconnect=QUICK) as (js, nc),
    ):
        stream = await js.create_stream("S", subjects=["s"])
        consumer = await stream.create_consumer("c", durable_name="c")
        async with consumer.consume(max_messages=3) as messages:
            for number in range(3):
                await js.publish("s", str(number))
            first = await messages.receive()
            await first.double_ack()
            for stop in (server.restart, server.kill):
                await stop()
                if not server.is_running:
                    await server.start()
                await nc.flush()
            await js.publish("s", "3")
            came = []
            while came[-1:] != [b"3"]:
                msg = await messages.receive()
                came.append(msg.data)
                await msg.ack()
            assert came[-3:] == [b"1", b"2", b"3"]


@pytest.mark.slow
async def test_receiving_continues_after_a_move() -> None:
    async with (
        NatsCluster(3, jetstream=True) as cluster,
        connected(cluster[0], reconnect=QUICK) as (js, nc),
    ):
        await cluster.wait_until_ready()
        stream = await retried_placement(
            lambda: js.create_stream("S", subjects=["s"], storage=MEMORY)
        )
        consumer = await stream.create_consumer("c", ack_wait=60)
        came: set[bytes] = set()
        async with consumer.consume(max_messages=5) as messages:
            for number in range(40):
                await js.publish("s", str(number))
                if number in (10, 20):
                    await nc.reconnect()
                msg = await messages.receive()
                came.add(msg.data)
                await msg.ack()
        assert came == {b"%d" % number for number in range(40)}
        assert nc.stats.reconnects == 2


async def test_the_consumer_is_deleted(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        consumer = await stream.create_consumer("c")
        async with consumer.consume() as messages:
            while not (await consumer.refresh()).num_waiting:
                await trio.lowlevel.checkpoint()
            await consumer.delete()
            with pytest.raises(ConsumerDeletedError, match=r"consumer 'c': Consumer Deleted"):
                await messages.receive()


async def test_the_connection_is_drained(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as control, connected(nats_server) as (js, nc):
        stream = await filled(js, 10)
        consumer = await stream.create_consumer("c")
        async with consumer.consume(max_messages=10) as messages, trio.open_nursery() as nursery:
            await (await messages.receive()).ack()
            while messages.waiting < 9:
                await nc.flush()
            nursery.start_soon(nc.drain)
            # What has come can still be dealt with.
            async for msg in messages:
                await msg.ack()
        info = await (await control.jetstream().stream("S")).consumer("c")
        assert info.info is not None
        assert info.info.ack_floor.stream_seq == 10


async def test_the_connection_is_lost_for_good() -> None:
    async with NatsServer(jetstream=True) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(server.url, reconnect=ReconnectPolicy(max_attempts=0)) as nc:
                js = nc.jetstream()
                stream = await filled(js, 1)
                consumer = await stream.create_consumer("c")
                with pytest.raises(ConnectionLostError):
                    async with consumer.consume() as messages:
                        await messages.receive()
                        await server.stop()
                        await messages.receive()


@pytest.mark.slow
async def test_entering_and_leaving_cancelled_at_any_moment(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY)
        current: list[Consumer] = []
        before = all_tasks()

        async def make() -> Operation:
            for _ in range(3):
                await js.publish("s", b"x")
            current[:] = [await stream.create_consumer("c")]

            async def operation() -> None:
                async with current[0].consume(max_messages=2) as messages:
                    for _ in range(2):
                        await (await messages.receive()).ack()

            return operation

        async def check() -> None:
            assert nc.stats.subscriptions == 0
            assert all_tasks() == before
            await current[0].delete()
            await stream.purge()
            await nc.flush()

        async with no_leaks():
            assert await cancel_at_each_checkpoint(make, check) >= 5


async def test_a_cancelled_receive_loses_nothing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 60)
        consumer = await stream.create_consumer("c", ack_wait=60)
        came: list[bytes] = []
        async with consumer.consume(max_messages=3) as messages:

            async def make() -> Operation:
                async def operation() -> None:
                    came.append((await messages.receive()).data)

                return operation

            await cancel_at_each_checkpoint(make, trio.lowlevel.checkpoint)
            while len(came) < 60:
                came.append((await messages.receive()).data)
        assert came == [b"%d" % number for number in range(60)]


@pytest.mark.parametrize("kind", ["pull", "push", "ordered"])
async def test_draining_can_be_cancelled(nats_server: NatsServer, kind: str) -> None:
    """What has come is received, and then it ends, wherever the drain was cancelled."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 3)
        consumer: Consumer | OrderedConsumer
        if kind == "ordered":
            consumer = stream.ordered_consumer()
        else:
            subject = "here" if kind == "push" else ""
            consumer = await stream.create_consumer("c", deliver_subject=subject, ack_wait=60)
        channels: list[Messages] = []
        leave: list[Callable[[], Awaitable[None]]] = []

        async def make() -> Operation:
            stack = contextlib.AsyncExitStack()
            channels[:] = [await stack.enter_async_context(consumer.consume())]
            leave[:] = [stack.aclose]
            return channels[0].drain

        async def check() -> None:
            (messages,) = channels
            with trio.fail_after(HANG_TIMEOUT):
                async for msg in messages:
                    if kind != "ordered":
                        await msg.nak()
            await leave[0]()
            assert nc.stats.subscriptions == 0

        await cancel_at_each_checkpoint(make, check)


async def test_stopping_while_messages_pour_in(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 200)
        consumer = await stream.create_consumer("c", ack_wait=60)
        came = 0
        async with consumer.consume(max_messages=20) as messages:
            async for msg in messages:
                came += 1
                await msg.double_ack()
                if came == 5:
                    await messages.drain()
        info = await consumer.refresh()
        # All that was delivered was received.
        assert info.num_ack_pending == 0
        assert info.delivered.stream_seq == came
        assert 5 <= came <= 45


@pytest.mark.slow
async def test_each_job_of_a_work_queue_is_done_once(nats_server: NatsServer) -> None:
    """Three consumers' worth of workers; a fifth of what comes is refused at first."""
    jobs = 600
    async with connected(nats_server) as (js, nc):
        stream = await js.create_stream(
            "JOBS", subjects=["jobs.>"], storage=MEMORY, retention=RetentionPolicy.WORK_QUEUE
        )
        for number in range(jobs):
            await nc.publish(f"jobs.{number % 3}", str(number))
        done: Counter[bytes] = Counter()
        refused: Counter[bytes] = Counter()

        async def worker(messages: Messages, part: int) -> None:
            async for msg in messages:
                assert msg.subject == f"jobs.{part}"
                if int(msg.data) % 5 == 0 and msg.metadata.delivered == 1:
                    refused[msg.data] += 1
                    await msg.nak()
                    continue
                await msg.double_ack()
                done[msg.data] += 1
                if done.total() == jobs:
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for part in range(3):
                consumer = await stream.create_consumer(
                    f"part{part}", filter_subject=f"jobs.{part}", ack_wait=60
                )
                nursery.start_soon(consume, consumer, part, worker)
        assert done == Counter(b"%d" % number for number in range(jobs))
        assert len(refused) == refused.total() == jobs / 5
        assert (await stream.refresh()).state.messages == 0


async def consume(consumer: Consumer, part: int, worker: object) -> None:
    async with consumer.consume(max_messages=10) as messages, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(worker, messages, part)
