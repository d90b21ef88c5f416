"""Nothing on a connection's stream is ever touched by a user's task, cancelled or not.

What a user's task touches can be cancelled half-way by the user, which would leave half a frame or
half a TLS record behind, for everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import HANG_TIMEOUT, all_of, receive_n
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import set_handover_limits
from tests.transports import TCP_AND_WSS, Transport
from trio_nats import Connection, NoRespondersError, RequestTimeoutError, open_nats
from trio_nats._transport.tcp import TCPStream

METHODS = ["aclose", "receive_some", "send_all", "wait_send_all_might_not_block"]
MORE = {
    trio.SocketStream: ["send_eof"],
    TCPStream: [],
    trio.SSLStream: ["do_handshake", "unwrap"],
}


def _is_ours(task: trio.lowlevel.Task) -> bool:
    """Whether a task is a connection's background task, or below one."""
    seen: trio.lowlevel.Task | None = task
    while seen is not None:
        if seen.name.endswith("Supervisor.run"):
            return True
        seen = None if seen.parent_nursery is None else seen.parent_nursery.parent_task
    return False


class Touches:
    """Who has called which method of any stream."""

    def __init__(self) -> None:
        self.by_background: set[str] = set()
        self.by_others: set[tuple[str, str]] = set()

    def clear(self) -> None:
        """Forget about having asked the server whether it is there, which is no part of this."""
        self.by_others.clear()
        self.by_background.clear()

    def check(self, transport: Transport) -> None:
        assert self.by_others == set()
        expected = {"aclose", "receive_some", "send_all"}
        expected |= {"do_handshake"} if transport.encrypted else set()
        assert expected <= self.by_background

    def watched(self, name: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        async def method(stream: object, *args: Any) -> Any:
            task = trio.lowlevel.current_task()
            if _is_ours(task):
                self.by_background.add(name)
            else:
                self.by_others.add((name, task.name))
            return await original(stream, *args)

        return method


@pytest.fixture
def touches(monkeypatch: pytest.MonkeyPatch) -> Touches:
    found = Touches()
    for kind, more in MORE.items():
        for name in METHODS + more:
            monkeypatch.setattr(kind, name, found.watched(name, getattr(kind, name)))
    return found


async def _use(nc: Connection) -> None:
    async with nc.subscribe("loop", stop_after=3) as sub:
        await nc.publish("loop", bytes(300_000))
        await nc.publish("loop", b"x", headers={"k": "v"}, reply="loop")
        await nc.flush()
        await sub.receive()
        await (await sub.receive()).respond(b"y")
        assert await all_of(sub) == [b"y"]
    with pytest.raises(NoRespondersError):
        await nc.request("nobody")
    async with nc.request_many("nobody") as replies:
        with pytest.raises(NoRespondersError):
            await replies.receive()
    async with nc.events(), nc.subscribe("loop") as sub:
        await sub.drain()
        await nc.rtt()


@pytest.mark.slow
@TCP_AND_WSS
async def test_only_the_background_touches_the_stream(
    transport: Transport, touches: Touches
) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with transport.server() as server:
            url, options = transport.url(server), transport.options
            touches.clear()
            async with open_nats(url, **options) as nc:

                async def make() -> Operation:
                    return lambda: _use(nc)

                # Used to the end, and cancelled at every moment in between.
                assert await cancel_at_each_checkpoint(make, nc.flush) > 10
                assert touches.by_others == set()

            async def make_whole() -> Operation:
                async def operation() -> None:
                    async with open_nats(url, **options) as nc:
                        await nc.publish("a", bytes(300_000))
                        await nc.drain()

                return operation

            assert await cancel_at_each_checkpoint(make_whole, trio.lowlevel.checkpoint) > 3
    touches.check(transport)


async def _use_by_many(nc: Connection) -> None:
    """Everything at once, by several tasks, some of which are cancelled before or during it."""

    async def user(work: Callable[[], Awaitable[object]], cancelled: bool = False) -> None:
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await work()

    async def respond() -> None:
        async with nc.subscribe("service", stop_after=4) as requests:
            answering.set()
            async for message in requests:
                await message.respond(message.data)

    async def ask() -> None:
        assert (await nc.request("service", b"one")).data == b"one"
        async with nc.request_many("service", b"two", stop_after=1) as replies:
            assert await all_of(replies) == [b"two"]
        with pytest.raises(NoRespondersError):
            await nc.request("nobody")
        async with nc.subscribe("silence"):
            with pytest.raises(RequestTimeoutError):
                await nc.request("silence", timeout=0.01)

    async def publish() -> None:
        async with nc.subscribe("large") as large:
            for _ in range(5):
                await nc.publish("large", bytes(500_000), headers={"k": "v"})
            assert await receive_n(large, 5) == [bytes(500_000)] * 5

    async def flush() -> None:
        await nc.flush()
        await nc.rtt()

    async def drain() -> None:
        async with nc.subscribe("drained") as sub:
            await sub.drain()

    answering = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(user, respond)
        await answering.wait()
        for work in (ask, publish, flush, drain):
            nursery.start_soon(user, work)
            nursery.start_soon(user, work, True)
        nursery.start_soon(user, ask)
    async with trio.open_nursery() as nursery:
        for work in (publish, flush, drain):
            nursery.start_soon(user, work)
        await trio.testing.wait_all_tasks_blocked(0.0)
        nursery.cancel_scope.cancel()
    await nc.flush()


@pytest.mark.slow
@TCP_AND_WSS
@pytest.mark.parametrize("ending", ["left", "closed", "drained", "broken off", "cancelled"])
async def test_no_task_touches_the_stream_under_load_or_during_a_move(
    transport: Transport, ending: str, touches: Touches
) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with transport.server() as server:
            touches.clear()
            with trio.CancelScope() as scope, suppress(LookupError):
                async with transport.open(server) as nc:
                    set_handover_limits(nc, overlap=0.02)
                    assert (nc.tls_info is not None) == transport.encrypted
                    await _use_by_many(nc)
                    await nc.reconnect()
                    await nc.publish("last", b"x")
                    if ending == "closed":
                        await nc.aclose()
                    elif ending == "drained":
                        await nc.drain()
                    elif ending == "broken off":
                        raise LookupError
                    elif ending == "cancelled":
                        scope.cancel()
    touches.check(transport)
