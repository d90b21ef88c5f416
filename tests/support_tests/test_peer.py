"""The scripted server: its records, its endings, and how failures of scripts come out."""

from __future__ import annotations

import json
import ssl
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.certs import certificates, client_context, server_context
from tests.support.leaks import no_leaks
from tests.support.peer import MemoryPeer, Peer, PeerGone, ScriptedServer, info_line
from tests.support.tls_records import (
    client_hello,
    is_only_tls_records,
    server_flight,
    split_tls_records,
)

CERTS = certificates()
CONNECT = b'CONNECT {"verbose":false}\r\nPING\r\nPING\r\n'


async def dial(server: ScriptedServer) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", server.port)


async def read_until(stream: trio.abc.Stream, end: bytes) -> bytes:
    """What arrives until it ends with ``end``."""
    data = b""
    while not data.endswith(end):
        more = await stream.receive_some()
        assert more, f"the stream ended after {data!r}"
        data += more
    return data


def tls(stream: trio.abc.Stream, ca: str = "ca_file") -> trio.SSLStream[trio.abc.Stream]:
    context = client_context(getattr(CERTS, ca))
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)


async def plain_session(peer: Peer) -> None:
    await peer.send_info()
    await peer.accept_connect()
    await peer.serve()


# --- a session ------------------------------------------------------------------------------------


async def test_a_plain_session_is_recorded() -> None:
    async with no_leaks(), ScriptedServer(plain_session) as server:
        async with await dial(server) as stream:
            info = await read_until(stream, b"\r\n")
            assert json.loads(info.removeprefix(b"INFO "))["max_payload"] == 1048576
            await stream.send_all(CONNECT)
            assert await read_until(stream, b"PONG\r\n" * 2) == b"PONG\r\n" * 2
            await stream.send_all(b"SUB a 1\r\nPUB b 3\r\nx\r\n\r\nHPUB c 12 13\r\nNATS/1.0")
            await stream.send_all(b"\r\n\r\ny\r\nPING\r\n")
            assert await read_until(stream, b"\r\n") == b"PONG\r\n"
        peer = await server.peer(0)
        await peer.finished.wait()
        assert peer.error is None
        assert peer.connect == {"verbose": False}
        assert peer.lines[3:] == [b"SUB a 1", b"PUB b 3", b"HPUB c 12 13", b"PING"]
        assert peer.payloads == [b"x\r\n", b"NATS/1.0\r\n\r\ny"]
        assert peer.plain_bytes == peer.raw_bytes
        assert peer.tls_bytes == b""
        assert peer.happenings[0] == ("sent", info_line())
        assert peer.happenings[-1] == ("eof", b"")


async def test_each_connection_gets_its_own_script_and_the_last_one_those_after() -> None:
    server = ScriptedServer(
        partial(_say, text=b"one"), partial(_say, text=b"two"), partial(_say, text=b"more")
    )
    async with server:
        heard = []
        for _ in range(4):
            async with await dial(server) as stream:
                heard.append(await read_until(stream, b"\r\n"))
        assert heard == [b"one\r\n", b"two\r\n", b"more\r\n", b"more\r\n"]
        assert len(server.peers) == 4


async def _say(peer: Peer, text: bytes) -> None:
    await peer.send(text + b"\r\n")
    await peer.stall()


def test_info_can_be_changed_and_shortened() -> None:
    info = json.loads(info_line(tls_required=True, go=None).removeprefix(b"INFO "))
    assert info["tls_required"] is True
    assert "go" not in info


async def test_the_same_script_plays_without_a_network(autojump_clock: object) -> None:
    async with no_leaks(), MemoryPeer(plain_session) as memory:
        await read_until(memory.client, b"\r\n")
        await memory.client.send_all(CONNECT)
        assert await read_until(memory.client, b"PONG\r\n" * 2) == b"PONG\r\n" * 2
        memory.peer.close()
        assert await memory.client.receive_some() == b""


# --- TLS ------------------------------------------------------------------------------------------


async def upgrading(peer: Peer) -> None:
    await peer.send_info(tls_required=True)
    await peer.start_tls(server_context(CERTS.server))
    await peer.accept_connect()
    await peer.serve()


async def test_data_before_tls_is_recorded_separately() -> None:
    async with ScriptedServer(upgrading) as server, await dial(server) as stream:
        await read_until(stream, b"\r\n")
        secure = tls(stream)
        await secure.send_all(CONNECT)
        assert await read_until(secure, b"PONG\r\n" * 2) == b"PONG\r\n" * 2
        peer = await server.peer()
        assert peer.plain_bytes == b""
        assert is_only_tls_records(peer.tls_bytes)
        assert peer.tls_bytes.startswith(b"\x16")
        assert b"CONNECT" not in peer.raw_bytes
        assert peer.server_name == "localhost"
        assert [kind for kind, _ in peer.happenings if "tls" in kind] == ["tls-begun", "tls-done"]


async def test_a_client_that_sends_plaintext_before_tls_is_detected() -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True)
        await peer.expect_line(b"CONNECT")
        await peer.expect_line(b"PING")
        await peer.expect_line(b"PING")
        await peer.start_tls(server_context(CERTS.server))
        await peer.stall()

    async with ScriptedServer(script) as server, await dial(server) as stream:
        await read_until(stream, b"\r\n")
        # In one segment with the ClientHello, which must reach the handshake all the same.
        await stream.send_all(CONNECT + client_hello())
        assert (await stream.receive_some())[:1] == b"\x16"
        peer = await server.peer()
        assert peer.plain_bytes == CONNECT
        assert peer.tls_bytes[:1] == b"\x16"


async def test_plaintext_after_a_refused_handshake_is_caught() -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True)
        await peer.refuse_tls()
        await peer.send_info()
        await peer.stall()

    async with ScriptedServer(script) as server:
        async with await dial(server) as stream:
            await stream.send_all(client_hello())
            await read_until(stream, info_line())
            await stream.send_all(CONNECT)
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.plain_after_tls_failure == CONNECT
        assert not is_only_tls_records(peer.plain_after_tls_failure)
        assert not is_only_tls_records(peer.tls_bytes)


async def test_plaintext_in_one_segment_with_the_failure_is_caught() -> None:
    async def script(peer: Peer) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await peer.start_tls(server_context(CERTS.server))
        await peer.stall()

    alert = b"\x15\x03\x03\x00\x02\x02\x28"
    async with ScriptedServer(script) as server:
        async with await dial(server) as stream:
            await stream.send_all(alert + CONNECT)
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.plain_after_tls_failure == CONNECT


async def test_a_client_that_rejects_the_certificate_sends_no_plaintext() -> None:
    async with ScriptedServer(upgrading) as server:
        async with await dial(server) as stream:
            await read_until(stream, b"\r\n")
            with pytest.raises(trio.BrokenResourceError) as caught:
                await tls(stream, "other_ca_file").do_handshake()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        peer = await server.peer()
        await peer.finished.wait()
        assert isinstance(peer.error, trio.BrokenResourceError)
        assert peer.plain_bytes == b""
        assert is_only_tls_records(peer.tls_bytes)
        assert peer.plain_after_tls_failure == b""


@pytest.mark.parametrize("alert", [True, False])
async def test_a_refusal_sends_an_alert_or_not(alert: bool) -> None:
    async def script(peer: Peer) -> None:
        context = server_context(CERTS.server, client_ca_file=CERTS.ca_file)
        try:
            await peer.start_tls(context, alert=alert)
        finally:
            await peer.hang_up()

    async with ScriptedServer(script) as server, await dial(server) as stream:
        secure = tls(stream)
        await secure.do_handshake()
        if alert:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await secure.receive_some()
            assert "CERTIFICATE_REQUIRED" in str(caught.value.__cause__)
        else:
            assert await secure.receive_some() == b""


def test_tls_records_are_told_from_plaintext() -> None:
    hello = client_hello()
    flight = server_flight(server_context(CERTS.server), hello)
    assert is_only_tls_records(b"")
    for data in (hello, flight, hello + flight):
        assert b"".join(split_tls_records(data)[0]) == data
        assert all(is_only_tls_records(data[:end]) for end in range(len(data)))
        assert not is_only_tls_records(data + b"CONNECT {}\r\n")
    for data in (
        b"C",
        b"CONNECT",
        b"PING\r\n",
        b"\x16\x02",
        b"\x16\x03\x05",
        b"\x17\x03\x03\xff\xff",
    ):
        assert not is_only_tls_records(data)


# --- endings --------------------------------------------------------------------------------------


async def test_a_client_that_disconnects_is_not_a_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect_line(b"CONNECT")

    async with ScriptedServer(script) as server:
        async with await dial(server):
            pass
        peer = await server.peer()
        await peer.finished.wait()
        assert isinstance(peer.error, PeerGone)


async def test_a_failing_script_leaves_the_block_as_itself() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect_line(b"CONNECT")

    with pytest.raises(AssertionError, match="expected a line starting with b'CONNECT'"):
        async with no_leaks(), ScriptedServer(script) as server, await dial(server) as stream:
            await stream.send_all(b"PUB")
            await trio.sleep_forever()


async def test_an_exception_of_the_body_leaves_the_block_as_itself() -> None:
    error = ValueError("the body's")
    with pytest.raises(ValueError, match="the body's") as caught:
        async with no_leaks(), ScriptedServer(Peer.stall) as server, await dial(server):
            await server.peer()
            raise error
    assert caught.value is error


async def test_a_cancelled_block_is_left() -> None:
    async with no_leaks():
        with trio.CancelScope() as scope:
            async with ScriptedServer(Peer.stall) as server, await dial(server):
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_hanging_up_and_aborting_differ() -> None:
    async def abort(peer: Peer) -> None:
        peer.abort()

    async with ScriptedServer(Peer.hang_up, abort) as server:
        async with await dial(server) as stream:
            await stream.send_all(b"unread")
            assert await stream.receive_some() == b""
        async with await dial(server) as stream:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_connections_can_be_refused_and_accepted_again() -> None:
    async with ScriptedServer(plain_session) as server:
        async with await dial(server) as old:
            await read_until(old, b"\r\n")
            server.refuse()
            with pytest.raises(OSError, match="all attempts to connect"):
                await dial(server)
            await old.send_all(CONNECT)
            assert await read_until(old, b"PONG\r\n" * 2) == b"PONG\r\n" * 2
            server.accept()
            async with await dial(server) as new:
                await read_until(new, b"\r\n")
