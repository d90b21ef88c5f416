"""Requests: each gets its own reply, or learns soon why there will be none."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.messages.helpers import another, barrier, hmsg, msg, next_event, scripted, served
from tests.support.peer import Peer, ScriptedServer
from trio_nats import (
    ConfigurationError,
    Connection,
    ConnectionLostError,
    InvalidSubjectError,
    Msg,
    NoRespondersError,
    PendingLimits,
    PermissionsViolationError,
    ReconnectPolicy,
    RequestTimeoutError,
    Subscription,
    UserPassword,
    open_nats,
)
from trio_nats.events import ServerError

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
        assert (await nc.request("svc.up")).data == b""
        assert nc._core.requests.slots == {}


async def test_a_thousand_at_a_time_each_get_their_own() -> None:
    got: dict[int, bytes] = {}

    async def ask(nc: Connection, number: int) -> None:
        got[number] = (await nc.request("svc", b"%d" % number)).data

    async with served(pending=PendingLimits(messages=1)) as (nc, server):
        async with another(server) as other, other.subscribe("svc") as requests:
            await other.flush()
            async with trio.open_nursery() as nursery:
                for number in range(1000):
                    nursery.start_soon(ask, nc, number)
                waiting = [await requests.receive() for _ in range(1000)]
                assert len(nc._core.requests.slots) == 1000
                for request in reversed(waiting):
                    await request.respond(b"re " + request.data)
        assert got == {number: b"re %d" % number for number in range(1000)}
        assert nc._core.requests.slots == {}
        # Replies are never dropped by a limit.
        assert nc.stats.dropped == 0


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


async def test_no_reply_subject_leads_to_another() -> None:
    """Or whoever is asked could answer what others are asked."""
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
async def test_a_reply_subject_that_cannot_be_breaks_no_loop(reply: bytes) -> None:
    async with served() as (nc, server), nc.subscribe("svc") as requests:
        await nc.flush()
        async with another(server) as other:
            other._core.outbox.append((b"PUB svc %b 1\r\n" % reply, b"x", b"\r\n"))
            request = await requests.receive()
            assert request.raw_reply == reply
            before = nc.stats.out_messages
            await request.respond(b"y")
            assert nc.stats.out_messages == before


async def test_whoever_makes_no_request_subscribes_to_no_inbox() -> None:
    async with scripted() as (nc, peer):
        nc.request_many("svc")
        assert nc.new_inbox().startswith("_INBOX.")
        await nc.publish("end", b"")
        assert await peer.expect_line() == b"PUB end 0"
        assert nc.stats.subscriptions == 0


@pytest.mark.parametrize("prefix", ["", "a b", "a.*", "a.>", ".a", "a.", "a\r\nSUB x", b"a"])
def test_inbox_prefixes_that_cannot_be(prefix: Any) -> None:
    with pytest.raises(InvalidSubjectError, match="inbox prefix"):
        open_nats(inbox_prefix=prefix)


async def test_inboxes_of_ones_own() -> None:
    async with served(inbox_prefix="my") as (nc, _):
        inbox = nc.new_inbox()
        assert inbox.startswith("my.")
        assert inbox != nc.new_inbox()
        async with nc.subscribe("svc") as requests, nc.subscribe(inbox) as replies:
            await nc.publish("svc", b"?", reply=inbox)
            await (await requests.receive()).respond(b"!")
            assert (await replies.receive()).data == b"!"


# --- no replies -----------------------------------------------------------------------------------


async def test_nobody_is_there() -> None:
    async with served() as (nc, _):
        for _ in range(2):
            with pytest.raises(NoRespondersError, match=r"'no\.body'") as caught:
                await nc.request("no.body", b"x")
            assert caught.value.subject == "no.body"
        assert nc._core.requests.slots == {}


@pytest.mark.parametrize(
    ("headers", "data", "is_reply"),
    [
        (b"NATS/1.0 503\r\n\r\n", b"", False),
        (b"NATS/1.0 503 No Responders\r\nNats-Subject: svc\r\n\r\n", b"", False),
        (b"NATS/1.0 503\r\n\r\n", b"a service said so", True),
        (b"NATS/1.0 404\r\n\r\n", b"", True),
        (b"NATS/1.0\r\nStatus: 503\r\n\r\n", b"", True),
    ],
)
async def test_what_counts_as_no_responders(headers: bytes, data: bytes, is_reply: bool) -> None:
    async with scripted() as (nc, peer), trio.open_nursery() as nursery:

        async def ask() -> None:
            if is_reply:
                assert (await nc.request("svc")).data == data
            else:
                with pytest.raises(NoRespondersError):
                    await nc.request("svc")

        nursery.start_soon(ask)
        await peer.expect_line(b"SUB")
        inbox = (await peer.expect_line(b"PUB svc")).split()[2].decode()
        await peer.send(hmsg(inbox, 1, headers, data))


async def test_nobody_answers_in_time() -> None:
    async with served(request_timeout=0.02) as (nc, _), nc.subscribe("svc") as requests:
        with pytest.raises(RequestTimeoutError, match=r"'svc' within 0\.02 s") as caught:
            await nc.request("svc", b"by default")
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(RequestTimeoutError, match=r"within 0\.01 s"):
            await nc.request("svc", b"by choice", timeout=0.01)
        assert nc._core.requests.slots == {}
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


async def test_cancelling_forgets_the_reply() -> None:
    async with scripted() as (nc, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nc.request, "svc")
            await peer.expect_line(b"SUB")
            inbox = (await peer.expect_line(b"PUB svc")).split()[2].decode()
            assert len(nc._core.requests.slots) == 1
            nursery.cancel_scope.cancel()
        assert nc._core.requests.slots == {}
        await peer.send(msg(inbox, 1, b"late"))
        await peer.receive_exactly(2)
        await barrier(peer)
        assert nc.stats.in_messages == 1


async def test_a_server_without_headers_cannot_say_that_nobody_is_there() -> None:
    async with scripted({"headers": False}) as (nc, peer):
        assert peer.connect["no_responders"] is False
        with pytest.raises(ConfigurationError, match="headers"):
            await nc.request("svc", headers={"k": "v"})
        with pytest.raises(ConfigurationError, match="headers"):
            nc.request_many("svc", headers={"k": "v"})
        with pytest.raises(RequestTimeoutError):
            await nc.request("svc", timeout=0.01)


@pytest.mark.parametrize("subject", ["", "svc.*", "a b", None])
async def test_subjects_that_cannot_be_asked(subject: Any) -> None:
    async with scripted() as (nc, _):
        with pytest.raises(InvalidSubjectError):
            await nc.request(subject)
        assert nc._core.requests.slots == {}


# --- what the server forbids ----------------------------------------------------------------------


async def test_a_forbidden_subject_fails_the_requests_to_it_only() -> None:
    async with scripted() as (nc, peer), trio.open_nursery() as nursery:
        denied = 0

        async def ask_in_vain() -> None:
            nonlocal denied
            with pytest.raises(PermissionsViolationError) as caught:
                await nc.request("secret.x")
            assert (caught.value.operation, caught.value.subject) == ("publish", "secret.x")
            denied += 1

        async def ask() -> None:
            assert (await nc.request("svc")).data == b"!"

        await peer.send(b"-ERR 'Permissions Violation for Publish to \"secret.x\"'\r\n")
        await barrier(peer)  # that was nobody's
        nursery.start_soon(ask)
        await peer.expect_line(b"SUB")
        inbox = (await peer.expect_line(b"PUB svc")).split()[2].decode()
        await peer.receive_exactly(2)
        nursery.start_soon(ask_in_vain)
        nursery.start_soon(ask_in_vain)
        for _ in range(2):
            await peer.expect_line(b"PUB secret.x")
            await peer.receive_exactly(2)
        await peer.send(b"-ERR 'Permissions Violation for Publish to \"secret.x\"'\r\n")
        await barrier(peer)
        assert denied == 2
        await peer.send(msg(inbox, 1, b"!"))


async def test_a_forbidden_inbox_fails_all_requests_and_the_next_one_tries_again() -> None:
    async with scripted() as (nc, peer), trio.open_nursery() as nursery:

        async def ask_in_vain(subject: str) -> None:
            with pytest.raises(PermissionsViolationError) as caught:
                await nc.request(subject)
            assert caught.value.operation == "subscription"

        nursery.start_soon(ask_in_vain, "one")
        inbox = (await peer.expect_line(b"SUB")).split()[1]
        await peer.expect_line(b"PUB one")
        await peer.receive_exactly(2)
        nursery.start_soon(ask_in_vain, "two")
        await peer.expect_line(b"PUB two")
        await peer.receive_exactly(2)
        await peer.send(b"-ERR 'Permissions Violation for Subscription to \"%b\"'\r\n" % inbox)
        await barrier(peer)
        assert nc._core.requests.slots == {}

        async def ask() -> None:
            assert (await nc.request("three")).data == b"!"

        nursery.start_soon(ask)
        assert await peer.expect_line() == b"SUB %b 2" % inbox
        reply = (await peer.expect_line(b"PUB three")).split()[2].decode()
        await peer.send(msg(reply, 2, b"!"))


@pytest.mark.parametrize(
    ("permissions", "operation"),
    [
        ('publish: { deny: "svc" }', "publish"),
        ('subscribe: { deny: "_INBOX.>" }', "subscription"),
    ],
)
async def test_a_real_server_forbids_a_request(permissions: str, operation: str) -> None:
    config = f"authorization {{ users: [{{ user: u, password: p, permissions: {{ {permissions} }} "
    async with served(config + "}] }", auth=UserPassword("u", "p")) as (nc, _):
        async with nc.subscribe("svc"):
            for _ in range(2):
                with pytest.raises(PermissionsViolationError) as caught:
                    await nc.request("svc", timeout=8)
                assert caught.value.operation == operation
            with pytest.raises(PermissionsViolationError):
                async with nc.request_many("svc", timeout=8) as replies:
                    await replies.receive()


async def test_a_forbidden_reply_subject_fails_its_request() -> None:
    async with scripted() as (nc, peer), trio.open_nursery() as nursery:
        failed = trio.Event()

        async def ask_in_vain() -> None:
            with pytest.raises(PermissionsViolationError):
                await nc.request("svc")
            failed.set()

        nursery.start_soon(ask_in_vain)
        await peer.expect_line(b"SUB")
        inbox = (await peer.expect_line(b"PUB svc")).split()[2]
        await peer.receive_exactly(2)
        text = b'Permissions Violation for Publish with Reply of "%b"' % inbox
        await peer.send(b"-ERR '%b'\r\n" % text)
        await barrier(peer)
        assert failed.is_set()


async def test_a_forbidden_publish_that_is_no_request_is_an_event() -> None:
    async with scripted() as (nc, peer), nc.events() as events:
        await peer.send(b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n")
        error = (await next_event(events, ServerError)).error
        assert isinstance(error, PermissionsViolationError)
        assert error.subject == "a"


# --- the end of the connection --------------------------------------------------------------------


async def test_every_failed_request_has_a_traceback_of_its_own() -> None:
    errors: list[Exception] = []

    async def ask() -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await nc.request("svc")
        errors.append(caught.value)

    async with scripted() as (nc, _), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await nc.aclose()
    assert len(errors) == 3
    for error in errors:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.count("ask") == 1


@pytest.mark.parametrize("policy", ["wait", "fail"])
async def test_requests_and_a_lost_connection(policy: Any) -> None:
    asked: list[bytes] = []

    async def dies(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await peer.expect_line(b"SUB")
        asked.append((await peer.expect_line(b"PUB svc")).split()[2])
        peer.abort()

    async def answers(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        sid = (await peer.expect_line(b"SUB")).split()[-1]
        await peer.send(msg(asked[0].decode(), sid, b"from elsewhere"))
        await peer.serve()

    again = ReconnectPolicy(wait=0, requests=policy)
    async with ScriptedServer(dies, answers) as server:
        async with open_nats(server.url, reconnect=again) as nc:
            if policy == "wait":
                assert (await nc.request("svc")).data == b"from elsewhere"
            else:
                with pytest.raises(ConnectionLostError):
                    await nc.request("svc")
            assert nc._core.requests.slots == {}
            await nc.wait_for_state("open")
            assert nc.stats.reconnects == 1
