"""Make text from untrusted sources safe for terminals, logs and errors.

It escapes control characters (C0, C1, DEL), bidirectional controls, invisible characters, line
separators, and surrogates, which have no encoding.
"""

from __future__ import annotations

import re

__all__ = ["MAX_TEXT", "has_unprintable", "printable", "printable_json", "printable_lines"]

MAX_TEXT = 16 * 1024
"""Maximum length in characters of text that need not be shown in full."""

_HARMFUL = (
    r"\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff"
)
_UNPRINTABLE = re.compile(rf"[\x00-\x1f{_HARMFUL}]")
_UNPRINTABLE_IN_LINES = re.compile(rf"[\x00-\x08\x0b-\x1f{_HARMFUL}]")
_UNPRINTABLE_IN_JSON = re.compile(f"[{_HARMFUL}]")


def printable(text: str, limit: int | None = None) -> str:
    """Return ``text`` on one line, with harmful characters escaped.

    :param limit: maximum number of characters. Longer text is cut and ends in dots. Default: no
        limit.
    """
    return _UNPRINTABLE.sub(_escaped, _cut(text, limit))


def printable_lines(text: str, limit: int | None = None) -> str:
    """Like :func:`printable`, but keep line feeds and tabs."""
    return _UNPRINTABLE_IN_LINES.sub(_escaped, _cut(text, limit))


def printable_json(text: str) -> str:
    """Escape harmful characters in a JSON text without changing its meaning."""
    return _UNPRINTABLE_IN_JSON.sub(_escaped_in_json, text)


def has_unprintable(text: str) -> bool:
    """Return whether :func:`printable` would escape a character of the text."""
    return bool(_UNPRINTABLE.search(text))


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else f"{text[:limit]}..."


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _escaped_in_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))
