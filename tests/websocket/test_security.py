"""TLS under WebSocket: the material, names and floors of tls://, and nothing said in plaintext."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.reliability.helpers import until
from tests.support.certs import Certificate, server_context
from tests.support.peer import Peer, ScriptedServer, is_only_tls_records
from tests.support.sockets import from_afar
from tests.websocket.helpers import (
    CERTS,
    HANG_TIMEOUT,
    QUICK,
    failure,
    lets_in,
    server_tls,
    trusting,
)
from trio_nats import (
    ClientCertificateError,
    ConnectError,
    PlaintextAuthError,
    TLSCertificateError,
    TLSConfigurationError,
    TLSHandshakeError,
    TLSMode,
    TLSOptions,
    WebSocketError,
    WebSocketOptions,
    open_nats,
)
from trio_nats.events import ReconnectFailed
from trio_nats.testing import NatsServer, ServerTLS, ServerWebSocket


def encrypted(certificate: Certificate | None = None, **options: object) -> NatsServer:
    certificate = certificate or CERTS.server
    tls = ServerTLS(certificate.cert_file, certificate.key_file, **options)  # type: ignore[arg-type]
    return NatsServer(websocket=ServerWebSocket(tls=tls))


async def test_what_is_known_about_the_encryption() -> None:
    async with encrypted() as server:
        url = server.ws_url.replace("127.0.0.1", "localhost")
        async with open_nats(url, tls=trusting(url)) as nc:
            assert nc.tls_info is not None
            assert nc.tls_info.version == "TLSv1.3"
            assert nc.tls_info.verified_name == "localhost"
            assert nc.tls_info.info_inside_tls
            assert nc.tls_info.peer_chain[0].subject_alt_names
    async with NatsServer(websocket=ServerWebSocket()) as server:
        async with open_nats(server.ws_url) as nc:
            assert nc.tls_info is None


@pytest.mark.parametrize("mode", [TLSMode.AUTO, TLSMode.PREFER, TLSMode.REQUIRE, TLSMode.IMPLICIT])
async def test_every_mode_but_one_is_the_same_with_wss(mode: TLSMode) -> None:
    async with encrypted() as server:
        async with open_nats(server.ws_url, tls=TLSOptions(mode=mode, ca_file=CERTS.ca_file)) as nc:
            assert nc.tls_info is not None


async def test_server_certificates_that_are_not_acceptable() -> None:
    async with encrypted() as server:
        attempt = await failure(server.ws_url, tls=TLSOptions(ca_file=CERTS.other_ca_file))
        assert attempt.phase == "tls"
        assert isinstance(attempt.error, TLSCertificateError)
        assert "pass the issuer's certificate as ca_file" in str(attempt.error)
        options = TLSOptions(insecure_skip_verify=True)
        async with open_nats(server.ws_url, tls=options) as nc:
            assert nc.tls_info is not None
    async with encrypted(CERTS.server_dns_only) as server:
        attempt = await failure(server.ws_url)
        assert isinstance(attempt.error, TLSCertificateError)
        assert "set server_hostname" in str(attempt.error)
        options = TLSOptions(ca_file=CERTS.ca_file, server_hostname="localhost")
        async with open_nats(server.ws_url, tls=options) as nc:
            assert nc.tls_info is not None
            assert nc.tls_info.verified_name == "localhost"


async def test_client_certificates() -> None:
    ours = TLSOptions(
        ca_file=CERTS.ca_file, cert_file=CERTS.client.cert_file, key_file=CERTS.client.key_file
    )
    async with encrypted(ca_file=CERTS.ca_file, verify=True) as server:
        async with open_nats(server.ws_url, tls=ours) as nc:
            await nc.flush()
        attempt = await failure(server.ws_url)
        assert isinstance(attempt.error, ClientCertificateError)
        assert "pass cert_file and key_file" in str(attempt.error)
        wrong = CERTS.client_other_ca
        attempt = await failure(
            server.ws_url,
            tls=TLSOptions(
                ca_file=CERTS.ca_file, cert_file=wrong.cert_file, key_file=wrong.key_file
            ),
        )
        assert isinstance(attempt.error, ClientCertificateError)
        assert "refused our client certificate" in str(attempt.error)


async def test_material_that_cannot_be_read_is_noticed_before_dialling() -> None:
    attempt = await failure("wss://127.0.0.1:1", tls=TLSOptions(ca_file="/nowhere/ca.pem"))
    assert attempt.phase == "tls"
    assert isinstance(attempt.error, TLSConfigurationError)


# --- floors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("wss://h", TLSOptions(mode=TLSMode.DISABLE), "a wss:// URL asks for TLS"),
        ("ws://h", TLSOptions(mode=TLSMode.REQUIRE), "TLS mode REQUIRE asks for TLS"),
        ("ws://h", TLSOptions(mode=TLSMode.IMPLICIT), "TLS mode IMPLICIT asks for TLS"),
        ("ws://h", TLSOptions(ca_file="ca.pem"), "certificates or other TLS options ask for TLS"),
    ],
)
def test_contradictions_are_refused_at_the_call(url: str, options: TLSOptions, words: str) -> None:
    with pytest.raises(TLSConfigurationError) as caught:
        open_nats(url, tls=options)
    assert words in str(caught.value)


async def test_a_connection_that_was_encrypted_stays_so() -> None:
    """Another seed without TLS is not used, although it would do for a new connection."""
    async with (
        encrypted() as server,
        NatsServer(websocket=ServerWebSocket()) as plain,
        open_nats(
            [server.ws_url, plain.ws_url],
            randomize=False,
            tls=TLSOptions(mode=TLSMode.PREFER, ca_file=CERTS.ca_file),
            reconnect=QUICK,
        ) as nc,
        nc.events() as events,
    ):
        await nc.flush()
        await server.kill()
        while True:
            failed = await until(events, ReconnectFailed)
            if failed.server == plain.ws_url:
                break
        assert "the connection was encrypted before and must stay encrypted" in str(failed.error)
        await server.start()
        await nc.wait_for_state("open")
        assert nc.tls_info is not None


async def test_nothing_is_said_in_plaintext_on_the_way_to_wss() -> None:
    """Whatever the peer does, and however the handshake ends."""

    async def refuses(peer: Peer) -> None:
        await peer.refuse_tls(b"\x15\x03\x03\x00\x02\x02\x28HTTP/1.1 101 Switching\r\n\r\n")
        await peer.stall()

    async def in_plaintext(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.stall()

    async def stranger(peer: Peer) -> None:
        await peer.start_tls(server_context(CERTS.server_other_ca))

    for script in (refuses, in_plaintext, stranger):
        async with ScriptedServer(script) as server:
            attempt = await failure(
                f"wss://127.0.0.1:{server.port}",
                websocket=WebSocketOptions(headers={"Authorization": "Bearer secret"}),
            )
            assert isinstance(attempt.error, TLSHandshakeError)
            assert attempt.phase == "tls"
            peer = await server.peer(0)
            assert is_only_tls_records(peer.raw_bytes)


async def test_a_listener_without_tls_and_one_with() -> None:
    async with NatsServer(websocket=ServerWebSocket()) as server:
        attempt = await failure(server.ws_url.replace("ws:", "wss:"))
        assert attempt.phase == "tls"
        assert isinstance(attempt.error, TLSHandshakeError)
        assert "plaintext HTTP, so its listener has no TLS" in str(attempt.error)
    async with NatsServer(websocket=ServerWebSocket(tls=server_tls())) as server:
        attempt = await failure(server.ws_url.replace("wss:", "ws:"))
        assert attempt.phase == "websocket"
        assert isinstance(attempt.error, WebSocketError)
        assert "use wss://" in str(attempt.error)


async def test_a_peer_without_tls_and_http() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"SSH-2.0-x\r\n")
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"wss://127.0.0.1:{server.port}")
    assert "the peer answered with something that is not TLS" in str(attempt.error)


# --- secrets in plaintext -------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["url", "headers"])
async def test_secrets_over_ws(where: str, caplog: pytest.LogCaptureFixture) -> None:
    from_afar()
    userinfo = "joe:secret@" if where == "url" else ""
    headers = {} if where == "url" else {"Authorization": "Bearer secret"}
    options = WebSocketOptions(headers=headers)
    async with ScriptedServer(lets_in()) as server:
        url = f"ws://{userinfo}127.0.0.1:{server.port}"
        attempt = await failure(url, websocket=options, plaintext_auth="refuse")
        assert isinstance(attempt.error, PlaintextAuthError)
        assert "secret" not in str(attempt.error)
        peer = await server.peer(0)
        assert b"secret" not in peer.raw_bytes
        if where == "headers":
            assert attempt.phase == "websocket"
            assert peer.raw_bytes == b""
            assert "the headers in WebSocketOptions for ws://" in str(attempt.error)
        with caplog.at_level(logging.WARNING, "trio_nats"):
            async with open_nats(url, websocket=options):
                pass
            assert caplog.text.count("would be sent over the network in plaintext") == 1
        caplog.clear()
        with caplog.at_level(logging.WARNING, "trio_nats"):
            async with open_nats(url, websocket=options, plaintext_auth="allow"):
                pass
        assert caplog.text == ""


async def test_headers_that_are_no_secret_and_headers_inside_tls() -> None:
    from_afar()
    harmless = WebSocketOptions(headers={"Origin": "http://a", "User-Agent": "b"})
    async with NatsServer(websocket=ServerWebSocket()) as server:
        async with open_nats(server.ws_url, websocket=harmless, plaintext_auth="refuse"):
            pass
    secret = WebSocketOptions(headers={"Cookie": "a=b"})
    async with encrypted() as server:
        async with open_nats(
            server.ws_url, tls=trusting("wss:"), websocket=secret, plaintext_auth="refuse"
        ):
            pass


async def test_secrets_may_be_sent_over_loopback() -> None:
    async with NatsServer(websocket=ServerWebSocket()) as server:
        options = WebSocketOptions(headers={"Authorization": "Bearer secret"})
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(server.ws_url, websocket=options, plaintext_auth="refuse"):
                pass


async def test_failures_of_all_servers_are_reported() -> None:
    async with NatsServer(websocket=ServerWebSocket()) as server:
        urls = [f"ws://127.0.0.1:{server.port}", server.ws_url.replace("ws:", "wss:")]
        with pytest.raises(ConnectError) as caught:
            # Without a mode in words one wss:// URL speaks for all.
            async with open_nats(urls, randomize=False, tls=TLSOptions(mode=TLSMode.PREFER)):
                pass
    assert [attempt.phase for attempt in caught.value.attempts] == ["websocket", "tls"]
    assert len(list(caught.value.errors(WebSocketError))) == 1
