"""Compression of WebSocket messages (permessage-deflate, RFC 7692), in bounded memory.

wsproto has an implementation, but it inflates all received data at once, and a few kilobytes can
inflate to megabytes. This one keeps received messages compressed, and inflates them piece by piece
as they are read.
"""

from __future__ import annotations

import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import RemoteProtocolError

__all__ = ["Deflate"]

_TAIL = b"\x00\x00\xff\xff"
"""The constant end of every compressed message, which senders omit."""
_THRESHOLD = 64
"""Minimum size of a message to compress, as in nats-server."""
_LEVEL = 1
"""Compression level, as in nats.go: speed matters more than the last few per cent of size."""


class Deflate(Extension):
    """The client's side of the extension. Each message is compressed on its own.

    nats-server requires that. It also saves each side 32 KiB or more per direction.
    """

    name = "permessage-deflate"

    # Created when the server has accepted, because together they take 300 KiB.
    _deflater: zlib._Compress
    _inflater: zlib._Decompress

    def __init__(self) -> None:
        self._enabled = False
        self._no_context_takeover = False
        """Whether messages of the server do not refer to earlier ones."""
        self._input = b""
        self._final = False
        self.inflating: bool = False
        """Whether :meth:`inflate` may return more."""
        self.compressed: bool = False
        """Whether the message being received is compressed."""

    # --- negotiation ------------------------------------------------------------------------------

    def enabled(self) -> bool:
        """Return whether the server has accepted the extension."""
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
                self._no_context_takeover = True
            elif name.strip() == "server_max_window_bits":
                # Our window is the largest one, which can inflate data of any window size.
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
        """Note whether a message is compressed, as its first frame says."""
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
        """Return the next ``limit`` bytes, or fewer (possibly none) at the end of the data.

        :raises zlib.error: if the data is invalid.
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
                if self._final and self._no_context_takeover:
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
        """Compress a message, which is always one frame here, if that makes it smaller."""
        if opcode is not Opcode.BINARY or len(data) < _THRESHOLD:
            return rsv, data
        # A full flush resets the compressor, so it is safe to discard the result.
        deflated = self._deflater.compress(data) + self._deflater.flush(zlib.Z_FULL_FLUSH)
        if len(deflated) - len(_TAIL) >= len(data):
            return rsv, data
        return RsvBits(True, rsv.rsv2, rsv.rsv3), deflated[: -len(_TAIL)]
