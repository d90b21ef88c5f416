"""The exceptions of this package.

All of them derive from :exc:`NatsError`. If Trio has an exception for the situation, the class
derives from that one too, so code written for Trio's channels needs no second ``except``. Two
exceptions are Trio's own: using a closed connection or subscription raises
:exc:`trio.ClosedResourceError`, and the end of a subscription raises :exc:`trio.EndOfChannel`.

The texts never contain a password, token, seed, JWT or signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import trio

from ._printable import MAX_TEXT, printable_lines

__all__ = [
    "AuthenticationExpiredError",
    "AuthorizationError",
    "ClientCertificateError",
    "ConfigurationError",
    "ConnectAttempt",
    "ConnectError",
    "ConnectPhase",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "CredentialsError",
    "DecodeError",
    "EncodeError",
    "InvalidHeaderError",
    "InvalidSubjectError",
    "MaxPayloadError",
    "NatsError",
    "NoInfoError",
    "NoRespondersError",
    "OutboxFullError",
    "PermissionsViolationError",
    "PlaintextAuthError",
    "ProtocolError",
    "RequestTimeoutError",
    "ServerClosedError",
    "ServerReportedError",
    "TLSCertificateError",
    "TLSConfigurationError",
    "TLSError",
    "TLSHandshakeError",
    "TLSInjectionError",
    "TLSNotOfferedError",
    "TLSRequiredError",
    "WebSocketError",
]

_E = TypeVar("_E", bound=BaseException)

ConnectPhase = Literal["resolve", "dial", "tls", "websocket", "info", "auth", "subscribe"]
"""The phase in which an attempt to connect failed: name resolution, dialling, the TLS handshake,
the upgrade to WebSocket, waiting for the server's ``INFO``, or authentication. While moving to
another server, also subscribing there."""


class NatsError(Exception):
    """Base class of all exceptions of this package.

    Its text is printable and of bounded length, whatever a peer has sent.
    """

    def __str__(self) -> str:
        return printable_lines(super().__str__(), MAX_TEXT)

    def __reduce__(self) -> tuple[Callable[..., Exception], tuple[object, ...]]:
        # By default, copying and pickling call the class with `args`, which is only the text here.
        return _remade, (type(self), self.args, self.__dict__)


# --- bad input -----------------------------------------------------------------------------------


class ConfigurationError(NatsError, ValueError):
    """An option or a combination of options is invalid. Raised before anything is sent."""


class InvalidSubjectError(NatsError, ValueError):
    """A subject, queue group or inbox prefix is not allowed (ADR-6)."""


class InvalidHeaderError(NatsError, ValueError):
    """A header name or value is not allowed (ADR-4)."""


class MaxPayloadError(NatsError, ValueError):
    """A message, headers included, is larger than the server's ``max_payload``.

    Nothing was sent. ``size`` and ``max_payload`` are in bytes.
    """

    def __init__(self, size: int, max_payload: int) -> None:
        super().__init__(
            f"message of {size:,} bytes (headers included) is larger than the server's max_payload "
            f"of {max_payload:,} bytes; send less, split it, or raise max_payload on the server"
        )
        self.size = size
        self.max_payload = max_payload


class CredentialsError(NatsError, ValueError):
    """Credentials are malformed, unreadable or incomplete. The text does not quote them.

    ``unreadable`` is true if their file could not be read, which may succeed later.
    """

    def __init__(self, text: str, *, unreadable: bool = False) -> None:
        super().__init__(text)
        self.unreadable = unreadable


# --- opening -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectAttempt:
    """One failed attempt to connect to a server."""

    server: str
    """The server's URL without credentials."""
    phase: ConnectPhase
    """The phase in which it failed, see :data:`ConnectPhase`."""
    error: Exception
    """Why it failed."""
    address: str | None = None
    """The address that was tried, if the host name has several."""

    def __str__(self) -> str:
        where = f"{self.server} ({self.address})" if self.address is not None else self.server
        return f"{where} [{self.phase}]: {self.error}"


class ConnectError(NatsError, OSError):
    """No server could be connected to. ``attempts`` has an entry for each attempt, in order.

    ``__cause__`` is the only failure, or an :exc:`ExceptionGroup` of all of them.
    """

    def __init__(self, attempts: Sequence[ConnectAttempt]) -> None:
        self.attempts: tuple[ConnectAttempt, ...] = tuple(attempts)
        if len(self.attempts) == 1:
            text = f"cannot connect to {self.attempts[0]}"
        else:
            lines = "".join(f"\n  - {attempt}" for attempt in self.attempts)
            servers = list(dict.fromkeys(attempt.server for attempt in self.attempts))
            which = servers[0] if len(servers) == 1 else f"any of {len(servers)} servers"
            text = f"cannot connect to {which}:{lines}"
        super().__init__(text)

    def errors(self, kind: type[_E]) -> Iterator[_E]:
        """Iterate over the errors of the attempts that are instances of a class, in order.

        :param kind: the class of exceptions, subclasses included.
        :returns: an iterator over the errors.
        """
        for attempt in self.attempts:
            if isinstance(attempt.error, kind):
                yield attempt.error


class ConnectTimeoutError(NatsError, trio.TooSlowError, TimeoutError):
    """An attempt to connect, authentication included, took longer than ``connect_timeout``."""


class NoInfoError(NatsError):
    """The peer accepted the connection but did not begin with a NATS ``INFO`` line.

    ``closed`` is true if it closed the connection instead.
    """

    def __init__(self, text: str, *, closed: bool = False) -> None:
        super().__init__(text)
        self.closed = closed


class ServerClosedError(NatsError):
    """The server closed the connection during its setup, without giving a reason."""


class WebSocketError(NatsError):
    """The peer at a ``ws://`` or ``wss://`` URL refused to speak WebSocket.

    ``status`` is its HTTP status, or ``None`` if it did not answer in HTTP.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class TLSError(NatsError):
    """Base class of errors with TLS."""


class TLSConfigurationError(TLSError, ConfigurationError):
    """TLS options contradict each other or the URL, or a certificate or key cannot be loaded."""


class TLSNotOfferedError(TLSError):
    """The mode requires TLS, but the server does not offer it. Nothing was sent in plaintext."""


class TLSRequiredError(TLSError):
    """The server requires TLS, but the mode forbids it."""


class TLSHandshakeError(TLSError):
    """The TLS handshake failed. There is never a fallback to plaintext."""


class TLSCertificateError(TLSHandshakeError):
    """The server's certificate is not acceptable: unknown issuer, expired, or for another host."""


class ClientCertificateError(TLSHandshakeError):
    """The server refused the client certificate, or asked for one and got none."""


class TLSInjectionError(TLSError):
    """Plaintext arrived between ``INFO`` and the TLS handshake: the connection is being tampered
    with.
    """


class PlaintextAuthError(TLSError):
    """A replayable secret would have been sent unencrypted (``plaintext_auth="refuse"``)."""


# --- reported by the server ----------------------------------------------------------------------


class ProtocolError(NatsError):
    """The peer sent something that is not the NATS protocol, or that exceeds
    :class:`ProtocolLimits`.
    """


_MAX_SHOWN = 512


class ServerReportedError(NatsError):
    """The server sent ``-ERR``. ``message`` is its text."""

    def __init__(self, message: str, explanation: str = "") -> None:
        shown = repr(message if len(message) <= _MAX_SHOWN else message[:_MAX_SHOWN] + "...")
        super().__init__(f"server said {shown}" + (f": {explanation}" if explanation else ""))
        self.message = message
        self.explanation = explanation


class AuthorizationError(ServerReportedError):
    """The server refused the credentials."""


class AuthenticationExpiredError(AuthorizationError):
    """The credentials were accepted before, and have expired or been revoked."""


class PermissionsViolationError(ServerReportedError):
    """The server forbids publishing or subscribing to ``subject``.

    ``operation`` is ``"publish"`` or ``"subscription"``. ``queue`` is the queue group of the
    subscription, if it has one, and ``sid`` the subscription's number, if the server sent it.
    """

    def __init__(
        self,
        message: str,
        operation: Literal["publish", "subscription"],
        subject: str,
        queue: str | None = None,
        sid: str | None = None,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.subject = subject
        self.queue = queue
        self.sid = sid


# --- values in payloads --------------------------------------------------------------------------


class EncodeError(NatsError, ValueError):
    """The codec could not encode a value. Nothing was sent."""


class DecodeError(NatsError, ValueError):
    """The codec could not decode a payload. The message still has it as ``data``."""


# --- using a connection --------------------------------------------------------------------------


class ConnectionLostError(NatsError, trio.BrokenResourceError):
    """The connection is gone for good, or was lost during an operation that cannot be repeated.

    ``__cause__`` is the reason.
    """


class RequestTimeoutError(NatsError, trio.TooSlowError, TimeoutError):
    """No reply arrived within ``timeout``, or no further reply within ``stall``."""


def timed_out(text: str, disconnected_for: float | None) -> RequestTimeoutError:
    """Return a :exc:`RequestTimeoutError` that also mentions a missing connection."""
    if disconnected_for is not None:
        text += f"; there has been no connection to a server for {disconnected_for:.3g} s"
    return RequestTimeoutError(text)


class NoRespondersError(NatsError):
    """Nobody is subscribed to the subject of a request."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody is subscribed to {subject!r}, so nobody can answer")
        self.subject = subject


class OutboxFullError(NatsError, trio.WouldBlock):
    """``outbox_size`` bytes are waiting to be sent, and the call does not wait for space."""


def fresh(error: Exception) -> Exception:
    """Return a copy of ``error`` without a traceback, to be raised in one of several tasks.

    A single exception raised in many tasks would collect the tracebacks of all of them.
    """
    copy = _remade(type(error), error.args, error.__dict__)
    copy.__cause__ = error.__cause__
    copy.__suppress_context__ = error.__suppress_context__
    return copy


def _remade(kind: type[Exception], args: tuple[object, ...], state: dict[str, object]) -> Exception:
    copy: Exception = kind.__new__(kind, *args)
    copy.args = args  # an OSError leaves them to __init__
    copy.__dict__.update(state)
    return copy
