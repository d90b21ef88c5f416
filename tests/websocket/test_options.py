"""``WebSocketOptions`` check themselves, say what is wrong, and show no secrets."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats import ConfigurationError, WebSocketOptions


def refused(kind: type[Exception] = ConfigurationError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        WebSocketOptions(**options)
    return str(caught.value)


def test_the_defaults() -> None:
    options = WebSocketOptions()
    assert (options.headers, options.compression) == ({}, False)
    assert repr(options) == "WebSocketOptions(compression=False)"
    assert hash(options) == hash(WebSocketOptions())
    with pytest.raises(FrozenInstanceError):
        options.compression = True  # type: ignore[misc]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer abc=="},
        OrderedDict({"X-Empty": "", "x!#$%&'*+-.^_`|~09": "a b\tc"}),
        {"Origin": "https://a.example", "Cookie": "a=b; c=d", "User-Agent": "me"},
    ],
)
def test_headers_that_can_be_sent(headers: dict[str, str]) -> None:
    options = WebSocketOptions(headers=headers)
    assert options.headers == headers
    assert options == WebSocketOptions(headers=headers)


def test_headers_are_copied_and_cannot_be_changed() -> None:
    headers = {"A": "1"}
    options = WebSocketOptions(headers=headers)
    headers["A"] = "\r\n"
    assert options.headers == {"A": "1"}
    with pytest.raises(TypeError):
        options.headers["A"] = "2"  # type: ignore[index]  # that is the point


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ("Authorization: x", " must be a mapping of names to values, not str"),
        ([("Authorization", "x")], " must be a mapping of names to values, not list"),
        (None, " must be a mapping of names to values, not NoneType"),
        ({b"A": "x"}, " must have names that are str, not bytes"),
        ({"A": b"s3cret"}, ": A must be a str, not bytes"),
        ({"A": 5}, ": A must be a str, not int"),
    ],
)
def test_headers_of_a_wrong_type(headers: object, complaint: str) -> None:
    assert refused(TypeError, headers=headers) == f"WebSocketOptions.headers{complaint}"


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ({"": "x"}, "has a name that is not allowed in HTTP"),
        ({"A B": "x"}, "has a name that is not allowed in HTTP"),
        ({"A\r\nB": "x"}, "has a name that is not allowed in HTTP"),
        ({"A:": "x"}, "has a name that is not allowed in HTTP"),
        ({"naïve": "x"}, "has a name that is not allowed in HTTP"),
        ({"A": "s3cret\n"}, ": the value of A must be printable ASCII"),
        ({"A": "s3cret\r\nB: x"}, ": the value of A must be printable ASCII"),
        ({"A": "s3cret\x00"}, ": the value of A must be printable ASCII"),
        ({"A": "s3crét"}, ": the value of A must be printable ASCII"),
        ({"A": " s3cret"}, ": the value of A must be printable ASCII"),
        ({"A": "s3cret\t"}, ": the value of A must be printable ASCII"),
        ({"Host": "x"}, ": Host belongs to the WebSocket handshake; leave it out"),
        ({"upgrade": "x"}, ": upgrade belongs to the WebSocket handshake"),
        ({"CONNECTION": "x"}, "belongs to the WebSocket handshake"),
        ({"Sec-WebSocket-Key": "x"}, "belongs to the WebSocket handshake"),
        ({"sec-websocket-protocol": "x"}, "belongs to the WebSocket handshake"),
        ({"Content-Length": "5"}, "belongs to the WebSocket handshake"),
        ({"Transfer-Encoding": "chunked"}, "belongs to the WebSocket handshake"),
        # It would make nats-server expect frames without masks.
        ({"Nats-No-Masking": "true"}, "belongs to the WebSocket handshake"),
    ],
)
def test_headers_that_cannot(headers: object, complaint: str) -> None:
    text = refused(headers=headers)
    assert text.startswith("WebSocketOptions.headers")
    assert complaint in text
    assert "s3cr" not in text


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=8), max_size=3))
def test_accepted_headers_stay_on_one_line(headers: dict[str, str]) -> None:
    try:
        options = WebSocketOptions(headers=headers)
    except ConfigurationError:
        return
    assert not callable(options.headers)
    for name, value in options.headers.items():
        line = f"{name}: {value}"
        assert line.isascii()
        assert len(line.splitlines()) == 1
        assert ":" not in name


def test_secrets_are_not_shown() -> None:
    options = WebSocketOptions(headers={"Authorization": "s3cret"})
    for text in (repr(options), str(options), repr(options.headers)):
        assert "s3cret" not in text
    assert "Authorization" in repr(options.headers)


def test_compression_is_a_flag() -> None:
    assert refused(TypeError, compression="no") == (
        "WebSocketOptions.compression must be True or False, not 'no'"
    )
