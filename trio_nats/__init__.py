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

__version__ = "0.1.0.dev0"

from . import errors, events
from ._core.stats import Statistics
from ._event_hub import EventChannel
from ._public_modules import set_public_module
from ._transport.tls_info import CertificateInfo, TLSInfo
from .auth import (
    JWT,
    Auth,
    AuthCallback,
    AuthLike,
    Combined,
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
    Payload,
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
from .message import Msg
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
    "Combined",
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
    "EventChannel",
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
    "UserPassword",
    "WebSocketError",
    "WebSocketHeaders",
    "WebSocketOptions",
    "empty_sentinel",
    "errors",
    "events",
    "list_contexts",
    "load_context",
    "open_nats",
]

set_public_module(__name__, __all__, globals())
