"""Leaving a channel of messages: what was not received goes back, and nothing is lost by it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import trio

from tests.jetstream.helpers import connected, filled
from tests.jetstream.scripted_server import Pulled, Puller, pulled_from
from tests.support.internals import kept_by
from tests.support.peer import Peer
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import PendingLimits, ReconnectPolicy
from trio_nats.events import ConnectionState
from trio_nats.jetstream import (
    AckPolicy,
    Consumer,
    ConsumerConfig,
    ConsumerInfo,
    Messages,
    PriorityPolicy,
    PullError,
    Stream,
)
from trio_nats.jetstream.consumer import inboxes
from trio_nats.jetstream.consumer.pull import REFUSED_REQUEST
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def info_of(consumer: Consumer) -> ConsumerInfo:
    return await consumer.refresh()


async def all_of(stream: Stream, count: int) -> Counter[int]:
    """How often each message of the stream was delivered, until ``count`` of them have come."""
    consumer = await stream.consumer("c")
    came: Counter[int] = Counter()
    while len(came) < count:
        for msg in await consumer.fetch(count):
            came[msg.metadata.stream_seq] = msg.metadata.delivered
            await msg.ack()
    return came


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pull", "push"])
async def test_messages_go_back_once(nats_server: NatsServer, kind: str) -> None:
    """They are returned after the interest has ended, so none is delivered to the old inbox."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 400)
        subject = "here" if kind == "push" else ""
        consumer = await stream.create_consumer("c", deliver_subject=subject, ack_wait=600)
        async with consumer.consume() as messages:
            await (await messages.receive()).ack()
            while messages.waiting < 399:
                await nc.flush()
        info = await consumer.refresh()
        # Each was delivered once. A push consumer delivers again when somebody subscribes.
        assert info.delivered.consumer_seq == 400
        if kind == "pull":
            came = await all_of(stream, 399)
            assert set(came.values()) == {2}
        else:
            async with consumer.consume() as messages:
                for _ in range(399):
                    msg = await messages.receive()
                    assert msg.metadata.delivered == 2
                    await msg.ack()


@pytest.mark.slow
async def test_a_cancelled_fetch_returns_messages_once(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 400)
        consumer = await stream.create_consumer("c", ack_wait=600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.fetch, 500)
            while (await info_of(consumer)).num_ack_pending < 400:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert (await consumer.refresh()).delivered.consumer_seq == 400
        assert set((await all_of(stream, 400)).values()) == {2}


@pytest.mark.slow
@pytest.mark.parametrize("max_deliver", [1, 2])
async def test_few_deliveries_are_not_spent_on_messages_nobody_received(
    nats_server: NatsServer, max_deliver: int
) -> None:
    """As many exits as you like, with another client each time: each message is received."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 60)
        await stream.create_consumer("c", max_deliver=max_deliver, ack_wait=600)
        came: Counter[int] = Counter()
        while len(came) < 60:
            consumer = await stream.consumer("c")
            async with consumer.consume() as messages:
                for _ in range(2):
                    msg = await messages.receive()
                    came[msg.metadata.stream_seq] += 1
                    assert msg.metadata.delivered == 1
                    await msg.ack()
                await nc.flush()
        assert set(came.values()) == {1}


@pytest.mark.parametrize("kind", ["pull", "push"])
async def test_the_last_delivery_is_kept_for_the_next_call(
    nats_server: NatsServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 100)
        subject = "here" if kind == "push" else ""
        consumer = await stream.create_consumer(
            "c", deliver_subject=subject, max_deliver=1, ack_wait=600
        )
        prefetch = {} if kind == "push" else {"prefetch": True}
        async with consumer.consume(**prefetch) as messages:
            await (await messages.receive()).ack()
            while messages.waiting < 99:
                await nc.flush()
        assert "will not deliver 99 messages again" in caplog.text
        with pytest.raises(trio.ClosedResourceError):
            await messages.receive()
        async with consumer.consume(**prefetch) as messages:
            for number in range(1, 100):
                msg = await messages.receive()
                assert msg.data == b"%d" % number
                await msg.double_ack()
        assert (await consumer.refresh()).num_ack_pending == 0


async def test_what_is_kept_does_not_grow(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 100)
        consumer = await stream.create_consumer("c", ack_policy=AckPolicy.NONE)
        received = []
        for _ in range(20):
            async with consumer.consume(max_messages=10) as messages:
                received.append((await messages.receive()).data)
        assert received == [b"%d" % number for number in range(20)]
        assert (await consumer.refresh()).delivered.consumer_seq <= 30


async def test_kept_messages_are_shared_by_all_tasks(nats_server: NatsServer) -> None:
    """One is kept for two tasks; the other task requests its message. Then ``stop_after`` holds."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 1)
        consumer = await stream.create_consumer("c", max_deliver=1)

        async def keep(count: int) -> None:
            async with consumer.consume(prefetch=True) as messages:
                while messages.waiting < count:
                    await nc.flush()

        received = []

        async def receive(messages: Messages) -> None:
            try:
                received.append((await messages.receive()).data)
            except trio.EndOfChannel:
                received.append(b"end")

        await keep(1)
        await js.publish("s.1", "1")
        async with consumer.consume() as messages, trio.open_nursery() as nursery:
            nursery.start_soon(receive, messages)
            nursery.start_soon(receive, messages)
        assert sorted(received) == [b"0", b"1"]

        received.clear()
        for number in range(2):
            await js.publish("s.1", f"{number}")
        await keep(2)
        async with consumer.consume(stop_after=1) as messages, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(receive, messages)
        assert sorted(received) == [b"0", b"end", b"end"]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["fetch", "consume", "drain"])
@pytest.mark.parametrize("policy", [AckPolicy.NONE, AckPolicy.EXPLICIT])
async def test_leaving_while_messages_are_being_sent(
    nats_server: NatsServer, by: str, policy: AckPolicy
) -> None:
    """What the server has counted as delivered, but not sent when we leave, still comes.

    Without acknowledgements, or with a ``max_deliver`` of 1, it would never be delivered again.
    """
    batch, rounds = 500, 30
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        # A stream drops messages if 10,000 wait to be stored.
        async with js.publisher(max_pending=1000) as publisher:
            for number in range(batch * rounds):
                await publisher.publish("s.1", b"%d" % number)
        acks = policy != AckPolicy.NONE
        consumer = await stream.create_consumer(
            "c", ack_policy=policy, max_deliver=1 if acks else -1, max_ack_pending=-1
        )
        came: list[bytes] = []

        async def fetch() -> None:
            # All may have come before it is cancelled.
            came.extend(msg.data for msg in await consumer.fetch(batch))

        while (await consumer.refresh()).num_pending:
            before = nc.stats.in_messages
            async with trio.open_nursery() as nursery:
                if by == "fetch":
                    nursery.start_soon(fetch)
                    while nc.stats.in_messages == before:
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                else:
                    async with consumer.consume(max_messages=batch) as messages:
                        while nc.stats.in_messages == before:
                            await trio.lowlevel.checkpoint()
                        if by == "drain":
                            await messages.drain()
                            came += [msg.data async for msg in messages]
            if kept_by(consumer):
                came += [msg.data for msg in await consumer.fetch(kept_by(consumer))]
        assert came == [b"%d" % number for number in range(batch * rounds)]


NEEDS_2_11 = pytest.mark.requires_server("2.11")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_ack_pending": 1},
        {"max_batch": 1, "max_expires": 1.0},
        pytest.param(
            {"priority_policy": PriorityPolicy.PINNED_CLIENT, "priority_groups": ["g"]},
            marks=NEEDS_2_11,
        ),
        pytest.param({"pause_until": datetime.now(UTC) + timedelta(days=1)}, marks=NEEDS_2_11),
    ],
    ids=["plain", "max_ack_pending", "limits", "pinned", "paused"],
)
async def test_every_server_refuses_the_request_at_once(
    nats_server: NatsServer, options: dict[str, Any]
) -> None:
    """Whatever the consumer is waiting for; and nothing changes."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 2)
        consumer = await stream.create_consumer("c", **options)
        if "max_ack_pending" in options:
            await consumer.next()
        answer = await nc.request("$JS.API.CONSUMER.MSG.NEXT.S.c", REFUSED_REQUEST)
        assert answer.status == (400, "Bad Request - heartbeat value too large")
        info = await consumer.refresh()
        assert info.num_waiting == 0
        assert [group.pinned_client_id for group in info.priority_groups] in ([], [""])


@pytest.mark.slow
async def test_leaving_does_not_disturb_other_tasks(nats_server: NatsServer) -> None:
    """Each message is handed out once, however often tasks with the same consumer leave."""
    count = 2000
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        for number in range(count):
            nc.publish_nowait("s.1", b"%d" % number)
        consumer = await stream.create_consumer("c", ack_policy=AckPolicy.NONE)
        came: Counter[bytes] = Counter()

        async def consume(each: int) -> None:
            while came.total() < count:
                async with consumer.consume(max_messages=50) as messages:
                    for _ in range(each):
                        with trio.move_on_after(0.2):  # others may receive the last ones
                            came[(await messages.receive()).data] += 1

        async def fetch() -> None:
            while came.total() < count:
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:

                        @nursery.start_soon
                        async def receive() -> None:
                            for msg in await consumer.fetch(50, timeout=0.2):
                                came[msg.data] += 1

                        before = nc.stats.in_messages
                        while nc.stats.in_messages == before and came.total() < count:
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(consume, 3)
            nursery.start_soon(consume, 40)
            nursery.start_soon(fetch)
        assert set(came.values()) == {1}
        assert len(came) == count


class Watching(Puller):
    """Notes which messages were returned before the interest had ended."""

    def __init__(self) -> None:
        super().__init__()
        self.early = 0
        self.last: Pulled

    async def pull(self) -> Pulled:
        self.last = await super().pull()
        return self.last

    async def _published(self, peer: Peer, subject: str, reply: str, data: bytes) -> None:
        self.early += data == b"-NAK" and self.is_subscribed(self.last)
        await super()._published(peer, subject, reply, data)


async def test_the_interest_ends_before_messages_are_returned() -> None:
    puller = Watching()
    async with pulled_from(puller) as (consumer, nc):
        async with consumer.consume(max_messages=5) as messages:
            await puller.deliver(await puller.pull(), 3)
            while messages.waiting < 3:
                await nc.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.fetch, 5)
            await puller.deliver(await puller.pull(), 3)
            await nc.flush()
            nursery.cancel_scope.cancel()
        await puller.until(6)
        assert puller.early == 0


async def test_messages_on_their_way_go_back_too() -> None:
    """The server sends more until it knows that nobody is interested."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _):
        async with consumer.consume(max_messages=5):
            pull = await puller.pull()
            puller.before_unsub = partial(puller.deliver, pull, 3)
        assert await puller.until(3) == [
            (f"$JS.ACK.S.C.1.{n}.{n}.1700000000000000000.0", b"-NAK") for n in (1, 2, 3)
        ]


@pytest.mark.parametrize("by", ["fetch", "consume"])
async def test_what_was_requested_arrives_before_the_interest_ends(by: str) -> None:
    """Another answer of the server proves that no more messages are on their way."""
    puller = Puller()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    async with pulled_from(puller, config) as (consumer, nc):
        async with trio.open_nursery() as nursery:
            if by == "fetch":
                nursery.start_soon(consumer.fetch, 9)
                pull = await puller.pull()
                subscriptions = nc.stats.subscriptions

                async def deliver() -> None:
                    assert nc.stats.subscriptions == subscriptions
                    await puller.deliver(pull, 3)
                    puller.before_refusal = partial(puller.deliver, pull, 2)

                puller.before_refusal = deliver
                nursery.cancel_scope.cancel()
            else:
                async with consumer.consume(max_messages=9):
                    pull = await puller.pull()
                    puller.before_refusal = partial(puller.deliver, pull, 5)
        assert not puller.is_subscribed(pull)
        came = await consumer.fetch(5)
        assert [msg.metadata.stream_seq for msg in came] == [1, 2, 3, 4, 5]
        assert puller.no_pull()


@pytest.mark.parametrize("by", ["fetch", "consume"])
async def test_leaving_does_not_wait_for_a_flood(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that always sends more than was requested does not fill the memory."""
    puller = Puller()
    floods = 0
    sender = "C"

    async def flood() -> None:
        nonlocal floods
        floods += 1
        puller.before_refusal = flood
        puller.consumer = sender
        await puller.deliver(pull, 1500)
        puller.consumer = "C"

    puller.before_refusal = flood
    monkeypatch.setattr(inboxes, "PendingLimits", partial(PendingLimits, messages=1010))
    async with (
        pulled_from(puller) as (consumer, _),
        trio.open_nursery() as nursery,
    ):
        if by == "fetch":
            nursery.start_soon(consumer.fetch, 5)
            await puller.say(await puller.pull(), "409 Leadership Change")
            pull = await puller.pull()  # The first request may be alive after all.
            nursery.cancel_scope.cancel()
        else:
            async with consumer.consume(max_messages=5):
                pull = await puller.pull()
                sender = "another"  # Its messages do not fulfil the request.
    assert floods == 2


async def test_nothing_is_waited_for_without_a_connection() -> None:
    puller = Puller()
    slow = ReconnectPolicy(wait=HANG_TIMEOUT, max_wait=HANG_TIMEOUT)
    async with pulled_from(puller, reconnect=slow) as (consumer, nc):
        async with consumer.consume(max_messages=9):
            pull = await puller.pull()
            pull.peer.close()
            while nc.state is not ConnectionState.RECONNECTING:
                await trio.lowlevel.checkpoint()
        assert nc.stats.outbox_bytes == 0


async def test_nothing_is_waited_for_if_all_has_arrived() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc):
        puller.before_refusal = partial(pytest.fail, "it asked")
        async with consumer.consume(max_messages=3) as messages:
            await puller.deliver(await puller.pull(), 3)
            while messages.waiting < 3:
                await nc.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.fetch, 5)
            pull = await puller.pull()
            await puller.deliver(pull, 3)
            await puller.say(pull, "408 Request Timeout", pending_messages=2)
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_fetch_returns_what_was_on_its_way() -> None:
    """Messages that arrive while it ends are handed out, as far as they were requested."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def fetch() -> None:
            came = await consumer.fetch(2, timeout=0.05)
            assert [msg.metadata.stream_seq for msg in came] == [1, 2]

        pull = await puller.pull()
        puller.before_unsub = partial(puller.deliver, pull, 3)
        assert await puller.until(1) == [
            ("$JS.ACK.S.C.1.3.3.1700000000000000000.0", b"-NAK"),
        ]


@pytest.mark.slow
async def test_a_server_that_stalls_does_not_hold_it_up() -> None:
    async with NatsServer(jetstream=True) as server, connected(server) as (js, nc):
        stream = await filled(js, 3)
        consumer = await stream.create_consumer("c", ack_wait=600)
        async with consumer.consume() as messages:
            await messages.receive()
            server.pause()
        server.resume()
        await nc.flush()
        assert nc.stats.subscriptions == 0
        assert len(await consumer.fetch(2)) == 2


async def test_a_cancelled_fetch_keeps_last_deliveries(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 10)
        consumer = await stream.create_consumer("c", max_deliver=1, ack_wait=600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.fetch, 20)
            while (await info_of(consumer)).num_ack_pending < 10:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        came = await consumer.fetch(10)
        assert [msg.data for msg in came] == [b"%d" % number for number in range(10)]


async def test_a_bound_consumer_keeps_messages_after_refresh(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 5)
        await stream.create_consumer("c", ack_policy=AckPolicy.NONE)
        consumer = stream.bind_consumer("c")
        await consumer.refresh()
        async with consumer.consume() as messages:
            while messages.waiting < 5:
                await nc.flush()
        assert [msg.data for msg in await consumer.fetch(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_kept_messages_respect_max_bytes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        for size in (10, 10, 400, 10):
            await js.publish("s.1", b"x" * size)
        consumer = await stream.create_consumer("c", max_deliver=1, ack_wait=600)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(consumer.fetch, 20)
            while (await info_of(consumer)).num_ack_pending < 4:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert [len(msg.data) for msg in await consumer.fetch(max_bytes=300)] == [10, 10]
        with pytest.raises(PullError, match=r"larger than max_bytes of 300 bytes"):
            await consumer.fetch(max_bytes=300)
        assert [len(msg.data) for msg in await consumer.fetch(max_bytes=1000, timeout=1)] == [
            400,
            10,
        ]


async def test_push_consumers_keep_a_bounded_number(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    limits = PendingLimits(messages=10)
    async with connected(nats_server, pending_limits=limits) as (js, nc):
        stream = await filled(js, 0)
        consumer = await stream.create_consumer(
            "c", deliver_subject="here", ack_policy=AckPolicy.NONE
        )
        for _ in range(3):
            async with consumer.consume() as messages:
                while messages.waiting < 6:
                    await js.publish("s.1", "x")
                    await nc.flush()
        assert kept_by(consumer) == 10
        assert "dropped" in caplog.text
