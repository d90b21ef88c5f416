"""The messages of service discovery in their wire format (ADR-32)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

from ..errors import ConfigurationError

__all__ = [
    "DEFAULT_QUEUE",
    "PREFIX",
    "EndpointInfo",
    "EndpointStats",
    "ServiceIdentity",
    "ServiceInfo",
    "ServicePing",
    "ServiceStats",
    "check_description",
    "check_metadata",
    "check_name",
    "check_version",
    "encode_stats",
    "monitoring_subject",
    "new_id",
    "with_seconds",
]

PREFIX = "$SRV"
DEFAULT_QUEUE = "q"
PING = "io.nats.micro.v1.ping_response"
INFO = "io.nats.micro.v1.info_response"
STATS = "io.nats.micro.v1.stats_response"
MAX_METADATA = 128 * 1024
"""Maximum size of all keys and values together, in bytes (ADR-33)."""

_TIMES = ("processing_time", "average_processing_time")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE}(?:\.{_PRE})*)?(?:\+{_BUILD}(?:\.{_BUILD})*)?"
)


class ServiceIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies a service and an instance of it."""

    name: str
    """Name of the service, shared by all its instances."""
    id: str
    """ID of the instance."""
    version: str
    """Semantic version of the service."""
    metadata: dict[str, str]
    """Metadata of the service."""


class ServicePing(
    ServiceIdentity, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=PING
):
    """The response to PING."""

    rtt: float = 0.0
    """Seconds from the request to this response. Measured by the client, not sent."""


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Describes an endpoint."""

    name: str
    """Name of the endpoint."""
    subject: str
    """The subject it is subscribed to."""
    queue_group: str
    """Its queue group; empty if it has none."""
    metadata: dict[str, str]
    """Metadata of the endpoint."""


class ServiceInfo(ServiceIdentity, frozen=True, kw_only=True, tag_field="type", tag=INFO):
    """Describes an instance of a service."""

    description: str
    """Description for people."""
    endpoints: list[EndpointInfo]
    """Its endpoints."""


class EndpointStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Statistics of an endpoint since the service was started or reset."""

    name: str
    """Name of the endpoint."""
    subject: str
    """The subject it is subscribed to."""
    queue_group: str
    """Its queue group; empty if it has none."""
    num_requests: int
    """Number of requests received."""
    num_errors: int
    """Number of requests that were responded to with an error."""
    processing_time: float
    """Seconds spent in the handler, by all requests together."""
    average_processing_time: float
    """Seconds for each request."""
    last_error: str
    """Code and description of the last error; empty if there was none."""
    data: object = None
    """The return value of the service's ``stats_handler``."""


class ServiceStats(ServiceIdentity, frozen=True, kw_only=True, tag_field="type", tag=STATS):
    """Statistics of an instance of a service."""

    endpoints: list[EndpointStats]
    """Statistics of its endpoints."""
    started: datetime
    """The time in UTC at which it was started or reset."""


def encode_stats(stats: ServiceStats) -> bytes:
    """Encode the response to STATS, in which times are whole nanoseconds."""
    response = msgspec.to_builtins(stats)
    for endpoint in response["endpoints"]:
        for name in _TIMES:
            endpoint[name] = round(endpoint[name] * 10**9)
    return msgspec.json.encode(response)


def with_seconds(endpoint: dict[str, object]) -> dict[str, object]:
    """Return the received statistics of an endpoint with times in seconds."""
    given = {name: endpoint[name] for name in _TIMES}
    times = {name: one / 10**9 for name, one in given.items() if isinstance(one, (int, float))}
    return endpoint | times


def new_id() -> str:
    """Return an ID for a new instance, a token of a subject."""
    return secrets.token_hex(11)


def monitoring_subject(prefix: str, verb: str, name: str | None, id: str | None) -> str:
    """Return the subject for asking all services, those with a name, or one instance."""
    return ".".join(filter(None, (prefix, verb, name, id)))


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it is valid for a service or an endpoint."""
    if not isinstance(name, str):
        raise TypeError(f"the {what}'s name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} name {name[:80]!a} is not allowed: it must have letters, digits, '-' and '_' "
            "only, and at least one; dots belong in the subject"
        )
    return name


def check_version(version: str) -> str:
    """Return ``version`` if it is a semantic version."""
    if not isinstance(version, str):
        raise TypeError(f"the version must be a str, not {type(version).__name__}")
    if not _VERSION.fullmatch(version):
        raise ConfigurationError(
            "version must be a semantic version (https://semver.org) such as 1.0.0 or "
            f"1.2.3-rc.1+build.5, without leading zeros, not {version[:80]!a}"
        )
    return version


def check_description(description: str) -> str:
    """Return ``description`` if it can be sent."""
    if not isinstance(description, str):
        raise TypeError(f"the description must be a str, not {type(description).__name__}")
    try:
        description.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"the description must be valid Unicode text, not {description[:80]!a}"
        ) from None
    return description


def check_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return a read-only copy of ``metadata``."""
    copy: dict[str, str] = {}
    if metadata is None:
        return MappingProxyType(copy)
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, not {type(metadata).__name__}")
    copy.update(metadata)
    for key, value in copy.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must map str to str, not {key!r:.80} to {value!r:.80}")
        if not key:
            raise ConfigurationError(
                f"keys of metadata must not be empty, as that of {value[:80]!a} is"
            )
    try:
        size = sum(len(text.encode()) for pair in copy.items() for text in pair)
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"metadata must be valid Unicode text, not {error.object[:80]!a}"
        ) from None
    if size > MAX_METADATA:
        raise ConfigurationError(f"metadata must have at most {MAX_METADATA:,} bytes, not {size:,}")
    return MappingProxyType(copy)
