"""nats-py, on asyncio or on uvloop."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..subjects import CONTROL, HEADER, REQUEST, SINK, feed_subject
from .aio import Countdown, count_down, measure_requests, run_loop
from .common import Job, Meter, Unsupported, check_size, note_memory, run_client, try_resident


@asynccontextmanager
async def connect(job: Job) -> AsyncIterator[Client]:
    async def complain(exc: Exception) -> None:
        raise SystemExit(f"nats-py reports {exc!r}")

    tls = ssl.create_default_context(cafile=job.ca) if job.ca else None
    nc = await nats.connect(job.url, tls=tls, error_cb=complain)
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
            await nc.flush(timeout=60)

        async def with_headers(count: int) -> None:
            for _ in range(count):
                await nc.publish(SINK, payload, headers=headers)
            await nc.flush(timeout=60)

        await meter(with_headers if job.scenario.headers else plain)


async def take_for(job: Job, sub: Subscription, count: int) -> None:
    async for msg in sub.messages:
        count -= 1
        if not count:
            check_size(job, msg.data)
            break


async def take_call(job: Job, sub: Subscription, count: int) -> None:
    for _ in range(count - 1):
        await sub.next_msg(timeout=None)
    check_size(job, (await sub.next_msg(timeout=None)).data)


async def receive(job: Job, meter: Meter) -> None:
    style = job.scenario.style
    if style == "batches":
        raise Unsupported("no batches")
    if style == "usual":
        await receive_callback(job, meter)
        return
    take = take_call if style == "call" else take_for
    async with connect(job) as nc:
        sub = await nc.subscribe(feed_subject(0))
        await nc.flush()

        async def run(count: int) -> None:
            for grant, number in job.grants(count):
                if grant:
                    await nc.publish(CONTROL, grant)
                await take(job, sub, number)

        await meter(run)


async def receive_callback(job: Job, meter: Meter) -> None:
    """As in its documentation; it runs a task per subscription."""
    scenario = job.scenario
    countdown = Countdown()
    name, value = HEADER

    async def count_one(msg: Msg) -> None:
        countdown.left -= 1
        if not countdown.left:
            check_size(job, msg.data)
            countdown.done.set()

    async def count_headers(msg: Msg) -> None:
        if msg.headers is None or msg.headers[name] != value:
            raise SystemExit(f"unexpected headers: {msg.headers!r}")
        await count_one(msg)

    count = count_headers if scenario.headers else count_one
    async with connect(job) as nc:
        for number in range(scenario.subscriptions):
            cb = count if number < scenario.subjects else None
            await nc.subscribe(feed_subject(number), cb=cb)
        await nc.flush()
        await count_down(job, meter, countdown, lambda grant: nc.publish(CONTROL, grant))


async def request(job: Job, meter: Meter) -> None:
    payload = job.payload
    async with connect(job) as nc:
        await measure_requests(job, meter, lambda: nc.request(REQUEST, payload, timeout=5))


async def respond(job: Job, meter: Meter) -> None:
    """With a callback, as in its documentation."""
    payload = job.payload
    countdown = Countdown()

    async def reply(msg: Msg) -> None:
        await msg.respond(payload)
        countdown.left -= 1
        if not countdown.left:
            countdown.done.set()

    async with connect(job) as nc:
        await nc.subscribe(REQUEST, cb=reply)
        await nc.flush()

        async def run(count: int) -> None:
            countdown.expect(count)
            await nc.publish(CONTROL, b"%d" % count)
            await countdown.done.wait()
            await nc.flush(timeout=60)

        await meter(run)


async def subscribe(job: Job, meter: Meter) -> None:
    async with connect(job) as nc:
        await nc.flush()
        subs = []
        before = try_resident()

        async def run(count: int) -> None:
            subs.extend([await nc.subscribe(feed_subject(number)) for number in range(count)])
            await nc.flush(timeout=60)

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
    "fan_in": receive_callback,
    "request": request,
    "respond": respond,
    "subscribe": subscribe,
    "connect": connect_and_close,
}

if __name__ == "__main__":
    run_client(run_loop, SCENARIOS)
