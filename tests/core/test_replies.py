"""The replies to one request, without a connection: what ends them, by a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.connection.helpers import all_of, receive_n
from tests.support.internals import end, push
from trio_nats import Msg, PendingLimits, Replies, empty_sentinel
from trio_nats._constructors import construct
from trio_nats._core.outbox import Outbox
from trio_nats._core.router import Router
from trio_nats._core.stats import Counters
from trio_nats._event_hub import EventHub
from trio_nats.events import SlowConsumer
from trio_nats.options import FullPolicy

NO_LIMITS = PendingLimits()


class Owner:
    """What of a connection it takes to have replies waiting."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.event_hub = EventHub()
        self.router = Router(Outbox(1000, "wait", lambda: None))
        self.disconnected_for: float | None = None


def reply(data: bytes = b"x") -> Msg:
    return Msg(b"_INBOX.x.1", b"1", None, data)


@asynccontextmanager
async def alone(
    *,
    timeout: float = 100.0,
    stop_after: int | None = None,
    stall: float | None = None,
    sentinel: Callable[[Msg], bool] | None = None,
    limits: PendingLimits = NO_LIMITS,
    owner: Owner | None = None,
) -> AsyncIterator[Replies]:
    """Replies without a connection, for a clock that does not wait for any."""
    forgotten = trio.Event()

    async def send(_: object) -> None:
        await trio.lowlevel.checkpoint()

    replies = construct(
        Replies,
        owner or Owner(),
        "svc",
        limits,
        timeout,
        stop_after,
        stall,
        sentinel,
        send=send,
        forget=forgotten.set,
    )
    async with replies:
        yield replies
    assert forgotten.is_set()


async def _end(replies: Replies) -> float:
    """Wait for the end; returns when it was."""
    with pytest.raises(trio.EndOfChannel):
        await replies.receive()
    return trio.current_time()


async def test_stalling_is_not_for_the_first(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(timeout=10, stall=1) as replies:
        begun = trio.current_time()
        assert await _end(replies) - begun == pytest.approx(10)


async def test_stalling_ends_them(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(timeout=10, stall=1) as replies:
        push(replies, reply())
        await receive_n(replies, 1)
        begun = trio.current_time()
        assert await _end(replies) - begun == pytest.approx(1)
        # It is over, whatever may still arrive.
        assert await _end(replies) - begun == pytest.approx(1)


async def test_the_total_time_wins_over_stalling(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(timeout=3, stall=2) as replies:
        begun = trio.current_time()
        push(replies, reply())
        await receive_n(replies, 1)
        await trio.sleep(2)
        assert await _end(replies) - begun == pytest.approx(3)


async def test_time_outside_of_receive_is_not_stalling(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(timeout=100, stall=1) as replies:
        for _ in range(5):
            push(replies, reply())
            await receive_n(replies, 1)
            await trio.sleep(7)
        begun = trio.current_time()
        assert await _end(replies) - begun == pytest.approx(1)


async def test_replies_in_time_are_received_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(timeout=5) as replies:
        push(replies, reply(b"1"))
        push(replies, reply(b"2"))
        await trio.sleep(7)
        assert await all_of(replies) == [b"1", b"2"]


async def test_replies_without_end_end_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(timeout=5) as replies:
        got: list[bytes] = []
        for number in range(8):
            push(replies, reply(b"%d" % (2 * number)))
            push(replies, reply(b"%d" % (2 * number + 1)))
            got += await receive_n(replies, 1)
            await trio.sleep(1)
        got += await all_of(replies)
        assert got == [b"%d" % number for number in range(10)]


async def test_stalling_counts_from_the_last_reply_of_any_receiver(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(timeout=100, stall=10) as replies, trio.open_nursery() as nursery:
        push(replies, reply(b"0"))
        assert await receive_n(replies, 1) == [b"0"]
        begun = trio.current_time()
        ended: list[float] = []
        got: list[bytes] = []

        async def work() -> None:
            got.extend(await all_of(replies))
            ended.append(trio.current_time() - begun)

        nursery.start_soon(work)
        nursery.start_soon(work)
        for number in range(3):
            await trio.sleep(8)
            push(replies, reply(b"%d" % number))
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(50)
        assert got == [b"0", b"1", b"2"]
        assert ended == pytest.approx([34, 34])


async def test_several_receivers_share_them_in_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    got: dict[int, bytes] = {}

    async def wait(number: int) -> None:
        got[number] = (await replies.receive()).data

    async with alone(stop_after=3) as replies:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, number)
                await trio.testing.wait_all_tasks_blocked()
            for number in range(3):
                push(replies, reply(b"%d" % number))
                await trio.testing.wait_all_tasks_blocked()
        assert got == {0: b"0", 1: b"1", 2: b"2"}
        await _end(replies)


async def test_a_cancelled_receiver_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with alone() as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replies.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        push(replies, reply(b"1"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await replies.receive()
        assert await receive_n(replies, 1) == [b"1"]


async def test_the_sentinel_ends_them_and_is_not_handed_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(sentinel=lambda msg: msg.data == b"end", stop_after=5) as replies:
        for data in (b"1", b"", b"end", b"3"):
            push(replies, reply(data))
        assert await all_of(replies) == [b"1", b""]
        await _end(replies)


async def test_the_sentinel_wakes_the_others_who_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(sentinel=empty_sentinel) as replies, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_end, replies)
        await trio.testing.wait_all_tasks_blocked()
        push(replies, reply(b""))
        begun = trio.current_time()
        nursery.start_soon(_end, replies)
    assert trio.current_time() == pytest.approx(begun)


async def test_a_batch_has_at_most_the_requested_number(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(stop_after=2) as replies:
        for data in (b"", b"1", b"2", b"3"):  # without data it is a reply like any other
            push(replies, reply(data))
        assert await all_of(replies) == [b"", b"1"]
        await _end(replies)


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_newest", [b"0", b"1", b"2"]), ("drop_oldest", [b"7", b"8", b"9"])]
)
@pytest.mark.parametrize("by", ["messages", "bytes"])
async def test_waiting_replies_are_bounded(
    autojump_clock: trio.testing.MockClock, policy: FullPolicy, kept: list[bytes], by: str
) -> None:
    limits = PendingLimits(**{by: 3}, when_full=policy)
    owner = Owner()
    async with alone(timeout=5, limits=limits, owner=owner) as replies:
        events = owner.event_hub.listen(10)
        for number in range(10):
            push(replies, reply(b"%d" % number))
            assert replies.pending[0] <= 3
        assert replies.pending == (3, 3)
        assert replies.dropped == owner.counters.dropped == 7
        assert await events.receive() == SlowConsumer("svc", 3, 3, 1)
        assert await all_of(replies) == kept
        assert replies.pending == (0, 0)


async def test_what_was_dropped_counts_towards_stop_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(stop_after=3, limits=PendingLimits(messages=1)) as replies:
        for _ in range(5):
            push(replies, reply())
        assert replies.dropped == 2
        begun = trio.current_time()
        assert await all_of(replies) == [b"x"]
        assert trio.current_time() == begun


async def test_no_more_are_kept_than_were_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(stop_after=2) as replies:
        for _ in range(5):
            push(replies, reply())
        assert replies.pending == (2, 2)
        assert await all_of(replies) == [b"x", b"x"]


@pytest.mark.parametrize("how", ["taken", "closed", "ended"])
async def test_waiting_for_room_stops_the_reading_until_then(
    autojump_clock: trio.testing.MockClock, how: str
) -> None:
    limits = PendingLimits(messages=2, when_full="wait")
    owner = Owner()
    async with alone(timeout=5, limits=limits, owner=owner) as replies:
        router = owner.router
        for _ in range(5):
            push(replies, reply())
        assert router.stalled == {replies}
        assert replies.pending == (5, 5)
        if how == "taken":
            await receive_n(replies, 3)
            assert router.stalled
            await receive_n(replies, 1)
        elif how == "closed":
            await replies.aclose()
        else:
            end(replies, trio.ClosedResourceError("gone"))
            assert len(await receive_n(replies, 5)) == 5
        assert not router.stalled
