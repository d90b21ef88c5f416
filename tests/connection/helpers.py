"""What the tests of messages and of the core share: both kinds of server, and frames."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import trio
import trio.testing

from tests.support.internals import socket_of
from tests.support.peer import Peer, ScriptedServer
from tests.support.timeouts import HANG_TIMEOUT
from tests.transports import TCP, Transport
from trio_nats import Connection, Msg, ReconnectPolicy, open_nats
from trio_nats.events import Event
from trio_nats.testing import NatsServer

__all__ = [
    "HANG_TIMEOUT",
    "NO_RECONNECT",
    "QUICK",
    "Turns",
    "all_of",
    "another",
    "barrier",
    "using_transport",
]
__all__ += [
    "fill",
    "from_another_run",
    "have_wait",
    "hmsg",
    "hurry",
    "msg",
    "next_event",
    "nothing_was_sent",
]
__all__ += ["errors_of_waiters", "read_request", "receive_n", "scripted", "served", "taking_turns"]


NO_RECONNECT = ReconnectPolicy(max_attempts=0)
"""Does not reconnect."""

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)
"""Reconnects without taking its time."""

E = TypeVar("E")
T = TypeVar("T")

_transport: ContextVar[Transport] = ContextVar("transport", default=TCP)


@contextmanager
def using_transport(transport: Transport) -> Iterator[None]:
    """Within it, :func:`scripted` and :func:`served` use another transport than TCP."""
    token = _transport.set(transport)
    yield
    _transport.reset(token)


@asynccontextmanager
async def scripted(
    info: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection, and the server's end of it with the opening done, in the test's own hands.

    Nobody answers the PING of an orderly end, so it is not waited for unless ``options`` say so.
    """

    transport = _transport.get()

    async def script(peer: Peer) -> None:
        await transport.welcome(peer, **(info or {}))
        await peer.accept_connect()
        await trio.sleep_forever()

    options = {"close_timeout": 0, "reconnect": NO_RECONNECT} | transport.options | options
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(script) as server:
            let_jump = stop_jumping()
            async with open_nats(transport.through(server.port), **options) as nc:
                peer = await server.peer(0)
                let_jump()
                yield nc, peer


def stop_jumping() -> Callable[[], None]:
    """Keep a mocked clock from jumping until the function that this returns is called.

    While certificates are loaded in a thread, no task runs, so the clock would jump.
    """
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, trio.testing.MockClock):
        return lambda: None
    threshold = clock.autojump_threshold
    clock.autojump_threshold = math.inf
    return partial(setattr, clock, "autojump_threshold", threshold)


@asynccontextmanager
async def served(
    config: str | Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Connection, NatsServer]]:
    """A connection to a nats-server of its own."""
    transport = _transport.get()
    with trio.fail_after(HANG_TIMEOUT):
        async with transport.server(config=config) as server:
            async with open_nats(transport.url(server), **transport.options | options) as nc:
                yield nc, server


def another(server: NatsServer, **options: Any) -> AbstractAsyncContextManager[Connection]:
    """One more connection to the server of :func:`served`."""
    transport = _transport.get()
    return open_nats(transport.url(server), **transport.options | options)


async def fill(nc: Connection, size: int, each: int = 100_000) -> int:
    """Publish to a server that does not read, until ``size`` bytes wait. Returns how many messages.

    The kernel may find room for some more when all seems to be at rest. Where that counts, let
    ``each`` be so large that no more than a part of one is taken then.
    """
    # Keep the kernel from finding room for more in the socket's buffer.
    socket_of(nc).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    count = 0
    while nc.stats.outbox_bytes < size:
        await nc.publish("a", bytes(each))
        await trio.testing.wait_all_tasks_blocked()
        count += 1
    return count


def hurry(nc: Connection) -> None:
    """Let the kernel take more than a packet at a time again, after :func:`fill`."""
    socket_of(nc).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)


async def barrier(peer: Peer) -> None:
    """Return once the client has dealt with everything sent to it so far."""
    await peer.send(b"PING\r\n")
    while await peer.expect_line() != b"PONG":
        pass
    # The one who reads has yet to hand out what came with it.
    await trio.testing.wait_all_tasks_blocked()


async def read_request(peer: Peer, subject: str) -> str:
    """Read a request, and the SUB of the inbox if it is the first; returns where to reply to."""
    line = await peer.expect_line()
    if line.startswith(b"SUB "):
        line = await peer.expect_line()
    assert line.startswith(b"PUB %b " % subject.encode()), line
    await peer.receive_exactly(int(line.split()[-1]) + 2)
    return line.split()[2].decode()


async def nothing_was_sent(nc: Connection, peer: Peer) -> None:
    """What is published now is the next thing the server reads."""
    await nc.publish("end", b"")
    assert await peer.receive_exactly(13) == b"PUB end 0\r\n\r\n"


async def receive_n(channel: trio.abc.ReceiveChannel[Msg], count: int) -> list[bytes]:
    """The data of the next ``count`` messages."""
    return [(await channel.receive()).data for _ in range(count)]


async def all_of(channel: trio.abc.ReceiveChannel[Msg]) -> list[bytes]:
    """The data of all messages until the channel ends."""
    return [msg.data async for msg in channel]


@asynccontextmanager
async def errors_of_waiters(
    wait: Callable[[], Awaitable[object]], count: int = 2
) -> AsyncIterator[list[Exception]]:
    """Have tasks wait, and collect the error each is told instead of an answer.

    The end of the block waits for all of them to have ended.
    """
    async with trio.open_nursery() as nursery:
        yield await have_wait(nursery, wait, count)


async def have_wait(
    nursery: trio.Nursery, wait: Callable[[], Awaitable[object]], count: int = 2
) -> list[Exception]:
    """The same, in a nursery: return once they wait, with the list of what they will be told."""
    errors: list[Exception] = []

    async def waiter() -> None:
        try:
            await wait()
        except Exception as error:
            errors.append(error)

    for _ in range(count):
        nursery.start_soon(waiter)
    await trio.testing.wait_all_tasks_blocked()
    assert errors == []
    assert len(nursery.child_tasks) >= count
    return errors


@dataclass
class Turns:
    """How often another task had its turn so far."""

    taken: int = 0


@asynccontextmanager
async def taking_turns() -> AsyncIterator[Turns]:
    """Another task, which does nothing but to let others run."""
    turns = Turns()

    async def take_turns() -> None:
        while True:
            turns.taken += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await trio.lowlevel.checkpoint()
        turns.taken = 0
        yield turns
        nursery.cancel_scope.cancel()


async def next_event(events: trio.abc.ReceiveChannel[Event], kind: type[E]) -> E:
    """The next event of one kind; those before it are dropped."""
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the connection ended without {kind.__name__}")


def msg(subject: str, sid: bytes | int, data: bytes, reply: str = "") -> bytes:
    """A MSG frame."""
    words = [subject, sid.decode() if isinstance(sid, bytes) else str(sid), reply, str(len(data))]
    return b"MSG %b\r\n%b\r\n" % (" ".join(filter(None, words)).encode(), data)


def hmsg(subject: str, sid: bytes | int, headers: bytes, data: bytes = b"") -> bytes:
    """An HMSG frame; ``headers`` is a whole block."""
    sid = sid if isinstance(sid, bytes) else b"%d" % sid
    sizes = b"%d %d" % (len(headers), len(headers) + len(data))
    return b"HMSG %b %b %b\r\n%b%b\r\n" % (subject.encode(), sid, sizes, headers, data)


async def from_another_run(function: Callable[[], Awaitable[T]]) -> T:
    """What ``function`` returns or raises in a ``trio.run()`` of another thread."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(trio.run(function))
        except BaseException as error:
            failed.append(error)
        finally:
            token.run_sync_soon(done.set)

    # Not a thread of Trio's, which would know the run it came from.
    threading.Thread(target=run, daemon=True).start()
    await done.wait()
    if failed:
        raise failed[0]
    return found[0]
