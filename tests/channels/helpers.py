"""What the tests of this room share."""

from __future__ import annotations

import trio
import trio.testing

from tests.support.peer import Peer, Script
from trio_nats import Connection, Msg

__all__ = ["PATIENCE", "all_of", "choke", "deaf", "publish_numbers", "take"]

PATIENCE = 8.0
"""What takes longer than that will never happen."""


async def take(channel: trio.abc.ReceiveChannel[Msg], count: int) -> list[bytes]:
    """The data of the next ``count`` messages."""
    with trio.fail_after(PATIENCE):
        return [(await channel.receive()).data for _ in range(count)]


async def all_of(channel: trio.abc.ReceiveChannel[Msg]) -> list[bytes]:
    """The data of all messages until the channel ends."""
    with trio.fail_after(PATIENCE):
        return [msg.data async for msg in channel]


async def publish_numbers(nc: Connection, subject: str, *numbers: int) -> None:
    """Publish numbers, and return once they have come back to the same connection."""
    for number in numbers:
        await nc.publish(subject, b"%d" % number)
    await nc.flush(PATIENCE)


def deaf(listen: trio.Event) -> Script:
    """A server that lets the client in, and then reads nothing before ``listen`` is set."""

    async def script(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await listen.wait()
        await peer.serve()

    return script


async def choke(nc: Connection) -> None:
    """Fill all the buffers on the way to a deaf server, and then the outbox to its limit."""
    block = bytes(1024 * 1024)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_publish_for_ever, nc, block)
            await trio.testing.wait_all_tasks_blocked(0.05)
            scope.cancel()


async def _publish_for_ever(nc: Connection, block: bytes) -> None:
    while True:
        await nc.publish("filling", block)
