"""What may stand where a name or a subject is expected (ADR-6)."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from .. import subjects
from ..errors import ConfigurationError, InvalidSubjectError

__all__ = [
    "check_filter",
    "check_filters",
    "check_metadata",
    "check_name",
    "check_subject",
    "whole_config",
]

S = TypeVar("S", bound=msgspec.Struct)

MAX_METADATA = 128 * 1024
"""Bytes of all keys and values together (ADR-33)."""

# Names of files and tokens of subjects, both.
_NAME = re.compile(r"[^\x00-\x20\x7f.*>/\\]{1,255}")


def check_name(what: str, name: str) -> str:
    """``name`` if a stream or a consumer may have it."""
    if not isinstance(name, str):
        raise TypeError(f"the {what}'s name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name) or not _encodes(name):
        raise ConfigurationError(
            f"{what} name {name[:80]!a} is not allowed: 1 to 255 characters without white space "
            "and without any of . * > / \\"
        )
    return name


def check_filter(name: str, subject: str) -> str:
    """``subject`` if it is one, with wildcards or without."""
    with _named(name):
        subjects.check_filter(subject)
    return subject


def check_filters(name: str, filters: Sequence[str]) -> None:
    """Complain unless all of them are subjects."""
    if isinstance(filters, str):
        raise TypeError(f"{name} must be a list of subjects, not a str; write [{filters!r}]")
    for subject in filters:
        check_filter(name, subject)


def check_subject(name: str, subject: str) -> str:
    """``subject`` if it can be published to: without wildcards."""
    with _named(name):
        subjects.check_subject(subject)
    return subject


@contextmanager
def _named(name: str) -> Generator[None, None, None]:
    """Say which of the subjects it is about."""
    try:
        yield
    except InvalidSubjectError as error:
        raise InvalidSubjectError(f"{name}: {error}") from None


def whole_config(kind: type[S], config: S | str, options: Mapping[str, object]) -> S:
    """Return the configuration that was given in parts.

    :param kind: the type, whose first field is the name.
    :param config: a configuration, or the name.
    :param options: other fields; they override those of ``config``.
    :raises TypeError: if there are no such fields, or ``config`` is of another type.
    """
    try:
        if isinstance(config, str):
            return kind(**{kind.__struct_fields__[0]: config}, **options)
        if isinstance(config, kind):
            return msgspec.structs.replace(config, **options)
    except TypeError as error:
        raise TypeError(f"{kind.__name__}: {error}") from None
    raise TypeError(f"config must be a {kind.__name__} or a name, not {type(config).__name__}")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Complain about more than there may be."""
    if "" in metadata:
        raise ConfigurationError("metadata has an empty key")
    size = sum(len(text.encode("utf-8", "replace")) for pair in metadata.items() for text in pair)
    if size > MAX_METADATA:
        raise ConfigurationError(
            f"metadata of {size:,} bytes is more than the {MAX_METADATA:,} that are allowed"
        )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
