"""natsrpy: the Rust client behind asyncio futures.

Its ``flush`` returns when the bytes are with the operating system. So that its clock stops when the
others' do, a message to ourselves follows: when that is back, the server has read all before it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from natsrpy import IteratorSubscription, Message, Nats

from ..subjects import CONTROL, HEADER, REQUEST, SINK, feed_subject
from .aio import Countdown, count_down, measure_requests, run_loop
from .common import Job, Meter, Unsupported, check_size, note_memory, run_client, try_resident


@asynccontextmanager
async def connect(job: Job) -> AsyncIterator[Nats]:
    if job.ca:
        # It has no option for this.
        os.environ["SSL_CERT_FILE"] = job.ca
    nc = Nats([job.url])
    await nc.startup()
    try:
        yield nc
    finally:
        await nc.shutdown()


async def open_sub(nc: Nats, subject: str) -> IteratorSubscription:
    return await nc.subscribe(subject).detatch()


async def make_round_trip(nc: Nats) -> Callable[[], Awaitable[None]]:
    sub = await open_sub(nc, "bench.round-trip")

    async def round_trip() -> None:
        await nc.publish("bench.round-trip", b"")
        await nc.flush()
        await sub.__anext__()

    await round_trip()
    return round_trip


async def publish(job: Job, meter: Meter) -> None:
    payload, headers = job.payload, dict([HEADER])
    async with connect(job) as nc:
        round_trip = await make_round_trip(nc)
        # The round trip is a message too.
        meter.total += 1

        async def plain(count: int) -> None:
            for _ in range(count):
                await nc.publish(SINK, payload)
            await round_trip()
            meter.total += 1

        async def with_headers(count: int) -> None:
            for _ in range(count):
                await nc.publish(SINK, payload, headers=headers)
            await round_trip()
            meter.total += 1

        await meter(with_headers if job.scenario.headers else plain)


async def take_for(job: Job, sub: IteratorSubscription, count: int) -> None:
    async for msg in sub:
        count -= 1
        if not count:
            check_size(job, msg.payload)
            break


async def receive(job: Job, meter: Meter) -> None:
    style = job.scenario.style
    if style == "batches":
        raise Unsupported("no batches")
    if style == "call":
        raise Unsupported("async for and callbacks only")
    if style == "usual":
        await receive_callback(job, meter)
        return
    async with connect(job) as nc:
        sub = await open_sub(nc, feed_subject(0))
        await (await make_round_trip(nc))()

        async def run(count: int) -> None:
            for grant, number in job.grants(count):
                if grant:
                    await nc.publish(CONTROL, grant)
                await take_for(job, sub, number)

        await meter(run)


async def receive_callback(job: Job, meter: Meter) -> None:
    countdown = Countdown()
    name, value = HEADER

    async def count_one(msg: Message) -> None:
        countdown.left -= 1
        if not countdown.left:
            check_size(job, msg.payload)
            countdown.done.set()

    async def count_headers(msg: Message) -> None:
        if msg.headers[name] != value:
            raise SystemExit(f"unexpected headers: {msg.headers!r}")
        await count_one(msg)

    count = count_headers if job.scenario.headers else count_one
    async with connect(job) as nc:
        # It ends when it is no longer referenced.
        sub = await nc.subscribe(feed_subject(0), count).detatch()
        await (await make_round_trip(nc))()
        await count_down(job, meter, countdown, lambda grant: nc.publish(CONTROL, grant))
        await sub.unsubscribe()


async def fan_in(job: Job, meter: Meter) -> None:
    scenario = job.scenario
    countdown = Countdown()

    async def consume(sub: IteratorSubscription) -> None:
        async for msg in sub:
            countdown.left -= 1
            if not countdown.left:
                check_size(job, msg.payload)
                countdown.done.set()

    async with connect(job) as nc:
        subs = [
            await open_sub(nc, feed_subject(number)) for number in range(scenario.subscriptions)
        ]
        tasks = [asyncio.create_task(consume(sub)) for sub in subs[: scenario.subjects]]
        await (await make_round_trip(nc))()
        await count_down(job, meter, countdown, lambda grant: nc.publish(CONTROL, grant))
        for task in tasks:
            task.cancel()


async def request(job: Job, meter: Meter) -> None:
    payload = job.payload
    async with connect(job) as nc:
        await measure_requests(job, meter, lambda: nc.request(REQUEST, payload, timeout=5.0))


async def respond(job: Job, meter: Meter) -> None:
    payload = job.payload
    countdown = Countdown()

    async with connect(job) as nc:

        async def reply(msg: Message) -> None:
            if msg.reply is None:
                raise SystemExit("a request without a reply subject")
            await nc.publish(msg.reply, payload)
            countdown.left -= 1
            if not countdown.left:
                countdown.done.set()

        sub = await nc.subscribe(REQUEST, reply).detatch()
        round_trip = await make_round_trip(nc)

        async def run(count: int) -> None:
            countdown.expect(count)
            await nc.publish(CONTROL, b"%d" % count)
            await countdown.done.wait()
            await round_trip()

        await meter(run)
        await sub.unsubscribe()


async def subscribe(job: Job, meter: Meter) -> None:
    async with connect(job) as nc:
        round_trip = await make_round_trip(nc)
        subs = []
        before = try_resident()

        async def run(count: int) -> None:
            subs.extend([await open_sub(nc, feed_subject(number)) for number in range(count)])
            await round_trip()

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
