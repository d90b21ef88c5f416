"""A service that is cancelled at any point leaks nothing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.services.helpers import HANG_TIMEOUT, adder, reverse, running
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import open_requests
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import Connection, NoRespondersError, open_nats
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.slow


async def sound(nc: Connection) -> None:
    """Check that the connection works, and that the cancelled operation left nothing."""
    assert nc.stats.subscriptions == 0
    assert open_requests(nc) == 0
    await nc.flush(timeout=HANG_TIMEOUT)
    assert nc.stats.reconnects == 0


async def test_cancelling_a_whole_lifetime(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc, open_nats(nats_server.url) as client:
        await nc.request_many("x", timeout=1).aclose()
        await nc.flush()
        await client.flush()
        async with no_leaks():
            before = all_tasks()

            async def make() -> Operation:
                async def operation() -> None:
                    async with adder(nc) as service:
                        await service.add_endpoint("reverse", reverse)
                        service.group("group").endpoint("other")(reverse)
                        await nc.flush()
                        assert (await client.request("reverse", b"ab")).data == b"ba"
                        service.stop()
                        await service.wait_stopped()

                return operation

            async def check() -> None:
                assert all_tasks() == before
                await sound(nc)
                await sound(client)

            assert await cancel_at_each_checkpoint(make, check, background=True) >= 20


async def test_cancelling_a_service_that_stops_by_itself(nats_server: NatsServer) -> None:
    """With endpoints added before the block, which ends the service."""
    async with open_nats(nats_server.url) as nc:
        await nc.flush()
        async with no_leaks():
            before = all_tasks()

            async def make() -> Operation:
                service = adder(nc)
                # So many that subscribing them lets others run in between.
                for _ in range(3):
                    await service.add_endpoint("reverse", reverse)

                async def operation() -> None:
                    async with service:
                        await nc.publish("reverse")

                return operation

            async def check() -> None:
                assert all_tasks() == before
                await sound(nc)

            assert await cancel_at_each_checkpoint(make, check, background=True) >= 30


async def test_adding_an_endpoint(nats_server: NatsServer) -> None:
    """The endpoint exists for discovery and for requests, or for neither."""
    async with running(nats_server) as (service, client):
        added: list[str] = []

        async def make() -> Operation:
            name = f"e{len(added)}"
            added.append(name)

            async def operation() -> None:
                await service.add_endpoint(name, reverse)

            return operation

        async def check() -> None:
            await service.nc.flush()
            there = added[-1] in [endpoint.name for endpoint in service.endpoints]
            try:
                assert (await client.request(added[-1], b"ab")).data == b"ba"
                responded = True
            except NoRespondersError:
                responded = False
            assert there == responded

        assert await cancel_at_each_checkpoint(make, check) >= 1
        assert len(service.endpoints) > 1


async def test_waiting_for_the_end(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):

        async def make() -> Operation:
            async def operation() -> None:
                with trio.move_on_after(0.01):
                    await service.wait_stopped()

            return operation

        async def check() -> None:
            assert not service.stopping
            assert (await client.request("reverse", b"ab")).data == b"ba"

        assert await cancel_at_each_checkpoint(make, check) == 1


async def test_responding(nats_server: NatsServer) -> None:
    """A handler that cancels its own reply has sent all of it or nothing."""
    async with running(nats_server) as (service, client):
        scopes: list[trio.CancelScope] = []

        async def handler(request: object) -> bytes | None:
            with trio.CancelScope() as scope:
                scope.cancel()
                scopes.append(scope)
                await request.respond(b"never")  # type: ignore[attr-defined]
            return b"whole" if scope.cancelled_caught else None

        await service.add_endpoint("cancel", handler)
        await service.nc.flush()
        assert (await client.request("cancel")).data == b"whole"
        assert scopes[0].cancelled_caught
