"""PING, INFO and STATS, exactly as in ADR-32."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime

import msgspec
import pytest
import trio
import trio.testing

from tests.services.helpers import HANG_TIMEOUT, adder, ask, error_of, reverse, running
from trio_nats import NoRespondersError, open_nats
from trio_nats.services import Endpoint
from trio_nats.testing import NatsServer

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
METADATA = {"team": "math", "grün": "ja"}


@pytest.mark.parametrize("verb", ["PING", "INFO", "STATS"])
async def test_requests_by_name_and_id(nats_server: NatsServer, verb: str) -> None:
    async with running(nats_server) as (service, client):
        for whose in ((), ("adder",), ("adder", service.id)):
            assert (await ask(client, verb, *whose))["id"] == service.id
        for stranger in (("Adder",), ("adder", "x"), ("adder", service.id, "x"), (service.id,)):
            with pytest.raises(NoRespondersError):
                await ask(client, verb, *stranger)
    async with open_nats(nats_server.url) as client:
        with pytest.raises(NoRespondersError):
            await ask(client, verb)


async def test_ping(nats_server: NatsServer) -> None:
    async with running(nats_server, metadata=METADATA, description="adds") as (service, client):
        assert await ask(client, "PING") == {
            "type": "io.nats.micro.v1.ping_response",
            "name": "adder",
            "id": service.id,
            "version": "1.2.3",
            "metadata": METADATA,
        }


async def test_info(nats_server: NatsServer) -> None:
    async with running(nats_server, metadata=METADATA, description="adds") as (service, client):
        group = service.group("math", queue=None)
        await group.add_endpoint("sum", reverse, subject="sum.*", metadata={"format": "json"})
        assert await ask(client, "INFO") == {
            "type": "io.nats.micro.v1.info_response",
            "name": "adder",
            "id": service.id,
            "version": "1.2.3",
            "metadata": METADATA,
            "description": "adds",
            "endpoints": [
                {"name": "reverse", "subject": "reverse", "queue_group": "q", "metadata": {}},
                {
                    "name": "sum",
                    "subject": "math.sum.*",
                    "queue_group": "",
                    "metadata": {"format": "json"},
                },
            ],
        }


async def test_stats(nats_server: NatsServer) -> None:
    before = datetime.now(UTC)
    async with running(nats_server, metadata=METADATA) as (service, client):
        stats = await ask(client, "STATS")
        endpoint = {
            "name": "reverse",
            "subject": "reverse",
            "queue_group": "q",
            "num_requests": 0,
            "num_errors": 0,
            "processing_time": 0,
            "average_processing_time": 0,
            "last_error": "",
        }
        started = stats.pop("started")
        assert stats == {
            "type": "io.nats.micro.v1.stats_response",
            "name": "adder",
            "id": service.id,
            "version": "1.2.3",
            "metadata": METADATA,
            "endpoints": [endpoint],
        }
        assert RFC3339.fullmatch(started)
        assert before <= datetime.fromisoformat(started) == service.started <= datetime.now(UTC)
        for _ in range(3):
            await client.request("reverse")
        (found,) = (await ask(client, "STATS"))["endpoints"]
        spent = found["processing_time"]
        assert spent > 0
        assert found == endpoint | {
            "num_requests": 3,
            "processing_time": spent,
            "average_processing_time": spent // 3,
        }
        service.reset()
        again = await ask(client, "STATS")
        assert again["endpoints"] == [endpoint]
        assert datetime.fromisoformat(started) < datetime.fromisoformat(again["started"])


async def test_last_error(nats_server: NatsServer) -> None:
    async def fail(request: object) -> None:
        raise ValueError("for nobody else")

    async with running(nats_server) as (service, client):
        await service.add_endpoint("fail", fail)
        await service.nc.flush()
        await client.request("fail")
        found = (await ask(client, "STATS"))["endpoints"][1]
        assert (found["num_errors"], found["last_error"]) == (1, "500:ValueError")


async def test_data_of_the_stats_handler(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    def data(endpoint: Endpoint) -> object:
        match endpoint.name:
            case "reverse":
                return {"name": endpoint.name, "when": datetime(2024, 1, 1, tzinfo=UTC)}
            case "raises":
                raise KeyError
            case "none":
                return None
            case "nested":
                return functools.reduce(lambda inner, _: {"a": inner}, range(100), {})
        return [1] if endpoint.name == "no-object" else object()

    async with running(nats_server, stats_handler=data) as (service, client):
        for name in ("raises", "none", "no-json", "no-object", "nested"):
            await service.add_endpoint(name, reverse)
        endpoints = (await ask(client, "STATS"))["endpoints"]
        assert endpoints[0]["data"] == {"name": "reverse", "when": "2024-01-01T00:00:00Z"}
        assert ["data" in endpoint for endpoint in endpoints] == [True, *[False] * 5]
        assert service.stats().endpoints[0].data == endpoints[0]["data"]
    assert len(caplog.records) == 8
    assert {record.message for record in caplog.records} == {
        "service 'adder': no data from its stats_handler"
    }


async def test_local_info_and_stats_match_the_responses(nats_server: NatsServer) -> None:
    async with running(nats_server, metadata=METADATA) as (service, client):
        assert await ask(client, "INFO") == msgspec.to_builtins(service.info())
        assert await ask(client, "STATS") == msgspec.to_builtins(service.stats())


async def test_questions_without_reply(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        for verb in ("PING", "INFO", "STATS"):
            await client.publish(f"$SRV.{verb}")
            assert (await ask(client, verb))["id"] == service.id


async def test_a_response_that_is_too_large(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(nats_server) as (service, client):
        for _ in range(10):
            await service.add_endpoint("large", reverse, metadata={"a": "x" * 130_000})
        reply = await client.request("$SRV.INFO")
        assert error_of(reply) == ("500", "the response is too large", b"")
        assert (await ask(client, "PING"))["id"] == service.id
        assert await client.services(stall=0.05).info() == []
    assert "no response on '$SRV.INFO'" in caplog.text


async def test_instances_have_ids_of_their_own(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        ids = {adder(nc).id for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9A-Za-z]{22}", one) for one in ids)


async def test_a_service_without_discovery_permission_still_serves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = """
    authorization { users = [
        {user: server, password: x, permissions: {subscribe: {deny: "$SRV.>"}}},
        {user: client, password: x} ] }
    """
    with trio.fail_after(HANG_TIMEOUT):
        async with NatsServer(config=config) as server:
            url = server.url.replace("//", "//server:x@")
            async with open_nats(url) as nc, adder(nc) as service:
                await service.add_endpoint("reverse", reverse)
                await nc.flush()
                await trio.testing.wait_all_tasks_blocked()
                async with open_nats(server.url.replace("//", "//client:x@")) as client:
                    assert (await client.request("reverse", b"ab")).data == b"ba"
                    with pytest.raises(NoRespondersError):
                        await client.request("$SRV.PING")
    warnings = [r.message for r in caplog.records if r.name == "trio_nats.services"]
    assert len(warnings) == 9
    assert any(
        "service 'adder' cannot respond to discovery on '$SRV.PING': " in one for one in warnings
    )
