"""The position of an ordered consumer is its own: nothing on the server moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec
import pytest
import trio

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected, filled, pass_on, relayed
from tests.jetstream.scripted_server import QUICK
from trio_nats import ConfigurationError, Msg, open_nats
from trio_nats.jetstream import (
    ConsumerLimits,
    DeliverPolicy,
    JetStream,
    Messages,
    Stream,
    StreamNotFoundError,
)
from trio_nats.jetstream.consumer.ordered import OrderedMessages
from trio_nats.jetstream.consumer.ordered_state import is_another_stream, pause
from trio_nats.jetstream.events import RecreateFailed, StreamReplaced
from trio_nats.keyvalue import BucketNotFoundError
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def numbers(messages: Messages, count: int) -> list[int]:
    return [int((await messages.receive()).data) for _ in range(count)]


async def test_a_consumer_that_an_earlier_program_left_is_not_adopted(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 20)
        left = stream.ordered_consumer(name_prefix="reader")
        assert len(await left.fetch(10)) == 10
        assert left.name is not None
        ordered = stream.ordered_consumer(name_prefix="reader")
        async with ordered.consume() as messages:
            assert await numbers(messages, 20) == list(range(20))


async def test_two_with_one_prefix_do_not_disturb_each_other(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 40)
        one = stream.ordered_consumer(name_prefix="reader")
        two = stream.ordered_consumer(name_prefix="reader")
        async with one.consume(max_messages=4) as first, two.consume(max_messages=4) as second:
            for number in range(40):
                assert await numbers(first, 1) == [number]
                assert await numbers(second, 1) == [number]
            assert one.name != two.name


async def again(js: JetStream, count: int) -> Stream:
    await js.delete_stream("S")
    return await filled(js, count)


@pytest.mark.parametrize("count", [0, 3, 30])
async def test_a_stream_that_was_created_again_is_noticed(
    nats_server: NatsServer, count: int
) -> None:
    """Whether it has fewer messages than were read, or more."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 10)
        ordered = stream.ordered_consumer()
        async with ordered.consume(expires=1, heartbeat=0.1) as messages:
            assert await numbers(messages, 10) == list(range(10))
            stream = await again(js, count)
            for _ in range(2):
                with pytest.raises(StreamNotFoundError, match="was created again at"):
                    await messages.receive()
        with pytest.raises(StreamNotFoundError, match="was created again at"):
            await ordered.next()
        with pytest.raises(StreamNotFoundError, match="was created again at"):
            await ordered.fetch(5)
        assert [name async for name in stream.consumer_names()] == []
        # Another one starts again.
        assert len(await stream.ordered_consumer().fetch(30, no_wait=True)) == count


async def test_a_stream_that_was_created_again_while_disconnected_is_noticed() -> None:
    async with NatsServer(jetstream=True) as server, connected(server, reconnect=QUICK) as (js, _):
        stream = await filled(js, 10)  # in memory, so the server forgets it
        kv = await js.create_key_value("B", storage=MEMORY)
        for number in range(10):
            await kv.put("k", str(number))
        async with (
            stream.ordered_consumer().consume() as messages,
            kv.watch() as watcher,
        ):
            assert await numbers(messages, 10) == list(range(10))
            assert (await watcher.receive()).value == b"9"
            await server.stop()
            await server.start()
            async with open_nats(server.url) as other:
                await filled(other.jetstream(), 3)
                again = await other.jetstream().create_key_value("B", storage=MEMORY)
                await again.put("k", b"new")
            with pytest.raises(StreamNotFoundError):
                await messages.receive()
            with pytest.raises(BucketNotFoundError):
                await watcher.receive()


@pytest.mark.parametrize("count", [3, 30])
async def test_it_begins_again_with_a_stream_that_was_created_again(
    nats_server: NatsServer, count: int
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 10)
        ordered = stream.ordered_consumer(on_stream_replaced="restart")
        async with (
            ordered.consume(expires=1, heartbeat=0.1) as messages,
            messages.events() as events,
        ):
            assert await numbers(messages, 10) == list(range(10))
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def read() -> None:
                    assert await numbers(messages, count) == list(range(count))
                    assert ordered.next_seq == count + 1

                await js.delete_stream("S")
                # It waits for the stream.
                while not isinstance(event := await events.receive(), RecreateFailed):
                    pass
                assert isinstance(event.error, StreamNotFoundError)
                await filled(js, count)
            while not isinstance(replaced := await events.receive(), StreamReplaced):
                pass
            assert replaced.stream == "S"
            assert replaced.reason.startswith("was created again at")
        await again(js, 2)
        assert [msg.data for msg in await ordered.fetch(2)] == [b"0", b"1"]
        await again(js, 1)
        assert (await ordered.next()).data == b"0"


async def test_a_new_start_follows_the_deliver_policy(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        for policy, expected in (
            (DeliverPolicy.NEW, [0, 1, 2, 3, 4, 5]),
            (DeliverPolicy.LAST_PER_SUBJECT, [3, 4, 5]),
        ):
            stream = await filled(js, 10)
            ordered = stream.ordered_consumer(deliver_policy=policy, on_stream_replaced="restart")
            async with ordered.consume(expires=1, heartbeat=0.1) as messages:
                await js.publish("s.0", "10")
                while (await messages.receive()).data != b"10":
                    pass
                await again(js, 6)
                assert await numbers(messages, len(expected)) == expected
            await js.delete_stream("S")


@pytest.mark.parametrize("caught_up", [False, True])
async def test_a_watcher_begins_again_with_a_bucket_that_was_created_again(
    nats_server: NatsServer, caught_up: bool
) -> None:
    async with connected(nats_server) as (js, _):
        kv = await js.create_key_value("B", storage=MEMORY)
        for number in range(10):
            await kv.put(f"old.{number}", "0")
        async with kv.watch(on_bucket_replaced="restart") as watcher:
            for _ in range(10 if caught_up else 5):
                await watcher.receive()
            assert watcher.is_caught_up == caught_up
            await js.delete_key_value("B")
            kv = await js.create_key_value("B", storage=MEMORY)
            for key in ("new.1", "old.9", "new.2"):
                await kv.put(key, "1")
            new = []
            while len(new) < 3:
                entry = await watcher.receive()
                if entry.value == b"1":
                    new.append((entry.key, entry.revision))
            assert new == [("new.1", 1), ("old.9", 2), ("new.2", 3)]
            assert [entry async for entry in watcher.initial()] == []
            await kv.put("new.3", "1")
            assert (await watcher.receive()).revision == 4


async def test_what_to_do_with_another_stream_is_checked(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        with pytest.raises(ConfigurationError, match="on_stream_replaced must be"):
            stream.ordered_consumer(on_stream_replaced="ignore")  # type: ignore[arg-type]
        kv = await js.create_key_value("B", storage=MEMORY)
        with pytest.raises(ConfigurationError, match="on_bucket_replaced must be"):
            kv.watch(on_bucket_replaced="ignore")  # type: ignore[arg-type]


@pytest.mark.requires_server("2.11")
async def test_a_start_that_lies_ahead_is_no_other_stream(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 2)
        ordered = stream.ordered_consumer(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=4
        )
        async with ordered.consume(expires=1, heartbeat=0.1) as messages:
            assert ordered.name is not None
            await stream.delete_consumer(ordered.name)
            for number in range(2, 5):
                await js.publish("s.0", str(number))
            assert await numbers(messages, 2) == [3, 4]


@pytest.mark.parametrize("mode", ["raise", "restart"])
async def test_a_leader_that_is_behind_is_no_other_stream(
    nats_server: NatsServer, mode: Literal["raise", "restart"]
) -> None:
    """One that was frozen answers with what it has, until it hears of its successor."""
    stale: list[int] = []

    async def relay(subject: str, request: Msg) -> None:
        if subject == "STREAM.INFO.S" and stale:
            info = msgspec.json.decode((await nc.request("$JS.API.STREAM.INFO.S")).data)
            info["state"]["last_seq"] = stale.pop()
            info["cluster"] = {"leader": "a", "replicas": [{"name": "b", "current": True}]}
            await request.respond(msgspec.json.encode(info))
        else:
            await pass_on(nc, subject, request)

    async with connected(nats_server) as (real, nc):
        await filled(real, 5)
        async with relayed(nc, relay) as js:
            ordered = (await js.stream("S")).ordered_consumer(on_stream_replaced=mode)
            async with ordered.consume() as messages:
                assert isinstance(messages, OrderedMessages)
                assert await numbers(messages, 4) == [0, 1, 2, 3]
                stale += [3, 2]
                await messages.restart()
                assert await numbers(messages, 1) == [4]
                assert not stale


async def test_messages_from_before_a_reset_are_not_taken_for_new_ones(
    nats_server: NatsServer,
) -> None:
    """A push consumer delivers at once, so also before it is known to begin in the wrong place."""

    async def relay(subject: str, request: Msg) -> None:
        await pass_on(nc, subject, request)

    async with connected(nats_server) as (real, nc):
        await filled(real, 6)
        async with relayed(nc, relay) as js:
            stream = await js.stream("S")
            ordered = stream.ordered_consumer(on_stream_replaced="restart")
            assert len(await ordered.fetch(3)) == 3
            await again(real, 6)
            found = [int(msg.data) for msg in await ordered.fetch(6)]
            assert found == [0, 1, 2, 3, 4, 5]


async def test_a_purge_is_no_other_stream(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 10)
        ordered = stream.ordered_consumer()
        async with ordered.consume(expires=1, heartbeat=0.1) as messages:
            assert await numbers(messages, 5) == [0, 1, 2, 3, 4]
            await stream.purge()
            assert ordered.name is not None
            await stream.delete_consumer(ordered.name)
            await js.publish("s.0", "10")
            found = await numbers(messages, 1)
            while found[-1] != 10:  # those that had arrived before the purge
                found += await numbers(messages, 1)
            assert found == [*range(5, 5 + len(found) - 1), 10]


async def test_consumer_limits_of_the_stream_are_respected(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        limits = ConsumerLimits(inactive_threshold=20.0)
        stream = await filled(js, 3, consumer_limits=limits)
        ordered = stream.ordered_consumer()
        assert len(await ordered.fetch(3)) == 3
        assert ordered.info is not None
        assert ordered.info.config.inactive_threshold == 20.0
        assert HANG_TIMEOUT


def test_clocks_that_differ_are_not_another_stream() -> None:
    """Servers of a cluster stamp the stream and the consumer with clocks of their own."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    late = began + timedelta(milliseconds=20)
    assert not is_another_stream(late, None, None, began)
    assert is_another_stream(late + timedelta(seconds=20), None, None, began)
    assert not is_another_stream(late, None, late, began)
    assert is_another_stream(late, None, began - timedelta(seconds=1), began)
    assert not is_another_stream(late, late, None, began)
    assert is_another_stream(late, began, None, began)


async def test_cancelled_while_it_asks_for_the_interest_it_is_pushed_to_again(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server) as (real, nc):
        await filled(real, 1)
        asked = trio.Event()
        is_late = False  # whether the server sees the interest in the deliver subject late

        async def relay(subject: str, request: Msg) -> None:
            if is_late and subject.startswith("CONSUMER.CREATE."):
                target = ".".join(["$JS.API", *subject.split(".")[:4]])
                info = msgspec.json.decode((await nc.request(target, request.data)).data)
                info["push_bound"] = False
                await request.respond(msgspec.json.encode(info))
            elif is_late and subject.startswith("CONSUMER.INFO."):
                asked.set()
            else:
                await pass_on(nc, subject, request)

        async with relayed(nc, relay) as js:
            ordered = (await js.stream("S")).ordered_consumer()
            async with ordered.consume() as messages:
                assert await numbers(messages, 1) == [0]
                assert isinstance(messages, OrderedMessages)
                await messages.restart()
                is_late = True
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(messages.receive)
                    await asked.wait()
                    nursery.cancel_scope.cancel()
                is_late = False
                await real.publish("s.1", "1")
                assert await numbers(messages, 1) == [1]
                assert ordered.info is not None
                assert ordered.info.config.deliver_subject


def test_delays_stay_finite() -> None:
    assert [pause(waits) for waits in (0, 1, 5, 2000)] == [0.25, 0.5, 8.0, 8.0]
