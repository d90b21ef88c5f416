"""A worker that loses no job when it is told to stop.

On SIGTERM or SIGINT it drains its subscription: the server sends it no more jobs, the ones it has
been sent are done and answered, and then it ends, with exit code 0. A second signal does not
hurry it; SIGKILL does.
"""

import signal

import trio

from trio_nats import Connection, Subscription, open_nats

WORKERS = 3


async def do(job: bytes) -> bytes:
    await trio.sleep(0.005)
    return b"done: " + job


async def work(jobs: Subscription) -> None:
    # Ends when the subscription has been drained and nothing is left in it.
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
    # Leaving the block sees to it that the server has the last answers.
    async with open_nats(name="worker") as nc, nc.subscribe("jobs", queue="workers") as jobs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain_when_told, nc, jobs)
            for _ in range(WORKERS):
                nursery.start_soon(work, jobs)
    print("stopped", flush=True)


if __name__ == "__main__":
    trio.run(main)
