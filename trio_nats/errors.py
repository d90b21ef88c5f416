"""Every exception this package raises on its own account.

All of them derive from :exc:`NatsError`. Where Trio already has a word for the situation, the class
derives from Trio's too, so code written against Trio's channels needs no second ``except``. Using a
closed connection or subscription raises :exc:`trio.ClosedResourceError` itself, and the end of a
subscription :exc:`trio.EndOfChannel` itself.

No text in here ever holds a password, token, seed, JWT or signature.
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

ConnectPhase = Literal["resolve", "dial", "proxy", "tls", "websocket", "info", "auth", "subscribe"]
"""Where an attempt to connect ended: name resolution, dialling, the TLS handshake, the upgrade to
WebSocket, waiting for the server's ``INFO``, or credentials (ours being unusable, or the server's
verdict on them); where a connection moves to another server, also taking the subscriptions there.
``"proxy"`` is kept for HTTP proxies, which are not supported yet."""


class NatsError(Exception):
    """Base class of all errors raised by this package.

    As text it is printable, whatever a peer put into it, and not longer than anybody would read.
    """

    def __str__(self) -> str:
        return printable_lines(super().__str__(), MAX_TEXT)

    def __reduce__(self) -> tuple[Callable[..., Exception], tuple[object, ...]]:
        # Exceptions are copied and pickled by calling their class with `args`, which are the text.
        return _remade, (type(self), self.args, self.__dict__)


# --- bad input -----------------------------------------------------------------------------------


class ConfigurationError(NatsError, ValueError):
    """An option, or a combination of options, that cannot work. Raised before anything is sent."""


class InvalidSubjectError(NatsError, ValueError):
    """A subject, queue group or inbox prefix that NATS does not allow (ADR-6)."""


class InvalidHeaderError(NatsError, ValueError):
    """A header name or value that cannot be sent (ADR-4)."""


class MaxPayloadError(NatsError, ValueError):
    """The message, headers included, is larger than the server's ``max_payload``.

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
    """Credentials that cannot be used: malformed, unreadable or incomplete. Never quotes them.

    ``unreadable`` says that their file could not be read, which may be different later.
    """

    def __init__(self, text: str, *, unreadable: bool = False) -> None:
        super().__init__(text)
        self.unreadable = unreadable


# --- opening -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectAttempt:
    """What happened to one server on the way to a :exc:`ConnectError`."""

    server: str
    """The server's URL without credentials."""
    phase: ConnectPhase
    """Where it ended, see :data:`ConnectPhase`."""
    error: Exception
    """Why."""
    address: str | None = None
    """The address that was connected to, if the server's name has several."""

    def __str__(self) -> str:
        where = f"{self.server} ({self.address})" if self.address is not None else self.server
        return f"{where} [{self.phase}]: {self.error}"


class ConnectError(NatsError, OSError):
    """No server could be connected to. ``attempts`` has an entry for each attempt, in order.

    ``__cause__`` is the single failure, or an :exc:`ExceptionGroup` of all of them.
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
        """The failures of the given class, in the order they happened."""
        for attempt in self.attempts:
            if isinstance(attempt.error, kind):
                yield attempt.error


class ConnectTimeoutError(NatsError, trio.TooSlowError, TimeoutError):
    """One attempt used up ``connect_timeout`` (which spans dial, INFO, TLS and authentication)."""


class NoInfoError(NatsError):
    """The peer accepted the connection but did not begin with a NATS ``INFO`` line.

    ``closed`` says that it closed the connection instead.
    """

    def __init__(self, text: str, *, closed: bool = False) -> None:
        super().__init__(text)
        self.closed = closed


class ServerClosedError(NatsError):
    """The server closed the connection while it was being opened, without saying why."""


class WebSocketError(NatsError):
    """The peer at a ``ws://`` or ``wss://`` URL did not agree to speak WebSocket.

    ``status`` is the HTTP status it answered with, if it answered in HTTP.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class TLSError(NatsError):
    """Base class of everything that goes wrong with TLS."""


class TLSConfigurationError(TLSError, ConfigurationError):
    """TLS options that contradict each other or the URL, or material that cannot be loaded."""


class TLSNotOfferedError(TLSError):
    """The mode promises TLS, but the server offers none. Nothing was sent in plaintext."""


class TLSRequiredError(TLSError):
    """The server insists on TLS, but the mode forbids it."""


class TLSHandshakeError(TLSError):
    """The TLS handshake failed. There is no fallback to plaintext, ever."""


class TLSCertificateError(TLSHandshakeError):
    """The server's certificate was not acceptable: unknown issuer, expired, or another host's."""


class ClientCertificateError(TLSHandshakeError):
    """The server refused our client certificate, or asked for one and got none."""


class TLSInjectionError(TLSError):
    """Plaintext arrived between ``INFO`` and the TLS handshake. Somebody is tampering."""


class PlaintextAuthError(TLSError):
    """``plaintext_auth="refuse"``: a replayable secret would have left in plaintext."""


# --- what the server says ------------------------------------------------------------------------


class ProtocolError(NatsError):
    """The peer sent something that is not the NATS protocol, or beyond the limits set for it."""


_MAX_SHOWN = 512


class ServerReportedError(NatsError):
    """An ``-ERR`` line. ``message`` is the server's text as sent, bounded and printable."""

    def __init__(self, message: str, explanation: str = "") -> None:
        shown = repr(message if len(message) <= _MAX_SHOWN else message[:_MAX_SHOWN] + "...")
        super().__init__(f"server said {shown}" + (f": {explanation}" if explanation else ""))
        self.message = message
        self.explanation = explanation


class AuthorizationError(ServerReportedError):
    """The server did not accept the credentials."""


class AuthenticationExpiredError(AuthorizationError):
    """The credentials were accepted once and have expired or been revoked."""


class PermissionsViolationError(ServerReportedError):
    """The server forbids publishing or subscribing to ``subject``.

    ``operation`` is ``"publish"`` or ``"subscription"``; ``queue`` is set when the subscription
    named a queue group, and ``sid`` when the server told the subscription's number.
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
    """The codec could not make a payload of the value. Nothing was sent."""


class DecodeError(NatsError, ValueError):
    """The codec could not make a value of the payload. The message is all there, undecoded."""


# --- using a connection --------------------------------------------------------------------------


class ConnectionLostError(NatsError, trio.BrokenResourceError):
    """The connection is gone for good, or went while something could not wait. ``__cause__`` says
    why.
    """


class RequestTimeoutError(NatsError, trio.TooSlowError, TimeoutError):
    """No reply arrived within the request's ``timeout``, or the reply stream stalled."""


def timed_out(text: str, disconnected_for: float | None) -> RequestTimeoutError:
    """A :exc:`RequestTimeoutError` that also tells of a missing connection."""
    if disconnected_for is not None:
        text += f"; there has been no connection to a server for {disconnected_for:.3g} s"
    return RequestTimeoutError(text)


class NoRespondersError(NatsError):
    """Nobody is subscribed to the request's subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody is subscribed to {subject!r}, so nobody can answer")
        self.subject = subject


class OutboxFullError(NatsError, trio.WouldBlock):
    """``outbox_size`` bytes are waiting to be written and the connection was told not to wait."""


def fresh(error: Exception) -> Exception:
    """A copy of ``error`` without a traceback, to be raised in one of many places.

    One object raised in many tasks would collect the tracebacks, and so the frames, of all.
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
