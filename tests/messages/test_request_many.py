"""Many replies to one request, and what ends them (ADR-47)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.messages.helpers import all_of, another, barrier, fill, hmsg, msg, scripted, served, take
from tests.support.peer import Peer
from trio_nats import (
    ConfigurationError,
    Connection,
    ConnectionLostError,
    Msg,
    NoRespondersError,
    Replies,
    RequestTimeoutError,
    empty_sentinel,
)

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


def reply(data: bytes = b"x") -> Msg:
    return Msg(b"_INBOX.x.1", b"1", None, data)


@asynccontextmanager
async def asked(**options: Any) -> AsyncIterator[tuple[Connection, Peer, Replies, str]]:
    """A request the server has read and not answered."""
    async with scripted() as (nc, peer), nc.request_many("svc", b"?", **options) as replies:
        await peer.expect_line(b"SUB")
        inbox = (await peer.expect_line(b"PUB svc")).split()[2].decode()
        await peer.receive_exactly(3)
        yield nc, peer, replies, inbox


# --- over the wire --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_responses": 3}, {"sentinel": empty_sentinel}, {}])
async def test_scatter_and_gather(options: dict[str, Any]) -> None:
    async with served() as (nc, server), another(server) as other:
        async with other.subscribe("svc") as one, other.subscribe("svc") as two:
            await other.flush()
            async with nc.request_many("svc", b"?", headers={"k": "v"}, **options) as replies:
                for sub in (one, two):
                    request = await sub.receive()
                    assert request.headers["k"] == "v"
                    await request.respond(request.data + b"1")
                    await request.respond(request.data + b"2")
                if "sentinel" in options:
                    await request.respond(b"")
                expected = 3 if "max_responses" in options else 4
                got = await take(replies, expected)
                assert sorted(got) == sorted([b"?1", b"?2", b"?1", b"?2"][:expected])
                if options:
                    for _ in range(2):
                        with pytest.raises(trio.EndOfChannel):
                            await replies.receive()
                    assert nc._core.requests.slots == {}
            assert nc._core.requests.slots == {}


async def test_nobody_is_there() -> None:
    async with served() as (nc, _), nc.request_many("svc") as replies:
        for _ in range(2):
            with pytest.raises(NoRespondersError, match="svc"):
                await replies.receive()
        assert nc._core.requests.slots == {}


async def test_what_came_before_the_end_is_still_received() -> None:
    async with asked() as (_, peer, replies, inbox):
        await peer.send(msg(inbox, 1, b"1") + msg(inbox, 1, b"2"))
        await peer.send(hmsg(inbox, 1, NO_RESPONDERS) + msg(inbox, 1, b"too late"))
        await barrier(peer)
        assert await take(replies, 2) == [b"1", b"2"]
        with pytest.raises(NoRespondersError):
            await replies.receive()


async def test_the_total_time_ends_them() -> None:
    async with asked(timeout=0.02) as (nc, peer, replies, inbox):
        await peer.send(msg(inbox, 1, b"1"))
        await barrier(peer)
        assert await all_of(replies) == [b"1"]
        assert nc._core.requests.slots == {}


async def test_the_connections_timeout_is_the_default() -> None:
    async with served(request_timeout=0.02) as (nc, _), nc.subscribe("svc"):
        async with nc.request_many("svc") as replies:
            assert await all_of(replies) == []


async def test_leaving_forgets_replies_to_come() -> None:
    async with scripted() as (nc, peer):
        with trio.CancelScope() as scope:
            async with nc.request_many("svc") as replies:
                await peer.expect_line(b"SUB")
                inbox = (await peer.expect_line(b"PUB svc")).split()[2].decode()
                await peer.receive_exactly(2)
                await peer.send(msg(inbox, 1, b"1"))
                await barrier(peer)
                assert len(nc._core.requests.slots) == 1
                scope.cancel()
                await replies.receive()
        assert nc._core.requests.slots == {}
        with pytest.raises(trio.ClosedResourceError):
            await replies.receive()
        await peer.send(msg(inbox, 1, b"2"))
        await barrier(peer)
        assert nc.stats.in_messages == 2


async def test_entering_when_cancelled_sends_nothing() -> None:
    async with scripted() as (nc, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            async with nc.request_many("svc"):
                raise AssertionError("entered")
        assert nc._core.requests.slots == {}
        await nc.publish("end", b"")
        assert await peer.expect_line() == b"PUB end 0"


async def test_a_request_is_entered_once() -> None:
    async with scripted() as (nc, _):
        replies = nc.request_many("svc")
        with pytest.raises(RuntimeError, match="use it as"):
            await replies.receive()
        async with replies:
            with pytest.raises(RuntimeError, match="only once"):
                await replies.__aenter__()
            await replies.aclose()
            await replies.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await replies.receive()


@pytest.mark.parametrize("how", ["replies", "connection"])
async def test_closing_wakes_all_who_wait(how: str) -> None:
    async with asked() as (nc, _, replies, _), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await replies.receive()

        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await (replies if how == "replies" else nc).aclose()


async def test_the_loss_of_the_connection_ends_them_behind_what_came() -> None:
    async with asked() as (nc, peer, replies, inbox):
        await peer.send(msg(inbox, 1, b"1"))
        peer.close()
        await nc.wait_for_state("closed")
        assert await take(replies, 1) == [b"1"]
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                await replies.receive()
        with pytest.raises(ConnectionLostError):
            async with nc.request_many("svc"):
                pass


async def test_a_request_that_cannot_be_sent_in_time() -> None:
    async with scripted(pending_size=100_000) as (nc, _peer):
        await fill(nc, 100_000)
        before = nc.stats.out_messages
        with pytest.raises(RequestTimeoutError, match=r"could not be sent within 0\.01 s"):
            async with nc.request_many("svc", timeout=0.01):
                raise AssertionError("entered")
        with pytest.raises(RequestTimeoutError):
            await nc.request("svc", timeout=0.01)
        assert nc._core.requests.slots == {}
        assert nc.stats.out_messages == before


async def test_asking_on_a_closed_connection() -> None:
    async with served() as (nc, _):
        replies = nc.request_many("svc")
    with pytest.raises(trio.ClosedResourceError):
        await replies.__aenter__()


@pytest.mark.parametrize(
    "options",
    [
        {"max_responses": 0},
        {"max_responses": True},
        {"max_responses": 1.5},
        {"stall": 0},
        {"stall": -1},
        {"timeout": 0},
        {"timeout": "1"},
        {"sentinel": 5},
    ],
)
async def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    async with scripted() as (nc, _):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            nc.request_many("svc", **options)


# --- by the clock ---------------------------------------------------------------------------------


@asynccontextmanager
async def alone(
    *,
    timeout: float = 100.0,
    max_responses: int | None = None,
    stall: float | None = None,
    sentinel: Callable[[Msg], bool] | None = None,
) -> AsyncIterator[Replies]:
    """Replies without a connection, for a clock that does not wait for any."""
    forgotten = trio.Event()

    async def send(_: object) -> None:
        await trio.lowlevel.checkpoint()

    replies = Replies(
        "svc", timeout, max_responses, stall, sentinel, send=send, forget=forgotten.set
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
        replies.push(reply())
        await take(replies, 1)
        begun = trio.current_time()
        assert await _end(replies) - begun == pytest.approx(1)
        # It is over, whatever may still arrive.
        assert await _end(replies) - begun == pytest.approx(1)


async def test_the_total_time_wins_over_stalling(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(timeout=3, stall=2) as replies:
        begun = trio.current_time()
        replies.push(reply())
        await take(replies, 1)
        await trio.sleep(2)
        assert await _end(replies) - begun == pytest.approx(3)


async def test_time_outside_of_receive_is_not_stalling(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(timeout=100, stall=1) as replies:
        for _ in range(5):
            replies.push(reply())
            await take(replies, 1)
            await trio.sleep(7)
        begun = trio.current_time()
        assert await _end(replies) - begun == pytest.approx(1)


async def test_replies_in_time_are_received_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(timeout=5) as replies:
        replies.push(reply(b"1"))
        replies.push(reply(b"2"))
        await trio.sleep(7)
        assert await all_of(replies) == [b"1", b"2"]


async def test_replies_without_end_end_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(timeout=5) as replies:
        got: list[bytes] = []
        for number in range(8):
            replies.push(reply(b"%d" % (2 * number)))
            replies.push(reply(b"%d" % (2 * number + 1)))
            got += await take(replies, 1)
            await trio.sleep(1)
        got += await all_of(replies)
        assert got == [b"%d" % number for number in range(10)]


async def test_stalling_counts_from_the_last_reply_whoever_received_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(timeout=100, stall=10) as replies, trio.open_nursery() as nursery:
        replies.push(reply(b"0"))
        assert await take(replies, 1) == [b"0"]
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
            replies.push(reply(b"%d" % number))
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

    async with alone(max_responses=3) as replies:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, number)
                await trio.testing.wait_all_tasks_blocked()
            for number in range(3):
                replies.push(reply(b"%d" % number))
                await trio.testing.wait_all_tasks_blocked()
        assert got == {0: b"0", 1: b"1", 2: b"2"}
        await _end(replies)


async def test_a_cancelled_receiver_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with alone() as replies:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replies.receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        replies.push(reply(b"1"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await replies.receive()
        assert await take(replies, 1) == [b"1"]


async def test_the_sentinel_ends_them_and_is_not_handed_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(sentinel=lambda msg: msg.data == b"end") as replies:
        for data in (b"1", b"2", b"end", b"3"):
            replies.push(reply(data))
        assert await all_of(replies) == [b"1", b"2"]
        await _end(replies)


async def test_the_sentinel_wakes_the_others_who_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with alone(sentinel=empty_sentinel) as replies, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_end, replies)
        await trio.testing.wait_all_tasks_blocked()
        replies.push(reply(b""))
        begun = trio.current_time()
        nursery.start_soon(_end, replies)
    assert trio.current_time() == pytest.approx(begun)


async def test_no_more_than_was_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    async with alone(max_responses=2) as replies:
        for number in range(4):
            replies.push(reply(b"%d" % number))
        assert await all_of(replies) == [b"0", b"1"]
