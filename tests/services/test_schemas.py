"""Discovery responses obey the JSON schemas that the ``nats`` command checks them with."""

from __future__ import annotations

from typing import Any

import pytest

from tests.services.helpers import ask, running
from tests.support.schemas import check_schema, needs_schemas
from trio_nats.services import ServiceError, ServiceRequest
from trio_nats.testing import NatsServer

pytestmark = needs_schemas


async def fail(request: ServiceRequest) -> None:
    raise ServiceError(500, "no")


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
@pytest.mark.parametrize("full", [True, False])
async def test_responses(nats_server: NatsServer, verb: str, full: bool) -> None:
    options: dict[str, Any] = {}
    if full:
        options = {
            "version": "1.2.3-rc.1+build.5",
            "description": "adds",
            "metadata": {"team": "x"},
            "stats_handler": lambda endpoint: {"name": endpoint.name},
        }
    async with running(nats_server, **options) as (service, client):
        if full:
            group = service.group("math", queue=None)
            await group.add_endpoint("fail", fail, subject="*.>", metadata={"a": "b"})
            await service.nc.flush()
            await client.request("reverse", b"x")
            await client.request("math.x.y")
        response = await ask(client, verb)
        check_schema(f"micro/v1/{verb.lower()}_response", response)
        assert response["type"] == f"io.nats.micro.v1.{verb.lower()}_response"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", "io.nats.micro.v1.info_response"),
        ("name", "a b"),
        ("id", ""),
        ("version", "1"),
        ("metadata", {"a": 1}),
        ("started", "2024-09-24 11:02:55"),
        ("started", "2024-13-24T11:02:55Z"),
        ("endpoints", None),
        ("endpoints", [{"name": "a"}]),
    ],
)
async def test_the_check_finds_violations(
    nats_server: NatsServer, field: str, value: object
) -> None:
    async with running(nats_server) as (_, client):
        response = await ask(client, "STATS")
        with pytest.raises(AssertionError, match=field):
            check_schema("micro/v1/stats_response", response | {field: value})
