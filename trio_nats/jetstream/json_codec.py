"""The JSON of JetStream: from and to structs.

On the wire, durations are in nanoseconds, a missing time is in the year 1, and an empty list may be
null. In structs, durations are in seconds, a missing time is ``None``, and a field with a default
is never null. Unknown values of enumerations are kept, and so are unknown fields of configurations,
in ``extra``, so that an update by this version does not reset what a newer one has set. Other
unknown fields are ignored.
"""

from __future__ import annotations

import enum
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
from ..options import check_seconds, type_name

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
"""The type of a duration: in seconds in the struct, in nanoseconds on the wire."""

EXTRA = "extra"
"""The name of the field that keeps unknown fields."""
MAX_NANOSECONDS = 2**63 - 1
NEVER = -1
"""What servers write for the time since something that never happened."""
_FINER = re.compile(r"(\.[0-9]{6})[0-9]+")
_BILLION = Decimal(1_000_000_000)


class Choice(enum.StrEnum):
    """An enumeration of strings that keeps values it does not know, as newer servers send them."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that only reports success."""

    success: bool = False


# --- single values -------------------------------------------------------------------------------


_EXACT_SECONDS = 1e5
"""Below this, the rounding errors of floats add up to much less than a nanosecond."""


def nanoseconds(name: str, value: float) -> int:
    """Convert seconds to nanoseconds, without the error of binary fractions."""
    if type(value) is float and 0 <= value < _EXACT_SECONDS:
        return round(value * 1e9)
    if check_seconds(name, value, zero=True) != float("inf"):
        exact = Decimal(value if isinstance(value, int) else repr(float(value))) * _BILLION
        whole = int(exact.to_integral_value(ROUND_HALF_EVEN))
        if whole <= MAX_NANOSECONDS:
            return whole
    raise ConfigurationError(f"{name} must be at most 292 years, not {value!r} s")


def seconds(value: object) -> object:
    """Convert nanoseconds to seconds; return anything but an int unchanged."""
    return value / 1e9 if isinstance(value, int) and not isinstance(value, bool) else value


def time_to_wire(name: str, value: datetime) -> str:
    """Format a time for JSON."""
    if value.tzinfo is None:
        raise ConfigurationError(
            f"{name} must have a time zone; use datetime.now(UTC) or datetime(..., tzinfo=UTC)"
        )
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_from_wire(value: object) -> datetime | None:
    """Parse a time; return it in UTC, or ``None`` if it is missing.

    Nanoseconds are cut off, not rounded: if the time of a message was rounded up, reading from that
    time on would miss the message.
    """
    cut = _FINER.sub(r"\1", value) if isinstance(value, str) else value
    time = msgspec.convert(cut, datetime)
    if time.year <= 1:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


# --- whole structs -------------------------------------------------------------------------------


@cache  # msgspec.structs.fields() evaluates all annotations, which takes longer than a request
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, tuple[str, object]]:
    """Return the name on the wire and the type of each field."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: (field.encode_name, hints[field.name]) for field in msgspec.structs.fields(kind)
    }


@cache
def _defaults(kind: type[msgspec.Struct]) -> Mapping[str, object]:
    """Return the default of each field; ``NODEFAULT`` if it has none."""
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


@cache
def _omitted(kind: type[msgspec.Struct]) -> Mapping[str, object]:
    """Return the defaults of the fields that are not sent when they have them."""
    always = cast("Sequence[str]", getattr(kind, "ALWAYS", ()))
    return {name: one for name, one in _defaults(kind).items() if name not in always}


# Looking up a cached result is several times faster than calling these.
_origin = cast("Callable[[object], object]", cache(get_origin))
_arguments = cast("Callable[[object], tuple[object, ...]]", cache(get_args))


@cache
def _bare(hint: object) -> object:
    """Return a type without ``| None``."""
    if isinstance(hint, types.UnionType) or _origin(hint) is Union:
        return next(arg for arg in _arguments(hint) if arg is not type(None))
    return hint


def check_types(value: msgspec.Struct) -> None:
    """Check the types of all fields, which msgspec does not do when a struct is made.

    :raises TypeError: if a field has a wrong type.
    :raises ConfigurationError: if a field has an impossible value.
    """
    _check_fields(f"{type(value).__name__}: ", value)


def _check_fields(prefix: str, value: msgspec.Struct) -> None:
    defaults = _defaults(type(value))
    for name, (_, hint) in _fields(type(value)).items():
        given = getattr(value, name)
        if given is defaults[name]:
            continue
        field = f"{prefix}{name}"
        if _origin(_bare(hint)) is Sequence and isinstance(given, str):
            raise TypeError(f"{field} must be a list, not a str; write {name}=[{given!r}]")
        for one in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(one, type):
                raise TypeError(
                    f"{field} must have an instance, not {type_name(one)}; use {one.__name__}(...)"
                )
        if given is not None or hint == _bare(hint):
            _check_type(field, given, _bare(hint))


def _check_type(field: str, value: object, hint: object) -> None:
    kind = hint if isinstance(hint, type) else object
    if issubclass(kind, msgspec.Struct):
        if not isinstance(value, kind):
            advice = ""
            if isinstance(value, str) and "name" in kind.__struct_fields__:
                advice = f"; use {kind.__name__}(name={value!r:.80})"
            given = f"{type(value).__name__} {value!r:.80}"
            raise TypeError(f"{field} must be a {kind.__name__}, not {given}{advice}")
        _check_fields(f"{field}.", value)
        return
    if _origin(hint) is Sequence and isinstance(value, (list, tuple)):
        for one in cast("Sequence[object]", value):
            _check_type(field, one, _arguments(hint)[0])
        return
    try:
        msgspec.convert(msgspec.to_builtins(value), hint)
    except (TypeError, msgspec.ValidationError):
        advice = "; call its total_seconds()" if isinstance(value, timedelta) else ""
        raise TypeError(f"{field} must be {_expected(hint)}, not {value!r:.80}{advice}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigurationError(f"{field}: {error}") from None
    if isinstance(value, datetime):
        time_to_wire(field, value)
    elif hint == Seconds:
        nanoseconds(field, cast("float", value))
    # Unknown values are kept if a server has sent them.
    if issubclass(kind, Choice) and not isinstance(value, kind) and value not in list(kind):
        raise ConfigurationError(f"{field} must be {_expected(kind)}, not {value!r}")


def _expected(hint: object) -> str:
    """Describe the values of a type."""
    if _origin(hint) is Sequence:
        return "a list"
    if _origin(hint) is Mapping:
        return "a mapping of str to str"
    if isinstance(hint, type) and issubclass(hint, Choice):
        return f"one of {', '.join(repr(str(one)) for one in hint)}"
    if hint == Seconds:
        return "a number of seconds"
    names = {int: "a whole number", bool: "True or False"}
    return names.get(cast("type", hint)) or f"a {getattr(hint, '__name__', hint)}"


def differences(
    wanted: msgspec.Struct, present: msgspec.Struct, defaults: Mapping[str, object] = {}
) -> str:
    """Describe how ``present`` differs from ``wanted``; return an empty text if it does not.

    :param wanted: a configuration.
    :param present: the present configuration, as the server reports it.
    :param defaults: the values that servers usually fill in for fields without one. Default: none.
    """
    found: list[str] = []
    filled: list[str] = []
    for name in _fields(type(wanted)):
        if name in ("name", EXTRA):
            continue
        new, old = (_comparable(getattr(config, name)) for config in (wanted, present))
        if new == old or (name == "metadata" and not new and not old):
            continue
        if not new and old == defaults.get(name):
            continue
        # The server may have filled in a default for None.
        where = filled if new is None else found
        where.append(f"{name} is {old!r:.80}, not {new!r:.80}")
    return "; ".join(found or filled)


def _comparable(value: object) -> object:
    if isinstance(value, dict):  # the server adds its own metadata
        metadata = cast("dict[str, object]", value)
        return {key: one for key, one in metadata.items() if not key.startswith("_nats.")}
    if isinstance(value, msgspec.Struct):
        changes: dict[str, object] = {}
        for name in _fields(type(value)):
            # Newer servers add fields that are unknown to this version.
            changes[name] = {} if name == EXTRA else _comparable(getattr(value, name))
        return msgspec.structs.replace(value, **changes)
    if isinstance(value, (list, tuple)):
        return [_comparable(one) for one in cast("Sequence[object]", value)]
    return value


def to_wire(value: msgspec.Struct) -> dict[str, object]:
    """Return the fields to send: not ``None`` and not the default, unless named in ``ALWAYS``."""
    omitted = _omitted(type(value))
    wire: dict[str, object] = {}
    for name, (key, hint) in _fields(type(value)).items():
        one: object = getattr(value, name)
        if name == EXTRA or one is None or (name in omitted and one == omitted[name]):
            continue
        wire[key] = _written(name, one, _bare(hint))
    extra = cast("Mapping[str, object]", getattr(value, EXTRA, {}))
    return {**extra, **wire} if extra else wire


def _written(name: str, value: object, hint: object) -> object:
    if isinstance(value, msgspec.Struct):
        return to_wire(value)
    if isinstance(value, datetime):
        return time_to_wire(name, value)
    if _origin(hint) is Annotated and NANOSECONDS in _arguments(hint):
        return nanoseconds(name, cast("float", value))
    if isinstance(value, Choice):
        return str(value)
    if _origin(hint) is Sequence:
        inner: object = _arguments(hint)[0]
        return [_written(name, one, inner) for one in cast("Sequence[object]", value)]
    return value


def from_wire(raw: object, kind: type[S]) -> S:
    """Convert JSON data to a struct.

    :raises ValueError: if the data does not match ``kind``.
    """
    return msgspec.convert(_read(raw, kind), kind)


@cache
def _readable(kind: type[msgspec.Struct]) -> tuple[Collection[str], Mapping[str, object]]:
    """Return the names of the fields on the wire, and the types that :func:`_read` converts."""
    fields = dict(one for name, one in _fields(kind).items() if name != EXTRA)
    converted: dict[str, object] = {}
    for key, hint in fields.items():
        bare = _bare(hint)
        is_struct = isinstance(bare, type) and issubclass(bare, msgspec.Struct)
        if is_struct or bare is datetime or _origin(bare) is not None:
            converted[key] = bare
    return fields.keys(), converted


def _read(raw: object, hint: object) -> object:
    hint = _bare(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        if not isinstance(raw, dict):
            return raw
        given = cast("dict[str, object]", raw)
        known, converted = _readable(hint)
        read = {key: one for key, one in given.items() if one is not None and key in known}
        for key in converted.keys() & read.keys():
            if (one := _read(read[key], converted[key])) is None:
                del read[key]
            else:
                read[key] = one
        if EXTRA in hint.__struct_fields__ and len(read) < len(given):
            read[EXTRA] = {key: one for key, one in given.items() if key not in known}
        return read
    if hint is datetime:
        return time_from_wire(raw)
    origin, arguments = _origin(hint), _arguments(hint)
    if origin is Annotated and NANOSECONDS in arguments:
        return None if raw == NEVER else seconds(raw)
    if origin is Sequence and isinstance(raw, list):
        return [_read(one, arguments[0]) for one in cast("list[object]", raw)]
    if origin is Mapping and isinstance(raw, dict):
        return {k: _read(v, arguments[1]) for k, v in cast("dict[str, object]", raw).items()}
    return raw


def encode(value: msgspec.Struct) -> bytes:
    """Encode a struct as JSON.

    :raises TypeError: if a field is of another type.
    :raises ConfigurationError: if a value is not allowed.
    """
    check_types(value)
    try:
        return msgspec.json.encode(to_wire(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"{type(value).__name__}: {error}") from None


def decode(data: bytes) -> dict[str, object]:
    """Decode a JSON object.

    :raises ValueError: if the data is something else.
    """
    try:
        raw = msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(raw, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 -- wrong data, not a wrong argument
    return cast("dict[str, object]", raw)
