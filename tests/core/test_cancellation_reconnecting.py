"""Every operation, cancelled at every moment it can be, while there is no server.

Each operation begins while the connection is reconnecting; the server is back once the operation
waits for that, so its later suspensions come after the reconnect. Whatever was cancelled, there is
one reconnect, the connection works as before, and what was published arrives once or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import pytest
import trio
import trio.testing

from tests.connection.helpers import QUICK, all_of, next_event, receive_n
from tests.core.helpers import frames_of
from tests.core.scenario import Stage, echo, tls_sides
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import (
    chunks_of,
    event_listeners,
    has_session,
    open_requests,
    outbox_of,
    stalled,
    state_waiters,
)
from tests.support.leaks import all_tasks, no_leaks, open_sockets
from tests.support.proxies import PlainProxy
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import NoRespondersError, OutboxFullError, Subscription, open_nats
from trio_nats.events import Reconnected
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.slow


@dataclass(kw_only=True)
class AwayStage(Stage):
    """One whose server goes away before every operation."""

    proxy: PlainProxy
    silent: bool
    """Whether the server lets us dial and says nothing, rather than refusing."""
    nursery: trio.Nursery
    losses: int = 0
    coming: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def lose(self) -> None:
        """Be reconnecting, in vain until :meth:`come_back`."""
        self.losses += 1
        if self.silent:
            self.proxy.swallow = True
        else:
            self.proxy.refuse()
        self.proxy.cut()
        await self.nc.wait_for_state("reconnecting")

    def come_back(self) -> None:
        self.proxy.swallow = False
        self.proxy.accept()

    def come_back_later(self) -> None:
        """Come back once everybody waits."""

        async def task(scope: trio.CancelScope) -> None:
            with scope:
                await trio.testing.wait_all_tasks_blocked()
                self.come_back()

        self.coming = trio.CancelScope()
        self.nursery.start_soon(task, self.coming)

    async def check(self) -> None:
        """After every run: nothing is left, the server is found again, and all works."""
        nc = self.nc
        assert open_requests(nc) == 0
        assert stalled(nc) == set()
        if nc.state == "reconnecting":
            assert not has_session(nc)
            waiting = [frame for chunk in chunks_of(outbox_of(nc)) for frame in frames_of(chunk)]
            assert nc.stats.outbox_bytes == sum(map(len, waiting))
            # What else the next server has to hear it is told when there is one.
            assert all(frame.startswith((b"PUB ", b"HPUB ")) for frame in waiting)
        self.coming.cancel()
        self.come_back()
        assert await nc.wait_for_state("open") == "open"
        await self.use()
        assert (nc.state, nc.stats.reconnects, nc.stats.lost_in_flight) == ("open", self.losses, 0)
        assert open_requests(nc) == 0
        assert state_waiters(nc) == 0
        assert event_listeners(nc) == 0
        assert all_tasks() == self.tasks
        # The connection's own, and the proxy's, are others than before, but as many.
        assert len(open_sockets()) == len(self.sockets)


Make: TypeAlias = Callable[[AwayStage, Subscription], Awaitable[Operation]]


@asynccontextmanager
async def staged(
    encrypted: bool, silent: bool, when_full: Literal["wait", "raise"] = "wait"
) -> AsyncIterator[AwayStage]:
    server_tls, tls = tls_sides(encrypted)
    async with (
        NatsServer(tls=server_tls) as server,
        no_leaks(),
        PlainProxy(server.port) as proxy,
        trio.open_nursery() as nursery,
        open_nats(server.url, tls=tls) as witness,
        witness.subscribe("ledger") as inbox,
        open_nats(
            proxy.url,
            tls=tls,
            outbox_size=200_000,
            when_outbox_full=when_full,
            reconnect=QUICK,
            ignore_discovered=True,
        ) as nc,
    ):
        await witness.flush()
        yield AwayStage(server, nc, witness, inbox, proxy=proxy, silent=silent, nursery=nursery)


async def publish(stage: AwayStage, _: Subscription) -> Operation:
    await stage.nc.publish("filling", bytes(100_000))

    async def operation() -> None:
        stage.come_back_later()
        # The first yields, and the fourth waits for room until the server is back.
        for headers in (None, {"k": "v"}) * 2:
            data = stage.next()
            await stage.nc.publish("ledger", data + b"." * 45_000, headers=headers)
            stage.done.append(data)

    return operation


async def subscribe(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.subscribe("unheard"):
            pass
        async with stage.nc.subscribe("loop", stop_after=2) as sub:
            await stage.nc.publish("loop", b"1")
            await stage.nc.publish("loop", b"2")
            stage.come_back_later()
            assert await all_of(sub) == [b"1", b"2"]

    return operation


async def receive(stage: AwayStage, sub: Subscription) -> Operation:
    # One that arrived before the loss is there to be received, and the rest comes afterwards.
    while sub.pending[0] > 1:
        stage.got.append(sub.receive_nowait().data)
    for _ in range(2):
        data = stage.next()
        await stage.nc.publish("work", data)
        stage.done.append(data)

    async def operation() -> None:
        stage.come_back_later()
        for _ in range(2):
            stage.got.append((await sub.receive()).data)

    return operation


async def respond(stage: AwayStage, sub: Subscription) -> Operation:
    stage.come_back()
    await stage.nc.flush()
    await stage.witness.publish("work", stage.next(), reply="ledger")
    while not sub.pending[0]:
        await stage.witness.flush()
        await stage.nc.flush()
    await stage.lose()
    message = sub.receive_nowait()
    await stage.nc.publish("filling", bytes(200_000))

    async def operation() -> None:
        stage.come_back_later()
        await message.respond(message.data)
        stage.done.append(message.data)

    return operation


async def request(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        with pytest.raises(TimeoutError):
            await stage.nc.request("echo", timeout=0.001)
        stage.come_back_later()
        data = stage.next()
        assert (await stage.nc.request("echo", data)).data == data
        with pytest.raises(NoRespondersError):
            await stage.nc.request("nobody")

    return operation


async def request_without_room(stage: AwayStage, _: Subscription) -> Operation:
    await stage.nc.publish("filling", bytes(200_000))

    async def operation() -> None:
        stage.come_back_later()
        data = stage.next()
        assert (await stage.nc.request("echo", data)).data == data

    return operation


async def request_many(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.request_many("echo", b"too early", timeout=0.05) as replies:
            with pytest.raises(TimeoutError, match="may be missing"):
                await replies.receive()
        stage.come_back_later()
        data = stage.next()
        async with stage.nc.request_many("echo", data, stop_after=1) as replies:
            assert await all_of(replies) == [data]

    return operation


async def request_many_without_room(stage: AwayStage, _: Subscription) -> Operation:
    await stage.nc.publish("filling", bytes(200_000))

    async def operation() -> None:
        stage.come_back_later()
        data = stage.next()
        async with stage.nc.request_many("echo", data, stop_after=1) as replies:
            assert await all_of(replies) == [data]

    return operation


async def flush(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        for ask in (stage.nc.flush, stage.nc.rtt):
            with pytest.raises(TimeoutError):
                await ask(timeout=0.001)
        stage.come_back_later()
        await stage.nc.flush()
        await stage.nc.rtt(timeout=5)

    return operation


async def events(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.events() as listener:
            stage.come_back_later()
            await next_event(listener, Reconnected)

    return operation


async def wait_for_state(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        assert await stage.nc.wait_for_state("reconnecting") == "reconnecting"
        stage.come_back_later()
        assert await stage.nc.wait_for_state("open") == "open"

    return operation


async def reconnect(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        stage.come_back_later()
        await stage.nc.reconnect()
        assert stage.nc.stats.reconnects == stage.losses

    return operation


async def drain_subscription(stage: AwayStage, _: Subscription) -> Operation:
    async def operation() -> None:
        async with stage.nc.subscribe("unheard") as sub:
            await stage.nc.publish("unheard", b"x")
            await sub.drain()
            assert await all_of(sub) == []
        stage.come_back_later()
        async with stage.nc.subscribe("loop") as sub:
            await stage.nc.flush()
            await stage.nc.publish("loop", b"x")
            await sub.drain()
            assert await all_of(sub) == [b"x"]

    return operation


# How many suspensions there are at the least, and how many while the server is away.
LEAST = {
    publish: 1,
    subscribe: 4,
    receive: 1,
    respond: 1,
    request: 3,
    request_without_room: 2,
    request_many: 6,
    request_many_without_room: 4,
    flush: 8,
    events: 2,
    wait_for_state: 3,
    reconnect: 1,
    drain_subscription: 6,
}


# Operations wait for the same in each way to be away. One that writes into the outbox, and
# those that also wait for answers of the next server, are cancelled in every way.
IN_EVERY_WAY = (publish, request, flush, drain_subscription)
WAYS = {"plain-silent": (False, True), "plain-refused": (False, False), "tls-silent": (True, True)}


@pytest.mark.parametrize(
    ("make", "encrypted", "silent"),
    [
        pytest.param(make, *way, id=f"{make.__name__}-{name}")
        for make in LEAST
        for name, way in WAYS.items()
        if name == "plain-silent" or make in IN_EVERY_WAY
    ],
)
async def test_cancelling_an_operation(make: Make, encrypted: bool, silent: bool) -> None:
    away: list[bool] = []
    with trio.fail_after(HANG_TIMEOUT):
        async with staged(encrypted, silent) as stage:
            nc, witness = stage.nc, stage.witness
            async with (
                nc.subscribe("work") as work,
                witness.subscribe("echo") as questions,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(echo, questions)
                for one in (nc, witness):
                    await one.flush()
                stage.tasks, stage.sockets = all_tasks(), open_sockets()

                async def begin() -> Operation:
                    await stage.lose()
                    operation = await make(stage, work)
                    assert nc.state == "reconnecting"
                    return operation

                async def check() -> None:
                    away.append(nc.state == "reconnecting")
                    await stage.check()

                visited = await cancel_at_each_checkpoint(begin, check)
                assert visited >= LEAST[make]
                # Some were cancelled before the server was back, and some ran to their end.
                assert True in away
                assert False in away
                await _settle(stage, make, work)
                await nc.flush()
                assert await _subscribed(stage.server) == [["echo", "ledger"], ["work"]]
                nursery.cancel_scope.cancel()
            stage.nursery.cancel_scope.cancel()


async def test_calls_that_raise_instead_of_waiting_for_space() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with staged(False, True, "raise") as stage:
            nc = stage.nc
            await nc.flush()
            stage.tasks, stage.sockets = all_tasks(), open_sockets()
            waiting: list[int] = []

            async def begin() -> Operation:
                await stage.lose()
                data = stage.next()
                await nc.publish("ledger", data + b"." * 200_000)
                stage.done.append(data)
                waiting.append(nc.stats.outbox_bytes)

                async def operation() -> None:
                    for headers in (None, {"k": "v"}):
                        with pytest.raises(OutboxFullError):
                            await nc.publish("ledger", stage.next(), headers=headers)
                    with pytest.raises(OutboxFullError):
                        await nc.request("ledger", stage.next())
                    with pytest.raises(OutboxFullError):
                        async with nc.request_many("ledger", stage.next()):
                            raise AssertionError("there was room")

                return operation

            async def check() -> None:
                assert nc.stats.outbox_bytes == waiting[-1]
                await stage.check()

            assert await cancel_at_each_checkpoint(begin, check) == 4
            assert await stage.published() == stage.done
            stage.nursery.cancel_scope.cancel()


async def _settle(stage: AwayStage, make: Make, work: Subscription) -> None:
    """Every message was handled once, in order, and the subscription that stayed works."""
    if make in (publish, respond):
        assert await stage.published() == stage.done
        assert 0 < len(stage.done) < stage.number
    elif make is receive:
        await stage.nc.flush()
        while work.pending[0]:
            stage.got.append(work.receive_nowait().data)
        assert stage.got == stage.done
    assert work.pending == (0, 0)
    await stage.witness.publish("work", b"still")
    assert await receive_n(work, 1) == [b"still"]


async def _subscribed(server: NatsServer) -> list[list[str]]:
    """What each connection is subscribed to according to the server, but for replies."""
    connections = (await server.monitor("connz?subs=1"))["connections"]
    assert isinstance(connections, list)
    return sorted(
        sorted(subject for subject in one["subscriptions_list"] if not subject.startswith("_INBOX"))
        for one in connections
    )
