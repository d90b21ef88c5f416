"""Every exception this package raises on its own account.

All of them derive from :exc:`NatsError`. Where Trio already has a word for the situation, the class
derives from Trio's too, so code written against Trio's channels needs no second ``except``. Using a
closed connection or subscription raises :exc:`trio.ClosedResourceError` itself, and the end of a
subscription :exc:`trio.EndOfChannel` itself.

No text in here ever holds a password, token, seed, JWT or signature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import trio

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
    "ServiceError",
    "TLSCertificateError",
    "TLSConfigurationError",
    "TLSError",
    "TLSHandshakeError",
    "TLSInjectionError",
    "TLSNotOfferedError",
    "TLSRequiredError",
    "WebSocketError",
]
# Those of JetStream, which trio_nats.jetstream hands on.
__all__ += [
    "APILevelError",
    "AckError",
    "ConsumerDeletedError",
    "ConsumerNameInUseError",
    "ConsumerNotFoundError",
    "JetStreamAPIError",
    "JetStreamError",
    "JetStreamNotEnabledError",
    "JetStreamNotEnabledForAccountError",
    "MessageNotFoundError",
    "NoStreamResponseError",
    "PullError",
    "StreamMismatchError",
    "StreamNameInUseError",
    "StreamNotFoundError",
    "UnacknowledgedError",
    "WrongLastMsgIdError",
    "WrongLastSequenceError",
]
# And those of the object store, which trio_nats.objectstore does.
__all__ += [
    "DamagedObjectError",
    "DigestMismatchError",
    "InvalidObjectMetaError",
    "InvalidObjectNameError",
    "ObjectAlreadyExistsError",
    "ObjectChangedError",
    "ObjectLinkError",
    "ObjectNotFoundError",
    "ObjectStoreError",
    "ObjectStoreExistsError",
    "ObjectStoreNotFoundError",
    "ObjectTooLargeError",
]

_E = TypeVar("_E", bound=BaseException)

ConnectPhase = Literal["resolve", "dial", "proxy", "tls", "websocket", "info", "auth"]
"""Where an attempt to connect ended: name resolution, dialling, an HTTP proxy, the TLS handshake,
the upgrade to WebSocket, waiting for the server's ``INFO``, or credentials (ours being unusable, or
the server's verdict on them)."""


class NatsError(Exception):
    """Base class of all errors raised by this package."""


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
    """Credentials that cannot be used: malformed, unreadable or incomplete. Never quotes them."""


# --- opening -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConnectAttempt:
    """What happened to one server on the way to a :exc:`ConnectError`."""

    server: str
    """The server's URL without credentials."""
    phase: ConnectPhase
    error: Exception

    def __str__(self) -> str:
        return f"{self.server} [{self.phase}]: {self.error}"


class ConnectError(NatsError, OSError):
    """No server could be connected to. ``attempts`` has one entry per server, in the order tried.

    ``__cause__`` is the single failure, or an :exc:`ExceptionGroup` of all of them.
    """

    def __init__(self, attempts: Sequence[ConnectAttempt]) -> None:
        self.attempts: tuple[ConnectAttempt, ...] = tuple(attempts)
        if len(self.attempts) == 1:
            text = f"cannot connect to {self.attempts[0]}"
        else:
            lines = "".join(f"\n  - {attempt}" for attempt in self.attempts)
            text = f"cannot connect to any of {len(self.attempts)} servers:{lines}"
        super().__init__(text)

    def errors(self, kind: type[_E]) -> Iterator[_E]:
        """The failures of the given class, in the order they happened."""
        for attempt in self.attempts:
            if isinstance(attempt.error, kind):
                yield attempt.error


class ConnectTimeoutError(NatsError, TimeoutError):
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


class ServerReportedError(NatsError):
    """An ``-ERR`` line. ``message`` is the server's text as sent, bounded and printable."""

    def __init__(self, message: str, explanation: str = "") -> None:
        super().__init__(f"server said {message!r}" + (f": {explanation}" if explanation else ""))
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


# --- services ------------------------------------------------------------------------------------


class ServiceError(NatsError):
    """A service's answer that says why there is no other (ADR-32).

    Raise it in the handler of an endpoint to send it; :func:`check_reply` raises it where it
    arrives. ``code`` is a number, by custom one of HTTP's, and 0 where what arrived was none;
    ``description`` is for people; ``data`` is the payload that came, or goes, with it.
    """

    def __init__(self, code: int, description: str, data: bytes = b"") -> None:
        if isinstance(code, bool) or not isinstance(code, int) or code < 0:
            raise ConfigurationError(f"the code of a ServiceError is a number, not {code!r}")
        if not isinstance(description, str):
            kind = type(description).__name__
            raise ConfigurationError(f"the description of a ServiceError is a str, not {kind}")
        super().__init__(code, description, data)
        self.code = code
        self.description = description
        self.data = data

    def __str__(self) -> str:
        return f"{self.code}: {self.description}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that an answer is known to be an error by; the description in one line."""
        text = self.description.encode("utf-8", "replace").decode()
        for separator in "\r\n\0":
            text = text.replace(separator, " ")
        return {"Nats-Service-Error": text, "Nats-Service-Error-Code": str(self.code)}


# --- using a connection --------------------------------------------------------------------------


class ConnectionLostError(NatsError, trio.BrokenResourceError):
    """The connection is gone for good, or went while something could not wait. ``__cause__`` says
    why.
    """


class RequestTimeoutError(NatsError, TimeoutError):
    """No reply arrived within the request's ``timeout``, or the reply stream stalled."""


class NoRespondersError(NatsError):
    """Nobody is subscribed to the request's subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody is subscribed to {subject!r}: no responder for the request")
        self.subject = subject


class OutboxFullError(NatsError, trio.WouldBlock):
    """``pending_size`` bytes are waiting to be written and the connection was told not to wait."""


# --- JetStream -----------------------------------------------------------------------------------


class JetStreamError(NatsError):
    """Base class of what goes wrong with JetStream; itself: an answer that makes no sense."""


class JetStreamAPIError(JetStreamError):
    """JetStream refused, or could not do, what it was asked for.

    ``code`` is like a status of HTTP, ``err_code`` says what it was in numbers
    (``nats errors list``), and ``description`` in words.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        super().__init__(code, err_code, description)
        self.code = code
        self.err_code = err_code
        self.description = description

    def __str__(self) -> str:
        return f"{self.description} (code {self.code}, err_code {self.err_code})"


class JetStreamNotEnabledError(JetStreamAPIError):
    """The server has no JetStream, or none is to be had by the domain or prefix given."""


class JetStreamNotEnabledForAccountError(JetStreamNotEnabledError):
    """The server has JetStream, but this user's account may not use it."""


class APILevelError(JetStreamAPIError):
    """The server is too old for what was asked for (ADR-44)."""


class StreamNotFoundError(JetStreamAPIError):
    """There is no such stream."""


class StreamNameInUseError(JetStreamAPIError):
    """There is a stream of that name already, and it is configured otherwise."""


class ConsumerNotFoundError(JetStreamAPIError):
    """The stream has no such consumer."""


class ConsumerNameInUseError(JetStreamAPIError):
    """The stream has a consumer of that name already, and it is configured otherwise."""


class MessageNotFoundError(JetStreamAPIError):
    """The stream has no such message, or no longer."""


class StreamMismatchError(JetStreamAPIError):
    """Another stream than the one expected would have stored the message; none has."""


class WrongLastMsgIdError(JetStreamAPIError):
    """The stream's last message has another id than was expected. Nothing was stored."""


class WrongLastSequenceError(JetStreamAPIError):
    """The last message, of the stream or of the subject, is another one than was expected.

    Nothing was stored. ``last_sequence`` is the one it has, where the server tells.
    """

    @property
    def last_sequence(self) -> int | None:
        """The sequence number of the last message; ``None`` if the server did not tell."""
        number = self.description.rpartition(": ")[2]
        return int(number) if number.isascii() and number.isdigit() else None


class UnacknowledgedError(JetStreamError):
    """Messages were published and not acknowledged, and nobody has asked about that.

    ``count`` is how many, and ``errors`` are the first 100 reasons in the order they became known,
    the first of which is also the ``__cause__``.
    """

    def __init__(self, count: int, errors: Sequence[Exception]) -> None:
        super().__init__(count, errors)
        self.count = count
        self.errors: tuple[Exception, ...] = tuple(errors)

    def __str__(self) -> str:
        messages = "a message was" if self.count == 1 else f"{self.count:,} messages were"
        first = f"; first: {self.errors[0]}" if self.errors else ""
        return f"{messages} not acknowledged{first}"


class NoStreamResponseError(JetStreamError, NoRespondersError):
    """No stream stores what is published to ``subject``; nothing was stored."""

    def __init__(self, subject: str) -> None:
        super().__init__(subject)
        self.args = (subject,)

    def __str__(self) -> str:
        return (
            f"no stream listens on {self.subject!r}: create one with that subject, or see whether "
            "JetStream runs at all"
        )


class AckError(JetStreamError, RuntimeError):
    """A message that was answered already, or that needs no answer. Nothing was sent."""


class PullError(JetStreamError):
    """A pull came to nothing, and the server said why: ``code`` and ``description``."""

    def __init__(self, code: int, description: str, consumer: str) -> None:
        super().__init__(code, description, consumer)
        self.code = code
        self.description = description
        self.consumer = consumer

    def __str__(self) -> str:
        return f"consumer {self.consumer!r}: {self.description} (code {self.code})"


class ConsumerDeletedError(PullError):
    """The consumer is gone: it was deleted, or not used for its ``inactive_threshold``."""


# --- object store --------------------------------------------------------------------------------


class ObjectStoreError(JetStreamError):
    """Base class of what goes wrong with object stores."""


class ObjectStoreNotFoundError(ObjectStoreError):
    """There is no object store of that name, or no longer."""


class ObjectStoreExistsError(ObjectStoreError):
    """There is an object store of that name already, and it is configured otherwise."""


class ObjectNotFoundError(ObjectStoreError):
    """The store has no object of that name, or it has been deleted."""


class ObjectAlreadyExistsError(ObjectStoreError):
    """The store has an object of that name, which would be lost."""


class InvalidObjectNameError(ObjectStoreError, ValueError):
    """What cannot be the name of an object. Raised before anything is sent."""


class ObjectLinkError(ObjectStoreError):
    """A link that cannot be made, or that leads nowhere."""


class ObjectTooLargeError(ObjectStoreError):
    """The object has more bytes than were to be kept in memory. Nothing was read."""


class ObjectChangedError(ObjectStoreError):
    """The object was replaced or deleted while it was read; what was read is to be thrown away."""


class DamagedObjectError(ObjectStoreError):
    """What is stored is not what was put: chunks are missing, or there is too much."""


class DigestMismatchError(DamagedObjectError):
    """The digest of what was read is not the one of what was put."""


class InvalidObjectMetaError(DamagedObjectError):
    """What is stored about an object cannot be understood."""


def fresh(error: Exception) -> Exception:
    """A copy of ``error`` without a traceback, to be raised in one of many places.

    One object raised in many tasks would collect the tracebacks, and so the frames, of all.
    """
    kind = type(error)
    twin: Exception = kind.__new__(kind, *error.args)
    twin.__dict__.update(error.__dict__)
    twin.__cause__ = error.__cause__
    twin.__suppress_context__ = error.__suppress_context__
    return twin
