"""What all clients share: their command line, the clocks, and the answer they print.

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
"""Seconds that warming up takes at least; it also tells how many operations a run will be."""
MOST = 20_000_000


class Unsupported(Exception):
    """The client cannot do this; the text says why."""


@dataclass
class Job:
    """What to run, and against which server."""

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
        """In turn: what to tell the load (nothing if empty), and how many messages to take then."""
        window, step = self.scenario.window, self.scenario.step
        granted = min(window, count)
        grant = granted
        for taken in range(0, count, step):
            if taken:
                grant = min(step, count - granted)
                granted += grant
            yield (b"%d" % grant if grant else b""), min(step, count - taken)


class Meter:
    """Measures one coroutine function that is given how many operations to do."""

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
        """Returns how many operations the run should be."""
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
    """The payload is the one that was asked for."""
    if len(data) != job.scenario.size:
        raise RuntimeError(f"a payload of {len(data)} bytes, expected {job.scenario.size}")


def percentile(values: list[float], share: float) -> float:
    """``values`` are sorted. In microseconds, from seconds."""
    return values[min(len(values) - 1, int(len(values) * share))] * 1e6


def note_latencies(meter: Meter, latencies: list[float]) -> None:
    """What users feel, in microseconds."""
    latencies.sort()
    meter.extra["p50_us"] = percentile(latencies, 0.5)
    meter.extra["p99_us"] = percentile(latencies, 0.99)


def resident() -> int:
    """Bytes of memory that this process has, garbage collected."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def note_memory(meter: Meter, before: int) -> None:
    """What each operation left behind. Where the system does not tell, nothing."""
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
    parser.add_argument("--ca", help="PEM file with the authority behind the server's certificate")
    parser.add_argument("--size", type=int, help="bytes of payload, if not the scenario's")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure, about")
    parser.add_argument("--messages", type=int, help="exactly how many operations to measure")
    parser.add_argument("--loop", default="", help="which event loop, or which way to be fast")
    options = parser.parse_args(argv)
    scenario = SCENARIOS[options.scenario]
    if options.size is not None:
        scenario = scenario.with_size(options.size)
    return Job(scenario, options.url, options.ca, options.seconds, options.messages, options.loop)


def run_client(run_loop: Callable[[Run, Job, Meter], None], scenarios: Scenarios) -> None:
    """The whole of a client's process."""
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
    """Its version, or ``None``."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
