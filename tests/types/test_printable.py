"""Text from outside drives no terminal, breaks no line of a log, and is bounded."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats._printable import (
    MAX_TEXT,
    has_unprintable,
    printable,
    printable_json,
    printable_lines,
)
from trio_nats.errors import ConfigurationError, ConnectError, ConnectionLostError, NatsError
from trio_nats.jetstream import JetStreamAPIError, PullError
from trio_nats.servers import parse_servers
from trio_nats.services import ServiceError

# Of Unicode's bidirectional controls, and of its characters without a picture of their own.
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HIDDEN = "\xad\u180e\u200b\u2028\u2029\u2060\ufeff\ufff9\U000e0001\U000e0041"
HARMFUL = [*map(chr, range(32)), *map(chr, range(127, 160)), *BIDI, *HIDDEN, "\ud800", "\udfff"]


@pytest.mark.parametrize("character", HARMFUL, ids=ascii)
def test_harmful_characters_are_escaped(character: str) -> None:
    assert has_unprintable(character)
    shown = printable(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown[0] + shown[-1] == "ab"
    kept = character in "\n\t"
    assert (printable_lines(character) == character) is kept


@given(st.text())
def test_any_text_becomes_printable(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(shown) & set(BIDI)
    assert printable(shown) == shown
    assert has_unprintable(text) is (shown != text)


@pytest.mark.slow
@given(
    st.text(st.characters(exclude_categories=["C", "Z"], max_codepoint=0xDFFFF))
    | st.sampled_from(["שלום", "👩‍🔬", "a b"])
)
def test_harmless_text_stays(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_means_the_same(text: str) -> None:
    for before in (json.dumps(text, ensure_ascii=False), json.dumps([{text: text}], indent=1)):
        shown = printable_json(before)
        assert json.loads(shown) == json.loads(before)
        assert not has_unprintable(shown.replace("\n", ""))


def test_text_is_bounded() -> None:
    assert printable("x" * 5, 4) == printable_lines("x" * 5, 4) == "xxxx..."
    assert printable("x" * 4, 4) == "xxxx"


@pytest.mark.parametrize(
    "make",
    [
        NatsError,
        ConfigurationError,
        ConnectionLostError,
        lambda text: JetStreamAPIError(500, 1, text),
        lambda text: PullError(409, text, "c"),
        lambda text: ServiceError(500, text),
    ],
)
def test_errors_are_printable_and_bounded(make: type[NatsError]) -> None:
    error = make("\x1b]0;title\x07 \x9b31m \u202egnp.exe \udc80")
    assert not has_unprintable(str(error))
    assert not has_unprintable(repr(error))
    assert len(str(make("x" * 10 * MAX_TEXT))) < MAX_TEXT + 100


def test_errors_keep_their_lines() -> None:
    assert str(ConnectError(())).endswith("0 servers:")
    assert str(NatsError("a\n\tb")) == "a\n\tb"


@pytest.mark.parametrize("character", HARMFUL, ids=ascii)
def test_no_host_contains_control_characters(character: str) -> None:
    for url in (
        f"nats://a{character}b:1",
        f"ws://a{character}b/path",
        f"nats://[fe80::1%{character}]",
    ):
        with pytest.raises(ConfigurationError) as caught:
            parse_servers(url)
        assert str(caught.value).isprintable()
