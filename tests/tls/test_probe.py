"""Openings that end before CONNECT: what they find out, and that they say nothing about us."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.certs import certificates, server_context
from tests.support.checkpoints import cancel_at_each_checkpoint
from tests.support.leaks import no_leaks
from tests.support.peer import ScriptedServer
from tests.support.scripts import SERVER_KINDS, tls_first, tls_required
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    ClientCertificateError,
    NoInfoError,
    TLSCertificateError,
    TLSMode,
    TLSOptions,
    UserPassword,
)
from trio_nats._transport.connector import ConnectorSettings
from trio_nats._transport.probe import HandshakeObserver, ProbeResult, certificates_in, probe
from trio_nats.options import ProtocolLimits, WebSocketOptions
from trio_nats.servers import parse_server
from trio_nats.testing import NatsServer, ServerTLS

CERTS = certificates()
TRUST = TLSOptions(ca_file=CERTS.ca_file)
PASSWORD = "a-password-that-is-found"


def settings(tls: TLSOptions, seconds: float = 5) -> ConnectorSettings:
    return ConnectorSettings(
        tls=tls,
        auth=UserPassword("joe", PASSWORD),
        name="me",
        echo=True,
        connect_timeout=seconds,
        plaintext_auth="allow",
        limits=ProtocolLimits(),
        version="0",
        websocket=WebSocketOptions(),
    )


async def probed(port: int, tls: TLSOptions = TRUST, **options: Any) -> ProbeResult:
    server = parse_server(f"nats://joe:{PASSWORD}@localhost:{port}")
    return await probe(server, settings(tls, options.pop("seconds", 5)), **options)


@pytest.mark.parametrize("mode", [TLSMode.PREFER, TLSMode.REQUIRE, TLSMode.DISABLE])
@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_a_probe_sends_no_credentials(kind: str, mode: TLSMode) -> None:
    script = SERVER_KINDS[kind](server_context(CERTS.server))
    tls = TLSOptions(mode=mode, ca_file=None if mode is TLSMode.DISABLE else CERTS.ca_file)
    async with ScriptedServer(script) as server:
        await probed(server.port, tls, seconds=2)
        peer = await server.peer()
        with trio.fail_after(HANG_TIMEOUT):
            await peer.finished.wait()
    for word in (b"CONNECT", b"joe", PASSWORD.encode()):
        assert word not in peer.raw_bytes


async def test_no_prompt_for_credentials() -> None:
    def never(server: object) -> None:
        raise AssertionError("asked for credentials that are not to be sent")

    async with NatsServer() as server:
        asking = replace(settings(TLSOptions()), auth=never)
        seen = await probe(parse_server(f"nats://localhost:{server.port}"), asking)
    assert seen.error is None
    assert seen.info is not None


def verifying() -> NatsServer:
    server = CERTS.server_chained
    return NatsServer(
        tls=ServerTLS(server.cert_file, server.key_file, ca_file=CERTS.ca_file, verify=True)
    )


async def test_a_probe_reports_whether_the_client_certificate_is_accepted() -> None:
    """TLS 1.3 tells only after the handshake, and only those who listen."""
    good, bad = CERTS.client, CERTS.client_other_ca
    async with verifying() as server:
        taken = await probed(
            server.port,
            TLSOptions(ca_file=CERTS.ca_file, cert_file=good.cert_file, key_file=good.key_file),
        )
        refused = await probed(
            server.port,
            TLSOptions(ca_file=CERTS.ca_file, cert_file=bad.cert_file, key_file=bad.key_file),
        )
        missing = await probed(server.port)
    assert taken.error is None
    assert taken.asked is True
    assert taken.tls is not None
    for one in (refused, missing):
        assert isinstance(one.error, ClientCertificateError)
        assert one.asked is True


async def test_a_rejected_certificate_is_still_reported() -> None:
    async with verifying() as server:
        seen = await probed(server.port, TLSOptions(mode=TLSMode.REQUIRE))
    assert isinstance(seen.error, TLSCertificateError)
    assert seen.tls is None
    assert len(seen.chain) == 2
    assert "localhost" in seen.chain[0].subject_alt_names
    assert seen.chain[1].subject == seen.chain[0].issuer


async def test_only_the_handshake() -> None:
    """A WebSocket server says nothing inside TLS before it is asked to."""

    async with ScriptedServer(_tls_and_silence) as server:
        whole = await probed(server.port, seconds=2)
        only = await probed(server.port, only_tls=True)
    assert isinstance(whole.error, NoInfoError)
    assert whole.tls is not None
    assert only.error is None
    assert only.tls is not None


async def _tls_and_silence(peer: Any) -> None:
    await peer.start_tls(server_context(CERTS.server))
    await peer.stall()


@pytest.mark.slow
async def test_cancelled_it_leaves_nothing() -> None:
    context = server_context(CERTS.server)
    async with ScriptedServer(tls_required(context)) as server:
        await probed(server.port)

        async def make() -> Any:
            return lambda: probed(server.port)

        async def check() -> None:
            for peer in server.peers:
                await peer.finished.wait()

        async with no_leaks():
            visited = await cancel_at_each_checkpoint(make, check)
    assert visited > 3


async def test_info_inside_tls() -> None:
    async with ScriptedServer(tls_first(server_context(CERTS.server))) as server:
        seen = await probed(server.port)
    assert seen.info is not None
    assert seen.tls is not None
    assert seen.tls.info_inside_tls


async def test_nothing_is_logged_about_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with NatsServer() as server:
        await probed(server.port, TLSOptions())
    assert not caplog.records


# --- the observer ---------------------------------------------------------------------------------


def test_an_ssl_module_without_chain_access() -> None:
    witness = HandshakeObserver()
    witness.watch(SimpleNamespace())  # type: ignore[arg-type]  # a context without the hook
    assert not witness.watching


@pytest.mark.slow
@given(st.lists(st.binary(max_size=40), max_size=4), st.booleans(), st.data())
def test_certificate_messages(chain: list[bytes], is_tls13: bool, data: st.DataObject) -> None:
    tail = b"\0\0" if is_tls13 else b""
    entries = b"".join(len(der).to_bytes(3) + der + tail for der in chain)
    body = (b"\0" if is_tls13 else b"") + len(entries).to_bytes(3) + entries
    message = b"\x0b" + len(body).to_bytes(3) + body
    assert list(certificates_in(message)) == chain
    # OpenSSL passes on whole messages only, but nothing may come of it if it did not.
    list(certificates_in(message[: data.draw(st.integers(0, len(message)))]))
