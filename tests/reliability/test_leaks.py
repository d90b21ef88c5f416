"""Opening and closing over and over leaves nothing behind."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

import trio_nats
from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    deliver,
    eventually,
    read_line,
    session,
    shorten_overlap,
    until,
)
from tests.support.certs import certificates
from tests.support.internals import event_listeners, is_moving, open_requests
from tests.support.peer import Peer, ScriptedServer
from tests.transports import TCP, WS, Transport
from trio_nats import (
    ConnectError,
    ConnectionState,
    PendingLimits,
    ReconnectPolicy,
    TLSOptions,
    open_nats,
)
from trio_nats._core.session import Session
from trio_nats._core.supervisor import Supervisor
from trio_nats.events import Reconnected
from trio_nats.jetstream import AckPolicy, StorageType
from trio_nats.testing import NatsServer, ServerTLS

CYCLES = int(os.environ.get("TRIO_NATS_CYCLES", "10"))

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc"),
    pytest.mark.slow,
]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def alive() -> int:
    """The connections that somebody still holds."""
    gc.collect()
    return sum(isinstance(found, Supervisor | Session) for found in gc.get_objects())


def held() -> Counter[str]:
    """How many objects of the package's classes there are."""
    gc.collect()
    kinds = (type(found) for found in gc.get_objects())
    # Of a metaclass that defines it for its instances, __module__ is no text.
    return Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith("trio_nats"))


async def leaves_nothing(cycle: Callable[[], Awaitable[None]], cycles: int) -> None:
    """Run ``cycle`` again and again, and compare what there is after a few with the end."""
    package = tracemalloc.Filter(True, f"{Path(trio_nats.__file__).parent}/*")

    def allocated() -> int:
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces([package])
        return sum(trace.size for trace in snapshot.traces)

    for _ in range(3):
        await cycle()
    tasks_before, descriptors_before, alive_before = tasks(), descriptors(), alive()
    tracemalloc.start()
    try:
        for _ in range(5):
            await cycle()
        # Caches may grow now and then; what leaks grows in each round.
        most = 150 * cycles + 4_000
        for _ in range(4):
            memory = allocated()
            for _ in range(cycles):
                await cycle()
            grown = allocated() - memory
            if grown < most:
                break
    finally:
        tracemalloc.stop()
    # Threads that resolved a name or read a certificate go away in their own time.
    await eventually(lambda: tasks() <= tasks_before)
    await eventually(lambda: descriptors() <= descriptors_before)
    assert alive() <= alive_before
    # Trio keeps the deadlines of scopes that were left for a while: 120 bytes for each sleep.
    assert grown < most, f"{grown} bytes more after {cycles} cycles"


@pytest.mark.parametrize("transport", [TCP, WS], ids=["tcp", "ws"])
async def test_plain_connections(transport: Transport) -> None:
    async with transport.server() as server:

        async def cycle() -> None:
            async with open_nats(transport.url(server)) as nc, nc.subscribe("a") as sub:
                async with nc.events():
                    await nc.publish("a", b"x")
                    await sub.receive()
                    with pytest.raises(trio_nats.NoRespondersError):
                        await nc.request("nobody", timeout=HANG_TIMEOUT)

        await leaves_nothing(cycle, CYCLES)


async def test_objects_made_from_one_connection_do_not_leak() -> None:
    """Each of them listens to events, has an inbox, or both."""
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as nc:
        js = nc.jetstream()
        stream = await js.create_stream("S", subjects=["s"], storage=StorageType.MEMORY)
        consumer = await stream.create_consumer(durable_name="c", ack_policy=AckPolicy.NONE)
        pushed = await stream.create_consumer(
            durable_name="p",
            deliver_subject="here",
            idle_heartbeat=5.0,
            ack_policy=AckPolicy.NONE,
        )
        kv = await js.create_key_value("B", storage=StorageType.MEMORY)
        await kv.put("key", b"value")
        store = await js.create_object_store("O", storage=StorageType.MEMORY)
        await store.put("object", bytes(200_000))

        async def cycle() -> None:
            await js.publish("s", b"x")
            async with consumer.consume(max_messages=1) as messages:
                await messages.receive()
            await js.publish("s", b"x")
            await consumer.next(timeout=HANG_TIMEOUT)
            async with pushed.consume() as messages:
                await messages.receive()
            async with stream.ordered_consumer().consume(max_messages=1) as messages:
                await messages.receive()
            await stream.purge()
            async with js.publisher() as publisher:
                await publisher.publish("s", b"x")
            async with kv.watch() as watch:
                await watch.receive()
            assert await kv.keys() == ["key"]
            assert len(await store.get_bytes("object")) == 200_000
            async with nc.request_many("s", b"x", stop_after=1) as replies:
                await replies.receive()
            assert await nc.services(stall=0.001).ping() == []
            nc.events()

        for _ in range(2):
            await cycle()
        before, tasks_before = held(), tasks()
        for _ in range(3):
            await cycle()
        assert held() == before
        assert tasks() == tasks_before
        assert event_listeners(nc) == 0
        assert open_requests(nc) == 0
        # What `next` keeps in store for the next call.
        assert nc.stats.subscriptions == 1


async def test_encrypted_connections() -> None:
    certs = certificates()
    tls = TLSOptions(
        ca_file=certs.ca_file, cert_file=certs.client.cert_file, key_file=certs.client.key_file
    )
    async with NatsServer(
        tls=ServerTLS(certs.server.cert_file, certs.server.key_file, ca_file=certs.ca_file)
    ) as server:

        async def cycle() -> None:
            async with open_nats(server.url, tls=tls) as nc:
                await nc.flush(timeout=HANG_TIMEOUT)

        await leaves_nothing(cycle, max(20, CYCLES // 4))


async def test_failed_connections() -> None:
    async with NatsServer(user="u", password="p") as server:
        closed = NatsServer()
        async with closed:
            gone = closed.url

        async def cycle() -> None:
            with pytest.raises(ConnectError):
                async with open_nats([gone, server.url]):
                    pass

        await leaves_nothing(cycle, CYCLES)


async def test_cancelled_connections() -> None:
    async with NatsServer() as server:

        async def cycle() -> None:
            with trio.CancelScope() as scope:
                async with open_nats(server.url) as nc, nc.subscribe("a"):
                    await nc.publish("a", b"x")
                    scope.cancel()
                    await trio.sleep_forever()

        await leaves_nothing(cycle, CYCLES)


async def test_reconnecting_and_moving() -> None:
    async with NatsServer() as server:
        async with open_nats(server.url, reconnect=QUICK) as nc, nc.subscribe("a"):
            shorten_overlap(nc)

            async def cycle() -> None:
                async with nc.events() as events:
                    moves = nc.stats.reconnects
                    await nc.reconnect()
                    assert nc.stats.reconnects == moves + 1
                    await until(events, Reconnected)
                # Until the old wire is closed.
                await eventually(lambda: not is_moving(nc))

            await leaves_nothing(cycle, 5)


async def test_requests_given_up_and_subscriptions_left() -> None:
    async with NatsServer() as server, open_nats(server.url) as nc:
        async with nc.subscribe("silent", pending_limits=PendingLimits(messages=1)):

            async def cycle() -> None:
                with trio.move_on_after(0.001):
                    await nc.request("silent", timeout=HANG_TIMEOUT)
                async with nc.subscribe("b", stop_after=1) as sub:
                    await nc.publish("b")
                    await sub.receive()
                await nc.flush(timeout=HANG_TIMEOUT)

            await leaves_nothing(cycle, CYCLES)
            assert nc.stats.subscriptions == 1
            assert open_requests(nc) == 0


# A message refers to its connection and is invisible to the garbage collector, so a connection must
# not be left with one in hand.


async def test_a_connection_closed_while_it_moves_and_holds_messages_back() -> None:
    async def old(peer: Peer) -> None:
        sid = (await read_line(peer, b"SUB")).split()[-1]
        await peer.send(deliver(b"a", sid, b"old"))
        await peer.serve()

    async def new(peer: Peer) -> None:
        sid = (await read_line(peer, b"SUB")).split()[-1]
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n" + deliver(b"a", sid, b"held back") * 10)
        await peer.serve()

    async def cycle() -> None:
        async with ScriptedServer(session(old), session(new)) as server:
            async with open_nats(server.url) as nc, nc.subscribe("a") as sub:
                assert (await sub.receive()).data == b"old"
                await nc.reconnect()
                await nc.flush(timeout=HANG_TIMEOUT)

    before = alive()
    for _ in range(3):
        await cycle()
    assert alive() <= before


async def test_a_move_with_messages_right_before_the_end_of_the_old_connection() -> None:
    async def old(peer: Peer) -> None:
        sid = (await read_line(peer, b"SUB")).split()[-1]
        await read_line(peer, b"PING")  # the move's, for that the old wire is being watched
        await peer.send(deliver(b"a", sid, b"last") * 10 + b"HELLO\r\n")

    async def cycle() -> None:
        async with ScriptedServer(session(old), session()) as server:
            async with open_nats(server.url, reconnect=QUICK) as nc, nc.subscribe("a") as sub:
                await nc.reconnect()
                for _ in range(10):
                    assert (await sub.receive()).data == b"last"

    before = alive()
    for _ in range(3):
        await cycle()
    assert alive() <= before


@pytest.mark.parametrize("ending", ["closed", "malformed", "reset"])
async def test_a_permanent_loss_right_after_messages(ending: str) -> None:
    async def script(peer: Peer) -> None:
        sid = (await read_line(peer, b"SUB")).split()[-1]
        end = b"HELLO\r\n" if ending == "malformed" else b""
        await peer.send(deliver(b"a", sid, b"last") * 10 + end)
        if ending != "malformed":
            await read_line(peer, b"PING")
            await peer.send(deliver(b"a", sid, b"very last") + b"PONG\r\n")
            await read_line(peer, b"PUB")
        if ending == "reset":
            peer.abort()

    async def cycle() -> None:
        async with ScriptedServer(session(script)) as server:
            async with open_nats(server.url, reconnect=ReconnectPolicy(max_attempts=0)) as nc:
                async with nc.subscribe("a") as sub:
                    for _ in range(10):
                        await sub.receive()
                    if ending != "malformed":
                        await nc.flush(timeout=HANG_TIMEOUT)
                        await nc.publish("a")
                    await nc.wait_for_state(ConnectionState.CLOSED)
            assert nc.failure is not None

    before = alive()
    for _ in range(3):
        await cycle()
    assert alive() <= before


async def test_a_connection_lost_for_good_while_it_is_drained() -> None:
    async def script(peer: Peer) -> None:
        sid = (await read_line(peer, b"SUB")).split()[-1]
        await peer.send(deliver(b"a", sid, b"x") * 10)
        await read_line(peer, b"PING")
        await peer.send(b"PONG\r\n")
        await trio.testing.wait_all_tasks_blocked()
        peer.abort()

    async def cycle() -> None:
        async with ScriptedServer(session(script)) as server:
            async with open_nats(server.url, reconnect=ReconnectPolicy(max_attempts=0)) as nc:
                sub = await nc.subscribe("a").__aenter__()
                await nc.drain()
                assert sub.pending == (10, 10)

    before = alive()
    for _ in range(3):
        await cycle()
    assert alive() <= before
