"""Code written against anyio: the same program on Trio and on asyncio.

Run it with ``trio`` or ``asyncio`` as its argument; without one it runs on both.
"""

import sys

import anyio
from anyio.abc import ObjectReceiveStream, TaskStatus

from trio_nats import Msg
from trio_nats.anyio import Connection, open_nats


async def serve(nc: Connection, *, task_status: TaskStatus[None]) -> None:
    async with nc.subscribe("shout") as requests:
        await nc.flush()
        task_status.started()
        async for msg in requests:
            await msg.respond(msg.data.upper())


async def collect(stream: ObjectReceiveStream[Msg]) -> None:
    # A subscription is an anyio stream.
    async for msg in stream:
        print(msg.subject, msg.data.decode())


async def main() -> None:
    async with open_nats(name="both backends") as nc, anyio.create_task_group() as group:
        await group.start(serve, nc)
        async with nc.subscribe("log.*", stop_after=2) as log:
            async with nc.publisher("log.first") as first:
                await first.send("one")
            await nc.publish("log.second", "two")
            await collect(log)
        reply = await nc.request("shout", "hello", timeout=2)
        print("reply:", reply.data.decode())
        with anyio.move_on_after(0.05) as scope:
            async with nc.subscribe("silence") as silence:
                await silence.receive()
        print("gave up:", scope.cancelled_caught)
        group.cancel_scope.cancel()


if __name__ == "__main__":
    for backend in sys.argv[1:] or ["trio", "asyncio"]:
        print(f"on {backend}:")
        anyio.run(main, backend=backend)
