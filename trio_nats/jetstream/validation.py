"""What may stand where a name or a subject is expected (ADR-6)."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from .. import subjects
from ..errors import ConfigurationError, InvalidSubjectError

__all__ = [
    "check_filter",
    "check_filters",
    "check_metadata",
    "check_name",
    "check_subject",
]

MAX_METADATA = 128 * 1024
"""Bytes of all keys and values together (ADR-33)."""

# Names of files and tokens of subjects, both.
_NAME = re.compile(r"[^\x00-\x20\x7f.*>/\\]{1,255}")


def check_name(what: str, name: str) -> str:
    """``name`` if a stream or a consumer may have it."""
    if not isinstance(name, str):
        raise ConfigurationError(f"the {what}'s name must be a str, not {type(name).__name__}")
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
        raise ConfigurationError(f"{name} is a list of subjects; write [{filters!r}]")
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
