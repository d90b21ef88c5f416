"""Draining asked for by the very task that has to take the messages out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.reliability.helpers import HANG_TIMEOUT
from trio_nats import Connection, ConnectionState, Msg, PendingLimits, Subscription, open_nats
from trio_nats.services import ServiceRequest
from trio_nats.testing import NatsServer

Loop = Callable[[Connection, Subscription, list[bytes]], Awaitable[None]]


async def iterate(nc: Connection, sub: Subscription, got: list[bytes]) -> None:
    async for msg in sub:
        await deal_with(nc, msg, got)


async def receive(nc: Connection, sub: Subscription, got: list[bytes]) -> None:
    while True:
        try:
            msg = await sub.receive()
        except trio.EndOfChannel:
            return
        await deal_with(nc, msg, got)


async def take_batches(nc: Connection, sub: Subscription, got: list[bytes]) -> None:
    async for batch in sub.iter_batches(1):
        await deal_with(nc, batch[0], got)


async def deal_with(nc: Connection, msg: Msg, got: list[bytes]) -> None:
    if msg.data == b"1":
        await nc.drain()
        assert nc.state is ConnectionState.DRAINING
    await msg.respond(b"done " + msg.data)
    got.append(msg.data)


@pytest.mark.parametrize("waiting", [True, False])
@pytest.mark.parametrize("loop", [iterate, receive, take_batches])
async def test_a_loop_drains_and_finishes_what_it_has(loop: Loop, waiting: bool) -> None:
    async with NatsServer() as server, open_nats(server.url) as asks:
        async with asks.subscribe("answers") as answers, open_nats(server.url) as nc:
            await asks.flush()
            got: list[bytes] = []
            async with nc.subscribe("work") as sub, trio.open_nursery() as nursery:
                if not waiting:  # it is there before the first message
                    nursery.start_soon(loop, nc, sub, got)
                    await trio.testing.wait_all_tasks_blocked()
                await nc.flush()
                for number in range(5):
                    await asks.publish("work", b"%d" % number, reply="answers")
                await asks.flush()
                await nc.flush()
                if waiting:
                    nursery.start_soon(loop, nc, sub, got)
            assert got == [b"0", b"1", b"2", b"3", b"4"]
            with trio.fail_after(HANG_TIMEOUT):
                replies = [(await answers.receive()).data for _ in got]
            assert replies == [b"done " + data for data in got]


async def test_the_last_message_may_drain_and_then_nothing_is_open() -> None:
    async with NatsServer() as server, open_nats(server.url) as nc:
        async with nc.subscribe("work") as sub:
            await nc.publish("work", b"only")
            async for _ in sub:
                await nc.drain()
                assert nc.state is ConnectionState.CLOSED


async def test_draining_waits_for_other_tasks() -> None:
    """What other tasks receive is not held up, and taken out before it returns."""
    async with NatsServer() as server, open_nats(server.url) as nc:
        async with nc.subscribe("own") as own, nc.subscribe("other") as other:
            for number in range(3):
                await nc.publish("own", b"%d" % number)
                await nc.publish("other", b"%d" % number)
            await nc.flush()
            got: list[bytes] = []
            go_on = trio.Event()

            async def take_slowly() -> None:
                async for msg in other:
                    await go_on.wait()
                    got.append(msg.data)

            async def let_go_on() -> None:
                await trio.testing.wait_all_tasks_blocked()
                assert nc.state is ConnectionState.DRAINING
                go_on.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_slowly)
                await own.receive()
                nursery.start_soon(let_go_on)
                await nc.drain()
                assert other.pending == (0, 0)
                assert [msg.data async for msg in own] == [b"1", b"2"]
            assert got == [b"0", b"1", b"2"]


async def test_one_of_several_workers_drains_and_the_others_finish() -> None:
    async with NatsServer() as server, open_nats(server.url) as nc:
        async with nc.subscribe("work") as sub:
            got: list[bytes] = []

            async def work() -> None:
                async for msg in sub:
                    got.append(msg.data)
                    if msg.data == b"5":
                        await nc.drain()
                        assert nc.state is ConnectionState.CLOSED

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(work)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(50):
                    await nc.publish("work", b"%d" % number)
            assert sorted(got, key=int) == [b"%d" % number for number in range(50)]


async def test_a_task_that_has_ended_is_not_waited_for() -> None:
    """The first message was received by another task, which is gone."""
    async with NatsServer() as server, open_nats(server.url) as nc:
        async with nc.subscribe("work") as sub:
            for number in range(3):
                await nc.publish("work", b"%d" % number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sub.receive)
            assert (await sub.receive()).data == b"1"
            await nc.drain()
            assert [msg.data async for msg in sub] == [b"2"]


async def test_a_full_subscription_that_stops_the_reading_drains_from_its_own_loop() -> None:
    limits = PendingLimits(messages=2, when_full="wait")
    async with NatsServer() as server, open_nats(server.url) as other:
        async with open_nats(server.url) as nc, nc.subscribe("work", pending_limits=limits) as sub:
            await nc.flush()
            for number in range(50):
                await other.publish("work", b"%d" % number)
            await other.flush()
            got = [(await sub.receive()).data]
            await sub.drain()
            got += [msg.data async for msg in sub]
            assert got == [b"%d" % number for number in range(50)]


async def test_a_channel_of_messages_drains_from_its_own_loop() -> None:
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as nc:
        js = nc.jetstream()
        stream = await js.create_stream("s", subjects=["s"])
        consumer = await stream.create_consumer(durable_name="c", ack_wait=100)
        for number in range(5):
            await js.publish("s", b"%d" % number)
        got: list[bytes] = []
        async with consumer.consume() as messages:
            async for msg in messages:
                if not got:
                    while messages.waiting < 4:
                        await nc.flush()
                    await nc.drain()
                got.append(msg.data)
                await msg.ack()
        assert got == [b"%d" % number for number in range(5)]
        await nc.aclose()
        async with open_nats(server.url) as again:
            stream = await again.jetstream().stream("s")
            info = await (await stream.consumer("c")).refresh()
            assert (info.num_pending, info.num_ack_pending) == (0, 0)


@pytest.mark.parametrize("concurrency", [1, 3, 10])
async def test_a_handler_of_a_service_drains(concurrency: int) -> None:
    async with (
        NatsServer() as server,
        open_nats(server.url) as asks,
        trio.open_nursery() as nursery,
    ):
        answers: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            reply = await asks.request("work", b"%d" % number, timeout=HANG_TIMEOUT)
            answers[number] = reply.data

        async with open_nats(server.url) as nc:
            service = nc.add_service("text", version="1.0.0")
            under_way = 0
            drained = trio.Event()

            @service.endpoint("work", concurrency=concurrency)
            async def work(request: ServiceRequest) -> bytes:
                nonlocal under_way
                under_way += 1
                if under_way == 1:
                    while under_way + nc.stats.pending_messages < 6:
                        await nc.flush()
                    await nc.drain()
                    assert nc.state is ConnectionState.DRAINING
                    drained.set()
                else:
                    await drained.wait()
                return request.data

            async with service:
                await nc.flush()
                for number in range(6):
                    nursery.start_soon(ask, number)
                await service.wait_stopped()
        await asks.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert answers == {number: b"%d" % number for number in range(6)}
