"""What is known about objects, and how that is stored (ADR-20). Without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from ..errors import ConfigurationError, InvalidHeaderError
from ..headers import Headers, HeadersLike
from ..jetstream.validation import check_metadata
from ..options import check_count
from .errors import InvalidObjectMetaError
from .names import check_object_name, is_nuid

__all__ = ["ObjectInfo", "ObjectLink", "ObjectMeta", "check_meta", "read_info", "write_info"]

DEFAULT_CHUNK_SIZE = 128 * 1024
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """What is said about an object when it is put."""

    name: str
    description: str = ""
    headers: HeadersLike = field(default_factory=Headers)
    """Whatever is to be known about the object, such as its type."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    chunk_size: int | None = None
    """Bytes of a chunk; 128 KiB unless given, or what the server takes if that is less."""


@dataclass(frozen=True, slots=True)
class ObjectLink:
    """What a link leads to."""

    bucket: str
    """The object store."""
    name: str | None = None
    """The object in it; ``None`` for the whole store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What is known about an object."""

    bucket: str
    """The object store it is in."""
    name: str
    description: str = ""
    headers: Headers = field(default_factory=Headers)
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    nuid: str = ""
    """What tells it from other objects that have had its name."""
    size: int = 0
    """Bytes in all."""
    chunks: int = 0
    """How many chunks those are in."""
    digest: str = ""
    """Of the bytes: ``SHA-256=`` and its value in base 64."""
    deleted: bool = False
    chunk_size: int | None = None
    """Bytes of a chunk, the last one excepted; ``None`` if that is not known."""
    link: ObjectLink | None = None
    """What it leads to if it is a link."""
    timestamp: datetime | None = None
    """When this was stored, in UTC."""
    seq: int = 0
    """The sequence number in the stream under which this is stored."""


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
    headers: dict[str, list[str]] | None = None
    options: _Options | None = None
    bucket: str | None = None
    nuid: str | None = None
    size: int | None = None
    chunks: int | None = None
    digest: str | None = None
    deleted: bool | None = None


_decode = msgspec.json.Decoder(_Wire).decode


def check_meta(meta: ObjectMeta | str) -> ObjectMeta:
    """``meta``, its headers copied, if an object can have it."""
    if isinstance(meta, str):
        return ObjectMeta(check_object_name(meta))
    if not isinstance(meta, ObjectMeta):
        raise TypeError(
            f"an object is given by its name or an ObjectMeta, not {type(meta).__name__}"
        )
    check_object_name(meta.name)
    if not isinstance(meta.description, str):
        raise TypeError(f"description must be a str, not {type(meta.description).__name__}")
    if not isinstance(meta.metadata, Mapping) or not all(
        isinstance(text, str) for pair in meta.metadata.items() for text in pair
    ):
        raise TypeError("metadata must be a mapping of str to str")
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
    """As it is stored; when that is, is not."""
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
        nuid=info.nuid,
        size=info.size,
        chunks=info.chunks,
        digest=info.digest or None,
        deleted=info.deleted or None,
    )
    try:
        return msgspec.json.encode(wire)
    except (TypeError, ValueError) as error:  # surrogates
        raise ConfigurationError(f"invalid metadata of object {info.name!r}: {error}") from None


def read_info(
    bucket: str, name: str, data: bytes, *, seq: int, timestamp: datetime | None
) -> ObjectInfo:
    """What is stored as known about an object.

    Which bucket and name that is, is known from where it is stored; it may say otherwise, but is
    not believed. Raises :exc:`InvalidObjectMetaError`.
    """
    try:
        wire = _decode(data)
    except (ValueError, RecursionError) as error:
        raise InvalidObjectMetaError(
            f"what is stored about object {name!r} of {bucket!r} cannot be understood: {error}"
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
            f"what is stored about object {name!r} of {bucket!r} cannot be: {fault}"
        )
    return info


def _fault(info: ObjectInfo) -> str:
    if not all(0 <= number <= _LARGEST for number in (info.size, info.chunks)):
        return f"size {info.size} in {info.chunks} chunks"
    if info.size and not info.chunks:
        return f"{info.size} bytes in {info.chunks} chunks"
    if not is_nuid(info.nuid):
        # It would be part of a subject, and with wildcards one for the chunks of other objects.
        return f"nuid {info.nuid[:80]!a}"
    return ""


def _headers(raw: Mapping[str, list[str]]) -> Headers:
    """Those that can be; the others have been stored by somebody with other rules."""
    headers = Headers()
    for name, values in raw.items():
        for value in values:
            try:
                headers.add(name, value)
            except InvalidHeaderError:
                continue
    return headers
