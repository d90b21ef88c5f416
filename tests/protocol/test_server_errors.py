"""What ``-ERR`` texts mean, as servers from 2.10 on write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats._protocol.server_errors import server_error
from trio_nats.errors import (
    AuthenticationExpiredError,
    AuthorizationError,
    PermissionsViolationError,
    ServerReportedError,
)

MEANINGS: list[tuple[str, type[ServerReportedError], str]] = [
    ("Authorization Violation", AuthorizationError, "check the credentials"),
    ("Authentication Timeout", AuthorizationError, "arrived too late"),
    ("User Authentication Expired", AuthenticationExpiredError, "JWT has expired"),
    ("User Authentication Revoked", AuthenticationExpiredError, "JWT has been revoked"),
    ("Account Authentication Expired", AuthenticationExpiredError, "account's JWT has expired"),
    ("maximum connections exceeded", ServerReportedError, "takes no more connections"),
    (
        "maximum account active connections exceeded",
        ServerReportedError,
        "account may not open more",
    ),
    ("maximum subscriptions exceeded", ServerReportedError, "may not make more subscriptions"),
    ("Maximum Payload Violation", ServerReportedError, "larger than the server allows"),
    ("Connection throttling is active", ServerReportedError, "worth trying again"),
]
UNKNOWN = ["Stale Connection", "Parser Error", "Invalid Subject", "Unknown Protocol Operation", ""]


@pytest.mark.parametrize("change", [str, str.lower, str.upper, str.title])
@pytest.mark.parametrize(("text", "kind", "explanation"), MEANINGS)
def test_known_texts_in_any_case(
    change: type[str], text: str, kind: type[ServerReportedError], explanation: str
) -> None:
    changed = change(text)
    error = server_error(changed)
    assert type(error) is kind
    assert error.message == changed
    assert explanation in error.explanation
    assert str(error) == f"server said {changed!r}: {error.explanation}"


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_errors_are_reported_unchanged(text: str) -> None:
    error = server_error(text)
    assert type(error) is ServerReportedError
    assert error.message == text
    assert error.explanation == ""
    assert str(error) == f"server said {text!r}"


@pytest.mark.parametrize(
    ("text", "operation", "subject", "queue", "sid"),
    [
        ('Permissions Violation for Publish to "a.b"', "publish", "a.b", None, None),
        ('Permissions Violation for Subscription to "a.>"', "subscription", "a.>", None, None),
        (
            'Permissions Violation for Subscription to "a.*" using queue "workers"',
            "subscription",
            "a.*",
            "workers",
            None,
        ),
        (
            'Permissions Violation for Subscription to "a" (sid "17")',
            "subscription",
            "a",
            None,
            "17",
        ),
        (
            'Permissions Violation for Subscription to "a" using queue "q.1" (sid "2")',
            "subscription",
            "a",
            "q.1",
            "2",
        ),
        ('permissions violation for publish to "A.b"', "publish", "A.b", None, None),
        ('PERMISSIONS VIOLATION FOR SUBSCRIPTION TO "a"', "subscription", "a", None, None),
        ("Permissions Violation for Publish to a.b", "publish", "a.b", None, None),
        ('Permissions Violation for Publish to "gr\u00fcn"', "publish", "gr\u00fcn", None, None),
        (
            'Permissions Violation for Publish to "authorization.violation"',
            "publish",
            "authorization.violation",
            None,
            None,
        ),
    ],
)
def test_permissions(
    text: str, operation: str, subject: str, queue: str | None, sid: str | None
) -> None:
    error = server_error(text)
    assert type(error) is PermissionsViolationError
    assert error.message == text
    found = (error.operation, error.subject, error.queue, error.sid)
    assert found == (operation, subject, queue, sid)


def test_permission_for_a_reply_subject() -> None:
    text = 'Permissions Violation for Publish with Reply of "_INBOX.x.1"'
    error = server_error(text)
    assert type(error) is PermissionsViolationError
    assert error.operation == "publish"
    assert error.subject == "_INBOX.x.1"


@pytest.mark.parametrize(
    ("quoted", "subject"),
    [(r'"say.\"hi\""', 'say."hi"'), (r'"back\\slash"', "back\\slash"), (r'"a\u200b"', "a\u200b")],
)
def test_subjects_are_quoted_as_go_quotes(quoted: str, subject: str) -> None:
    text = f'Permissions Violation for Subscription to {quoted} using queue {quoted} (sid "2")'
    error = server_error(text)
    assert isinstance(error, PermissionsViolationError)
    assert (error.subject, error.queue, error.sid) == (subject, subject, "2")
    error = server_error(f"Permissions Violation for Publish to {quoted}")
    assert isinstance(error, PermissionsViolationError)
    assert error.subject == subject


@pytest.mark.parametrize(
    ("quoted", "subject"),
    [
        (r'"\ud800"', "\N{REPLACEMENT CHARACTER}"),
        (r'"a\udfffb"', "a\N{REPLACEMENT CHARACTER}b"),
        (r'"\U00110000"', "\N{REPLACEMENT CHARACTER}"),
        (r'"\U0010ffff"', "\U0010ffff"),
        (r'"\U0001f600"', "\U0001f600"),
        (r'"\x7f\u0085"', "\x7f\x85"),
        (r'"\U0000d800"', "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_no_escape_makes_a_subject_that_is_not_text(quoted: str, subject: str) -> None:
    error = server_error(f"Permissions Violation for Publish to {quoted}")
    assert isinstance(error, PermissionsViolationError)
    assert error.subject == subject


PARTS = [*("\\", "\\u", "\\U", "\\x", '"', "ff", "41", "d800", "0000", "0011", "a", " ", ".")]
escaped = st.lists(st.sampled_from(PARTS), max_size=8).map(
    lambda parts: f'Permissions Violation for Publish to "{"".join(parts)}"'
)


@pytest.mark.slow
@given(escaped)
def test_text_from_any_peer_can_be_encoded(text: str) -> None:
    error = server_error(text)
    if isinstance(error, PermissionsViolationError):
        assert error.subject.encode()


@pytest.mark.parametrize(
    "text", ["Permissions Violation", "Permissions Violation for Publish to ", "permission denied"]
)
def test_permissions_without_a_subject_are_passed_on(text: str) -> None:
    assert type(server_error(text)) is ServerReportedError


@pytest.mark.slow
@given(st.text())
def test_any_error_text_is_understood(text: str) -> None:
    error = server_error(text)
    assert isinstance(error, ServerReportedError)
    assert error.message == text
