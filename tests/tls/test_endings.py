"""However an attempt to connect ends, it says where and why, and leaves nothing behind."""

from __future__ import annotations

import logging
from typing import NoReturn

import pytest
import trio

from tests.support.certs import certificates, server_context
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, Script, ScriptedServer, info_line
from tests.support.scripts import (
    close_after_info,
    close_after_tls,
    cut_in_handshake,
    inject_before_tls,
    no_tls,
    refuse_connect,
    refuse_then_info,
    says,
    stall_after_info,
    stall_at_once,
    tls_required,
)
from tests.support.sockets import change_sockets
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    AuthLike,
    ConnectAttempt,
    ConnectError,
    ConnectTimeoutError,
    CredentialsError,
    NKey,
    ServerClosedError,
    ServerReportedError,
    TLSOptions,
    UserPassword,
    open_nats,
)
from trio_nats._transport.dial import peer_address
from trio_nats.servers import Server, is_loopback

CERTS = certificates()
SERVER = server_context(CERTS.server)
TRUSTING = TLSOptions(ca_file=CERTS.ca_file)
PREFER = TLSOptions(mode="prefer", ca_file=CERTS.ca_file)  # type: ignore[arg-type]  # or a str
SEED = "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"


async def failure(
    url: str, tls: TLSOptions | None = None, auth: AuthLike | None = None, timeout: float = 5
) -> ConnectAttempt:
    with pytest.raises(ConnectError) as caught:
        async with open_nats(url, tls=tls, auth=auth, connect_timeout=timeout):
            pass
    (attempt,) = caught.value.attempts
    return attempt


# --- nothing is left ----------------------------------------------------------------------------


async def stalls_in_tls(peer: Peer) -> None:
    await peer.start_tls(SERVER)
    await peer.stall()


async def stalls_before_pong(peer: Peer) -> None:
    await peer.start_tls(SERVER)
    await peer.send_info()
    await peer.accept_connect(pong=False)
    await peer.stall()


STALLING: dict[str, tuple[Script, TLSOptions | None, str]] = {
    "before INFO": (stall_at_once(), None, "info"),
    "before INFO, TLS": (stall_at_once(), TRUSTING, "tls"),
    "before PONG": (stall_after_info(), None, "auth"),
    "in the upgrade": (stall_after_info(tls_required=True), PREFER, "tls"),
    "in the handshake": (stall_after_info(tls_required=True), TRUSTING, "tls"),
    "before INFO inside TLS": (stalls_in_tls, TRUSTING, "info"),
    "before PONG inside TLS": (stalls_before_pong, TRUSTING, "auth"),
}
FAILING: dict[str, tuple[Script, TLSOptions | None, str]] = {
    "no NATS": (says(b"SSH-2.0\r\n"), None, "info"),
    "no TLS": (no_tls(), TRUSTING, "tls"),
    "TLS required": (
        tls_required(SERVER),
        TLSOptions(mode="disable"),  # type: ignore[arg-type]  # or a str
        "tls",
    ),
    "injection": (inject_before_tls(SERVER), PREFER, "tls"),
    "injection, TLS": (inject_before_tls(SERVER), TRUSTING, "tls"),
    "bad certificate": (tls_required(server_context(CERTS.server_expired)), TRUSTING, "tls"),
    "alert": (refuse_then_info(), TRUSTING, "tls"),
    "cut": (cut_in_handshake(SERVER), TRUSTING, "tls"),
    "reset": (cut_in_handshake(SERVER, reset=True), TRUSTING, "tls"),
    "closed after TLS": (close_after_tls(SERVER, info_first=False), TRUSTING, "info"),
    "closed after INFO": (close_after_info(), None, "auth"),
    "reset after INFO": (close_after_info(reset=True), None, "auth"),
    "refused": (refuse_connect("Authorization Violation"), None, "auth"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", [*STALLING, *FAILING])
async def test_a_failed_attempt_leaves_no_socket(case: str) -> None:
    script, tls, phase = (STALLING | FAILING)[case]
    async with no_leaks():
        async with ScriptedServer(script) as server:
            timeout = 2 if case in STALLING else 5
            attempt = await failure(f"nats://localhost:{server.port}", tls, timeout=timeout)
            with trio.fail_after(HANG_TIMEOUT):
                await (await server.peer()).finished.wait()
    # A reset may be noticed while INFO is read, or after.
    assert attempt.phase == phase or case == "reset after INFO"
    assert isinstance(attempt.error, ConnectTimeoutError) == (case in STALLING and phase != "info")


@pytest.mark.parametrize("case", STALLING)
async def test_a_cancelled_attempt_leaves_no_socket(case: str) -> None:
    script, tls, _ = STALLING[case]
    async with no_leaks():
        async with ScriptedServer(script) as server:
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    peer = await server.peer()
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    assert not peer.finished.is_set()
                    scope.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel)
                    async with open_nats(f"nats://localhost:{server.port}", tls=tls):
                        raise AssertionError("connected")
            assert scope.cancelled_caught
            with trio.fail_after(HANG_TIMEOUT):
                await (await server.peer()).finished.wait()


class SilentResolver(trio.abc.HostnameResolver):
    """Never comes back with an answer."""

    def __init__(self) -> None:
        self.asked = trio.Event()

    async def getaddrinfo(self, *args: object) -> NoReturn:  # type: ignore[override]
        self.asked.set()
        await trio.sleep_forever()

    async def getnameinfo(self, *args: object) -> NoReturn:  # type: ignore[override]
        raise NotImplementedError


@pytest.fixture
async def silent_resolver() -> SilentResolver:
    resolver = SilentResolver()
    trio.socket.set_custom_hostname_resolver(resolver)  # for this run of Trio
    return resolver


async def test_name_resolution_is_under_the_deadline(
    silent_resolver: SilentResolver, autojump_clock: trio.testing.MockClock
) -> None:
    began = trio.current_time()
    async with no_leaks():
        attempt = await failure("nats://somewhere:4222")
    assert trio.current_time() - began == pytest.approx(5)
    assert isinstance(attempt.error, ConnectTimeoutError)
    expected = "no TCP connection, name resolution included, within 5 s (connect_timeout)"
    assert str(attempt.error) == expected


async def test_cancelled_in_name_resolution(silent_resolver: SilentResolver) -> None:
    async with no_leaks():
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                await silent_resolver.asked.wait()
                nursery.cancel_scope.cancel()

            async with open_nats("nats://somewhere:4222"):
                raise AssertionError("connected")


# --- errors of each phase, as themselves --------------------------------------------------------


async def pings_first(peer: Peer) -> None:
    await peer.send(info_line(server_name="before") + b"PING\r\n")
    await peer.expect_line(b"CONNECT ")
    await peer.expect_line(b"PING")
    await peer.expect_line(b"PING")
    await peer.expect_line(b"PONG")
    await peer.send(info_line(server_name="after") + b"+OK\r\nPONG\r\nPONG\r\n")
    await peer.serve()


async def test_what_else_may_come_before_pong() -> None:
    async with ScriptedServer(pings_first) as server:
        async with open_nats(server.url) as nc:
            assert nc.server_info.server_name == "after"
            await nc.flush()


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_reset_in_place_of_pong(encrypted: bool) -> None:
    """That is a closed connection, not a word about certificates."""

    async def script(peer: Peer) -> None:
        if encrypted:
            await peer.start_tls(SERVER)
        await peer.send_info()
        await peer.accept_connect(pong=False)
        peer.abort()

    async with ScriptedServer(script) as server:
        url = f"nats://localhost:{server.port}"
        attempt = await failure(url, TRUSTING if encrypted else None)
    assert attempt.phase == "auth"
    assert type(attempt.error) is ServerClosedError
    assert str(attempt.error) == f"the connection to {url} broke: Connection reset by peer"


async def test_nkeys_need_a_nonce() -> None:
    """Whatever is said of a login: without one it would be a login as somebody else."""
    auth = NKey(seed=SEED)
    async with ScriptedServer(no_tls(auth_required=True), no_tls()) as server:
        for number in range(2):
            attempt = await failure(server.url, auth=auth)
            assert attempt.phase == "auth"
            assert isinstance(attempt.error, CredentialsError)
            assert "sent no usable nonce" in str(attempt.error)
            assert b"CONNECT" not in server.peers[number].raw_bytes


@pytest.mark.parametrize("slow", [True, False])
async def test_unavailable_credentials(slow: bool) -> None:
    """Before dialling: nobody hears of us."""

    async def ask(server: Server) -> UserPassword:
        if slow:
            await trio.sleep_forever()
        raise LookupError("not in the vault")

    async with ScriptedServer(no_tls()) as server:
        attempt = await failure(server.url, auth=ask, timeout=0.1 if slow else 5)
        assert server.peers == []
    assert attempt.phase == "auth"
    if slow:
        assert isinstance(attempt.error, ConnectTimeoutError)
        assert "the credentials were not ready within 0.1 s" in str(attempt.error)
    else:
        assert isinstance(attempt.error, CredentialsError)


async def test_an_internal_error_is_reported_and_leaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: object) -> None:
        raise ZeroDivisionError("a bug")

    change_sockets(lambda made: setattr(made, "send", broken))
    async with no_leaks():
        async with ScriptedServer(tls_required(SERVER)) as server:
            url = f"tls://localhost:{server.port}"
            with caplog.at_level(logging.ERROR, "trio_nats"):
                attempt = await failure(url, TRUSTING)
    assert isinstance(attempt.error, ZeroDivisionError)
    assert "unexpected error while connecting" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


async def test_an_error_in_the_same_segment_as_info() -> None:
    """As a full server sends it; the reset that follows does not hide it."""

    async def script(peer: Peer) -> None:
        await peer.send(info_line() + b"-ERR 'maximum connections exceeded'\r\n")
        await peer.expect_line(b"CONNECT ")
        peer.abort()

    async with ScriptedServer(script) as server:
        attempt = await failure(server.url)
    assert isinstance(attempt.error, ServerReportedError)
    assert "takes no more connections" in str(attempt.error)


async def test_a_peer_without_an_address_is_not_on_this_machine() -> None:
    """So that nothing secret is sent to it in plaintext unasked."""
    async with ScriptedServer(stall_at_once()) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        assert is_loopback(peer_address(stream))
        await stream.aclose()
        assert not is_loopback(peer_address(stream))
