"""nats-core, the successor that nats-py's authors are writing, on asyncio or on uvloop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nats.client import Client, Message, Subscription
from nats.client import connect as open_client

from ..subjects import CONTROL, HEADER, REQUEST, SINK, feed_subject
from .aio import Countdown, count_down, measure_requests, run_loop
from .common import Job, Meter, Unsupported, check_size, note_memory, run_client, try_resident


@asynccontextmanager
async def connect(job: Job) -> AsyncIterator[Client]:
    tls = ssl.create_default_context(cafile=job.ca) if job.ca else None
    nc = await open_client(job.url, tls=tls, timeout=5)
    try:
        yield nc
    finally:
        await nc.close()


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


async def take_for(job: Job, sub: Subscription, count: int) -> None:
    async for msg in sub:
        count -= 1
        if not count:
            check_size(job, msg.data)
            break


async def take_headers(job: Job, sub: Subscription, count: int) -> None:
    name, value = HEADER
    async for msg in sub:
        if msg.headers is None or msg.headers.get(name) != value:
            raise RuntimeError(f"unexpected headers: {msg.headers!r}")
        count -= 1
        if not count:
            check_size(job, msg.data)
            break


async def take_call(job: Job, sub: Subscription, count: int) -> None:
    for _ in range(count - 1):
        await sub.next()
    check_size(job, (await sub.next()).data)


async def receive(job: Job, meter: Meter) -> None:
    style = job.scenario.style
    if style == "batches":
        raise Unsupported("no batches")
    # Callbacks are additional: messages must still be received.
    take = take_call if style == "call" else take_for
    if job.scenario.headers:
        take = take_headers
    async with connect(job) as nc:
        sub = await nc.subscribe(feed_subject(0))
        await nc.flush()

        async def run(count: int) -> None:
            for grant, number in job.grants(count):
                if grant:
                    await nc.publish(CONTROL, grant)
                await take(job, sub, number)

        await meter(run)


async def fan_in(job: Job, meter: Meter) -> None:
    scenario = job.scenario
    countdown = Countdown()

    async def consume(sub: Subscription) -> None:
        async for msg in sub:
            countdown.left -= 1
            if not countdown.left:
                check_size(job, msg.data)
                countdown.done.set()

    async with connect(job) as nc:
        subs = [
            await nc.subscribe(feed_subject(number)) for number in range(scenario.subscriptions)
        ]
        tasks = [asyncio.create_task(consume(sub)) for sub in subs[: scenario.subjects]]
        await nc.flush()
        await count_down(job, meter, countdown, lambda grant: nc.publish(CONTROL, grant))
        for task in tasks:
            task.cancel()


async def request(job: Job, meter: Meter) -> None:
    payload = job.payload
    async with connect(job) as nc:
        await measure_requests(job, meter, lambda: nc.request(REQUEST, payload, timeout=5))


async def respond(job: Job, meter: Meter) -> None:
    payload = job.payload
    async with connect(job) as nc:
        sub = await nc.subscribe(REQUEST)
        await nc.flush()

        async def run(count: int) -> None:
            await nc.publish(CONTROL, b"%d" % count)
            async for msg in sub:
                await nc.publish(reply_of(msg), payload)
                count -= 1
                if not count:
                    break
            await nc.flush()

        await meter(run)


def reply_of(msg: Message) -> str:
    reply: str | None = msg.reply
    if reply is None:
        raise RuntimeError("a request without a reply subject")
    return reply


async def subscribe(job: Job, meter: Meter) -> None:
    async with connect(job) as nc:
        await nc.flush()
        subs = []
        before = try_resident()

        async def run(count: int) -> None:
            subs.extend([await nc.subscribe(feed_subject(number)) for number in range(count)])
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

if __name__ == "__main__":
    run_client(run_loop, SCENARIOS)
