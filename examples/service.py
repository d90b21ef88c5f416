"""A pool of workers on one subscription, which stops quickly on SIGINT or SIGTERM.

On a signal it finishes the requests that are being handled, and drops those that are waiting.
``graceful_worker.py`` answers these too.
"""

import signal
from collections.abc import AsyncIterable

import trio

from trio_nats import Connection, Msg, open_nats

WORKERS = 4


async def handle(msg: Msg) -> None:
    await trio.sleep(0.01)  # work
    await msg.respond(msg.data[::-1])


async def work(requests: AsyncIterable[Msg]) -> None:
    async for msg in requests:
        # Shielded, so that every request that was begun is answered.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await handle(msg)


async def serve(nc: Connection, stop: trio.Event) -> None:
    async with (
        nc.subscribe("reverse", queue="reversers") as requests,
        trio.open_nursery() as nursery,
    ):
        for _ in range(WORKERS):
            # Several tasks may receive from one subscription. Each request goes to one of them.
            nursery.start_soon(work, requests)
        await nc.flush()
        print("serving", flush=True)
        await stop.wait()
        nursery.cancel_scope.cancel()


async def stop_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            stop.set()
            return


async def main() -> None:
    stop = trio.Event()
    async with open_nats(name="reverser") as nc, trio.open_nursery() as nursery:
        nursery.start_soon(stop_on_signal, stop)
        await serve(nc, stop)
    print("stopped", flush=True)


if __name__ == "__main__":
    trio.run(main)
