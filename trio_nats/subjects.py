"""Rules for subjects, queue groups and inbox prefixes (ADR-6).

Most importantly, nothing passes that could end a protocol line early, so an attacker cannot smuggle
a command into the connection. ADR-6 asks for printable ASCII; like the servers and other clients,
this package also accepts UTF-8.
"""

from __future__ import annotations

import re

from .errors import InvalidSubjectError

__all__ = ["check_filter", "check_inbox_length", "check_inbox_prefix"]
__all__ += ["check_queue", "check_subject"]

_TERM = r"[^\x00-\x20\x7f.*>]+"
_SUBJECT = re.compile(rf"{_TERM}(?:\.{_TERM})*")
_FILTER = re.compile(rf"(?:{_TERM}|\*)(?:\.(?:{_TERM}|\*))*(?:\.>)?|>")
_INBOX_ROOM = 256
"""Bytes that an inbox prefix leaves on a line for the name of an inbox and the subject asked."""
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f]")


def check_subject(subject: str) -> bytes:
    """Check a subject to publish to, which must not contain wildcards.

    :param subject: the subject.
    :returns: the subject as bytes.
    :raises InvalidSubjectError: if it is not allowed.
    :raises TypeError: if it is not a ``str``.
    """
    try:
        if _SUBJECT.fullmatch(subject):
            return subject.encode()
    except (TypeError, UnicodeEncodeError):
        pass
    raise _refusal("subject", subject, wildcards=False)


def check_filter(subject: str) -> bytes:
    """Check a subject to subscribe to: ``*`` matches one token, a final ``>`` one or more.

    :param subject: the subject.
    :returns: the subject as bytes.
    :raises InvalidSubjectError: if it is not allowed.
    :raises TypeError: if it is not a ``str``.
    """
    try:
        if _FILTER.fullmatch(subject):
            return subject.encode()
    except (TypeError, UnicodeEncodeError):
        pass
    raise _refusal("subject", subject, wildcards=True)


def check_queue(queue: str) -> bytes:
    """Check the name of a queue group.

    :param queue: the name.
    :returns: the name as bytes.
    :raises InvalidSubjectError: if it is not allowed.
    :raises TypeError: if it is not a ``str``.
    """
    try:
        if _SUBJECT.fullmatch(queue):
            return queue.encode()
    except (TypeError, UnicodeEncodeError):
        pass
    raise _refusal("queue group", queue, wildcards=False)


def check_inbox_prefix(prefix: str) -> str:
    """Check an inbox prefix, a subject without wildcards.

    :param prefix: the prefix.
    :returns: the prefix as a plain ``str``.
    :raises InvalidSubjectError: if it is not allowed.
    :raises TypeError: if it is not a ``str``.
    """
    try:
        if _SUBJECT.fullmatch(prefix):
            # A plain str, because a subclass such as an enum may format itself differently.
            return prefix.encode().decode()
    except (TypeError, UnicodeEncodeError):
        pass
    raise _refusal("inbox prefix", prefix, wildcards=False)


def check_inbox_length(prefix: str, max_control_line: int) -> None:
    """Check that an inbox prefix leaves room on a line for a subject and the name of an inbox.

    :param prefix: the prefix.
    :param max_control_line: maximum length of a line of the protocol, in bytes.
    :raises InvalidSubjectError: if it is too long.
    """
    most, size = max_control_line - _INBOX_ROOM, len(prefix.encode())
    if size > most:
        raise InvalidSubjectError(
            f"inbox_prefix must not be longer than {most:,} bytes if "
            f"max_control_line is {max_control_line:,}; it has {size:,}"
        )


def _refusal(what: str, text: object, *, wildcards: bool) -> InvalidSubjectError | TypeError:
    if not isinstance(text, str):
        return TypeError(f"{what} must be a str, not {type(text).__name__}")
    shown = ascii(text if len(text) <= 80 else text[:77] + "...")
    return InvalidSubjectError(f"{what} {shown} is not allowed: {_fault(text, wildcards)}")


def _fault(text: str, wildcards: bool) -> str:
    if not text:
        return "it is empty"
    if found := _FORBIDDEN.search(text):
        return (
            f"it contains {found.group()!a} at position {found.start()}; "
            "white space and control characters are not allowed"
        )
    if "" in text.split("."):
        return "it has an empty token; separate tokens by single dots, and put no dot at either end"
    if "*" in text or ">" in text:
        if not wildcards:
            return "'*' and '>' are wildcards, which only subscriptions may use"
        return "a wildcard must be a whole token: '*' anywhere, '>' only as the last one"
    return "it is not valid Unicode text"
