"""A worker that finishes its jobs before it stops.

On SIGTERM or SIGINT it drains its subscription: the server sends it no more jobs, it does and
answers those that it has received, and then it exits with code 0. A second signal changes nothing;
SIGKILL ends it at once.
"""

import signal

import trio

from trio_nats import Connection, Subscription, open_nats

WORKERS = 3


async def do(job: bytes) -> bytes:
    await trio.sleep(0.005)
    return b"done: " + job


async def work(jobs: Subscription) -> None:
    # Ends once the subscription is drained and all its messages have been received.
    async for msg in jobs:
        await msg.respond(await do(msg.data))


async def drain_when_told(nc: Connection, jobs: Subscription) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await nc.flush()
        print("ready", flush=True)
        await anext(signals)
        await jobs.drain()
        print(f"stopping, with {jobs.pending[0]} jobs waiting", flush=True)


async def main() -> None:
    # Leaving the block waits until the server has the last replies.
    async with open_nats(name="worker") as nc, nc.subscribe("jobs", queue="workers") as jobs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain_when_told, nc, jobs)
            for _ in range(WORKERS):
                nursery.start_soon(work, jobs)
    print("stopped", flush=True)


if __name__ == "__main__":
    trio.run(main)
