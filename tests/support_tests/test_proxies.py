"""What the proxies do to connections, and what they record of them."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.certs import Certificate, certificates, client_context, server_context
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, ScriptedServer
from tests.support.proxies import PlainProxy, TLSTerminatingProxy
from tests.support.tls_records import is_only_tls_records

CERTS = certificates()


async def echo(peer: Peer) -> None:
    while data := await peer.receive():
        await peer.send(data)


async def dial(proxy: PlainProxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def echoed(stream: trio.abc.Stream, data: bytes) -> None:
    """Say ``data`` and hear it again."""
    await stream.send_all(data)
    heard = b""
    while len(heard) < len(data):
        more = await stream.receive_some()
        assert more, f"the stream ended after {heard!r}"
        heard += more
    assert heard == data


async def test_both_directions_are_recorded() -> None:
    async with no_leaks(), ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        async with await dial(proxy) as first, await dial(proxy) as second:
            await echoed(first, b"one")
            await echoed(second, b"two")
            assert sorted([bytes(link.to_server) for link in proxy.links]) == [b"one", b"two"]
            assert proxy.to_client == proxy.to_server
        for link in proxy.links:
            await link.closed.wait()


async def test_pieces() -> None:
    async with ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        proxy.chunk = 1
        async with await dial(proxy) as stream:
            await echoed(stream, b"in pieces")
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.raw_bytes == b"in pieces"


async def test_delay(autojump_clock: trio.testing.MockClock) -> None:
    async with ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        proxy.delay = 100
        async with await dial(proxy) as stream:
            before = trio.current_time()
            await echoed(stream, b"late")
            assert trio.current_time() - before >= 200


@pytest.mark.parametrize("reset", [False, True])
async def test_cut(reset: bool) -> None:
    async with ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        async with await dial(proxy) as stream:
            await echoed(stream, b"whole")
            proxy.cut(reset=reset)
            if reset:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            else:
                assert await stream.receive_some() == b""
            await (await server.peer()).finished.wait()
            await proxy.links[0].closed.wait()
        # New connections are as good as ever.
        async with await dial(proxy) as stream:
            await echoed(stream, b"again")


async def test_swallowing(autojump_clock: trio.testing.MockClock) -> None:
    async with ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        async with await dial(proxy) as stream:
            await echoed(stream, b"heard")
            proxy.swallow = True
            await stream.send_all(b"unheard")
            with trio.move_on_after(1000) as waiting:
                await stream.receive_some()
            assert waiting.cancelled_caught
            assert (await server.peer()).raw_bytes == b"heard"
            # It was held up, not lost.
            proxy.swallow = False
            assert await stream.receive_some() == b"unheard"
            proxy.swallow = True
            proxy.cut()
            assert await stream.receive_some() == b""


async def test_refusing() -> None:
    async with ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        async with await dial(proxy) as old:
            await echoed(old, b"before")
            proxy.refuse()
            with pytest.raises(OSError, match="all attempts to connect"):
                await dial(proxy)
            await echoed(old, b"old connections stay")
            proxy.accept()
            async with await dial(proxy) as new:
                await echoed(new, b"after")


async def test_the_server_behind_is_away() -> None:
    async with ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
        server.refuse()
        async with await dial(proxy) as stream:
            assert await stream.receive_some() == b""


async def test_an_exception_of_the_body_leaves_as_itself() -> None:
    error = ValueError("the body's")
    with pytest.raises(ValueError, match="the body's") as caught:
        async with no_leaks(), ScriptedServer(echo) as server, PlainProxy(server.port) as proxy:
            async with await dial(proxy) as stream:
                await echoed(stream, b"busy")
                raise error
    assert caught.value is error


def secure(
    stream: trio.abc.Stream, certificate: Certificate | None = None
) -> trio.SSLStream[trio.abc.Stream]:
    context = client_context(CERTS.ca_file, certificate)
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)


async def test_tls_ends_at_the_proxy() -> None:
    context = server_context(CERTS.server)
    async with (
        no_leaks(),
        ScriptedServer(echo) as server,
        TLSTerminatingProxy(server.port, context) as proxy,
        # Before it, another one that sees what passes on the network.
        PlainProxy(proxy.port) as wire,
    ):
        async with await dial(wire) as stream:
            await echoed(secure(stream), b"a secret")
        peer = await server.peer()
        await peer.finished.wait()
        assert peer.plain_bytes == b"a secret" == proxy.to_server == proxy.to_client
        assert is_only_tls_records(wire.to_server)
        assert is_only_tls_records(wire.to_client)
        assert wire.to_server
        await wire.links[0].closed.wait()


@pytest.mark.parametrize("certificate", [None, CERTS.client_other_ca], ids=["missing", "refused"])
async def test_a_bad_client_certificate_is_answered_with_silence(
    certificate: Certificate | None,
) -> None:
    context = server_context(CERTS.server, client_ca_file=CERTS.ca_file)
    async with ScriptedServer(echo) as server, TLSTerminatingProxy(server.port, context) as proxy:
        async with await dial(proxy) as stream:
            tls = secure(stream, certificate)
            await tls.do_handshake()
            # No alert, as that would be an ssl.SSLError.
            assert await tls.receive_some() == b""
        async with await dial(proxy) as stream:
            await echoed(secure(stream, CERTS.client), b"welcome")
        assert len(server.peers) == 1
