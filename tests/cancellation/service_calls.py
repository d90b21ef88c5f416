"""Calls of services: those that run one, and those that ask for them."""

from __future__ import annotations

from tests.cancellation.stage import Call, Group, Stage, failing
from tests.services.helpers import adder, reverse
from trio_nats.services import ServiceRequest

__all__ = ["SERVICES"]


async def with_service(stage: Stage) -> None:
    """Nothing: services are entered by the task that leaves them."""


async def answered(stage: Stage) -> None:
    connection = stage.witness.connection
    assert (await connection.request("reverse", b"ab")).data == b"ba"


async def run_service(stage: Stage) -> None:
    async with adder(stage.nc) as service:
        await service.add_endpoint("reverse", reverse)
        group = service.group("g")
        await group.add_endpoint("other", reverse)
        endpoint = await service.add_endpoint("third", reverse)
        await stage.nc.flush()
        await answered(stage)
        await endpoint.aclose()
        await group.aclose()
        await service.aclose()
        await service.wait_stopped()


async def respond(stage: Stage) -> None:
    """The handler's task does it; if it is cancelled, the service refuses the request."""

    async def handle(request: ServiceRequest) -> None:
        await request.respond(b"1")
        await request.respond_error(400, "words")

    async with adder(stage.nc) as service:
        await service.add_endpoint("handle", handle)
        async with stage.nc.request_many("handle", stop_after=2) as replies:
            found = [msg.data async for msg in replies]
        assert found == [b"1", b""]


async def ask(stage: Stage) -> None:
    services = stage.nc.services(stall=0.01)
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
        failing(
            "Service.__aexit__",
            lambda s: adder(s.nc),
            lambda service: service.add_endpoint("reverse", reverse),
        ),
        Call("Services.ping Services.info Services.stats", ask),
    ),
)
