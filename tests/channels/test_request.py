"""Requests with one reply."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE
from tests.reliability.helpers import deliver, read_line, session
from tests.support.peer import Peer
from tests.transports import MOST, Transport
from trio_nats import (
    Connection,
    InvalidSubjectError,
    NoRespondersError,
    PermissionsViolationError,
    RequestTimeoutError,
    Subscription,
    UserPassword,
    open_nats,
)
from trio_nats.events import ServerError
from trio_nats.testing import NatsServer


async def echo(sub: Subscription) -> None:
    async for msg in sub:
        await msg.respond(msg.data, headers=msg.headers)


def reply_of(line: bytes) -> bytes:
    """The reply subject of a PUB line."""
    return line.split()[2]


def refused(subject: bytes, operation: bytes = b"Publish") -> bytes:
    return b"-ERR 'Permissions Violation for %b to \"%b\"'\r\n" % (operation, subject)


@MOST
async def test_request_and_reply(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("echo") as service:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, service)
            reply = await nc.request("echo", "text", headers={"k": "v"}, timeout=PATIENCE)
            assert reply.data == b"text"
            assert reply.headers is not None
            assert reply.headers["k"] == "v"
            assert reply.subject.startswith("_INBOX.")
            assert nc._core.requests.slots == {}
            nursery.cancel_scope.cancel()


@MOST
async def test_a_thousand_at_a_time(transport: Transport, nats_server: NatsServer) -> None:
    answers: dict[int, bytes] = {}

    async def ask(nc: Connection, number: int) -> None:
        answers[number] = (await nc.request("echo", b"%d" % number, timeout=30)).data

    async with transport.open(nats_server) as nc, transport.open(nats_server) as other:
        async with other.subscribe("echo") as service, trio.open_nursery() as nursery:
            await other.flush(PATIENCE)
            async with trio.open_nursery() as askers:
                for number in range(1000):
                    askers.start_soon(ask, nc, number)
                await trio.testing.wait_all_tasks_blocked()
                assert len(nc._core.requests.slots) == 1000
                nursery.start_soon(echo, service)
            assert answers == {number: b"%d" % number for number in range(1000)}
            assert nc._core.requests.slots == {}
            assert nc.stats.subscriptions == 0, "the inbox is not the user's"
            nursery.cancel_scope.cancel()


@MOST
async def test_no_responders(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc:
        for _ in range(2):
            with pytest.raises(NoRespondersError, match="nobody"), trio.fail_after(PATIENCE):
                await nc.request("nobody", timeout=100)
        assert nc._core.requests.slots == {}


@MOST
async def test_a_reply_with_the_status_503_and_data_is_a_reply(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        reply = reply_of(await read_line(peer, b"PUB ask"))
        head = b"NATS/1.0 503\r\n\r\n"
        await peer.send(b"HMSG %b 1 %d %d\r\n%bmine\r\n" % (reply, len(head), len(head) + 4, head))
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        assert (await nc.request("ask", timeout=PATIENCE)).data == b"mine"


@pytest.mark.parametrize("where", ["call", "connection"])
@MOST
async def test_timeouts(transport: Transport, nats_server: NatsServer, where: str) -> None:
    async with transport.open(nats_server, request_timeout=0.01) as nc, nc.subscribe("silence"):
        timeout = 0.02 if where == "call" else None
        expected = "0.02" if where == "call" else "0.01"
        with pytest.raises(RequestTimeoutError, match=rf"'silence' within {expected} s") as caught:
            await nc.request("silence", timeout=timeout)
        assert isinstance(caught.value, TimeoutError)
        assert nc._core.requests.slots == {}


@MOST
async def test_the_callers_own_deadline(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("silence"):
        with trio.move_on_after(0.01) as scope:
            await nc.request("silence")
        assert scope.cancelled_caught
        assert nc._core.requests.slots == {}


@MOST
async def test_a_late_reply_is_dropped_and_reaches_no_other_request(transport: Transport) -> None:
    late = trio.Event()

    async def script(peer: Peer) -> None:
        first = reply_of(await read_line(peer, b"PUB ask"))
        await late.wait()
        second = reply_of(await read_line(peer, b"PUB ask"))
        for _ in range(2):
            await peer.send(deliver(first, b"1", b"late"))
        await peer.send(deliver(second, b"1", b"right") + deliver(second, b"1", b"twice"))
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        with pytest.raises(RequestTimeoutError):
            await nc.request("ask", timeout=0.01)
        late.set()
        assert (await nc.request("ask", timeout=PATIENCE)).data == b"right"
        await nc.flush(PATIENCE)
        assert nc.stats.in_messages == 4
        assert nc.stats.pending_messages == 0


@MOST
async def test_a_forbidden_subject_fails_its_requests_at_once(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(2):
            await read_line(peer, b"PUB secret")
        open_reply = reply_of(await read_line(peer, b"PUB open"))
        await peer.send(refused(b"secret") + deliver(open_reply, b"1", b"fine"))
        await peer.send(refused(b"elsewhere"))
        await peer.serve()

    async def refuse(nc: Connection) -> None:
        with pytest.raises(PermissionsViolationError, match="secret"):
            await nc.request("secret", timeout=100)

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        with trio.fail_after(PATIENCE):
            async with nc.events() as events, trio.open_nursery() as nursery:
                nursery.start_soon(refuse, nc)
                nursery.start_soon(refuse, nc)
                await trio.testing.wait_all_tasks_blocked()
                assert (await nc.request("open")).data == b"fine"
                # No request waits for this one, so it is an event. The other was none.
                event = await events.receive()
                assert isinstance(event, ServerError)
                assert isinstance(event.error, PermissionsViolationError)
                assert event.error.subject == "elsewhere"
        assert nc._core.requests.slots == {}


@MOST
async def test_a_forbidden_inbox_fails_all_requests_at_once(
    transport: Transport, nats_server_factory: Any
) -> None:
    user = {
        "user": "u",
        "password": "p",
        "permissions": {"subscribe": {"allow": ["mine.>", "service"]}},
    }
    server = await nats_server_factory(
        **transport.server_options, config={"authorization": {"users": [user]}}
    )
    options = {"auth": UserPassword("u", "p"), "plaintext_auth": "allow"}
    async with transport.open(server, **options) as nc:
        with trio.fail_after(PATIENCE):
            async with nc.subscribe("service"):
                for _ in range(2):  # the next one subscribes anew, and hears of it too
                    with pytest.raises(PermissionsViolationError, match="_INBOX"):
                        await nc.request("service", timeout=100)
                    async with nc.request_many("service", timeout=100) as replies:
                        with pytest.raises(PermissionsViolationError, match="_INBOX"):
                            await replies.receive()
        assert nc._core.requests.slots == {}
    async with transport.open(server, **options, inbox_prefix="mine.own") as nc:
        async with nc.subscribe("service") as service, trio.open_nursery() as nursery:
            nursery.start_soon(echo, service)
            reply = await nc.request("service", b"x", timeout=PATIENCE)
            assert reply.subject.startswith("mine.own.")
            assert nc.new_inbox().startswith("mine.own.")
            nursery.cancel_scope.cancel()


@MOST
async def test_a_connection_without_requests_needs_no_inbox(transport: Transport) -> None:
    async with transport.scripted(session()) as server:
        async with transport.open(server) as nc:
            await nc.publish("news")
        assert not any(line.startswith(b"SUB") for line in (await server.peer()).lines)


@pytest.mark.parametrize("prefix", ["", "a b", "a..b", "a.", "a.*", ">", "a\r\nPING", 5])
def test_inbox_prefixes_that_cannot_be(prefix: Any) -> None:
    with pytest.raises(InvalidSubjectError, match="inbox prefix"):
        open_nats(inbox_prefix=prefix)


async def test_inboxes_are_never_the_same(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        assert len({nc.new_inbox() for _ in range(1000)}) == 1000
