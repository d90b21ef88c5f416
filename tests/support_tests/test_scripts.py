"""Every kind of server holds a session with the clients it should, and only with those."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
import trio

from tests.support import scripts
from tests.support.certs import certificates, client_context, server_context
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, Script, ScriptedServer, info_line
from tests.support.tls_records import HANDSHAKE_FAILURE, client_hello, is_only_tls_records

CERTS = certificates()
CONNECT = b'CONNECT {"verbose":false}\r\nPING\r\nPING\r\n'
Client: TypeAlias = Callable[[trio.SocketStream], Awaitable[None]]


async def read_until(stream: trio.abc.Stream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = await stream.receive_some()
        if not more:
            raise EOFError(data)
        data += more
    return data


async def hold_session(stream: trio.abc.Stream) -> None:
    await stream.send_all(CONNECT)
    assert await read_until(stream, b"PONG\r\n" * 2) == b"PONG\r\n" * 2
    await stream.send_all(b"PING\r\n")
    assert await read_until(stream, b"\r\n") == b"PONG\r\n"


def secure(stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
    context = client_context(CERTS.ca_file)
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)


async def plaintext(stream: trio.SocketStream) -> None:
    """A client that knows no TLS."""
    assert (await read_until(stream, b"\r\n")).startswith(b"INFO {")
    await hold_session(stream)


async def upgrade(stream: trio.SocketStream) -> None:
    """A client that reads INFO and starts TLS then."""
    info = await read_until(stream, b"\r\n")
    assert b'"tls_required": true' in info or b'"tls_available": true' in info
    await hold_session(secure(stream))


async def tls_first(stream: trio.SocketStream) -> None:
    """A client that starts TLS at once and expects INFO inside."""
    tls = secure(stream)
    await tls.do_handshake()
    assert (await read_until(tls, b"\r\n")).startswith(b"INFO {")
    await hold_session(tls)


async def impatient(stream: trio.SocketStream) -> None:
    """A client that sends CONNECT before any INFO."""
    await stream.send_all(CONNECT)
    assert await stream.receive_some() == b""
    raise EOFError


# Whom each kind of server holds a session with, and whom it does not. Where TLS comes first,
# clients that wait for INFO are missing: there both sides are silent.
WORKS = [
    ("none", plaintext),
    ("tls_available", plaintext),
    ("tls_available", upgrade),
    ("tls_required", upgrade),
    ("first", tls_first),
    ("auto", upgrade),
    ("auto", tls_first),
]
FAILS = [
    ("none", upgrade),
    ("none", tls_first),
    ("tls_available", tls_first),
    ("tls_required", plaintext),
    ("tls_required", tls_first),
    ("auto", plaintext),
]


def script_of(kind: str, *, silent: bool) -> Script:
    """The script of a server; "auto" gives clients that are not silent all the time they need."""
    context = server_context(CERTS.server)
    if kind == "auto" and not silent:
        return scripts.tls_auto(context, silence=1000)
    return scripts.SERVER_KINDS[kind](context)


@pytest.mark.parametrize(("kind", "client"), WORKS + FAILS)
async def test_server_kinds(kind: str, client: Client) -> None:
    script = script_of(kind, silent=client is not tls_first)
    async with no_leaks(), ScriptedServer(script) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            if (kind, client) in WORKS:
                await client(stream)
            else:
                with pytest.raises((EOFError, AssertionError, trio.BrokenResourceError)):
                    await client(stream)
        peer = await server.peer()
        await peer.finished.wait()
        if client is not plaintext and (kind, client) in WORKS:
            assert peer.plain_bytes == b""
            assert is_only_tls_records(peer.tls_bytes)


@pytest.mark.parametrize("kind", ["first", "auto"])
async def test_plaintext_is_not_answered_where_tls_comes_first(kind: str) -> None:
    script = script_of(kind, silent=False)
    async with ScriptedServer(script) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            with pytest.raises(EOFError):
                await impatient(stream)
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.plain_bytes == CONNECT


async def heard(script: Script, say: bytes = b"") -> tuple[bytes, Peer]:
    """All that is heard of ``script`` after saying ``say``, until its end; and its peer."""
    data = b""
    async with no_leaks(), ScriptedServer(script) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            if say:
                await stream.send_all(say)
            try:
                while more := await stream.receive_some():
                    data += more
            except trio.BrokenResourceError:
                data += b"<reset>"
        peer = await server.peer()
        await peer.finished.wait()
    return data, peer


@pytest.mark.parametrize("data", [scripts.GARBAGE, scripts.HTTP_ANSWER])
async def test_garbage_instead_of_info(data: bytes) -> None:
    assert (await heard(scripts.says(data)))[0] == data


@pytest.mark.parametrize(("reset", "end"), [(False, b""), (True, b"<reset>")])
async def test_closing(reset: bool, end: bytes) -> None:
    assert (await heard(scripts.close_at_once(reset=reset)))[0] == end
    cut = scripts.cut_in_handshake(server_context(CERTS.server), keep=50, info_first=False)
    data, peer = await heard(cut, client_hello())
    assert len(data) == 50
    assert is_only_tls_records(data)
    assert peer.tls_bytes == peer.raw_bytes != b""


async def test_plain_servers_do_not_know_tls() -> None:
    data, _ = await heard(scripts.no_tls(), client_hello())
    assert data == info_line() + scripts.UNKNOWN_OPERATION


async def test_refusing_credentials() -> None:
    data, _ = await heard(scripts.refuse_connect("Authorization Violation"), CONNECT)
    assert data == info_line() + b"-ERR 'Authorization Violation'\r\n"


async def test_a_refused_handshake_is_followed_by_info() -> None:
    async with ScriptedServer(scripts.refuse_then_info()) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(client_hello())
            end = HANDSHAKE_FAILURE + info_line()
            assert await read_until(stream, end) == info_line(tls_required=True) + end


async def test_an_untrusted_certificate_is_followed_by_info() -> None:
    script = scripts.untrusted_then_info(server_context(CERTS.server_other_ca))
    async with ScriptedServer(script) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await read_until(stream, b"\r\n")
            with pytest.raises(trio.BrokenResourceError):
                await secure(stream).do_handshake()
            # A client's alert makes the server notice; Trio's SSLStream sends none.
            await stream.send_all(HANDSHAKE_FAILURE)
            await read_until(stream, info_line())
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.plain_after_tls_failure == b""


async def test_injected_bytes_come_in_one_segment_with_info() -> None:
    extra = b"PONG\r\n"
    for script in (
        scripts.info_then(extra, tls_required=True),
        scripts.inject_before_tls(server_context(CERTS.server), extra),
    ):
        async with ScriptedServer(script) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                assert await stream.receive_some() == info_line(tls_required=True) + extra


async def test_the_endless_info_script_never_stops() -> None:
    async with ScriptedServer(scripts.endless_info()) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            count = 0
            while count < 1_000_000:
                data = await stream.receive_some()
                assert b"\n" not in data
                count += len(data)
        await (await server.peer()).finished.wait()


@pytest.mark.parametrize("script", [scripts.stall_at_once(), scripts.stall_after_info()])
async def test_stalling_ends_with_the_client(script: Script) -> None:
    async with ScriptedServer(script) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"anybody there?")
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.raw_bytes == b"anybody there?"


async def test_closing_after_tls() -> None:
    script = scripts.close_after_tls(server_context(CERTS.server))
    async with ScriptedServer(script) as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await read_until(stream, b"\r\n")
            tls = secure(stream)
            await tls.send_all(CONNECT)
            assert await tls.receive_some() == b""
