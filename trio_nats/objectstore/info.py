"""Metadata of objects, and its stored form (ADR-20). Without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from ..errors import ConfigurationError, InvalidHeaderError
from ..headers import Headers, HeadersLike
from ..jetstream.validation import check_metadata
from ..options import check_count, check_instance, type_name
from .errors import InvalidObjectMetaError
from .names import check_object_name, is_nuid

__all__ = ["ObjectInfo", "ObjectLink", "ObjectMeta", "check_meta", "read_info", "write_info"]

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """Metadata that you give an object when you store it (ADR-20)."""

    name: str
    """Name of the object: text of 1 to 2,048 bytes in UTF-8."""
    description: str = ""
    """Text for humans. Default: empty."""
    headers: HeadersLike = field(default_factory=Headers)
    """Headers, such as the content type. Default: none."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Your own key-value pairs. Default: none."""
    chunk_size: int | None = None
    """Size of a chunk in bytes. Default: 128 KiB, or the server's ``max_payload`` if less."""


@dataclass(frozen=True, slots=True)
class ObjectLink:
    """Target of a link (ADR-20)."""

    bucket: str
    """Name of the object store."""
    name: str | None = None
    """Name of the object in it; ``None`` for the whole store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """Metadata of a stored object or link (ADR-20)."""

    bucket: str
    """Name of the object store."""
    name: str
    """Name of the object."""
    description: str = ""
    """Text for humans."""
    headers: Headers = field(default_factory=Headers)
    """Headers of the object."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    """Key-value pairs given by the user."""
    nuid: str = ""
    """Unique ID of this upload; a new object with the same name has another. Links of some clients
    have none."""
    size: int = 0
    """Size in bytes."""
    chunks: int = 0
    """Number of chunks."""
    digest: str = ""
    """Digest of the bytes: ``SHA-256=`` followed by the digest in base 64."""
    deleted: bool = False
    """Whether the object was deleted."""
    chunk_size: int | None = None
    """Size in bytes of all chunks but the last; ``None`` if unknown."""
    link: ObjectLink | None = None
    """Target of the link; ``None`` if this is an object."""
    timestamp: datetime | None = None
    """Time at which the metadata was stored, in UTC."""
    seq: int = 0
    """Sequence number of the metadata in the stream."""


class _Link(msgspec.Struct, kw_only=True, omit_defaults=True):
    bucket: str
    name: str | None = None


class _Options(msgspec.Struct, kw_only=True, omit_defaults=True):
    link: _Link | None = None
    max_chunk_size: int | None = None


class _Wire(msgspec.Struct, kw_only=True, omit_defaults=True):
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] | None = None
    headers: dict[str, list[str] | str] | None = None
    options: _Options | None = None
    bucket: str | None = None
    nuid: str | None = None
    size: int | None = None
    chunks: int | None = None
    digest: str | None = None
    deleted: bool | None = None


_decode = msgspec.json.Decoder(_Wire).decode


def check_meta(meta: ObjectMeta | str) -> ObjectMeta:
    """Return a copy of valid metadata."""
    if isinstance(meta, str):
        return ObjectMeta(check_object_name(meta))
    check_instance("meta", meta, ObjectMeta, "the name of the object or an ObjectMeta")
    check_object_name(meta.name)
    if not isinstance(meta.description, str):
        raise TypeError(f"description must be a str, not {type(meta.description).__name__}")
    if not isinstance(meta.metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type_name(meta.metadata)}")
    for key, value in meta.metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must map str to str, not {key!r:.80} to {value!r:.80}")
    check_metadata(meta.metadata)
    if meta.chunk_size is not None:
        check_count("chunk_size", meta.chunk_size, 1)
    return ObjectMeta(
        meta.name,
        meta.description,
        Headers(meta.headers),
        dict(meta.metadata),
        meta.chunk_size,
    )


def write_info(info: ObjectInfo) -> bytes:
    """Return the stored form, which has no timestamp: the server adds it to the message."""
    headers = Headers(info.headers)
    options = None
    if info.link is not None or info.chunk_size is not None:
        link = None
        if info.link is not None:
            link = _Link(bucket=info.link.bucket, name=info.link.name)
        options = _Options(link=link, max_chunk_size=info.chunk_size)
    wire = _Wire(
        name=info.name,
        description=info.description or None,
        metadata=dict(info.metadata) or None,
        headers={name: headers.get_all(name) for name in headers} or None,
        options=options,
        bucket=info.bucket,
        nuid=info.nuid or None,
        size=info.size,
        chunks=info.chunks,
        digest=info.digest or None,
        deleted=info.deleted or None,
    )
    try:
        return msgspec.json.encode(wire)
    except (TypeError, ValueError) as error:  # surrogates
        raise ConfigurationError(
            f"the metadata of object {info.name!r} must be valid Unicode text: {error}"
        ) from None


def read_info(
    bucket: str, name: str, data: bytes, *, seq: int, timestamp: datetime | None
) -> ObjectInfo:
    """Parse stored metadata.

    Bucket and name come from the subject of the message. Other values in the metadata itself are
    ignored.

    :raises InvalidObjectMetaError: if the metadata is invalid.
    """
    try:
        wire = _decode(data)
    except (ValueError, RecursionError) as error:
        raise InvalidObjectMetaError(
            f"invalid metadata for object {name!r} in object store {bucket!r}: {error}"
        ) from None
    options = wire.options or _Options()
    link = options.link
    info = ObjectInfo(
        bucket=bucket,
        name=name,
        description=wire.description or "",
        headers=_headers(wire.headers or {}),
        metadata=wire.metadata or {},
        nuid=wire.nuid or "",
        size=wire.size or 0,
        chunks=wire.chunks or 0,
        digest=wire.digest or "",
        deleted=bool(wire.deleted),
        chunk_size=options.max_chunk_size or None,
        link=None if link is None else ObjectLink(link.bucket, link.name or None),
        timestamp=timestamp,
        seq=seq,
    )
    fault = _fault(info)
    if fault:
        raise InvalidObjectMetaError(
            f"invalid metadata for object {name!r} in object store {bucket!r}: {fault}"
        )
    return info


def _fault(info: ObjectInfo) -> str:
    if not all(0 <= number <= _LARGEST for number in (info.size, info.chunks)):
        return f"size and chunks must be at least 0, not {info.size} and {info.chunks}"
    if info.size and not info.chunks:
        return f"an object of {info.size} bytes must have chunks"
    # A link has no chunks; some clients give it no nuid.
    if (info.nuid or info.link is None) and not is_nuid(info.nuid):
        # It becomes part of a subject. With wildcards that would match the chunks of other objects.
        return f"nuid must be one subject token, not {info.nuid[:80]!a}"
    return ""


def _headers(raw: Mapping[str, list[str] | str]) -> Headers:
    """Return the valid headers; other clients may have stored invalid ones.

    nats-py stores a single value as text instead of a list if the user passes text.
    """
    headers = Headers()
    for name, values in raw.items():
        for value in [values] if isinstance(values, str) else values:
            try:
                headers.add(name, value)
            except InvalidHeaderError:
                continue
    return headers
