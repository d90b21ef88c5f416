"""Message headers: an ordered multi-map and its wire format (ADR-4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from .errors import InvalidHeaderError

__all__ = ["Headers", "HeadersLike", "Status", "decode_headers", "encode_headers"]

_VERSION_TEXT = "NATS/1.0"

# CR and LF would end the line. Several servers and clients cut values at NUL.
_UNSENDABLE = re.compile(r"[\r\n\x00]")

_MAX_LINEAR_SEARCH = 16
"""Maximum number of headers for which a linear search is faster than an index."""


class Status(NamedTuple):
    """The status in a message from the server, such as ``503 No Responders``."""

    code: int
    """The code, such as 503."""
    description: str = ""
    """The text after it, such as ``"No Responders"``, or an empty string."""


class Headers(MutableMapping[str, str]):
    """An ordered multi-map of header names to values.

    Names keep their case, and lookups are case-sensitive, as ADR-4 requires; see
    :meth:`get_ignoring_case` for peers that change the case. As a mapping it shows the *first*
    value of each name, and assigning replaces all values of a name. :meth:`get_all` and
    :meth:`pairs` return all values.

    >>> headers = Headers({"Color": ["red", "blue"]})
    >>> headers.add("Size", "XL")
    >>> headers["Color"], headers.get_all("Color"), headers.pairs()
    ('red', ['red', 'blue'], [('Color', 'red'), ('Color', 'blue'), ('Size', 'XL')])
    >>> headers.get_ignoring_case("size")
    'XL'

    White space around a value is removed, because the wire format cannot represent it.

    :param source: a mapping of names to a value or several, an iterable of pairs, or other headers.
        Default: no headers.
    :raises InvalidHeaderError: if a name is not printable ASCII without spaces or a colon, or if a
        value is not a ``str`` or contains CR, LF or NUL.
    """

    # A peer may send very many headers, so the time of an operation on one of them must not depend
    # on their number. An index finds the headers with a name. Removing a header leaves a hole;
    # holes are closed when they outnumber the headers.
    __slots__ = ("_holes", "_index", "_pairs", "_start")

    def __init__(self, source: HeadersLike = ()) -> None:
        self._pairs: list[tuple[str, str] | None] = []
        self._index: dict[str, list[int]] | None = None
        self._holes = 0  # always 0 while there is no index
        self._start = 0  # all positions before this one are holes
        if isinstance(source, Headers):
            self._pairs += source.pairs()
        else:
            for name, value in _pairs_of(source):
                self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a value, keeping those that the name already has.

        :param name: the name.
        :param value: the value.
        :raises InvalidHeaderError: if either is not allowed, see :class:`Headers`.
        """
        self._append((_check_name(name), _check_value(name, value)))

    def get_all(self, name: str) -> list[str]:
        """Return all values of a name.

        :param name: the name, in its exact case.
        :returns: the values in order; an empty list if there are none.
        """
        return [self._value(place) for place in self._places().get(name, ())]

    def get_ignoring_case(self, name: str) -> str | None:
        """Return the first value of a name in any case.

        :param name: the name, in any case.
        :returns: the value, or ``None`` if there is none.
        """
        wanted = name.lower()
        return next((value for key, value in self.pairs() if key.lower() == wanted), None)

    def pairs(self) -> list[tuple[str, str]]:
        """Return all headers.

        :returns: (name, value) pairs, in the order in which they were received or added.
        """
        return [pair for pair in self._pairs if pair is not None]

    def copy(self) -> Headers:
        """Copy the headers.

        :returns: an independent copy.
        """
        return Headers(self)

    def clear(self) -> None:
        """Remove all headers."""
        self._pairs, self._index, self._holes, self._start = [], None, 0, 0

    def popitem(self) -> tuple[str, str]:
        """Remove the last name with all its values.

        :returns: the name and its first value.
        :raises KeyError: if there are no headers.
        """
        places = self._places()
        if not places:
            raise KeyError("there are no headers")
        name, where = places.popitem()
        value = self._value(where[0])
        self._remove(where)
        return name, value

    def __getitem__(self, name: str) -> str:
        if self._index is None and len(self._pairs) <= _MAX_LINEAR_SEARCH:
            for key, value in cast("list[tuple[str, str]]", self._pairs):
                if key == name:
                    return value
            raise KeyError(name)
        return self._value(self._places()[name][0])

    def __setitem__(self, name: str, value: str) -> None:
        checked = (_check_name(name), _check_value(name, value))
        places = self._places().get(name)
        if places is None:
            self._append(checked)
        else:
            self._pairs[places[0]] = checked
            rest, places[1:] = places[1:], []
            self._remove(rest)

    def __delitem__(self, name: str) -> None:
        self._remove(self._places().pop(name))

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        pairs = self._pairs
        for place in range(self._start, len(pairs)):
            pair = pairs[place]
            if pair is not None and pair[0] not in seen:
                seen.add(pair[0])
                yield pair[0]

    def __len__(self) -> int:
        return len(self._places())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):
            return self.pairs() == other.pairs()
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable mapping, as dict

    def __repr__(self) -> str:
        return f"Headers({self.pairs()!r})"

    def _places(self) -> dict[str, list[int]]:
        """Return the positions of the headers of each name."""
        index = self._index
        if index is None:
            index = self._index = {}
            for place, (name, _) in enumerate(cast("list[tuple[str, str]]", self._pairs)):
                index.setdefault(name, []).append(place)
        return index

    def _value(self, place: int) -> str:
        pair = self._pairs[place]
        assert pair is not None
        return pair[1]

    def _append(self, pair: tuple[str, str]) -> None:
        if self._index is not None:
            self._index.setdefault(pair[0], []).append(len(self._pairs))
        self._pairs.append(pair)

    def _remove(self, places: list[int]) -> None:
        for place in places:
            self._pairs[place] = None
        self._holes += len(places)
        if self._holes * 2 > len(self._pairs):
            self._pairs = [*self.pairs()]
            self._index, self._holes, self._start = None, 0, 0
            return
        while self._start < len(self._pairs) and self._pairs[self._start] is None:
            self._start += 1


HeadersLike: TypeAlias = Headers | Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str]]
"""A mapping of names to a string or several, an iterable of pairs, or :class:`Headers`."""


def encode_headers(headers: HeadersLike) -> bytes:
    """Return the wire format, from the version line to the empty line at the end."""
    if type(headers) is dict:
        # The fast path for a plain dict of common names and printable values.
        text = _VERSION_TEXT
        for name, value in headers.items():
            if (
                type(name) is not str
                or type(value) is not str
                or not value.isprintable()
                or not name.isascii()
                or not name.replace("-", "_").isidentifier()
            ):
                break
            text += f"\r\n{name}: {value.strip(' ')}"
        else:
            return f"{text}\r\n\r\n".encode()
    parts = [_VERSION_TEXT]
    for name, value in (headers if isinstance(headers, Headers) else Headers(headers)).pairs():
        parts += ("\r\n", name, ": ", value)
    parts.append("\r\n\r\n")
    return "".join(parts).encode("utf-8", "surrogateescape")


def decode_headers(block: bytes) -> tuple[Headers, Status | None]:
    """Parse the header block of a message, skipping lines that are malformed.

    The block comes from a publisher, which must not be able to break the loop that receives its
    message. Bytes that are not UTF-8 become surrogate escapes.
    """
    first, *lines = block.decode("utf-8", "surrogateescape").split("\r\n")
    if not first.startswith("NATS/"):
        return Headers(), None
    pairs: list[tuple[str, str] | None] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and _is_name(name) and (value.isprintable() or not _UNSENDABLE.search(value)):
            pairs.append((name, value.strip(" \t")))
    headers = Headers.__new__(Headers)  # without checking it all again
    headers._pairs, headers._index, headers._holes, headers._start = pairs, None, 0, 0
    return headers, _status_of(first)


def _status_of(first_line: str) -> Status | None:
    _, _, rest = first_line.partition(" ")
    code, _, description = rest.strip().partition(" ")
    if len(code) == 3 and code.isascii() and code.isdigit():
        return Status(int(code), description.strip())
    return None


def _is_name(text: str) -> bool:
    """Return whether ``text`` is printable ASCII without spaces. Names must not contain a colon
    either.
    """
    return text.isascii() and text.isprintable() and " " not in text and text != ""


def _pairs_of(source: object) -> Iterator[tuple[str, str]]:
    if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
        raise TypeError(f"headers must be a mapping or pairs of str, not {type(source).__name__}")
    for entry in source.items() if isinstance(source, Mapping) else source:
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise TypeError(f"headers must be (name, value) pairs; got {type(entry).__name__}")
        name, values = cast("tuple[str, object]", tuple(entry))
        if isinstance(values, Sequence) and not isinstance(values, (str, bytes, bytearray)):
            for value in values:
                yield name, cast("str", value)  # checked where it is added
        else:
            yield name, cast("str", values)


def _check_name(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"header names must be str, not {type(name).__name__}; decode them first")
    if not _is_name(name) or ":" in name:
        raise InvalidHeaderError(
            f"header name {name[:80]!r} is not allowed: "
            "use printable ASCII without spaces or a colon, at least one character"
        )
    return name


def _check_value(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"header {name!r}: the value must be a str, not {type(value).__name__}; convert it"
        )
    if _UNSENDABLE.search(value):
        raise InvalidHeaderError(f"header {name!r}: the value must not contain CR, LF or NUL")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidHeaderError(f"header {name!r}: the value must be valid Unicode text") from None
    # Not value.strip(), which a subclass may override.
    return str.strip(value, " \t")
