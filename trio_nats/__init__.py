"""A Trio-native client for NATS.

>>> import trio
>>> from trio_nats import open_nats
>>> async def main():
...     async with open_nats("nats://localhost:4222") as nc:
...         async with nc.subscribe("greet.*") as greetings:
...             await nc.publish("greet.joe", b"hello")
...             print(await greetings.receive())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

from . import errors, events
from ._core.stats import Statistics
from ._transport.tls_info import CertificateInfo, TLSInfo
from .auth import (
    JWT,
    Auth,
    AuthCallback,
    AuthLike,
    Credentials,
    NKey,
    Sign,
    Token,
    UserPassword,
)
from .codecs import (
    BytesCodec,
    Codec,
    Decoder,
    Encoder,
    JSONCodec,
    MessagePackCodec,
    TextCodec,
)
from .connect import open_nats
from .connection import Connection
from .contexts import Context, ContextLike, list_contexts, load_context
from .errors import (
    AuthenticationExpiredError,
    AuthorizationError,
    ClientCertificateError,
    ConfigurationError,
    ConnectAttempt,
    ConnectError,
    ConnectionLostError,
    ConnectPhase,
    ConnectTimeoutError,
    CredentialsError,
    DecodeError,
    EncodeError,
    InvalidHeaderError,
    InvalidSubjectError,
    MaxPayloadError,
    NatsError,
    NoInfoError,
    NoRespondersError,
    OutboxFullError,
    PermissionsViolationError,
    PlaintextAuthError,
    ProtocolError,
    RequestTimeoutError,
    ServerClosedError,
    ServerReportedError,
    ServiceError,
    TLSCertificateError,
    TLSConfigurationError,
    TLSError,
    TLSHandshakeError,
    TLSInjectionError,
    TLSNotOfferedError,
    TLSRequiredError,
    WebSocketError,
)
from .events import ConnectionState
from .headers import Headers, HeadersLike, Status
from .message import Msg, Payload
from .options import (
    Candidate,
    PendingLimits,
    Picked,
    ProtocolLimits,
    ReconnectPolicy,
    TLSMode,
    TLSOptions,
    WebSocketHeaders,
    WebSocketOptions,
)
from .replies import Replies, empty_sentinel
from .server_info import ServerInfo
from .servers import Server
from .subscription import Subscription
from .typed import TypedMsg, TypedReplies, TypedSubscription

if TYPE_CHECKING:
    from .services import (
        Endpoint,
        EndpointInfo,
        EndpointStats,
        Service,
        ServiceGroup,
        ServiceIdentity,
        ServiceInfo,
        ServicePing,
        ServiceRequest,
        Services,
        ServiceStats,
        TypedRequest,
        check_reply,
        service_error,
    )

__all__ = [
    "JWT",
    "Auth",
    "AuthCallback",
    "AuthLike",
    "AuthenticationExpiredError",
    "AuthorizationError",
    "BytesCodec",
    "Candidate",
    "CertificateInfo",
    "ClientCertificateError",
    "Codec",
    "ConfigurationError",
    "ConnectAttempt",
    "ConnectError",
    "ConnectPhase",
    "ConnectTimeoutError",
    "Connection",
    "ConnectionLostError",
    "ConnectionState",
    "Context",
    "ContextLike",
    "Credentials",
    "CredentialsError",
    "DecodeError",
    "Decoder",
    "EncodeError",
    "Encoder",
    "Endpoint",
    "EndpointInfo",
    "EndpointStats",
    "Headers",
    "HeadersLike",
    "InvalidHeaderError",
    "InvalidSubjectError",
    "JSONCodec",
    "MaxPayloadError",
    "MessagePackCodec",
    "Msg",
    "NKey",
    "NatsError",
    "NoInfoError",
    "NoRespondersError",
    "OutboxFullError",
    "Payload",
    "PendingLimits",
    "PermissionsViolationError",
    "Picked",
    "PlaintextAuthError",
    "ProtocolError",
    "ProtocolLimits",
    "ReconnectPolicy",
    "Replies",
    "RequestTimeoutError",
    "Server",
    "ServerClosedError",
    "ServerInfo",
    "ServerReportedError",
    "Service",
    "ServiceError",
    "ServiceGroup",
    "ServiceIdentity",
    "ServiceInfo",
    "ServicePing",
    "ServiceRequest",
    "ServiceStats",
    "Services",
    "Sign",
    "Statistics",
    "Status",
    "Subscription",
    "TLSCertificateError",
    "TLSConfigurationError",
    "TLSError",
    "TLSHandshakeError",
    "TLSInfo",
    "TLSInjectionError",
    "TLSMode",
    "TLSNotOfferedError",
    "TLSOptions",
    "TLSRequiredError",
    "TextCodec",
    "Token",
    "TypedMsg",
    "TypedReplies",
    "TypedRequest",
    "TypedSubscription",
    "UserPassword",
    "WebSocketError",
    "WebSocketHeaders",
    "WebSocketOptions",
    "check_reply",
    "empty_sentinel",
    "errors",
    "events",
    "list_contexts",
    "load_context",
    "open_nats",
    "service_error",
]

if not TYPE_CHECKING:  # which would take any name at all for one that there is

    def __getattr__(name: str) -> object:
        """Services are imported when first asked for: most programs have none."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import services

        found = globals()[name] = getattr(services, name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
