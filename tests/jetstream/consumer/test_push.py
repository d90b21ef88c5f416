"""Consumers that deliver by themselves."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import MEMORY, connected, filled
from tests.jetstream.scripted_server import QUICK, Puller, pulled_from
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import source_of
from tests.support.leaks import all_tasks
from trio_nats import ConfigurationError
from trio_nats.jetstream import AckPolicy, ConsumerConfig, ConsumerDeletedError, Messages
from trio_nats.jetstream.consumer.push import PushSubscription
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_stored_and_new_messages_are_received(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 5)
        consumer = await stream.create_consumer("c", deliver_subject="here")
        async with consumer.consume() as messages:
            for number in range(8):
                if number >= 5:
                    await js.publish("s.1", str(number))
                msg = await messages.receive()
                assert msg.data == b"%d" % number
                await msg.double_ack()
            assert (await consumer.refresh()).ack_floor.stream_seq == 8
            await messages.drain()
            assert [msg async for msg in messages] == []
        await nc.flush()
        assert nc.stats.subscriptions == 0


@pytest.mark.slow
async def test_flow_control(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY)
        async with js.publisher() as publisher:
            for _ in range(1500):
                await publisher.publish("s", b"x" * 4000)
        consumer = await stream.create_consumer(
            "c",
            deliver_subject="here",
            flow_control=True,
            idle_heartbeat=0.5,
            ack_policy=AckPolicy.NONE,
        )
        async with consumer.consume() as messages:
            # The server waits until it hears that this much was dealt with.
            first = await messages.receive()
            await nc.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert messages.waiting < 1499
            came = [first.metadata.stream_seq]
            while len(came) < 1500:
                came.append((await messages.receive()).metadata.stream_seq)
        assert came == list(range(1, 1501))


@pytest.mark.slow
async def test_a_priority_group_shares_the_work(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        consumer = await stream.create_consumer("c", deliver_subject="here", deliver_group="g")
        came: list[bytes] = []

        async def worker(messages: Messages) -> None:
            async for msg in messages:
                came.append(msg.data)
                await msg.ack()
                if len(came) == 30:
                    nursery.cancel_scope.cancel()

        async with (
            consumer.consume() as one,
            consumer.consume() as two,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(worker, one)
            nursery.start_soon(worker, two)
            for number in range(30):
                await js.publish("s.1", str(number))
            await trio.sleep_forever()
        assert sorted(came, key=int) == [b"%d" % number for number in range(30)]


async def test_the_consumer_is_deleted(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 1)
        consumer = await stream.create_consumer("c", deliver_subject="here", idle_heartbeat=0.1)
        async with consumer.consume() as messages:
            await (await messages.receive()).ack()
            await consumer.delete()
            with pytest.raises(ConsumerDeletedError, match=r"consumer .* not found"):
                await messages.receive()
    assert "no heartbeat for" in caplog.text


async def test_receiving_continues_after_a_restart() -> None:
    async with (
        NatsServer(jetstream=True) as server,
        connected(server, reconnect=QUICK) as (js, nc),
    ):
        stream = await js.create_stream("S", subjects=["s"])
        consumer = await stream.create_consumer(
            durable_name="c", deliver_subject="here", idle_heartbeat=0.5
        )
        async with consumer.consume() as messages:
            await server.restart()
            await nc.flush()
            await js.publish("s", b"after")
            msg = await messages.receive()
            assert msg.data == b"after"
            await msg.double_ack()


async def test_a_stalled_consumer_is_reported_once() -> None:
    """It says so in heartbeats, until it has heard."""
    puller = Puller()
    config = ConsumerConfig(deliver_subject="_INBOX.here", flow_control=True, idle_heartbeat=5.0)
    async with (
        pulled_from(puller, config) as (consumer, nc),
        consumer.consume() as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(messages.receive)
        await nc.flush()
        sid = next(iter(puller.subscriptions))
        (peer,) = puller.peers

        async def say(line: str, reply: bytes = b"", stalled: str = "") -> None:
            raw = f"NATS/1.0 100 {line}\r\n"
            if stalled:
                raw += f"Nats-Consumer-Stalled: {stalled}\r\n"
            block = (raw + "\r\n").encode()
            size = len(block)
            head = b"HMSG _INBOX.here %b %b%d %d\r\n" % (sid, reply, size, size)
            await peer.send(head + block + b"\r\n")

        await say("FlowControl Request", b"$JS.FC.S.C.0 ")
        await say("Idle Heartbeat", stalled="$JS.FC.S.C.1")
        await say("Idle Heartbeat", stalled="$JS.FC.S.C.1")
        await say("Idle Heartbeat")
        await say("FlowControl Request", b"$JS.FC._.hash.S.C.2 ")
        answers = await puller.until(3)
        assert answers == [
            ("$JS.FC.S.C.0", b""),
            ("$JS.FC.S.C.1", b""),
            ("$JS.FC._.hash.S.C.2", b""),
        ]
        nursery.cancel_scope.cancel()


async def test_heartbeats_from_before_the_reply_do_not_count_as_stalled() -> None:
    """A slow receiver takes them out after it has replied."""
    puller = Puller()
    config = ConsumerConfig(deliver_subject="_INBOX.here", flow_control=True, idle_heartbeat=5.0)
    async with (
        pulled_from(puller, config) as (consumer, nc),
        consumer.consume() as messages,
        trio.open_nursery() as nursery,
    ):
        source = source_of(messages)
        assert isinstance(source, PushSubscription)
        await nc.flush()
        sid = next(iter(puller.subscriptions))
        (peer,) = puller.peers

        async def repeat(count: int) -> None:
            block = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: $JS.FC.S.C.1\r\n\r\n"
            head = b"HMSG _INBOX.here %b %d %d\r\n" % (sid, len(block), len(block))
            await peer.send((head + block + b"\r\n") * count)

        await repeat(3)
        while messages.waiting < 3:
            await nc.flush()
        nursery.start_soon(messages.receive)
        while messages.waiting:
            await nc.flush()
        assert await puller.until(1) == [("$JS.FC.S.C.1", b"")]
        assert not source.is_stalled
        await repeat(1)
        while not source.is_stalled:
            await nc.flush()
        nursery.cancel_scope.cancel()


async def test_cancelled_it_leaves_nothing_behind(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        consumer = await stream.create_consumer(
            "c", deliver_subject="here", idle_heartbeat=0.2, ack_wait=60
        )
        before = all_tasks()

        async def make() -> Operation:
            await js.publish("s.1", b"x")

            async def operation() -> None:
                async with consumer.consume() as messages:
                    await (await messages.receive()).ack()

            return operation

        async def check() -> None:
            assert all_tasks() == before
            assert nc.stats.subscriptions == 0

        await cancel_at_each_checkpoint(make, check)


async def test_a_push_consumer_cannot_be_pulled_from(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 1)
        consumer = await stream.create_consumer("c", deliver_subject="here")
        with pytest.raises(ConfigurationError, match="takes no max_messages, stop_after; leave"):
            consumer.consume(max_messages=5, stop_after=7)
        for call in (consumer.next(), consumer.fetch(1)):
            with pytest.raises(ConfigurationError, match="need a pull consumer"):
                await call
