"""``consume(prefetch=False)``: a message is requested only when a task waits for it."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import connected, filled
from tests.jetstream.scripted_server import QUICK, Puller, pulled_from
from trio_nats import ConfigurationError
from trio_nats.jetstream import ConsumerConfig, Messages
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


@pytest.mark.slow
async def test_nothing_is_taken_while_a_message_is_handled(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 4)
        consumer = await stream.create_consumer("c", ack_wait=0.2)
        async with consumer.consume(prefetch=False) as messages:
            for number in range(4):
                msg = await messages.receive()
                assert (msg.data, msg.metadata.delivered) == (b"%d" % number, 1)
                for _ in range(4):  # long work, longer than ack_wait for anything in advance
                    await trio.sleep(0.1)
                    await msg.in_progress()
                await nc.flush()
                assert (await consumer.refresh()).delivered.consumer_seq == number + 1
                await msg.double_ack()
            await js.publish("s.1", "4")
            assert (await messages.receive()).data == b"4"


async def test_one_is_requested_for_each_task_that_waits() -> None:
    puller = Puller()
    came: list[int] = []

    async def worker(messages: Messages) -> None:
        msg = await messages.receive()
        came.append(msg.metadata.stream_seq)
        await trio.sleep_forever()

    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(prefetch=False) as messages,
        trio.open_nursery() as nursery,
    ):
        await nc.flush()
        assert puller.no_pull()
        pulls = []
        for _ in range(3):
            nursery.start_soon(worker, messages)
            pull = await puller.pull()
            assert pull.batch == 1
            pulls.append(pull)
        # A request that has ended is repeated.
        await puller.say(pulls[0], "408 Request Timeout", pending_messages=1, pending_bytes=0)
        pulls[0] = await puller.pull()
        assert pulls[0].batch == 1
        for pull in pulls:
            await puller.deliver(pull)
        while len(came) < 3:
            await nc.flush()
        assert puller.no_pull()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_leaves_its_message_to_the_next() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(prefetch=False) as messages,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(messages.receive)
            pull = await puller.pull()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(messages.receive)
            await trio.testing.wait_all_tasks_blocked()
            await nc.flush()
            assert puller.no_pull()  # the earlier request still stands
            await puller.deliver(pull)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(messages.receive)
            await puller.deliver(await puller.pull())


async def test_it_ends_after_a_number(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 9)
        consumer = await stream.create_consumer("c", ack_wait=600)
        came: Counter[bytes] = Counter()

        async def worker(messages: Messages) -> None:
            async for msg in messages:
                came[msg.data] += 1
                await msg.ack()

        async with (
            consumer.consume(prefetch=False, stop_after=5, max_messages=2) as messages,
            trio.open_nursery() as nursery,
        ):
            for _ in range(3):
                nursery.start_soon(worker, messages)
        assert came == Counter(b"%d" % number for number in range(5))
        assert (await consumer.refresh()).delivered.consumer_seq == 5


async def test_receiving_continues_after_a_restart() -> None:
    async with NatsServer(jetstream=True) as server, connected(server, reconnect=QUICK) as (js, nc):
        stream = await js.create_stream("S", subjects=["s"])
        consumer = await stream.create_consumer("c", durable_name="c")
        async with (
            consumer.consume(prefetch=False) as messages,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def receive() -> None:
                assert (await messages.receive()).data == b"x"

            while not (await consumer.refresh()).num_waiting:
                await trio.lowlevel.checkpoint()
            await server.restart()
            await nc.flush()
            await js.publish("s", "x")


async def test_the_log_says_once_that_nothing_is_requested_in_advance(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "trio_nats.jetstream")
    async with pulled_from(Puller(), ConsumerConfig(max_deliver=1)) as (consumer, _):
        for _ in range(2):
            consumer.consume()
    assert caplog.text.count("because of max_deliver=1; pass prefetch=True") == 1


@pytest.mark.parametrize(
    "config",
    [ConsumerConfig(inactive_threshold=1e-9), ConsumerConfig(max_expires=1e-9)],
    ids=["inactive_threshold", "max_expires"],
)
def test_tiny_times_of_a_server_do_not_keep_the_program_busy(config: ConsumerConfig) -> None:
    from trio_nats.jetstream.consumer.options import PullOptions, consume_options

    given = dict.fromkeys(
        ("max_messages", "max_bytes", "threshold", "stop_after", "expires", "heartbeat")
    )
    options = consume_options(config, PullOptions(), **given)  # type: ignore[arg-type]
    assert options.check_interval >= 0.5
    assert options.keep_alive is not None
    assert options.keep_alive >= 0.5


def test_consumers_without_prefetching() -> None:
    from trio_nats.jetstream.consumer.options import PullOptions, consume_options

    def prefetched(max_deliver: int, **options: bool | int) -> bool:
        given = dict.fromkeys(
            ("max_messages", "max_bytes", "threshold", "stop_after", "expires", "heartbeat")
        )
        config = ConsumerConfig(max_deliver=max_deliver)
        return consume_options(config, PullOptions(), **{**given, **options}).prefetch  # type: ignore[arg-type]

    assert [prefetched(most) for most in (-1, 0, 1, 2, 3)] == [True, True, False, False, True]
    assert prefetched(1, prefetch=True)
    assert not prefetched(-1, prefetch=False)
    assert prefetched(1, max_messages=10)
    assert prefetched(1, max_bytes=1000)
    assert prefetched(1, threshold=10)
    assert not prefetched(1, expires=30)
    with pytest.raises(ConfigurationError, match="leave out max_bytes and threshold"):
        prefetched(-1, prefetch=False, max_bytes=1000)
