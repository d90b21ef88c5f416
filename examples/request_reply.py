"""Send requests and receive replies, or an immediate error if there is no responder."""

import trio

from trio_nats import Connection, NoRespondersError, RequestTimeoutError, open_nats


async def clock(
    nc: Connection, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with nc.subscribe("clock") as requests:
        await nc.flush()
        task_status.started()
        async for msg in requests:
            await msg.respond(f"it is {trio.current_time():.0f} o'clock, roughly")


async def main() -> None:
    async with open_nats() as nc, trio.open_nursery() as nursery:
        await nursery.start(clock, nc)
        await nursery.start(clock, nc)

        reply = await nc.request("clock", timeout=2)
        print("one clock says:", reply.data.decode())

        async with nc.request_many("clock", stop_after=2, timeout=2) as replies:
            async for reply in replies:
                print("some clock says:", reply.data.decode())

        try:
            await nc.request("sundial")
        except NoRespondersError as error:
            print(error)
        async with nc.subscribe("sphinx"):  # listens, but never answers
            try:
                await nc.request("sphinx", timeout=0.1)
            except RequestTimeoutError as error:
                print(error)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
