"""Cancelling at every moment while a connection is being drained, and the draining itself.

A drain is held up by a subscription that nobody receives from. A cancellation in that time neither
ends the drain nor keeps it from ending, except where it is meant to. All of that with a server, and
with one that is away when the operation begins and comes back once all wait for that.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
import trio
import trio.testing

from tests.connection.helpers import QUICK, all_of, next_event
from tests.core.scenario import echo, entries, tls_sides
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import open_requests, stalled, state_waiters, subscriptions
from tests.support.leaks import all_tasks, no_leaks, open_sockets
from tests.support.proxies import PlainProxy
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, NoRespondersError, Subscription, TLSOptions, open_nats
from trio_nats.events import Disconnected
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.slow


@dataclass(kw_only=True)
class Run:
    """A connection for one run, for a drain ends it."""

    nc: Connection
    work: Subscription
    """Holds two messages that ask for an answer."""
    held: Subscription
    """Holds one that nobody takes, so that a drain does not end."""
    over: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    drained: trio.Event = field(default_factory=trio.Event)
    """The drain that :meth:`Scene.hold_draining` began has returned."""

    def take_all(self) -> None:
        for sub in (self.work, self.held):
            while sub.pending[0]:
                sub.receive_nowait()


@dataclass(kw_only=True)
class Scene:
    """A server behind a proxy, and somebody who hears what is published on it."""

    proxy: PlainProxy
    tls: TLSOptions | None
    witness: Connection
    inbox: Subscription
    nursery: trio.Nursery
    away: bool
    """Whether the server is away when an operation begins."""
    number: int = 0
    done: list[bytes] = field(default_factory=list)
    """What was published to "ledger" according to the publishers."""
    later: trio.CancelScope = field(default_factory=trio.CancelScope)

    def next(self) -> bytes:
        self.number += 1
        return b"%d" % self.number

    async def open(self) -> Run:
        found: Run = await self.nursery.start(self._hold_open)
        await found.nc.flush()
        for _ in range(2):
            await self.witness.publish("work", self.next(), reply="ledger")
        await self.witness.publish("held", b"x")
        while not found.held.pending[0]:
            await self.witness.flush()
            await found.nc.flush()
        return found

    async def _hold_open(self, task_status: trio.TaskStatus[Run]) -> None:
        async with (
            open_nats(
                self.proxy.url,
                tls=self.tls,
                outbox_size=200_000,
                reconnect=QUICK,
                ignore_discovered=True,
                close_timeout=1000,  # nothing here has to wait for that
            ) as nc,
            nc.subscribe("work") as work,
            nc.subscribe("held") as held,
        ):
            run = Run(nc=nc, work=work, held=held)
            task_status.started(run)
            await run.over.wait()
        run.gone.set()

    async def hold_draining(self, run: Run) -> None:
        """Have another task drain the connection, which it cannot finish."""

        async def drain() -> None:
            await run.nc.drain()
            run.drained.set()

        self.nursery.start_soon(drain)
        await run.nc.wait_for_state("draining")
        await run.nc.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert subscriptions(run.nc) == 0

    async def lose(self, run: Run) -> None:
        async with run.nc.events() as events:
            self.proxy.swallow = True
            self.proxy.cut()
            await next_event(events, Disconnected)
        self.do_later(self.come_back)

    def come_back(self) -> None:
        self.proxy.swallow = False

    def do_later(self, *what: Callable[[], object]) -> None:
        """Do things, one after the other, each once everybody waits."""

        async def task(scope: trio.CancelScope) -> None:
            with scope:
                for one in what:
                    await trio.testing.wait_all_tasks_blocked()
                    one()

        self.later.cancel()
        self.later = trio.CancelScope()
        self.nursery.start_soon(task, self.later)

    async def leave(self, run: Run) -> None:
        """The connection has ended as it should, and after its block nothing of it is left."""
        self.later.cancel()
        self.come_back()
        assert (run.nc.state, run.nc.failure) == ("closed", None)
        run.over.set()
        await run.gone.wait()
        assert open_requests(run.nc) == subscriptions(run.nc) == 0
        assert stalled(run.nc) == set()
        assert run.nc.stats.outbox_bytes == 0
        assert state_waiters(run.nc) == 0
        for link in self.proxy.links:
            await link.closed.wait()
        self.proxy.links.clear()
        await trio.testing.wait_all_tasks_blocked()

    async def arrived(self) -> list[bytes]:
        """What came to "ledger", without the filling."""
        return await entries(self.witness, self.inbox)


Make: TypeAlias = Callable[[Scene, Run], Awaitable[Operation]]


@asynccontextmanager
async def scene(encrypted: bool, away: bool) -> AsyncIterator[Scene]:
    server_tls, tls = tls_sides(encrypted)
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(tls=server_tls) as server,
            no_leaks(),
            PlainProxy(server.port) as proxy,
            trio.open_nursery() as nursery,
            open_nats(server.url, tls=tls) as witness,
            witness.subscribe("ledger") as inbox,
            witness.subscribe("echo") as questions,
        ):
            nursery.start_soon(echo, questions)
            await witness.flush()
            yield Scene(
                proxy=proxy, tls=tls, witness=witness, inbox=inbox, nursery=nursery, away=away
            )
            nursery.cancel_scope.cancel()


STATES = [
    pytest.param(False, False, id="plain-there"),
    pytest.param(False, True, id="plain-away"),
    pytest.param(True, True, id="tls-away"),
]
in_each_state = pytest.mark.parametrize(("encrypted", "away"), STATES)
# An operation during a drain has nothing to do with TLS.
without_tls = pytest.mark.parametrize(("encrypted", "away"), STATES[:2])


# --- operations during a drain --------------------------------------------------------------------


async def publish(scene: Scene, run: Run) -> Operation:
    await run.nc.publish("filling", bytes(100_000))

    async def operation() -> None:
        for headers in (None, {"k": "v"}) * 2:
            data = scene.next()
            await run.nc.publish("ledger", data + b"." * 45_000, headers=headers)
            scene.done.append(data)

    return operation


async def subscribe(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        with pytest.raises(trio.ClosedResourceError, match="draining"):
            async with run.nc.subscribe("loop"):
                raise AssertionError("subscribed")

    return operation


async def respond(scene: Scene, run: Run) -> Operation:
    await run.nc.publish("filling", bytes(200_000))

    async def operation() -> None:
        async for message in run.work:
            await message.respond(message.data)
            scene.done.append(message.data)

    return operation


async def request(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        data = scene.next()
        assert (await run.nc.request("echo", data)).data == data
        with pytest.raises(NoRespondersError):
            await run.nc.request("nobody")

    return operation


async def request_many(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        data = scene.next()
        async with run.nc.request_many("echo", data, stop_after=1) as replies:
            assert await all_of(replies) == [data]

    return operation


async def flush(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        await run.nc.flush()
        await run.nc.rtt(timeout=5)

    return operation


async def events(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        async with run.nc.events() as listener:
            with trio.move_on_after(0.001):
                await listener.receive()
        assert await run.nc.wait_for_state("draining") == "draining"

    return operation


async def reconnect(scene: Scene, run: Run) -> Operation:
    return run.nc.reconnect


async def drain_subscription(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        await run.work.drain()
        await run.held.drain()
        assert len(await all_of(run.work)) == 2

    return operation


@without_tls
@pytest.mark.parametrize(
    ("make", "least"),
    [
        (publish, 1),
        (subscribe, 0),
        (respond, 2),
        (request, 2),
        (request_many, 4),
        (flush, 4),
        (events, 2),
        (reconnect, 1),
        (drain_subscription, 4),
    ],
)
async def test_an_operation_does_not_disturb_the_drain(
    make: Make, least: int, encrypted: bool, away: bool
) -> None:
    async with scene(encrypted, away) as stage:
        runs: list[Run] = []
        tasks, sockets = all_tasks(), open_sockets()

        async def begin() -> Operation:
            run = await stage.open()
            runs.append(run)
            await stage.hold_draining(run)
            if away:
                await stage.lose(run)
            return await make(stage, run)

        async def check() -> None:
            run = runs[-1]
            assert open_requests(run.nc) == 0
            assert run.nc.state == "draining"
            assert run.held.pending[0] == 1
            assert not run.drained.is_set()
            stage.come_back()
            data = stage.next()
            await run.nc.publish("ledger", data)
            stage.done.append(data)
            run.take_all()
            await run.drained.wait()
            await stage.leave(run)
            assert run.nc.stats.lost_in_flight == 0
            assert all_tasks() == tasks
            assert open_sockets() == sockets

        assert await cancel_at_each_checkpoint(begin, check) >= least
        assert await stage.arrived() == stage.done
        if make in (publish, respond):
            assert len(runs) < len(stage.done) < stage.number


async def wait_for_the_end(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        scene.do_later(scene.come_back, run.take_all)
        assert await run.nc.wait_for_state("closed") == "closed"

    return operation


async def receive(scene: Scene, run: Run) -> Operation:
    async def operation() -> None:
        for sub in (run.work, run.held):
            assert len(await all_of(sub)) == sub.pending[0] + (2 if sub is run.work else 1)

    return operation


async def drain(scene: Scene, run: Run) -> Operation:
    def take_all() -> None:
        assert run.nc.state == "draining"
        run.take_all()

    async def operation() -> None:
        scene.do_later(scene.come_back, take_all)
        await run.nc.drain()

    return operation


async def aclose(scene: Scene, run: Run) -> Operation:
    return run.nc.aclose


@without_tls
@pytest.mark.parametrize(
    ("make", "least", "when_cancelled"),
    [
        (wait_for_the_end, 2, "draining"),
        (receive, 1, "draining"),
        (drain, 3, "closed"),
        (aclose, 1, "closed"),
    ],
)
async def test_an_operation_that_ends_the_drain(
    make: Make, least: int, when_cancelled: str, encrypted: bool, away: bool
) -> None:
    async with scene(encrypted, away) as stage:
        runs: list[Run] = []
        tasks, sockets = all_tasks(), open_sockets()

        async def begin() -> Operation:
            run = await stage.open()
            runs.append(run)
            await stage.hold_draining(run)
            if away:
                await stage.lose(run)
            data = stage.next()
            await run.nc.publish("ledger", data)
            operation = await make(stage, run)

            async def noted() -> None:
                await operation()
                await run.drained.wait()
                stage.done.append(data)

            return noted

        async def check() -> None:
            run = runs[-1]
            if when_cancelled == "closed":
                assert run.nc.state == "closed"
                # The task that began it is let go, though the messages were not taken.
                await run.drained.wait()
            stage.come_back()
            run.take_all()
            await run.drained.wait()
            await stage.leave(run)
            assert all_tasks() == tasks
            assert open_sockets() == sockets

        assert await cancel_at_each_checkpoint(begin, check) >= least
        arrived = await stage.arrived()
        # What was closed at once may have been written before, or not.
        assert set(stage.done) <= set(arrived)
        assert arrived == sorted(set(arrived), key=int)
        assert stage.done


# --- the drain, and closing -----------------------------------------------------------------------


@in_each_state
@pytest.mark.parametrize("closing", ["drain", "aclose"])
async def test_closing_itself(closing: str, encrypted: bool, away: bool) -> None:
    async with scene(encrypted, away) as stage:
        runs: list[Run] = []
        tasks, sockets = all_tasks(), open_sockets()
        taken: list[int] = []

        async def begin() -> Operation:
            run = await stage.open()
            runs.append(run)
            if away:
                await stage.lose(run)
            data = stage.next()
            await run.nc.publish("ledger", data)

            async def operation() -> None:
                if closing == "aclose":
                    await run.nc.aclose()
                else:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(run.nc.drain)
                        await run.nc.wait_for_state("draining")
                        taken.append(len(await all_of(run.work)) + len(await all_of(run.held)))
                        await run.nc.wait_for_state("closed")
                stage.done.append(data)

            return operation

        async def check() -> None:
            run = runs[-1]
            if run.nc.state in ("open", "reconnecting"):
                assert closing == "drain"  # whose task was cancelled before it began
                await run.nc.aclose()
            await stage.leave(run)
            assert all_tasks() == tasks
            assert open_sockets() == sockets

        # test_cancellation.test_cancelling_a_whole_lifetime covers TLS handshakes.
        visited = await cancel_at_each_checkpoint(begin, check, background=not encrypted)
        assert visited >= (2 if closing == "aclose" else 5)
        assert set(taken) <= {3}
        arrived = await stage.arrived()
        assert set(stage.done) <= set(arrived)
        assert arrived == sorted(set(arrived), key=int)
        assert stage.done
