"""Every operation, cancelled at every moment it can be, on plain and on encrypted connections.

Whatever was cancelled, the same connection works as before, nothing is left behind, and each
message was handled once or not at all.
"""

from __future__ import annotations

import pytest
import trio

from tests.connection.helpers import all_of
from tests.core.scenario import Make, Stage, echo, staged
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import emit, event_listeners, open_requests, subscriptions
from tests.support.leaks import all_tasks, open_sockets
from tests.support.timeouts import HANG_TIMEOUT
from tests.transports import TCP, TLS, WS, Transport
from trio_nats import Connection, NoRespondersError, Replies, Subscription, open_nats
from trio_nats.events import LameDuck

pytestmark = pytest.mark.slow


async def publish(stage: Stage, _: Subscription) -> Operation:
    await stage.nc.publish("filling", bytes(150_000))

    async def operation() -> None:
        for headers in (None, {"k": "v"}):
            data = stage.next()
            await stage.nc.publish("ledger", data + b"." * 60_000, headers=headers)
            stage.done.append(data)

    return operation


async def publish_without_room(stage: Stage, _: Subscription) -> Operation:
    await stage.fill()

    async def operation() -> None:
        data = stage.next()
        await stage.nc.publish("ledger", data)
        stage.done.append(data)

    return operation


async def subscribe(stage: Stage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.subscribe("loop", stop_after=2) as sub:
            await stage.nc.publish("loop", b"1")
            await stage.nc.publish("loop", b"2")
            assert await all_of(sub) == [b"1", b"2"]

    return operation


async def receive(stage: Stage, sub: Subscription, count: int = 3) -> Operation:
    while sub.pending[0]:
        stage.got.append(sub.receive_nowait().data)
    for _ in range(count):
        data = stage.next()
        await stage.witness.publish("work", data)
        stage.done.append(data)

    async def operation() -> None:
        for _ in range(count):
            stage.got.append((await sub.receive()).data)

    return operation


async def receive_many(stage: Stage, sub: Subscription) -> Operation:
    """So many that are there already that it lets others run in between."""
    operation = await receive(stage, sub, 100)
    for nc in (stage.witness, stage.nc):
        await nc.flush()
    assert sub.pending[0] == 100
    return operation


async def respond(stage: Stage, sub: Subscription) -> Operation:
    while sub.pending[0]:
        sub.receive_nowait()
    await stage.witness.publish("work", stage.next(), reply="ledger")

    async def operation() -> None:
        message = await sub.receive()
        await message.respond(message.data)
        stage.done.append(message.data)

    return operation


async def request(stage: Stage, _: Subscription) -> Operation:
    async def operation() -> None:
        data = stage.next()
        assert (await stage.nc.request("echo", data)).data == data
        with pytest.raises(NoRespondersError):
            await stage.nc.request("nobody")
        with pytest.raises(TimeoutError):
            await stage.nc.request("silence", timeout=0.001)

    return operation


async def request_without_room(stage: Stage, _: Subscription) -> Operation:
    await stage.fill()

    async def operation() -> None:
        with pytest.raises(NoRespondersError):
            await stage.nc.request("nobody")

    return operation


async def request_many(stage: Stage, _: Subscription) -> Operation:
    await stage.fill()

    async def operation() -> None:
        data = stage.next()
        async with stage.nc.request_many("echo", data, stop_after=1) as replies:
            assert await all_of(replies) == [data]

    return operation


async def flush(stage: Stage, _: Subscription) -> Operation:
    async def operation() -> None:
        await stage.nc.flush()
        await stage.nc.rtt(timeout=5)

    return operation


async def events(stage: Stage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.events() as listener:
            emit(stage.nc, LameDuck("nats://nowhere"))
            await listener.receive()
            with trio.move_on_after(0.001):
                await listener.receive()
        assert await stage.nc.wait_for_state("open") == "open"

    return operation


async def drain(stage: Stage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.subscribe("loop") as sub:
            await stage.nc.publish("loop", b"x")
            await sub.drain()
            assert await all_of(sub) == [b"x"]

    return operation


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (publish, 1),
        (publish_without_room, 1),
        (subscribe, 3),
        (receive, 1),
        (receive_many, 1),
        (respond, 1),
        (request, 3),
        (request_without_room, 2),
        (request_many, 5),
        (flush, 4),
        (events, 4),
        (drain, 3),
    ],
)
async def test_cancelling_an_operation(make: Make, least: int) -> None:
    await cancel_operation(make, least, TCP)


# The outbox is between the operations and the transport: a few show that it makes no difference.
@pytest.mark.parametrize("transport", [TLS, WS], ids=["tls", "ws"])
@pytest.mark.parametrize(("make", "least"), [(publish, 1), (request, 3), (drain, 3)])
async def test_cancelling_an_operation_over_other_transports(
    make: Make, least: int, transport: Transport
) -> None:
    await cancel_operation(make, least, transport)


async def cancel_operation(make: Make, least: int, transport: Transport) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with staged(transport) as stage:
            nc, witness = stage.nc, stage.witness
            async with (
                nc.subscribe("work") as work,
                witness.subscribe("echo") as questions,
                witness.subscribe("silence"),
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(echo, questions)
                for one in (nc, witness):
                    await one.flush()
                stage.tasks, stage.sockets = all_tasks(), open_sockets()
                visited = await cancel_at_each_checkpoint(lambda: make(stage, work), stage.check)
                assert visited >= least
                await _settle(stage, make, work)
                nursery.cancel_scope.cancel()


async def _settle(stage: Stage, make: Make, work: Subscription) -> None:
    """Every message was handled once, in order, or is still there to be handled."""
    if make in (receive, receive_many):
        await stage.nc.flush()
        while work.pending[0]:
            stage.got.append(work.receive_nowait().data)
        assert stage.got == stage.done
    elif make in (publish, publish_without_room, respond):
        assert await stage.published() == stage.done
        assert 0 < len(stage.done) < stage.number
    elif make is events:
        emit(stage.nc, LameDuck("nats://nowhere"))
        assert event_listeners(stage.nc) == 0
    elif make in (subscribe, drain):
        assert stage.nc.stats.subscriptions == 1
        assert await stage.subscribed() == ["work"]


async def test_a_reply_that_was_not_received_is_left() -> None:
    async with staged(TCP) as stage, stage.witness.subscribe("echo") as questions:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, questions)
            await stage.witness.flush()
            stage.tasks, stage.sockets = all_tasks(), open_sockets()
            latest: list[Replies] = []

            async def make() -> Operation:
                many = stage.nc.request_many("echo", stage.next(), stop_after=1)
                latest[:] = [await many.__aenter__()]

                async def operation() -> None:
                    stage.got.append((await latest[0].receive()).data)

                return operation

            async def check() -> None:
                if len(stage.got) < stage.number:
                    stage.got.append((await latest[0].receive()).data)
                await latest[0].aclose()
                await stage.check()

            assert await cancel_at_each_checkpoint(make, check) >= 1
            assert stage.got == [b"%d" % number for number in range(1, stage.number + 1)]
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("transport", "drained"),
    [(TCP, False), (TCP, True), (TLS, False), (WS, True)],
    ids=["tcp-left", "tcp-drained", "tls-left", "ws-drained"],
)
async def test_cancelling_a_whole_lifetime(transport: Transport, drained: bool) -> None:
    """Opening, using and leaving, cancelled at each suspension of any task it consists of."""
    with trio.fail_after(HANG_TIMEOUT):
        async with transport.server() as server:
            url, options = transport.url(server), transport.options
            connections: list[Connection] = []

            async def make() -> Operation:
                async def operation() -> None:
                    async with open_nats(url, **options) as nc:
                        connections.append(nc)
                        async with nc.subscribe("loop") as sub:
                            await nc.publish("loop", b"x", reply="nobody")
                            await (await sub.receive()).respond(b"y")
                            with pytest.raises(NoRespondersError):
                                await nc.request("nobody")
                            if drained:
                                await nc.publish("loop", b"z")
                                async with trio.open_nursery() as nursery:
                                    nursery.start_soon(all_of, sub)
                                    await nc.drain()

                return operation

            tasks, sockets = all_tasks(), open_sockets()

            async def check() -> None:
                assert all_tasks() == tasks
                assert open_sockets() == sockets
                for nc in connections:
                    assert (nc.state, nc.failure) == ("closed", None)
                    assert open_requests(nc) == subscriptions(nc) == 0
                connections.clear()

            visited = await cancel_at_each_checkpoint(make, check, background=True)
            assert visited >= (29 if drained else 25)
            async with open_nats(url, **options) as nc:
                await nc.flush()
                # All the others are gone for the server as well.
                while (await server.monitor("connz"))["num_connections"] != 1:
                    await trio.lowlevel.checkpoint()
