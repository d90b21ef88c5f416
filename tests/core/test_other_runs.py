"""A connection belongs to the ``trio.run()`` it was opened in. Another one is told so.

What it does would wake this run's tasks in the other one, which crashes both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio.testing

from tests.messages.helpers import (
    fill,
    from_another_run,
    nothing_was_sent,
    read_request,
    scripted,
)
from tests.transports import MOST
from trio_nats import Connection, Replies, Statistics, Subscription


def uses(
    nc: Connection, sub: Subscription, replies: Replies
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
        lambda: nc.request("b"),
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
        sub.drain,
        sub.aclose,
        replies.receive,
        replies.aclose,
    ]


def in_all(nc: Connection) -> Statistics:
    """The numbers of a connection, whether or not the kernel took a chunk meanwhile."""
    stats = nc.stats
    return replace(stats, out_bytes=stats.out_bytes + stats.outbox_bytes, outbox_bytes=0)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@MOST
async def test_whatever_it_does_is_refused_and_has_no_effect(busy: bool) -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a")
        async with nc.request_many("quiet", timeout=100) as replies:
            await read_request(peer, "quiet")
            # Once more, for the kernel may take its time to find room for another chunk.
            for _ in range(2 * busy):
                await fill(nc, 8 * 1024 * 1024)
                await trio.testing.wait_all_tasks_blocked(0.05)
            await trio.testing.wait_all_tasks_blocked()
            before = in_all(nc)
            # Nobody waits here, so that nothing worse happens than that it is not refused.
            for use in uses(nc, sub, replies):
                with pytest.raises(RuntimeError, match=r"another trio\.run\(\)"):
                    await from_another_run(use)
            assert in_all(nc) == before
            assert nc.state == "open"
            if not busy:
                await nothing_was_sent(nc, peer)


@MOST
async def test_a_publisher_is_told_while_there_is_room_and_the_writer_is_busy() -> None:
    async with scripted() as (nc, _):
        await fill(nc, 6 * 1024 * 1024)

        async def publish() -> None:
            # Looking each time would slow all down who do nothing wrong.
            for _ in range(150):
                await nc.publish("a", bytes(4096))

        with pytest.raises(RuntimeError, match=r"another trio\.run"):
            await from_another_run(publish)
