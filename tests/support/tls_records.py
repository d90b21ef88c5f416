"""Tell TLS records from plaintext (RFC 8446, section 5.1), and forge handshake messages."""

from __future__ import annotations

import ssl
from typing import Final

__all__ = ["HANDSHAKE_FAILURE", "HANDSHAKE_RECORD", "client_hello", "is_only_tls_records"]
__all__ += ["server_flight", "split_tls_records"]

HANDSHAKE_RECORD: Final = 0x16
"""The first byte of a ClientHello; no NATS operation begins with it."""

HANDSHAKE_FAILURE: Final = b"\x15\x03\x03\x00\x02\x02\x28"
"""A fatal alert record, as a server sends it to reject a ClientHello."""

_HEADER = 5
_RECORD_TYPES = range(0x14, 0x18)
# A ciphertext record may be 256 bytes longer than a plaintext one in TLS 1.3, 2048 in TLS 1.2.
_MAX_BODY = 2**14 + 2048


def split_tls_records(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete TLS records at the start of ``data``, and the rest.

    The rest may be the beginning of another record, or not TLS at all.
    """
    records = []
    while len(data) >= _HEADER and _starts_record(data):
        end = _HEADER + int.from_bytes(data[3:5], "big")
        if len(data) < end:
            break
        records.append(data[:end])
        data = data[end:]
    return records, data


def is_only_tls_records(data: bytes) -> bool:
    """Whether ``data`` is a sequence of TLS records, the last of which may be incomplete.

    True for no bytes at all.
    """
    _, rest = split_tls_records(data)
    return _starts_record(rest)


def client_hello(server_hostname: str = "localhost") -> bytes:
    """Return a ClientHello, for tests without a TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=server_hostname)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def server_flight(context: ssl.SSLContext, hello: bytes) -> bytes:
    """Return the first response of a server with ``context`` to a ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def _starts_record(data: bytes) -> bool:
    """Whether ``data``, which may be shorter than a header, can be the start of a record."""
    if data[0:1] and data[0] not in _RECORD_TYPES:
        return False
    if data[1:2] and data[1] != 3:
        return False
    # Versions 3.0 to 3.4 exist; a ClientHello has 3.1 for historical reasons.
    if data[2:3] and data[2] > 4:
        return False
    return len(data) < _HEADER or int.from_bytes(data[3:5], "big") <= _MAX_BODY
