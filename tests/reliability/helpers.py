"""What the tests of this room share: a hurried policy, waiting for events, counting messages."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from tests.support.internals import set_handover_limits
from tests.support.peer import Peer
from tests.support.scripts import session
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, Msg, ReconnectPolicy, Subscription
from trio_nats.events import Event

__all__ = [
    "HANG_TIMEOUT",
    "QUICK",
    "Ledger",
    "eventually",
    "publishing",
    "read_until",
    "receive_n",
    "until",
]
__all__ += ["after", "frames_of", "session", "shorten_overlap"]


QUICK = ReconnectPolicy(wait=0.01, max_wait=0.05, refused_credentials_timeout=0)
"""Reconnects as the default does, only without taking its time."""

E = TypeVar("E")


async def until(events: trio.abc.ReceiveChannel[Event], kind: type[E]) -> E:
    """The next event of one kind; those before it are dropped."""
    with trio.fail_after(HANG_TIMEOUT):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError(f"the connection ended without {kind.__name__}")


async def receive_n(sub: Subscription, count: int) -> list[Msg]:
    """The next ``count`` messages."""
    with trio.fail_after(HANG_TIMEOUT):
        return [await sub.receive() for _ in range(count)]


async def read_until(sub: Subscription, last: bytes) -> list[bytes]:
    """The data of all messages up to the one that holds ``last``, that one left out."""
    found: list[bytes] = []
    with trio.fail_after(HANG_TIMEOUT):
        while (msg := await sub.receive()).data != last:
            found.append(msg.data)
    return found


def shorten_overlap(nc: Connection) -> None:
    """Change servers in a hurry, where no real cluster has to learn of new subscriptions."""
    set_handover_limits(nc, overlap=0.1)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of, such as what a server's process has done."""
    with trio.fail_after(HANG_TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


# -- load ----------------------------------------------------------------------------------------


class Ledger:
    """The numbers that arrived, by publisher."""

    def __init__(self) -> None:
        self.arrived: dict[str, list[int]] = defaultdict(list)

    async def keep(self, sub: Subscription) -> None:
        """Enter everything that comes out of ``sub``, until it ends."""
        async for msg in sub:
            publisher, _, number = msg.data.decode().partition(" ")
            self.arrived[publisher].append(int(number))

    def count(self, publisher: str) -> int:
        return len(self.arrived[publisher])

    def check(self, publisher: str, sent: int, *, ordered: bool = True) -> None:
        """All of 0..sent-1 have arrived once, and in order."""
        arrived = self.arrived[publisher]
        missing = sorted(set(range(sent)) - set(arrived))
        twice = sorted({number for number in arrived if arrived.count(number) > 1})
        assert not missing, f"{publisher}: {len(missing)} of {sent} missed: {missing[:10]}"
        assert not twice, f"{publisher}: {len(twice)} came more than once: {twice[:10]}"
        assert len(arrived) == sent
        if ordered:
            assert arrived == sorted(arrived), f"{publisher}: out of order"


class Load:
    """A publisher that numbers its messages."""

    def __init__(self, nc: Connection, name: str, subjects: tuple[str, ...]) -> None:
        self.nc, self.name, self.subjects = nc, name, subjects
        self.sent = 0

    async def run(self, pause: float) -> None:
        while True:
            for subject in self.subjects:
                await self.nc.publish(subject, f"{self.name} {self.sent}")
            self.sent += 1
            await trio.sleep(pause)

    async def reach(self, count: int) -> None:
        """Return once ``count`` more have been published."""
        goal = self.sent + count
        await eventually(lambda: self.sent >= goal)


@asynccontextmanager
async def publishing(
    nc: Connection, name: str, *subjects: str, pause: float = 0.001
) -> AsyncIterator[Load]:
    """Publish ``"name 0"``, ``"name 1"``... to every subject until the block ends."""
    load = Load(nc, name, subjects)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.run, pause)
        yield load
        nursery.cancel_scope.cancel()


# -- scripted servers ----------------------------------------------------------------------------


def after(prefix: bytes, then: Callable[[Peer], Awaitable[object]]) -> Callable[[Peer], Any]:
    """Serve until a line that begins with ``prefix`` has come, and then do ``then``."""

    async def script(peer: Peer) -> None:
        await read_line(peer, prefix)
        await then(peer)

    return script


async def read_line(peer: Peer, prefix: bytes) -> bytes:
    """Serve until a line that begins with ``prefix`` has come; PINGs before it are answered."""
    while True:
        line = await peer.expect_line()
        if line.startswith((b"PUB ", b"HPUB ")):
            peer.payloads.append((await peer.receive_exactly(int(line.split()[-1]) + 2))[:-2])
        if line.startswith(prefix):
            return line
        if line == b"PING":
            await peer.send(b"PONG\r\n")


def frames_of(peer: Peer) -> list[bytes]:
    """The lines a peer has read, CONNECT without its JSON."""
    return [line.split(b" {")[0] for line in peer.lines]


def deliver(subject: bytes, sid: bytes, data: bytes) -> bytes:
    """A MSG frame."""
    return b"MSG %b %b %d\r\n%b\r\n" % (subject, sid, len(data), data)


def info_with(**fields: Any) -> bytes:
    """An INFO line of nothing but ``fields``."""
    return b"INFO " + json.dumps(fields).encode() + b"\r\n"
