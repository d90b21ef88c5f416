"""The server goes away and comes back, and what is stored is stored."""

from __future__ import annotations

import pytest
import trio

from tests.jetstream.helpers import HANG_TIMEOUT
from trio_nats import NatsError, ReconnectPolicy, RequestTimeoutError, open_nats
from trio_nats.jetstream import NoStreamResponseError, PendingAck, StorageType, UnacknowledgedError
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)


@pytest.mark.requires_server("2.11")
async def test_a_publisher_over_a_restart(nats_server: NatsServer) -> None:
    """What was acknowledged is there, in order; the rest is told of; and it goes on afterwards."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK) as nc:
            js = nc.jetstream(timeout=0.5)
            stream = await js.create_stream(
                "S", subjects=["s"], storage=StorageType.FILE, allow_direct=True
            )
            acks: list[PendingAck] = []
            failures: list[Exception] = []
            # Its reply was lost, or the server was there and the stream was not yet.
            expected = (RequestTimeoutError, NoStreamResponseError)
            stop = trio.Event()

            async def publish() -> None:
                while not stop.is_set():
                    try:
                        async with js.publisher(max_pending=16) as publisher:
                            while not stop.is_set():
                                acks.append(await publisher.publish("s", str(len(acks))))
                    except UnacknowledgedError as error:
                        failures.extend(error.errors)

            async def acknowledged(after: int) -> None:
                while not [ack for ack in acks[after:] if await arrived(ack)]:  # noqa: ASYNC110
                    await trio.sleep(0.001)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                await acknowledged(0)
                await nats_server.restart()
                await acknowledged(len(acks))
                stop.set()
            assert all(isinstance(one, expected) for one in failures)
            stored = {m.seq: int(m.data) async for m in stream.get_msgs()}
            good = 0
            for number, ack in enumerate(acks):
                if await arrived(ack):
                    assert stored[(await ack).seq] == number
                    good += 1
            assert good
            assert list(stored.values()) == sorted(set(stored.values()))


async def arrived(ack: PendingAck) -> bool:
    """Whether the message has been acknowledged by now."""
    try:
        return ack.done and bool(await ack)
    except NatsError:
        return False


async def test_asking_while_the_server_is_away(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK) as nc:
            js = nc.jetstream()
            stream = await js.create_stream("S", subjects=["s"])
            ack = await js.publish("s", msg_id="1")
            await nats_server.stop()
            with pytest.raises(RequestTimeoutError):
                await js.publish("s", timeout=0.01, msg_id="2")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nats_server.start)
                # It waits in the outbox until the server is there.
                again = await js.publish("s", msg_id="1", timeout=HANG_TIMEOUT)
            assert again.seq == ack.seq
            assert again.duplicate
            assert (await stream.refresh()).state.messages in (1, 2)
