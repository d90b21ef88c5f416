"""Common code of all clients: the command line, the clocks, and the printed result.

No event loop is imported here: ``Meter`` works under all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

from ..scenarios import SCENARIOS, Scenario

__all__ = ["Job", "Meter", "Scenarios", "Unsupported", "check_size", "percentile", "run_client"]

PILOT = 0.15
"""Minimum seconds of the warm-up, which also determines the number of operations."""
MOST = 20_000_000


class Unsupported(Exception):
    """The client cannot do this; the text says why."""


@dataclass
class Job:
    """The scenario, and the server to use."""

    scenario: Scenario
    url: str
    ca: str | None
    seconds: float
    messages: int | None
    loop: str
    payload: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.payload = b"x" * self.scenario.size

    def grants(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Yield the grant for the load (empty for none) and the number of messages to receive."""
        window, step = self.scenario.window, self.scenario.step
        granted = min(window, count)
        grant = granted
        for taken in range(0, count, step):
            if taken:
                grant = min(step, count - granted)
                granted += grant
            yield (b"%d" % grant if grant else b""), min(step, count - taken)


class Meter:
    """Measures a coroutine function that performs a given number of operations."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.count = self.total = 0
        self.seconds = self.cpu = 0.0
        self.extra: dict[str, float] = {}

    async def __call__(self, run: Callable[[int], Awaitable[None]]) -> None:
        job = self._job
        count = job.scenario.fixed or await self._warm_up(run)
        before = resource.getrusage(resource.RUSAGE_SELF)
        begun = time.perf_counter()
        await run(count)
        self.seconds = time.perf_counter() - begun
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.count = count
        self.total += count

    async def _warm_up(self, run: Callable[[int], Awaitable[None]]) -> int:
        """Return the number of operations for the run."""
        job, multiple = self._job, self._job.scenario.multiple
        pilot = 20 if job.scenario.kind == "connect" else 500
        if job.messages is not None:
            pilot = min(pilot, job.messages)
        while True:
            pilot = -(-pilot // multiple) * multiple
            begun = time.perf_counter()
            await run(pilot)
            seconds = time.perf_counter() - begun
            self.total += pilot
            if job.messages is not None:
                return -(-job.messages // multiple) * multiple
            if seconds >= PILOT:
                break
            pilot *= 4
        count = min(MOST, int(pilot / seconds * job.seconds))
        return max(1, -(-count // multiple)) * multiple


def check_size(job: Job, data: bytes) -> None:
    """Check that the payload is the expected one."""
    if len(data) != job.scenario.size:
        raise RuntimeError(f"a payload of {len(data)} bytes, expected {job.scenario.size}")


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of sorted ``values`` in microseconds."""
    return values[min(len(values) - 1, int(len(values) * share))] * 1e6


def note_latencies(meter: Meter, latencies: list[float]) -> None:
    """Return latencies in microseconds."""
    latencies.sort()
    meter.extra["p50_us"] = percentile(latencies, 0.5)
    meter.extra["p99_us"] = percentile(latencies, 0.99)


def resident() -> int:
    """Return the memory of this process in bytes, after a garbage collection."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def note_memory(meter: Meter, before: int) -> None:
    """Return the memory growth per operation, or nothing if the system cannot tell."""
    if before:
        meter.extra["bytes_each"] = (resident() - before) / meter.count


def try_resident() -> int:
    """:func:`resident`, or 0 where there is no /proc."""
    try:
        return resident()
    except OSError:
        return 0


Run: TypeAlias = Callable[[Job, Meter], Awaitable[None]]
Scenarios: TypeAlias = Mapping[str, Run]


def parse(argv: list[str] | None = None) -> Job:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=SCENARIOS, metavar="scenario")
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", help="PEM file of the server's certificate authority")
    parser.add_argument("--size", type=int, help="payload size in bytes; default: the scenario's")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="approximate length of the measurement"
    )
    parser.add_argument("--messages", type=int, help="exact number of operations")
    parser.add_argument("--loop", default="", help="event loop or variant")
    options = parser.parse_args(argv)
    scenario = SCENARIOS[options.scenario]
    if options.size is not None:
        scenario = scenario.with_size(options.size)
    return Job(scenario, options.url, options.ca, options.seconds, options.messages, options.loop)


def run_client(run_loop: Callable[[Run, Job, Meter], None], scenarios: Scenarios) -> None:
    """Run the process of a client."""
    job = parse()
    meter = Meter(job)
    answer: dict[str, object]
    try:
        run = scenarios.get(job.scenario.kind)
        if run is None:
            raise Unsupported(f"no {job.scenario.kind}")
        run_loop(run, job, meter)
    except Unsupported as exc:
        answer = {"unsupported": str(exc)}
    else:
        answer = {
            "count": meter.count,
            "total": meter.total,
            "seconds": meter.seconds,
            "cpu_seconds": meter.cpu,
            "extra": meter.extra,
        }
    json.dump(answer, sys.stdout)
    print()


def installed(distribution: str) -> str | None:
    """Return the installed version, or ``None``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
