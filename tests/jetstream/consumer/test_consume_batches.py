"""Receiving the messages of a consumer in batches."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.jetstream.helpers import connected, filled
from tests.jetstream.scripted_server import Puller, pulled_from
from tests.support.internals import chunks_of, kept_by, outbox_of
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConfigurationError, Connection
from trio_nats.jetstream import AckPolicy, Consumer, JetStreamMsg, Messages, Stream
from trio_nats.testing import NatsServer

needs_server = pytest.mark.nats_server(jetstream=True)


def numbers(batch: list[JetStreamMsg]) -> list[int]:
    return [int(msg.data) for msg in batch]


def sequences(batch: list[JetStreamMsg]) -> list[int]:
    return [msg.metadata.stream_seq for msg in batch]


async def until_waiting(nc: Connection, messages: Messages, count: int) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        while messages.waiting < count:
            await nc.flush()


async def push_consumer(stream: Stream, **options: Any) -> Consumer:
    return await stream.create_consumer("c", deliver_subject="here", **options)


@needs_server
@pytest.mark.parametrize(
    "options",
    [{}, {"max_messages": 7}, {"max_bytes": 2000}, {"prefetch": False}, {"stop_after": 100}],
)
async def test_all_messages_come_once_and_in_order(
    nats_server: NatsServer, options: dict[str, Any]
) -> None:
    async with connected(nats_server) as (js, _):
        consumer = await (await filled(js, 100)).create_consumer("c")
        came: list[int] = []
        async with consumer.consume(**options) as messages:
            async for batch in messages.iter_batches():
                assert batch
                came += numbers(batch)
                for msg in batch:
                    await msg.ack()
                if len(came) == 100 and "stop_after" not in options:
                    break
        assert came == list(range(100))
        info = await consumer.refresh()
        while info.num_ack_pending:
            info = await consumer.refresh()
        assert info.delivered.consumer_seq == 100


@needs_server
@pytest.mark.parametrize("flow_control", [False, True])
async def test_batches_of_a_push_consumer(nats_server: NatsServer, flow_control: bool) -> None:
    async with connected(nats_server) as (js, nc):
        consumer = await push_consumer(
            await filled(js, 3000),
            ack_policy=AckPolicy.NONE,
            flow_control=flow_control,
            idle_heartbeat=5 if flow_control else 0,
        )
        came: list[int] = []
        async with consumer.consume() as messages:
            await until_waiting(nc, messages, 10)
            while len(came) < 3000:
                came += numbers(await messages.receive_batch(1000))
        assert came == list(range(3000))


@needs_server
async def test_batches_of_an_ordered_consumer(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        ordered = (await filled(js, 100)).ordered_consumer()
        async with ordered.consume() as messages:
            await until_waiting(nc, messages, 100)
            assert numbers(await messages.receive_batch(30)) == list(range(30))
            assert (await messages.receive()).data == b"30"
        assert ordered.next_seq == 32  # what was not received comes again
        async with ordered.consume(stop_after=60) as messages:
            came = [one async for batch in messages.iter_batches() for one in numbers(batch)]
        assert came == list(range(31, 91))
        async with ordered.consume() as messages:
            assert numbers(await messages.receive_batch())[0] == 91


@needs_server
async def test_what_is_left_goes_back(nats_server: NatsServer) -> None:
    """Only the messages of the batches that were received count as such."""
    async with connected(nats_server) as (js, nc):
        consumer = await (await filled(js, 50)).create_consumer("c", ack_wait=600)
        async with consumer.consume() as messages:
            await until_waiting(nc, messages, 50)
            batch = await messages.receive_batch(10)
            for msg in batch:
                await msg.ack()
        rest = await consumer.fetch(40)
        assert sorted(numbers(rest)) == list(range(10, 50))


@needs_server
@pytest.mark.parametrize("stop_after", [None, 20, 40])
async def test_messages_that_were_kept_come_first(
    nats_server: NatsServer, stop_after: int | None
) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 50)
        consumer = await stream.create_consumer("c", ack_policy=AckPolicy.NONE)
        async with consumer.consume(max_messages=30) as messages:
            await until_waiting(nc, messages, 30)
        assert kept_by(consumer) == 30
        came: list[int] = []
        async with consumer.consume(max_messages=30, stop_after=stop_after) as messages:
            async for batch in messages.iter_batches(7):
                assert len(batch) <= 7
                came += numbers(batch)
                if len(came) == 50:
                    break
        assert came == list(range(stop_after or 50))


async def test_a_batch_ends_before_what_is_no_message() -> None:
    """A status is handled when it has its turn, as without batches."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume(max_messages=9) as messages:
        pull = await puller.pull()
        await puller.deliver(pull, 2)
        await puller.say(pull, "408 Request Timeout", pending_messages=7, pending_bytes=0)
        await puller.deliver(pull, 1)
        await until_waiting(nc, messages, 4)
        assert sequences(await messages.receive_batch()) == [1, 2]
        await nc.flush()
        assert puller.no_pull()
        assert sequences(await messages.receive_batch()) == [3]
        assert (await puller.pull()).batch == 9


async def test_batches_request_more_below_the_threshold() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume(max_messages=8) as messages:
        pull = await puller.pull()
        await puller.deliver(pull, 8)
        await until_waiting(nc, messages, 8)
        assert sequences(await messages.receive_batch(4)) == [1, 2, 3, 4]
        await nc.flush()
        assert puller.no_pull()  # four are left: not below the threshold
        assert sequences(await messages.receive_batch()) == [5, 6, 7, 8]
        assert (await puller.pull()).batch == 5  # due once the first of them was taken


@needs_server
async def test_acknowledgements_of_a_batch_are_written_together(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        consumer = await (await filled(js, 400)).create_consumer("c")
        async with consumer.consume() as messages:
            await until_waiting(nc, messages, 400)
            batch = await messages.receive_batch()
            await nc.flush()
            for msg in batch:
                await msg.ack()
            assert len(batch) == 400
            # One chunk is written by one call. An acknowledgement has three pieces.
            assert [len(chunk) for chunk in chunks_of(outbox_of(nc)) if chunk] == [1200]


@needs_server
async def test_a_cancelled_batch_loses_nothing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        consumer = await (await filled(js, 20)).create_consumer("c")
        async with consumer.consume() as messages:
            await until_waiting(nc, messages, 20)
            with trio.CancelScope() as scope:
                scope.cancel()
                await messages.receive_batch()
            assert scope.cancelled_caught
            assert numbers(await messages.receive_batch()) == list(range(20))


@needs_server
async def test_tasks_that_only_receive_batches_let_others_run(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        consumer = await (await filled(js, 400)).create_consumer("c")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with consumer.consume() as messages, trio.open_nursery() as nursery:
            await until_waiting(nc, messages, 400)
            nursery.start_soon(count)
            before = turns
            for _ in range(4):
                await messages.receive_batch(100)
            assert turns - before >= 3
            nursery.cancel_scope.cancel()


@needs_server
@pytest.mark.parametrize("most", [0, -1])
async def test_invalid_sizes(nats_server: NatsServer, most: int) -> None:
    async with connected(nats_server) as (js, _):
        consumer = await (await filled(js, 1)).create_consumer("c")
        messages = consumer.consume()
        with pytest.raises(RuntimeError, match="has not been entered"):
            await messages.receive_batch()
        async with messages:
            with pytest.raises(ConfigurationError, match="max_messages"):
                await messages.receive_batch(most)
            with pytest.raises(ConfigurationError, match="max_messages"):
                messages.iter_batches(most)
