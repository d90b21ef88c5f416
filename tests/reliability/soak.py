"""Chaos for as long as you like: ``python -m tests.reliability.soak --seconds 120 --seed 7``.

Publishers that number their messages, subscribers, and requesters with their responders, each with
a connection of its own through a proxy that cuts, resets, delays, chops up, swallows and corrupts
at random, over TCP, TLS and WebSocket; the server itself is killed now and then. What must hold:

* nothing hangs;
* no message arrives twice, and none of a publisher's overtakes another while its wire holds;
* every message missed is explained: it was on its way while the publisher's or the subscriber's
  connection broke. Both say themselves when they are sure: a publisher's batch has arrived if a
  ``flush`` behind it came back over the same wire, and a subscriber that has flushed twice over
  one wire has had everything in between;
* a reply belongs to its request;
* at the end no task, descriptor or connection is left.

The same seed makes the same faults. When they strike depends on the machine's mood, though.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import random
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import trio

from tests.support.chaos import ChaosProxy, RandomPlans
from tests.support.timeouts import HANG_TIMEOUT
from tests.transports import TRANSPORTS, Transport
from trio_nats import ConnectError, Connection, NatsError, ReconnectPolicy, open_nats
from trio_nats._core.session import Session
from trio_nats._core.supervisor import Supervisor
from trio_nats.errors import MaxPayloadError, NoRespondersError, RequestTimeoutError

__all__ = ["Report", "soak"]

POLICY = ReconnectPolicy(wait=0.005, max_wait=0.05, retry_on_initial_connect=True)
PUBLISHERS = 2
SUBSCRIBERS = 2
REQUESTERS = 2
BATCH = 40


# -- messages that know whether they are whole ---------------------------------------------------


def sealed(text: str) -> bytes:
    """``text``, which tells its own damage: plaintext has no other protection."""
    data = text.encode()
    return b"%08x %b" % (zlib.crc32(data), data)


def opened(data: bytes) -> str | None:
    """What was sealed, unless it has been damaged."""
    seal, _, text = data.partition(b" ")
    return text.decode() if seal == b"%08x" % zlib.crc32(text) else None


# -- what is known -------------------------------------------------------------------------------


@dataclass
class Batch:
    """Messages that the server had by ``end``, for sure."""

    first: int
    last: int
    begun: float
    ended: float


@dataclass
class Sure:
    """A subscriber's flush that came back over the same wire (the ``wire``-th) it left by."""

    begun: float
    ended: float
    wire: int


@dataclass
class Report:
    """What happened, for the curious, and what must not happen, in words."""

    seed: int | str
    published: int = 0
    confirmed: int = 0
    received: int = 0
    checked: int = 0
    explained: int = 0
    damaged: int = 0
    replies: int = 0
    unanswered: int = 0
    reconnects: int = 0
    links: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        numbers = ", ".join(
            f"{name} {value:,}"
            for name, value in vars(self).items()
            if isinstance(value, int) and name != "seed"
        )
        return f"seed {self.seed}: {numbers}"


class Subscriber:
    """Keeps what arrives, and when it was sure to miss nothing."""

    def __init__(self, nc: Connection, proxy: ChaosProxy, report: Report) -> None:
        self.nc, self.proxy, self._report = nc, proxy, report
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.sure: list[Sure] = []

    async def run(self) -> None:
        async with self.nc.subscribe("soak.*") as sub, trio.open_nursery() as nursery:
            nursery.start_soon(self._flush)
            async for msg in sub:
                text = opened(msg.data)
                name, _, number = (text or "").partition(" ")
                if not number or msg.subject != f"soak.{name}":
                    self._report.damaged += 1
                else:
                    self._report.received += 1
                    self.numbers[name].append(int(number))

    async def _flush(self) -> None:
        while True:
            begun, wire = trio.current_time(), self.nc.stats.reconnects
            await self.nc.flush()
            if wire == self.nc.stats.reconnects:
                self.sure.append(Sure(begun, trio.current_time(), wire))
            await trio.sleep(0.01)


class Publisher:
    """Publishes numbers, and knows of which the server has them."""

    def __init__(self, nc: Connection, proxy: ChaosProxy, name: str, report: Report) -> None:
        self.nc, self.proxy, self.name, self._report = nc, proxy, name, report
        self.sent = 0
        self.batches: list[Batch] = []

    async def run(self) -> None:
        while True:
            first, begun = self.sent, trio.current_time()
            before = self._breaks()
            try:
                for _ in range(BATCH):
                    text = f"{self.name} {self.sent}"
                    self.sent += 1
                    self._report.published += 1
                    await self.nc.publish(f"soak.{self.name}", sealed(text))
                await self.nc.flush()
            except MaxPayloadError:
                continue  # a damaged INFO
            if before == self._breaks():
                self.batches.append(Batch(first, self.sent - 1, begun, trio.current_time()))
                self._report.confirmed += BATCH
            await trio.sleep(0.001)

    def _breaks(self) -> tuple[int, int]:
        return self.nc.stats.reconnects, self.nc.stats.lost_in_flight


class Requester:
    """Asks, and checks that what comes back is an answer to that."""

    def __init__(self, nc: Connection, name: str, report: Report) -> None:
        self.nc, self.name, self._report = nc, name, report

    async def run(self) -> None:
        number = 0
        while True:
            number += 1
            question = sealed(f"{self.name} {number}")
            try:
                reply = await self.nc.request("ask", question, timeout=0.3)
            except (RequestTimeoutError, NoRespondersError, MaxPayloadError):
                self._report.unanswered += 1
                continue
            self._report.replies += 1
            if opened(reply.data) is not None and reply.data != question:
                self._report.faults.append(f"{question!r} was answered by {reply.data!r}")


async def respond(nc: Connection) -> None:
    async with nc.subscribe("ask", queue="responders") as questions:
        async for msg in questions:
            if msg.reply and opened(msg.data) is not None:
                try:
                    await msg.respond(msg.data)
                except (NatsError, ValueError):
                    pass  # a damaged reply subject


# -- judging -------------------------------------------------------------------------------------


def tainted(proxy: ChaosProxy, begun: float, ended: float) -> bool:
    """Whether a connection was up in that time on which bytes may have been changed."""
    return any(
        link.plan.corrupts
        and link.opened <= ended
        and (link.closed_at is None or link.closed_at >= begun)
        for link in proxy.links
    )


def judge(publisher: Publisher, subscriber: Subscriber, report: Report) -> None:
    """Hold what arrived against what must have."""
    who = f"{publisher.name} to {subscriber.proxy.port}"
    numbers = subscriber.numbers[publisher.name]
    arrived = set(numbers)
    if len(arrived) != len(numbers):
        report.faults.append(f"{who}: {len(numbers) - len(arrived)} messages came twice")
    firm: set[int] = set()
    flushes = iter(subscriber.sure)
    before: Sure | None = None
    following = next(flushes, None)
    for batch in publisher.batches:
        while following is not None and following.ended <= batch.begun:
            before, following = following, next(flushes, None)
        behind = following
        if behind is not None and behind.begun < batch.ended:
            behind = next((sure for sure in subscriber.sure if sure.begun >= batch.ended), None)
        certain = before is not None and behind is not None and before.wire == behind.wire
        if (
            certain
            and not tainted(publisher.proxy, batch.begun, batch.ended)
            and behind is not None
            and not tainted(subscriber.proxy, batch.begun, behind.ended)
        ):
            report.checked += batch.last - batch.first + 1
            firm.update(range(batch.first, batch.last + 1))
            missing = set(range(batch.first, batch.last + 1)) - arrived
            if missing:
                report.faults.append(f"{who}: {sorted(missing)[:5]} missed without a reason")
        else:
            report.explained += batch.last - batch.first + 1
    # When a publisher's wire breaks, the server may read its rest behind what the next one brings.
    ordered = [number for number in numbers if number in firm]
    if ordered != sorted(ordered):
        report.faults.append(f"{who}: messages changed places")


# -- the soak ------------------------------------------------------------------------------------


class Soak:
    """One run, over one transport."""

    def __init__(self, seed: int | str, transport: Transport, *, corrupt: bool) -> None:
        self.report = Report(seed)
        self._seed = seed
        self._dice = random.Random(f"{seed}")
        self._corrupt = corrupt
        self._transport = transport
        self._server = transport.server()
        self._connections: list[Connection] = []
        self._proxies: list[ChaosProxy] = []

    async def _connect(self, stack: AsyncExitStack, who: str) -> tuple[Connection, ChaosProxy]:
        plans = RandomPlans(f"{self._seed}/{who}", corrupt=self._corrupt)
        transport = self._transport
        proxy = await stack.enter_async_context(ChaosProxy(transport.port(self._server), plans))
        nc = await stack.enter_async_context(
            open_nats(
                transport.through(proxy.port),
                **transport.options,
                name=who,
                reconnect=POLICY,
                ping_interval=0.05,
                connect_timeout=0.5,
                close_timeout=0.1,
            )
        )
        self._connections.append(nc)
        self._proxies.append(proxy)
        return nc, proxy

    async def run(self, seconds: float) -> Report:
        """Raises :exc:`trio.TooSlowError` when something hangs."""
        report = self.report
        async with self._server, AsyncExitStack() as stack:
            subscribers = [
                Subscriber(*await self._connect(stack, f"s{number}"), report)
                for number in range(SUBSCRIBERS)
            ]
            publishers = [
                Publisher(*await self._connect(stack, f"p{number}"), f"p{number}", report)
                for number in range(PUBLISHERS)
            ]
            asking: list[Requester] = []
            for number in range(REQUESTERS):
                nc, _ = await self._connect(stack, f"q{number}")
                asking.append(Requester(nc, f"q{number}", report))
            answering, _ = await self._connect(stack, "r")
            with trio.fail_after(seconds + 30):
                async with trio.open_nursery() as nursery:
                    for worker in [*subscribers, *publishers, *asking]:
                        nursery.start_soon(worker.run)
                    nursery.start_soon(respond, answering)
                    nursery.start_soon(self._disturb)
                    await trio.sleep(seconds)
                    await self._settle(publishers)
                    nursery.cancel_scope.cancel()
            for publisher in publishers:
                for subscriber in subscribers:
                    judge(publisher, subscriber, report)
            report.reconnects = sum(nc.stats.reconnects for nc in self._connections)
            report.links = sum(len(proxy.links) for proxy in self._proxies)
            for nc in self._connections:
                if nc.failure is not None:
                    report.faults.append(f"a connection was given up: {nc.failure}")
        return report

    async def _disturb(self) -> None:
        """What no plan of a single connection brings: everybody at once, and the server."""
        while True:
            await trio.sleep(self._dice.uniform(0.3, 1.5))
            proxy = self._dice.choice(self._proxies)
            what = self._dice.choice(["cut", "swallow", "refuse", "kill", "reconnect"])
            if what == "cut":
                for every in self._proxies:
                    every.cut(reset=self._dice.random() < 0.5)
            elif what == "swallow":
                proxy.swallow = True
                await trio.sleep(0.2)
                proxy.swallow = False
                proxy.cut()  # what was swallowed left a hole
            elif what == "refuse":
                proxy.refuse()
                proxy.cut(reset=True)
                await trio.sleep(0.1)
                proxy.accept()
            elif what == "kill":
                await self._server.kill()
                await self._server.start()
            else:
                with trio.move_on_after(2), suppress(ConnectError):
                    await self._dice.choice(self._connections).reconnect()

    async def _settle(self, publishers: Sequence[Publisher]) -> None:
        """Without faults everything has to come to rest, and each connection to be of use."""
        for proxy in self._proxies:
            proxy.plans = ()
            proxy.swallow = False
            proxy.accept()
            proxy.cut()
        for nc in self._connections:
            await nc.flush()
        confirmed = [len(publisher.batches) for publisher in publishers]
        while any(  # noqa: ASYNC110
            len(publisher.batches) < count + 3
            for publisher, count in zip(publishers, confirmed, strict=True)
        ):
            await trio.sleep(0.01)
        await trio.sleep(0.1)


def left_over() -> dict[str, int]:
    """What there is of all that must not become more."""
    gc.collect()
    held = sum(isinstance(found, Supervisor | Session) for found in gc.get_objects())
    return {
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,
        "connections": held,
    }


def more_than(before: dict[str, int]) -> dict[str, int]:
    """By how much what there is exceeds what there was."""
    now = left_over()
    return {what: now[what] - count for what, count in before.items() if now[what] > count}


async def soak(
    seconds: float, seed: int | str, transport: Transport, *, corrupt: bool = True
) -> Report:
    """One run; :attr:`Report.faults` is empty if all is well."""
    before = left_over()
    report = await Soak(seed, transport, corrupt=corrupt).run(seconds)
    with trio.move_on_after(HANG_TIMEOUT):
        while more_than(before):  # noqa: ASYNC110
            await trio.sleep(0.05)
    if grown := more_than(before):
        report.faults.append(f"left over: {grown}")
    if not report.checked:
        report.faults.append("nothing could be checked")
    return report


async def _main(seconds: float, seed: int) -> bool:
    good = True
    turns = max(1, round(seconds / 30))
    for turn in range(turns):
        for name, transport in TRANSPORTS.items():
            share = seconds / turns / len(TRANSPORTS)
            report = await soak(share, f"{seed}/{turn}/{name}", transport)
            print(f"{name:3} {report}", flush=True)
            for fault in report.faults:
                print(f"  FAULT: {fault}", flush=True)
            good = good and not report.faults
    return good


def main() -> None:
    """Run from the command line; the exit status tells whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    logging.disable(logging.CRITICAL)
    faulthandler.dump_traceback_later(arguments.seconds * 2 + 120, exit=True)
    sys.exit(0 if trio.run(_main, arguments.seconds, arguments.seed) else 1)


if __name__ == "__main__":
    main()
