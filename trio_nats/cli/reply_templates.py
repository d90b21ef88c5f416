"""Templates such as ``{{Count}}`` in bodies, subjects and headers, as in the ``nats`` command."""

from __future__ import annotations

import random
import re
import secrets
import string
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from trio_nats import ConfigurationError, Headers

__all__ = ["Template", "header_templates", "headers_of"]

_PLACE = re.compile(rb"\{\{\s*\.?([A-Za-z]\w*|\d+)((?:\s+\d+)*)\s*\}\}")
_PLAIN = ("Count", "TimeStamp", "Unix", "UnixNano", "Time", "ID")
_MAX_RANDOM = 8 * 1024 * 1024


class Template:
    """A text with placeholders that are filled in for each message.

    Braces around anything but a name are left as they are. Raises :exc:`ConfigurationError` for an
    unknown name.
    """

    def __init__(
        self, text: str | bytes, *, enabled: bool = True, more: Iterable[str] = ()
    ) -> None:
        # Keep the bytes of the command line, whatever their encoding.
        self._text = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        self.is_fixed: bool = not enabled or not _PLACE.search(self._text)
        self.begins_with_place: bool = not self.is_fixed and bool(_PLACE.match(self._text))
        if not self.is_fixed:
            for place in _PLACE.finditer(self._text):
                _check(place, set(more))

    def fill(self, count: int, **more: bytes) -> bytes:
        """Return the text for message number ``count``. ``more`` holds values of further names."""
        if self.is_fixed:
            return self._text
        return _PLACE.sub(lambda place: _value(place, count, more), self._text)

    def fill_text(self, count: int, **more: bytes) -> str:
        """Like :meth:`fill`, but return text."""
        return self.fill(count, **more).decode("utf-8", "surrogateescape")


def _check(place: re.Match[bytes], more: set[str]) -> None:
    name, numbers = place[1].decode(), [int(number) for number in place[2].split()]
    if name == "Random":
        if len(numbers) != 2 or not numbers[0] <= numbers[1] <= _MAX_RANDOM:
            raise ConfigurationError(
                "{{Random}} needs a minimum and a maximum length, as in {{Random 10 100}}"
            )
    elif name not in _PLAIN and name not in more:
        known = ", ".join((*_PLAIN, "Random", *sorted(one for one in more if one.isalpha())))
        raise ConfigurationError(
            f"{place[0].decode()!r} is not a known template; use one of {known}, or --no-templates"
        )
    elif numbers:
        raise ConfigurationError(f"{place[0].decode()!r}: {name} takes no numbers")


def _value(place: re.Match[bytes], count: int, more: dict[str, bytes]) -> bytes:
    name = place[1].decode()
    if name in more:
        return more[name]
    match name:
        case "Count":
            text = str(count)
        case "Unix":
            text = str(int(time.time()))
        case "UnixNano":
            text = str(time.time_ns())
        case "TimeStamp":
            text = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        case "Time":
            text = datetime.now().astimezone().strftime("%I:%M%p").lstrip("0")
        case "ID":
            text = secrets.token_hex(11)
        case "Random":
            minimum, maximum = (int(number) for number in place[2].split())
            length = random.randint(minimum, maximum)
            text = "".join(random.choices(string.ascii_letters + string.digits, k=length))
        case _:
            text = ""
    return text.encode()


def header_templates(given: Iterable[str], *, enabled: bool = True) -> list[tuple[str, Template]]:
    """Parse ``-H name:value``. Raises :exc:`ConfigurationError` for a malformed header."""
    headers: list[tuple[str, Template]] = []
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ConfigurationError(f"a header must have the form name:value, not {text!r}")
        headers.append((name.strip(), Template(value.strip(), enabled=enabled)))
    return headers


def headers_of(templates: list[tuple[str, Template]], count: int) -> Headers:
    """Return the headers of message number ``count``."""
    return Headers([(name, template.fill_text(count)) for name, template in templates])
