"""Subscriptions: what comes out of them, for whom, and what happens when they are full."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE, all_of, publish_numbers, take
from tests.reliability.helpers import deliver, read_line, session
from tests.support.peer import Peer
from tests.transports import MOST, Transport
from trio_nats import (
    ConfigurationError,
    InvalidSubjectError,
    RequestTimeoutError,
    Subscription,
    open_nats,
)
from trio_nats.testing import NatsServer

# --- what is received ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("a.b", ["a.b"]),
        ("a.*", ["a.b", "a.c"]),
        ("a.>", ["a.b", "a.c", "a.b.c"]),
        ("*.b", ["a.b", "x.b"]),
        ("*.*.c", ["a.b.c"]),
        (">", ["a", "a.b", "a.c", "a.b.c", "x.b"]),
    ],
)
@MOST
async def test_wildcards(
    transport: Transport, nats_server: NatsServer, subject: str, expected: list[str]
) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe(subject) as sub:
        for name in ["a", "a.b", "a.c", "a.b.c", "x.b"]:
            await nc.publish(name)
        await nc.flush(PATIENCE)
        assert [sub.receive_nowait().subject for _ in range(sub.pending[0])] == expected
        assert (sub.subject, sub.queue) == (subject, None)


@MOST
async def test_queue_groups(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc:
        async with (
            nc.subscribe("work", queue="a") as one,
            nc.subscribe("work", queue="a") as two,
            nc.subscribe("work", queue="b") as three,
            nc.subscribe("work") as four,
        ):
            await publish_numbers(nc, "work", *range(200))
            shared = one.pending[0], two.pending[0]
            assert sum(shared) == 200
            assert min(shared) > 0
            assert (three.pending[0], four.pending[0]) == (200, 200)
            assert three.queue == "b"


@pytest.mark.parametrize("waiting", [False, True])
@MOST
async def test_max_msgs(transport: Transport, nats_server: NatsServer, waiting: bool) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news", max_msgs=3) as news:
        if waiting:
            received: list[bytes] = []
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    received.extend(await all_of(news))

                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                await publish_numbers(nc, "news", 1, 2, 3, 4, 5)
        else:
            await publish_numbers(nc, "news", 1, 2, 3, 4, 5)
            received = await all_of(news)
        assert received == [b"1", b"2", b"3"]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await news.receive()
            with pytest.raises(trio.EndOfChannel):
                news.receive_nowait()
        assert nc.stats.subscriptions == 0
        assert nc.stats.in_messages == 3  # the server knew of it as well


@MOST
async def test_a_server_that_sends_more_than_max_msgs(transport: Transport) -> None:
    async def generous(peer: Peer) -> None:
        await read_line(peer, b"UNSUB 1 2")
        await peer.send(b"".join(deliver(b"news", b"1", b"%d" % n) for n in range(5)))
        await peer.serve()

    async with transport.scripted(session(generous)) as server, transport.open(server) as nc:
        async with nc.subscribe("news", max_msgs=2) as news:
            assert await all_of(news) == [b"0", b"1"]


@MOST
async def test_receive_nowait(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        with pytest.raises(trio.WouldBlock):
            news.receive_nowait()
        await publish_numbers(nc, "news", 1)
        assert news.pending == (1, 1)
        assert news.receive_nowait().data == b"1"
        assert news.pending == (0, 0)
        with pytest.raises(trio.WouldBlock):
            news.receive_nowait()


@MOST
async def test_several_receivers(transport: Transport, nats_server: NatsServer) -> None:
    received: list[list[int]] = [[] for _ in range(5)]

    async def work(sub: Subscription, index: int) -> None:
        async for msg in sub:
            received[index].append(int(msg.data))

    async with transport.open(nats_server) as nc:
        async with nc.subscribe("work", max_msgs=1000) as sub, trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(work, sub, index)
            await publish_numbers(nc, "work", *range(1000))
    assert Counter(number for part in received for number in part) == Counter(range(1000))
    assert all(part == sorted(part) for part in received)


@MOST
async def test_who_waited_longest_is_served_first(transport: Transport) -> None:
    served: list[tuple[str, bytes]] = []
    subscribed, go_on = trio.Event(), trio.Event()

    async def script(peer: Peer) -> None:
        await read_line(peer, b"SUB work")
        subscribed.set()
        await go_on.wait()
        await peer.send(b"".join(deliver(b"work", b"1", b"%d" % n) for n in range(4)))
        await peer.serve()

    async def wait(sub: Subscription, name: str) -> None:
        served.append((name, (await sub.receive()).data))

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        async with nc.subscribe("work") as sub, trio.open_nursery() as nursery:
            await subscribed.wait()
            for name in ("first", "second", "third"):
                nursery.start_soon(wait, sub, name)
                await trio.testing.wait_all_tasks_blocked()
            # One that has given up in the meantime holds nobody up.
            with trio.move_on_after(0):
                await sub.receive()
            go_on.set()
            await nc.flush(PATIENCE)
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(served, key=lambda entry: entry[1]) == [
                ("first", b"0"),
                ("second", b"1"),
                ("third", b"2"),
            ]
            assert sub.receive_nowait().data == b"3"


@MOST
async def test_a_reader_lets_others_run(transport: Transport, nats_server: NatsServer) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        await publish_numbers(nc, "news", *range(640))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.lowlevel.checkpoint()
            before = turns
            await take(news, 640)
            assert turns - before >= 9
            nursery.cancel_scope.cancel()


# --- entering and leaving -----------------------------------------------------------------------


@MOST
async def test_leaving_by_cancellation_unsubscribes(transport: Transport) -> None:
    async with transport.scripted(session()) as server, transport.open(server) as nc:
        with trio.CancelScope() as scope:
            async with nc.subscribe("news", queue="q") as news:
                scope.cancel()
                await news.receive()
        assert scope.cancelled_caught
        await nc.flush(PATIENCE)
        assert (await server.peer()).lines[2:] == [b"SUB news q 1", b"UNSUB 1", b"PING"]


async def test_entering_once_only(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        news = nc.subscribe("news")
        for use in (news.receive, news.drain):
            with pytest.raises(RuntimeError, match="not been entered"):
                await use()
        with pytest.raises(RuntimeError, match="not been entered"):
            news.receive_nowait()
        async with news:
            with pytest.raises(RuntimeError, match="only once"):
                await news.__aenter__()
            await publish_numbers(nc, "news", 1)
            assert await take(news, 1) == [b"1"]
        with pytest.raises(RuntimeError, match="only once"):
            await news.__aenter__()
        assert nc.stats.subscriptions == 0


@MOST
async def test_a_closed_subscription(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        await publish_numbers(nc, "news", 1)
        async with trio.open_nursery() as nursery:
            await take(news, 1)

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError, match="this subscription is closed"):
                    await news.receive()

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await news.aclose()
        await news.aclose()
        with pytest.raises(trio.ClosedResourceError):
            news.receive_nowait()
        with pytest.raises(trio.ClosedResourceError):
            await all_of(news)
        assert news.pending == (0, 0)


@MOST
async def test_draining_keeps_what_was_sent(transport: Transport) -> None:
    asked, go_on = trio.Event(), trio.Event()

    async def script(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(deliver(b"news", b"1", b"before"))
        await peer.expect_line(b"UNSUB 1")
        await peer.expect_line(b"PING")
        asked.set()
        await go_on.wait()
        await peer.send(deliver(b"news", b"1", b"late") + b"PONG\r\n")
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        async with nc.subscribe("news") as news, trio.open_nursery() as nursery:
            nursery.start_soon(news.drain)
            await asked.wait()
            assert await take(news, 1) == [b"before"]
            go_on.set()
            assert await all_of(news) == [b"late"]
        await nc.flush(PATIENCE)
        assert b"UNSUB 1" not in (await server.peer()).lines[5:]  # once is enough


@MOST
async def test_draining_gives_up(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await read_line(peer, b"UNSUB")
        await peer.stall()

    async with transport.scripted(session(script)) as server:
        async with transport.open(server, close_timeout=0) as nc, nc.subscribe("news") as news:
            with pytest.raises(RequestTimeoutError, match=r"drain: .* 0.01 s"):
                await news.drain(0.01)
            assert await all_of(news) == []


@pytest.mark.parametrize("subject", ["", "a b", "a..b", "a.>.b", "a*", None])
async def test_bad_subjects(nats_server: NatsServer, subject: Any) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(InvalidSubjectError):
            nc.subscribe(subject)
        with pytest.raises(InvalidSubjectError):
            nc.subscribe("news", queue="" if subject is None else subject)
        for count in (0, -1, 1.5, True):
            with pytest.raises(ConfigurationError):
                nc.subscribe("news", max_msgs=count)  # type: ignore[arg-type]
