"""Peers that mean harm, or die: nothing is believed, nothing leaks, nothing waits for ever."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trio

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer, Script, ScriptedServer, info_line
from tests.support.scripts import (
    GARBAGE,
    HTTP_ANSWER,
    close_after_info,
    close_after_tls,
    close_at_once,
    cut_in_handshake,
    endless_info,
    info_then,
    inject_before_tls,
    no_tls,
    refuse_then_info,
    says,
    stall_after_info,
    stall_at_once,
    tls_required,
    untrusted_then_info,
)
from tests.support.sockets import from_afar
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    JWT,
    AuthLike,
    ClientCertificateError,
    ConnectAttempt,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    NatsError,
    NKey,
    NoInfoError,
    PlaintextAuthError,
    ProtocolError,
    ReconnectPolicy,
    ServerClosedError,
    TLSCertificateError,
    TLSError,
    TLSHandshakeError,
    TLSInjectionError,
    TLSMode,
    TLSOptions,
    Token,
    UserPassword,
    open_nats,
)
from trio_nats.options import PlaintextAuth

CERTS = certificates()
SERVER = server_context(CERTS.server)
SECRET = UserPassword("joe", "verysecret")
PROMISING = [TLSMode.AUTO, TLSMode.REQUIRE, TLSMode.IMPLICIT]


def tls(mode: TLSMode = TLSMode.AUTO) -> TLSOptions:
    ca_file = None if mode is TLSMode.DISABLE else CERTS.ca_file
    return TLSOptions(mode=mode, ca_file=ca_file)


async def failure(
    server: ScriptedServer, options: TLSOptions, timeout: float = 5, auth: AuthLike = SECRET
) -> ConnectAttempt:
    """The attempt that has to fail."""
    url = f"nats://localhost:{server.port}"
    with pytest.raises(ConnectError) as caught:
        async with open_nats(url, tls=options, auth=auth, connect_timeout=timeout):
            pass
    (attempt,) = caught.value.attempts
    assert caught.value.__cause__ is attempt.error
    return attempt


# --- plaintext where only TLS may be -------------------------------------------------------------


@pytest.mark.parametrize("mode", [TLSMode.AUTO, TLSMode.PREFER, TLSMode.REQUIRE])
@pytest.mark.parametrize("extra", [b"PONG\r\n", b"+OK\r\nPONG\r\n", b"-ERR 'x'\r\n", b"I", b"\x17"])
async def test_plaintext_behind_info_is_not_believed(mode: TLSMode, extra: bytes) -> None:
    """A client that keeps what came before TLS would take the PONG for the answer to its PING."""
    async with ScriptedServer(inject_before_tls(SERVER, extra)) as server:
        attempt = await failure(server, tls(mode))
        assert isinstance(attempt.error, TLSInjectionError)
        assert "between INFO and the TLS handshake" in str(attempt.error)
        assert is_only_tls_records((await server.peer()).raw_bytes)


@pytest.mark.parametrize("mode", [TLSMode.PREFER, TLSMode.REQUIRE])
async def test_bytes_injected_a_moment_later_are_an_error(mode: TLSMode) -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True)
        await peer.receive_client_hello()
        await peer.send(b"PONG\r\n")
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(server, tls(mode))
        assert isinstance(attempt.error, TLSInjectionError)
        assert is_only_tls_records((await server.peer()).raw_bytes)


async def test_a_second_info_is_an_injection_too() -> None:
    async with ScriptedServer(inject_before_tls(SERVER, info_line())) as server:
        assert isinstance((await failure(server, tls())).error, TLSInjectionError)


@pytest.mark.parametrize("mode", [*PROMISING, TLSMode.PREFER])
@pytest.mark.parametrize("info_first", [True, False])
@pytest.mark.parametrize(
    "villain",
    [
        lambda info_first: refuse_then_info(info_first=info_first),
        lambda info_first: untrusted_then_info(
            server_context(CERTS.server_other_ca), info_first=info_first
        ),
    ],
    ids=["refuses", "cannot be trusted"],
)
async def test_no_plaintext_after_a_failed_handshake(
    mode: TLSMode, info_first: bool, villain: Callable[..., Script]
) -> None:
    """The plaintext INFO that follows is bait, and would cost a client its credentials."""
    async with ScriptedServer(villain(info_first=info_first)) as server:
        patience = 2 if mode is TLSMode.PREFER and not info_first else 5
        attempt = await failure(server, tls(mode), patience)
        peer = await server.peer()
        assert isinstance(attempt.error, (TLSError, NoInfoError))
        assert is_only_tls_records(peer.raw_bytes)
        with trio.fail_after(HANG_TIMEOUT):
            await peer.finished.wait()
        assert is_only_tls_records(peer.raw_bytes)
        assert len(server.peers) == 1


@pytest.mark.parametrize("mode", [*PROMISING, TLSMode.PREFER])
async def test_connect_waits_for_the_handshake(mode: TLSMode) -> None:
    async with ScriptedServer(stall_after_info(tls_required=True)) as server:
        attempt = await failure(server, tls(mode), timeout=2)
        raw = (await server.peer()).raw_bytes
    if mode is TLSMode.IMPLICIT:
        assert isinstance(attempt.error, TLSHandshakeError)
    else:
        assert isinstance(attempt.error, ConnectTimeoutError)
        assert "TLS handshake was not completed within 2 s" in str(attempt.error)
    assert attempt.phase == "tls"
    assert is_only_tls_records(raw)
    assert b"verysecret" not in raw


# --- once encrypted, always encrypted ------------------------------------------------------------


@pytest.mark.parametrize("later", [no_tls(), no_tls(tls_available=False)])
async def test_a_connection_that_was_encrypted_stays_so(later: Script) -> None:
    """PREFER took TLS once. A server, or somebody in between, that offers none is refused then."""

    async def first(peer: Peer) -> None:
        await peer.send_info(tls_available=True)
        await peer.start_tls(SERVER)
        await peer.accept_connect()
        await peer.expect_line(b"PING")
        await peer.hang_up()

    policy = ReconnectPolicy(wait=0, max_wait=0, max_attempts=2)
    async with ScriptedServer(first, later) as server:
        url = f"nats://localhost:{server.port}"
        async with open_nats(url, tls=tls(TLSMode.PREFER), auth=SECRET, reconnect=policy) as nc:
            assert nc.tls_info is not None
            with (
                pytest.raises(ConnectionLostError, match="offers no TLS"),
                trio.fail_after(HANG_TIMEOUT),
            ):
                await nc.flush()
        assert len(server.peers) == 3
        for peer in server.peers[1:]:
            assert is_only_tls_records(peer.raw_bytes)


# --- peers that stall, die or talk nonsense ------------------------------------------------------

DEATHS: dict[str, tuple[Script, TLSMode, str, type[Exception], str]] = {
    "says nothing": (stall_at_once(), TLSMode.PREFER, "info", NoInfoError, "no INFO within"),
    "says nothing, TLS": (
        stall_at_once(),
        TLSMode.REQUIRE,
        "tls",
        ConnectTimeoutError,
        "TLS handshake was not completed",
    ),
    "closes": (close_at_once(), TLSMode.PREFER, "info", NoInfoError, "without sending INFO"),
    "resets": (close_at_once(reset=True), TLSMode.PREFER, "info", ServerClosedError, "reset"),
    "closes, TLS": (close_at_once(), TLSMode.REQUIRE, "tls", TLSHandshakeError, "closed"),
    "closes after INFO": (
        close_after_info(),
        TLSMode.PREFER,
        "auth",
        ServerClosedError,
        "",
    ),
    "cut in the handshake": (
        cut_in_handshake(SERVER),
        TLSMode.REQUIRE,
        "tls",
        TLSHandshakeError,
        "in the middle of it",
    ),
    "cut in a TLS-first handshake": (
        cut_in_handshake(SERVER, info_first=False),
        TLSMode.REQUIRE,
        "tls",
        TLSHandshakeError,
        "in the middle of it",
    ),
    "reset in the handshake": (
        cut_in_handshake(SERVER, reset=True),
        TLSMode.PREFER,
        "tls",
        TLSHandshakeError,
        "closed the connection in the middle",
    ),
    "closes after the handshake": (
        close_after_tls(SERVER, info_first=False),
        TLSMode.REQUIRE,
        "info",
        ClientCertificateError,
        "right after the TLS handshake",
    ),
    "closes after the handshake, having said INFO": (
        close_after_tls(SERVER),
        TLSMode.REQUIRE,
        "auth",
        ServerClosedError,
        "without giving a reason",
    ),
    "endless INFO": (endless_info(), TLSMode.PREFER, "info", ProtocolError, "longer than"),
    "endless INFO, TLS": (endless_info(), TLSMode.REQUIRE, "tls", ProtocolError, "longer than"),
    "garbage": (says(GARBAGE), TLSMode.PREFER, "info", NoInfoError, "did not begin with INFO"),
    "garbage, TLS": (says(GARBAGE), TLSMode.REQUIRE, "tls", TLSHandshakeError, "not speak TLS"),
    "HTTP": (says(HTTP_ANSWER), TLSMode.PREFER, "info", NoInfoError, "HTTP/1.1 400"),
    "HTTP, TLS": (says(HTTP_ANSWER), TLSMode.REQUIRE, "tls", TLSHandshakeError, "HTTP/1.1 400"),
    "half an INFO": (says(b'INFO {"server'), TLSMode.PREFER, "info", NoInfoError, "complete"),
    "malformed INFO": (says(b"INFO 5\r\n"), TLSMode.PREFER, "info", ProtocolError, "INFO"),
    "INFO of wrong types": (
        says(b'INFO {"max_payload":"big"}\r\n'),
        TLSMode.PREFER,
        "info",
        ProtocolError,
        "INFO",
    ),
    "an -ERR at once": (
        says(b"-ERR 'maximum connections exceeded'\r\n"),
        TLSMode.PREFER,
        "info",
        NatsError,
        "maximum connections exceeded",
    ),
    "nonsense after INFO": (
        info_then(b"WHAT\r\n"),
        TLSMode.PREFER,
        "auth",
        ProtocolError,
        "malformed",
    ),
    "PONG before PING": (
        info_then(b"PONG\r\n"),
        TLSMode.DISABLE,
        "auth",
        ConnectTimeoutError,
        "no answer to CONNECT",
    ),
    "no PONG": (
        stall_after_info(),
        TLSMode.DISABLE,
        "auth",
        ConnectTimeoutError,
        "no answer to CONNECT",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DEATHS)
async def test_errors_of_failed_attempts(case: str) -> None:
    script, mode, phase, error, words = DEATHS[case]
    stalls = "says nothing" in case or "PONG" in case
    async with ScriptedServer(script) as server:
        attempt = await failure(server, tls(mode), timeout=2 if stalls else 5)
    assert isinstance(attempt.error, error), repr(attempt.error)
    assert attempt.phase == phase
    assert words in str(attempt.error)


async def test_one_deadline_covers_all_phases() -> None:
    """A peer that is slow in each phase, but not too slow for any, does not get longer in all."""

    async def slow(peer: Peer) -> None:
        for byte in info_line():
            await trio.sleep(0.002)
            await peer.send(bytes([byte]))

    async with ScriptedServer(slow) as server:
        attempt = await failure(server, tls(TLSMode.PREFER), timeout=0.2)
    # With more time the INFO would have been read to its end.
    assert isinstance(attempt.error, NoInfoError)


# --- secrets in plaintext ------------------------------------------------------------------------

BEARER = "eyJhbGciOiJub25lIn0.e30.x"
SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"


async def connects(auth: AuthLike, policy: PlaintextAuth) -> ScriptedServer:
    async with ScriptedServer(no_tls(nonce="abc")) as server:
        async with open_nats(server.url, auth=auth, plaintext_auth=policy):
            pass
    return server


@pytest.mark.parametrize("auth", [SECRET, Token("verysecret"), JWT(BEARER)])
class TestReplayableSecrets:
    async def test_refuse(self, auth: AuthLike) -> None:
        from_afar()
        async with ScriptedServer(no_tls()) as server:
            with pytest.raises(ConnectError) as caught:
                async with open_nats(server.url, auth=auth, plaintext_auth="refuse"):
                    pass
            (attempt,) = caught.value.attempts
            assert isinstance(attempt.error, PlaintextAuthError)
            assert 'plaintext_auth="allow"' in str(attempt.error)
            assert (await server.peer()).raw_bytes == b""

    async def test_warn(self, auth: AuthLike, caplog: pytest.LogCaptureFixture) -> None:
        from_afar()
        with caplog.at_level(logging.WARNING, "trio_nats"):
            await connects(auth, "warn")
        assert "in plaintext" in caplog.text
        assert "verysecret" not in caplog.text
        assert BEARER not in caplog.text

    async def test_allow(self, auth: AuthLike, caplog: pytest.LogCaptureFixture) -> None:
        from_afar()
        with caplog.at_level(logging.WARNING, "trio_nats"):
            await connects(auth, "allow")
        assert caplog.text == ""


async def test_signatures_may_travel_in_plaintext() -> None:
    from_afar()
    await connects(NKey(seed=SEED), "refuse")


async def test_secrets_may_be_sent_over_loopback() -> None:
    await connects(SECRET, "refuse")


async def test_nothing_is_refused_over_tls() -> None:
    from_afar()
    async with ScriptedServer(tls_required(SERVER)) as server:
        url = f"tls://localhost:{server.port}"
        async with open_nats(url, tls=tls(), auth=SECRET, plaintext_auth="refuse"):
            pass


async def test_the_warning_comes_once(caplog: pytest.LogCaptureFixture) -> None:
    from_afar()

    async def short(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await peer.hang_up()

    policy = ReconnectPolicy(wait=0, max_wait=0)
    with caplog.at_level(logging.WARNING, "trio_nats"):
        async with ScriptedServer(short, short, no_tls()) as server:
            async with open_nats(server.url, auth=SECRET, reconnect=policy) as nc:
                with trio.fail_after(HANG_TIMEOUT):
                    await server.peer(2)
                    await nc.flush()
    assert caplog.text.count("in plaintext") == 1


async def test_certificate_errors_are_handshake_errors() -> None:
    assert issubclass(TLSCertificateError, TLSHandshakeError)
    assert issubclass(ClientCertificateError, TLSHandshakeError)
