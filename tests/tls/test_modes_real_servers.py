"""The truth table of the TLS modes, each cell against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.support.certs import CertificateSet, certificates, server_context
from tests.support.proxies import PlainProxy, TLSTerminatingProxy
from trio_nats import (
    ConnectError,
    NatsError,
    NoInfoError,
    TLSHandshakeError,
    TLSMode,
    TLSNotOfferedError,
    TLSOptions,
    TLSRequiredError,
    open_nats,
)
from trio_nats.testing import NatsServer, ServerTLS

PLAIN, TLS = "plaintext", "TLS"
NOTLS, REFUSE, NOINFO, SPOKE = TLSNotOfferedError, TLSRequiredError, NoInfoError, TLSHandshakeError
Outcome = str | type[NatsError]
MODES = [TLSMode.PREFER, TLSMode.REQUIRE, TLSMode.IMPLICIT, TLSMode.DISABLE]

TABLE: dict[str, list[Outcome]] = {
    "none": [PLAIN, NOTLS, SPOKE, PLAIN],
    "tls": [TLS, TLS, SPOKE, REFUSE],
    "allow_non_tls": [TLS, TLS, SPOKE, PLAIN],
    "verify": [TLS, TLS, SPOKE, REFUSE],
    "first": [NOINFO, TLS, TLS, NOINFO],
    "first: auto": [TLS, TLS, TLS, REFUSE],
    "first: 300ms": [TLS, TLS, TLS, REFUSE],
    "TLS proxy": [NOINFO, TLS, TLS, NOINFO],
}
CELLS = [
    pytest.param(kind, mode, outcome, id=f"{kind}-{mode}")
    for kind, row in TABLE.items()
    for mode, outcome in zip(MODES, row, strict=True)
]


def server_tls(certs: CertificateSet, kind: str) -> ServerTLS | None:
    cert, key = certs.server.cert_file, certs.server.key_file
    if kind == "verify":
        return ServerTLS(cert, key, ca_file=certs.ca_file, verify=True)
    if kind.startswith("first"):
        return ServerTLS(cert, key, handshake_first=kind.partition(": ")[2] or True)
    if kind in ("none", "TLS proxy"):
        return None
    return ServerTLS(cert, key, allow_non_tls=kind == "allow_non_tls")


@asynccontextmanager
async def serving(kind: str) -> AsyncIterator[int]:
    certs = certificates()
    async with NatsServer(tls=server_tls(certs, kind)) as server:
        if kind != "TLS proxy":
            yield server.port
            return
        async with TLSTerminatingProxy(server.port, server_context(certs.server)) as proxy:
            yield proxy.port


def tls_options(mode: TLSMode, kind: str) -> TLSOptions:
    certs = certificates()
    if mode is TLSMode.DISABLE:
        return TLSOptions(mode=mode)
    if kind == "verify":
        client = certs.client
        return TLSOptions(
            mode=mode,
            ca_file=certs.ca_file,
            cert_file=client.cert_file,
            key_file=client.key_file,
        )
    return TLSOptions(mode=mode, ca_file=certs.ca_file)


async def outcome_of(url: str, tls: TLSOptions, timeout: float = 5) -> str | Exception:
    """Connect, and use the connection, for a half-open one would do to connect."""
    try:
        async with open_nats(url, tls=tls, connect_timeout=timeout) as nc:
            async with nc.subscribe("here") as sub:
                await nc.publish("here", b"x" * 100_000)
                assert len((await sub.receive()).data) == 100_000
            return PLAIN if nc.tls_info is None else TLS
    except ConnectError as error:
        return error.attempts[0].error


@pytest.mark.parametrize(("kind", "mode", "expected"), CELLS)
async def test_mode_and_server(kind: str, mode: TLSMode, expected: Outcome) -> None:
    async with serving(kind) as port:
        # The real server closes silent connections after two seconds; no need to wait for that.
        timeout = 1.5 if expected is NOINFO else 5
        url = f"nats://localhost:{port}"
        seen = await outcome_of(url, tls_options(mode, kind), timeout)
        while kind.startswith("first: ") and mode is TLSMode.IMPLICIT and isinstance(seen, SPOKE):
            # On a busy machine the handshake may begin after the server's patience has ended.
            seen = await outcome_of(url, tls_options(mode, kind), timeout)
    if isinstance(expected, str):
        assert seen == expected
    else:
        assert isinstance(seen, expected), repr(seen)


@pytest.mark.parametrize("kind", ["tls", "allow_non_tls", "first", "first: auto", "TLS proxy"])
async def test_a_tls_url_is_enough(kind: str) -> None:
    """AUTO with ``tls://`` works with every server that can do TLS."""
    options = TLSOptions(ca_file=certificates().ca_file)
    async with serving(kind) as port:
        assert await outcome_of(f"tls://localhost:{port}", options) == TLS


@dataclass
class Broken:
    """A server that says ``tls_available`` and cannot keep it, behind proxies."""

    plain_port: int
    tls_port: int


@asynccontextmanager
async def tls_that_cannot_finish() -> AsyncIterator[Broken]:
    certs = certificates()
    config = "tls {}\nallow_non_tls: true"
    async with (
        NatsServer(config=config) as server,
        PlainProxy(server.port) as plain,
        TLSTerminatingProxy(server.port, server_context(certs.server)) as terminating,
    ):
        yield Broken(plain.port, terminating.port)


@pytest.mark.parametrize("mode", [TLSMode.AUTO, TLSMode.PREFER, TLSMode.REQUIRE])
async def test_tls_available_that_cannot_be_had_names_the_way_out(mode: TLSMode) -> None:
    async with tls_that_cannot_finish() as ports:
        seen = await outcome_of(f"nats://localhost:{ports.plain_port}", TLSOptions(mode=mode))
    assert isinstance(seen, TLSHandshakeError)
    assert "use TLS mode DISABLE" in str(seen)
    assert "without requiring it" in str(seen)


async def test_both_sides_of_such_a_proxy_can_be_used() -> None:
    ca_file = certificates().ca_file
    async with tls_that_cannot_finish() as ports:
        plain = f"nats://localhost:{ports.plain_port}"
        assert await outcome_of(plain, TLSOptions(mode=TLSMode.DISABLE)) == PLAIN
        for mode in (TLSMode.IMPLICIT, TLSMode.REQUIRE):
            tls = TLSOptions(mode=mode, ca_file=ca_file)
            assert await outcome_of(f"nats://localhost:{ports.tls_port}", tls) == TLS
