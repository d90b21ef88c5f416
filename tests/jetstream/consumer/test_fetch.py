"""One message, or a number of them: next and fetch."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import MEMORY, connected, filled
from tests.jetstream.scripted_server import Puller, pulled_from
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from trio_nats import ConfigurationError, RequestTimeoutError
from trio_nats.jetstream import (
    AckPolicy,
    ConsumerConfig,
    ConsumerDeletedError,
    JetStreamMsg,
    PullError,
)
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_one_after_the_other_over_one_subscription(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js)
        consumer = await stream.create_consumer("c")
        other = await stream.create_consumer("d")
        assert [(await consumer.next()).data for _ in range(3)] == [b"0", b"1", b"2"]
        assert [(await other.next()).data for _ in range(3)] == [b"0", b"1", b"2"]
        assert [msg.data for msg in await consumer.fetch(2)] == [b"3", b"4"]
        again = await (await nc.jetstream().stream(stream.name)).consumer("d")
        assert [msg.data for msg in await again.fetch(2)] == [b"3", b"4"]
        assert nc.stats.subscriptions == 1


async def test_many_at_the_same_time(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 40)
        consumer = await stream.create_consumer("c")
        came: list[bytes] = []

        async def worker() -> None:
            for _ in range(2):
                came.append((await consumer.next()).data)  # noqa: PERF401 -- as they come

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(worker)
        assert sorted(came, key=int) == [b"%d" % number for number in range(40)]
        assert nc.stats.subscriptions <= 16


async def test_fetching_available_and_missing_messages(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("c")
        assert len(await consumer.fetch(no_wait=True)) == 6
        assert await consumer.fetch(5, no_wait=True) == []
        assert await consumer.fetch(5, timeout=0.02) == []
        with pytest.raises(TimeoutError, match=r"consumer 'c' had no message within 0\.02 s$"):
            await consumer.next(timeout=0.02)
        await js.publish("s.1", b"late")
        assert [msg.data for msg in await consumer.fetch(2, timeout=0.1)] == [b"late"]


async def test_bytes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY)
        consumer = await stream.create_consumer("c")
        for _ in range(5):
            await js.publish("s", b"x" * 400)
        assert len(await consumer.fetch(max_bytes=1000)) == 2
        assert len(await consumer.fetch(1, max_bytes=1000)) == 1
        with pytest.raises(PullError, match="larger than max_bytes of 100 bytes"):
            await consumer.fetch(max_bytes=100)
        assert len(await consumer.fetch(max_bytes=10_000, timeout=0.1)) == 2


async def test_a_deleted_consumer(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        consumer = await stream.create_consumer("c")

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(ConsumerDeletedError):
                    await consumer.next()

            while not (await consumer.refresh()).num_waiting:
                await trio.lowlevel.checkpoint()
            await consumer.delete()
        with pytest.raises(PullError, match="nobody answers") as caught:
            await consumer.next()
        assert caught.value.code == 503


async def test_a_restart_while_it_waits(tmp_path: object) -> None:
    async with NatsServer(jetstream=True) as server, connected(server) as (js, nc):
        stream = await js.create_stream("S", subjects=["s"])
        consumer = await stream.create_consumer("c", durable_name="c")
        came: list[JetStreamMsg] = []

        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                came.append(await consumer.next(timeout=9))

            while not (await consumer.refresh()).num_waiting:
                await trio.lowlevel.checkpoint()
            await server.restart()
            await nc.flush()
            await js.publish("s", b"after")
        assert [msg.data for msg in came] == [b"after"]
        await came[0].double_ack()


async def test_lost_pulls_are_sent_again() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            assert len(await consumer.fetch(3, timeout=9)) == 3

        pull = await puller.pull()
        await puller.deliver(pull)
        await puller.say(pull, "409 Leadership Change")
        again = await puller.pull()
        assert again.batch == 2
        assert again.request["expires"] < pull.request["expires"]
        # Its end is not that of the present one.
        await puller.say(pull, "408 Request Timeout", pending_messages=2, pending_bytes=0)
        await puller.deliver(again, 2)


@pytest.mark.slow
async def test_pulls_are_repeated_until_the_timeout() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            await consumer.next(timeout=9)

        await puller.say(await puller.pull(), "409 Server Shutdown")
        await puller.say(await puller.pull(), "503")
        await puller.deliver(await puller.pull())

    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait_in_vain() -> None:
            with pytest.raises(PullError, match="nobody answers"):
                await consumer.next(timeout=0.3)

        await puller.say(await puller.pull(), "409 Server Shutdown")
        await puller.say(await puller.pull(), "503")


async def test_silence_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            await consumer.next(timeout=9, heartbeat=0.05)

        pull = await puller.pull()
        assert pull.request["idle_heartbeat"] == 50_000_000
        await puller.say(pull, "100 Idle Heartbeat")
        await puller.deliver(await puller.pull())
    assert "no heartbeat for" in caplog.text


async def test_heartbeats_by_default() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:
        for timeout in (5.0, 10.0):

            @nursery.start_soon
            async def wait(timeout: float = timeout) -> None:
                await consumer.next(timeout=timeout)

            pull = await puller.pull()
            assert ("idle_heartbeat" in pull.request) == (timeout >= 10)
            await puller.deliver(pull)


async def test_messages_before_an_error_are_not_lost_to_it() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            assert len(await consumer.fetch(3)) == 1

        pull = await puller.pull()
        await puller.deliver(pull)
        await puller.say(pull, "409 Exceeded MaxAckPending")


async def test_an_inbox_is_used_again_only_if_nothing_can_come_to_it() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), trio.open_nursery() as nursery:

        async def once(count: int) -> None:
            await consumer.fetch(count, timeout=9)

        nursery.start_soon(once, 1)
        first = await puller.pull()
        await puller.deliver(first)
        await nc.flush()
        nursery.start_soon(once, 2)
        second = await puller.pull()
        assert second.reply.rpartition(".")[0] == first.reply.rpartition(".")[0]
        assert second.reply != first.reply
        await puller.deliver(second)
        await puller.say(second, "408 Request Timeout", pending_messages=1, pending_bytes=0)
        await nc.flush()
        # More than was asked for: whose is that?
        await puller.deliver(second)
        await nc.flush()
        nursery.start_soon(once, 1)
        third = await puller.pull()
        assert third.reply.rpartition(".")[0] != first.reply.rpartition(".")[0]
        await puller.deliver(third)


async def test_a_cancelled_fetch_returns_received_messages() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consumer.fetch, 3)
                pull = await puller.pull()
                await puller.deliver(pull, 2)
                await nc.flush()
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await nc.flush()
        assert [data for _, data in puller.answers] == [b"-NAK", b"-NAK"]
        assert not puller.is_subscribed(pull)


async def test_cancelled_whenever_it_may_be(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY, retention="workqueue")
        consumers = [await stream.create_consumer("c")]

        async def make() -> Operation:
            for _ in range(3):
                await js.publish("s", b"x")

            async def operation() -> None:
                for msg in await consumers[0].fetch(3):
                    await msg.ack()

            return operation

        async def check() -> None:
            # What was on its way would come only after ack_wait, so by another consumer.
            await consumers[0].delete()
            consumers[0] = await stream.create_consumer("c")
            while (await consumers[0].refresh()).num_pending:
                for msg in await consumers[0].fetch(3):
                    await msg.double_ack()
            assert (await stream.refresh()).state.messages == 0
            assert nc.stats.subscriptions <= 1

        await cancel_at_each_checkpoint(make, check)


async def test_a_cancelled_fetch_without_acks_keeps_messages_for_the_next_call() -> None:
    puller = Puller()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    async with pulled_from(puller, config) as (consumer, nc):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consumer.fetch, 3)
                pull = await puller.pull()
                await puller.deliver(pull, 2)
                await nc.flush()
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await nc.flush()
        assert not puller.is_subscribed(pull)
        assert (await consumer.next()).metadata.stream_seq == 1
        assert [msg.metadata.stream_seq for msg in await consumer.fetch(1)] == [2]
        assert puller.no_pull()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_messages": 0}, "max_messages must be at least 1"),
        ({"max_bytes": 0}, "max_bytes must be at least 1"),
        ({"timeout": 0}, "timeout must be more than zero"),
        ({"timeout": 5, "heartbeat": 3}, "at most half of the 5 s"),
        ({"no_wait": 1}, "no_wait must be True or False"),
    ],
)
async def test_invalid_fetch_options(options: dict[str, object], match: str) -> None:
    async with pulled_from(Puller()) as (consumer, _):
        kind = TypeError if "no_wait" in options else ConfigurationError
        with pytest.raises(kind, match=match):
            await consumer.fetch(**options)


@pytest.mark.slow
async def test_without_an_answer_it_ends_in_time() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(RequestTimeoutError, match="the server sent nothing"):
                await consumer.next(timeout=0.05)

        await puller.pull()


async def test_a_timeout_is_kept_if_the_server_is_silent(
    mock_clock: trio.testing.MockClock,
) -> None:
    """It waits for a sign of the server, and for messages on their way, for a second in all."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:
        ended = trio.Event()

        @nursery.start_soon
        async def receive() -> None:
            with pytest.raises(RequestTimeoutError):
                await consumer.next(timeout=0.2)
            ended.set()

        await puller.pull()
        puller.silent = True
        try:
            for seconds in (0.2, 0.5, 0.5):
                assert not ended.is_set()
                mock_clock.jump(seconds)
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert ended.is_set()
        finally:
            mock_clock.rate = 1  # to close the connection
