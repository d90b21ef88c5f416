"""Names of stores and objects, their subjects, and digests (ADR-20). Without I/O."""

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
    "latin_subject",
    "meta_subject",
    "name_in",
    "read_digest",
    "stream_name",
]

STREAM_PREFIX = "OBJ_"
MAX_NAME = 2_048
"""Maximum size of a name in bytes. The name is part of a subject, in base 64, which adds a third.
A subject must fit into a line of the protocol, or the server closes the connection."""

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,251}")
# Other clients may choose other characters, but it must be one token without wildcards.
_NUID = re.compile(r"[!-)+,\-/-=?-~]{1,255}")
_DIGEST = "SHA-256="


def check_bucket(bucket: str) -> str:
    """Return ``bucket`` if it is a valid name."""
    if not isinstance(bucket, str):
        raise TypeError(f"bucket must be a str, not {type(bucket).__name__}")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(
            f"bucket name {bucket[:80]!a} is invalid: it must be 1 to 251 of the characters A-Z, "
            "a-z, 0-9, _ and -"
        )
    return bucket


def check_object_name(name: str) -> str:
    """Return ``name`` if it is valid: text that is not empty and not too long."""
    if not isinstance(name, str):
        raise TypeError(f"the name of an object must be a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidObjectNameError(
            f"the name of an object must be valid Unicode text, not {name[:80]!a}"
        ) from None
    if not name:
        raise InvalidObjectNameError("the name of an object must not be empty")
    if size > MAX_NAME:
        raise InvalidObjectNameError(
            f"the name of an object must be at most {MAX_NAME:,} bytes of UTF-8, not {size:,}"
        )
    return name


def is_nuid(nuid: str) -> bool:
    """Whether ``nuid`` can be the last token of the subject of an object's chunks."""
    return bool(_NUID.fullmatch(nuid))


def stream_name(bucket: str) -> str:
    """The name of an object store's stream."""
    return f"{STREAM_PREFIX}{bucket}"


def bucket_of(stream: str) -> str:
    """The name of the stream's object store; the stream's own name if there is no prefix."""
    return stream.removeprefix(STREAM_PREFIX)


def all_chunks(bucket: str) -> str:
    """The filter subject of all chunks."""
    return f"$O.{bucket}.C.>"


def all_meta(bucket: str) -> str:
    """The filter subject of all metadata."""
    return f"$O.{bucket}.M.>"


def chunk_subject(bucket: str, nuid: str) -> str:
    """The subject of an object's chunks."""
    return f"$O.{bucket}.C.{nuid}"


def meta_subject(bucket: str, name: str, encoding: str = "utf-8") -> str:
    """The subject of an object's metadata."""
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode(encoding)).decode()}"


def latin_subject(bucket: str, name: str) -> str | None:
    """The subject of an object's metadata as some clients spell it; ``None`` if it is the same.

    Node encodes names in Latin-1. It cannot store objects with other names.
    """
    if name.isascii():
        return None
    try:
        return meta_subject(bucket, name, "latin-1")
    except UnicodeEncodeError:
        return None


def name_in(bucket: str, subject: str) -> str:
    """Return the name of the object whose metadata is stored under ``subject``.

    :raises ValueError: if it is not the subject of an object. The same name can be spelled in
        several ways in base 64; objects are looked up under only one of them.
    """
    token = subject.rpartition(".")[2]
    raw = base64.b64decode(token, altchars=b"-_", validate=True)
    try:
        name, encoding = raw.decode(), "utf-8"
    except UnicodeDecodeError:
        name, encoding = raw.decode("latin-1"), "latin-1"
    if not name:
        raise ValueError("the name of an object must not be empty")
    if subject != meta_subject(bucket, name, encoding):
        raise ValueError(f"{subject[:200]!a} is not the subject of object {name[:80]!a}")
    return name


def digest_text(digest: bytes) -> str:
    """Return the stored form of a digest."""
    return _DIGEST + base64.urlsafe_b64encode(digest).decode()


def read_digest(text: str) -> bytes | None:
    """Parse a stored digest; ``None`` if it is not a SHA-256 digest.

    Accepts what other clients have written: the algorithm in lower case, base 64 without padding or
    in the standard alphabet.
    """
    if text[: len(_DIGEST)].upper() != _DIGEST:
        return None
    value = text[len(_DIGEST) :].rstrip("=").replace("+", "-").replace("/", "_")
    try:
        digest = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == 32 else None
