"""The tasks of an endpoint: how many, and that handlers do not notice that they share them."""

from __future__ import annotations

import contextvars

import pytest
import trio
import trio.testing

from tests.services.helpers import HANG_TIMEOUT, Gate, running
from tests.support.leaks import all_tasks
from trio_nats import Connection
from trio_nats.services import Endpoint, ServiceRequest
from trio_nats.testing import NatsServer


class Spawns(trio.abc.Instrument):
    """Counts the tasks that an endpoint has started."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.count = 0
        self._name = f"endpoint {endpoint.name!r} on {endpoint.subject!r}"

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name == self._name


async def many(client: Connection, subject: str, tasks: int, each: int = 1) -> None:
    """Make many requests at a time, and check the replies."""

    async def request(number: int) -> None:
        for _ in range(each):
            data = b"%d" % number
            assert (await client.request(subject, data, timeout=HANG_TIMEOUT)).data == data[::-1]

    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            nursery.start_soon(request, number)


async def test_requests_start_no_tasks(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        (endpoint,) = service.endpoints
        spawns = Spawns(endpoint)
        trio.lowlevel.add_instrument(spawns)
        try:
            await many(client, "reverse", tasks=20, each=20)
        finally:
            trio.lowlevel.remove_instrument(spawns)
        assert spawns.count < endpoint.concurrency
        assert endpoint.stats().num_requests == 400


async def test_handlers_that_wait_have_a_task_each(nats_server: NatsServer) -> None:
    """As many as the concurrency allows, however many are waiting."""
    gate = Gate()
    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("gate", gate, concurrency=40)
        await service.nc.flush()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(client.request, "gate", b"%d" % number)
            await gate.arrivals(40)
            await service.nc.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert (endpoint.under_way, len(gate.waiting)) == (40, 40)
            gate.open()
        assert len(gate.finished) == 100


async def test_a_service_keeps_few_idle_tasks(nats_server: NatsServer) -> None:
    name = "endpoint 'gate' on 'gate'"
    gate = Gate()
    async with running(nats_server) as (service, client):
        await service.add_endpoint("gate", gate, concurrency=300)
        await service.nc.flush()
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client.request, "gate", b"%d" % number)
            await gate.arrivals(200)
            assert all_tasks()[name] >= 200
            gate.open()
        await trio.testing.wait_all_tasks_blocked()
        assert 1 <= all_tasks()[name] <= 65
        assert (await client.request("gate", b"x")).data == b"done: x"


async def test_context_variables_are_those_of_the_request(nats_server: NatsServer) -> None:
    """Also if others are being handled, and if the values are equal."""
    variable: contextvars.ContextVar[list[bytes]] = contextvars.ContextVar("variable")
    outer: contextvars.ContextVar[str] = contextvars.ContextVar("outer")
    outer.set("as when entered")

    async def handler(request: ServiceRequest) -> bytes:
        assert variable.get(None) is None
        assert outer.get() == "as when entered"
        variable.set([])
        if request.data[-1:] in b"02468":
            outer.set("changed")
            await trio.lowlevel.checkpoint()
        return request.data[::-1]

    async with running(nats_server) as (service, client):
        for concurrency in (1, 2, 16):
            endpoint = await service.add_endpoint(
                f"context{concurrency}", handler, concurrency=concurrency
            )
            await service.nc.flush()
            await many(client, endpoint.subject, tasks=20, each=3)
            assert endpoint.stats().num_errors == 0


async def test_a_context_variable_that_is_reset_costs_no_task(nats_server: NatsServer) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    tasks: set[trio.lowlevel.Task] = set()

    async def handler(request: ServiceRequest) -> bytes:
        tasks.add(trio.lowlevel.current_task())
        token = variable.set(1)
        await trio.lowlevel.checkpoint()
        variable.reset(token)
        return request.data[::-1]

    async with running(nats_server) as (service, client):
        await service.add_endpoint("reset", handler, concurrency=1)
        await service.nc.flush()
        await many(client, "reset", tasks=5, each=5)
        assert len(tasks) == 1


@pytest.mark.parametrize("shield", [False, True])
async def test_a_cancel_scope_that_a_handler_leaves_behind_is_its_own(
    nats_server: NatsServer, shield: bool
) -> None:
    left: list[trio.CancelScope] = []

    async def handler(request: ServiceRequest) -> bytes:
        scope = trio.CancelScope(shield=shield)
        scope.__enter__()
        left.append(scope)
        return request.data[::-1]

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("leave", handler, concurrency=1)
        await service.nc.flush()
        await many(client, "leave", tasks=1, each=3)
        for scope in left:
            scope.cancel()
        await many(client, "leave", tasks=1)
        assert endpoint.stats().num_errors == 0


async def test_a_deadline_that_a_handler_leaves_behind_is_its_own(nats_server: NatsServer) -> None:
    """Such as that of an async generator that it has abandoned."""
    left: list[trio.CancelScope] = []
    deadlines: set[float] = set()

    async def handler(request: ServiceRequest) -> bytes:
        deadlines.add(trio.current_effective_deadline())
        scope = trio.CancelScope(deadline=trio.current_effective_deadline() - 1)
        scope.__enter__()
        left.append(scope)
        return request.data[::-1]

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("leave", handler, concurrency=1)
        await service.nc.flush()
        await many(client, "leave", tasks=1, each=3)
        left[-1].cancel()
        await many(client, "leave", tasks=1)
        assert len(deadlines) == 1
        assert endpoint.stats().num_errors == 0
