"""Services of this and other clients: each finds and calls those of the others."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import nats.micro.service
import pytest

from tests.interop.helpers import Clients, RemoteError, pairs
from trio_nats import open_nats
from trio_nats.services import ServiceError, check_reply

pytestmark = pytest.mark.slow

SERVICE: dict[str, Any] = {
    "version": "1.2.3-rc.1",
    "description": "zwölf €",
    "metadata": {"owner": "me"},
}


@pytest.mark.parametrize(("server", "caller"), pairs())
def test_discovery_and_calls(clients: Clients, bucket: str, server: str, caller: str) -> None:
    serve, call = clients[server], clients[caller]
    id = serve("svc_start", bucket, **SERVICE)
    group = f"{bucket}-group"
    assert call("svc_ping", bucket) == [id]
    info = call("svc_info", bucket)
    assert info == {
        "name": bucket,
        "id": id,
        **SERVICE,
        "endpoints": [
            ["echo", f"{group}.echo", "q", {"kind": "loud"}],
            ["fail", f"{group}.fail", "other", {}],
            ["crash", f"{group}.crash", "q", {}],
        ],
    }
    for text in ("", "zwölf €"):
        reply = call("svc_call", f"{group}.echo", text)
        assert reply == {"data": text, "seen_by": server, "error": None}
    reply = call("svc_call", f"{group}.fail", "x")
    # The others send no data with an error that is raised.
    data = "short and stout" if server == "trio_nats" else ""
    assert reply == {"data": data, "seen_by": None, "error": [418, "I am a teapot"]}
    # The others send what the exception says.
    said = {"trio_nats": "ValueError", "nats_py": "ValueError('secret')", "node": "secret"}
    reply = call("svc_call", f"{group}.crash", "x")
    assert reply == {"data": "", "seen_by": None, "error": [500, said[server]]}
    assert call("svc_stats", bucket) == [
        ["echo", f"{group}.echo", "q", 2, 0],
        ["fail", f"{group}.fail", "other", 1, 1],
        ["crash", f"{group}.crash", "q", 1, 1],
    ]
    serve("svc_stop")
    if caller == "trio_nats":
        assert call("svc_ping", bucket) == []
    else:
        with pytest.raises(RemoteError, match="NoResponders"):
            call("svc_ping", bucket)


async def test_instances_of_all_clients(clients: Clients, bucket: str) -> None:
    """They share the work, and are found together."""
    running = clients.present()
    ids = {client("svc_start", bucket, **SERVICE) for client in running}
    async with open_nats(clients.url) as nc:
        services = nc.services()
        assert {one.id for one in await services.ping(bucket)} == ids
        assert {one.id for one in await services.info(bucket)} == ids
        assert {one.id for one in await services.stats(bucket)} == ids
        assert ids <= {one.id for one in await services.ping()}
        seen = set()
        while seen != {client.name for client in running}:
            reply = check_reply(await nc.request(f"{bucket}-group.echo", b"x"))
            seen.add(reply.headers["Seen-By"])
        with pytest.raises(ServiceError, match="I am a teapot") as raised:
            check_reply(await nc.request(f"{bucket}-group.fail", b"x"))
        assert raised.value.code == 418
        requests = [
            endpoint.num_requests
            for one in await services.stats(bucket)
            for endpoint in one.endpoints
            if endpoint.name == "fail"
        ]
        assert sorted(requests) == [0] * (len(running) - 1) + [1]
    for client in running:
        client("svc_stop")


async def test_responses_have_the_fields_of_other_clients(clients: Clients, bucket: str) -> None:
    """With the same JSON types. Some of the others leave out empty fields."""
    asked, running = {}, clients.present()
    async with open_nats(clients.url) as nc:
        for client in running:
            service = f"{bucket}-{client.name}"
            client("svc_start", service, **SERVICE)
            await nc.request(f"{service}-group.fail", b"x")
            for verb in ("PING", "INFO", "STATS"):
                asked[client.name, verb] = json.loads(
                    (await nc.request(f"$SRV.{verb}.{service}")).data
                )
            client("svc_stop")
    for verb in ("PING", "INFO", "STATS"):
        ours = fields(asked["trio_nats", verb])
        for name in (client.name for client in running[1:]):
            theirs = fields(asked[name, verb])
            # nats-py writes null for the data that no handler gave, and for missing metadata.
            theirs = {(path, kind) for path, kind in theirs if kind != "NoneType"}
            assert theirs <= ours, (name, verb)
        answer = asked["trio_nats", verb]
        assert answer["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
    started = {client.name: asked[client.name, "STATS"]["started"] for client in running}
    for name, text in started.items():
        assert text.endswith("Z"), name
        assert datetime.fromisoformat(text).tzinfo is not None, name
    # nats-py's own class for the answer cannot do without the data.
    with pytest.raises(KeyError, match="data"):
        nats.micro.service.ServiceStats.from_dict(asked["trio_nats", "STATS"])
    nats.micro.service.ServiceInfo.from_dict(asked["trio_nats", "INFO"])
    nats.micro.service.ServicePing.from_dict(asked["trio_nats", "PING"])


def fields(value: Any, path: str = "") -> set[tuple[str, str]]:
    """The paths of all values in a JSON document, with their types."""
    if isinstance(value, dict):
        return {one for name, inner in value.items() for one in fields(inner, f"{path}.{name}")}
    if isinstance(value, list):
        return {one for inner in value for one in fields(inner, f"{path}[]")}
    return {(path, type(value).__name__)}
