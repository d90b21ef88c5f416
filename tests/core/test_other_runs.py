"""A connection belongs to the ``trio.run()`` it was opened in. Another one is told so.

What it does would wake this run's tasks in the other one, which crashes both.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    barrier,
    fill,
    from_another_run,
    msg,
    nothing_was_sent,
    read_request,
    scripted,
)
from tests.support.internals import let_publish
from tests.support.leaks import all_tasks
from tests.transports import ALL_BUT_WSS
from trio_nats import Connection, Replies, Statistics, Subscription, open_nats
from trio_nats.events import Event
from trio_nats.services import ServiceRequest
from trio_nats.testing import NatsServer


def uses(
    nc: Connection,
    sub: Subscription,
    replies: Replies,
    events: trio.abc.ReceiveChannel[Event],
) -> list[Callable[[], Awaitable[object]]]:
    async def enter_subscription() -> None:
        async with nc.subscribe("b"):
            pass

    async def enter_request() -> None:
        async with nc.request_many("b"):
            pass

    async def listen() -> None:
        nc.events()

    return [
        lambda: nc.publish("b"),
        lambda: nc.publish("b", b"bytes"),
        lambda: nc.publish("b", b"bytes", headers={"a": "b"}),
        lambda: nc.publish("b", "text", reply="c"),
        in_async(nc.publish_nowait, "b"),
        lambda: nc.request("b"),
        in_async(nc.request_many, "b"),
        in_async(nc.set_servers, "nats://127.0.0.1"),
        enter_subscription,
        enter_request,
        listen,
        nc.flush,
        nc.rtt,
        lambda: nc.wait_for_state("open"),
        nc.reconnect,
        nc.drain,
        nc.aclose,
        sub.receive,
        sub.receive_batch,
        sub.iter_batches().__anext__,
        in_async(sub.receive_nowait),
        in_async(sub.__aiter__),
        sub.drain,
        sub.aclose,
        replies.receive,
        replies.aclose,
        events.receive,
        events.aclose,
    ]


def in_async(function: Callable[..., object], *args: object) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return function(*args)

    return call


def in_all(nc: Connection) -> Statistics:
    """The numbers of a connection, whether or not the kernel took a chunk in between."""
    stats = nc.stats
    return replace(stats, out_bytes=stats.out_bytes + stats.outbox_bytes, outbox_bytes=0)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@ALL_BUT_WSS
async def test_other_runs_are_refused_without_effect(busy: bool) -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a")
        async with nc.request_many("quiet", timeout=100) as replies, nc.events() as events:
            await read_request(peer, "quiet")
            # Once more, for the kernel may take its time to find room for another chunk.
            for _ in range(2 * busy):
                await fill(nc, 8 * 1024 * 1024)
                await trio.testing.wait_all_tasks_blocked(0.05)
            await trio.testing.wait_all_tasks_blocked()
            before = in_all(nc)
            # Nobody waits here, so that nothing worse happens than that it is not refused.
            for use in uses(nc, sub, replies, events):
                with pytest.raises(RuntimeError, match=r"another trio\.run\(\)"):
                    await from_another_run(use)
            assert in_all(nc) == before
            assert nc.state == "open"
            if not busy:
                await nothing_was_sent(nc, peer)


@pytest.mark.parametrize("waiting", [0, 6 * 1024 * 1024])
@ALL_BUT_WSS
async def test_the_first_message_is_refused_already(waiting: int) -> None:
    """Also while there is room, and the writer is busy, so that nobody would be woken."""
    async with scripted() as (nc, _), nc.subscribe("b"):
        await nc.publish("b", b"known")
        await fill(nc, waiting)
        before = nc.stats.out_messages
        for publish in (lambda: nc.publish("b", b"known"), in_async(nc.publish_nowait, "b", b"")):
            if waiting:
                let_publish(nc, 1000)
            with pytest.raises(RuntimeError, match=r"another trio\.run"):
                await from_another_run(publish)
        assert nc.stats.out_messages == before


async def test_another_trio_run_cannot_receive_a_waiting_message() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a")
        await peer.send(msg("a", 1, b"x") * 3)
        await barrier(peer)
        takes = [sub.receive, sub.receive_batch, in_async(sub.receive_nowait), in_async(aiter, sub)]
        for _ in range(2):
            for take_out in takes:
                with pytest.raises(RuntimeError, match=r"another trio\.run"):
                    await from_another_run(take_out)
            await sub.receive()
        assert sub.pending == (1, 1)


async def test_calling_from_a_thread_without_a_run_explains_what_to_do() -> None:
    async with scripted() as (nc, peer):
        for function in (nc.publish_nowait, nc.request_many, nc.subscribe("a").__aiter__):
            args = () if function not in (nc.publish_nowait, nc.request_many) else ("b",)
            with pytest.raises(RuntimeError, match=r"trio\.from_thread"):
                await in_a_plain_thread(partial(function, *args))
        await nothing_was_sent(nc, peer)


async def in_a_plain_thread(function: Callable[[], object]) -> None:
    """Raises what ``function`` raises in a thread that Trio knows nothing of."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    failed: list[Exception] = []

    def run() -> None:
        try:
            function()
        except Exception as error:
            failed.append(error)
        token.run_sync_soon(done.set)

    threading.Thread(target=run, daemon=True).start()
    await done.wait()
    if failed:
        raise failed[0]


async def test_jetstream_and_services_belong_to_the_run_too() -> None:
    async with (
        NatsServer(jetstream=True) as server,
        open_nats(server.url) as nc,
        nc.add_service("text", version="1.0.0") as service,
    ):
        js = nc.jetstream()
        stream = await js.create_stream("s", subjects=["s.*"])
        consumer = await stream.create_consumer(durable_name="c")
        bucket = await js.create_key_value("b")
        async with (
            js.publisher() as publisher,
            consumer.consume() as messages,
            bucket.watch() as watch,
        ):
            ack = await publisher.publish("s.a", b"x")
            message = await messages.receive()
            tasks = all_tasks()

            async def handle(_: ServiceRequest) -> None: ...

            for use in (
                lambda: publisher.publish("s.a", b"y"),
                ack.wait,
                lambda: js.publish("s.a", b"y"),
                message.ack,
                messages.receive,
                messages.aclose,
                watch.caught_up,
                watch.receive,
                messages.drain,
                consumer.next,
                in_async(service.stop),
                service.wait_stopped,
                lambda: service.add_endpoint("late", handle),
            ):
                with pytest.raises(RuntimeError, match=r"another trio\.run"):
                    await from_another_run(use)
            assert all_tasks() == tasks
            assert not service.stopping
            await message.double_ack()
            assert (await ack).seq == 1
            assert publisher.pending == 0
