"""Tests of service discovery by clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec
import pytest
import trio

from tests.services.helpers import HANG_TIMEOUT, adder, reverse, running
from trio_nats import (
    ConfigurationError,
    Connection,
    InvalidSubjectError,
    PermissionsViolationError,
    open_nats,
)
from trio_nats.services import ServicePing, ServiceStats
from trio_nats.testing import NatsServer

STALL = 0.2


@asynccontextmanager
async def three(server: NatsServer) -> AsyncIterator[tuple[Connection, list[str]]]:
    """Run two adders and another service. Yields a client and the IDs of the adders."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url) as nc, open_nats(server.url) as client:
            async with adder(nc) as one, adder(nc, description="x") as two:
                async with nc.add_service("other", version="0.1.0", metadata={"a": "b"}) as other:
                    await other.add_endpoint("reverse", reverse, metadata={"c": "d"})
                    await nc.flush()
                    yield client, sorted([one.id, two.id])


async def test_ping(nats_server: NatsServer) -> None:
    async with three(nats_server) as (client, ids):
        services = client.services(stall=STALL)
        everybody = await services.ping()
        assert [one.name for one in everybody] == ["adder", "adder", "other"]
        assert all(isinstance(one, ServicePing) and 0 < one.rtt < HANG_TIMEOUT for one in everybody)
        assert everybody[2].metadata == {"a": "b"}
        assert [one.id for one in await services.ping("adder")] == ids
        assert [one.id for one in await services.ping("adder", ids[1])] == [ids[1]]


async def test_info(nats_server: NatsServer) -> None:
    async with three(nats_server) as (client, _):
        services = client.services(stall=STALL)
        assert len(await services.info()) == 3
        assert sorted(one.description for one in await services.info("adder")) == ["", "x"]
        (other,) = await services.info("other")
        (endpoint,) = other.endpoints
        assert (endpoint.name, endpoint.subject, endpoint.queue_group) == ("reverse",) * 2 + ("q",)
        assert endpoint.metadata == {"c": "d"}


async def test_stats(nats_server: NatsServer) -> None:
    async with three(nats_server) as (client, _):
        services = client.services(stall=STALL)
        await client.request("reverse")
        assert len(await services.stats()) == 3
        (other,) = await services.stats("other")
        assert other.endpoints[0].num_requests == 1
        assert other.endpoints[0].processing_time == other.endpoints[0].average_processing_time > 0
        assert (other.endpoints[0].data, other.endpoints[0].last_error) == (None, "")
        assert other.started.tzinfo is UTC


async def test_no_services(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        services = nc.services()
        assert await services.ping() == await services.info("adder") == []
        assert await services.stats("adder", "x") == []


async def test_nobody_responds(nats_server: NatsServer) -> None:
    """A subscriber that never responds."""
    async with open_nats(nats_server.url) as nc, nc.subscribe(">"):
        assert await nc.services(timeout=0.02).ping() == []


async def test_it_stops_waiting_after_the_last_response(nats_server: NatsServer) -> None:
    async with three(nats_server) as (client, ids):
        # Neither the timeout nor a number of responses ends this.
        assert len(await client.services(timeout=1000, stall=STALL).ping()) == 3
        # A single instance responds once, so there is no stall.
        assert len(await client.services(timeout=1000, stall=1000).ping("adder", ids[0])) == 1


async def test_another_prefix(nats_server: NatsServer) -> None:
    """As for services imported from another account under another prefix."""
    async with open_nats(nats_server.url) as nc, nc.subscribe("other.srv.PING.adder") as sub:
        async with trio.open_nursery() as nursery:

            async def respond() -> None:
                msg = await sub.receive()
                await msg.respond(
                    b'{"type":"io.nats.micro.v1.ping_response","name":"adder","id":"x",'
                    b'"version":"1.0.0"}'
                )

            nursery.start_soon(respond)
            services = nc.services(prefix="other.srv", stall=STALL)
            assert repr(services) == "<Services 'other.srv'>"
            assert services.prefix == "other.srv"
            (found,) = await services.ping("adder")
            assert (found.id, found.metadata) == ("x", {})


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"prefix": ""}, InvalidSubjectError, "it is empty"),
        ({"prefix": "a.*"}, InvalidSubjectError, "are wildcards"),
        ({"prefix": None}, TypeError, "prefix must be a str"),
        ({"timeout": 0}, ConfigurationError, "timeout must be more than zero"),
        ({"stall": -1}, ConfigurationError, "stall must be more than zero"),
    ],
)
async def test_invalid_options(
    nats_server: NatsServer, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(kind, match=text):
            nc.services(**options)


@pytest.mark.parametrize(
    ("whose", "kind", "text"),
    [
        (("a.b",), ConfigurationError, "service name 'a.b' is not allowed"),
        (("",), ConfigurationError, "service name ''"),
        ((None, "x"), ConfigurationError, "id 'x' needs name"),
        (("a", 5), TypeError, "id must be a str, not int"),
        (("a", "x.y"), ConfigurationError, "id must be a single token .* not 'x.y'"),
        (("a", "*"), ConfigurationError, r"id must be .* without wildcards, not '\*'"),
        (("a", "x y"), InvalidSubjectError, "not allowed"),
        (("a", ""), InvalidSubjectError, "it is empty"),
    ],
)
async def test_invalid_names_and_ids(
    nats_server: NatsServer, whose: Any, kind: type[Exception], text: str
) -> None:
    async with open_nats(nats_server.url) as nc:
        for ask in (nc.services().ping, nc.services().info, nc.services().stats):
            with pytest.raises(kind, match=text):
                await ask(*whose)


async def test_discovery_is_forbidden(nats_server: NatsServer) -> None:
    config = 'authorization { users = [{user: u, password: x, permissions: {publish: "a"}}] }'
    async with NatsServer(config=config) as server:
        async with open_nats(server.url.replace("//", "//u:x@")) as nc:
            with pytest.raises(PermissionsViolationError):
                await nc.services().ping()


# --- responses of others--------------------------------------------------------------------------

STATS: dict[str, Any] = {
    "type": "io.nats.micro.v1.stats_response",
    "name": "other",
    "id": "1",
    "version": "1.0.0",
    "started": "2024-09-24T11:02:55.564771527Z",
}
# Responses of current and older versions of nats.go and other clients.
ENDPOINT: dict[str, Any] = {"name": "a", "subject": "b"}
GOOD: list[dict[str, Any]] = [
    STATS,
    STATS | {"id": "2", "metadata": None, "endpoints": None, "unknown": {"x": 1}},
    STATS
    | {
        "id": "3",
        "endpoints": [
            ENDPOINT | {"metadata": None, "last_error": "", "data": {"x": [1]}},
            ENDPOINT
            | {"queue_group": "q", "num_requests": 3, "num_errors": 1}
            | {"processing_time": 300, "average_processing_time": 100, "last_error": "500:x"},
        ],
    },
]
BAD: list[bytes] = [
    b"",
    b"\xff",
    b"[]",
    b"{}",
    msgspec.json.encode({key: value for key, value in STATS.items() if key != "type"}),
    b"[" * 100_000,
    b'{"type":' * 100_000,
    b'{"type":"x","endpoints":[{"processing_time":1%b}]}' % (b"0" * 400),
    *(
        msgspec.json.encode(STATS | change)
        for change in (
            {"type": "io.nats.micro.v1.ping_response"},
            {"type": None},
            {"name": 1},
            {"started": "yesterday"},
            {"metadata": {"a": 1}},
            {"endpoints": {}},
            {"endpoints": [1]},
            {"endpoints": [{}]},
            {"endpoints": [ENDPOINT | {"num_requests": "many"}]},
            {"endpoints": [ENDPOINT | {"num_requests": 2**63}]},
            {"endpoints": [ENDPOINT | {"num_errors": -(2**63) - 1}]},
            {"endpoints": [ENDPOINT | {"processing_time": "long"}]},
            {"endpoints": [ENDPOINT | {"average_processing_time": 1e300}]},
            {"started": "2024-09-24T11:02:55"},
            {"started": "0001-01-01T00:00:00+14:00"},
            {"id": ""},
            {"id": "a b"},
            {"id": "a.b"},
            {"id": "*"},
            {"id": "a\x1b"},
            {"name": "a b"},
            {"name": "another"},
        )
    ),
]


async def responses_to(
    client: Connection, subject: str, responses: list[bytes], *whose: str
) -> list[ServiceStats]:
    """Return what discovery makes of the responses of a hostile service."""

    async def respond() -> None:
        msg = await requests.receive()
        for data in responses:
            await msg.respond(data)

    async with client.subscribe(subject) as requests, trio.open_nursery() as nursery:
        await client.flush()
        nursery.start_soon(respond)
        return await client.services(stall=STALL).stats(*whose)


async def test_responses_of_others(nats_server: NatsServer) -> None:
    async with running(nats_server) as (_, client):
        responses = [*BAD, *map(msgspec.json.encode, GOOD)]
        found = await responses_to(client, "$SRV.STATS.other", responses, "other")
    assert [one.id for one in found] == ["1", "2", "3"]
    assert [one.metadata for one in found] == [{}] * 3
    assert found[0].started == datetime(2024, 9, 24, 11, 2, 55, 564772, UTC)
    assert found[1].endpoints == []
    first, second = found[2].endpoints
    assert (first.queue_group, first.num_requests, first.data) == ("", 0, {"x": [1]})
    assert (second.processing_time, second.average_processing_time) == (3e-7, 1e-7)
    assert second.last_error == "500:x"


async def test_malformed_responses_do_not_hide_that_of_an_instance(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as client:
        responses = [*BAD, msgspec.json.encode(STATS | {"id": "2"}), msgspec.json.encode(STATS)]
        (found,) = await responses_to(client, "$SRV.STATS.other.1", responses, "other", "1")
        assert found.id == "1"


async def test_other_time_zones(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as client:
        response = msgspec.json.encode(STATS | {"started": "2024-01-01T01:00:00+02:00"})
        (found,) = await responses_to(client, "$SRV.STATS", [response])
        assert str(found.started) == "2023-12-31 23:00:00+00:00"


async def test_nested_data_is_left_out(nats_server: NatsServer) -> None:
    """Showing it takes time that is quadratic, or more of the stack than there is."""

    def nested(levels: int) -> object:
        data: object = "x"
        for level in range(levels):
            data = {"a": data} if level % 2 else [data, 1]
        return data

    async with open_nats(nats_server.url) as client:
        response = STATS | {
            "endpoints": [ENDPOINT | {"data": nested(levels)} for levels in (0, 1, 32, 33, 200)]
        }
        (found,) = await responses_to(client, "$SRV.STATS", [msgspec.json.encode(response)])
        data = [one.data for one in found.endpoints]
        assert data == ["x", ["x", 1], nested(32), None, None]


@pytest.mark.slow
async def test_responses_are_bounded_in_bytes(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Any peer may respond with any amount of data."""
    ping = {"type": "io.nats.micro.v1.ping_response", "name": "n", "version": "1.0.0"}
    async with open_nats(nats_server.url) as client, open_nats(nats_server.url) as hostile:

        async def respond() -> None:
            msg = await requests.receive()
            for number in count():
                data = {**ping, "id": str(number), "metadata": {"x": "x" * 1_000_000}}
                await msg.respond(msgspec.json.encode(data))

        async with hostile.subscribe("$SRV.PING") as requests, trio.open_nursery() as nursery:
            nursery.start_soon(respond)
            await hostile.flush()
            services = client.services(stall=HANG_TIMEOUT, timeout=HANG_TIMEOUT)
            found = await services.ping()
            assert 60 < len(found) <= 68
            assert "the rest is ignored" in caplog.text
            nursery.cancel_scope.cancel()
