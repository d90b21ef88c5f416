"""Two ways to have Trio at work under asyncio, measured against each other and against Trio alone.

``guest`` is ``trio_nats.anyio`` as it is: a guest run in the thread of the asyncio loop.
``thread`` is the other way, written here only to be measured: Trio in a thread of its own, calls by
``TrioToken.run_sync_soon``, answers by ``loop.call_soon_threadsafe``, both in batches.

    python benchmarks/anyio_hosts.py                # all of it
    python benchmarks/anyio_hosts.py guest thread   # some of: trio guest guest-uvloop thread ...

Each way runs in a process of its own, against one server and one responder in other processes, in
turns. What is shown is the best of all rounds, as the machine may be busy with other things:
latencies are the median of a round.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import outcome
import trio

import trio_nats
import trio_nats.anyio
from trio_nats import Msg
from trio_nats.testing import NatsServer

DATA = b"0123456789abcdef"
WAYS = ("trio", "guest", "guest-uvloop", "thread", "thread-uvloop")
ROUNDS = 5
MESSAGES = 200_000
BATCH = 512


class Client(Protocol):
    """The operations that are measured."""

    async def publish(self, subject: str, payload: bytes) -> None: ...
    async def flush(self) -> None: ...
    async def request(self, subject: str, payload: bytes) -> object: ...
    def receive(self, subject: str, count: int) -> AsyncIterator[object]: ...


class Direct:
    """A connection of trio_nats.anyio."""

    def __init__(self, nc: trio_nats.anyio.Connection) -> None:
        self.publish = nc.publish
        self.flush = nc.flush
        self.request = nc.request
        self._nc = nc

    async def receive(self, subject: str, count: int) -> AsyncIterator[object]:
        async with self._nc.subscribe(subject, stop_after=count) as sub:
            await self.flush()
            yield None
            async for msg in sub:
                yield msg


class Portal:
    """Trio in a thread. Every call is a task there; calls and results are batched."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._there: deque[Callable[[], object]] = deque()
        self._back: deque[Callable[[], object]] = deque()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    async def __aenter__(self) -> Portal:
        self._thread.start()
        await self._ready
        return self

    async def __aexit__(self, *_: object) -> None:
        self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        await asyncio.to_thread(self._thread.join)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio_nats.open_nats(self._url) as self.nc, trio.open_nursery() as self._nursery:
            self._loop.call_soon_threadsafe(self._ready.set_result, None)
            await trio.sleep_forever()

    def _tell(self, what: Callable[[], object]) -> None:
        first = not self._there
        self._there.append(what)
        if first:
            self._token.run_sync_soon(self._run_all, self._there)

    def _answer(self, what: Callable[[], object]) -> None:
        first = not self._back
        self._back.append(what)
        if first:
            self._loop.call_soon_threadsafe(self._run_all, self._back)

    def _run_all(self, calls: deque[Callable[[], object]]) -> None:
        while calls:
            calls.popleft()()

    async def call(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        future = self._loop.create_future()

        async def run() -> None:
            result = await outcome.acapture(function, *args)
            self._answer(lambda: future.done() or future.set_result(result))

        self._tell(lambda: self._nursery.start_soon(run))
        return (await future).unwrap()

    async def publish(self, subject: str, payload: bytes) -> None:
        # Wait, because the caller must get errors such as an invalid subject.
        await self.call(self.nc.publish, subject, payload)

    async def flush(self) -> None:
        await self.call(self.nc.flush)

    async def request(self, subject: str, payload: bytes) -> object:
        return await self.call(self.nc.request, subject, payload)

    async def receive(self, subject: str, count: int) -> AsyncIterator[object]:
        sub = await self.call(self.nc.subscribe(subject, stop_after=count).__aenter__)
        await self.flush()
        yield None

        async def some() -> list[Msg]:
            batch = [await sub.receive()]
            while len(batch) < BATCH:
                try:
                    batch.append(sub.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            return batch

        while count:
            for msg in await self.call(some):
                # As in every receive, because its scope may have been cancelled.
                await anyio.lowlevel.checkpoint_if_cancelled()
                count -= 1
                yield msg
        await self.call(sub.aclose)


@asynccontextmanager
async def client(way: str, url: str) -> AsyncIterator[Client]:
    if way.startswith("thread"):
        async with Portal(url) as portal:
            yield portal
    else:
        async with trio_nats.anyio.open_nats(url) as nc:
            yield Direct(nc)


async def measure(way: str, url: str) -> None:
    async with client(way, url) as nc:
        cells: list[float] = []
        for in_flight, rounds in ((1, 3000), (100, 100)):
            latencies: list[float] = []

            async def ask(rounds: int, latencies: list[float]) -> None:
                for _ in range(rounds):
                    begun = time.perf_counter()
                    await nc.request("echo", DATA)
                    latencies.append(time.perf_counter() - begun)

            await ask(100, [])
            async with anyio.create_task_group() as group:
                for _ in range(in_flight):
                    group.start_soon(ask, rounds, latencies)
            cells.append(statistics.median(latencies) * 1e6)

        count = MESSAGES // 10 if way.startswith("thread") else MESSAGES
        begun = time.perf_counter()
        for _ in range(count):
            await nc.publish("nobody", DATA)
        await nc.flush()
        cells.append(count / (time.perf_counter() - begun) / 1000)

        received = -1
        begun = 0.0
        async for _ in nc.receive("flood", MESSAGES):
            if received < 0:
                await nc.publish("flood.start", b"%d" % MESSAGES)
                begun = time.perf_counter()
            received += 1
        assert received == MESSAGES
        cells.append(received / (time.perf_counter() - begun) / 1000)
        print(*cells)


async def serve(url: str) -> None:
    """The peer: echoes requests, and floods on request."""
    async with trio_nats.open_nats(url) as nc:
        async with nc.subscribe("echo") as echo, nc.subscribe("flood.start") as floods:

            async def flood() -> None:
                async for msg in floods:
                    for _ in range(int(msg.data)):
                        await nc.publish("flood", DATA)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                await nc.flush()
                print("ready", flush=True)
                async for msg in echo:
                    await msg.respond(msg.data)


async def compare(ways: list[str]) -> None:
    me = [sys.executable, __file__]
    async with NatsServer() as server, trio.open_nursery() as nursery:
        responder = await nursery.start(
            partial(trio.run_process, [*me, "--serve", server.url], stdout=subprocess.PIPE)
        )
        await responder.stdout.receive_some()
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, Trio {trio.__version__}")
        print("| way | request, 1 in flight | 100 in flight | publish 16 B | receive 16 B |")
        print("|---|---|---|---|---|", flush=True)
        results: dict[str, list[list[float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way in ways:
                done = await trio.run_process(
                    [*me, "--measure", way, server.url], capture_stdout=True
                )
                results[way].append([float(cell) for cell in done.stdout.split()])
        for way, rounds in results.items():
            one, hundred, publish, receive = zip(*rounds, strict=True)
            print(
                f"| {way} | {min(one):.0f} us | {min(hundred) / 1000:.1f} ms "
                f"| {max(publish):.0f} k/s | {max(receive):.0f} k/s |"
            )
        nursery.cancel_scope.cancel()


def main() -> None:
    match sys.argv[1:]:
        case ["--serve", url]:
            trio.run(serve, url)
        case ["--measure", way, url]:
            backend = "trio" if way == "trio" else "asyncio"
            options = {"use_uvloop": way.endswith("uvloop")} if backend == "asyncio" else {}
            anyio.run(measure, way, url, backend=backend, backend_options=options)
        case ways:
            trio.run(compare, ways or list(WAYS))


if __name__ == "__main__":
    main()
