"""The measurements of ``trio-nats bench``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import dataclass

import trio

from trio_nats import Connection, PendingLimits, RequestTimeoutError, Subscription
from trio_nats._nursery import open_nursery

from .progress import Advance, progress_bar

__all__ = ["Load", "Result", "publish", "publish_and_subscribe", "request", "subscribe"]

_STEP = 256
"""Messages between two updates of the progress bar."""
# Messages that arrive faster than they are received must be queued, not dropped.
_NO_LIMITS = PendingLimits(messages=2**31, bytes=2**40)


@dataclass(frozen=True)
class Load:
    """The parameters of a measurement."""

    connect: Callable[[], AbstractAsyncContextManager[Connection]]
    subject: str
    messages: int
    payload: bytes
    clients: int
    timeout: float
    """Seconds without a message after which the missing messages count as lost."""
    quiet: bool

    def progress(self, total: int, what: str) -> AbstractContextManager[Advance]:
        """Return a progress bar for ``total`` messages."""
        return progress_bar(total, what, self.quiet)

    def shares(self, workers: int) -> list[int]:
        """Return the number of messages for each worker."""
        return [len(range(worker, self.messages, workers)) for worker in range(workers)]


@dataclass(frozen=True)
class Result:
    """One measurement."""

    what: str
    clients: int
    messages: int
    """Handled by all clients together."""
    size: int
    seconds: float
    messages_per_second: float
    bytes_per_second: float
    p50_seconds: float | None = None
    p99_seconds: float | None = None
    max_seconds: float | None = None


def _result(
    what: str, load: Load, clients: int, messages: int, seconds: float, *times: float
) -> Result:
    rate = messages / seconds if seconds else math.inf
    size = len(load.payload)
    return Result(what, clients, messages, size, seconds, rate, rate * size, *times)


async def publish(load: Load) -> list[Result]:
    """Publish as fast as possible, whether or not there are subscribers."""
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(load.connect()) for _ in range(load.clients)]
        with load.progress(load.messages, "publishing") as advance:
            begun = time.perf_counter()
            async with open_nursery() as nursery:
                for nc, share in zip(connections, load.shares(load.clients), strict=True):
                    nursery.start_soon(_publish, nc, load, share, advance)
            seconds = time.perf_counter() - begun
    return [_result("pub", load, load.clients, load.messages, seconds)]


async def subscribe(load: Load) -> list[Result]:
    """Receive what other programs publish. The clock starts with the first message."""
    total = load.messages * load.clients
    async with AsyncExitStack() as stack:
        receivers = await _receivers(stack, load)
        with load.progress(total, "receiving") as advance:
            async with open_nursery() as nursery:
                for receiver in receivers:
                    nursery.start_soon(receiver.run, load, advance, math.inf)
    seconds = max(one.last for one in receivers) - min(one.first for one in receivers)
    return [_result("sub", load, load.clients, total, seconds)]


async def publish_and_subscribe(load: Load) -> list[Result]:
    """Publish with one client, and receive everything with all clients."""
    total = load.messages * load.clients
    async with AsyncExitStack() as stack:
        nc = await stack.enter_async_context(load.connect())
        receivers = await _receivers(stack, load)
        with load.progress(total, "pub and sub") as advance:
            begun = time.perf_counter()
            async with open_nursery() as nursery:
                for receiver in receivers:
                    nursery.start_soon(receiver.run, load, advance, load.timeout)
                await _publish(nc, load, load.messages, _ignore)
                published = time.perf_counter() - begun
    received = max(one.last for one in receivers) - begun
    return [
        _result("pub, with sub", load, 1, load.messages, published),
        _result("sub, with pub", load, load.clients, total, received),
    ]


async def request(load: Load, in_flight: int, responder: bool) -> list[Result]:
    """Make requests, ``in_flight`` at a time for each client."""
    trips: list[float] = []
    async with open_nursery() as background, AsyncExitStack() as stack:
        if responder:
            await background.start(_respond, load)
        connections = [await stack.enter_async_context(load.connect()) for _ in range(load.clients)]
        workers = [nc for nc in connections for _ in range(in_flight)]
        with load.progress(load.messages, "requesting") as advance:
            begun = time.perf_counter()
            async with open_nursery() as nursery:
                for nc, share in zip(workers, load.shares(len(workers)), strict=True):
                    nursery.start_soon(_request, nc, load, share, advance, trips)
            seconds = time.perf_counter() - begun
        background.cancel_scope.cancel()
    trips.sort()
    p50, p99 = (trips[int(len(trips) * part)] for part in (0.5, 0.99))
    return [_result("request", load, load.clients, load.messages, seconds, p50, p99, trips[-1])]


def _ignore(steps: int) -> None:
    pass


async def _publish(nc: Connection, load: Load, messages: int, advance: Advance) -> None:
    subject, payload = load.subject, load.payload
    for begin in range(0, messages, _STEP):
        steps = min(_STEP, messages - begin)
        for _ in range(steps):
            await nc.publish(subject, payload)
        advance(steps)
    await nc.flush()


async def _request(
    nc: Connection, load: Load, messages: int, advance: Advance, trips: list[float]
) -> None:
    for _ in range(messages):
        begun = time.perf_counter()
        await nc.request(load.subject, load.payload)
        trips.append(time.perf_counter() - begun)
        advance(1)


async def _respond(
    load: Load, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with load.connect() as nc, nc.subscribe(load.subject) as requests:
        await nc.flush()
        task_status.started()
        async for msg in requests:
            await msg.respond(msg.data)


async def _receivers(stack: AsyncExitStack, load: Load) -> list[_Receiver]:
    receivers: list[_Receiver] = []
    for _ in range(load.clients):
        nc = await stack.enter_async_context(load.connect())
        one = nc.subscribe(load.subject, pending_limits=_NO_LIMITS)
        receivers.append(_Receiver(await stack.enter_async_context(one)))
        await nc.flush()
    return receivers


class _Receiver:
    """Receives a number of messages from a subscription, and records the times."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.first = self.last = 0.0

    async def run(self, load: Load, advance: Advance, timeout: float) -> None:
        receive = self._subscription.receive
        received = 0
        with trio.move_on_after(timeout) as scope:
            await receive()
            self.first = time.perf_counter()
            received = 1
            advance(1)
            while received < load.messages:
                steps = min(_STEP, load.messages - received)
                for _ in range(steps):
                    await receive()
                received += steps
                advance(steps)
                scope.deadline = trio.current_time() + load.timeout
        if scope.cancelled_caught:
            raise RequestTimeoutError(
                f"about {received:,} of {load.messages:,} messages arrived, then none for "
                f"{load.timeout:g} s; some may have been lost on a new connection"
            )
        self.last = time.perf_counter()
