"""Nothing on a connection's stream is ever touched by a user's task, cancelled or not.

What a user's task touches can be cancelled half-way by the user, which would leave half a frame or
half a TLS record behind, for everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.messages.helpers import all_of
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.transports import EVERY, Transport
from trio_nats import Connection, NoRespondersError, open_nats

METHODS = ["aclose", "receive_some", "send_all", "wait_send_all_might_not_block"]
MORE = {trio.SocketStream: ["send_eof"], trio.SSLStream: ["do_handshake", "unwrap"]}


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
    async with nc.subscribe("loop", max_msgs=3) as sub:
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


@EVERY
async def test_only_the_background_touches_the_stream(
    transport: Transport, touches: Touches
) -> None:
    with trio.fail_after(60):
        async with transport.server() as server:
            url, options = transport.url(server), transport.options
            # Asking the server whether it is there is no part of this.
            touches.by_others.clear()
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
            assert touches.by_others == set()
    expected = {"aclose", "receive_some", "send_all"}
    expected |= {"do_handshake"} if transport.encrypted else set()
    assert expected <= touches.by_background
