"""Errors and events: how they relate, and what they say."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, fields, is_dataclass
from types import ModuleType
from typing import Any, get_args

import pytest
import trio

import trio_nats
import trio_nats.jetstream
import trio_nats.keyvalue
import trio_nats.objectstore
from trio_nats import errors, events
from trio_nats.errors import (
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
from trio_nats.jetstream import JetStreamError
from trio_nats.keyvalue import KeyValueError
from trio_nats.objectstore import ObjectStoreError

BASES: dict[type[NatsError], tuple[type[BaseException], ...]] = {
    NatsError: (Exception,),
    ConfigurationError: (NatsError, ValueError),
    InvalidSubjectError: (NatsError, ValueError),
    InvalidHeaderError: (NatsError, ValueError),
    EncodeError: (NatsError, ValueError),
    DecodeError: (NatsError, ValueError),
    MaxPayloadError: (NatsError, ValueError),
    CredentialsError: (NatsError, ValueError),
    ConnectError: (NatsError, OSError),
    ConnectTimeoutError: (NatsError, trio.TooSlowError, TimeoutError),
    NoInfoError: (NatsError,),
    ServerClosedError: (NatsError,),
    WebSocketError: (NatsError,),
    TLSError: (NatsError,),
    TLSConfigurationError: (TLSError, ConfigurationError),
    TLSNotOfferedError: (TLSError,),
    TLSRequiredError: (TLSError,),
    TLSHandshakeError: (TLSError,),
    TLSCertificateError: (TLSHandshakeError,),
    ClientCertificateError: (TLSHandshakeError,),
    TLSInjectionError: (TLSError,),
    PlaintextAuthError: (TLSError,),
    ProtocolError: (NatsError,),
    ServerReportedError: (NatsError,),
    AuthorizationError: (ServerReportedError,),
    AuthenticationExpiredError: (AuthorizationError,),
    PermissionsViolationError: (ServerReportedError,),
    ConnectionLostError: (NatsError, trio.BrokenResourceError),
    RequestTimeoutError: (NatsError, trio.TooSlowError, TimeoutError),
    NoRespondersError: (NatsError,),
    OutboxFullError: (NatsError, trio.WouldBlock),
}


def raised_kinds() -> list[type[NatsError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, NatsError)]


@pytest.mark.parametrize("kind", raised_kinds())
def test_hierarchy(kind: type[NatsError]) -> None:
    assert kind.__bases__ == BASES[kind]
    assert kind.__name__ == "NatsError" or kind.__name__.endswith("Error")
    assert kind.__doc__


@pytest.mark.parametrize("kind", raised_kinds())
def test_all_errors_are_public(kind: type[NatsError]) -> None:
    assert kind.__name__ in errors.__all__
    assert kind.__name__ in trio_nats.__all__
    assert getattr(trio_nats, kind.__name__) is kind


def test_all_public_names_exist_once() -> None:
    for module in (errors, events, trio_nats):
        assert all(hasattr(module, name) for name in module.__all__)
        assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("kind", [kind for kind in BASES if kind.__init__ is Exception.__init__])
def test_plain_errors_show_their_message(kind: type[NatsError]) -> None:
    assert str(kind("it went wrong")) == "it went wrong"


# --- texts and fields ----------------------------------------------------------------------------


def test_max_payload() -> None:
    error = MaxPayloadError(1_048_577, 1_048_576)
    assert (error.size, error.max_payload) == (1_048_577, 1_048_576)
    assert "1,048,577 bytes" in str(error)
    assert "max_payload of 1,048,576 bytes" in str(error)


def test_no_info() -> None:
    assert str(NoInfoError("silence")) == "silence"
    assert NoInfoError("silence").closed is False
    assert NoInfoError("hung up", closed=True).closed is True


def test_no_responders() -> None:
    error = NoRespondersError("svc.a")
    assert error.subject == "svc.a"
    assert str(error) == "nobody is subscribed to 'svc.a', so nobody can answer"


def test_server_reported() -> None:
    error = ServerReportedError("Stale Connection")
    assert (error.message, error.explanation) == ("Stale Connection", "")
    assert str(error) == "server said 'Stale Connection'"
    error = AuthorizationError("Authorization Violation", "check the credentials")
    assert (error.message, error.explanation) == (
        "Authorization Violation",
        "check the credentials",
    )
    assert str(error) == "server said 'Authorization Violation': check the credentials"


def test_permissions_violation() -> None:
    error = PermissionsViolationError("text", "subscription", "a.*", "q", "3")
    assert (error.operation, error.subject, error.queue, error.sid) == (
        "subscription",
        "a.*",
        "q",
        "3",
    )
    assert error.message == "text"
    assert error.explanation == ""
    assert str(error) == "server said 'text'"
    error = PermissionsViolationError("text", "publish", "a")
    assert (error.queue, error.sid) == (None, None)


# --- ConnectError --------------------------------------------------------------------------------

REFUSED = ConnectAttempt("nats://a:4222", "dial", ConnectionRefusedError(111, "refused"))
NO_TLS = ConnectAttempt("tls://b:4222", "tls", TLSNotOfferedError("it offers no TLS"))
EXPIRED = ConnectAttempt("tls://c:1", "auth", AuthenticationExpiredError("Expired"))


def test_one_attempt() -> None:
    error = ConnectError([NO_TLS])
    assert error.attempts == (NO_TLS,)
    assert str(error) == "cannot connect to tls://b:4222 [tls]: it offers no TLS"
    assert str(NO_TLS) == "tls://b:4222 [tls]: it offers no TLS"
    assert isinstance(error, OSError)
    assert error.errno is None


def test_several_attempts() -> None:
    error = ConnectError(iter([REFUSED, NO_TLS]))  # type: ignore[arg-type]
    assert error.attempts == (REFUSED, NO_TLS)
    assert str(error) == (
        "cannot connect to any of 2 servers:\n"
        "  - nats://a:4222 [dial]: [Errno 111] refused\n"
        "  - tls://b:4222 [tls]: it offers no TLS"
    )


def test_several_attempts_on_one_server() -> None:
    silent = ConnectAttempt("nats://a:4222", "info", NoInfoError("no INFO"), "10.0.0.1:4222")
    assert str(ConnectError([REFUSED, silent])) == (
        "cannot connect to nats://a:4222:\n"
        "  - nats://a:4222 [dial]: [Errno 111] refused\n"
        "  - nats://a:4222 (10.0.0.1:4222) [info]: no INFO"
    )


def test_errors_of_a_kind() -> None:
    again = ConnectAttempt("tls://d:1", "tls", TLSHandshakeError("bad record"))
    error = ConnectError([REFUSED, NO_TLS, EXPIRED, again])
    assert list(error.errors(Exception)) == [a.error for a in error.attempts]
    assert list(error.errors(TLSError)) == [NO_TLS.error, again.error]
    assert list(error.errors(TLSHandshakeError)) == [again.error]
    assert list(error.errors(AuthorizationError)) == [EXPIRED.error]
    assert list(error.errors(OSError)) == [REFUSED.error]
    assert list(error.errors(MaxPayloadError)) == []


@pytest.mark.parametrize(
    "error",
    [
        MaxPayloadError(2, 1),
        NoRespondersError("a"),
        WebSocketError("no", 401),
        AuthorizationError("Authorization Violation", "check them"),
        PermissionsViolationError("no", "publish", "a", sid="1"),
        ConnectError([ConnectAttempt("nats://h:1", "info", NoInfoError("no", closed=True))]),
        RequestTimeoutError("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_copies_say_the_same(error: NatsError) -> None:
    """Also those that come out of another process."""
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert (str(twin), twin.args) == (str(error), error.args)
        assert repr(vars(twin)) == repr(vars(error))


def test_phases() -> None:
    phases = ("resolve", "dial", "tls", "websocket", "info", "auth", "subscribe")
    assert get_args(ConnectPhase) == phases


def test_an_attempt_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        REFUSED.phase = "tls"  # type: ignore[misc]


# --- events --------------------------------------------------------------------------------------

EVENTS: list[tuple[type[Any], dict[str, object]]] = [
    (events.Connected, {"server": "nats://a:1"}),
    (events.Disconnected, {"server": "nats://a:1", "reason": OSError("gone")}),
    (events.Reconnected, {"server": "nats://a:1"}),
    (events.ReconnectFailed, {"server": "nats://a:1", "attempt": 1, "error": OSError("no")}),
    (events.LameDuck, {"server": "nats://a:1"}),
    (events.ServersDiscovered, {"servers": ("nats://b:1",)}),
    (
        events.SlowConsumer,
        {"subject": "a", "pending_messages": 1, "pending_bytes": 2, "dropped": 3},
    ),
    (
        events.MessagesDiscarded,
        {
            "server": "nats://a:1",
            "messages": 2,
            "subjects": ("a", "b"),
            "reason": MaxPayloadError(2, 1),
        },
    ),
    (events.ServerError, {"error": ServerReportedError("no")}),
    (events.Closed, {"reason": None}),
]


@pytest.mark.parametrize(("kind", "given"), EVENTS)
def test_events_are_frozen_records(kind: type[Any], given: dict[str, object]) -> None:
    event = kind(**given)
    assert is_dataclass(event)
    assert [field.name for field in fields(event)] == list(given)
    assert event == kind(*given.values())
    for name, value in given.items():
        assert getattr(event, name) is value
        with pytest.raises(FrozenInstanceError):
            setattr(event, name, None)
    assert kind.__name__ in repr(event)


def test_the_event_type_names_every_event() -> None:
    assert set(get_args(events.Event)) == {kind for kind, _ in EVENTS}
    records = {name for name, kind in inspect.getmembers(events) if is_dataclass(kind)}
    assert records == {kind.__name__ for kind, _ in EVENTS}
    assert set(events.__all__) == records | {"ConnectionState", "Event"}


def test_states() -> None:
    assert [state.value for state in events.ConnectionState] == [
        "connecting",
        "open",
        "reconnecting",
        "draining",
        "closing",
        "closed",
    ]
    assert f"{events.ConnectionState.OPEN}" == "open"


@pytest.mark.parametrize(
    ("package", "base"),
    [
        (trio_nats, NatsError),
        (trio_nats.jetstream, JetStreamError),
        (trio_nats.keyvalue, KeyValueError),
        (trio_nats.objectstore, ObjectStoreError),
    ],
)
def test_one_class_catches_all_errors_of_a_package(
    package: ModuleType, base: type[Exception]
) -> None:
    public = [getattr(package, name) for name in package.__all__]
    errors = [one for one in public if isinstance(one, type) and issubclass(one, Exception)]
    assert len(errors) > 5
    assert [error for error in errors if not issubclass(error, base)] == []
