"""Closing in every state and in every way: nobody is left waiting, and nothing is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    eventually,
    read_line,
    receive_n,
    session,
    until,
)
from tests.support.certs import certificates
from tests.support.peer import Peer, ScriptedServer
from tests.support.scripts import stall_at_once
from tests.transports import ALL_BUT_WSS, TCP, TLS, TRANSPORTS, WS, WSS, Transport
from trio_nats import (
    Connection,
    ConnectionLostError,
    ConnectionState,
    ReconnectPolicy,
    TLSOptions,
)
from trio_nats.events import Closed, Disconnected, Reconnected

SLOW = ReconnectPolicy(wait=1000, max_wait=1000, jitter=0)
"""Is found in its backoff whenever one looks."""

BEHIND = ReconnectPolicy(retry_on_initial_connect=True, wait=0)
NEVER = ReconnectPolicy(max_attempts=0)

# -- the states ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A connection in some state, and how to get it there."""

    options: dict[str, Any]
    scripts: tuple[Callable[[Peer], Awaitable[object]], ...]
    prepare: Callable[[ScriptedServer, Connection], Awaitable[object]]
    over: tuple[Transport, ...] = (TCP, TLS, WS)
    """Over which transports it is looked at."""
    opening: bool = False
    """Whether it is in the middle of the transport's own opening."""


async def nothing(server: ScriptedServer, nc: Connection) -> None:
    await trio.lowlevel.checkpoint()


async def lose(server: ScriptedServer, nc: Connection) -> None:
    (await server.peer(0)).close()
    await nc.wait_for_state(ConnectionState.RECONNECTING)


async def lose_and_arrive(server: ScriptedServer, nc: Connection) -> None:
    await lose(server, nc)
    await server.peer(1)


async def arrive(server: ScriptedServer, nc: Connection) -> None:
    await server.peer(0)


async def hello(peer: Peer) -> None:
    await peer.receive_client_hello()
    await peer.stall()


async def request(peer: Peer) -> None:
    await peer.receive_request()
    await peer.stall()


async def only_info(peer: Peer) -> None:
    await peer.send_info()
    await peer.stall()


STAGES = {
    "open": Stage({}, (session(),), nothing),
    "backoff": Stage({"reconnect": SLOW}, (session(),), lose),
    "waiting for INFO": Stage({"reconnect": QUICK}, (session(), stall_at_once()), lose_and_arrive),
    "waiting for PONG": Stage({"reconnect": QUICK}, (session(), only_info), lose_and_arrive),
    "first dial": Stage({"reconnect": BEHIND}, (stall_at_once(),), arrive),
    "TLS handshake": Stage(
        {"reconnect": BEHIND, "tls": TLSOptions(ca_file=certificates().ca_file)},
        (hello,),
        arrive,
        over=(TCP, TLS, WSS),
        opening=True,
    ),
    "upgrade": Stage({"reconnect": BEHIND}, (request,), arrive, over=(WS,), opening=True),
}

STAGED = pytest.mark.parametrize(
    ("stage", "transport"),
    [
        pytest.param(stage, transport, id=f"{name}-{way}")
        for name, stage in STAGES.items()
        for way, transport in TRANSPORTS.items()
        if transport in stage.over
    ],
)


@asynccontextmanager
async def at(stage: Stage, transport: Transport) -> AsyncIterator[Connection]:
    """A connection in the state; at the end of the block nothing of it may be left."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    scripted = ScriptedServer if stage.opening else transport.scripted
    async with scripted(*stage.scripts) as server:
        own = trio.lowlevel.current_statistics().tasks_living - tasks
        async with transport.open(server, close_timeout=0.2, **stage.options) as nc:
            await stage.prepare(server, nc)
            yield nc
        assert nc.state is ConnectionState.CLOSED
        with trio.fail_after(HANG_TIMEOUT):
            for peer in server.peers:
                await peer.finished.wait()
        await eventually(lambda: trio.lowlevel.current_statistics().tasks_living - tasks <= own)


@STAGED
async def test_leaving_the_block(stage: Stage, transport: Transport) -> None:
    async with at(stage, transport):
        pass


@STAGED
async def test_an_exception_of_the_block_leaves_it_as_itself(
    stage: Stage, transport: Transport
) -> None:
    with pytest.raises(KeyError, match="mine") as caught:
        async with at(stage, transport) as nc:
            await nc.publish("a", b"left behind")
            raise KeyError("mine")
    assert caught.type is KeyError
    assert nc.failure is None


@STAGED
async def test_a_keyboard_interrupt_leaves_it_as_itself(stage: Stage, transport: Transport) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with at(stage, transport):
            raise KeyboardInterrupt


@pytest.mark.slow
@STAGED
async def test_an_exception_group_of_the_user_propagates_unchanged(
    stage: Stage, transport: Transport
) -> None:
    group = ExceptionGroup("mine", [ValueError(1), KeyError(2)])
    with pytest.raises(ExceptionGroup) as caught:
        async with at(stage, transport):
            raise group
    assert caught.value is group


@STAGED
async def test_cancelling_everything(stage: Stage, transport: Transport) -> None:
    with trio.CancelScope() as scope:
        async with at(stage, transport) as nc:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert nc.state is ConnectionState.CLOSED


@STAGED
async def test_closing_twice_and_by_several_at_once(stage: Stage, transport: Transport) -> None:
    async with at(stage, transport) as nc, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(nc.aclose)
    await nc.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await nc.publish("a")


@pytest.mark.slow
@STAGED
async def test_a_cancelled_close_closes_at_once(stage: Stage, transport: Transport) -> None:
    async with at(stage, transport) as nc:
        await nc.publish("a", b"never written, perhaps")
        with trio.CancelScope() as scope:
            scope.cancel()
            await nc.aclose()
        assert scope.cancelled_caught
        assert nc.state is ConnectionState.CLOSED


# -- those who wait ------------------------------------------------------------------------------


def waiters(nc: Connection) -> dict[str, Callable[[], Awaitable[object]]]:
    async def receive() -> None:
        async with nc.subscribe("b") as sub:
            await sub.receive()

    async def iterate() -> None:
        async with nc.subscribe("b") as sub:
            async for _ in sub:
                raise AssertionError("there was no message")

    async def ask_many() -> None:
        async with nc.request_many("b", timeout=1000) as replies:
            await replies.receive()

    async def watch() -> None:
        await nc.wait_for_state(ConnectionState.DRAINING)

    return {
        "receive": receive,
        "iterate": iterate,
        "request": lambda: nc.request("b", timeout=1000),
        "request_many": ask_many,
        "flush": nc.flush,
        "rtt": nc.rtt,
        "wait_for_state": watch,
        "reconnect": nc.reconnect,
    }


NAMES = [
    "receive",
    "iterate",
    "request",
    "request_many",
    "flush",
    "rtt",
    "wait_for_state",
    "reconnect",
]


async def waiting_on(
    nc: Connection, name: str, expected: type[Exception], errors: list[Exception]
) -> None:
    with pytest.raises(expected) as caught:
        await waiters(nc)[name]()
    errors.append(caught.value)


def deaf_then(ending: trio.Event) -> Callable[[Peer], Awaitable[object]]:
    """Reads what comes and answers nothing, until it hangs up."""

    async def script(peer: Peer) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.stall)
            await ending.wait()
            nursery.cancel_scope.cancel()

    return session(script)


@pytest.mark.parametrize("name", NAMES)
@ALL_BUT_WSS
async def test_closing_while_another_task_waits(transport: Transport, name: str) -> None:
    async with transport.scripted(deaf_then(trio.Event()), stall_at_once()) as server:
        async with transport.open(server, close_timeout=0.05) as nc:
            errors: list[Exception] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(waiting_on, nc, name, trio.ClosedResourceError, errors)
                await trio.testing.wait_all_tasks_blocked()
                await nc.aclose()
            assert "closed" in str(errors[0])


@pytest.mark.parametrize("name", NAMES)
@ALL_BUT_WSS
async def test_losing_the_connection_for_good_while_another_task_waits(
    transport: Transport, name: str
) -> None:
    ending, accepted = trio.Event(), trio.Event()

    async def stall(peer: Peer) -> None:
        accepted.set()
        await peer.stall()

    # The second one is for reconnect(), which would be told at once that nobody is there.
    async with transport.scripted(deaf_then(ending), stall) as server:
        policy = ReconnectPolicy(max_attempts=1, wait=0)
        async with transport.open(server, reconnect=policy) as nc:
            errors: list[Exception] = []
            with trio.fail_after(HANG_TIMEOUT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(waiting_on, nc, name, ConnectionLostError, errors)
                    await trio.testing.wait_all_tasks_blocked()
                    if name == "reconnect":
                        await accepted.wait()
                    server.refuse()
                    ending.set()
            assert errors[0].__cause__ is nc.failure
            assert nc.failure is not None
            assert "refused" in str(errors[0])


@pytest.mark.parametrize("fate", ["closed", "lost"])
@ALL_BUT_WSS
async def test_a_publisher_waiting_for_space_is_woken_by_the_end(
    transport: Transport, fate: str
) -> None:
    policy = ReconnectPolicy(max_attempts=1, wait=0.1, max_wait=0.1, jitter=0)
    expected = trio.ClosedResourceError if fate == "closed" else ConnectionLostError
    async with transport.scripted(session()) as server:
        async with transport.open(
            server, reconnect=policy, close_timeout=0.05, outbox_size=100
        ) as nc:
            server.refuse()
            await lose(server, nc)
            await nc.publish("b", b"." * 100)
            async with trio.open_nursery() as nursery:
                if fate == "closed":
                    nursery.start_soon(nc.aclose)
                with pytest.raises(expected):
                    await nc.publish("b", b"no room")
            assert nc.stats.out_messages == 1


@ALL_BUT_WSS
async def test_the_block_ends_normally_after_the_connection_was_lost_for_good(
    transport: Transport,
) -> None:
    async with transport.scripted(session()) as server:
        async with transport.open(server, reconnect=NEVER) as nc, nc.events() as events:
            (await server.peer(0)).close()
            assert isinstance((await until(events, Closed)).reason, ConnectionLostError)
        assert nc.state is ConnectionState.CLOSED


# -- from within ---------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_closing_from_inside_a_message_loop(transport: Transport) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        seen = []
        async with nc.subscribe("a") as sub:
            for number in range(3):
                await nc.publish("a", b"%d" % number)
            with pytest.raises(trio.ClosedResourceError):
                async for msg in sub:
                    seen.append(msg.data)
                    if len(seen) == 2:
                        await nc.aclose()
        assert seen == [b"0", b"1"]


@ALL_BUT_WSS
async def test_closing_while_another_close_is_being_finished_waits_for_it(
    transport: Transport,
) -> None:
    closing, answer = trio.Event(), trio.Event()

    async def slow(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        await peer.expect_line(b"PING")
        closing.set()
        await answer.wait()
        await peer.send(b"PONG\r\n")
        await peer.serve()

    async with transport.scripted(session(slow)) as server:
        async with transport.open(server) as nc, trio.open_nursery() as nursery:
            await nc.publish("a", b"important")
            nursery.start_soon(nc.aclose)
            with trio.fail_after(HANG_TIMEOUT):
                await closing.wait()
            second_done = trio.Event()

            async def second() -> None:
                await nc.aclose()
                second_done.set()

            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked()
            assert nc.state is ConnectionState.CLOSING
            assert not second_done.is_set()
            answer.set()
        assert nc.state is ConnectionState.CLOSED


@ALL_BUT_WSS
async def test_a_close_that_waits_for_a_server_ends_when_a_cancelled_one_closes_at_once(
    transport: Transport,
) -> None:
    async with transport.scripted(session()) as server:
        async with transport.open(server, reconnect=SLOW, close_timeout=1000) as nc:
            await lose(server, nc)
            await nc.publish("a", b"left behind")
            with trio.fail_after(HANG_TIMEOUT):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(nc.aclose)
                    await nc.wait_for_state(ConnectionState.CLOSING)
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await nc.aclose()
            assert nc.state is ConnectionState.CLOSED


@ALL_BUT_WSS
async def test_everything_published_is_with_the_server_when_the_block_is_left(
    transport: Transport,
) -> None:
    count = 20_000
    async with transport.server() as server, transport.open(server) as watcher:
        async with watcher.subscribe("a") as sub:
            await watcher.flush(timeout=HANG_TIMEOUT)
            async with transport.open(server) as nc:
                for number in range(count):
                    await nc.publish("a", b"%d" % number)
            assert [int(msg.data) for msg in await receive_n(sub, count)] == list(range(count))


@ALL_BUT_WSS
async def test_closing_waits_for_a_reconnect_as_long_as_it_may(transport: Transport) -> None:
    async with transport.server() as server:
        async with transport.open(server, reconnect=QUICK) as nc, nc.events() as events:
            await server.kill()
            await until(events, Disconnected)
            await nc.publish("a", b"still to be sent")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nc.aclose)
                await nc.wait_for_state(ConnectionState.CLOSING)
                with pytest.raises(trio.ClosedResourceError):
                    await nc.publish("a", b"too late")
                await server.start()
                await until(events, Reconnected)
            assert nc.stats.outbox_bytes == 0
            assert (await server.monitor("varz"))["in_msgs"] == 1


@ALL_BUT_WSS
async def test_closing_gives_up_on_a_server_that_stays_away(
    transport: Transport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with transport.server() as server:
        async with transport.open(server, reconnect=QUICK, close_timeout=0.1) as nc:
            await server.kill()
            await nc.wait_for_state(ConnectionState.RECONNECTING)
            await nc.publish("a", b"lost")
    assert "bytes not sent" in caplog.text
