"""Share work: a queue group delivers each message to one of its subscribers."""

import trio

from trio_nats import Connection, open_nats

JOBS = 12


async def worker(
    nc: Connection,
    name: str,
    done: trio.abc.SendChannel[str],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    async with done, nc.subscribe("jobs", queue="workers") as jobs:
        await nc.flush()  # now the server has processed the subscription
        task_status.started()
        async for job in jobs:
            await done.send(f"{name} did {job.data.decode()}")


async def main() -> None:
    reports_in, reports = trio.open_memory_channel[str](0)
    async with open_nats() as nc, trio.open_nursery() as nursery:
        for number in range(3):
            await nursery.start(worker, nc, f"worker {number}", reports_in.clone())
        for number in range(JOBS):
            await nc.publish("jobs", f"job {number}")
        for _ in range(JOBS):
            print(await reports.receive())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
