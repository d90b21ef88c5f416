"""Validation of bucket names, keys and key filters (ADR-6, 8)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager

from ..errors import ConfigurationError, InvalidSubjectError
from ..jetstream.validation import overlap
from ..options import type_name
from .errors import InvalidKeyError

__all__ = [
    "ALL_KEYS",
    "check_bucket",
    "check_filters",
    "check_key",
    "is_key",
    "key_errors",
    "key_too_long",
]

ALL_KEYS = ">"

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,252}")
_TOKEN = r"[A-Za-z0-9_/=-]+"
_KEY = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_FILTER = re.compile(rf"(?:(?:{_TOKEN}|\*)\.)*(?:{_TOKEN}|\*|>)")


def check_bucket(bucket: str) -> str:
    """Return ``bucket`` if it is a valid name."""
    if not isinstance(bucket, str):
        raise TypeError(f"the name of a bucket must be a str, not {type(bucket).__name__}")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            f"bucket name {bucket[:80]!a} is invalid: it must be 1 to 252 of the characters A-Z, "
            "a-z, 0-9, _ and -"
        )
    return bucket


def check_key(key: str) -> str:
    """Return ``key`` if it is valid."""
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {type(key).__name__}")
    if not is_key(key):
        raise InvalidKeyError(
            f"key {key[:80]!a} is invalid: it must be made of A-Z, a-z, 0-9, -, _, = and /, with "
            "single dots between tokens"
        )
    return key


def is_key(text: str) -> bool:
    """Whether ``text`` is a valid key."""
    return bool(_KEY.fullmatch(text))


@contextmanager
def key_errors(key: str) -> Generator[None, None, None]:
    """Name the key in the error for a subject that is too long."""
    try:
        yield
    except InvalidSubjectError as error:
        raise key_too_long(key, error) from None


def key_too_long(key: str, error: InvalidSubjectError) -> InvalidKeyError:
    """Return the error that names the key."""
    return InvalidKeyError(f"key {key[:40]!a}... is too long: {error}")


def check_filters(keys: str | Sequence[str]) -> tuple[str, ...]:
    """Return ``keys`` as a tuple if all of them are valid; wildcards are allowed."""
    if not isinstance(keys, Iterable):
        raise TypeError(f"keys must be a str or a list of str, not {type_name(keys)}")
    filters = (keys,) if isinstance(keys, str) else tuple(keys)
    if not filters:
        raise InvalidKeyError(f"keys must not be empty; use {ALL_KEYS!r} for all keys")
    for one in filters:
        if not isinstance(one, str):
            raise TypeError(f"a key must be a str, not {type(one).__name__}")
        if not _FILTER.fullmatch(one):
            raise InvalidKeyError(
                f"key filter {one[:80]!a} is invalid: it must be a key, in which * may stand for "
                "one token and > for all tokens at the end"
            )
    if pair := overlap(filters):
        raise InvalidKeyError(
            f"key filters must not overlap: {pair[0]!r} is covered by {pair[1]!r}; leave one of "
            "them out"
        )
    return filters
