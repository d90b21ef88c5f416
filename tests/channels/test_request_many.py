"""Requests with many replies (ADR-47)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE, all_of, take
from tests.reliability.helpers import deliver, read_line, session
from tests.support.peer import Peer, Script, ScriptedServer
from trio_nats import (
    ConfigurationError,
    Msg,
    NoRespondersError,
    Replies,
    RequestTimeoutError,
    empty_sentinel,
    open_nats,
)
from trio_nats.testing import NatsServer


def answering(*replies: bytes) -> Script:
    """A server that answers the first request with these."""

    async def script(peer: Peer) -> None:
        reply = (await read_line(peer, b"PUB ask")).split()[2]
        await peer.send(b"".join(deliver(reply, b"1", data) for data in replies))
        await peer.serve()

    return session(script)


class Service:
    """Answers the first request when told to."""

    def __init__(self) -> None:
        self._peer: Peer | None = None
        self._reply = b""
        self.asked = trio.Event()

    async def script(self, peer: Peer) -> None:
        self._reply = (await read_line(peer, b"PUB ask")).split()[2]
        self._peer = peer
        self.asked.set()
        await peer.serve()

    async def answer(self, *replies: bytes) -> None:
        await self.asked.wait()
        assert self._peer is not None
        await self._peer.send(b"".join(deliver(self._reply, b"1", data) for data in replies))


async def test_count() -> None:
    async with ScriptedServer(answering(b"1", b"", b"3", b"4")) as server:
        async with open_nats(server.url) as nc:
            async with nc.request_many("ask", max_responses=3, timeout=100) as replies:
                assert await all_of(replies) == [b"1", b"", b"3"]
                assert nc._core.requests.slots == {}
                with pytest.raises(trio.EndOfChannel):
                    await replies.receive()


async def test_sentinel() -> None:
    async with ScriptedServer(answering(b"1", b"2", b"", b"4")) as server:
        async with open_nats(server.url) as nc:
            async with nc.request_many("ask", sentinel=empty_sentinel, timeout=100) as replies:
                assert await all_of(replies) == [b"1", b"2"]
                assert nc._core.requests.slots == {}


async def test_a_sentinel_of_ones_own() -> None:
    def last(msg: Msg) -> bool:
        return msg.data == b"2"

    async with ScriptedServer(answering(b"1", b"2", b"3")) as server:
        async with open_nats(server.url) as nc:
            async with nc.request_many("ask", sentinel=last, max_responses=5) as replies:
                assert await all_of(replies) == [b"1"]


async def test_deadline() -> None:
    async with ScriptedServer(answering(b"1", b"2")) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=0.05) as replies:
            begun = trio.current_time()
            assert await all_of(replies) == [b"1", b"2"]
            assert trio.current_time() - begun >= 0.04
            assert nc._core.requests.slots == {}


async def test_nothing_but_the_deadline_ends_the_wait_for_the_first_reply() -> None:
    async with ScriptedServer(answering()) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=0.05, stall=0.001) as replies:
            begun = trio.current_time()
            assert await all_of(replies) == []
            assert trio.current_time() - begun >= 0.04


async def test_stall() -> None:
    async with ScriptedServer(answering(b"1", b"2")) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=100, stall=0.02) as replies:
            assert await all_of(replies) == [b"1", b"2"]
            assert nc._core.requests.slots == {}


async def test_time_spent_elsewhere_is_no_stalling(autojump_clock: trio.testing.MockClock) -> None:
    replies, send = made_by_hand(timeout=100, stall=1)
    async with replies:
        send(b"1")
        assert await take(replies, 1) == [b"1"]
        await trio.sleep(50)
        send(b"2")
        assert await take(replies, 1) == [b"2"]
        await trio.sleep(20)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_at, begun + 0.9, send, b"3")
            assert await take(replies, 1) == [b"3"]
        begun = trio.current_time()
        with pytest.raises(trio.EndOfChannel):
            await replies.receive()
        assert trio.current_time() - begun == pytest.approx(1)


async def test_stalling_counts_from_the_last_reply_of_any_receiver(
    autojump_clock: trio.testing.MockClock,
) -> None:
    replies, send = made_by_hand(timeout=100, stall=1)
    received: list[bytes] = []

    async def read() -> None:
        received.extend(await all_of(replies))

    async with replies:
        send(b"0")
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            for number in range(1, 5):
                nursery.start_soon(send_at, begun + 0.7 * number, send, b"%d" % number)
        assert sorted(received) == [b"0", b"1", b"2", b"3", b"4"]
        assert trio.current_time() - begun == pytest.approx(0.7 * 4 + 1)


def made_by_hand(**options: Any) -> tuple[Replies, Callable[[bytes], None]]:
    """Replies without a connection, for a clock that does not wait, and what feeds them."""

    async def sent(slot: object) -> None:
        await trio.lowlevel.checkpoint()

    replies = Replies(
        "ask", options["timeout"], None, options["stall"], None, send=sent, forget=lambda: None
    )
    return replies, lambda data: replies.push(Msg.new("inbox", data))


async def send_at(time: float, send: Callable[[bytes], None], data: bytes) -> None:
    await trio.sleep_until(time)
    send(data)


async def test_no_responders(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        async with nc.request_many("nobody", timeout=100) as replies:
            for _ in range(2):
                with pytest.raises(NoRespondersError, match="nobody"), trio.fail_after(PATIENCE):
                    await replies.receive()
            assert nc._core.requests.slots == {}


async def test_replies_before_the_end_of_the_connection_remain() -> None:
    async with ScriptedServer(answering(b"1", b"2")) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=100) as replies:
            assert await take(replies, 1) == [b"1"]
            await nc.aclose()
            assert await take(replies, 1) == [b"2"]
            with pytest.raises(trio.ClosedResourceError):
                await replies.receive()


async def test_cancelled_while_receiving() -> None:
    service = Service()
    async with ScriptedServer(session(service.script)) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=100) as replies:
            with trio.move_on_after(0.01) as scope:
                await replies.receive()
            assert scope.cancelled_caught
            await service.answer(b"1")
            assert await take(replies, 1) == [b"1"]
        with trio.CancelScope() as scope:
            async with nc.request_many("ask", timeout=100) as replies:
                scope.cancel()
                await replies.receive()
        assert scope.cancelled_caught
        assert nc._core.requests.slots == {}


async def test_several_receivers() -> None:
    received: list[list[bytes]] = [[], [], []]
    service = Service()

    async def read(replies: Replies, index: int) -> None:
        received[index].extend(await all_of(replies))

    async with ScriptedServer(session(service.script)) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=100, max_responses=30) as replies:
            async with trio.open_nursery() as nursery:
                for index in range(3):
                    nursery.start_soon(read, replies, index)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(30):
                    await service.answer(b"%d" % number)
    every = [int(data) for part in received for data in part]
    assert sorted(every) == list(range(30))


async def test_closing() -> None:
    service = Service()
    async with ScriptedServer(session(service.script)) as server, open_nats(server.url) as nc:
        async with nc.request_many("ask", timeout=100) as replies, trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError, match="replies are closed"):
                    await replies.receive()

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await replies.aclose()
            await replies.aclose()
            assert nc._core.requests.slots == {}
            await service.answer(b"late")
            await nc.flush(PATIENCE)
            with pytest.raises(trio.ClosedResourceError):
                await replies.receive()
        with pytest.raises(RuntimeError, match="only once"):
            await replies.__aenter__()


async def test_not_entered(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        replies = nc.request_many("ask")
        with pytest.raises(RuntimeError, match=r"async with nc\.request_many"):
            await replies.receive()
        assert nc.stats.out_messages == 0
        assert nc._core.requests.slots == {}


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"stall": -1}, {"max_responses": 0}, {"max_responses": 1.5}]
)
async def test_options_that_cannot_be(nats_server: NatsServer, options: Any) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            nc.request_many("ask", **options)


async def test_the_deadline_includes_entering() -> None:
    async with ScriptedServer(answering()) as server, open_nats(server.url, pending_size=1) as nc:
        # As if the server read nothing: the outbox counts as full.
        nc._core.outbox.size += 1
        with trio.move_on_after(1) as scope, suppress(RequestTimeoutError):
            async with nc.request_many("ask", timeout=0.05) as replies:
                assert await all_of(replies) == []
        nc._core.outbox.size -= 1
        assert not scope.cancelled_caught
