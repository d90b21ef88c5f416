"""What JetStream says in JSON, and what we make of it.

On the wire durations are whole nanoseconds, a time that is none is that of the year 1, and a list
without anything may be null. Here durations are seconds, a time that is none is ``None``, and
nothing is null that has a default. What is unknown to this version is left out, so that newer
servers can be talked to; of an enumeration it is kept as it is.
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from typing import (
    Annotated,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from ..errors import ConfigurationError
from ..options import check_seconds

__all__ = [
    "Answer",
    "Choice",
    "Seconds",
    "check_types",
    "decode",
    "encode",
    "from_wire",
    "nanoseconds",
    "seconds",
    "time_from_wire",
    "time_to_wire",
    "to_wire",
]

S = TypeVar("S", bound=msgspec.Struct)

NANOSECONDS = "nanoseconds on the wire"
Seconds: TypeAlias = Annotated[float, NANOSECONDS]
"""Marks a field of a struct that is in seconds, and on the wire in nanoseconds."""

_MAX_DIFFERENCES = 5
MAX_NANOSECONDS = 2**63 - 1
_FINER = re.compile(r"(\.[0-9]{6})[0-9]+")
_BILLION = Decimal(1_000_000_000)


class Choice(enum.StrEnum):
    """A word out of several; those that newer servers know are kept as they are."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that says no more than whether it worked."""

    success: bool = False


# --- single values -------------------------------------------------------------------------------


def nanoseconds(name: str, value: float) -> int:
    """Seconds as nanoseconds, exactly as they are written in decimals."""
    if check_seconds(name, value, zero=True) != float("inf"):
        exact = Decimal(value if isinstance(value, int) else repr(float(value))) * _BILLION
        whole = int(exact.to_integral_value(ROUND_HALF_EVEN))
        if whole <= MAX_NANOSECONDS:
            return whole
    raise ConfigurationError(f"{name}: {value!r} s is too long; 292 years is the longest there is")


def seconds(value: object) -> object:
    """Nanoseconds as seconds; what is no number is left for others to complain about."""
    return value / 1e9 if isinstance(value, int) and not isinstance(value, bool) else value


def time_to_wire(name: str, value: datetime) -> str:
    """A time as JSON has it."""
    if value.tzinfo is None:
        raise ConfigurationError(
            f"{name} has no time zone; use datetime.now(UTC) or datetime(..., tzinfo=UTC)"
        )
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_from_wire(value: object) -> datetime | None:
    """A time in UTC, ``None`` if it is none. What is less than a microsecond is cut off.

    Rounded up, a message's time would be one at which the message had been stored already.
    """
    cut = _FINER.sub(r"\1", value) if isinstance(value, str) else value
    time = msgspec.convert(cut, datetime)
    if time.year <= 1:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


# --- whole structs -------------------------------------------------------------------------------


@cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, tuple[str, object]]:
    """Of each field the name on the wire, and its type."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (field.encode_name, hints[field.name]) for field in msgspec.structs.fields(kind)
    }


def _bare(hint: object) -> object:
    """The type, without its being optional."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def check_types(value: msgspec.Struct) -> None:
    """Complain about fields of the wrong type, for nobody has looked at them so far."""
    kind = type(value)
    for name, (_, hint) in _fields(kind).items():
        given = getattr(value, name)
        if get_origin(_bare(hint)) is Sequence and isinstance(given, str):
            raise TypeError(
                f"{kind.__name__}: {name} must be a list, not a str; write {name}=[{given!r}]"
            )
    try:
        msgspec.convert(msgspec.to_builtins(value), kind)
    except (TypeError, msgspec.ValidationError) as error:
        raise TypeError(f"{kind.__name__}: {error}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{kind.__name__}: {error}") from None
    for name, (_, hint) in _fields(kind).items():
        _check_type(f"{kind.__name__}: {name}", getattr(value, name), _bare(hint))


def _check_type(name: str, value: object, hint: object) -> None:
    """Of what takes more to be a struct, or a word, than to look like one in JSON."""
    if value is None:
        return
    if get_origin(hint) is Sequence:
        for one in cast("Sequence[object]", value):
            _check_type(name, one, get_args(hint)[0])
    elif isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if not isinstance(value, hint):
            raise TypeError(
                f"{name} must be a {hint.__name__}, not {type(value).__name__} {value!r:.80}"
            )
        check_types(value)
    elif (
        isinstance(hint, type)
        and issubclass(hint, Choice)
        and not isinstance(value, hint)
        and value not in list(hint)
    ):
        known = ", ".join(repr(str(one)) for one in hint)
        raise ConfigurationError(f"{name} must be one of {known}, not {value!r}")


def differences(asked: msgspec.Struct, told: msgspec.Struct) -> str:
    """What there is instead of what was asked for, in words; empty if that cannot be seen."""
    found: list[str] = []
    for field in msgspec.structs.fields(type(asked)):
        if field.name in ("name", "durable_name"):
            continue
        wanted, present = (_comparable(getattr(one, field.name)) for one in (asked, told))
        if wanted is not None and wanted != present:
            found.append(f"{field.name} is {present!r:.80}, not {wanted!r:.80}")
    return "; ".join(found[:_MAX_DIFFERENCES])


def _comparable(value: object) -> object:
    if isinstance(value, dict):  # the server adds to metadata what is its own
        metadata = cast("dict[str, object]", value)
        return {key: one for key, one in metadata.items() if not key.startswith("_nats.")}
    return list(cast("Sequence[object]", value)) if isinstance(value, (list, tuple)) else value


def to_wire(value: msgspec.Struct) -> dict[str, object]:
    """What to send: without what is ``None`` or the default, unless ``ALWAYS`` names it."""
    always = cast("Sequence[str]", getattr(value, "ALWAYS", ()))
    defaults = {field.name: field.default for field in msgspec.structs.fields(value)}
    wire: dict[str, object] = {}
    for name, (key, hint) in _fields(type(value)).items():
        one: object = getattr(value, name)
        if one is None or (name not in always and one == defaults[name]):
            continue
        wire[key] = _written(name, one, _bare(hint))
    return wire


def _written(name: str, value: object, hint: object) -> object:
    if isinstance(value, msgspec.Struct):
        return to_wire(value)
    if isinstance(value, datetime):
        return time_to_wire(name, value)
    if get_origin(hint) is Annotated and NANOSECONDS in get_args(hint):
        return nanoseconds(name, cast("float", value))
    if isinstance(value, Choice):
        return str(value)
    if get_origin(hint) is Sequence:
        inner: object = get_args(hint)[0]
        return [_written(name, one, inner) for one in cast("Sequence[object]", value)]
    return value


def from_wire(raw: object, kind: type[S]) -> S:
    """What was sent as a struct. Raises :exc:`ValueError` if it is none of that kind."""
    return msgspec.convert(_read(raw, kind), kind)


def _read(raw: object, hint: object) -> object:
    hint = _bare(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if not isinstance(raw, dict):
            return raw
        given = cast("dict[str, object]", raw)
        fields = _fields(hint).values()
        read = {key: _read(given[key], of) for key, of in fields if given.get(key) is not None}
        return {key: value for key, value in read.items() if value is not None}
    if hint is datetime:
        return time_from_wire(raw)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated and NANOSECONDS in arguments:
        return seconds(raw)
    if origin is Sequence and isinstance(raw, list):
        return [_read(one, arguments[0]) for one in cast("list[object]", raw)]
    if origin is Mapping and isinstance(raw, dict):
        return {k: _read(v, arguments[1]) for k, v in cast("dict[str, object]", raw).items()}
    return raw


def encode(value: msgspec.Struct) -> bytes:
    """A struct as JSON. Raises :exc:`ConfigurationError` for what cannot be sent."""
    check_types(value)
    try:
        return msgspec.json.encode(to_wire(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{type(value).__name__}: {error}") from None


def decode(data: bytes) -> dict[str, object]:
    """The object in JSON. Raises :exc:`ValueError` if it is none."""
    try:
        raw = msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 -- of the sender, not ours
    return cast("dict[str, object]", raw)
