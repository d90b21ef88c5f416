"""Many replies to one request, and what ends them (ADR-47)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.connection.helpers import (
    HANG_TIMEOUT,
    all_of,
    another,
    barrier,
    errors_of_waiters,
    fill,
    msg,
    nothing_was_sent,
    read_request,
    receive_n,
    scripted,
    served,
)
from tests.support.internals import open_requests
from tests.support.peer import Peer
from tests.support.raw import raw_connection
from trio_nats import (
    ConfigurationError,
    Connection,
    ConnectionLostError,
    NoRespondersError,
    PendingLimits,
    Replies,
    RequestTimeoutError,
    empty_sentinel,
)
from trio_nats.events import SlowConsumer

NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


@asynccontextmanager
async def asked(**options: Any) -> AsyncIterator[tuple[Connection, Peer, Replies, str]]:
    """A request the server has read and not answered."""
    async with scripted() as (nc, peer), nc.request_many("svc", b"?", **options) as replies:
        yield nc, peer, replies, await read_request(peer, "svc")


# --- over the wire --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"stop_after": 3}, {"sentinel": empty_sentinel}, {}])
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
                expected = 3 if "stop_after" in options else 4
                got = await receive_n(replies, expected)
                assert sorted(got) == sorted([b"?1", b"?2", b"?1", b"?2"][:expected])
                if options:
                    for _ in range(2):
                        with pytest.raises(trio.EndOfChannel):
                            await replies.receive()
                    assert open_requests(nc) == 0
            assert open_requests(nc) == 0


async def test_many_replies_without_responders() -> None:
    async with served() as (nc, _), nc.request_many("svc", timeout=100) as replies:
        for _ in range(2):
            with pytest.raises(NoRespondersError, match="svc"):
                await replies.receive()
        assert open_requests(nc) == 0


async def test_no_responders_after_a_reply_is_ignored() -> None:
    """The server says so only when nobody was there, and then nobody replies."""
    async with (
        served() as (nc, server),
        another(server) as other,
        raw_connection(server) as raw,
    ):
        async with other.subscribe("svc") as requests, other.subscribe("svc") as others:
            await other.flush()
            async with nc.request_many("svc", b"?", stop_after=2) as replies:
                await (await requests.receive()).respond(b"1")
                await other.flush()
                request = await others.receive()
                forged = b"HPUB %b 16 16\r\n%b\r\n" % (request.raw_reply or b"", NO_RESPONDERS)
                await raw.until_pong(forged)
                await request.respond(b"2")
                assert await all_of(replies) == [b"1", b"2"]


@pytest.mark.parametrize("options", [{"timeout": 0.2}, {"timeout": 100, "stall": 0.2}])
async def test_the_timeout_ends_them(options: dict[str, Any]) -> None:
    async with asked(**options) as (nc, peer, replies, inbox):
        await peer.send(msg(inbox, 1, b"1") + msg(inbox, 1, b"2"))
        await barrier(peer)
        assert await all_of(replies) == [b"1", b"2"]
        assert open_requests(nc) == 0


async def test_each_of_several_receivers_gets_what_no_other_got() -> None:
    got: list[bytes] = []

    async with asked(timeout=100, stop_after=30) as (_, peer, replies, inbox):

        async def read() -> None:
            got.extend(await all_of(replies))

        async with errors_of_waiters(read, 3) as errors:
            for number in range(40):
                await peer.send(msg(inbox, 1, b"%d" % number))
        assert errors == []
    assert sorted(got, key=int) == [b"%d" % number for number in range(30)]


async def test_the_connections_timeout_is_the_default() -> None:
    async with served(request_timeout=0.02) as (nc, _), nc.subscribe("svc"):
        async with nc.request_many("svc") as replies:
            assert await all_of(replies) == []


async def test_leaving_forgets_replies_to_come() -> None:
    async with scripted() as (nc, peer):
        with trio.CancelScope() as scope:
            async with nc.request_many("svc") as replies:
                inbox = await read_request(peer, "svc")
                await peer.send(msg(inbox, 1, b"1"))
                await barrier(peer)
                assert open_requests(nc) == 1
                scope.cancel()
                await replies.receive()
        assert scope.cancelled_caught
        assert open_requests(nc) == 0
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
        assert open_requests(nc) == 0
        await nothing_was_sent(nc, peer)


async def test_a_request_is_entered_once() -> None:
    async with scripted() as (nc, peer):
        replies = nc.request_many("svc")
        with pytest.raises(RuntimeError, match=r"use it as 'async with nc\.request_many"):
            await replies.receive()
        assert open_requests(nc) == 0
        await nothing_was_sent(nc, peer)
        async with replies:
            with pytest.raises(RuntimeError, match="only once"):
                await replies.__aenter__()
        with pytest.raises(RuntimeError, match="only once"):
            await replies.__aenter__()


async def test_closing_wakes_all_who_wait_and_drops_what_was_not_received() -> None:
    async with asked(timeout=100) as (nc, peer, replies, inbox):
        async with errors_of_waiters(replies.receive) as errors:
            await replies.aclose()
            await replies.aclose()
        assert [str(error) for error in errors] == ["these replies are closed"] * 2
        assert all(isinstance(error, trio.ClosedResourceError) for error in errors)
        assert open_requests(nc) == 0
        await peer.send(msg(inbox, 1, b"late"))
        await barrier(peer)
        with pytest.raises(trio.ClosedResourceError):
            await replies.receive()
    async with asked(timeout=100) as (_, peer, replies, inbox):
        await peer.send(msg(inbox, 1, b"1"))
        await barrier(peer)
        await replies.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await replies.receive()


async def test_closing_the_connection_wakes_all_who_wait() -> None:
    async with asked() as (nc, _, replies, _):
        async with errors_of_waiters(replies.receive) as errors:
            await nc.aclose()
        assert [type(error) for error in errors] == [trio.ClosedResourceError] * 2


@pytest.mark.parametrize(
    ("how", "error"), [("lost", ConnectionLostError), ("closed", trio.ClosedResourceError)]
)
async def test_the_end_of_the_connection_follows_received_messages(
    how: str, error: type[Exception]
) -> None:
    async with asked(timeout=100) as (nc, peer, replies, inbox):
        await peer.send(msg(inbox, 1, b"1") + msg(inbox, 1, b"2"))
        await barrier(peer)
        assert await receive_n(replies, 1) == [b"1"]
        if how == "lost":
            peer.close()
            await nc.wait_for_state("closed")
        else:
            await nc.aclose()
        assert await receive_n(replies, 1) == [b"2"]
        for _ in range(2):
            with pytest.raises(error):
                await replies.receive()
        with pytest.raises(error):
            async with nc.request_many("svc"):
                pass


async def test_a_request_that_cannot_be_sent_in_time() -> None:
    async with scripted(outbox_size=100_000) as (nc, _peer):
        await fill(nc, 100_000, each=1_000_000)
        before = nc.stats.out_messages
        with pytest.raises(RequestTimeoutError, match=r"could not be sent within 0\.01 s"):
            async with nc.request_many("svc", timeout=0.01):
                raise AssertionError("entered")
        with pytest.raises(RequestTimeoutError):
            await nc.request("svc", timeout=0.01)
        assert open_requests(nc) == 0
        assert nc.stats.out_messages == before


@pytest.mark.parametrize("options", [{}, {"stop_after": 1_000}])
async def test_waiting_replies_are_bounded_and_counted(options: dict[str, Any]) -> None:
    """The service chooses how much it answers, and how often."""
    limits = PendingLimits(messages=100, bytes=50_000)
    async with served(pending_limits=limits) as (nc, server), another(server) as other:
        async with other.subscribe("svc") as requests, nc.events() as events:
            await other.flush()
            async with nc.request_many("svc", b"?", timeout=HANG_TIMEOUT, **options) as replies:
                request = await requests.receive()
                for _ in range(1_000):
                    await request.respond(bytes(1_000))
                await other.flush()
                await nc.flush()
                assert replies.pending == (50, 50_000)
                assert (nc.stats.pending_messages, nc.stats.pending_bytes) == (50, 50_000)
                assert replies.dropped == nc.stats.dropped == 950
                assert await events.receive() == SlowConsumer("svc", 50, 50_000, 1)
                assert await receive_n(replies, 50) == [bytes(1_000)] * 50
                assert nc.stats.pending_messages == 0
                if options:
                    with pytest.raises(trio.EndOfChannel):
                        await replies.receive()
            assert nc.stats.subscriptions == 0


async def test_limits_of_its_own() -> None:
    limits = PendingLimits(messages=1)
    async with served() as (nc, server), another(server) as other:
        async with other.subscribe("svc") as requests:
            await other.flush()
            async with nc.request_many("svc", b"?", pending_limits=limits) as replies:
                request = await requests.receive()
                for number in range(3):
                    await request.respond(b"%d" % number)
                await other.flush()
                await nc.flush()
                assert await receive_n(replies, 1) == [b"0"]
                assert replies.dropped == 2


async def test_waiting_for_room_loses_nothing() -> None:
    limits = PendingLimits(messages=10, when_full="wait")
    async with served(pending_limits=limits) as (nc, server), another(server) as other:
        async with other.subscribe("svc") as requests:
            await other.flush()
            async with nc.request_many("svc", b"?", stop_after=1_000) as replies:
                request = await requests.receive()
                for number in range(1_000):
                    await request.respond(b"%d" % number)
                await other.flush()
                got = await all_of(replies)
            assert got == [b"%d" % number for number in range(1_000)]
            assert nc.stats.dropped == 0
        await nc.flush()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"stop_after": 0}, ConfigurationError),
        ({"stop_after": True}, TypeError),
        ({"stop_after": 1.5}, TypeError),
        ({"stall": 0}, ConfigurationError),
        ({"stall": -1}, ConfigurationError),
        ({"timeout": 0}, ConfigurationError),
        ({"timeout": "1"}, TypeError),
        ({"sentinel": 5}, TypeError),
        ({"pending_limits": 5}, TypeError),
    ],
)
async def test_invalid_options(options: dict[str, Any], kind: type[Exception]) -> None:
    async with scripted() as (nc, _):
        with pytest.raises(kind, match=next(iter(options))):
            nc.request_many("svc", **options)
