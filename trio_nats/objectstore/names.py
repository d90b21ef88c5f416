"""Buckets, names and digests, and what they are on the wire (ADR-20). Without I/O."""

from __future__ import annotations

import base64
import binascii
import re

from ..errors import ConfigurationError
from .errors import InvalidObjectNameError

__all__ = [
    "STREAM_PREFIX",
    "all_chunks",
    "all_meta",
    "bucket_of",
    "check_bucket",
    "check_object_name",
    "chunk_subject",
    "digest_text",
    "is_nuid",
    "meta_subject",
    "name_in",
    "read_digest",
    "stream_name",
]

STREAM_PREFIX = "OBJ_"
MAX_NAME = 2_048
"""Bytes of a name. It is part of subjects, with a third on top, and those have to fit into a line
of the protocol: the server ends the connection of who sends a longer one."""

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,251}")
# What other clients make of it is theirs, but it has to be one token that stands for itself.
_NUID = re.compile(r"[!-)+,\-/-=?-~]{1,255}")
_DIGEST = "SHA-256="


def check_bucket(bucket: str) -> str:
    """``bucket`` if an object store may have that name."""
    if not isinstance(bucket, str):
        raise TypeError(f"bucket must be a str, not {type(bucket).__name__}")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            f"bucket {bucket[:80]!a} is not allowed: 1 to 251 of A-Z, a-z, 0-9, - and _"
        )
    return bucket


def check_object_name(name: str) -> str:
    """``name`` if an object may have it: anything that is not empty, and not too long."""
    if not isinstance(name, str):
        raise TypeError(f"an object's name must be a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidObjectNameError(
            f"object name {name[:80]!a} is not valid Unicode text"
        ) from None
    if not name:
        raise InvalidObjectNameError("an object's name must not be empty")
    if size > MAX_NAME:
        raise InvalidObjectNameError(
            f"an object's name must be at most {MAX_NAME:,} bytes of UTF-8, not {size:,}"
        )
    return name


def is_nuid(nuid: str) -> bool:
    """Whether it can be the token that an object's chunks are stored under."""
    return bool(_NUID.fullmatch(nuid))


def stream_name(bucket: str) -> str:
    """The stream that a bucket is."""
    return f"{STREAM_PREFIX}{bucket}"


def bucket_of(stream: str) -> str:
    """The bucket that a stream is; the name itself if it is none."""
    return stream.removeprefix(STREAM_PREFIX)


def all_chunks(bucket: str) -> str:
    """What all chunks are stored under."""
    return f"$O.{bucket}.C.>"


def all_meta(bucket: str) -> str:
    """What is known about all objects is stored under this."""
    return f"$O.{bucket}.M.>"


def chunk_subject(bucket: str, nuid: str) -> str:
    """What an object's chunks are stored under."""
    return f"$O.{bucket}.C.{nuid}"


def meta_subject(bucket: str, name: str) -> str:
    """What is known about an object is stored under this."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def name_in(bucket: str, subject: str) -> str:
    """Return the name of the object whose metadata is stored under ``subject``.

    :raises ValueError: if no object's is. Several spellings of base 64 stand for the same name, and
        only one of them is where the object is looked up.
    """
    token = subject.rpartition(".")[2]
    name = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    if not name:
        raise ValueError("the name is empty")
    if subject != meta_subject(bucket, name):
        raise ValueError(f"{subject[:200]!a} is not where object {name[:80]!a} is stored")
    return name


def digest_text(digest: bytes) -> str:
    """A digest as it is stored."""
    return _DIGEST + base64.urlsafe_b64encode(digest).decode()


def read_digest(text: str) -> bytes | None:
    """The digest; ``None`` if it is none that can be checked.

    Other clients have written the algorithm in lower case, or the rest without padding or in the
    common alphabet.
    """
    if text[: len(_DIGEST)].upper() != _DIGEST:
        return None
    value = text[len(_DIGEST) :].rstrip("=").replace("+", "-").replace("/", "_")
    try:
        digest = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 32 else None
