"""A TCP proxy that breaks connections like a bad network, as planned or at random.

The :class:`Plan` of a connection is made before its first byte passes. Tests write plans down; the
soak test draws them from a seed, and the same seed gives the same plans::

    async with ChaosProxy(server.port, [Plan(down=Way(cut_after=10)), Plan()]) as proxy:
        ...                        # the first connection ends within INFO, all others work
    async with ChaosProxy(server.port, RandomPlans(seed)) as proxy:
        ...

At any time you can also close connections with :meth:`~ChaosProxy.cut`, refuse new ones with
:meth:`~LoopbackServer.refuse`, and discard all data with ``swallow``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from tests.support.background import LOOPBACK, LoopbackServer, close_now, is_gone

__all__ = ["ChaosProxy", "Link", "Plan", "Plans", "RandomPlans", "Way"]

_READ = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Way:
    """What happens to the bytes of one direction of one connection, by their position."""

    cut_after: int | None = None
    """Pass this many bytes, then close the connection in both directions."""
    corrupt_at: int | None = None
    """Invert one bit of the byte at this position."""
    chunk: int | None = None
    """Pass bytes on in pieces of at most this size, each in its own write."""
    delay: float = 0.0
    """Delay every piece by this many seconds."""
    swallow_after: int | None = None
    """Pass this many bytes and discard all others, and the end of the stream."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What happens to one connection."""

    up: Way = field(default_factory=Way)
    """From the client to the server."""
    down: Way = field(default_factory=Way)
    reset: bool = False
    """Whether to close with RST instead of FIN."""

    @property
    def corrupts(self) -> bool:
        return self.up.corrupt_at is not None or self.down.corrupt_at is not None


Plans: TypeAlias = Sequence[Plan] | Callable[[int], Plan]
"""The n-th connection gets the n-th plan or the last one, or the result of the function."""


class RandomPlans:
    """Plans drawn from ``seed``. They depend only on the seed and the number of the connection.

    ``reach`` is the maximum number of bytes before a fault. Small ones hit CONNECT more often.
    """

    def __init__(self, seed: int | str, *, reach: int = 60_000, corrupt: bool = True) -> None:
        self.seed = seed
        self._reach = reach
        self._corrupt = corrupt

    def __repr__(self) -> str:
        return f"RandomPlans({self.seed!r}, reach={self._reach}, corrupt={self._corrupt})"

    def __call__(self, number: int) -> Plan:
        dice = random.Random(f"{self.seed}/{number}")
        # Half of the faults are near the beginning, where the most code paths are.
        at = dice.randrange(dice.choice((1_500, self._reach)))
        kinds = ["cut", "reset", "swallow", "corrupt" if self._corrupt else "cut"]
        kind = dice.choice(kinds)
        faulty: dict[str, int] = {}
        if kind == "swallow":
            faulty = {"swallow_after": at}
        elif kind == "corrupt":
            # Damage may go unnoticed in plaintext, so end such a connection soon.
            faulty = {"corrupt_at": at, "cut_after": at + dice.randrange(1, 2_000)}
        elif kind in ("cut", "reset"):
            faulty = {"cut_after": at}
        # Limit both directions, because some are used very little.
        limit = {"cut_after": dice.randrange(1_000, self._reach)}
        shape = {
            "chunk": dice.choice((None, None, 1_000, 37)),
            "delay": dice.choice((0.0, 0.0, 0.0, 0.001)),
        }
        bad, good = Way(**limit | faulty, **shape), Way(**limit, **shape)
        up, down = (bad, good) if dice.random() < 0.5 else (good, bad)
        return Plan(up=up, down=down, reset=kind == "reset" or dice.random() < 0.3)


class Link:
    """One connection through the proxy."""

    def __init__(self, number: int, plan: Plan) -> None:
        self.number = number
        self.plan = plan
        self.passed_up = 0
        """Bytes passed on to the server."""
        self.passed_down = 0
        self.opened = trio.current_time()
        self.closed_at: float | None = None
        self.closed = trio.Event()
        """Set when the proxy has closed both sides."""
        self.ends: list[trio.SocketStream] = []

    def cut(self, *, reset: bool = False) -> None:
        """Close both sides now: with FIN, or with RST when ``reset``."""
        for end in self.ends:
            if end.socket.fileno() >= 0:
                close_now(end, reset=reset)


class ChaosProxy(LoopbackServer):
    """Forwards TCP to ``target_port`` of this machine, according to the plans."""

    def __init__(self, target_port: int, plans: Plans = ()) -> None:
        super().__init__()
        self.target_port = target_port
        self.plans: Plans = plans
        """May be replaced at any time, for later connections."""
        self.links: list[Link] = []
        """Every connection so far, in order of arrival."""
        self.swallow = False
        """While true, all data on all connections is discarded, as if they were half-open."""
        self._arrival = trio.Event()

    def cut(self, *, reset: bool = False) -> None:
        """Close every connection now; see :meth:`Link.cut`."""
        for link in self.links:
            if not link.closed.is_set():
                link.cut(reset=reset)

    async def link(self, index: int) -> Link:
        """Wait for the ``index``-th connection."""
        while len(self.links) <= index:
            await self._arrival.wait()
        return self.links[index]

    def _plan(self, number: int) -> Plan:
        if callable(self.plans):
            return self.plans(number)
        if not self.plans:
            return Plan()
        return self.plans[min(number, len(self.plans) - 1)]

    async def _handle(self, stream: trio.SocketStream) -> None:
        number = len(self.links)
        link = Link(number, self._plan(number))
        self.links.append(link)
        try:
            server = await trio.open_tcp_stream(LOOPBACK, self.target_port)
            link.ends = [stream, server]
            self._arrival.set()
            self._arrival = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, link, stream, server, link.plan.up, nursery)
                nursery.start_soon(self._pump, link, server, stream, link.plan.down, nursery)
        except OSError:
            pass  # the target refused: the client sees its connection closed
        finally:
            link.cut(reset=link.plan.reset)
            link.closed_at = trio.current_time()
            link.closed.set()

    async def _pump(
        self,
        link: Link,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        way: Way,
        nursery: trio.Nursery,
    ) -> None:
        passed = 0
        try:
            while data := bytes(await source.receive_some(_READ)):
                for piece in _pieces(data, way.chunk):
                    if way.delay:
                        await trio.sleep(way.delay)
                    shown, ended = _pass(piece, passed, way)
                    if shown and not self.swallow:
                        await sink.send_all(shown)
                    passed += len(piece)
                    if sink is link.ends[1]:
                        link.passed_up += len(shown)
                    else:
                        link.passed_down += len(shown)
                    if ended:
                        nursery.cancel_scope.cancel()
                        return
            lost = way.swallow_after is not None and passed > way.swallow_after
            if not self.swallow and not lost:
                await sink.send_eof()
        except Exception as error:
            if not is_gone(error):
                raise
            nursery.cancel_scope.cancel()


def _pieces(data: bytes, size: int | None) -> Sequence[bytes]:
    if size is None:
        return (data,)
    return [data[start : start + size] for start in range(0, len(data), size)]


def _pass(piece: bytes, position: int, way: Way) -> tuple[bytes, bool]:
    """Return what passes of ``piece``, and whether the connection ends there."""
    shown = bytearray(piece)
    if way.corrupt_at is not None and 0 <= way.corrupt_at - position < len(shown):
        shown[way.corrupt_at - position] ^= 0x10
    if way.swallow_after is not None:
        del shown[max(0, way.swallow_after - position) :]
    if way.cut_after is not None and position + len(piece) >= way.cut_after:
        del shown[max(0, way.cut_after - position) :]
        return bytes(shown), True
    return bytes(shown), False
