"""Closing, draining, and losing the server for good: what is still done, and who is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    HANG_TIMEOUT,
    NO_RECONNECT,
    QUICK,
    all_of,
    another,
    errors_of_waiters,
    fill,
    have_wait,
    msg,
    receive_n,
    scripted,
    served,
)
from tests.support.internals import open_requests
from tests.support.leaks import no_leaks
from tests.support.peer import Peer
from tests.support.scripts import session
from tests.support.sockets import change_sockets
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import Connection, ConnectionLostError, RequestTimeoutError, Subscription

# --- closing --------------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_closing_twice() -> None:
    async with served() as (nc, _):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(nc.aclose)
        await nc.aclose()
        assert nc.state == "closed"


@ALL_BUT_WSS
async def test_a_second_close_waits_for_the_first() -> None:
    ended: list[str] = []

    async def close(name: str) -> None:
        await nc.aclose()
        ended.append(name)

    async with scripted(close_timeout=100) as (nc, peer), trio.open_nursery() as nursery:
        for name in ("first", "second"):
            nursery.start_soon(close, name)
            await trio.testing.wait_all_tasks_blocked()
        assert (ended, nc.state) == ([], "closing")
        with pytest.raises(trio.ClosedResourceError):
            await nc.publish("a")
        nursery.start_soon(peer.serve)
    assert sorted(ended) == ["first", "second"]


@ALL_BUT_WSS
async def test_nothing_is_published_while_closing() -> None:
    async with scripted(close_timeout=100) as (nc, _), trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        count = await fill(nc, 100_000)
        nursery.start_soon(nc.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert nc.state == "closing"
        with pytest.raises(trio.ClosedResourceError):
            await nc.publish("a")
        with pytest.raises(trio.ClosedResourceError):
            nc.publish_nowait("a")
        assert nc.stats.out_messages == count
        nursery.cancel_scope.cancel()


async def test_a_second_close_that_is_cancelled_closes_at_once() -> None:
    async with scripted(close_timeout=100) as (nc, _), trio.open_nursery() as nursery:
        nursery.start_soon(nc.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert nc.state == "closing"
        with trio.move_on_after(0):
            await nc.aclose()
        assert nc.state == "closed"


@ALL_BUT_WSS
async def test_closing_inside_a_message_loop() -> None:
    received = []
    async with served() as (nc, _), nc.subscribe("a") as sub:
        for _ in range(3):
            await nc.publish("a", b"x")
        with pytest.raises(trio.ClosedResourceError):
            async for message in sub:
                received.append(message.data)
                await nc.aclose()
    assert received == [b"x"]


# --- what is sent before the end ------------------------------------------------------------------


@ALL_BUT_WSS
async def test_everything_has_left_before_a_clean_end() -> None:
    count = 3000
    async with served() as (other, server), other.subscribe("a") as sub:
        await other.flush()
        async with another(server) as nc:
            async with nc.subscribe("b"):
                for number in range(count):
                    await nc.publish("a", b"%d" % number + b"." * 1000)
            assert nc.stats.outbox_bytes > 0
        assert nc.stats.outbox_bytes == 0
        # The server has them all, and so has sent them: nothing has to be waited for.
        await other.flush()
        received = [sub.receive_nowait().data.rstrip(b".") for _ in range(sub.pending[0])]
        assert received == [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("choked", [False, True])
@ALL_BUT_WSS
async def test_close_timeout_is_all_that_an_unresponsive_server_is_given(
    choked: bool, clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(close_timeout=20) as (nc, _):
        if choked:
            await fill(nc, 1_000_000)
        begun = trio.current_time()
        await nc.aclose()
        # A WebSocket is closed after that, which takes a little of its own.
        assert 20 <= trio.current_time() - begun < 25
        assert nc.failure is None
    if choked:
        assert "bytes not sent" in caplog.text
    # One was being written, unless the kernel had room for it in the very last moment.
    assert nc.stats.lost_in_flight in (0, 1)
    assert nc.stats.out_bytes < 300_000
    assert nc.stats.outbox_bytes == 0


@ALL_BUT_WSS
async def test_a_failing_body_is_not_held_up_by_a_server_that_does_not_read() -> None:
    with pytest.raises(LookupError), trio.fail_after(HANG_TIMEOUT):
        async with scripted(close_timeout=1000) as (nc, _):
            await fill(nc, 1_000_000)
            raise LookupError


@ALL_BUT_WSS
async def test_a_reply_before_the_writer_returns_is_not_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The PONG may be read before the task that wrote the PING has had another turn."""
    slowed = 0

    def change(made: Any) -> None:
        original = made.send

        async def send(data: bytes) -> int:
            nonlocal slowed
            sent: int = await original(data)
            if slow:
                slowed += 1
                await trio.testing.wait_all_tasks_blocked(0.02)
            return sent

        made.send = send

    slow = False
    change_sockets(change)
    async with served() as (nc, _):
        await nc.flush()
        slow = True
    assert slowed
    assert "not written" not in caplog.text
    assert nc.stats.lost_in_flight == 0


@ALL_BUT_WSS
async def test_closing_while_there_is_no_server(transport: Transport) -> None:
    """Unsent messages are given up after ``close_timeout``, and nothing hangs."""

    async def script(peer: Peer) -> None:
        await peer.expect_line(b"PUB")
        peer.abort()

    async with transport.scripted(session(script)) as server, no_leaks():
        with trio.fail_after(HANG_TIMEOUT):
            async with transport.open(server, reconnect=QUICK, close_timeout=0.05) as nc:
                server.refuse()
                await nc.publish("a")
                await nc.wait_for_state("reconnecting")
                await nc.publish("a", b"never sent")
        assert nc.state == "closed"
        assert nc.failure is None


# --- who waits when it ends -----------------------------------------------------------------------


async def _receive(nc: Connection, sub: Subscription) -> None:
    await sub.receive()


async def _iterate(nc: Connection, sub: Subscription) -> None:
    async for _ in sub:
        pass


async def _request(nc: Connection, sub: Subscription) -> None:
    await nc.request("silence", timeout=100)


async def _request_many(nc: Connection, sub: Subscription) -> None:
    async with nc.request_many("silence", timeout=100) as replies:
        await replies.receive()


async def _publish(nc: Connection, sub: Subscription) -> None:
    while True:
        await nc.publish("filling", bytes(1_000_000))


async def _flush(nc: Connection, sub: Subscription) -> None:
    await nc.flush()


async def _rtt(nc: Connection, sub: Subscription) -> None:
    await nc.rtt()


async def _drain_one(nc: Connection, sub: Subscription) -> None:
    await sub.drain()


async def _reconnect(nc: Connection, sub: Subscription) -> None:
    await nc.reconnect()


async def _await_state(nc: Connection, sub: Subscription) -> None:
    await nc.wait_for_state("draining")


Wait = Callable[[Connection, Subscription], Awaitable[None]]
WAITING = [_receive, _iterate, _request, _request_many, _publish, _flush, _rtt]
WAITING += [_await_state, _drain_one]


class Ending(Exception):
    """What a block is left by."""


@pytest.mark.parametrize("wait", [*WAITING, _reconnect])
@pytest.mark.parametrize("ending", ["closed", "left by exception"])
@ALL_BUT_WSS
async def test_all_waiting_tasks_are_told_of_the_closing(wait: Wait, ending: str) -> None:
    async with trio.open_nursery() as nursery:
        with suppress(Ending):
            async with scripted(close_timeout=0.01, outbox_size=300_000) as (nc, _):
                sub = await nc.subscribe("a").__aenter__()
                if wait is _publish:
                    await fill(nc, 300_000)
                errors = await have_wait(nursery, lambda: wait(nc, sub))
                if ending == "closed":
                    await nc.aclose()
                else:
                    raise Ending
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks == set()
    # A subscription's drain is all done once nothing more can come.
    errors_of_waiters = [] if wait is _drain_one else [trio.ClosedResourceError] * 2
    assert [type(error) for error in errors] == errors_of_waiters
    assert open_requests(nc) == 0


@pytest.mark.parametrize("wait", WAITING)
@ALL_BUT_WSS
async def test_all_waiting_tasks_are_told_of_the_loss(wait: Wait) -> None:
    async with scripted(outbox_size=300_000) as (nc, peer), nc.subscribe("a") as sub:
        if wait is _publish:
            await fill(nc, 300_000)
        async with errors_of_waiters(lambda: wait(nc, sub)) as errors:
            peer.abort()
        await nc.wait_for_state("closed")
        told_of = [] if wait is _drain_one else [ConnectionLostError] * 2
        assert [type(error) for error in errors] == told_of
        assert all(error.__cause__ is nc.failure for error in errors)
        assert isinstance(nc.failure, ConnectionLostError)
        assert nc.state == "closed"
        assert open_requests(nc) == 0


@pytest.mark.parametrize("how", ["closed", "lost"])
async def test_a_lost_connection_ends_a_drain_with_unread_messages(how: str) -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB")
        await peer.send(msg("a", 1, b"x"))
        async with errors_of_waiters(nc.drain, 1) as errors:
            await peer.expect_line(b"UNSUB 1")
            await peer.expect_line(b"PING")
            await peer.send(b"PONG\r\n")
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (nc.state, sub.pending) == ("draining", (1, 1))
            if how == "closed":
                await nc.aclose()
            else:
                peer.close()
        assert errors == []


# --- draining -------------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_draining_delivers_what_has_arrived() -> None:
    async with served() as (other, server), other.subscribe("answers") as answers:
        await other.flush()
        async with another(server) as nc:
            async with nc.subscribe("work") as work, trio.open_nursery() as nursery:
                for number in range(10):
                    await nc.publish("work", b"%d" % number, reply="answers")
                nursery.start_soon(nc.drain)
                await nc.wait_for_state("draining")
                with pytest.raises(trio.ClosedResourceError, match="draining"):
                    await nc.subscribe("more").__aenter__()
                async for message in work:
                    await message.respond(message.data)
            assert nc.state == "closed"
        assert await receive_n(answers, 10) == [b"%d" % number for number in range(10)]


@ALL_BUT_WSS
async def test_draining_gives_up() -> None:
    async with served() as (nc, _), nc.subscribe("work") as work:
        await nc.publish("work", b"left")
        await nc.flush()
        with pytest.raises(RequestTimeoutError, match=r"drain: .* 0\.01 s"):
            await nc.drain(timeout=0.01)
        assert nc.state == "closed"
        assert await all_of(work) == [b"left"]


# --- losing the server ----------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_a_permanent_loss_raises_with_its_cause() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB")
        await peer.send(msg("a", 1, b"before"))
        await peer.send(b"-ERR 'Stale Connection'\r\n")
        peer.close()
        assert await receive_n(sub, 1) == [b"before"]
        uses: list[Callable[[], Awaitable[object]]] = [sub.receive, nc.flush, nc.rtt, nc.drain]
        uses += [lambda: nc.request("a"), lambda: nc.publish("a")]
        for use in uses:
            with pytest.raises(ConnectionLostError, match="for good") as caught:
                await use()
            assert caught.value.__cause__ is nc.failure
            assert isinstance(caught.value, trio.BrokenResourceError)
        assert "Stale Connection" in str(nc.failure)
        assert nc.connected_url is nc.tls_info is None


@ALL_BUT_WSS
async def test_the_body_may_continue_and_close_after_the_connection_is_lost() -> None:
    async with scripted() as (nc, peer):
        peer.abort()
        await nc.wait_for_state("closed")
        await nc.aclose()
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        went_on = True
    assert went_on
    assert nc.state == "closed"
    assert isinstance(nc.failure, ConnectionLostError)


async def test_waiting_for_a_state_that_is_over_raises() -> None:
    async with scripted(reconnect=NO_RECONNECT) as (nc, peer):
        peer.close()
        assert await nc.wait_for_state("closed") == "closed"
        with pytest.raises(ConnectionLostError):
            await nc.wait_for_state("open", "draining")
        assert nc.servers == ()
