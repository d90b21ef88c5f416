"""The TLS handshake, and the one plaintext line that may precede it.

Theory of operation. A server with TLS sends INFO in plaintext and then waits for the client to
start the handshake. With ``handshake_first`` it waits without sending anything. A client cannot
tell the two apart in advance, so it starts the handshake immediately ("optimistic TLS"). If the
first bytes received are an INFO line, exactly this line is removed, and the handshake continues.
Any other plaintext ahead of the handshake is an attack, or the peer does not speak TLS.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence

import trio

from .._protocol.info import decode_info
from .._protocol.parser import error_text, excerpt
from .._protocol.server_errors import server_error
from ..errors import (
    NoInfoError,
    ProtocolError,
    TLSConfigurationError,
    TLSHandshakeError,
    TLSInjectionError,
    TLSNotOfferedError,
)
from ..options import TLSMode
from ..server_info import ServerInfo
from .tls_info import CertificateNames, presented_names

__all__ = ["LeadingInfoStream", "read_info", "start_tls"]

logger = logging.getLogger("trio_nats.tls")

# The types of TLS records that a server may begin with: change_cipher_spec, alert, handshake.
_TLS_RECORDS = frozenset((0x14, 0x15, 0x16))
_INFO, _ERR = b"INFO ", b"-ERR "
# A server that has reached its max_connections sends -ERR without waiting for the handshake.
_REJECTED = (
    "A server that rejects clients may say so in plaintext, but so can an attacker on the network "
    "path; the connection was closed"
)
_READ = 16 * 1024


async def read_info(
    stream: trio.abc.ReceiveStream, limit: int, received: bytes = b""
) -> tuple[ServerInfo, bytes, int]:
    """Read the INFO line.

    :param received: bytes that have been read already.
    :returns: INFO, the bytes that followed the line, and the size of the line in bytes.
    :raises NoInfoError: if the peer sends anything else first, or closes the connection.
    :raises ProtocolError: if INFO is malformed or longer than ``limit`` bytes.
    :raises ServerReportedError: if the server sends ``-ERR`` instead, for example when it is busy.
    """
    buffer = bytearray(received)
    searched = 0
    while (end := buffer.find(b"\r\n", searched)) < 0:
        if not _INFO.startswith(buffer[:5]) and not _ERR.startswith(buffer[:5]):
            break
        if len(buffer) > limit:
            raise ProtocolError(
                f"the server's first line is longer than the limit for INFO, {limit:,} bytes"
            )
        searched = max(0, len(buffer) - 1)
        data = await stream.receive_some(_READ)
        if not data:
            if buffer.startswith(_ERR):
                break
            raise NoInfoError(
                "the peer closed the connection before its INFO was complete"
                if buffer
                else "the peer closed the connection without sending INFO",
                closed=True,
            )
        buffer += data
    if buffer.startswith(_ERR):
        raise server_error(error_text(bytes(buffer[4:] if end < 0 else buffer[4:end])))
    if not buffer.startswith(_INFO):
        began = excerpt(bytes(buffer[:61]))
        raise NoInfoError(f"the peer did not begin with INFO, but with {began}")
    return decode_info(bytes(buffer[5:end])), bytes(buffer[end + 2 :]), end + 2


class LeadingInfoStream(trio.abc.Stream):
    """The stream below a client's TLS. Removes one leading INFO line from the received bytes.

    Once TLS has begun, it costs one comparison per read.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        server: str,
        mode: TLSMode,
        tls_reason: str,
        limit: int,
        info: ServerInfo | None = None,
    ) -> None:
        self._stream = stream
        self._server = server
        self._mode = mode
        self._tls_reason = tls_reason
        self._limit = limit
        self._began_tls = False
        self.info_size: int = 0
        """Size in bytes of the INFO line that was removed."""
        self.info = info
        """The INFO that arrived before the handshake, whether read by the caller or removed
        here."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See :meth:`trio.abc.ReceiveStream.receive_some`."""
        if self._began_tls:
            return await self._stream.receive_some(max_bytes)
        data = bytes(await self._stream.receive_some(_READ))
        if data[:1] == b"I" and self.info is None:
            data = await self._take_info(data)
        if data and data[0] not in _TLS_RECORDS:
            raise self._not_tls(data)
        self._began_tls = True
        return data

    async def _take_info(self, data: bytes) -> bytes:
        if self._mode is TLSMode.IMPLICIT:
            raise TLSHandshakeError(
                f"{self._server} spoke first, in plaintext, but TLS mode IMPLICIT expects the TLS "
                "handshake before anything else; use REQUIRE, which accepts both kinds of servers"
            )
        info, rest, self.info_size = await read_info(self._stream, self._limit, data)
        if not info.offers_tls:
            raise TLSNotOfferedError(
                f"{self._server} offers no TLS, but TLS is required {self._tls_reason}; nothing "
                "was sent in plaintext. Enable TLS in the server, or, if plaintext is acceptable, "
                "open a connection to nats:// with PREFER or DISABLE"
            )
        self.info = info
        return rest or bytes(await self._stream.receive_some(_READ))

    def _not_tls(self, data: bytes) -> Exception:
        if self.info is not None:
            return injected(self._server, data)
        if data.startswith(_ERR):
            return TLSHandshakeError(
                f"{self._server} answered the handshake in plaintext: {excerpt(data)}. {_REJECTED}"
            )
        return TLSHandshakeError(
            f"{self._server} does not speak TLS: it answered the handshake with {excerpt(data)}"
        )

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See :meth:`trio.abc.SendStream.send_all`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See :meth:`trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """See :meth:`trio.abc.AsyncResource.aclose`."""
        await self._stream.aclose()


def injected(server: str, data: bytes) -> TLSInjectionError:
    """Return the error for plaintext where only TLS is allowed."""
    what = (
        "Someone on the network path may have injected it; the connection was closed and the data "
        "ignored"
    )
    return TLSInjectionError(
        f"{server} sent plaintext between INFO and the TLS handshake: {excerpt(data)}. "
        f"{_REJECTED if data.startswith(_ERR) else what}"
    )


class _EagerSSLObject(ssl.SSLObject):
    """Reads all received records at once. Its base class reads one record, of at most 16 KiB.

    Each read costs Trio a scheduler step, which takes longer than decrypting a record.
    """

    _failure: ssl.SSLError | None = None

    # Trio passes the size by position. Its real name would shadow a built-in.
    def read(self, size: int = 1024, buffer: object = None) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See :meth:`ssl.SSLObject.read`."""
        assert buffer is None, "Trio passes none"
        if self._failure is not None:
            raise self._failure
        parts: list[bytes] = []
        while size > 0:
            try:
                data = super().read(size)
            except ssl.SSLError as error:
                if not parts:
                    raise
                if not isinstance(error, ssl.SSLWantReadError):
                    self._failure = error
                break
            parts.append(data)
            if not data:
                break
            size -= len(data)
        return b"".join(parts)


async def start_tls(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    server_hostname: str,
    on_refused: Callable[[CertificateNames | None], None],
) -> tuple[trio.SSLStream[trio.abc.Stream], Sequence[bytes]]:
    """Handshake as a client.

    If it fails or is cancelled, the caller must close ``stream``.

    :param on_refused: called with the names in a server's certificate that is not accepted.
    :returns: the encrypted stream, and the certificates of the issuers of the server's certificate.
    :raises TLSConfigurationError: if the context or the name cannot be used.
    :raises trio.BrokenResourceError: if the handshake fails.
    """
    handshaken: list[ssl.SSLObject] = []

    # Trio does not expose its SSLObject, which has the chain. The context has a documented hook.
    class Recording(_EagerSSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except ssl.SSLCertVerificationError:
                on_refused(presented_names(self))
                raise
            handshaken.append(self)

    previous = context.sslobject_class
    context.sslobject_class = Recording
    try:
        wrapped = trio.SSLStream(
            stream, context, server_hostname=server_hostname, https_compatible=True
        )
    except ssl.SSLError as error:
        raise TLSConfigurationError(f"the TLS context must be one for clients: {error}") from error
    except (ValueError, TypeError) as error:
        # OpenSSL refuses the name, for example because of a leading dot.
        raise TLSConfigurationError(
            f"{server_hostname!r} cannot be verified as a host name"
        ) from error
    finally:
        context.sslobject_class = previous
    await wrapped.do_handshake()
    return wrapped, _issuers(handshaken[0])


def _issuers(ssl_object: ssl.SSLObject) -> Sequence[bytes]:
    verified = ssl_object.context.verify_mode is not ssl.CERT_NONE
    name = "get_verified_chain" if verified else "get_unverified_chain"
    get_chain: Callable[[], list[bytes] | None] | None = getattr(ssl_object, name, None)
    return () if get_chain is None else (get_chain() or [])[1:]  # Python 3.13 or later
