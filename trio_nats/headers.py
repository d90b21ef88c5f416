"""Message headers: a small ordered multi-map and its wire form (ADR-4)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from .errors import InvalidHeaderError

__all__ = ["Headers", "HeadersLike", "Status", "decode_headers", "encode_headers"]

_VERSION_TEXT = "NATS/1.0"

# ADR-4: printable ASCII without the colon that ends a name.
_NAME = re.compile(r"[!-9;-~]+")
# Anything that could end the line early, and NUL, which several servers and clients cut at.
_UNSENDABLE = re.compile(r"[\r\n\x00]")

_MAX_KNOWN_NAMES = 1024
# Names found to be fine. There are few, and matching each costs as much as all the rest.
_known_names: set[str] = set()


class Status(NamedTuple):
    """The status a server puts on the header's first line, such as ``503 No Responders``."""

    code: int
    """Such as 503."""
    description: str = ""
    """Such as ``"No Responders"``, or empty."""


class Headers(MutableMapping[str, str]):
    """An ordered multi-map of header names to values.

    Names keep the case they were sent with, and lookups are case-sensitive, as ADR-4 asks; see
    :meth:`get_ignoring_case` for peers that disagree about case. As a mapping it shows the *first*
    value of each name; :meth:`get_all` and :meth:`pairs` show everything, and assigning replaces
    every value of a name.

    >>> headers = Headers({"Color": ["red", "blue"]})
    >>> headers.add("Size", "XL")
    >>> headers["Color"], headers.get_all("Color"), headers.pairs()
    ('red', ['red', 'blue'], [('Color', 'red'), ('Color', 'blue'), ('Size', 'XL')])
    >>> headers.get_ignoring_case("size")
    'XL'

    Raises :exc:`InvalidHeaderError` for a name that is not printable ASCII without a colon, and for
    a value that is not a ``str`` or holds CR, LF or NUL. White space around a value is not kept:
    the wire format cannot tell it from its own.
    """

    __slots__ = ("_pairs",)

    def __init__(self, source: HeadersLike = ()) -> None:
        self._pairs: list[tuple[str, str]] = []
        if isinstance(source, Headers):
            self._pairs = source._pairs.copy()
        else:
            for name, value in _pairs_of(source):
                self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a value, keeping those the name already has."""
        self._pairs.append((_check_name(name), _check_value(name, value)))

    def get_all(self, name: str) -> list[str]:
        """Every value of ``name`` in order; an empty list when there is none."""
        return [value for key, value in self._pairs if key == name]

    def get_ignoring_case(self, name: str) -> str | None:
        """The first value whose name matches in any mixture of case, or ``None``."""
        wanted = name.lower()
        return next((value for key, value in self._pairs if key.lower() == wanted), None)

    def pairs(self) -> list[tuple[str, str]]:
        """Every (name, value) in the order sent or added."""
        return self._pairs.copy()

    def copy(self) -> Headers:
        """An independent copy."""
        return Headers(self)

    def __getitem__(self, name: str) -> str:
        for key, value in self._pairs:
            if key == name:
                return value
        raise KeyError(name)

    def __setitem__(self, name: str, value: str) -> None:
        checked = (_check_name(name), _check_value(name, value))
        for position, (key, _) in enumerate(self._pairs):
            if key == name:
                rest = [pair for pair in self._pairs[position + 1 :] if pair[0] != name]
                self._pairs[position:] = [checked, *rest]
                return
        self._pairs.append(checked)

    def __delitem__(self, name: str) -> None:
        kept = [pair for pair in self._pairs if pair[0] != name]
        if len(kept) == len(self._pairs):
            raise KeyError(name)
        self._pairs = kept

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(dict(self._pairs))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):
            return self._pairs == other._pairs
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable mapping, as dict

    def __repr__(self) -> str:
        return f"Headers({self._pairs!r})"


HeadersLike: TypeAlias = Headers | Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str]]
"""What headers may be given as: a mapping to a string or several, pairs, or :class:`Headers`."""


def encode_headers(headers: HeadersLike) -> bytes:
    """The wire form, from the version line to the empty line that ends it."""
    if type(headers) is dict and _known_names.issuperset(headers):
        # A plain dict with names checked before, and values nothing can be wrong with.
        text = _VERSION_TEXT
        for name, value in headers.items():
            if type(name) is not str or type(value) is not str or not value.isprintable():
                break
            text += f"\r\n{name}: {value.strip(' ')}"
        else:
            return f"{text}\r\n\r\n".encode()
    parts = [_VERSION_TEXT]
    for name, value in (headers if isinstance(headers, Headers) else Headers(headers))._pairs:
        parts += ("\r\n", name, ": ", value)
    parts.append("\r\n\r\n")
    return "".join(parts).encode("utf-8", "surrogateescape")


def decode_headers(block: bytes) -> tuple[Headers, Status | None]:
    """Read a header block leniently, for it comes from whoever published the message.

    What cannot be read is left out rather than raised: a peer must not be able to break the loop
    that receives its message. Bytes that are not UTF-8 survive as surrogate escapes.
    """
    headers = Headers()
    first, *lines = block.decode("utf-8", "surrogateescape").split("\r\n")
    if not first.startswith("NATS/"):
        return headers, None
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or (name not in _known_names and not _is_name(name)):
            continue
        if value.isprintable() or not _UNSENDABLE.search(value):
            headers._pairs.append((name, value.strip(" \t")))
    return headers, _status_of(first)


def _status_of(first_line: str) -> Status | None:
    _, _, rest = first_line.partition(" ")
    code, _, description = rest.strip().partition(" ")
    if len(code) == 3 and code.isascii() and code.isdigit():
        return Status(int(code), description.strip())
    return None


def _is_name(name: str) -> bool:
    if not _NAME.fullmatch(name):
        return False
    if len(_known_names) >= _MAX_KNOWN_NAMES:
        _known_names.clear()
    _known_names.add(name)
    return True


def _pairs_of(source: object) -> Iterator[tuple[str, str]]:
    if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
        raise InvalidHeaderError(
            f"headers must be a mapping or pairs of str, not {type(source).__name__}"
        )
    for entry in source.items() if isinstance(source, Mapping) else source:
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise InvalidHeaderError(
                f"headers must be (name, value) pairs; got {type(entry).__name__}"
            )
        name, values = cast("tuple[str, object]", tuple(entry))
        if isinstance(values, Sequence) and not isinstance(values, (str, bytes, bytearray)):
            for value in values:
                yield name, cast("str", value)  # checked where it is added
        else:
            yield name, cast("str", values)


def _check_name(name: str) -> str:
    if not isinstance(name, str):
        raise InvalidHeaderError(
            f"header names are str, not {type(name).__name__}; decode it first"
        )
    if not _is_name(name):
        raise InvalidHeaderError(
            f"header name {name[:80]!r} is not allowed: "
            "use printable ASCII without spaces or a colon, at least one character"
        )
    return name


def _check_value(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise InvalidHeaderError(
            f"header {name!r}: values are str, not {type(value).__name__}; convert it first"
        )
    if _UNSENDABLE.search(value):
        raise InvalidHeaderError(f"header {name!r}: a value cannot hold CR, LF or NUL")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidHeaderError(f"header {name!r}: the value is not valid Unicode text") from None
    # Of the text itself, whatever a subclass makes of it.
    return str.strip(value, " \t")
