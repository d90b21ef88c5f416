"""The server's end of a WebSocket for scripted peers, as a byte stream or frame by frame.

The stream uses wsproto. Single frames are built by hand, so that tests can send invalid ones.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Final

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
)
from wsproto.extensions import PerMessageDeflate

from tests.support.background import PeerGone

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "WebSocketEnd"]
__all__ += ["accept_key", "close_frame", "frame", "take_frames", "upgrade_response"]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketEnd(trio.abc.Stream):
    """A stream of the bytes in binary messages. Each write sends one message."""

    def __init__(self, stream: trio.abc.Stream, *, compression: bool = False) -> None:
        self._stream = stream
        self._connection = WSConnection(ConnectionType.SERVER)
        self._deflate = PerMessageDeflate() if compression else None
        self.request: Request | None = None
        """The client's upgrade request, once :meth:`accept` has received it."""

    async def accept(self, early: bytes = b"") -> None:
        """Receive the upgrade request and accept it. ``early`` was already read."""
        if early:
            self._connection.receive_data(early)
        while self.request is None:
            for event in self._connection.events():
                assert isinstance(event, Request)
                self.request = event
            if self.request is None:
                data = await self._stream.receive_some()
                if not data:
                    raise PeerGone("end of stream instead of an upgrade request")
                self._connection.receive_data(bytes(data))
        extensions = [] if self._deflate is None else [self._deflate]
        await self._stream.send_all(self._connection.send(AcceptConnection(extensions=extensions)))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            taken = b""
            for event in self._connection.events():
                if isinstance(event, BytesMessage):
                    taken += bytes(event.data)
                elif isinstance(event, Ping):
                    await self._stream.send_all(self._connection.send(event.response()))
                elif isinstance(event, CloseConnection):
                    return taken
            if taken:
                return taken
            data = await self._stream.receive_some(max_bytes)
            if not data:
                return b""
            self._connection.receive_data(bytes(data))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(self._connection.send(BytesMessage(data=bytes(data))))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


# -- by hand -------------------------------------------------------------------------------------


def accept_key(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


def upgrade_response(key: bytes, *headers: bytes) -> bytes:
    """Return the response that accepts an upgrade."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_key(key),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """Return a frame. ``rsv`` has three bits; ``length`` overrides the declared length."""
    size = len(payload) if length is None else length
    masked = 0 if mask is None else 0x80
    head = bytes([(fin << 7) | (rsv << 4) | opcode])
    if size <= 125:
        head += bytes([masked | size])
    elif size <= 0xFFFF:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    return head + (payload if mask is None else mask + _unmask(payload, mask))


def close_frame(code: int | None = None, reason: str = "") -> bytes:
    """Return a Close frame."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())


def take_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Return first byte and payload of each complete frame of a client, and the rest.

    Asserts that frames are masked.
    """
    frames = []
    while len(data) >= 6:
        assert data[1] & 0x80, "a client's frame without a mask"
        size, start = data[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        end = start + 4 + size
        if len(data) < end:
            break
        frames.append((data[0], _unmask(data[start + 4 : end], data[start : start + 4])))
        data = data[end:]
    return frames, data


def _unmask(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[position % 4] for position, byte in enumerate(payload))
