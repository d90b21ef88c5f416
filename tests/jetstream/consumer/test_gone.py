"""A stream or consumer that vanished while nobody was connected; messages that fit nowhere."""

from __future__ import annotations

import pytest
import trio

from tests.jetstream.helpers import MEMORY, connected, filled
from tests.jetstream.scripted_server import QUICK
from trio_nats.jetstream import (
    AckPolicy,
    ConsumerDeletedError,
    PullError,
    StorageType,
    StreamNotFoundError,
)
from trio_nats.objectstore import ObjectMeta
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"deliver_subject": "here"}])
@pytest.mark.parametrize("whole_stream", [True, False])
async def test_it_is_noticed_after_a_restart(
    options: dict[str, str], *, whole_stream: bool
) -> None:
    async with NatsServer(jetstream=True) as server, connected(server, reconnect=QUICK) as (js, _):
        storage = MEMORY if whole_stream else StorageType.FILE
        stream = await filled(js, 1, storage=storage)  # what is in memory does not survive
        consumer = await stream.create_consumer(durable_name="c", mem_storage=True, **options)
        async with consumer.consume() as messages:
            await (await messages.receive()).double_ack()
            await server.stop()
            await server.start()
            expected = StreamNotFoundError if whole_stream else ConsumerDeletedError
            with pytest.raises(expected):
                await messages.receive()


async def test_messages_of_more_than_half_of_max_bytes(nats_server: NatsServer) -> None:
    """A request for what is left is refused, which is no reason to wait."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        for _ in range(60):
            await js.publish("s.1", bytes(600))
        consumer = await stream.create_consumer("c")
        with trio.fail_after(10):  # with a delay of 0.25 s or more for each, it takes 15 s
            async with consumer.consume(max_bytes=1000) as messages:
                for _ in range(60):
                    await (await messages.receive()).ack()


@pytest.mark.slow
async def test_a_message_that_fits_nowhere(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        await js.publish("s.1", bytes(2000))
        consumer = await stream.create_consumer("c")
        text = "larger than max_bytes of 1,000 bytes; pass at least its size"
        with pytest.raises(PullError, match=text):
            await consumer.fetch(max_bytes=1000)
        ordered = stream.ordered_consumer()
        with pytest.raises(PullError, match=text):
            await ordered.fetch(max_bytes=1000)
        for one in (consumer, ordered):
            async with one.consume(max_bytes=1000) as messages:
                with pytest.raises(PullError, match=text):
                    await messages.receive()
        assert len(await ordered.fetch(max_bytes=3000, timeout=0.2)) == 1


@pytest.mark.slow
async def test_chunks_larger_than_what_the_server_accepts_now() -> None:
    async with (
        NatsServer(jetstream=True, config={"max_payload": 20_000_000}) as server,
        connected(server, reconnect=QUICK) as (js, nc),
    ):
        store = await js.create_object_store("O")
        await store.put(ObjectMeta("film", chunk_size=16_000_000), bytes(16_000_000))
        await server.restart(config={"max_payload": 1_000_000})
        await nc.flush()
        async with store.get("film") as reader:
            assert len(await reader.read_all()) == 16_000_000


@pytest.mark.parametrize("policy", [AckPolicy.NONE, AckPolicy.EXPLICIT])
async def test_a_slow_receiver_keeps_its_ephemeral_consumer(
    nats_server: NatsServer, policy: AckPolicy
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 3)
        consumer = await stream.create_consumer("c", ack_policy=policy, inactive_threshold=1.6)
        async with consumer.consume(max_messages=3, threshold=1) as messages:
            for number in range(4):
                msg = await messages.receive()
                assert msg.data == b"%d" % number
                if policy == AckPolicy.EXPLICIT:
                    await msg.ack()
                await trio.sleep(1)
                if number == 2:
                    await js.publish("s.0", "3")
            assert (await consumer.refresh()).delivered.consumer_seq == 4
