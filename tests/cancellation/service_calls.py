"""Calls of services: those that run one, and those that ask for them."""

from __future__ import annotations

from tests.cancellation.environment import Call, Environment, Group, failing_block
from tests.services.helpers import adder, reverse
from trio_nats.services import ServiceRequest

__all__ = ["SERVICES"]


async def with_service(env: Environment) -> None:
    """Nothing: services are entered by the task that leaves them."""


async def answered(env: Environment) -> None:
    connection = env.observer.connection
    assert (await connection.request("reverse", b"ab")).data == b"ba"


async def run_service(env: Environment) -> None:
    async with adder(env.nc) as service:
        await service.add_endpoint("reverse", reverse)
        group = service.group("g")
        await group.add_endpoint("other", reverse)
        endpoint = await service.add_endpoint("third", reverse)
        await env.nc.flush()
        await answered(env)
        await endpoint.aclose()
        await group.aclose()
        await service.aclose()
        await service.wait_stopped()


async def respond(env: Environment) -> None:
    """The handler's task does it; if it is cancelled, the service refuses the request."""

    async def handle(request: ServiceRequest) -> None:
        await request.respond(b"1")
        await request.respond_error(400, "words")

    async with adder(env.nc) as service:
        await service.add_endpoint("handle", handle)
        async with env.nc.request_many("handle", stop_after=2) as replies:
            found = [msg.data async for msg in replies]
        assert found == [b"1", b""]


async def ask(env: Environment) -> None:
    services = env.nc.services(stall=0.01)
    assert await services.ping("nobody") == []
    assert await services.info("nobody") == []
    assert await services.stats("nobody") == []


SERVICES = Group(
    with_service,
    (
        Call(
            "Service.__aenter__ Service.__aexit__ Service.add_endpoint ServiceGroup.add_endpoint "
            "ServiceGroup.aclose Endpoint.aclose Service.aclose Service.wait_stopped",
            run_service,
            needs_cleanup=True,
        ),
        Call(
            "ServiceRequest.respond ServiceRequest.respond_error",
            respond,
            background=True,
            needs_cleanup=True,
        ),
        failing_block(
            "Service.__aexit__",
            lambda s: adder(s.nc),
            lambda service: service.add_endpoint("reverse", reverse),
        ),
        Call("Services.ping Services.info Services.stats", ask),
    ),
)
