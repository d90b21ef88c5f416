"""What may wait in a subscription, and what a slow one does to itself and to others."""

from __future__ import annotations

import random
from collections import deque

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    all_of,
    another,
    barrier,
    hmsg,
    msg,
    next_event,
    receive_n,
    scripted,
    served,
)
from tests.support.internals import largest_read, push, stalled
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, EventChannel, Msg, PendingLimits, Subscription
from trio_nats.events import Event, SlowConsumer
from trio_nats.options import FullPolicy

BLOCK = b"NATS/1.0\r\nk: v\r\n\r\n"
"""A header block of 18 bytes."""


def limits(messages: int, policy: FullPolicy, size: int = 1_000_000) -> PendingLimits:
    return PendingLimits(messages=messages, bytes=size, when_full=policy)


def frames(*data: bytes) -> bytes:
    return b"".join(msg("a", 1, one) for one in data)


def slow(events: trio.abc.ReceiveChannel[Event]) -> list[SlowConsumer]:
    """The SlowConsumer events so far."""
    assert isinstance(events, EventChannel)
    found = []
    while True:
        try:
            event = events.receive_nowait()
        except trio.WouldBlock:
            return found
        if isinstance(event, SlowConsumer):
            found.append(event)


def drain_now(sub: Subscription) -> list[bytes]:
    return [sub.receive_nowait().data for _ in range(sub.pending[0])]


# --- dropping -------------------------------------------------------------------------------------


async def test_drop_newest_by_messages() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(3, "drop_newest")) as sub,
    ):
        await peer.send(frames(b"1", b"2", b"3"))
        await barrier(peer)
        assert slow(events) == []
        await peer.send(frames(b"4", b"5"))
        await barrier(peer)
        assert slow(events) == [SlowConsumer("a", 3, 3, 1)]
        assert (sub.pending, sub.dropped) == ((3, 3), 2)
        assert drain_now(sub) == [b"1", b"2", b"3"]
        assert (sub.dropped, nc.stats.dropped, nc.stats.in_messages) == (2, 2, 5)


async def test_drop_oldest_by_messages() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(3, "drop_oldest")) as sub,
    ):
        await peer.send(frames(b"1", b"2", b"3", b"4", b"5"))
        await barrier(peer)
        assert slow(events) == [SlowConsumer("a", 3, 3, 1)]
        assert (sub.pending, sub.dropped, nc.stats.dropped) == ((3, 3), 2, 2)
        assert drain_now(sub) == [b"3", b"4", b"5"]


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_newest", [b"1234", b"12"]), ("drop_oldest", [b"12", b"6789"])]
)
async def test_the_limit_in_bytes_counts_headers(policy: FullPolicy, kept: list[bytes]) -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(100, policy, size=26)) as sub,
    ):
        await peer.send(msg("a", 1, b"1234") + hmsg("a", 1, BLOCK, b"12"))
        await barrier(peer)
        assert (sub.pending, sub.dropped) == ((2, 24), 0)
        await peer.send(msg("a", 1, b"6789"))
        await barrier(peer)
        assert (sub.pending, sub.dropped) == ((2, 24), 1)
        assert slow(events) == [SlowConsumer("a", 2, 24, 1)]
        await peer.send(msg("a", 1, b"c"))  # which still fits
        await barrier(peer)
        assert (sub.pending, sub.dropped) == ((3, 25), 1)
        assert drain_now(sub) == [*kept, b"c"]
        assert sub.pending == (0, 0)


async def test_exactly_the_limit_is_not_too_much() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(2, "drop_newest", size=4)) as sub,
    ):
        await peer.send(frames(b"12", b"34"))
        await barrier(peer)
        assert (sub.pending, sub.dropped, slow(events)) == ((2, 4), 0, [])


async def test_a_message_larger_than_the_byte_limit() -> None:
    small = 4
    async with (
        scripted() as (nc, peer),
        nc.subscribe("a", pending_limits=limits(10, "drop_newest", small)) as newest,
        nc.subscribe("a", pending_limits=limits(10, "drop_oldest", small)) as oldest,
    ):
        for sid in (1, 2):
            await peer.send(hmsg("a", sid, BLOCK, b"x"))
            await peer.send(msg("a", sid, b"12") + msg("a", sid, b"12345"))
        await barrier(peer)
        assert newest.dropped == oldest.dropped == 2
        assert drain_now(newest) == [b"12"]
        assert drain_now(oldest) == [b"12345"]
        assert newest.pending == oldest.pending == (0, 0)


async def test_a_slow_consumer_episode_ends_at_half_the_limit() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(4, "drop_newest")) as sub,
    ):
        await peer.send(frames(*[b"x"] * 9))
        await barrier(peer)
        assert len(slow(events)) == 1
        await receive_n(sub, 1)  # 3 are left
        await peer.send(frames(b"y", b"z"))
        await barrier(peer)
        assert slow(events) == []
        await receive_n(sub, 2)  # 2 are left
        await peer.send(frames(*[b"x"] * 4))
        await barrier(peer)
        assert slow(events) == [SlowConsumer("a", 4, 4, 7)]


async def test_the_limits_of_the_connection_are_the_default() -> None:
    async with (
        scripted(pending_limits=limits(1, "drop_newest")) as (nc, peer),
        nc.subscribe("a") as one,
        nc.subscribe("a", pending_limits=limits(2, "drop_oldest")) as two,
    ):
        for sid in (1, 2):
            await peer.send(b"".join(msg("a", sid, b"%d" % number) for number in range(3)))
        await barrier(peer)
        assert drain_now(one) == [b"0"]
        assert drain_now(two) == [b"1", b"2"]


async def test_what_was_dropped_counts_towards_max_msgs() -> None:
    async with (
        scripted() as (nc, peer),
        nc.subscribe("a", stop_after=5, pending_limits=limits(2, "drop_newest")) as sub,
    ):
        await peer.send(frames(b"1", b"2", b"3", b"4", b"5"))
        await barrier(peer)
        assert await all_of(sub) == [b"1", b"2"]
        assert sub.dropped == 3


async def test_a_slow_subscription_does_not_affect_others() -> None:
    async with (
        served() as (nc, server),
        nc.subscribe("a", pending_limits=limits(10, "drop_newest")) as lazy,
        nc.subscribe("a") as busy,
        another(server) as other,
    ):
        await nc.flush()
        for number in range(2000):
            await other.publish("a", b"%d" % number)
        await other.flush()
        assert len(await receive_n(busy, 2000)) == 2000
        assert await nc.rtt() > 0
        assert drain_now(lazy) == [b"%d" % number for number in range(10)]
        assert lazy.dropped == nc.stats.dropped == 1990


# --- waiting --------------------------------------------------------------------------------------


async def _until_stalled(events: trio.abc.ReceiveChannel[Event]) -> None:
    await next_event(events, SlowConsumer)
    await trio.testing.wait_all_tasks_blocked()


async def test_wait_stops_the_reading_and_loses_nothing() -> None:
    sent = [b"%d" % number + b"x" * 1000 for number in range(5000)]
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(100, "wait")) as sub,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(peer.send, frames(*sent) + b"PING\r\n")
        await _until_stalled(events)
        # What one read brings has to go somewhere; more than that is not taken in. After a full
        # one the next may be large.
        assert 100 < sub.pending[0] <= 100 + largest_read() // 1000
        before = nc.stats.in_bytes
        # Half full is when reading goes on.
        await receive_n(sub, sub.pending[0] - 51)
        await trio.testing.wait_all_tasks_blocked()
        assert nc.stats.in_bytes == before
        taken = nc.stats.in_messages - 51
        await receive_n(sub, 1)
        assert await receive_n(sub, 5000 - taken - 1) == sent[taken + 1 :]
        await peer.expect_line(b"SUB a 1")
        await peer.expect_line(b"PONG")
        assert (sub.dropped, sub.pending) == (0, (0, 0))


async def test_wait_by_bytes_and_one_event_an_episode() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(1000, "wait", size=10)) as sub,
    ):
        await peer.send(frames(b"12345", b"67890"))
        await barrier(peer)
        assert slow(events) == []
        await peer.send(frames(b"x", b"y", b"z"))
        assert (await next_event(events, SlowConsumer)).dropped == 0
        await trio.testing.wait_all_tasks_blocked()
        assert slow(events) == []
        await peer.send(frames(b"behind"))
        assert len(await receive_n(sub, 6)) == 6


@pytest.mark.parametrize(
    "pending_limits",
    [PendingLimits(messages=5, when_full="wait"), PendingLimits(bytes=50, when_full="wait")],
    ids=["messages", "bytes"],
)
async def test_messages_sent_while_reading_is_stopped_are_not_lost(
    pending_limits: PendingLimits,
) -> None:
    sent = [b"%d" % number + b"x" * 1000 for number in range(2000)]
    async with served() as (nc, server), another(server) as other, nc.events() as events:
        async with nc.subscribe("a", pending_limits=pending_limits) as sub:
            await nc.flush()
            for data in sent:
                await other.publish("a", data)
            await other.flush()
            await _until_stalled(events)
            # What one read brings is taken in whole, and then no more is read.
            assert 0 < sub.pending[0] < 200
            assert slow(events) == []
            assert await receive_n(sub, 2000) == sent
            assert (sub.dropped, nc.stats.reconnects) == (0, 0)


@pytest.mark.parametrize("how", ["leave", "stop_after", "deny", "drain", "close"])
async def test_reading_goes_on_when_the_full_subscription_is_gone(how: str) -> None:
    async with scripted() as (nc, peer), nc.events() as events, nc.subscribe("b") as other:
        sub = nc.subscribe("a", stop_after=4, pending_limits=limits(1, "wait"))
        await sub.__aenter__()
        count = 4 if how == "stop_after" else 3
        frame = b"".join(msg("a", 2, b"%d" % number) for number in range(count))
        if how == "deny":
            frame += b"-ERR 'Permissions Violation for Subscription to \"a\"'\r\n"
        await peer.send(frame)
        await _until_stalled(events)
        await peer.send(msg("b", 1, b"behind"))
        if how == "leave":
            await sub.aclose()
        elif how == "drain":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sub.drain)
                while await peer.expect_line() != b"PING":
                    pass
                await peer.send(b"PONG\r\n")
                assert await all_of(sub) == [b"0", b"1", b"2"]
        elif how == "close":
            await nc.aclose()
            for channel in (sub, other):
                with pytest.raises(trio.ClosedResourceError):
                    await channel.receive()
            return
        assert await receive_n(other, 1) == [b"behind"]
        assert stalled(nc) == set()


async def test_reading_continues_once_both_full_subscriptions_have_space() -> None:
    async with (
        scripted() as (nc, peer),
        nc.events() as events,
        nc.subscribe("a", pending_limits=limits(1, "wait")) as one,
        nc.subscribe("a", pending_limits=limits(1, "wait")) as two,
        nc.subscribe("a") as third,
    ):
        both = msg("a", 1, b"x") * 2 + msg("a", 2, b"y") * 2
        await peer.send(both)
        await next_event(events, SlowConsumer)
        await _until_stalled(events)
        await peer.send(msg("a", 3, b"z"))
        await receive_n(one, 2)
        await trio.testing.wait_all_tasks_blocked()
        assert third.pending == (0, 0)
        await receive_n(two, 2)
        assert await receive_n(third, 1) == [b"z"]


async def test_closing_reads_what_a_full_subscription_held_up() -> None:
    """The answer to the last PING stands behind what nobody reads."""

    async def finish() -> None:
        await peer.expect_line(b"SUB a 1")
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n")

    async with trio.open_nursery() as nursery:
        async with (
            scripted(close_timeout=1000) as (nc, peer),
            nc.events() as events,
            nc.subscribe("a", pending_limits=limits(1, "wait")) as sub,
        ):
            await peer.send(frames(b"1", b"2"))
            await _until_stalled(events)
            await peer.send(frames(*[b"x"] * 50))
            nursery.start_soon(finish)
            with trio.fail_after(HANG_TIMEOUT):
                await nc.aclose()
            assert sub.dropped == 50


# --- keeping count --------------------------------------------------------------------------------


class Model:
    """What a subscription should do, written as plainly as possible."""

    def __init__(self, messages: int, size: int, policy: FullPolicy) -> None:
        self.messages, self.size, self.policy = messages, size, policy
        self.queue: deque[Msg] = deque()
        self.dropped = 0

    @staticmethod
    def weight(msg: Msg) -> int:
        return len(msg.data) + len(msg.raw_headers or b"")

    @property
    def pending(self) -> tuple[int, int]:
        return len(self.queue), sum(map(self.weight, self.queue))

    def full(self) -> bool:
        return self.pending[0] > self.messages or self.pending[1] > self.size

    def push(self, msg: Msg) -> None:
        self.queue.append(msg)
        if self.full() and self.policy == "drop_newest":
            self.queue.pop()
            self.dropped += 1
        while self.full() and self.policy == "drop_oldest" and len(self.queue) > 1:
            self.queue.popleft()
            self.dropped += 1


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "wait"])
@pytest.mark.parametrize("seed", range(4))
async def test_pending_and_dropped_are_always_right(policy: FullPolicy, seed: int) -> None:
    chance = random.Random(seed)
    messages, size = chance.randint(1, 6), chance.randint(1, 80)
    model = Model(messages, size, policy)

    def check(nc: Connection, sub: Subscription) -> None:
        assert sub.pending == model.pending
        assert sub.dropped == nc.stats.dropped == model.dropped
        assert (nc.stats.pending_messages, nc.stats.pending_bytes) == model.pending

    async with (
        scripted() as (nc, _),
        nc.subscribe("a", pending_limits=limits(messages, policy, size)) as sub,
    ):
        for _ in range(400):
            if chance.random() < 0.55:
                burst = [
                    Msg(
                        b"a",
                        b"1",
                        None,
                        b"x" * chance.randint(0, 30),
                        BLOCK if chance.random() < 0.3 else None,
                    )
                    for _ in range(chance.randint(1, 4))
                ]
                push(sub, *burst)
                for one in burst:
                    model.push(one)
            elif model.queue:
                got = await sub.receive() if chance.random() < 0.5 else sub.receive_nowait()
                assert got is model.queue.popleft()
            check(nc, sub)
        while model.queue:
            assert await sub.receive() is model.queue.popleft()
        assert sub.pending == (0, 0)
        assert nc.stats.pending_bytes == 0
        assert stalled(nc) == set()
