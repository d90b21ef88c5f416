"""A value of a wrong type raises ``TypeError``, and one out of range ``ConfigurationError``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trio_nats import (
    ConfigurationError,
    PendingLimits,
    ReconnectPolicy,
    TLSOptions,
    UserPassword,
    WebSocketOptions,
    load_context,
    open_nats,
)
from trio_nats.services import ServiceError

CASES: list[tuple[Callable[..., object], dict[str, Any], dict[str, Any]]] = [
    (PendingLimits, {"messages": "5"}, {"messages": 0}),
    (PendingLimits, {"when_full": None}, {"when_full": "panic"}),
    (ReconnectPolicy, {"wait": "1"}, {"wait": -1}),
    (ReconnectPolicy, {"jitter": "half"}, {"jitter": 2}),
    (ReconnectPolicy, {"pick": 5}, {"max_attempts": -1}),
    (TLSOptions, {"ca_file": 5}, {"key_file": "key.pem"}),
    (TLSOptions, {"unverified_servers": 5}, {"unverified_servers": "all"}),
    (TLSOptions, {"minimum_version": "1.2"}, {"server_hostname": ""}),
    (TLSOptions, {"context": object()}, {"mode": "maybe"}),
    (WebSocketOptions, {"compression": "no"}, {"headers": {"Host": "a"}}),
    (open_nats, {"servers": 4222}, {"servers": []}),
    (open_nats, {"name": 5}, {"name": "a\nb"}),
    (open_nats, {"auth": "secret"}, {"connect_timeout": 0}),
    (open_nats, {"tls": True}, {"plaintext_auth": "maybe"}),
    (load_context, {"context": 5}, {"context": "a/b"}),
    (ServiceError, {"code": "500", "description": "x"}, {"code": -1, "description": "x"}),
]


@pytest.mark.parametrize(("make", "wrong_type", "wrong_value"), CASES)
def test_kinds(
    make: Callable[..., object], wrong_type: dict[str, Any], wrong_value: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"must be|is given as"):
        make(**wrong_type)
    with pytest.raises(ConfigurationError):
        make(**wrong_value)


def test_a_type_error_shows_no_secret() -> None:
    with pytest.raises(TypeError) as caught:
        open_nats(
            "nats://user:s3cret@host",
            auth=UserPassword("user", "s3cret"),
            name=5,  # type: ignore[arg-type]  # that is the point
        )
    traceback = caught.value.__traceback__
    while traceback is not None:
        if "trio_nats/" in traceback.tb_frame.f_code.co_filename.replace("\\", "/"):
            assert "s3cret" not in repr(traceback.tb_frame.f_locals)
        traceback = traceback.tb_next
