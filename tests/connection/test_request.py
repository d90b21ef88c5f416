"""Requests: each gets its own reply, or learns soon why there will be none."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.connection.helpers import (
    another,
    barrier,
    errors_of_waiters,
    hmsg,
    msg,
    nothing_was_sent,
    read_request,
    scripted,
    served,
)
from tests.support.internals import open_requests
from tests.support.peer import Peer
from tests.support.raw import raw_connection
from tests.support.scripts import session
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import (
    Connection,
    ConnectionLostError,
    InvalidSubjectError,
    Msg,
    NoRespondersError,
    PendingLimits,
    ReconnectPolicy,
    RequestTimeoutError,
    Subscription,
    open_nats,
)

# --- replies --------------------------------------------------------------------------------------


async def _answer(nc: Connection, subject: str, task_status: trio.TaskStatus[None]) -> None:
    """Answer every request with what it holds, in capitals, and the headers it came with."""
    async with nc.subscribe(subject) as requests:
        await nc.flush()
        task_status.started()
        async for message in requests:
            await message.respond(message.data.upper(), headers=message.headers)


@asynccontextmanager
async def answering(subject: str, **options: Any) -> AsyncIterator[Connection]:
    """A connection to a server where somebody else answers."""
    async with served(**options) as (nc, server), another(server) as other:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: _answer(other, subject, task_status))
            yield nc
            nursery.cancel_scope.cancel()


async def test_a_request_gets_its_reply() -> None:
    async with answering("svc.*") as nc:
        reply = await nc.request("svc.up", "hello", headers={"k": "v"})
        assert isinstance(reply, Msg)
        assert (reply.data, reply.headers["k"], reply.reply) == (b"HELLO", "v", None)
        assert reply.subject.startswith("_INBOX.")
        assert (await nc.request("svc.up")).data == b""
        assert open_requests(nc) == 0


@ALL_BUT_WSS
async def test_a_thousand_at_a_time_each_get_their_own() -> None:
    got: dict[int, bytes] = {}

    async def ask(nc: Connection, number: int) -> None:
        got[number] = (await nc.request("svc", b"%d" % number)).data

    async with served(pending_limits=PendingLimits(messages=1)) as (nc, server):
        async with another(server) as other, other.subscribe("svc") as requests:
            await other.flush()
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(ask, nc, number)
                waiting = [await requests.receive() for _ in range(1000)]
                assert open_requests(nc) == 1000
                for request in reversed(waiting):
                    await request.respond(b"re " + request.data)
        assert got == {number: b"re %d" % number for number in range(1000)}
        assert open_requests(nc) == 0
        # Of single replies none is dropped by a limit.
        assert nc.stats.dropped == 0
        assert nc.stats.subscriptions == 0, "the inbox is not the user's"


async def test_the_frames_of_requests() -> None:
    async with scripted(inbox_prefix="my.box") as (nc, peer), trio.open_nursery() as nursery:
        nursery.start_soon(nc.request, "svc", b"1")
        inbox = (await peer.expect_line(b"SUB my.box.")).split()[1]
        assert inbox.endswith(b".*")
        prefix = inbox[:-1]
        one = (await peer.expect_line(b"PUB svc " + prefix)).removesuffix(b" 1").split()[-1]
        await peer.receive_exactly(3)
        nursery.start_soon(lambda: nc.request("svc", b"2", headers={"k": "v"}))
        two = (await peer.expect_line(b"HPUB svc " + prefix)).removesuffix(b" 18 19").split()[-1]
        await peer.receive_exactly(21)
        await peer.send(msg(two.decode(), 1, b"") + msg(one.decode(), 1, b""))


@pytest.mark.slow
async def test_no_reply_subject_leads_to_another() -> None:
    """Or a service could answer requests to others."""
    async with served() as (nc, _):
        tokens: set[str] = set()

        async def collect(sub: Subscription) -> None:
            async for msg in sub:
                assert msg.reply is not None
                tokens.add(msg.reply.rpartition(".")[2])
                await msg.respond()

        async with nc.subscribe("svc") as sub, trio.open_nursery() as nursery:
            nursery.start_soon(collect, sub)
            for _ in range(300):
                await nc.request("svc")
            nursery.cancel_scope.cancel()
    assert len(tokens) == len({token[:6] for token in tokens}) == 300
    assert len({token[6:] for token in tokens}) == 300


@pytest.mark.parametrize("reply", [b">", b"a.*", b"a..b", b".a", b"\x01", b"\v", b"\xff"])
async def test_an_invalid_reply_subject_does_not_end_the_loop(reply: bytes) -> None:
    async with served() as (nc, server), nc.subscribe("svc") as requests:
        await nc.flush()
        async with raw_connection(server) as raw:
            await raw.send(b"PUB svc %b 1\r\nx\r\n" % reply)
            request = await requests.receive()
            assert request.raw_reply == reply
            before = nc.stats.out_messages
            await request.respond(b"y")
            assert nc.stats.out_messages == before


async def test_no_request_no_subscription_to_an_inbox() -> None:
    async with scripted() as (nc, peer):
        nc.request_many("svc")
        assert nc.new_inbox().startswith("_INBOX.")
        await nothing_was_sent(nc, peer)
        assert nc.stats.subscriptions == 0


@pytest.mark.parametrize("prefix", ["", "a b", "a..b", "a.*", "a.>", ">", ".a", "a.", "a\r\nSUB x"])
def test_inbox_prefixes_that_cannot_be(prefix: Any) -> None:
    with pytest.raises(InvalidSubjectError, match="inbox prefix"):
        open_nats(inbox_prefix=prefix)


@pytest.mark.parametrize("prefix", [b"a", 5])
def test_inbox_prefixes_of_another_type(prefix: Any) -> None:
    with pytest.raises(TypeError, match="inbox prefix must be a str"):
        open_nats(inbox_prefix=prefix)


async def test_a_given_inbox_prefix() -> None:
    async with served(inbox_prefix="my.own") as (nc, _):
        inbox = nc.new_inbox()
        assert inbox.startswith("my.own.")
        assert len({nc.new_inbox() for _ in range(1000)} | {inbox}) == 1001
        async with nc.subscribe("svc") as requests, nc.subscribe(inbox) as replies:
            await nc.publish("svc", b"?", reply=inbox)
            await (await requests.receive()).respond(b"!")
            assert (await replies.receive()).data == b"!"


# --- no replies -----------------------------------------------------------------------------------


async def test_a_request_without_responders() -> None:
    async with served() as (nc, _):
        for _ in range(2):
            with pytest.raises(NoRespondersError, match=r"'no\.body'") as caught:
                await nc.request("no.body", b"x", timeout=100)
            assert caught.value.subject == "no.body"
        assert open_requests(nc) == 0


@pytest.mark.parametrize(
    ("headers", "data", "is_reply"),
    [
        (b"NATS/1.0 503\r\n\r\n", b"", False),
        (b"NATS/1.0 503 No Responders\r\nNats-Subject: svc\r\n\r\n", b"", False),
        (b"NATS/1.0 503\r\n\r\n", b"a service said so", True),
        # A stored message: servers before 2.12 keep the status line of its publisher.
        (b"NATS/1.0 503\r\nNats-Stream: S\r\nNats-Sequence: 1\r\n\r\n", b"", True),
        (b"NATS/1.0 404\r\n\r\n", b"", True),
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", b"", True),
    ],
)
async def test_which_replies_mean_no_responders(
    headers: bytes, data: bytes, is_reply: bool
) -> None:
    async with scripted() as (nc, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            if is_reply:
                assert (await nc.request("svc")).data == data
            else:
                with pytest.raises(NoRespondersError):
                    await nc.request("svc")

        nursery.start_soon(ask)
        await peer.send(hmsg(await read_request(peer, "svc"), 1, headers, data))


async def test_nobody_answers_in_time() -> None:
    async with served(request_timeout=0.02) as (nc, _), nc.subscribe("svc") as requests:
        with pytest.raises(RequestTimeoutError, match=r"'svc' within 0\.02 s") as caught:
            await nc.request("svc", b"by default")
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(RequestTimeoutError, match=r"within 0\.01 s"):
            await nc.request("svc", b"by choice", timeout=0.01)
        assert open_requests(nc) == 0
        # Answered too late, it does not come out of another request.
        for _ in range(2):
            await (await requests.receive()).respond(b"late")
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await (await requests.receive()).respond(b"in time")

            nursery.start_soon(answer)
            assert (await nc.request("svc", timeout=5)).data == b"in time"


async def test_a_second_reply_is_dropped() -> None:
    async with served() as (nc, _), nc.subscribe("svc") as requests:
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                for _ in range(2):
                    request = await requests.receive()
                    await request.respond(b"first to " + request.data)
                    await request.respond(b"second to " + request.data)

            nursery.start_soon(answer)
            assert (await nc.request("svc", b"one")).data == b"first to one"
            assert (await nc.request("svc", b"two")).data == b"first to two"
        await nc.flush()
        assert (nc.stats.in_messages, nc.stats.pending_messages) == (2 * 3, 0)


async def test_the_callers_own_deadline() -> None:
    async with served() as (nc, _), nc.subscribe("svc"):
        with trio.move_on_after(0.01) as scope:
            await nc.request("svc")
        assert scope.cancelled_caught
        assert open_requests(nc) == 0


async def test_cancelling_forgets_the_reply() -> None:
    async with scripted() as (nc, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nc.request, "svc")
            inbox = await read_request(peer, "svc")
            assert open_requests(nc) == 1
            nursery.cancel_scope.cancel()
        assert open_requests(nc) == 0
        await peer.send(msg(inbox, 1, b"late"))
        await barrier(peer)
        assert nc.stats.in_messages == 1


# --- the end of the connection --------------------------------------------------------------------


async def test_every_failed_request_has_a_traceback_of_its_own() -> None:
    async with scripted() as (nc, _), errors_of_waiters(lambda: nc.request("svc"), 3) as errors:
        await nc.aclose()
    assert [type(error) for error in errors] == [trio.ClosedResourceError] * 3
    for error in errors:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.count("waiter") == 1


@ALL_BUT_WSS
@pytest.mark.parametrize("policy", ["wait", "fail"])
async def test_requests_and_a_lost_connection(policy: Any, transport: Transport) -> None:
    asked: list[str] = []

    async def dies(peer: Peer) -> None:
        asked.append(await read_request(peer, "svc"))
        peer.abort()

    async def answers(peer: Peer) -> None:
        sid = (await peer.expect_line(b"SUB")).split()[-1]
        await peer.send(msg(asked[0], sid, b"from elsewhere"))
        await peer.serve()

    again = ReconnectPolicy(wait=0, requests=policy)
    async with transport.scripted(session(dies), session(answers)) as server:
        async with transport.open(server, reconnect=again) as nc:
            if policy == "wait":
                assert (await nc.request("svc")).data == b"from elsewhere"
            else:
                with pytest.raises(ConnectionLostError):
                    await nc.request("svc")
            assert open_requests(nc) == 0
            await nc.wait_for_state("open")
            assert nc.stats.reconnects == 1
