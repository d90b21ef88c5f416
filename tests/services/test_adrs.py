"""Services send and accept what ADR-32 says, on the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from tests.services.helpers import HANG_TIMEOUT, adder, ask, reverse, running
from tests.support.peer import Peer, ScriptedServer
from trio_nats import ConfigurationError, Connection, open_nats
from trio_nats.services import Endpoint, ServiceError, ServiceRequest, check_reply
from trio_nats.testing import NatsServer


async def serve(peer: Peer) -> None:
    await peer.send_info()
    await peer.accept_connect()
    await peer.serve()


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[Connection, Peer]]:
    """A connection to a server that records what it receives."""
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(serve) as server,
            open_nats(f"nats://127.0.0.1:{server.port}") as nc,
        ):
            yield nc, await server.peer()


def commands(peer: Peer, operation: bytes) -> list[list[str]]:
    return [line.decode().split(" ") for line in peer.lines if line.startswith(operation + b" ")]


# --- subscriptions -------------------------------------------------------------------------------


async def test_adr_32_subscriptions() -> None:
    """Nine for discovery, of no queue group; one for each endpoint, of ``q`` or the one chosen."""
    async with scripted() as (nc, peer):
        service = adder(nc)
        group = service.group("math", queue="workers")
        service.endpoint("plain")(reverse)
        service.endpoint("named", subject="x.*")(reverse)
        service.endpoint("own", queue="mine")(reverse)
        service.endpoint("none", queue=None)(reverse)
        group.endpoint("sum")(reverse)
        group.endpoint("all", subject="numbers.>", queue="mine")(reverse)
        group.endpoint("each", queue=None)(reverse)
        group.group("inner").endpoint("sum")(reverse)
        service.group("lonely", queue=None).endpoint("a")(reverse)
        service.group("").endpoint("b")(reverse)
        async with service:
            await nc.flush()
            found = {(one[1], one[2] if len(one) == 4 else None) for one in commands(peer, b"SUB")}
            discovery = {
                (".".join(("$SRV", verb, *whose)), None)
                for verb in ("PING", "INFO", "STATS")
                for whose in ((), ("adder",), ("adder", service.id))
            }
            assert found == discovery | {
                ("plain", "q"),
                ("x.*", "q"),
                ("own", "mine"),
                ("none", None),
                ("math.sum", "workers"),
                ("math.numbers.>", "mine"),
                ("math.each", None),
                ("math.inner.sum", "workers"),
                ("lonely.a", None),
                ("b", "q"),
            }
            sids = {one[-1] for one in commands(peer, b"SUB")}
            assert len(sids) == 19
            # More can be added once it runs.
            await group.add_endpoint("late", reverse)
            await nc.flush()
            (*_, late) = commands(peer, b"SUB")
            assert late[:3] == ["SUB", "math.late", "workers"]
            assert commands(peer, b"UNSUB") == []
        await nc.flush()
        assert {one[1] for one in commands(peer, b"UNSUB")} == sids | {late[-1]}


async def test_adr_32_the_queue_group_of_a_service() -> None:
    for queue, expected in (("mine", ["mine"]), (None, [])):
        async with scripted() as (nc, peer), adder(nc, queue=queue) as service:
            await service.add_endpoint("a", reverse)
            await service.group("g").add_endpoint("b", reverse)
            await nc.flush()
            subs = [one for one in commands(peer, b"SUB") if not one[1].startswith("$SRV")]
            assert [one[1:-1] for one in subs] == [["a", *expected], ["g.b", *expected]]


# --- discovery -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whose", "suffix"), [((), ""), (("adder",), ".adder"), (("adder", "X1"), ".adder.X1")]
)
@pytest.mark.parametrize("prefix", ["$SRV", "$SRV2", "My.Prefix"])
async def test_adr_32_requests_of_clients(
    nats_server: NatsServer, whose: tuple[str, ...], suffix: str, prefix: str
) -> None:
    """Prefix, name and ID are sent in the case that they are given in."""
    identity = {"name": "adder", "id": "X1", "version": "1.0.0", "metadata": {}}
    more: dict[str, dict[str, Any]] = {
        "INFO": {"description": "", "endpoints": []},
        "STATS": {"endpoints": [], "started": "2024-09-24T11:02:55.5Z"},
    }
    asked: list[tuple[str, bytes]] = []

    async def respond() -> None:
        async for msg in requests:
            asked.append((msg.subject, msg.data))
            verb = msg.subject.removeprefix(f"{prefix}.").split(".")[0]
            response: dict[str, Any] = {
                "type": f"io.nats.micro.v1.{verb.lower()}_response",
                **identity,
            }
            response |= more.get(verb, {})
            await msg.respond(json.dumps(response))

    with trio.fail_after(HANG_TIMEOUT):
        async with (
            open_nats(nats_server.url) as nc,
            nc.subscribe(f"{prefix}.>") as requests,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(respond)
            services = nc.services(prefix=prefix, stall=0.01)
            for call in (services.ping, services.info, services.stats):
                (found,) = await call(*whose)
                assert (found.name, found.id) == ("adder", "X1")
            nursery.cancel_scope.cancel()
    assert asked == [(f"{prefix}.{verb}{suffix}", b"") for verb in ("PING", "INFO", "STATS")]


async def test_adr_32_fields_that_are_not_given(nats_server: NatsServer) -> None:
    """All but ``data`` are there nonetheless, and of the type that they have."""
    async with running(nats_server) as (service, client):
        identity = {"name": "adder", "id": service.id, "version": "1.2.3", "metadata": {}}
        endpoint = {"name": "reverse", "subject": "reverse", "queue_group": "q"}
        assert await ask(client, "PING") == {"type": "io.nats.micro.v1.ping_response", **identity}
        assert await ask(client, "INFO") == {
            "type": "io.nats.micro.v1.info_response",
            **identity,
            "description": "",
            "endpoints": [{**endpoint, "metadata": {}}],
        }
        stats = await ask(client, "STATS")
        assert stats.pop("type") == "io.nats.micro.v1.stats_response"
        assert datetime.fromisoformat(stats.pop("started")).tzinfo == UTC
        assert {key: value for key, value in stats.items() if key != "endpoints"} == identity
        for key, value in endpoint.items():
            assert stats["endpoints"][0][key] == value


async def test_adr_32_statistics(nats_server: NatsServer) -> None:
    """Counts and nanoseconds are whole numbers; the average is the total by the requests."""

    async def fail(request: ServiceRequest) -> None:
        raise ServiceError(400, "bad")

    def data(endpoint: Endpoint) -> dict[str, Any]:
        return {"of": endpoint.name}

    async with running(nats_server, stats_handler=data) as (service, client):
        await service.add_endpoint("fail", fail)
        await service.nc.flush()
        for subject in ("reverse", "fail", "fail", "fail"):
            await client.request(subject)
        raw = (await client.request(f"$SRV.STATS.adder.{service.id}")).data
        numbers: list[str] = []
        stats = json.loads(raw, parse_float=numbers.append)
        assert numbers == []
        good, bad = stats["endpoints"]
        assert (good["num_requests"], good["num_errors"], good["last_error"]) == (1, 0, "")
        assert (bad["num_requests"], bad["num_errors"]) == (3, 3)
        assert bad["last_error"] == "400:bad"
        assert bad["processing_time"] > 3
        assert bad["average_processing_time"] == bad["processing_time"] // 3
        assert (good["data"], bad["data"]) == ({"of": "reverse"}, {"of": "fail"})
        service.reset()
        for one in (await ask(client, "STATS"))["endpoints"]:
            counts = ("num_requests", "num_errors", "processing_time", "average_processing_time")
            assert {one[key] for key in counts} == {0}


async def test_adr_32_metadata_cannot_be_changed(nats_server: NatsServer) -> None:
    of_service, of_endpoint = {"a": "1"}, {"b": "2"}
    async with running(nats_server, metadata=of_service) as (service, client):
        endpoint = await service.add_endpoint("x", reverse, metadata=of_endpoint)
        of_service["a"] = of_endpoint["b"] = "changed"
        found: Any
        for found in (service.metadata, endpoint.metadata):
            with pytest.raises(TypeError):
                found["a"] = "changed"
        info = await ask(client, "INFO")
        assert info["metadata"] == {"a": "1"}
        assert info["endpoints"][1]["metadata"] == {"b": "2"}


# --- errors --------------------------------------------------------------------------------------


async def test_adr_32_headers_of_errors(nats_server: NatsServer) -> None:
    async def raises(request: ServiceRequest) -> None:
        raise ServiceError(404, "no such user", b"{}")

    async def responds(request: ServiceRequest) -> None:
        await request.respond_error(404, "no such user", b"{}", headers={"More": "x"})

    async with running(nats_server) as (service, client):
        for handler, more in ((raises, {}), (responds, {"More": "x"})):
            endpoint = await service.add_endpoint("fail", handler)
            await service.nc.flush()
            reply = await client.request("fail")
            assert dict(reply.headers) == {
                "Nats-Service-Error": "no such user",
                "Nats-Service-Error-Code": "404",
                **more,
            }
            with pytest.raises(ServiceError) as caught:
                check_reply(reply)
            error = caught.value
            assert (error.code, error.description, error.data) == (404, "no such user", b"{}")
            await endpoint.aclose()


@pytest.mark.parametrize(
    ("headers", "code", "description"),
    [
        ({"Nats-Service-Error": "no", "Nats-Service-Error-Code": "500"}, 500, "no"),
        ({"Nats-Service-Error": "no"}, 0, "no"),
        ({"Nats-Service-Error-Code": "500"}, 500, ""),
    ],
    ids=str,
)
async def test_adr_32_errors_of_other_services(
    nats_server: NatsServer, headers: dict[str, str], code: int, description: str
) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            open_nats(nats_server.url) as nc,
            nc.subscribe("theirs") as requests,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def respond() -> None:
                await (await requests.receive()).respond(b"data", headers=headers)

            reply = await nc.request("theirs")
            with pytest.raises(ServiceError) as caught:
                check_reply(reply)
    error = caught.value
    assert (error.code, error.description, error.data) == (code, description, b"data")


# --- names and versions --------------------------------------------------------------------------

# The examples of semver.org.
VERSIONS = """
0.0.4 1.2.3 10.20.30 1.1.2-prerelease+meta 1.1.2+meta 1.1.2+meta-valid 1.0.0-alpha 1.0.0-beta
1.0.0-alpha.beta 1.0.0-alpha.beta.1 1.0.0-alpha.1 1.0.0-alpha0.valid 1.0.0-alpha.0valid
1.0.0-rc.1+build.1 2.0.0-rc.1+build.123 1.2.3-beta 10.2.3-DEV-SNAPSHOT 1.2.3-SNAPSHOT-123
2.0.0+build.1848 2.0.1-alpha.1227 1.0.0-alpha+beta 1.2.3----RC-SNAPSHOT.12.9.1--.12+788
1.2.3----R-S.12.9.1--.12+meta 1.0.0+0.build.1-rc.10000aaa-kk-0.1 1.0.0-0A.is.legal
999999999999999999.999999999999999999.99999999999999999
"""
NO_VERSIONS = """
1 1.2 1.2.3-0123 1.2.3-0123.0123 1.1.2+.123 +invalid -invalid -invalid+invalid alpha alpha.beta
alpha.beta.1 alpha+beta alpha_beta alpha. alpha.. beta 1.0.0-alpha_beta -alpha. 1.0.0-alpha..
1.0.0-alpha..1 01.1.1 1.01.1 1.1.01 1.2.3.DEV 1.2-SNAPSHOT 1.2.31.2.3----RC-SNAPSHOT.12.09.1
-1.0.3-gamma+b7718 +justmeta 9.8.7+meta+meta 9.8.7-whatever+meta+meta v1.2.3
"""


async def test_adr_32_versions() -> None:
    async with scripted() as (nc, _):
        for version in VERSIONS.split():
            assert adder(nc, version=version).version == version
        for version in (*NO_VERSIONS.split(), "", "1.2.3 ", " 1.2.3", "1.2.3\n"):
            with pytest.raises(ConfigurationError):
                adder(nc, version=version)


async def test_adr_32_names() -> None:
    async with scripted() as (nc, _):
        for name in ("A-Z_a-z_0-9", "a", "_", "-"):
            assert nc.add_service(name, version="1.0.0").name == name
        for name in ("", "a.b", "a b", "a/b", "*", ">", "$a", "é", "a\n"):
            with pytest.raises(ConfigurationError):
                nc.add_service(name, version="1.0.0")
        service = adder(nc)
        with pytest.raises(ConfigurationError, match="must not contain '>'"):
            service.group("a.>")
        for group in ("", "a", "a.b", "a.*"):
            assert service.group(group).prefix == group
