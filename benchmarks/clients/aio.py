"""Helpers for asyncio clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from .common import Job, Meter, Run, note_latencies

__all__ = ["Countdown", "measure_requests", "run_loop"]


def run_loop(run: Run, job: Job, meter: Meter) -> None:
    """``--loop uvloop`` or asyncio's own."""

    async def main() -> None:
        await run(job, meter)

    if job.loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


class Countdown:
    """Counts messages down in callbacks. ``left`` is negative if messages arrive early."""

    def __init__(self) -> None:
        self.left = 0
        self.done = asyncio.Event()

    def expect(self, count: int) -> None:
        self.done.clear()
        self.left += count
        if self.left <= 0:
            self.done.set()


async def count_down(
    job: Job,
    meter: Meter,
    countdown: Countdown,
    grant_more: Callable[[bytes], Awaitable[object]],
) -> None:
    """Measure receiving with callbacks or tasks that count down."""

    async def run(count: int) -> None:
        for grant, number in job.grants(count):
            countdown.expect(number)
            if grant:
                await grant_more(grant)
            await countdown.done.wait()

    await meter(run)


async def measure_requests(job: Job, meter: Meter, make: Callable[[], Awaitable[object]]) -> None:
    """Measure requests, each made by ``make``, with the same workers for all clients."""
    concurrency = job.scenario.concurrency
    latencies: list[float] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            await make()
            latencies.append(time.perf_counter() - begun)

    async def run(count: int) -> None:
        latencies.clear()
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker(count // concurrency))

    await meter(run)
    note_latencies(meter, latencies)
