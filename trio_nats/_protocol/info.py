"""Decode the server's INFO. Values that are longer than those of any real server are ignored."""

from __future__ import annotations

import logging
from itertools import islice

import msgspec

from ..errors import ProtocolError
from ..server_info import ServerInfo

__all__ = ["ServerInfo", "decode_info"]

logger = logging.getLogger("trio_nats.connection")

_MAX_SERVERS = 256
_MAX_TEXT = 512
"""Maximum number of characters. The longest legitimate values are addresses, of less than 300."""

_decoder = msgspec.json.Decoder(ServerInfo)
_fields = msgspec.structs.fields(ServerInfo)


def decode_info(text: bytes) -> ServerInfo:
    """Decode the JSON of an INFO line.

    :raises ProtocolError: if it is malformed.
    """
    try:
        info = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"the server's INFO is malformed: {error}") from None
    if info.max_payload < 0:
        raise ProtocolError(f"the server's INFO has a max_payload of {info.max_payload}")
    return _bounded(info)


def _bounded(info: ServerInfo) -> ServerInfo:
    """Return ``info`` without values that are too long."""
    kept: dict[str, str | tuple[str, ...] | None] = {}
    for field in _fields:
        value = getattr(info, field.name)
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            kept[field.name] = field.default
        elif isinstance(value, tuple):
            servers = tuple(url for url in islice(value, _MAX_SERVERS) if len(url) <= _MAX_TEXT)
            if len(servers) < len(value):
                kept[field.name] = servers
    if not kept:
        return info
    logger.warning("ignoring values that are too long in the server's INFO: %s", ", ".join(kept))
    return msgspec.structs.replace(info, **kept)
