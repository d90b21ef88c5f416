"""What waits while the server is away: publishers, requests, and tasks that watch the state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.connection.helpers import fill
from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    deliver,
    eventually,
    frames_of,
    read_line,
    receive_n,
    session,
    until,
)
from tests.support.peer import Peer
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import (
    ConnectionLostError,
    ConnectionState,
    NoRespondersError,
    OutboxFullError,
    RequestTimeoutError,
    open_nats,
)
from trio_nats.events import Disconnected
from trio_nats.testing import NatsServer

# -- the outbox ----------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_a_full_outbox_makes_publishers_wait_for_the_server(transport: Transport) -> None:
    async with transport.server() as server:
        async with (
            transport.open(server, outbox_size=1000, reconnect=QUICK) as nc,
            nc.subscribe("a") as sub,
            nc.events() as events,
        ):
            await server.kill()
            await until(events, Disconnected)
            accepted = 0

            async def publish() -> None:
                nonlocal accepted
                for number in range(100):
                    await nc.publish("a", b"%03d" % number + b"." * 97)
                    accepted += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                await eventually(lambda: accepted == 9)
                with pytest.raises(TimeoutError):
                    await nc.flush(timeout=0.05)
                assert accepted == nc.stats.out_messages == 9
                assert 1000 <= nc.stats.outbox_bytes < 1113
                await server.start()
                got = await receive_n(sub, 100)
            assert [int(msg.data[:3]) for msg in got] == list(range(100))


@ALL_BUT_WSS
async def test_a_publisher_that_gives_up_waiting_has_published_nothing(
    transport: Transport,
) -> None:
    async with transport.server() as server:
        async with (
            transport.open(server, outbox_size=100, reconnect=QUICK) as nc,
            nc.subscribe("a") as sub,
            nc.events() as events,
        ):
            await server.kill()
            await until(events, Disconnected)
            await nc.publish("a", b"1" * 100)
            with trio.move_on_after(0.05) as scope:
                await nc.publish("a", b"2")
            assert scope.cancelled_caught
            await server.start()
            await nc.publish("a", b"3")
            assert [msg.data for msg in await receive_n(sub, 2)] == [b"1" * 100, b"3"]


@ALL_BUT_WSS
async def test_a_full_outbox_can_be_an_error_instead(transport: Transport) -> None:
    async with transport.server() as server:
        async with (
            transport.open(
                server, outbox_size=1000, when_outbox_full="raise", reconnect=QUICK
            ) as nc,
            nc.subscribe("a") as sub,
            nc.events() as events,
        ):
            await server.kill()
            await until(events, Disconnected)
            sent = 0
            with pytest.raises(OutboxFullError, match="outbox_size is 1,000"):
                while True:
                    await nc.publish("a", b"%d" % sent)
                    sent += 1
            assert sent == nc.stats.out_messages
            with pytest.raises(OutboxFullError):
                await nc.request("a", timeout=1)
            await server.start()
            assert [int(msg.data) for msg in await receive_n(sub, sent)] == list(range(sent))


@ALL_BUT_WSS
async def test_what_was_being_written_is_counted_and_said_to_nobody_else(
    transport: Transport,
) -> None:
    half, breaking = trio.Event(), trio.Event()
    size = 20_000_000

    async def first(peer: Peer) -> None:
        await peer.expect_line(b"PUB a")
        await peer.receive_exactly(1_000_000)
        half.set()
        await breaking.wait()
        peer.abort()

    room = {"max_payload": size}
    async with transport.scripted(session(first, **room), session(**room)) as server:
        async with transport.open(server, outbox_size=2 * size, reconnect=QUICK) as nc:
            await nc.publish("a", b"." * size)
            await nc.publish("a", b"behind it")
            with trio.fail_after(HANG_TIMEOUT):
                await half.wait()
                async with nc.subscribe("late"), trio.open_nursery() as nursery:
                    async with nc.subscribe("gone"):
                        pass
                    # Behind the subscription, which waits to be written like all of this.
                    nursery.start_soon(nc.flush)
                    await trio.testing.wait_all_tasks_blocked()
                    breaking.set()
            assert nc.stats.lost_in_flight == 1
            assert nc.stats.reconnects == 1
            await nc.flush(timeout=HANG_TIMEOUT)
            second = await server.peer(1)
            assert frames_of(second)[:6] == [
                b"CONNECT",
                b"PING",
                b"PING",
                b"SUB late 1",
                b"PUB a 9",
                b"PING",
            ]
            assert second.payloads == [b"behind it"]
            assert nc.stats.out_messages == 2


# -- requests ------------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_a_request_waits_for_its_reply_over_a_reconnect(transport: Transport) -> None:
    asked: list[bytes] = []

    async def first(peer: Peer) -> None:
        asked.append((await read_line(peer, b"PUB svc")).split()[2])
        peer.close()

    async def second(peer: Peer) -> None:
        inbox = (await read_line(peer, b"SUB _INBOX")).split()
        await peer.send(deliver(asked[0], inbox[2], b"late, but here"))
        await peer.serve()

    async with transport.scripted(session(first), session(second)) as server:
        async with transport.open(server, reconnect=QUICK) as nc:
            reply = await nc.request("svc", b"?", timeout=HANG_TIMEOUT)
            assert reply.data == b"late, but here"
            assert nc.stats.reconnects == 1
            # It was written, so it is not repeated.
            assert (await server.peer(1)).payloads == []


@ALL_BUT_WSS
async def test_requests_fail_at_once_by_choice(transport: Transport) -> None:
    both = trio.Event()

    async def first(peer: Peer) -> None:
        await read_line(peer, b"PUB svc.2")
        both.set()
        peer.close()

    policy = replace(QUICK, requests="fail")
    async with transport.scripted(session(first), session()) as server:
        async with transport.open(server, reconnect=policy) as nc:
            errors: list[ConnectionLostError] = []

            async def ask(subject: str) -> None:
                with pytest.raises(ConnectionLostError) as caught:
                    await nc.request(subject, timeout=HANG_TIMEOUT)
                errors.append(caught.value)

            with trio.fail_after(HANG_TIMEOUT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, "svc.1")
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(ask, "svc.2")
            assert len(errors) == 2
            assert transport.url(server) in str(errors[0])
            with pytest.raises(RequestTimeoutError):
                await nc.request("svc", timeout=0.1)


async def test_a_request_that_has_failed_is_not_sent_later(nats_server: NatsServer) -> None:
    policy = replace(QUICK, requests="fail")
    async with (
        open_nats(nats_server.url, reconnect=policy) as nc,
        # The next server hears of it before it gets what waits.
        nc.subscribe(">") as received,
    ):
        await nc.flush()
        nats_server.pause()
        # The server reads no more, so that the request waits behind these.
        await fill(nc, 1_000_000)

        async def ask() -> None:
            with pytest.raises(ConnectionLostError):
                await nc.request("svc", b"failed", headers={"a": "b"}, timeout=HANG_TIMEOUT)

        with trio.fail_after(HANG_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                await nc.publish("other", reply="somebody")
                await nats_server.kill()
                await nats_server.start()
            await nc.publish("end")
            subjects = []
            while not subjects or subjects[-1] != "end":
                subjects.append((await received.receive()).subject)
        assert "other" in subjects
        assert "svc" not in subjects


@ALL_BUT_WSS
async def test_requests_made_while_the_server_is_away_are_answered_when_it_is_back(
    transport: Transport,
) -> None:
    answered = trio.Event()
    async with transport.server() as server:
        async with (
            transport.open(server, reconnect=QUICK) as asker,
            transport.open(server, reconnect=QUICK) as answerer,
            answerer.subscribe("svc") as service,
            asker.events() as events,
            trio.open_nursery() as nursery,
        ):
            await server.kill()
            await until(events, Disconnected)
            with pytest.raises(RequestTimeoutError):
                await asker.request("svc", timeout=0.05)

            async def serve() -> None:
                async for msg in service:
                    await msg.respond(b"re: " + msg.data)

            async def ask() -> None:
                # The service may be the later one to be back.
                while True:
                    try:
                        reply = await asker.request("svc", b"x", timeout=HANG_TIMEOUT)
                        break
                    except NoRespondersError:
                        await answerer.flush(timeout=HANG_TIMEOUT)
                assert reply.data == b"re: x"
                answered.set()

            nursery.start_soon(serve)
            nursery.start_soon(ask)
            # Clients may be served before the task that starts the server knows.
            await server.start()
            with trio.fail_after(HANG_TIMEOUT):
                await answered.wait()
            nursery.cancel_scope.cancel()


@ALL_BUT_WSS
async def test_replies_to_many_go_on_over_a_reconnect(transport: Transport) -> None:
    asked: list[bytes] = []

    async def first(peer: Peer) -> None:
        inbox = (await read_line(peer, b"SUB _INBOX")).split()
        asked.append((await read_line(peer, b"PUB svc")).split()[2])
        await peer.send(deliver(asked[0], inbox[2], b"one"))
        await read_line(peer, b"PUB cut")
        peer.close()

    async def second(peer: Peer) -> None:
        inbox = (await read_line(peer, b"SUB _INBOX")).split()
        await peer.send(deliver(asked[0], inbox[2], b"two"))
        await peer.serve()

    async with transport.scripted(session(first), session(second)) as server:
        async with transport.open(server, reconnect=QUICK) as nc:
            many = nc.request_many("svc", timeout=HANG_TIMEOUT, stop_after=2)
            async with many as replies:
                assert (await replies.receive()).data == b"one"
                await nc.publish("cut")
                assert (await replies.receive()).data == b"two"


# -- the state -----------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_the_state_can_be_waited_for(transport: Transport) -> None:
    async with transport.server() as server:
        async with transport.open(server, reconnect=QUICK) as nc:
            seen: list[ConnectionState] = []

            async def watch(*states: ConnectionState) -> None:
                seen.append(await nc.wait_for_state(*states))

            with trio.fail_after(HANG_TIMEOUT):
                assert await nc.wait_for_state(ConnectionState.OPEN) is ConnectionState.OPEN
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch, ConnectionState.RECONNECTING)
                    await server.kill()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch, ConnectionState.OPEN, ConnectionState.CLOSED)
                    await server.start()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch, ConnectionState.DRAINING)
                    await trio.testing.wait_all_tasks_blocked()
                    await nc.drain()
                assert await nc.wait_for_state(ConnectionState.CLOSED) is ConnectionState.CLOSED
            assert seen == ["reconnecting", "open", "draining"]
            with pytest.raises(trio.ClosedResourceError):
                await nc.wait_for_state(ConnectionState.OPEN)


@ALL_BUT_WSS
async def test_waiting_for_a_state_that_cannot_come_any_more_ends_with_the_connection(
    transport: Transport,
) -> None:
    async with transport.scripted(session()) as server, transport.open(server) as nc:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await nc.wait_for_state(ConnectionState.RECONNECTING)

            nursery.start_soon(watch)
            await trio.testing.wait_all_tasks_blocked()
            await nc.aclose()


@ALL_BUT_WSS
async def test_flush_gives_up_in_time(transport: Transport) -> None:
    async with transport.server() as server:
        async with transport.open(server, reconnect=QUICK, close_timeout=0.1) as nc:
            await server.kill()
            await nc.wait_for_state(ConnectionState.RECONNECTING)
            with pytest.raises(TimeoutError):
                await nc.flush(timeout=0.05)
            with pytest.raises(TimeoutError):
                await nc.rtt(timeout=0.05)
