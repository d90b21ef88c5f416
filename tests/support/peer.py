"""A NATS server that runs a *script* written in the test, which controls every byte.

A script is an async function of one :class:`Peer`, the server's end of one connection::

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True)
        await peer.start_tls(server_context(certificates().server))
        await peer.accept_connect()
        await peer.serve()

    async with ScriptedServer(script) as server:
        ...                                   # connect to server.port
        peer = await server.peer(0)
        assert peer.plain_bytes == b""        # nothing left the client outside TLS

A script ends without failing when the client goes away.
:mod:`tests.support.scripts` has ready-made scripts.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

import trio
import trio.testing

from tests.support.background import Background, LoopbackServer, PeerGone, close_now, is_gone
from tests.support.tls_records import (
    HANDSHAKE_FAILURE,
    is_only_tls_records,
    split_tls_records,
)
from tests.support.websocket import WebSocketEnd

__all__ = ["MemoryPeer", "Peer", "PeerGone", "Script", "ScriptedServer", "info_line"]
__all__ += ["is_only_tls_records"]

Happening: TypeAlias = tuple[
    Literal["received", "sent", "tls-begun", "tls-done", "tls-failed", "eof"], bytes
]


def info_line(**overrides: Any) -> bytes:
    """Return the ``INFO`` of a plain nats-server. An override of ``None`` omits the field."""
    info: dict[str, Any] = {
        "server_id": "N" + "A" * 55,
        "server_name": "scripted",
        "version": "2.15.1",
        "proto": 1,
        "git_commit": "0000000",
        "go": "go1.24",
        "host": "0.0.0.0",
        "port": 4222,
        "headers": True,
        "max_payload": 1048576,
        "client_id": 1,
        "client_ip": "127.0.0.1",
    }
    info.update(overrides)
    shown = {key: value for key, value in info.items() if value is not None}
    return b"INFO " + json.dumps(shown).encode() + b" \r\n"


class RecordedStream(trio.abc.Stream):
    """The raw stream of a peer. It records all data, and received data can be put back."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._returned = b""
        self.received = bytearray()
        self.happenings: list[Happening] = []

    def unread(self, data: bytes) -> None:
        """Put back data that was read too early, without recording it again."""
        self._returned = data + self._returned

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._returned:
            await trio.lowlevel.checkpoint()
            data, self._returned = self._returned, b""
            return data
        data = bytes(await self._stream.receive_some(max_bytes))
        self.received += data
        self.happenings.append(("received", data) if data else ("eof", b""))
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.happenings.append(("sent", bytes(data)))
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        assert isinstance(self._stream, trio.abc.HalfCloseableStream)
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self, *, reset: bool = False) -> None:
        close_now(self._stream, reset=reset)


class Peer:
    """The server's end of one connection, as a script sees it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.raw = RecordedStream(stream)
        """The bytes on the wire, below TLS and WebSocket."""

        self._buffer = b""
        self._tls_from: int | None = None
        self._failed_at: int | None = None
        self.tls: trio.SSLStream[RecordedStream] | None = None
        """The TLS stream, once :meth:`start_tls` has succeeded."""

        self.server_name: str | None = None
        """The name the client asked for (SNI)."""

        self.websocket: WebSocketEnd | None = None
        """The WebSocket, once :meth:`start_websocket` has been called."""

        self.connect: dict[str, Any] = {}
        """The JSON of the last ``CONNECT`` seen."""

        self.lines: list[bytes] = []
        """Every protocol line read, without its CRLF."""

        self.payloads: list[bytes] = []
        """The payloads (of HPUB: headers and all) that followed those lines in :meth:`serve`."""

        self.error: BaseException | None = None
        """The exception that ended the script, if any."""

        self.finished = trio.Event()
        """Set when the script is over."""

    # -- recorded data -------------------------------------------------------------------------

    @property
    def happenings(self) -> list[Happening]:
        """All events on the raw stream in order, with or without TLS."""
        return self.raw.happenings

    @property
    def raw_bytes(self) -> bytes:
        """Every byte received on the raw stream."""
        return bytes(self.raw.received)

    @property
    def plain_bytes(self) -> bytes:
        """The raw bytes received before the TLS handshake began; all of them if it never did."""
        return self.raw_bytes[: self._tls_from]

    @property
    def tls_bytes(self) -> bytes:
        """The raw bytes received since the handshake began, whether or not it succeeded."""
        return b"" if self._tls_from is None else self.raw_bytes[self._tls_from :]

    @property
    def plain_after_tls_failure(self) -> bytes:
        """The raw bytes received after a handshake failed, which may only be TLS records.

        Bytes that arrived together with the failure count unless they belong to a TLS record.
        """
        if self._tls_from is None or self._failed_at is None:
            return b""
        _, rest = split_tls_records(self.raw_bytes[self._tls_from : self._failed_at])
        return rest + self.raw_bytes[self._failed_at :]

    # -- bytes ---------------------------------------------------------------------------------

    @property
    def _stream(self) -> trio.abc.Stream:
        return self.websocket or self.tls or self.raw

    async def send(self, data: bytes) -> None:
        """Send ``data`` in one write, through TLS once that has started."""
        await self._stream.send_all(data)

    async def receive(self) -> bytes:
        """Receive some data; ``b""`` at the end."""
        data = await self.peek()
        self._buffer = b""
        return data

    async def peek(self) -> bytes:
        """Return the same as :meth:`receive` without consuming it."""
        if not self._buffer:
            self._buffer = bytes(await self._stream.receive_some())
        return self._buffer

    async def receive_exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._receive_more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    async def expect_line(self, prefix: bytes = b"") -> bytes:
        """Receive a line and return it without its CRLF. It must start with ``prefix``."""
        while b"\r\n" not in self._buffer:
            # Check early, so that a test does not hang on a line that never ends.
            assert self._buffer[: len(prefix)] == prefix[: len(self._buffer)], (
                f"expected a line starting with {prefix!r}, received {self._buffer[:200]!r}"
            )
            await self._receive_more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        assert line.startswith(prefix), f"expected {prefix!r}, received {line[:200]!r}"
        self.lines.append(line)
        return line

    async def _receive_more(self) -> None:
        data = await self._stream.receive_some()
        if not data:
            raise PeerGone(f"end of stream after {self._buffer[:200]!r}")
        self._buffer += data

    # -- NATS ----------------------------------------------------------------------------------

    async def send_info(self, **overrides: Any) -> None:
        """Send :func:`info_line`."""
        await self.send(info_line(**overrides))

    async def accept_connect(self, *, pong: bool = True) -> Mapping[str, Any]:
        """Receive ``CONNECT`` and its PINGs, and answer. Return the fields of ``CONNECT``."""
        line = await self.expect_line(b"CONNECT ")
        self.connect = json.loads(line.removeprefix(b"CONNECT "))
        for _ in range(2):
            await self.expect_line(b"PING")
        if pong:
            await self.send(b"PONG\r\n" * 2)
        return self.connect

    async def serve(self) -> None:
        """Answer every ``PING`` and record everything else, until the client closes."""
        while await self.peek():
            line = await self.expect_line()
            operation, *arguments = line.split() or [b""]
            if operation.upper() == b"PING":
                await self.send(b"PONG\r\n")
            elif operation.upper() in (b"PUB", b"HPUB"):
                self.payloads.append((await self.receive_exactly(int(arguments[-1]) + 2))[:-2])

    # -- TLS -----------------------------------------------------------------------------------

    async def start_tls(self, context: ssl.SSLContext, *, alert: bool = True) -> None:
        """Perform the server's side of the handshake, including bytes that were read too early.

        If it fails, the peer sends an alert and continues in plaintext. OpenSSL and nats-server
        send that alert, but Trio does not; ``alert=False`` behaves like Trio.
        """
        self._begin_tls()
        self.raw.unread(self._buffer)
        self._buffer = b""
        context.sni_callback = self._note_server_name
        stream = trio.SSLStream(self.raw, context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            self._fail_tls(repr(error.__cause__).encode())
            if alert:
                await self._send_or_ignore(stream._outgoing.read())
            raise
        self.happenings.append(("tls-done", b""))
        self.tls = stream

    async def receive_client_hello(self) -> bytes:
        """Receive the ClientHello and do not answer it. The script must do the rest itself."""
        self._begin_tls()
        while not split_tls_records(self._buffer)[0]:
            assert is_only_tls_records(self._buffer), f"no ClientHello: {self._buffer[:200]!r}"
            await self._receive_more()
        records, _ = split_tls_records(self._buffer)
        return await self.receive_exactly(len(records[0]))

    async def refuse_tls(self, answer: bytes = HANDSHAKE_FAILURE) -> None:
        """Answer the ClientHello with a fatal alert and continue in plaintext."""
        await self.receive_client_hello()
        self._fail_tls(b"refused")
        await self.send(answer)

    def _begin_tls(self) -> None:
        self._tls_from = len(self.raw.received) - len(self._buffer)
        self.happenings.append(("tls-begun", b""))

    def _fail_tls(self, why: bytes) -> None:
        self._failed_at = len(self.raw.received) - len(self._buffer)
        self.happenings.append(("tls-failed", why))

    def _note_server_name(self, tls: object, name: str | None, context: object) -> None:
        self.server_name = name

    async def _send_or_ignore(self, data: bytes) -> None:
        try:
            await self.raw.send_all(data)
        except trio.BrokenResourceError:
            pass

    # -- WebSocket -----------------------------------------------------------------------------

    async def start_websocket(self, *, compression: bool = False) -> None:
        """Accept the client's upgrade. From then on, bytes are sent in binary messages.

        To send frames by hand instead, see :mod:`tests.support.websocket`.
        """
        end = WebSocketEnd(self._stream, compression=compression)
        early, self._buffer = self._buffer, b""
        await end.accept(early)
        self.websocket = end

    async def receive_request(self) -> tuple[bytes, dict[bytes, bytes]]:
        """Receive an HTTP request: its first line and its headers, with names in lower case."""
        while b"\r\n\r\n" not in self._buffer:
            await self._receive_more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *rest = head.split(b"\r\n")
        pairs = (line.split(b": ", 1) for line in rest)
        return first, {name.lower(): value for name, value in pairs}

    # -- endings -------------------------------------------------------------------------------

    async def stall(self) -> None:
        """Send nothing more, but read and record until the client closes."""
        self._buffer = b""
        try:
            while await self.raw.receive_some():
                pass
        except trio.BrokenResourceError:
            pass

    async def hang_up(self) -> None:
        """Close the sending direction, and wait until the client closes.

        A plain :meth:`close` would sometimes be a reset, if the kernel has unread bytes.
        """
        await self.raw.send_eof()
        await self.stall()

    def close(self) -> None:
        """Close the connection at once, without a TLS close_notify."""
        self.raw.close()

    def abort(self) -> None:
        """Reset the connection: the client's next read or write fails."""
        self.raw.close(reset=True)

    async def play(self, script: Script) -> None:
        """Run ``script``. It is not an error if the client closes the connection."""
        try:
            await script(self)
        except BaseException as error:
            self.error = error
            if not is_gone(error):
                raise
        finally:
            self.finished.set()


Script: TypeAlias = Callable[[Peer], Awaitable[object]]


class ScriptedServer(LoopbackServer):
    """A scripted server on a real port: the n-th connection gets the n-th script, or the last."""

    def __init__(self, *scripts: Script) -> None:
        super().__init__()
        assert scripts, "a scripted server needs a script"
        self._scripts = scripts
        self._arrival = trio.Event()
        self.peers: list[Peer] = []
        """The server's ends of all connections so far, in order of arrival."""

    async def peer(self, index: int = 0) -> Peer:
        """Wait for the ``index``-th connection."""
        while len(self.peers) <= index:
            await self._arrival.wait()
        return self.peers[index]

    async def _handle(self, stream: trio.SocketStream) -> None:
        script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
        peer = Peer(stream)
        self.peers.append(peer)
        self._arrival.set()
        self._arrival = trio.Event()
        await peer.play(script)


class MemoryPeer(Background):
    """A scripted server without a network, for tests with a mock clock. Use its ``client``."""

    def __init__(self, script: Script) -> None:
        super().__init__()
        self._script = script
        ends = (trio.socket.from_stdlib_socket(end) for end in socket.socketpair())
        self.client, self._end = map(trio.SocketStream, ends)
        self.peer = Peer(self._end)

    async def _start(self) -> None:
        self._nursery.start_soon(self._play)

    async def _play(self) -> None:
        try:
            await self._run(lambda: self.peer.play(self._script))
        finally:
            close_now(self._end)

    def _stop(self) -> None:
        close_now(self.client)
