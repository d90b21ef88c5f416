"""What may stand where a bucket, a key or a filter of keys is expected (ADR-6, 8)."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from ..errors import ConfigurationError, InvalidSubjectError
from .errors import InvalidKeyError

__all__ = ["ALL_KEYS", "check_bucket", "check_filters", "check_key", "is_key", "key_errors"]

ALL_KEYS = ">"

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,252}")
_TOKEN = r"[A-Za-z0-9_/=-]+"
_KEY = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_FILTER = re.compile(rf"(?:(?:{_TOKEN}|\*)\.)*(?:{_TOKEN}|\*|>)")


def check_bucket(bucket: str) -> str:
    """``bucket`` if a bucket may have that name."""
    if not isinstance(bucket, str):
        raise TypeError(f"a bucket's name must be a str, not {type(bucket).__name__}")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            f"bucket name {bucket[:80]!a} is not allowed: 1 to 252 of A-Z, a-z, 0-9, _ and -"
        )
    return bucket


def check_key(key: str) -> str:
    """``key`` if there can be one like that."""
    if not isinstance(key, str):
        raise TypeError(f"a key must be a str, not {type(key).__name__}")
    if not is_key(key):
        raise InvalidKeyError(
            f"key {key[:80]!a} is not allowed: parts of A-Z, a-z, 0-9, - _ = and /, with a dot "
            "between each two"
        )
    return key


def is_key(text: str) -> bool:
    """Whether ``text`` is a valid key."""
    return bool(_KEY.fullmatch(text))


@contextmanager
def key_errors(key: str) -> Generator[None, None, None]:
    """Speak of the key where the subject made of it is too long."""
    try:
        yield
    except InvalidSubjectError as error:
        raise InvalidKeyError(f"key {key[:40]!a}... is too long: {error}") from None


def check_filters(keys: str | Sequence[str]) -> tuple[str, ...]:
    """One or several keys, with or without wildcards."""
    filters = (keys,) if isinstance(keys, str) else tuple(keys)
    if not filters:
        raise InvalidKeyError(f"no keys are named; all of them are {ALL_KEYS!r}")
    for one in filters:
        if not isinstance(one, str):
            raise TypeError(f"a key must be a str, not {type(one).__name__}")
        if not _FILTER.fullmatch(one):
            raise InvalidKeyError(
                f"{one[:80]!a} is neither a key nor a filter of keys, in which * stands for one "
                "part and > at the end for all that follow"
            )
    return filters
