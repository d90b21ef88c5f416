"""Turn the texts of ``-ERR`` lines into exceptions.

Matching ignores case, because servers differ in it.
"""

from __future__ import annotations

import re
from typing import Literal

from ..errors import (
    AuthenticationExpiredError,
    AuthorizationError,
    PermissionsViolationError,
    ServerReportedError,
)

__all__ = ["is_too_long", "server_error"]

_QUOTED = r'"((?:[^"\\]|\\.)+)"'
_PERMISSION = re.compile(
    r"permissions violation for (publish|subscription)(?: with reply of| to) "
    rf"(?:{_QUOTED}|([^\s\"]+))",
    re.I,
)
_QUEUE = re.compile(rf"using queue {_QUOTED}", re.I)
_SID = re.compile(r'\(sid "(\w+)"\)', re.I)
# The escape sequences of Go's %q that can occur in a subject.
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")

# Phrases in the order of the search, each with a hint for the user.
_AUTHORIZATION = {
    "authorization violation": "check the credentials, and that this server knows them",
    "authentication timeout": "the credentials arrived too late; is the client or network slow?",
}
_EXPIRED = {
    "user authentication expired": "the user's JWT has expired; give the connection a fresh one",
    "user authentication revoked": "the user's JWT has been revoked",
    "account authentication expired": "the account's JWT has expired",
}
_TOO_LONG = "maximum control line exceeded"
_OTHER = {
    "maximum connections exceeded": "the server takes no more connections",
    "maximum account active connections exceeded": "the account may not open more connections",
    "maximum subscriptions exceeded": "the connection may not make more subscriptions",
    _TOO_LONG: "a line was longer than its max_control_line; give open_nats the same one",
    "maximum payload violation": "a message was larger than the server allows",
    "connection throttling is active": "too many connections at once; it is worth trying again",
}


def server_error(text: str) -> ServerReportedError:
    """Return the exception for the text of an ``-ERR`` line."""
    if found := _PERMISSION.search(text):
        subject = found[3] or _unquoted(found[2])
        queue, sid = _QUEUE.search(text), _SID.search(text)
        operation: Literal["publish", "subscription"] = (
            "publish" if found[1].lower() == "publish" else "subscription"
        )
        return PermissionsViolationError(
            text,
            operation,
            subject,
            _unquoted(queue[1]) if queue else None,
            sid[1] if sid else None,
        )
    lowered = text.lower()
    for phrase, hint in _AUTHORIZATION.items():
        if phrase in lowered:
            return AuthorizationError(text, hint)
    for phrase, hint in _EXPIRED.items():
        if phrase in lowered:
            return AuthenticationExpiredError(text, hint)
    for phrase, hint in _OTHER.items():
        if phrase in lowered:
            return ServerReportedError(text, hint)
    return ServerReportedError(text)


def is_too_long(error: ServerReportedError) -> bool:
    """Return whether a control line was too long for the server, which then disconnects."""
    return _TOO_LONG in error.message.lower()


def _unquoted(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code is None:
            return found[4]
        point = int(code, 16)
        is_text = point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF
        return chr(point) if is_text else "\N{REPLACEMENT CHARACTER}"

    return _ESCAPE.sub(character, text)
