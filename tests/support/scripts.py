"""Scripts for :class:`tests.support.peer.ScriptedServer`: servers of every kind, and hostile ones.

Each function returns a script. :data:`SERVER_KINDS` are the columns of the TLS truth table in
``docs``, with the behaviour of nats-server 2.15.1. A client must survive all the others.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from tests.support.peer import Peer, PeerGone, Script, info_line
from tests.support.tls_records import HANDSHAKE_FAILURE, HANDSHAKE_RECORD, server_flight

UNKNOWN_OPERATION: Final = b"-ERR 'Unknown Protocol Operation'\r\n"
"""The response of a server without TLS to a ClientHello."""

HTTP_ANSWER: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

GARBAGE: Final = bytes(range(256)) * 4


# -- correct servers -----------------------------------------------------------------------------


def session(then: Callable[[Peer], Awaitable[object]] = Peer.serve, **info: Any) -> Script:
    """A server that accepts the client without TLS, and then runs ``then``."""

    async def script(peer: Peer) -> None:
        await peer.send_info(**info)
        await peer.accept_connect()
        await then(peer)

    return script


def no_tls(**info: Any) -> Script:
    """A server without a ``tls`` block."""

    async def script(peer: Peer) -> None:
        await peer.send_info(**info)
        if await _speaks_tls(peer):
            await peer.send(UNKNOWN_OPERATION)
            await peer.hang_up()
        else:
            await _session(peer)

    return script


def tls_available(context: ssl.SSLContext, **info: Any) -> Script:
    """``tls`` with ``allow_non_tls``: the client's first byte decides."""

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_available=True, **info)
        if await _speaks_tls(peer):
            await peer.start_tls(context)
        await _session(peer)

    return script


def tls_required(context: ssl.SSLContext, **info: Any) -> Script:
    """``tls``: plaintext after ``INFO`` is answered by closing, without ``-ERR``."""

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, **info)
        await _tls_or_nothing(peer, context)
        await _session(peer)

    return script


def tls_first(context: ssl.SSLContext, **info: Any) -> Script:
    """``handshake_first: true``, or a TLS-terminating proxy: ``INFO`` comes inside TLS only."""

    async def script(peer: Peer) -> None:
        await _tls_or_nothing(peer, context)
        await peer.send_info(**{"tls_required": True, **info})
        await _session(peer)

    return script


def tls_auto(context: ssl.SSLContext, *, silence: float = 0.05, **info: Any) -> Script:
    """``handshake_first: auto``: ``INFO`` in plaintext only after ``silence`` seconds of it."""

    async def script(peer: Peer) -> None:
        with trio.move_on_after(silence) as waiting:
            await peer.peek()
        if waiting.cancelled_caught:
            await tls_required(context, **info)(peer)
        else:
            await tls_first(context, **info)(peer)

    return script


SERVER_KINDS: Final[Mapping[str, Callable[[ssl.SSLContext], Script]]] = {
    "none": lambda context: no_tls(),
    "tls_available": tls_available,
    "tls_required": tls_required,
    "first": tls_first,
    "auto": tls_auto,
}


# -- hostile and broken servers ------------------------------------------------------------------


def inject_before_tls(context: ssl.SSLContext, extra: bytes = b"PONG\r\n") -> Script:
    """Send ``extra`` after ``INFO``, perform a correct handshake, and never answer ``PING``.

    A client that accepts data from before TLS takes the ``PONG`` for the answer.
    """

    async def script(peer: Peer) -> None:
        await peer.send(info_line(tls_required=True) + extra)
        await peer.start_tls(context)
        await peer.stall()

    return script


def refuse_then_info(*, info_first: bool = True, answer: bytes = HANDSHAKE_FAILURE) -> Script:
    """Refuse the handshake with an alert and then offer a session in plaintext."""

    async def script(peer: Peer) -> None:
        if info_first:
            await peer.send_info(tls_required=True)
        await peer.refuse_tls(answer + info_line())
        await peer.stall()

    return script


def untrusted_then_info(context: ssl.SSLContext, *, info_first: bool = True) -> Script:
    """Present a certificate the client must reject, and then offer a session in plaintext."""

    async def script(peer: Peer) -> None:
        if info_first:
            await peer.send_info(tls_required=True)
        try:
            await peer.start_tls(context)
        except trio.BrokenResourceError:
            await peer.send_info()
            await peer.stall()
        else:
            raise AssertionError("the client accepted a certificate it must reject")

    return script


def cut_in_handshake(
    context: ssl.SSLContext, *, keep: int = 100, reset: bool = False, info_first: bool = True
) -> Script:
    """Send ``keep`` bytes of the server's first flight, and close (or reset) the connection."""

    async def script(peer: Peer) -> None:
        if info_first:
            await peer.send_info(tls_required=True)
        hello = await peer.receive_client_hello()
        await peer.send(server_flight(context, hello)[:keep])
        if reset:
            peer.abort()
        else:
            await peer.hang_up()

    return script


def stall_at_once() -> Script:
    """Accept the connection and send nothing."""
    return _after(b"", Peer.stall)


def stall_after_info(**info: Any) -> Script:
    """Send ``INFO`` and nothing more: neither TLS nor ``PONG``."""
    return _after(info_line(**info), Peer.stall)


def close_at_once(*, reset: bool = False) -> Script:
    """Accept the connection and close it."""

    async def script(peer: Peer) -> None:
        await _end(peer, reset)

    return script


def close_after_info(*, reset: bool = False, **info: Any) -> Script:
    """Send ``INFO`` and close, like a proxy whose backend has died."""

    async def script(peer: Peer) -> None:
        await peer.send_info(**info)
        await _end(peer, reset)

    return script


def close_after_tls(context: ssl.SSLContext, *, info_first: bool = True) -> Script:
    """Finish the handshake and close silently, as nginx rejects a client certificate."""

    async def script(peer: Peer) -> None:
        if info_first:
            await peer.send_info(tls_required=True)
        await peer.start_tls(context)
        await peer.hang_up()

    return script


def endless_info(chunk: int = 65536) -> Script:
    """Send an ``INFO`` line that never ends. A client must give up before it runs out of memory."""

    async def script(peer: Peer) -> None:
        await peer.send(b'INFO {"server_id":"')
        while True:
            await peer.send(b"A" * chunk)

    return script


def info_then(extra: bytes, **info: Any) -> Script:
    """Send ``INFO`` and ``extra`` in one segment."""
    return _after(info_line(**info) + extra, Peer.stall)


def says(data: bytes) -> Script:
    """Send ``data`` instead of ``INFO``, such as :data:`GARBAGE`, and close the connection."""
    return _after(data, Peer.hang_up)


def refuse_connect(error: str) -> Script:
    """Answer ``CONNECT`` with ``-ERR``, such as ``"Authorization Violation"``, and close."""

    async def script(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect(pong=False)
        await peer.send(b"-ERR '" + error.encode() + b"'\r\n")
        await peer.hang_up()

    return script


# -- parts ---------------------------------------------------------------------------------------


def _after(data: bytes, then: Script) -> Script:
    async def script(peer: Peer) -> None:
        if data:
            await peer.send(data)
        await then(peer)

    return script


async def _speaks_tls(peer: Peer) -> bool:
    return (await peer.peek())[:1] == bytes([HANDSHAKE_RECORD])


async def _tls_or_nothing(peer: Peer, context: ssl.SSLContext) -> None:
    if not await _speaks_tls(peer):
        await peer.hang_up()
        raise PeerGone("the client sent plaintext instead of a ClientHello")
    await peer.start_tls(context)


async def _session(peer: Peer) -> None:
    await peer.accept_connect()
    await peer.serve()


async def _end(peer: Peer, reset: bool) -> None:
    if reset:
        peer.abort()
    else:
        await peer.hang_up()
