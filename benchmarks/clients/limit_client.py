"""The limit of Trio: a bare stream, prepared frames, no checks, no queues, no tasks.

``--loop load`` reads the messages without looking at them, to show what server and load can do.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import outcome
import trio

from ..subjects import CONTROL, HEADER, REQUEST, SINK, feed_subject
from .common import (
    Job,
    Meter,
    Run,
    Unsupported,
    check_size,
    note_latencies,
    run_client,
)

READ = 256 * 1024
CHUNK = 64 * 1024
HELLO = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'


@asynccontextmanager
async def connect(job: Job, *subscriptions: bytes) -> AsyncIterator[trio.abc.Stream]:
    parts = urlsplit(job.url)
    assert parts.hostname is not None
    raw = await trio.open_tcp_stream(parts.hostname, parts.port or 4222)
    await read_until(raw, b"\r\n")
    stream: trio.abc.Stream = raw
    if job.ca:
        context = ssl.create_default_context(cafile=job.ca)
        stream = trio.SSLStream(raw, context, server_hostname=parts.hostname, https_compatible=True)
    async with stream:
        subs = b"".join(b"SUB %s\r\n" % subscription for subscription in subscriptions)
        await stream.send_all(HELLO + subs + b"PING\r\n")
        await read_until(stream, b"PONG\r\n")
        yield stream


async def read_until(stream: trio.abc.Stream, end: bytes) -> None:
    data = b""
    while not data.endswith(end):
        more = await stream.receive_some(READ)
        if not more:
            raise ConnectionError("the server closed the connection")
        # Answer the server's PING, which measures the round-trip time.
        data = (data + more).removesuffix(b"PING\r\n")


def pub(subject: str, payload: bytes) -> bytes:
    return b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(payload), payload)


async def publish(job: Job, meter: Meter) -> None:
    frame = pub(SINK, job.payload)
    if job.scenario.headers:
        block = "NATS/1.0\r\n{}: {}\r\n\r\n".format(*HEADER).encode()
        sizes = (len(block), len(block) + len(job.payload))
        frame = b"HPUB %s %d %d\r\n%s%s\r\n" % (SINK.encode(), *sizes, block, job.payload)
    each = max(1, CHUNK // len(frame))
    chunk = frame * each
    async with connect(job) as stream:

        async def run(count: int) -> None:
            for _ in range(count // each):
                await stream.send_all(chunk)
            await stream.send_all(frame * (count % each) + b"PING\r\n")
            await read_until(stream, b"PONG\r\n")

        await meter(run)


# --- receiving ------------------------------------------------------------------------------------

Handle = Callable[[list[bytes], bytes], None]
Take = Callable[[int], Awaitable[int]]
"""Receives at least this many messages, and returns how many more it received."""


class Reader:
    """Reads frames, and passes each to the handler of its subscription ID."""

    def __init__(self, stream: trio.abc.Stream, handlers: dict[bytes, Handle]) -> None:
        self._stream = stream
        self._handlers = handlers
        self._rest = b""

    async def take(self, count: int) -> int:
        while count > 0:
            count -= await self.read()
        return -count

    async def read(self) -> int:
        """Read once, and return the number of messages."""
        more = await self._stream.receive_some(READ)
        if not more:
            raise ConnectionError("the server closed the connection")
        data = self._rest + bytes(more)
        find, handlers, end, at, count = data.find, self._handlers, len(data), 0, 0
        while True:
            eol = find(b"\r\n", at)
            if eol < 0:
                break
            if data[at] == 80:  # PING or PONG
                if data[at + 1] == 73:
                    await self._stream.send_all(b"PONG\r\n")
                at = eol + 2
                continue
            parts = data[at:eol].split()
            begin = eol + 2
            stop = begin + int(parts[-1])
            if stop + 2 > end:
                break
            handlers[parts[2]](parts, data[begin:stop])
            at = stop + 2
            count += 1
        self._rest = data[at:]
        return count


def drop_bytes(job: Job, stream: trio.abc.Stream) -> Take:
    """Count messages by their length only."""
    length = len(pub(feed_subject(0), job.payload)) + len("MSG  1") - len("PUB ")
    rest = 0

    async def take(count: int) -> int:
        nonlocal rest
        wanted = count * length
        while rest < wanted:
            data = await stream.receive_some(READ)
            if not data:
                raise ConnectionError("the server closed the connection")
            # Only a PING can stand between two messages.
            rest += len(data)
        surplus, rest = divmod(rest - wanted, length)
        return surplus

    return take


async def receive(job: Job, meter: Meter) -> None:
    scenario = job.scenario
    if scenario.style != "usual":
        raise Unsupported("there is one way only to read a stream")

    def look(parts: list[bytes], data: bytes) -> None:
        pass

    handlers: dict[bytes, Handle] = {}
    subscriptions = []
    for number in range(scenario.subscriptions):
        handlers[b"%d" % (number + 1)] = look
        subscriptions.append(b"%s %d" % (feed_subject(number).encode(), number + 1))
    async with connect(job, *subscriptions) as stream:
        if job.loop == "load":
            if scenario.headers or scenario.subscriptions > 1:
                raise Unsupported("only for messages of one length")
            take = drop_bytes(job, stream)
        else:
            take = Reader(stream, handlers).take

        async def run(count: int) -> None:
            surplus = 0
            for grant, number in job.grants(count):
                if grant:
                    await stream.send_all(pub(CONTROL, grant))
                if number > surplus:
                    surplus = await take(number - surplus)
                else:
                    surplus -= number
            if surplus:
                raise RuntimeError(f"{surplus} messages too many")

        await meter(run)


async def respond(job: Job, meter: Meter) -> None:
    replies: list[bytes] = []
    rest = b" %d\r\n%s\r\n" % (len(job.payload), job.payload)

    def reply(parts: list[bytes], data: bytes) -> None:
        replies.append(b"PUB " + parts[3] + rest)

    async with connect(job, REQUEST.encode() + b" 1") as stream:
        reader = Reader(stream, {b"1": reply})

        async def run(count: int) -> None:
            await stream.send_all(pub(CONTROL, b"%d" % count))
            while count > 0:
                count -= await reader.read()
                frames = b"".join(replies)
                replies.clear()
                if frames:
                    await stream.send_all(frames)
            if count:
                raise RuntimeError(f"{-count} requests too many")
            await stream.send_all(b"PING\r\n")
            await read_until(stream, b"PONG\r\n")

        await meter(run)


# --- requests -------------------------------------------------------------------------------------


class Requests:
    """Requests of many tasks, written together by one task and read by another."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._frames: list[bytes] = []
        self._writer: trio.lowlevel.Task | None = None
        self._waiting: dict[bytes, trio.lowlevel.Task] = {}
        self._number = 0
        self._reader = Reader(stream, {b"1": self._answer})

    async def request(self, rest: bytes) -> bytes:
        self._number += 1
        token = b"bench.inbox.%d" % self._number
        self._waiting[token] = trio.lowlevel.current_task()
        self._frames.append(b"PUB bench.request " + token + rest)
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._waiting.pop(token, None)
            return trio.lowlevel.Abort.SUCCEEDED

        data: bytes = await trio.lowlevel.wait_task_rescheduled(abort)
        return data

    def _answer(self, parts: list[bytes], data: bytes) -> None:
        task = self._waiting.pop(parts[1], None)
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Value(data))

    async def read(self) -> None:
        while True:
            await self._reader.read()

    async def write(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._frames:
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            frames = b"".join(self._frames)
            self._frames.clear()
            await self._stream.send_all(frames)


async def request(job: Job, meter: Meter) -> None:
    rest = b" %d\r\n%s\r\n" % (len(job.payload), job.payload)
    concurrency = job.scenario.concurrency
    latencies: list[float] = []
    async with connect(job, b"bench.inbox.* 1") as stream, trio.open_nursery() as background:
        requests = Requests(stream)
        background.start_soon(requests.read)
        background.start_soon(requests.write)

        async def worker(count: int) -> None:
            for _ in range(count):
                begun = time.perf_counter()
                check_size(job, await requests.request(rest))
                latencies.append(time.perf_counter() - begun)

        async def run(count: int) -> None:
            latencies.clear()
            async with trio.open_nursery() as nursery:
                for _ in range(concurrency):
                    nursery.start_soon(worker, count // concurrency)

        await meter(run)
        background.cancel_scope.cancel()
    note_latencies(meter, latencies)


# --- subscriptions and connections ----------------------------------------------------------------


async def subscribe(job: Job, meter: Meter) -> None:
    async with connect(job) as stream:

        async def run(count: int) -> None:
            frames = [
                b"SUB %s %d\r\n" % (feed_subject(number).encode(), number + 1)
                for number in range(count)
            ]
            await stream.send_all(b"".join(frames) + b"PING\r\n")
            await read_until(stream, b"PONG\r\n")

        await meter(run)


async def connect_and_close(job: Job, meter: Meter) -> None:
    async def run(count: int) -> None:
        for _ in range(count):
            async with connect(job):
                pass

    await meter(run)


SCENARIOS = {
    "publish": publish,
    "receive": receive,
    "fan_in": receive,
    "request": request,
    "respond": respond,
    "subscribe": subscribe,
    "connect": connect_and_close,
}


def run_loop(run: Run, job: Job, meter: Meter) -> None:
    if job.loop == "load" and job.scenario.kind != "receive":
        raise Unsupported("only receives")
    trio.run(run, job, meter)


if __name__ == "__main__":
    run_client(run_loop, SCENARIOS)
