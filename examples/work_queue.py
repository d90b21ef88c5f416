"""A work queue: jobs stay in a stream until a worker has acknowledged them.

A failed job is redelivered after a growing delay; one that can never succeed is terminated.
"""

import trio

from trio_nats import open_nats
from trio_nats.jetstream import JetStream, JetStreamMsg, Messages, RetentionPolicy, Stream

WORKERS = 3
JOBS = 12


async def publish_jobs(js: JetStream) -> None:
    async with js.publisher() as publisher:
        for number in range(JOBS):
            await publisher.publish("jobs.print", str(number))


async def handle(msg: JetStreamMsg) -> None:
    number = int(msg.data)
    if number == 7:
        raise ValueError("nobody can do that")
    if number % 5 == 0 and msg.metadata.delivered == 1:
        raise OSError("out of paper")
    await trio.sleep(0.01)  # work


async def work(name: str, stream: Stream, messages: Messages) -> None:
    async for msg in messages:
        try:
            await handle(msg)
        except OSError as error:
            print(f"{name}: job {msg.data.decode()} again later: {error}", flush=True)
            await msg.nak(delay=0.1 * msg.metadata.delivered)
            continue
        except ValueError as error:
            print(f"{name}: job {msg.data.decode()} given up: {error}", flush=True)
            await msg.term(reason=str(error))
        else:
            # Once the server confirms the acknowledgement, the job is removed.
            await msg.double_ack()
            print(f"{name}: job {msg.data.decode()} done", flush=True)
        if (await stream.refresh()).state.messages == 0:
            await messages.drain()  # a real worker would continue


async def main() -> None:
    async with open_nats(name="work queue") as nc:
        js = nc.jetstream()
        stream = await js.create_stream(
            "JOBS", subjects=["jobs.*"], retention=RetentionPolicy.WORK_QUEUE
        )
        await publish_jobs(js)
        consumer = await stream.create_consumer(durable_name="workers", ack_wait=30)
        # Jobs take time, so prefetch few, and leave the others to other workers.
        async with consumer.consume(max_messages=WORKERS) as messages:
            async with trio.open_nursery() as nursery:
                for number in range(WORKERS):
                    nursery.start_soon(work, f"worker {number}", stream, messages)
        await js.delete_stream("JOBS")
    print("all done", flush=True)


if __name__ == "__main__":
    trio.run(main)
