"""Which subjects, queue groups and inbox prefixes pass, and what is said about the others."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_nats.errors import InvalidSubjectError
from trio_nats.subjects import check_filter, check_inbox_prefix, check_queue, check_subject

Check = Callable[[str], bytes | str]

LITERAL_CHECKS: list[Check] = [check_subject, check_queue, check_inbox_prefix]
CHECKS: list[Check] = [*LITERAL_CHECKS, check_filter]
WHAT: dict[Check, str] = {
    check_subject: "subject",
    check_filter: "subject",
    check_queue: "queue group",
    check_inbox_prefix: "inbox prefix",
}

LITERALS = [
    "a",
    "a.b.c",
    "_INBOX.Ab0",
    "$JS.API.INFO",
    "$SYS.REQ.SERVER.PING",
    "with-dash_and/slash\\and|bar",
    "colon:comma,quote'\"",
    "gr\u00fcn.\u20ac.\U0001f600",
    "0",
    "!~",
]
PATTERNS = ["*", ">", "*.a", "a.*", "a.*.b", "*.*", "a.>", "*.>", "a.*.>"]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("text", LITERALS)
def test_literal_subjects_are_valid_everywhere(check: Check, text: str) -> None:
    passed = check(text)
    assert passed == (text if check is check_inbox_prefix else text.encode())


@pytest.mark.parametrize("text", PATTERNS)
def test_wildcards_pass_for_subscribing_only(text: str) -> None:
    assert check_filter(text) == text.encode()
    for check in LITERAL_CHECKS:
        with pytest.raises(InvalidSubjectError, match="only subscriptions may use") as caught:
            check(text)
        assert str(caught.value).startswith(f"{WHAT[check]} {text!r} is not allowed: ")


EMPTY = "it is empty"
EMPTY_TOKEN = "it has an empty token"
UNICODE = "it is not valid Unicode text"


def holds(character: str, position: int) -> str:
    return f"it contains {character!a} at position {position}; white space and control characters"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", EMPTY),
        (".", EMPTY_TOKEN),
        ("..", EMPTY_TOKEN),
        (".a", EMPTY_TOKEN),
        ("a.", EMPTY_TOKEN),
        ("a..b", EMPTY_TOKEN),
        (" ", holds(" ", 0)),
        ("a b", holds(" ", 1)),
        ("a.b ", holds(" ", 3)),
        ("a\t", holds("\t", 1)),
        ("a\r\nSUB > 1", holds("\r", 1)),
        ("a\n", holds("\n", 1)),
        ("\na", holds("\n", 0)),
        ("a\x00b", holds("\x00", 1)),
        ("a\x0bb", holds("\x0b", 1)),
        ("a\x0cb", holds("\x0c", 1)),
        ("a\x1b[31m", holds("\x1b", 1)),
        ("a\x1f", holds("\x1f", 1)),
        ("a\x7f", holds("\x7f", 1)),
        (".a b", holds(" ", 2)),
        ("\ud800", UNICODE),
        ("a.\udc0a", UNICODE),
        ("\udcff.b", UNICODE),
    ],
)
def test_refused_everywhere_with_the_reason(check: Check, text: str, fault: str) -> None:
    with pytest.raises(InvalidSubjectError) as caught:
        check(text)
    message = str(caught.value)
    assert message.startswith(f"{WHAT[check]} {text!a} is not allowed: {fault}")
    assert message.isascii()
    assert message.isprintable()
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text", ["a*", "*a", "a.b*", "a*b.c", "**", "a>", ">a", ">.a", "a.>.b", "a.>>", "*>", ">.>"]
)
def test_misplaced_wildcards(text: str) -> None:
    with pytest.raises(InvalidSubjectError, match="a wildcard must be a whole token"):
        check_filter(text)
    for check in LITERAL_CHECKS:
        with pytest.raises(InvalidSubjectError, match="only subscriptions may use"):
            check(text)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "value", [None, b"a", bytearray(b"a"), 5, 1.5, ["a"], ("a",), object(), str]
)
def test_what_is_not_a_str(check: Check, value: object) -> None:
    with pytest.raises(TypeError) as caught:
        check(value)  # type: ignore[arg-type]
    assert str(caught.value) == f"{WHAT[check]} must be a str, not {type(value).__name__}"


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_very_long_subjects(check: Check) -> None:
    good = ".".join(["token"] * 40_000)
    passed = check(good)
    assert len(passed) == len(good)
    for bad in (
        good + " ",
        good + ".",
        good + ".\ud800",
        "a" * 200_000 + "*",
        "\u20ac" * 200_000 + " ",
    ):
        with pytest.raises(InvalidSubjectError) as caught:
            check(bad)
        assert len(str(caught.value)) < 1000
        assert ascii(bad[:77])[:-1] + "...'" in str(caught.value)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("length", "cut"), [(80, False), (81, True)])
def test_a_rejected_subject_is_shown_in_part(check: Check, length: int, cut: bool) -> None:
    bad = "x" * (length - 1) + " "
    with pytest.raises(InvalidSubjectError) as caught:
        check(bad)
    assert ("..." in str(caught.value)) is cut
    assert (repr(bad) in str(caught.value)) is not cut


# --- against a model -----------------------------------------------------------------------------


def allowed(text: str, *, wildcards: bool) -> bool:
    """ADR-6, read token by token."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    if re.search(r"[\x00-\x20\x7f]", text):
        return False
    tokens = text.split(".")
    for position, token in enumerate(tokens):
        if token == "":
            return False
        if token == "*" or (token == ">" and position == len(tokens) - 1):
            if not wildcards:
                return False
        elif "*" in token or ">" in token:
            return False
    return True


texts = st.text(
    st.sampled_from("ab.*> \t\r\n\x00\x1f\x7f\x85\xa0\u00e9\u2028\ud800\udc0a"), max_size=8
) | st.text(st.characters(exclude_categories=[]), max_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@given(text=texts)
@example(text="a\n")
@example(text="a.>\n")
@example(text=">\n")
def test_exactly_what_the_model_allows(check: Check, text: str) -> None:
    if allowed(text, wildcards=check is check_filter):
        assert check(text) in (text, text.encode())
    else:
        with pytest.raises(InvalidSubjectError):
            check(text)


@given(text=texts)
def test_what_passes_has_no_white_space_control_character_or_empty_token(text: str) -> None:
    try:
        wire = check_filter(text)
    except InvalidSubjectError:
        return
    assert len(wire.split()) == 1
    assert min(wire) > 0x20
    assert 0x7F not in wire
    tokens = wire.split(b".")
    assert all(tokens)
    assert all(token in (b"*", b">") for token in tokens if re.search(rb"[*>]", token))
    assert b">" not in tokens[:-1]
