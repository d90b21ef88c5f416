"""Compression of WebSocket messages (permessage-deflate, RFC 7692), in bounded memory.

wsproto has an implementation, but it inflates all received data at once, and a few kilobytes can
inflate to megabytes. This one keeps received messages compressed and inflates them piece by piece
as the reader asks for more.
"""

from __future__ import annotations

import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import RemoteProtocolError

__all__ = ["Deflate"]

# The constant end of every message, which senders omit.
_TAIL = b"\x00\x00\xff\xff"
# Shorter messages are not worth compressing; nats-server uses the same limit.
_THRESHOLD = 64
# Speed matters more than the last few per cent of size; nats.go uses the same level.
_LEVEL = 1


class Deflate(Extension):
    """The client's side of the extension. Each message is compressed on its own.

    Neither side then has to keep 32 KiB or more per direction for the lifetime of the connection;
    nats-server requires that too.
    """

    name = "permessage-deflate"

    # Created when the server has agreed, because together they take 300 KiB.
    _deflater: zlib._Compress
    _inflater: zlib._Decompress

    def __init__(self) -> None:
        self._enabled = False
        self._forgets = False
        """Whether the server agreed not to refer to earlier messages."""
        self._input = b""
        self._final = False
        self.inflating: bool = False
        """Whether :meth:`inflate` may return more."""
        self.compressed: bool = False
        """Whether the message being received is compressed."""

    # --- negotiation ------------------------------------------------------------------------------

    def enabled(self) -> bool:
        """Whether the server agreed."""
        return self._enabled

    def offer(self) -> str:
        """Return the parameters for the request."""
        return "server_no_context_takeover; client_no_context_takeover"

    def finalize(self, offer: str) -> None:
        """Parse the server's answer."""
        _, *parameters = (part.strip().lower() for part in offer.split(";"))
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "server_no_context_takeover" and not value:
                self._forgets = True
            elif name.strip() == "server_max_window_bits":
                # Our window is the largest, so it can inflate data of any window size.
                pass
            elif name.strip() != "client_no_context_takeover" or value:
                raise RemoteProtocolError("the answer has compression parameters we did not offer")
        if self._enabled:
            raise RemoteProtocolError("the answer accepts compression twice")
        self._enabled = True
        self._deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)

    # --- receiving --------------------------------------------------------------------------------

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """Note whether a message is compressed, as indicated by its first frame."""
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self.compressed = rsv.rsv1
        elif rsv.rsv1:
            return CloseReason.PROTOCOL_ERROR
        return RsvBits(True, False, False)

    def feed(self, data: bytes, final: bool) -> None:
        """Add data of a compressed message. All earlier data must have been inflated."""
        self._input = data + _TAIL if final else data
        self._final = final
        self.inflating = True

    def inflate(self, limit: int) -> bytes:
        """Return the next ``limit`` bytes, or fewer (perhaps none) at the end of the data.

        Raises :exc:`zlib.error` if the data is not valid compressed data.
        """
        pieces: list[bytes] = []
        while limit > 0:
            piece = self._inflater.decompress(self._input, limit)
            self._input = self._inflater.unconsumed_tail
            if self._inflater.eof:
                # A message may contain a final block and continue with another one.
                self._input = self._inflater.unused_data
                self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            pieces.append(piece)
            limit -= len(piece)
            if limit > 0 and not self._input:
                self.inflating = False
                if self._final and self._forgets:
                    self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                break
        return b"".join(pieces)

    # --- sending ----------------------------------------------------------------------------------

    def frame_outbound(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        data: bytes,
        fin: bool,
    ) -> tuple[RsvBits, bytes]:
        """Compress a message if that makes it smaller. Here a message is always one frame."""
        if opcode is not Opcode.BINARY or len(data) < _THRESHOLD:
            return rsv, data
        # A full flush resets the compressor, so it is safe to discard the result.
        deflated = self._deflater.compress(data) + self._deflater.flush(zlib.Z_FULL_FLUSH)
        if len(deflated) - len(_TAIL) >= len(data):
            return rsv, data
        return RsvBits(True, rsv.rsv2, rsv.rsv3), deflated[: -len(_TAIL)]
