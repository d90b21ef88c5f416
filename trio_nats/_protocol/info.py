"""Reading the server's INFO."""

from __future__ import annotations

import msgspec

from ..errors import ProtocolError
from ..server_info import ServerInfo

__all__ = ["ServerInfo", "decode_info"]


_decoder = msgspec.json.Decoder(ServerInfo)


def decode_info(text: bytes) -> ServerInfo:
    """Read the JSON of an INFO line. Raises :exc:`ProtocolError` for anything else."""
    try:
        info = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the server's INFO is not what INFO should be: {error}") from None
    if info.max_payload < 0:
        raise ProtocolError(f"the server's INFO has a max_payload of {info.max_payload}")
    return info
