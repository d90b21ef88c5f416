"""Tests of ``ServiceError``."""

from __future__ import annotations

from typing import Any

import pytest

from trio_nats import ConfigurationError, Headers
from trio_nats.errors import fresh
from trio_nats.services import ServiceError


def test_service_error() -> None:
    error = ServiceError(404, "no such\r\nuser \ud800", b"{}")
    assert (error.code, error.data) == (404, b"{}")
    assert str(error) == r"404: no such\x0d\x0auser \ud800"
    assert error.headers == {
        "Nats-Service-Error": "no such  user ?",
        "Nats-Service-Error-Code": "404",
    }
    assert Headers(error.headers).pairs() == [*error.headers.items()]
    assert fresh(error).__dict__ == error.__dict__


@pytest.mark.parametrize(
    ("code", "description", "kind", "text"),
    [
        ("404", "x", TypeError, "must be a number"),
        (True, "x", TypeError, "must be a number"),
        (-1, "x", ConfigurationError, "must be a number from 0 to 999999999, not -1"),
        (10**9, "x", ConfigurationError, "must be a number from 0 to"),
        (404, b"x", TypeError, "description of a ServiceError must be a str, not bytes"),
    ],
)
def test_replies_that_are_not_service_errors(
    code: Any, description: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        ServiceError(code, description)
