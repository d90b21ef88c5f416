"""Output of messages, and templates, without a server."""

from __future__ import annotations

import json
import random
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats import ConfigurationError, Msg
from trio_nats._printable import printable_lines as printable
from trio_nats.cli.output import Output, message_json, message_text
from trio_nats.cli.reply_templates import Template, header_templates, headers_of

HARMLESS = set(string.printable) - set("\r\x0b\x0c")


@given(st.text())
def test_printable_text_cannot_control_a_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    for character in shown:
        assert character in "\n\t" or (character >= " " and not "\x7f" <= character <= "\x9f")
        assert character not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028"


@given(st.text(alphabet=sorted(HARMLESS)))
def test_harmless_text_stays(text: str) -> None:
    assert printable(text) == text


@given(st.binary())
def test_any_body_is_one_line_of_json(data: bytes) -> None:
    line = message_json(Msg.new("a", data))
    assert line.count(b"\n") == 1
    assert not set(line[:-1]) & {*range(32), 127}
    fields = json.loads(line)
    assert ("data" in fields) != ("data_base64" in fields)


def test_headers_and_subjects_cannot_control_a_terminal() -> None:
    msg = Msg(b"a\x1b", b"0", b"r\x9b", b"", b"NATS/1.0 503 No\x1bX\r\nK\x07: v\x1b[m\x85\r\n\r\n")
    text = message_text(Output(), msg, "[#1] Received").decode()
    assert not set(text) & set(map(chr, [*range(10), *range(11, 32), *range(127, 160)]))
    assert "Status: 503" in text


# --- templates -----------------------------------------------------------------------------------


def test_templates() -> None:
    template = Template(
        "{{Count}}|{{ .Count }}|{{Unix}}|{{UnixNano}}|{{TimeStamp}}|{{Time}}|{{ID}}"
    )
    count, again, unix, nano, stamp, time, one_id = template.fill_text(7).split("|")
    assert count == again == "7"
    assert unix.isdecimal()
    assert nano.startswith(unix[:8])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", stamp)
    assert re.fullmatch(r"1?\d:\d\d[AP]M", time)
    assert template.fill_text(7).split("|")[6] != one_id


def test_random_has_a_length_between() -> None:
    random.seed(1)
    lengths = {len(Template("{{Random 1 3}}").fill(1)) for _ in range(100)}
    assert lengths == {1, 2, 3}


@pytest.mark.parametrize("text", ["", "{{", "{{}}", '{{"a": 1}}', "{ {Count} }", "{{a.b}}", "}}{{"])
def test_other_braces_are_unchanged(text: str) -> None:
    assert Template(text).fill_text(1) == text


def test_values_that_are_not_text_are_unchanged() -> None:
    given = b"\xff{{Count}}".decode("utf-8", "surrogateescape")
    assert Template(given).fill(1) == b"\xff1"


def test_filled_in_text_is_not_filled_in_again() -> None:
    template = Template("{{Request}}", more=["Request"])
    assert template.fill(1, Request=b"{{Count}}\\1") == b"{{Count}}\\1"


def test_request_is_known_to_replies_only() -> None:
    with pytest.raises(ConfigurationError, match="is not a known template"):
        Template("{{Request}}")
    with pytest.raises(ConfigurationError, match=r"use one of .*, Request, or"):
        Template("{{Nonsense}}", more=["Request", "1"])


def test_headers() -> None:
    templates = header_templates(["a: {{Count}} ", "b::", "a:2"])
    headers = headers_of(templates, 5)
    assert headers.pairs() == [("a", "5"), ("b", ":"), ("a", "2")]
    assert not headers_of([], 1)
