"""What an attacker that writes into the connection can achieve, and what not."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.certs import certificates, server_context
from tests.support.peer import MemoryPeer, Peer, Script, ScriptedServer, info_line
from tests.support.scripts import UNKNOWN_OPERATION, no_tls, says, tls_first, tls_required
from tests.support.sockets import reach
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    ConnectAttempt,
    ConnectError,
    ConnectionLostError,
    ConnectTimeoutError,
    NoInfoError,
    ReconnectPolicy,
    ServerClosedError,
    ServerReportedError,
    TLSHandshakeError,
    TLSInjectionError,
    TLSMode,
    TLSNotOfferedError,
    TLSOptions,
    UserPassword,
    open_nats,
)

CERTS = certificates()
SERVER = server_context(CERTS.server)
SECRET = UserPassword("joe", "verysecret")
AT_ONCE = ReconnectPolicy(wait=0, max_wait=0)
TRUSTING = TLSOptions(ca_file=CERTS.ca_file)
FULL = b"-ERR 'maximum connections exceeded'\r\n"


def opportunistic(mode: TLSMode) -> TLSOptions:
    """Trusts the peer without saying that TLS is wanted."""
    return TLSOptions(mode=mode, insecure_skip_verify=True)


async def failure(url: str, tls: TLSOptions | None = None, timeout: float = 5) -> ConnectAttempt:
    with pytest.raises(ConnectError) as caught:
        async with open_nats(url, tls=tls, auth=SECRET, connect_timeout=timeout):
            pass
    (attempt,) = caught.value.attempts
    return attempt


# --- what is said in plaintext before TLS -------------------------------------------------------


@pytest.mark.parametrize("mode", [TLSMode.AUTO, TLSMode.PREFER])
@pytest.mark.parametrize("at_once", [True, False], ids=["one segment", "a later one"])
async def test_a_refusal_in_plaintext_is_quoted_not_believed(mode: TLSMode, at_once: bool) -> None:
    """A full server says so without waiting for the handshake, but so could anybody."""

    async def script(peer: Peer) -> None:
        if at_once:
            await peer.send(info_line(tls_required=True) + FULL)
        else:
            await peer.send_info(tls_required=True)
            await peer.receive_client_hello()
            await peer.send(FULL)
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"nats://localhost:{server.port}", opportunistic(mode))
        assert is_only_tls_records((await server.peer()).raw_bytes)
    assert attempt.phase == "tls"
    assert type(attempt.error) is TLSInjectionError
    assert "maximum connections exceeded" in str(attempt.error)
    assert "A server that rejects clients may say so in plaintext" in str(attempt.error)


@pytest.mark.parametrize("mode", [TLSMode.REQUIRE, TLSMode.IMPLICIT])
async def test_an_err_instead_of_info(mode: TLSMode) -> None:
    async with ScriptedServer(says(FULL)) as server:
        attempt = await failure(f"nats://localhost:{server.port}", opportunistic(mode))
        assert is_only_tls_records((await server.peer()).raw_bytes)
    assert type(attempt.error) is TLSHandshakeError
    assert "answered the handshake in plaintext" in str(attempt.error)
    assert "rejects clients" in str(attempt.error)


@pytest.mark.parametrize("cuts", [(1,), (4,), (5,), (20,), (len(FULL) - 1,), (1, 2, 3, 30)])
async def test_a_refusal_in_pieces(cuts: tuple[int, ...]) -> None:
    """Without TLS the server's reason is the error, however it is cut."""

    async def script(peer: Peer) -> None:
        for begin, end in zip((0, *cuts), (*cuts, None), strict=True):
            await peer.send(FULL[begin:end])
            await trio.testing.wait_all_tasks_blocked()
        await peer.stall()

    async with MemoryPeer(script) as peer:
        attempt = await opened_in_memory(peer)
    assert isinstance(attempt.error, ServerReportedError)
    assert attempt.error.message == "maximum connections exceeded"


async def test_a_truncated_refusal_is_still_reported() -> None:
    async with ScriptedServer(says(FULL[:20])) as server:
        attempt = await failure(server.url)
    assert isinstance(attempt.error, ServerReportedError)
    assert attempt.error.message == "maximum connec"


@pytest.mark.parametrize("mode", [TLSMode.PREFER, TLSMode.REQUIRE])
async def test_plaintext_info_does_not_cause_a_move(mode: TLSMode) -> None:
    """Neither other servers it names nor a lame duck, who would have us look for some."""

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, connect_urls=["192.0.2.1:4222"], ldm=True)
        await peer.start_tls(SERVER)
        await peer.accept_connect()
        await peer.serve()

    async with ScriptedServer(script) as server:
        async with open_nats(f"localhost:{server.port}", tls=opportunistic(mode)) as nc:
            await nc.flush()
            assert not nc.server_info.connect_urls
            assert not nc.server_info.ldm
            assert nc.connected_url == f"nats://localhost:{server.port}"


async def test_what_is_said_inside_tls_is_believed() -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, connect_urls=["192.0.2.1:4222"])
        await peer.start_tls(SERVER)
        await peer.accept_connect(pong=False)
        await peer.send(info_line(connect_urls=["192.0.2.2:4222"]) + b"PONG\r\n" * 2)
        await peer.serve()

    async with ScriptedServer(script) as server:
        async with open_nats(f"localhost:{server.port}", tls=TRUSTING) as nc:
            assert nc.server_info.connect_urls == ("192.0.2.2:4222",)


async def test_info_and_the_handshake_in_one_segment() -> None:
    """As a slow path may deliver them: exactly one line is taken out, and nothing is lost."""

    async def script(peer: Peer) -> None:
        raw = peer.raw
        passed_on = raw.send_all

        async def with_info(data: bytes | bytearray | memoryview) -> None:
            raw.send_all = passed_on  # type: ignore[method-assign]  # once
            await passed_on(info_line(tls_required=True) + bytes(data))

        raw.send_all = with_info  # type: ignore[method-assign]  # for the first flight
        await peer.start_tls(SERVER)
        await peer.accept_connect()
        await peer.serve()

    async with ScriptedServer(script) as server:
        async with open_nats(f"localhost:{server.port}", tls=TRUSTING) as nc:
            await nc.flush()
            assert nc.tls_info is not None
            assert not nc.tls_info.info_inside_tls
        first = next(data for kind, data in (await server.peer()).happenings if kind == "sent")
        assert first.startswith(b"INFO ")
        assert b"\r\n\x16\x03\x03" in first


# --- what is said in plaintext within TLS -------------------------------------------------------


async def test_plaintext_in_the_middle_of_the_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_client_hello()
        await peer.send(b"\x16\x03\x03\x00\x04abcd" + info_line())
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"tls://localhost:{server.port}", TRUSTING)
        assert is_only_tls_records((await server.peer()).raw_bytes)
    assert type(attempt.error) is TLSHandshakeError


@pytest.mark.parametrize("first_words", [b"PONG\r\n", info_line(), UNKNOWN_OPERATION])
async def test_plaintext_after_the_handshake(first_words: bytes) -> None:
    """Where the INFO inside TLS is due."""

    async def script(peer: Peer) -> None:
        await peer.start_tls(SERVER)
        await peer.raw.send_all(first_words)
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"tls://localhost:{server.port}", TRUSTING)
        assert is_only_tls_records((await server.peer()).raw_bytes)
    assert attempt.phase == "info"
    assert isinstance(attempt.error, ServerClosedError)
    assert "TLS error: WRONG_VERSION_NUMBER" in str(attempt.error)


async def test_plaintext_in_the_middle_of_a_session() -> None:
    """It ends the session, and the next one is encrypted again."""

    async def tampered(peer: Peer) -> None:
        await peer.start_tls(SERVER)
        await peer.send_info()
        await peer.accept_connect()
        await peer.expect_line(b"SUB a ")
        await peer.raw.send_all(b"MSG a 1 4\r\nlies\r\n")
        await peer.stall()

    async def honest(peer: Peer) -> None:
        await peer.start_tls(SERVER)
        await peer.send_info()
        await peer.accept_connect()
        await peer.expect_line(b"SUB a ")
        await peer.send(b"MSG a 1 5\r\ntruth\r\n")
        await peer.serve()

    async with ScriptedServer(tampered, honest) as server:
        url = f"tls://localhost:{server.port}"
        async with open_nats(url, tls=TRUSTING, reconnect=AT_ONCE) as nc:
            async with nc.subscribe("a") as sub:
                with trio.fail_after(HANG_TIMEOUT):
                    assert (await sub.receive()).data == b"truth"
        for peer in server.peers:
            assert is_only_tls_records(peer.raw_bytes)


# --- once encrypted, always encrypted -----------------------------------------------------------


async def short_session(peer: Peer) -> None:
    await peer.send_info(tls_available=True)
    await peer.start_tls(SERVER)
    await peer.accept_connect()
    await peer.expect_line(b"PING")
    await peer.hang_up()


@pytest.mark.slow
async def test_another_server_of_the_list_is_held_to_it_too() -> None:
    """The first server was TLS by its own choice; the second, a plain one, gets nothing."""
    policy = ReconnectPolicy(wait=0, max_wait=0, max_attempts=1)
    async with ScriptedServer(short_session, no_tls()) as first, ScriptedServer(no_tls()) as second:
        urls = [f"nats://localhost:{first.port}", f"nats://localhost:{second.port}"]
        tls = opportunistic(TLSMode.AUTO)
        async with open_nats(urls, tls=tls, auth=SECRET, reconnect=policy, randomize=False) as nc:
            assert nc.tls_info is not None
            with pytest.raises(ConnectionLostError) as caught, trio.fail_after(HANG_TIMEOUT):
                await nc.flush()
        peer = await second.peer()
        assert is_only_tls_records(peer.raw_bytes)
        assert is_only_tls_records((await first.peer(1)).raw_bytes)
    cause = caught.value.__cause__
    assert isinstance(cause, ConnectError)
    for error in (attempt.error for attempt in cause.attempts):
        assert isinstance(error, TLSNotOfferedError)
        assert "(mode REQUIRE, which AUTO becomes after the connection has been encrypted)" in str(
            error
        )


@pytest.mark.slow
@pytest.mark.parametrize("later", [tls_required(SERVER), tls_first(SERVER)])
async def test_any_kind_of_tls_is_accepted_later(later: Script) -> None:
    """It is even better served: what began by waiting for INFO now starts with the handshake."""
    async with ScriptedServer(short_session, later) as server:
        url = f"nats://localhost:{server.port}"
        async with open_nats(url, tls=opportunistic(TLSMode.PREFER), reconnect=AT_ONCE) as nc:
            with trio.fail_after(HANG_TIMEOUT):
                await nc.flush()
            assert nc.tls_info is not None
        assert is_only_tls_records(server.peers[1].raw_bytes)


async def test_a_plaintext_connection_may_reconnect_with_tls() -> None:
    async def plain(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await peer.expect_line(b"PING")
        await peer.hang_up()

    async with ScriptedServer(plain, tls_required(SERVER)) as server:
        url = f"nats://localhost:{server.port}"
        async with open_nats(url, tls=opportunistic(TLSMode.AUTO), reconnect=AT_ONCE) as nc:
            assert nc.tls_info is None
            with trio.fail_after(HANG_TIMEOUT):
                await nc.flush()
            assert nc.tls_info is not None


# --- peers that play for time, on a clock that does not wait ------------------------------------


async def opened_in_memory(peer: MemoryPeer, tls: TLSOptions | None = None) -> ConnectAttempt:
    """The failed attempt to connect to ``peer``, without a network."""
    reach(peer.client)
    with pytest.raises(ConnectError) as caught:
        async with open_nats("nats://127.0.0.1", tls=tls, connect_timeout=5):
            pass
    (attempt,) = caught.value.attempts
    return attempt


async def drips(peer: Peer) -> None:
    for byte in info_line(server_name="x" * 1000):
        await trio.sleep(0.5)
        await peer.send(bytes([byte]))


async def late_info(peer: Peer) -> None:
    await trio.sleep(4.9)
    await peer.send_info()
    await peer.stall()


async def keeps_us_busy(peer: Peer) -> None:
    await peer.send_info()
    await peer.accept_connect(pong=False)
    while True:
        await trio.sleep(1)
        await peer.send(b"PING\r\n" + info_line())
        await peer.expect_line(b"PONG")


@pytest.mark.parametrize(
    ("script", "error", "phase", "words"),
    [
        (drips, NoInfoError, "info", "no INFO within 5 s (connect_timeout)"),
        (late_info, ConnectTimeoutError, "auth", "no answer to CONNECT within 5 s"),
        (keeps_us_busy, ConnectTimeoutError, "auth", "no answer to CONNECT within 5 s"),
    ],
)
async def test_one_deadline_covers_everything(
    script: Script,
    error: type[Exception],
    phase: str,
    words: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A peer that is just fast enough in each phase does not get a deadline for each."""
    # A system may take a moment to pass on what was sent.
    autojump_clock.autojump_threshold = 0.02
    async with MemoryPeer(script) as peer:
        began = trio.current_time()
        attempt = await opened_in_memory(peer)
        assert trio.current_time() - began == pytest.approx(5)
    assert isinstance(attempt.error, error)
    assert attempt.phase == phase
    assert words in str(attempt.error)


@pytest.mark.parametrize("mode", [TLSMode.PREFER, TLSMode.REQUIRE])
async def test_the_handshake_is_under_the_same_deadline(
    mode: TLSMode, mock_clock: trio.testing.MockClock
) -> None:
    """Two seconds before INFO and three more for nothing make five."""

    async def script(peer: Peer) -> None:
        if mode is TLSMode.REQUIRE:
            await peer.receive_client_hello()
        else:
            await trio.testing.wait_all_tasks_blocked(0.02)  # until it waits for INFO
        mock_clock.jump(2)
        await peer.send_info(tls_required=True)
        if mode is TLSMode.PREFER:
            await peer.receive_client_hello()
        await trio.testing.wait_all_tasks_blocked(0.02)
        mock_clock.jump(3)
        await peer.stall()

    async with MemoryPeer(script) as peer:
        attempt = await opened_in_memory(peer, opportunistic(mode))
        assert is_only_tls_records(peer.peer.raw_bytes)
    assert isinstance(attempt.error, ConnectTimeoutError)
    assert attempt.phase == "tls"
    assert "the TLS handshake was not completed within 5 s" in str(attempt.error)
