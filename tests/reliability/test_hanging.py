"""Name resolution that never answers, and connecting that nobody answers: both can be given up.

Every time limit is far away here, so whatever waits for one hangs, and shows.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.reliability.helpers import session
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, ScriptedServer
from trio_nats import ConnectError, Connection, ReconnectPolicy, open_nats

AT_ONCE = ReconnectPolicy(wait=0)
BEHIND = ReconnectPolicy(wait=0, retry_on_initial_connect=True)
NEVER: dict[str, Any] = {"connect_timeout": 1000, "close_timeout": 1000}


class Tarpit(trio.abc.HostnameResolver, trio.abc.SocketFactory):
    """Resolves all names to this machine, and connects to it, until one of that hangs."""

    def __init__(self) -> None:
        self.phase: str | None = None
        """What hangs: "resolve" or "dial"."""
        self.entered = trio.Event()
        self.inside = 0
        self.peers: list[Peer] = []
        """The connections to the server beyond it."""

    async def _hang(self) -> None:
        self.inside += 1
        self.entered.set()
        try:
            await trio.sleep_forever()
        finally:
            self.inside -= 1

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        if self.phase == "resolve":
            await self._hang()
        return socket.getaddrinfo("127.0.0.1", int(port), type=socket.SOCK_STREAM)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError

    def socket(self, family: Any = -1, type: Any = -1, proto: int = -1) -> Any:
        made: Any = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        if self.phase == "dial":

            async def connect(address: object) -> None:
                await self._hang()

            made.connect = connect
        return made


@pytest.fixture(params=["resolve", "dial"])
def phase(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def tarpit() -> AsyncIterator[tuple[Tarpit, str]]:
    """What can hang, and the URL of a server beyond it; at the end nothing hangs any more."""
    found = Tarpit()
    trio.socket.set_custom_hostname_resolver(found)  # for this run of Trio
    trio.socket.set_custom_socket_factory(found)
    async with ScriptedServer(session()) as server:
        found.peers = server.peers
        async with no_leaks():
            yield found, f"nats://some.name:{server.port}"
            assert found.inside == 0
            for peer in server.peers:
                await peer.finished.wait()
            await trio.testing.wait_all_tasks_blocked()


# --- opening --------------------------------------------------------------------------------------


async def test_opening_is_cancelled(phase: str) -> None:
    async with tarpit() as (hole, url):
        hole.phase = phase
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                async with open_nats(url, **NEVER):
                    raise AssertionError("connected")

            nursery.start_soon(connect)
            await hole.entered.wait()
            nursery.cancel_scope.cancel()


async def test_opening_takes_no_longer_than_it_may(phase: str) -> None:
    async with tarpit() as (hole, url):
        hole.phase = phase
        with pytest.raises(ConnectError) as caught:
            async with open_nats([url, url.replace("some", "other")], connect_timeout=0.01):
                raise AssertionError("connected")
        assert hole.entered.is_set()
        # Which of the two it is, Trio does not tell; both count as dialling.
        assert [attempt.phase for attempt in caught.value.attempts] == ["dial", "dial"]


async def test_the_next_server_has_its_turn(phase: str) -> None:
    async with tarpit() as (hole, url):
        hole.phase = phase

        async def recover() -> None:
            await hole.entered.wait()
            hole.phase = None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(recover)
            async with open_nats([url, url.replace("some", "other")], connect_timeout=3) as nc:
                await nc.flush()


# --- in all states in which a connection is made --------------------------------------------------


@asynccontextmanager
async def connecting_behind(hole: Tarpit, url: str, phase: str) -> AsyncIterator[Connection]:
    hole.phase = phase
    async with open_nats(url, reconnect=BEHIND, **NEVER) as nc:
        await hole.entered.wait()
        assert nc.state == "connecting"
        yield nc


@asynccontextmanager
async def reconnecting(hole: Tarpit, url: str, phase: str) -> AsyncIterator[Connection]:
    async with open_nats(url, reconnect=AT_ONCE, **NEVER) as nc, nc.subscribe("a"):
        await nc.flush()
        hole.phase = phase
        hole.peers[0].close()
        await hole.entered.wait()
        assert nc.state == "reconnecting"
        yield nc


@asynccontextmanager
async def moving(hole: Tarpit, url: str, phase: str) -> AsyncIterator[Connection]:
    async with open_nats(url, **NEVER) as nc, nc.subscribe("a"):
        hole.phase = phase
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nc.reconnect)
                await hole.entered.wait()
                scope.cancel()
        assert nc.state == "open"
        # The old wire is as good as ever.
        await nc.flush()
        yield nc


State = Callable[[Tarpit, str, str], Any]
states = pytest.mark.parametrize("state", [connecting_behind, reconnecting, moving])


@states
async def test_leaving_the_block(state: State, phase: str) -> None:
    async with tarpit() as (hole, url), state(hole, url, phase) as nc:
        pass
    assert (nc.state, nc.failure) == ("closed", None)


@states
async def test_an_exception_of_the_block(state: State, phase: str) -> None:
    async with tarpit() as (hole, url):
        with pytest.raises(LookupError, match="mine"):
            async with state(hole, url, phase) as nc:
                await nc.publish("a", b"left behind")
                raise LookupError("mine")


@states
async def test_cancelling_the_block(state: State, phase: str) -> None:
    async with tarpit() as (hole, url):
        with trio.CancelScope() as scope:
            async with state(hole, url, phase) as nc:
                await nc.publish("a", b"left behind")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def close(nc: Connection) -> None:
    await nc.aclose()


async def drain(nc: Connection) -> None:
    await nc.drain()


async def cancelled_close(nc: Connection) -> None:
    await nc.publish("a", b"perhaps")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nc.aclose)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()


async def close_after_cancelled_operations(nc: Connection) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            for operation in (nc.flush, nc.rtt, nc.reconnect, lambda: nc.request("nobody")):
                nursery.start_soon(operation)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    with trio.move_on_after(0):  # the request is still to be sent
        await nc.aclose()


@states
@pytest.mark.parametrize("end", [close, drain, cancelled_close, close_after_cancelled_operations])
async def test_closing(
    state: State, phase: str, end: Callable[[Connection], Awaitable[None]]
) -> None:
    async with tarpit() as (hole, url), state(hole, url, phase) as nc:
        await end(nc)
        assert (nc.state, nc.failure) == ("closed", None)
        # Not only when the block is left.
        await trio.testing.wait_all_tasks_blocked()
        assert hole.inside == 0
