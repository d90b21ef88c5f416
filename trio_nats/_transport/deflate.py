"""Compression of WebSocket messages (permessage-deflate, RFC 7692), in bounded memory.

wsproto has an implementation, but it inflates whatever comes in one go, and a few kilobytes can
inflate to megabytes. This one leaves received messages as they came, and inflates them piece by
piece when the reader asks for more.
"""

from __future__ import annotations

import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import RemoteProtocolError

__all__ = ["Deflate"]

# What a sender leaves out at the end of each message, being always the same.
_TAIL = b"\x00\x00\xff\xff"
# Less than that is not worth it; nats-server draws the line there too.
_THRESHOLD = 64
# Speed matters more than the last few per cent; nats.go chooses the same.
_LEVEL = 1


class Deflate(Extension):
    """The client's side, each message compressed on its own.

    So neither side has to keep 32 KiB and more per direction for the life of the connection;
    nats-server insists on that too.
    """

    name = "permessage-deflate"

    # Made once the server has agreed: together they take 300 KiB.
    _deflater: zlib._Compress
    _inflater: zlib._Decompress

    def __init__(self) -> None:
        self._enabled = False
        self._forgets = False
        """Whether the server promised not to refer to earlier messages."""
        self._input = b""
        self._final = False
        self.inflating: bool = False
        """Whether there may be more to :meth:`inflate`."""
        self.compressed: bool = False
        """Whether the message that is being received is compressed."""

    # --- the agreement ----------------------------------------------------------------------------

    def enabled(self) -> bool:
        """Whether the server agreed."""
        return self._enabled

    def offer(self) -> str:
        """What the request says."""
        return "server_no_context_takeover; client_no_context_takeover"

    def finalize(self, offer: str) -> None:
        """Read what the server answered."""
        _, *parameters = (part.strip().lower() for part in offer.split(";"))
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "server_no_context_takeover" and not value:
                self._forgets = True
            elif name.strip() == "server_max_window_bits":
                # Whatever it is, a larger window inflates it just as well.
                pass
            elif name.strip() != "client_no_context_takeover" or value:
                raise RemoteProtocolError("compression on terms that were not offered")
        if self._enabled:
            raise RemoteProtocolError("compression twice")
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
        """Note whether a message is compressed, which its first frame says."""
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self.compressed = rsv.rsv1
        elif rsv.rsv1:
            return CloseReason.PROTOCOL_ERROR
        return RsvBits(True, False, False)

    def feed(self, data: bytes, final: bool) -> None:
        """More of a compressed message, after everything before has been inflated."""
        self._input = data + _TAIL if final else data
        self._final = final
        self.inflating = True

    def inflate(self, limit: int) -> bytes:
        """The next ``limit`` bytes, or fewer and perhaps none at the end of what was fed.

        Raises :exc:`zlib.error` for what is not compressed data.
        """
        pieces: list[bytes] = []
        while limit > 0:
            piece = self._inflater.decompress(self._input, limit)
            self._input = self._inflater.unconsumed_tail
            if self._inflater.eof:
                # A message may end in the middle, for deflate, and go on with another block.
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
        """Compress a message, which is always one frame here, if that makes it smaller."""
        if opcode is not Opcode.BINARY or len(data) < _THRESHOLD:
            return rsv, data
        # A full flush forgets what came before, so a result may be thrown away.
        deflated = self._deflater.compress(data) + self._deflater.flush(zlib.Z_FULL_FLUSH)
        if len(deflated) - len(_TAIL) >= len(data):
            return rsv, data
        return RsvBits(True, rsv.rsv2, rsv.rsv3), deflated[: -len(_TAIL)]
