"""What services say about themselves, as it is on the wire (ADR-32)."""

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
"""Bytes of all keys and values together (ADR-33)."""

_TIMES = ("processing_time", "average_processing_time")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_VERSION = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE}(?:\.{_PRE})*)?(?:\+{_BUILD}(?:\.{_BUILD})*)?"
)


class ServiceIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which service, and which instance of it."""

    name: str
    """The service's name, which all of its instances share."""
    id: str
    """This instance."""
    version: str
    metadata: dict[str, str]


class ServicePing(
    ServiceIdentity, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=PING
):
    """The answer to a PING."""

    rtt: float = 0.0
    """Seconds from the question to this answer; not part of what is sent."""


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint is."""

    name: str
    subject: str
    queue_group: str
    """Empty if it is in none."""
    metadata: dict[str, str]


class ServiceInfo(ServiceIdentity, frozen=True, kw_only=True, tag_field="type", tag=INFO):
    """What an instance of a service is."""

    description: str
    endpoints: list[EndpointInfo]


class EndpointStats(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an endpoint is doing, since the service was started or reset."""

    name: str
    subject: str
    queue_group: str
    """Empty if it is in none."""
    num_requests: int
    """How many requests it has received."""
    num_errors: int
    """How many of them were answered by an error."""
    processing_time: float
    """Seconds spent in the handler, by all requests together."""
    average_processing_time: float
    """Seconds for each request."""
    last_error: str
    """Code and description of the last error; empty if there was none."""
    data: object = None
    """What the service's ``stats_handler`` adds."""


class ServiceStats(ServiceIdentity, frozen=True, kw_only=True, tag_field="type", tag=STATS):
    """How an instance of a service is doing."""

    endpoints: list[EndpointStats]
    started: datetime
    """When it was started, or reset; in UTC."""


def encode_stats(stats: ServiceStats) -> bytes:
    """The answer to STATS, in which times are whole nanoseconds."""
    answer = msgspec.to_builtins(stats)
    for endpoint in answer["endpoints"]:
        for name in _TIMES:
            endpoint[name] = round(endpoint[name] * 10**9)
    return msgspec.json.encode(answer)


def with_seconds(endpoint: dict[str, object]) -> dict[str, object]:
    """The numbers of an endpoint as they were received, with times in seconds."""
    given = {name: endpoint[name] for name in _TIMES}
    times = {name: one / 10**9 for name, one in given.items() if isinstance(one, (int, float))}
    return endpoint | times


def new_id() -> str:
    """For a new instance; a token of a subject."""
    return secrets.token_hex(11)


def monitoring_subject(prefix: str, verb: str, name: str | None, id: str | None) -> str:
    """Where all services, those of a name, or one instance are asked."""
    return ".".join(filter(None, (prefix, verb, name, id)))


def check_name(what: str, name: str) -> str:
    """``name`` if a service or an endpoint may have it."""
    if not isinstance(name, str):
        raise ConfigurationError(f"the {what}'s name must be a str, not {type(name).__name__}")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} name {name[:80]!a} is not allowed: use letters, digits, '-' and '_', at least "
            "one; dots belong into the subject"
        )
    return name


def check_version(version: str) -> str:
    """``version`` if it is a semantic one."""
    if not isinstance(version, str):
        raise ConfigurationError(f"the version must be a str, not {type(version).__name__}")
    if not _VERSION.fullmatch(version):
        raise ConfigurationError(
            f"version {version[:80]!a} is not semantic (https://semver.org): write 1.0.0 or "
            "1.2.3-rc.1+build.5, without leading zeros"
        )
    return version


def check_description(description: str) -> str:
    """``description`` if it can be sent."""
    if not isinstance(description, str):
        raise ConfigurationError(f"the description must be a str, not {type(description).__name__}")
    try:
        description.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("the description is not valid Unicode text") from None
    return description


def check_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    """A copy of ``metadata`` that cannot be changed."""
    copy: dict[str, str] = {}
    if metadata is None:
        return MappingProxyType(copy)
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"metadata must be a mapping, not {type(metadata).__name__}")
    copy.update(metadata)
    for key, value in copy.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigurationError(f"metadata {key!r}: keys and values are str, convert them")
        if not key:
            raise ConfigurationError("metadata has an empty key")
    try:
        size = sum(len(text.encode()) for pair in copy.items() for text in pair)
    except UnicodeEncodeError:
        raise ConfigurationError("metadata holds what is not valid Unicode text") from None
    if size > MAX_METADATA:
        raise ConfigurationError(
            f"metadata of {size:,} bytes is more than the {MAX_METADATA:,} that are allowed"
        )
    return MappingProxyType(copy)
