"""``open_nats(context=...)`` on real servers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import certificates
from tests.support.jwts import Key, Operator
from trio_nats import (
    AuthorizationError,
    ConfigurationError,
    ConnectError,
    Context,
    TLSCertificateError,
    TLSOptions,
    Token,
    open_nats,
)
from trio_nats.jetstream import JetStreamNotEnabledError
from trio_nats.testing import NatsServer, ServerTLS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:1")
    made = tmp_path / "nats" / "context"
    made.mkdir(parents=True)
    return made


def write(folder: Path, **content: Any) -> None:
    (folder / "one.json").write_text(json.dumps(content), "utf-8")


async def test_servers_and_inbox_prefix(nats_server: NatsServer, folder: Path) -> None:
    write(folder, url=nats_server.url, inbox_prefix="mine")
    async with open_nats(context="one") as nc:
        assert nc.connected_url == nats_server.url
        assert nc.new_inbox().startswith("mine.")
    async with open_nats(context="one", inbox_prefix="other") as nc:
        assert nc.new_inbox().startswith("other.")


@pytest.mark.nats_server(user="u", password="p")
async def test_user_and_password(nats_server: NatsServer, folder: Path) -> None:
    write(folder, url=nats_server.url, user="u", password="p")
    async with open_nats(context="one") as nc:
        await nc.flush()


@pytest.mark.nats_server(token="t")
async def test_explicit_arguments_override_the_context(
    nats_server: NatsServer, folder: Path
) -> None:
    write(folder, url="nats://127.0.0.1:1", token="wrong")
    with pytest.raises(ConnectError) as caught:
        async with open_nats(nats_server.url, context="one"):
            pass
    assert list(caught.value.errors(AuthorizationError))
    async with open_nats(nats_server.url, auth=Token("t"), context="one") as nc:
        await nc.flush()


async def test_credentials_file(tmp_path: Path) -> None:
    operator = Operator()
    async with NatsServer(config=operator.config) as server:
        file = tmp_path / "user.creds"
        file.write_text(operator.user("alice").creds)
        async with open_nats(context=Context(url=server.url, creds=str(file))) as nc:
            await nc.flush()


async def test_nkey(tmp_path: Path) -> None:
    key = Key()
    config = {"authorization": {"users": [{"nkey": key.public}]}}
    async with NatsServer(config=config) as server:
        file = tmp_path / "user.nk"
        file.write_text(key.seed)
        async with open_nats(context=Context(url=server.url, nkey=str(file))) as nc:
            await nc.flush()


@pytest.mark.nats_server(user="u", password="p")
async def test_a_token_beside_user_and_password(nats_server: NatsServer, folder: Path) -> None:
    write(folder, url=nats_server.url, user="u", password="p", token="t")
    async with open_nats(context="one") as nc:
        await nc.flush()


@pytest.mark.parametrize(
    ("fields", "prefix"),
    [
        ({}, "$JS.API"),
        ({"jetstream_domain": "hub"}, "$JS.hub.API"),
        ({"jetstream_api_prefix": "acc.js"}, "acc.js"),
        ({"jetstream_domain": "hub", "jetstream_api_prefix": "acc.js"}, "$JS.hub.API"),
    ],
)
async def test_the_jetstream_prefix_of_a_context(
    nats_server: NatsServer, folder: Path, fields: dict[str, str], prefix: str
) -> None:
    write(folder, url=nats_server.url, **fields)
    async with open_nats(context="one") as nc:
        assert nc.jetstream().prefix == prefix
        assert nc.jetstream(timeout=1).prefix == prefix
        # What is given at the call wins, be it the other one of the two.
        assert nc.jetstream(domain="x").prefix == "$JS.x.API"
        assert nc.jetstream(prefix="y").prefix == "y"


async def test_the_event_prefix_of_a_context(nats_server: NatsServer, folder: Path) -> None:
    for given, expected in (("", "$JS.EVENT"), ("acc.events", "acc.events")):
        write(folder, url=nats_server.url, jetstream_event_prefix=given)
        async with open_nats(context="one") as nc:
            assert nc.jetstream(domain="x").event_prefix == expected
            assert nc.jetstream(event_prefix="y").event_prefix == "y"


async def test_jetstream_in_the_domain_of_a_context(folder: Path) -> None:
    async with NatsServer(jetstream=True, config={"jetstream": {"domain": "hub"}}) as server:
        write(folder, url=server.url, jetstream_domain="hub")
        async with open_nats(context="one") as nc:
            assert (await nc.jetstream().account_info()).domain == "hub"
        write(folder, url=server.url, jetstream_domain="other")
        async with open_nats(context="one") as nc:
            with pytest.raises(JetStreamNotEnabledError):
                await nc.jetstream().account_info()


async def test_tls_first() -> None:
    certs = certificates()
    tls = ServerTLS(
        cert_file=certs.server.cert_file,
        key_file=certs.server.key_file,
        ca_file=certs.ca_file,
        verify=True,
        handshake_first=True,
    )
    async with NatsServer(tls=tls) as server:
        context = Context(
            url=f"nats://localhost:{server.port}",
            ca=str(certs.ca_file),
            cert=str(certs.client.cert_file),
            key=str(certs.client.key_file),
            tls_first=True,
        )
        async with open_nats(context=context) as nc:
            assert nc.tls_info is not None
        with pytest.raises(ConnectError) as caught:
            async with open_nats(context=context, tls=TLSOptions(mode="require")):
                pass
        assert list(caught.value.errors(TLSCertificateError))


def test_a_missing_context_is_an_error_at_the_call() -> None:
    with pytest.raises(ConfigurationError, match="there is no context 'nowhere'"):
        open_nats(context="nowhere")
