"""The HTTP request that opens a WebSocket, and what wrong peers answer to it."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import trio

from tests.support.certs import server_context
from tests.support.peer import Peer, Script, ScriptedServer, info_line
from tests.support.scripts import says, stall_at_once
from tests.support.websocket import upgrade_response
from tests.websocket.helpers import CERTS, HANG_TIMEOUT, QUICK, failure, lets_in, trusting
from trio_nats import (
    ClientCertificateError,
    ConfigurationError,
    ConnectTimeoutError,
    NatsError,
    NoInfoError,
    Server,
    ServerClosedError,
    TLSHandshakeError,
    WebSocketError,
    WebSocketOptions,
    __version__,
    open_nats,
)
from trio_nats._transport.websocket_handshake import host_header, request_target
from trio_nats.servers import parse_server
from trio_nats.testing import NatsServer

# --- the request ----------------------------------------------------------------------------------


async def asked(path: str = "", options: WebSocketOptions | None = None) -> list[bytes]:
    """The lines of the request that a connection makes."""

    async def script(peer: Peer) -> None:
        await peer.peek()
        await lets_in()(peer)

    async with ScriptedServer(script) as server:
        url = f"ws://joe:secret@127.0.0.1:{server.port}{path}"
        async with open_nats(url, websocket=options):
            peer = await server.peer(0)
            assert peer.websocket is not None
            return peer.raw_bytes.partition(b"\r\n\r\n")[0].split(b"\r\n")


async def test_the_request() -> None:
    first, *headers = await asked("/nats/x?tenant=a%20b")
    assert first == b"GET /nats/x?tenant=a%20b HTTP/1.1"
    named = {name.lower(): value for name, _, value in (line.partition(b": ") for line in headers)}
    assert len(named.pop(b"sec-websocket-key")) == 24
    host = named.pop(b"host")
    assert host.startswith(b"127.0.0.1:")
    named[b"upgrade"] = named[b"upgrade"].lower()
    # Not the credentials, which are the business of CONNECT.
    assert named == {
        b"upgrade": b"websocket",
        b"connection": b"Upgrade",
        b"sec-websocket-version": b"13",
        b"user-agent": f"trio-nats/{__version__}".encode(),
    }


async def test_headers_of_the_users() -> None:
    headers = {"Authorization": "Bearer abc", "user-agent": "mine/1", "Origin": "https://a.example"}
    lines = await asked(options=WebSocketOptions(headers=headers, compression=True))
    assert lines[0] == b"GET / HTTP/1.1"
    assert {b"Authorization: Bearer abc", b"user-agent: mine/1", b"Origin: https://a.example"} < {
        *lines
    }
    assert sum(line.lower().startswith(b"user-agent") for line in lines) == 1
    extensions = [line for line in lines if line.lower().startswith(b"sec-websocket-ext")]
    terms = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert extensions == [b"Sec-WebSocket-Extensions: " + terms]


async def test_no_two_requests_have_the_same_key() -> None:
    keys = set()
    for _ in range(3):
        keys |= {line for line in await asked() if line.startswith(b"Sec-WebSocket-Key")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("ws://h", "h", "/"),
        ("ws://h:80/", "h", "/"),
        ("ws://h:443", "h:443", "/"),
        ("wss://h:443/a/b", "h", "/a/b"),
        ("wss://h:80?x=/y", "h:80", "/?x=/y"),
        ("ws://[::1]", "[::1]", "/"),
        ("ws://[fe80::1%eth0]:8080/a#b", "[fe80::1]:8080", "/a"),
        ("ws://h/na%C3%AFve/ñ/☃?q=ü", "h", "/na%C3%AFve/%C3%B1/%E2%98%83?q=%C3%BC"),
    ],
)
def test_host_and_target(url: str, host: str, target: str) -> None:
    server = parse_server(url)
    assert (host_header(server), request_target(server)) == (host, target)


async def test_a_host_name_that_cannot_be_a_header() -> None:
    """It cannot be resolved either, except by a resolver that knows better than DNS."""
    from trio_nats._transport.websocket_handshake import upgrade

    stream, _ = trio.testing.memory_stream_pair()
    server = Server("ws", "a" * 64, 8080)
    with pytest.raises(WebSocketError, match="must be ASCII, not"):
        await upgrade(stream, server, {}, compression=False, user_agent="x")


async def test_any_split_of_the_http_response() -> None:
    async def script(peer: Peer) -> None:
        _, headers = await peer.receive_request()
        answer = upgrade_response(headers[b"sec-websocket-key"])
        # The first frame, INFO, comes with the last byte of the answer.
        line = info_line()
        answer += bytes([0x82, 126]) + len(line).to_bytes(2, "big") + line
        for start in range(150):
            await peer.send(answer[start : start + 1])
            await trio.testing.wait_all_tasks_blocked()
        await peer.send(answer[150:])
        await peer.stall()

    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(script) as server:
            attempt = await failure(f"ws://127.0.0.1:{server.port}", connect_timeout=3)
    assert attempt.phase == "auth"  # so INFO was understood


# --- wrong answers --------------------------------------------------------------------------------


def http(status: str, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


def answers(answer: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(answer)
        await peer.hang_up()

    return script


def upgrade_with(change: tuple[bytes, bytes]) -> Script:
    """Agree, with one thing wrong."""

    async def script(peer: Peer) -> None:
        _, headers = await peer.receive_request()
        right = upgrade_response(headers[b"sec-websocket-key"])
        wrong = right.replace(*change)
        assert wrong != right
        await peer.send(wrong)
        await peer.hang_up()

    return script


ACCEPT = b"Sec-WebSocket-Accept: "
REFUSALS: dict[str, tuple[Script, int | None, tuple[str, ...]]] = {
    "not found": (
        answers(http("404 Not Found", body="no\r\n\tsuch page\x07")),
        404,
        ("HTTP 404, saying 'no such page\\x07'", "URL's path right?"),
    ),
    "long body": (answers(http("500 Oops", body="x" * 5000)), 500, ("xxx'...",)),
    "endless body": (
        answers(b"HTTP/1.1 503 Busy\r\n\r\n" + b"y" * 100_000),
        503,
        ("HTTP 503", "'yyy", "does not reach the server behind it"),
    ),
    "no body": (answers(http("403 Forbidden")), 403, ("HTTP 403. Check WebSocketOptions.headers",)),
    "unauthorized": (answers(http("401 Who?")), 401, ("HTTP 401. Check WebSocketOptions.headers",)),
    "a web page": (
        answers(http("200 OK", body="<html>")),
        200,
        ("HTTP 200, saying '<html>'. Is it a WebSocket server",),
    ),
    "wants TLS": (
        answers(http("400 Bad", body="Client sent an HTTP request to an HTTPS server.")),
        400,
        ("It requires TLS; use wss://",),
    ),
    "redirect": (
        answers(http("302 Found", "Location: https://login.example/?secret=1")),
        302,
        ("redirects to 'https://login.example/' (HTTP 302)", "not followed"),
    ),
    "long redirect": (
        answers(http("308 Moved", "Location: http://" + "a" * 3000)),
        308,
        ("redirects to 'http://aaa", "'... (HTTP 308)"),
    ),
    "redirect to nowhere": (answers(http("301 Moved")), 301, ("redirects (HTTP 301)",)),
    "interim": (answers(b"HTTP/1.1 103 Early Hints\r\n\r\n"), 103, ("HTTP 103",)),
    "HTTP/2": (answers(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00"), None, ("does not speak HTTP",)),
    "other protocol": (answers(b"SSH-2.0-x\r\n"), None, ("does not speak HTTP", "'SSH-2.0")),
    "no end": (answers(b"HTTP/1.1 101 Swi"), None, ("in the middle of its answer",)),
    "NATS": (says(info_line()), None, ("speaks NATS without WebSocket", "use nats:// or tls://")),
    "NATS, slowly": (answers(b"INF"), None, ("does not speak HTTP", "'INF'")),
    "NATS, full": (answers(b"-ERR 'maximum connections exceeded'\r\n"), None, ("speaks NATS",)),
    "TLS": (answers(b"\x15\x03\x01\x00\x02\x02\x0a"), None, ("answered in TLS; use wss://",)),
    "malformed": (answers(b"HTTP/1.1 wat\r\n\r\n"), None, ("Bad HTTP message",)),
    "huge headers": (
        answers(b"HTTP/1.1 101 S\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        None,
        ("Bad HTTP message",),
    ),
    "wrong key": (
        upgrade_with((ACCEPT, ACCEPT + b"x")),
        None,
        ("Bad accept token", "made for another request"),
    ),
    "no key": (upgrade_with((ACCEPT, b"X: ")), None, ("Bad accept token",)),
    "no upgrade": (
        upgrade_with((b"Upgrade: websocket\r\n", b"")),
        None,
        ("Missing header", "a proxy in front of it"),
    ),
    "another upgrade": (upgrade_with((b"websocket\r\n", b"h2c\r\n")), None, ("Missing header",)),
    "not connected": (upgrade_with((b"Connection: Upgrade\r\n", b"")), None, ("Missing header",)),
    "a subprotocol": (
        upgrade_with((ACCEPT, b"Sec-WebSocket-Protocol: mqtt\r\n" + ACCEPT)),
        None,
        ("unrecognized subprotocol mqtt",),
    ),
    "unreadable subprotocol": (
        upgrade_with((ACCEPT, b"Sec-WebSocket-Protocol: \xff\r\n" + ACCEPT)),
        None,
        ("headers that are not ASCII",),
    ),
    "compression, unasked": (
        upgrade_with((ACCEPT, b"Sec-WebSocket-Extensions: permessage-deflate\r\n" + ACCEPT)),
        None,
        ("unrecognized extension permessage-deflate",),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_an_http_response_that_rejects_the_upgrade(case: str) -> None:
    script, status, words = REFUSALS[case]
    async with ScriptedServer(script) as server:
        url = f"ws://127.0.0.1:{server.port}"
        attempt = await failure(url)
    assert attempt.phase == "websocket"
    assert isinstance(attempt.error, WebSocketError)
    assert attempt.error.status == status
    assert str(attempt.error).startswith(url)
    for word in words:
        assert word in str(attempt.error)
    assert str(attempt.error).isprintable()
    assert len(str(attempt.error)) < 400


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        (b"permessage-deflate; client_max_window_bits=9", "did not offer"),
        (b"permessage-deflate; client_no_context_takeover=1", "did not offer"),
        (b"permessage-deflate; wat", "did not offer"),
        (b"permessage-deflate, permessage-deflate", "twice"),
        (b"x-webkit-deflate-frame", "unrecognized extension"),
    ],
)
async def test_compression_on_other_terms(terms: bytes, complaint: str) -> None:
    script = upgrade_with((ACCEPT, b"Sec-WebSocket-Extensions: " + terms + b"\r\n" + ACCEPT))
    async with ScriptedServer(script) as server:
        url = f"ws://127.0.0.1:{server.port}"
        attempt = await failure(url, websocket=WebSocketOptions(compression=True))
    assert isinstance(attempt.error, WebSocketError)
    assert complaint in str(attempt.error)


async def test_a_rejection_without_its_body(autojump_clock: trio.abc.Clock) -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\nwait for")
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"ws://127.0.0.1:{server.port}")
    assert isinstance(attempt.error, WebSocketError)
    assert attempt.error.status == 404


async def test_a_refusal_and_a_reset() -> None:
    async def script(peer: Peer) -> None:
        await peer.receive_request()
        await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\nwait for")
        peer.abort()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"ws://127.0.0.1:{server.port}")
    assert isinstance(attempt.error, (WebSocketError, ServerClosedError))


async def test_the_nats_ports_of_a_real_server(nats_server: NatsServer) -> None:
    attempt = await failure(f"ws://127.0.0.1:{nats_server.port}")
    assert isinstance(attempt.error, WebSocketError)
    assert "client port; use nats:// or tls://" in str(attempt.error)
    attempt = await failure(f"wss://127.0.0.1:{nats_server.port}")
    assert attempt.phase == "tls"
    assert isinstance(attempt.error, TLSHandshakeError)
    assert "speaks NATS without WebSocket" in str(attempt.error)


async def test_a_nats_port_inside_tls() -> None:
    async def script(peer: Peer) -> None:
        await peer.start_tls(server_context(CERTS.server))
        await peer.send_info(tls_required=True)
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"wss://127.0.0.1:{server.port}")
    assert attempt.phase == "websocket"
    assert "client port; use tls://, or" in str(attempt.error)


# --- no answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_closing_instead_of_responding(scheme: str, reset: bool) -> None:
    async def script(peer: Peer) -> None:
        if scheme == "wss":
            await peer.start_tls(server_context(CERTS.server))
        await peer.receive_request()
        if reset:
            peer.abort()
        else:
            await peer.hang_up()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"{scheme}://127.0.0.1:{server.port}")
    assert attempt.phase == "websocket"
    # Inside TLS that is also all that some proxies say about a missing client certificate.
    kind = ClientCertificateError if scheme == "wss" else ServerClosedError
    assert isinstance(attempt.error, kind)


async def test_silence(autojump_clock: trio.abc.Clock) -> None:
    async with ScriptedServer(stall_at_once()) as server:
        attempt = await failure(f"ws://127.0.0.1:{server.port}")
    assert attempt.phase == "websocket"
    assert isinstance(attempt.error, ConnectTimeoutError)
    assert str(attempt.error) == "no answer to the WebSocket upgrade within 5 s (connect_timeout)"


async def test_silence_below_and_inside_tls() -> None:
    async def silent_inside(peer: Peer) -> None:
        await peer.start_tls(server_context(CERTS.server))
        await peer.stall()

    for script, phase, words in (
        (stall_at_once(), "tls", "the TLS handshake was not completed within 2 s"),
        (silent_inside, "websocket", "no answer to the WebSocket upgrade within 2 s"),
    ):
        async with ScriptedServer(script) as server:
            attempt = await failure(f"wss://127.0.0.1:{server.port}", connect_timeout=2)
        assert attempt.phase == phase
        assert isinstance(attempt.error, ConnectTimeoutError)
        assert words in str(attempt.error)


async def test_silence_after_the_upgrade(autojump_clock: trio.abc.Clock) -> None:
    async def script(peer: Peer) -> None:
        await peer.start_websocket()
        await peer.stall()

    async with ScriptedServer(script) as server:
        attempt = await failure(f"ws://127.0.0.1:{server.port}")
    assert attempt.phase == "info"
    assert isinstance(attempt.error, NoInfoError)
    # No TLS mode is of any help here, unlike over TCP.
    assert str(attempt.error) == (
        "no INFO within 5 s (connect_timeout). Is this the port of a NATS server? "
        f"To find out what listens there, run: trio-nats doctor {attempt.server}"
    )


# --- callables ------------------------------------------------------------------------------------


async def test_headers_are_asked_for_at_every_attempt() -> None:
    given: list[str] = []

    async def headers(server: Server) -> dict[str, str]:
        assert server.is_websocket
        await trio.lowlevel.checkpoint()
        given.append(f"Bearer {len(given)}")
        return {"Authorization": given[-1]}

    async def hangs_up(peer: Peer) -> None:
        await peer.expect_line(b"PING")
        await peer.hang_up()

    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(lets_in(hangs_up), lets_in()) as server:
            async with open_nats(
                f"ws://127.0.0.1:{server.port}",
                websocket=WebSocketOptions(headers=headers),
                reconnect=QUICK,
            ) as nc:
                await nc.flush()
                for number in range(2):
                    end = (await server.peer(number)).websocket
                    assert end is not None
                    assert end.request is not None
                    assert (b"authorization", given[number].encode()) in end.request.extra_headers
    assert given == ["Bearer 0", "Bearer 1"]


def broken(server: Server) -> dict[str, str]:
    raise LookupError("Bearer s3cret")


CALLABLES = {
    "raises": (broken, "WebSocketOptions.headers raised LookupError"),
    "no mapping": (
        lambda server: "Bearer s3cret",
        "gave must be a mapping of names to values, not str",
    ),
    "bad value": (lambda server: {"A": "s3cret\r\n"}, "gave: the value of A must be printable"),
    "own header": (lambda server: {"Host": "s3cret"}, "gave: Host belongs to the WebSocket"),
}


@pytest.mark.parametrize("case", CALLABLES)
async def test_a_callable_that_returns_no_headers(case: str) -> None:
    source, words = CALLABLES[case]
    async with ScriptedServer(stall_at_once()) as server:
        options = WebSocketOptions(headers=source)  # type: ignore[arg-type]  # that is the point
        attempt = await failure(f"ws://127.0.0.1:{server.port}", websocket=options)
        assert server.peers == []
    assert attempt.phase == "websocket"
    assert isinstance(attempt.error, ConfigurationError)
    assert words in str(attempt.error)
    assert "s3cret" not in str(attempt.error)


async def test_a_callable_that_never_returns(autojump_clock: trio.abc.Clock) -> None:
    async def headers(server: Server) -> dict[str, str]:
        await trio.sleep_forever()
        raise AssertionError

    attempt = await failure("ws://127.0.0.1:1", websocket=WebSocketOptions(headers=headers))
    assert attempt.phase == "websocket"
    assert isinstance(attempt.error, ConnectTimeoutError)
    assert "the headers for the upgrade were not ready within 5 s" in str(attempt.error)


async def test_headers_are_used_for_websocket_urls_only(nats_server: NatsServer) -> None:
    def headers(server: Server) -> dict[str, str]:
        raise AssertionError("asked for a nats:// URL")

    async with open_nats(nats_server.url, websocket=WebSocketOptions(headers=headers)) as nc:
        await nc.flush()


# --- secrets --------------------------------------------------------------------------------------


async def test_headers_and_queries_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in what an error says nor in the variables along its traceback."""
    import traceback

    options = WebSocketOptions(headers={"Authorization": "Bearer s3cret-h"})
    assert "s3cret" not in repr(options)
    scripts = [
        answers(http("401 Who are you?")),
        # Some quote what they did not like.
        answers(http("401 No", body="Bearer realm; invalid token s3cret-h")),
        answers(http("404 No", body="cannot get /?token=s3cret-q")),
        stall_at_once(),
        answers(b"garbage"),
    ]
    with caplog.at_level(logging.DEBUG):
        for script in scripts:
            async with ScriptedServer(script) as server:
                url = f"ws://127.0.0.1:{server.port}/?token=s3cret-q"
                attempt = await failure(url, websocket=options, connect_timeout=1)
                assert isinstance(attempt.error, NatsError)
                shown = "".join(
                    traceback.TracebackException.from_exception(
                        attempt.error, capture_locals=True
                    ).format()
                )
                assert "s3cret-h" not in shown
                assert "s3cret" not in str(attempt)
    assert "s3cret" not in caplog.text


# --- without the extra ----------------------------------------------------------------------------


def test_without_wsproto_the_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wsproto", None)
    for url in ("ws://h", "wss://h"):
        with pytest.raises(ConfigurationError, match=r"pip install 'trio-nats\[ws\]'"):
            open_nats(url)
    open_nats("nats://h", websocket=WebSocketOptions())


@pytest.mark.slow
def test_wsproto_is_imported_only_by_those_who_need_it() -> None:
    code = (
        "import sys, trio, trio_nats\n"
        "trio_nats.open_nats('ws://h')\n"
        "async def main():\n"
        "    try:\n"
        "        async with trio_nats.open_nats('nats://127.0.0.1:1'): pass\n"
        "    except trio_nats.ConnectError: pass\n"
        "trio.run(main)\n"
        "assert 'wsproto' not in sys.modules and 'h11' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_trusting_is_for_tls_only() -> None:
    assert trusting("ws://h") is None
