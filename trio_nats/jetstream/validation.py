"""Checks of names, subjects and configurations (ADR-6)."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TypeVar

import msgspec

from .. import subjects
from ..errors import ConfigurationError, InvalidSubjectError
from ..options import check_instance, type_name

__all__ = [
    "check_filter",
    "check_filters",
    "check_metadata",
    "check_name",
    "check_overlap",
    "check_subject",
    "overlap",
    "whole_config",
]

S = TypeVar("S", bound=msgspec.Struct)

MAX_METADATA = 128 * 1024
"""Maximum bytes of all keys and values together (ADR-33)."""

_FIELD_HINTS = {"durable": "durable_name", "max_age": "ttl", "ttl": "max_age"}
"""Names of fields in nats-py or in another kind of configuration, and the right name here."""

# Names must be valid as file names and as tokens of subjects.
_NAME = re.compile(r"[^\x00-\x20\x7f.*>/\\]{1,255}")


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it is valid for a stream or a consumer."""
    if not isinstance(name, str):
        raise TypeError(f"the {what}'s name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or not _encodes(name):
        raise ConfigurationError(
            f"{what} name {name[:80]!a} is not allowed: it must be 1 to 255 characters without "
            "white space and any of . * > / \\"
        )
    return name


def check_filter(name: str, subject: str) -> str:
    """Return ``subject`` if it is valid, with or without wildcards."""
    with _named(name):
        subjects.check_filter(subject)
    return subject


def check_filters(name: str, filters: Sequence[str]) -> None:
    """Check a list of subjects, with or without wildcards."""
    if isinstance(filters, str):
        raise TypeError(f"{name} must be a list of subjects, not a str; write [{filters!r}]")
    if not isinstance(filters, Sequence):
        raise TypeError(f"{name} must be a list of subjects, not {type_name(filters)}")
    for subject in filters:
        check_filter(name, subject)


def check_overlap(name: str, filters: Sequence[str]) -> None:
    """Check that no subject is covered by another one, which servers refuse."""
    if pair := overlap(filters):
        raise ConfigurationError(
            f"{name} must not overlap: {pair[0]!r} is covered by {pair[1]!r}; leave one of them out"
        )


def overlap(filters: Sequence[str]) -> tuple[str, str] | None:
    """Return a subject and another one that covers it, or ``None``."""
    seen: set[str] = set()
    for one in filters:
        if one in seen:
            return one, one
        seen.add(one)
    wide = [one for one in filters if not {"*", ">"}.isdisjoint(one.split("."))]
    for one in filters:
        for other in wide:
            if one != other and _covers(other.split("."), one.split(".")):
                return one, other
    return None


def _covers(wide: list[str], narrow: list[str]) -> bool:
    """Whether each subject that matches ``narrow`` also matches ``wide``."""
    if wide[-1] == ">":
        if len(narrow) < len(wide):
            return False
        wide, narrow = wide[:-1], narrow[: len(wide) - 1]
    elif len(wide) != len(narrow) or narrow[-1] == ">":
        return False
    return all(one in ("*", token) for one, token in zip(wide, narrow, strict=True))


def check_subject(name: str, subject: str) -> str:
    """Return ``subject`` if it is valid to publish to, so without wildcards."""
    with _named(name):
        subjects.check_subject(subject)
    return subject


@contextmanager
def _named(name: str) -> Generator[None, None, None]:
    """Put the name of the argument in front of an error."""
    try:
        yield
    except (InvalidSubjectError, TypeError) as error:
        raise type(error)(f"{name}: {error}") from None


def whole_config(
    kind: type[S], config: S | str | None, options: Mapping[str, object], *, named: str = ""
) -> S:
    """Return ``config``, updated with ``options``.

    :param kind: the type; its first field is the name.
    :param config: a configuration, or the name. ``None`` if the name is in ``options``.
    :param options: fields; they override those of ``config``.
    :param named: the field that the name is for. Default: the first one.
    :returns: the configuration.
    :raises TypeError: if ``kind`` has no such field, or ``config`` is of another type.
    """
    first = kind.__struct_fields__[0]
    named = named or first
    if config is None and not options.keys() & {first, named}:
        raise TypeError(
            f"config must be a {kind.__name__} or a name, not None; pass the name as the first "
            f"argument or as {named}="
        )
    if config is not None and not isinstance(config, str):
        check_instance("config", config, kind, f"a {kind.__name__} or a name")
    for name in options:
        if name not in kind.__struct_fields__:
            other = _FIELD_HINTS.get(name, "")
            if other in kind.__struct_fields__:
                close = [other]
            else:
                close = get_close_matches(name, kind.__struct_fields__, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{kind.__name__} has no field {name!r}{hint}")
    try:
        if config is None:
            return kind(**options)
        if isinstance(config, str):
            for name in (first, named):
                if options.get(name, config) != config:
                    raise ConfigurationError(
                        f"give one name, not both {config!r} and {name}={options[name]!r}"
                    )
            return kind(**{named: config, **options})
        return msgspec.structs.replace(config, **options)
    except TypeError as error:
        raise TypeError(f"{kind.__name__}: {error}") from None


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Check the size of metadata."""
    if "" in metadata:
        raise ConfigurationError(
            f"keys of metadata must not be empty, as that of {metadata['']!r:.80} is"
        )
    size = sum(len(text.encode("utf-8", "replace")) for pair in metadata.items() for text in pair)
    if size > MAX_METADATA:
        raise ConfigurationError(f"metadata must be at most {MAX_METADATA:,} bytes, not {size:,}")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
