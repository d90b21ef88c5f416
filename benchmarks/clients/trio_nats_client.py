"""trio_nats, used as its documentation says."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Callable
from contextlib import AbstractAsyncContextManager
from typing import cast

import trio

from trio_nats import Connection, Msg, Subscription, TLSOptions, open_nats

from ..subjects import CONTROL, HEADER, REQUEST, SINK, feed_subject
from .common import (
    Job,
    Meter,
    Run,
    Unsupported,
    check_size,
    note_latencies,
    note_memory,
    run_client,
    try_resident,
)


def connect(job: Job) -> AbstractAsyncContextManager[Connection]:
    return open_nats(job.url, tls=TLSOptions(ca_file=job.ca) if job.ca else None)


async def publish(job: Job, meter: Meter) -> None:
    payload, headers = job.payload, dict([HEADER])
    async with connect(job) as nc:

        async def plain(count: int) -> None:
            for _ in range(count):
                await nc.publish(SINK, payload)
            await nc.flush()

        async def with_headers(count: int) -> None:
            for _ in range(count):
                await nc.publish(SINK, payload, headers=headers)
            await nc.flush()

        await meter(with_headers if job.scenario.headers else plain)


# --- receiving ------------------------------------------------------------------------------------


async def take_for(job: Job, sub: Subscription, count: int) -> int:
    async for msg in sub:
        count -= 1
        if not count:
            check_size(job, msg.data)
            break
    return 0


async def take_headers(job: Job, sub: Subscription, count: int) -> int:
    name, value = HEADER
    async for msg in sub:
        if msg.headers[name] != value:
            raise RuntimeError(f"unexpected headers: {msg.headers!r}")
        count -= 1
        if not count:
            check_size(job, msg.data)
            break
    return 0


async def take_call(job: Job, sub: Subscription, count: int) -> int:
    for _ in range(count - 1):
        await sub.receive()
    check_size(job, (await sub.receive()).data)
    return 0


async def take_batches(job: Job, sub: Subscription, count: int) -> int:
    """Return how many messages the last batch had beyond the requested number."""
    batches = cast("Callable[[], AsyncIterable[list[Msg]]]", find_batches(sub))
    async for batch in batches():
        for msg in batch:
            count -= 1
            if not count:
                check_size(job, msg.data)
        if count <= 0:
            break
    return -count


def find_batches(sub: Subscription) -> object:
    found = getattr(sub, "batches", None) or getattr(sub, "iter_batches", None)
    if found is None:
        raise Unsupported("this version has no batches")
    return found


TAKE = {"usual": take_for, "for": take_for, "call": take_call, "batches": take_batches}


async def receive(job: Job, meter: Meter) -> None:
    style = job.scenario.style
    take = take_headers if job.scenario.headers else TAKE[style]
    async with connect(job) as nc, nc.subscribe(feed_subject(0)) as sub:
        if style == "batches":
            find_batches(sub)
        await nc.flush()

        async def run(count: int) -> None:
            surplus = 0
            for grant, number in job.grants(count):
                if grant:
                    await nc.publish(CONTROL, grant)
                if number > surplus:
                    surplus = await take(job, sub, number - surplus)
                else:
                    surplus -= number
            if surplus:
                raise RuntimeError(f"{surplus} messages too many")

        await meter(run)


async def fan_in(job: Job, meter: Meter) -> None:
    scenario = job.scenario
    left = 0
    more = trio.Event()

    async def consume(sub: Subscription) -> None:
        nonlocal left
        async for _ in sub:
            left -= 1
            if not left:
                more.set()

    async with connect(job) as nc, trio.open_nursery() as nursery:
        subs = [nc.subscribe(feed_subject(number)) for number in range(scenario.subscriptions)]
        for sub in subs:
            await sub.__aenter__()
        for sub in subs[: scenario.subjects]:
            nursery.start_soon(consume, sub)
        await nc.flush()

        async def run(count: int) -> None:
            nonlocal left, more
            for grant, number in job.grants(count):
                more = trio.Event()
                left += number
                if left <= 0:  # they have arrived already
                    more.set()
                if grant:
                    await nc.publish(CONTROL, grant)
                await more.wait()

        await meter(run)
        nursery.cancel_scope.cancel()


# --- requests -------------------------------------------------------------------------------------


async def request(job: Job, meter: Meter) -> None:
    payload, concurrency = job.payload, job.scenario.concurrency
    latencies: list[float] = []
    async with connect(job) as nc:

        async def worker(count: int) -> None:
            for _ in range(count):
                begun = time.perf_counter()
                await nc.request(REQUEST, payload)
                latencies.append(time.perf_counter() - begun)

        async def run(count: int) -> None:
            latencies.clear()
            async with trio.open_nursery() as nursery:
                for _ in range(concurrency):
                    nursery.start_soon(worker, count // concurrency)

        await meter(run)
    note_latencies(meter, latencies)


async def respond(job: Job, meter: Meter) -> None:
    payload = job.payload
    async with connect(job) as nc, nc.subscribe(REQUEST) as sub:
        await nc.flush()

        async def run(count: int) -> None:
            await nc.publish(CONTROL, b"%d" % count)
            async for msg in sub:
                await msg.respond(payload)
                count -= 1
                if not count:
                    break
            await nc.flush()

        await meter(run)


# --- subscriptions and connections ----------------------------------------------------------------


async def subscribe(job: Job, meter: Meter) -> None:
    async with connect(job) as nc:
        await nc.flush()
        subs = []
        before = try_resident()

        async def run(count: int) -> None:
            for number in range(count):
                sub = nc.subscribe(feed_subject(number))
                await sub.__aenter__()
                subs.append(sub)
            await nc.flush()

        await meter(run)
        note_memory(meter, before)


async def connect_and_close(job: Job, meter: Meter) -> None:
    async def run(count: int) -> None:
        for _ in range(count):
            async with connect(job):
                pass

    await meter(run)


SCENARIOS = {
    "publish": publish,
    "receive": receive,
    "fan_in": fan_in,
    "request": request,
    "respond": respond,
    "subscribe": subscribe,
    "connect": connect_and_close,
}


def run_loop(run: Run, job: Job, meter: Meter) -> None:
    trio.run(run, job, meter)


if __name__ == "__main__":
    run_client(run_loop, SCENARIOS)
