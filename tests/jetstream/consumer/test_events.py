"""Events of consumers: what ``consume`` handles by itself is emitted to listeners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.jetstream.helpers import MEMORY, connected, filled
from tests.jetstream.scripted_server import Puller, pulled_from
from trio_nats import ConfigurationError, EventChannel, open_nats
from trio_nats.jetstream import AckPolicy, ConsumerConfig, JetStream, Messages, PriorityPolicy
from trio_nats.jetstream.events import (
    ConsumerEvent,
    ConsumerRecreated,
    FlowControlStalled,
    HeartbeatsMissed,
    LeaderChanged,
    PullRefused,
    RecreateFailed,
    Unpinned,
)
from trio_nats.testing import NatsServer


@asynccontextmanager
async def received(messages: Messages) -> AsyncIterator[None]:
    """A task receives, so that statuses are taken out."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(messages.receive)
        yield
        nursery.cancel_scope.cancel()


async def rest(events: EventChannel[ConsumerEvent]) -> list[ConsumerEvent]:
    return [event async for event in events]


# --- pull consumers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("409 Exceeded MaxWaiting", PullRefused("S", "C", 409, "Exceeded MaxWaiting", 0.25)),
        ("503 ", PullRefused("S", "C", 503, "", 0.25)),
        ("409 Leadership Change", LeaderChanged("S", "C", "Leadership Change")),
        ("409 Server Shutdown", LeaderChanged("S", "C", "Server Shutdown")),
        ("777 \x1b[31mred\u202e", PullRefused("S", "C", 777, r"\x1b[31mred\u202e", 0.25)),
    ],
)
async def test_statuses_are_emitted(line: str, event: ConsumerEvent) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume() as messages,
        messages.events() as events,
        messages.events() as others,
        received(messages),
    ):
        await puller.say(await puller.pull(), line)
        assert await events.receive() == await others.receive() == event


async def test_ends_of_pulls_are_no_events() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=1) as messages,
        messages.events() as events,
        received(messages),
    ):
        pull = await puller.pull()
        await puller.say(pull, "100 Idle Heartbeat")
        for line in ("408 Request Timeout", "404 No Messages", "409 Batch Completed"):
            await puller.say(pull, line)
            pull = await puller.pull()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_unpinned_is_emitted() -> None:
    puller = Puller()
    config = ConsumerConfig(
        name="C", priority_policy=PriorityPolicy.PINNED_CLIENT, priority_groups=["g"]
    )
    async with (
        pulled_from(puller, config) as (consumer, _),
        consumer.consume(group="g") as messages,
        messages.events() as events,
        received(messages),
    ):
        await puller.say(await puller.pull(), "423 Nats-Pin-Id mismatch")
        assert await events.receive() == Unpinned("S", "C", "g")


async def test_missed_heartbeats_are_emitted() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(expires=1, heartbeat=0.01) as messages,
        messages.events() as events,
    ):
        event = await events.receive()
        assert isinstance(event, HeartbeatsMissed)
        assert (event.stream, event.consumer) == ("S", "C")
        assert event.seconds >= 0.02


# --- push consumers ------------------------------------------------------------------------------


async def test_a_stalled_push_consumer_is_emitted_once() -> None:
    puller = Puller()
    config = ConsumerConfig(deliver_subject="_INBOX.here", flow_control=True, idle_heartbeat=5.0)
    async with (
        pulled_from(puller, config) as (consumer, nc),
        consumer.consume() as messages,
        messages.events() as events,
        received(messages),
    ):
        await nc.flush()
        sid = next(iter(puller.subscriptions))
        (peer,) = puller.peers
        block = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: $JS.FC.S.C.1\r\n\r\n"
        head = b"HMSG _INBOX.here %b %d %d\r\n" % (sid, len(block), len(block))
        await peer.send(head + block + b"\r\n")
        await puller.until(1)  # the reply
        await peer.send((head + block + b"\r\n") * 3)
        assert await events.receive() == FlowControlStalled("S", "C")
        while messages.waiting:
            await nc.flush()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_a_silent_push_consumer_is_emitted() -> None:
    puller = Puller()
    config = ConsumerConfig(deliver_subject="_INBOX.here", idle_heartbeat=0.05)
    async with (
        pulled_from(puller, config) as (consumer, _),
        consumer.consume() as messages,
        messages.events() as events,
    ):
        assert await events.receive() == HeartbeatsMissed("S", "C", pytest.approx(0.15))


# --- ordered consumers ---------------------------------------------------------------------------


@pytest.mark.nats_server(jetstream=True)
async def test_a_recreated_ordered_consumer_is_emitted(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 3)
        ordered = stream.ordered_consumer(name_prefix="o")
        async with ordered.consume() as messages, messages.events() as events:
            assert (await messages.receive()).data == b"0"
            first = ordered.name
            assert first is not None
            await stream.delete_consumer(first)
            await js.publish("s.1", "3")
            assert [(await messages.receive()).data for _ in range(3)] == [b"1", b"2", b"3"]
            event = await events.receive()
            assert isinstance(event, ConsumerRecreated)
            assert event.stream == "S"
            assert event.consumer == ordered.name != first
            assert event.reason == "the consumer does not exist any more"
            assert event.next_seq is not None
            assert event.next_seq <= 4


@pytest.mark.nats_server(jetstream=True)
async def test_failures_to_recreate_are_emitted(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await filled(js, 1)
        impatient = nc.jetstream(timeout=0.2)
        ordered = (await impatient.stream("S")).ordered_consumer()
        async with (
            ordered.consume(expires=1, heartbeat=0.05) as messages,
            messages.events() as events,
        ):
            assert (await messages.receive()).data == b"0"
            nats_server.pause()
            async with received(messages):
                missed, failed = await events.receive(), await events.receive()
                assert isinstance(missed, HeartbeatsMissed)
                assert isinstance(failed, RecreateFailed)
                assert failed.retry_in == 0.25
                nats_server.resume()
                while not isinstance(event := await events.receive(), ConsumerRecreated):
                    assert isinstance(event, RecreateFailed)
                assert event.reason == "no heartbeat"
                assert event.next_seq == 2


@pytest.mark.nats_server(jetstream=True)
async def test_watchers_have_the_events_of_their_consumer(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await js.create_key_value("B", storage=MEMORY)
        store = await js.create_object_store("O", storage=MEMORY)
        await kv.put("k", b"v")
        await store.put("o", b"x")
        with pytest.raises(RuntimeError, match="not been entered"):
            store.watch().events()
        for watcher, name in ((kv.watch(), "KV_B"), (store.watch(), "OBJ_O")):
            stream = await js.stream(name)
            async with watcher, watcher.events() as events, trio.open_nursery() as nursery:
                await watcher.receive()
                (consumer,) = [one async for one in stream.consumer_names()]
                nursery.start_soon(watcher.receive)
                await stream.delete_consumer(consumer)
                event = await events.receive()
                assert isinstance(event, ConsumerRecreated)
                assert event.stream == name
                nursery.cancel_scope.cancel()


# --- the channel of events -----------------------------------------------------------------------


ENDS = ("stop_after", "drain", "connection", "aclose", "leave")


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        *(("pull", end) for end in ENDS),
        *(("ordered", end) for end in ENDS),
        *(("push", end) for end in ENDS[1:]),
    ],
)
@pytest.mark.nats_server(jetstream=True)
async def test_events_end_with_the_messages(nats_server: NatsServer, kind: str, end: str) -> None:
    """So a listening task does not keep a nursery within the block open."""
    async with connected(nats_server) as (js, _), open_nats(nats_server.url) as nc:
        await filled(js, 3)
        messages = await consumed(nc.jetstream(), kind, 3 if end == "stop_after" else None)
        outlives = messages.events()
        async with messages, trio.open_nursery() as nursery:
            if end != "leave":
                nursery.start_soon(rest, messages.events())
            for _ in range(3):
                await messages.receive()
            match end:
                case "drain":
                    await messages.drain()
                case "connection":
                    nursery.start_soon(nc.drain)
                case "aclose":
                    await messages.aclose()
            if end in ("stop_after", "drain", "connection"):
                assert [msg async for msg in messages] == []
        assert await rest(outlives) == []
        assert await rest(messages.events()) == []


async def consumed(js: JetStream, kind: str, stop_after: int | None) -> Messages:
    stream = await js.stream("S")
    match kind:
        case "ordered":
            return stream.ordered_consumer().consume(stop_after=stop_after)
        case "pull":
            return (await stream.create_consumer("c")).consume(stop_after=stop_after)
        case _:
            consumer = await stream.create_consumer(
                "c", deliver_subject="here", ack_policy=AckPolicy.NONE
            )
            return consumer.consume()


async def test_a_slow_listener_loses_the_oldest_and_counts_them() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=1) as messages,
        messages.events(buffer=2) as events,
        received(messages),
    ):
        for number in range(5):
            await puller.say(await puller.pull(), f"409 Leadership Change {number}")
        await puller.pull()
        assert events.dropped == 3
        assert [events.receive_nowait() for _ in range(2)] == [
            LeaderChanged("S", "C", f"Leadership Change {number}") for number in (3, 4)
        ]


async def test_invalid_arguments() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        with pytest.raises(ConfigurationError, match="buffer"):
            messages.events(buffer=0)
        with pytest.raises(TypeError, match=r"use 'async with messages.events\(\) as events"):
            await messages.events()  # type: ignore[misc]
