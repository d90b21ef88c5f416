"""Discovery of services: the client's side of ADR-32."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC
from typing import TypeVar

import msgspec

from .._constructors import NoPublicConstructor
from .._json_depth import is_shallow
from ..connection_base import BaseConnection
from ..errors import ConfigurationError, NoRespondersError
from ..options import PendingLimits, check_seconds
from ..subjects import check_filter, check_subject
from .schemas import (
    PREFIX,
    ServiceIdentity,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    check_name,
    monitoring_subject,
    with_seconds,
)

__all__ = ["DEFAULT_STALL", "MAX_INSTANCES", "Services"]

DEFAULT_STALL = 0.3
MAX_INSTANCES = 10_000
"""Maximum number of responses to accept: a peer may never stop sending them."""
MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of all responses together, in bytes."""

S = TypeVar("S", bound=ServiceIdentity)

_logger = logging.getLogger("trio_nats.services")

_ID = re.compile(r"[^\x00-\x20\x7f.*>]+")
_NUMBERS = ("num_requests", "num_errors", "processing_time", "average_processing_time")

# Fields that older services, or those in other languages, may omit or set to null.
_WHOLE: dict[str, object] = {"metadata": {}, "description": "", "endpoints": []}
_PART: dict[str, object] = {
    "queue_group": "",
    "metadata": {},
    "num_requests": 0,
    "num_errors": 0,
    "processing_time": 0,
    "average_processing_time": 0,
    "last_error": "",
}


class Services(metaclass=NoPublicConstructor, use="nc.services()"):
    """Discovers services; made by :meth:`Connection.services`.

    Each method asks all instances of all services, or of those with a name, or one instance by its
    ID. It returns their responses sorted by name and ID, an empty list if there are none. As the
    number of instances is not known, it waits until ``stall`` seconds have passed since the last
    response, at most ``timeout`` seconds; for one instance, until it has responded. At most 10,000
    responses or 64 MiB are accepted. Malformed ones, and those of services that were not asked, are
    ignored.

    The methods raise :exc:`ConfigurationError` for an invalid name or ID, and what
    :meth:`Connection.request_many` raises, except :exc:`NoRespondersError`.
    """

    def __init__(
        self,
        nc: BaseConnection,
        *,
        prefix: str = PREFIX,
        timeout: float | None = None,
        stall: float = DEFAULT_STALL,
    ) -> None:
        self._nc = nc
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a str, not {type(prefix).__name__}")
        check_subject(prefix)
        self._prefix = prefix
        self._timeout = None if timeout is None else check_seconds("timeout", timeout)
        self._stall = check_seconds("stall", stall)

    @property
    def prefix(self) -> str:
        """The prefix of the subjects of requests."""
        return self._prefix

    async def ping(self, name: str | None = None, id: str | None = None) -> list[ServicePing]:
        """Ask which instances are running, and how long each takes to respond.

        If cancelled, the responses are lost.

        :param name: the name of a service. Default: all services.
        :param id: the ID of an instance, together with ``name``. Default: all instances.
        :returns: the identity of each instance, and its round-trip time.
        """
        responses = await self._ask("PING", name, id, ServicePing)
        return [msgspec.structs.replace(one, rtt=rtt) for one, rtt in responses]

    async def info(self, name: str | None = None, id: str | None = None) -> list[ServiceInfo]:
        """Ask for descriptions of services and their endpoints.

        If cancelled, the responses are lost.

        :param name: the name of a service. Default: all services.
        :param id: the ID of an instance, together with ``name``. Default: all instances.
        :returns: the description of each instance.
        """
        return [one for one, _ in await self._ask("INFO", name, id, ServiceInfo)]

    async def stats(self, name: str | None = None, id: str | None = None) -> list[ServiceStats]:
        """Ask for statistics of services.

        If cancelled, the responses are lost.

        :param name: the name of a service. Default: all services.
        :param id: the ID of an instance, together with ``name``. Default: all instances.
        :returns: the statistics of each instance.
        """
        return [one for one, _ in await self._ask("STATS", name, id, ServiceStats)]

    async def _ask(
        self, verb: str, name: str | None, id: str | None, kind: type[S]
    ) -> list[tuple[S, float]]:
        """Return the responses, and how many seconds each has taken."""
        if name is not None:
            check_name("service", name)
        if id is not None:
            if name is None:
                raise ConfigurationError(
                    f"id {id!r:.80} needs name: pass the name of the service too"
                )
            if not isinstance(id, str):
                raise TypeError(f"id must be a str, not {type(id).__name__}")
            check_filter(id)
            if {*".*>"} & {*id}:
                raise ConfigurationError(
                    f"id must be a single token without wildcards, not {id[:80]!a}"
                )
        found: list[tuple[S, float]] = []
        size = 0
        begun = time.perf_counter()
        async with self._nc.request_many(
            monitoring_subject(self._prefix, verb, name, id),
            timeout=self._timeout,
            stall=self._stall,
            stop_after=MAX_INSTANCES,
            pending_limits=PendingLimits(messages=MAX_INSTANCES, bytes=MAX_BYTES),
        ) as replies:
            try:
                async for msg in replies:
                    took = time.perf_counter() - begun
                    size += len(msg.data)
                    if size > MAX_BYTES:
                        _logger.warning(
                            "more than %d bytes of responses to %s; the rest is ignored",
                            MAX_BYTES,
                            verb,
                        )
                        break
                    one = _read(msg.data, kind)
                    if one is None or name not in (None, one.name) or id not in (None, one.id):
                        continue
                    found.append((one, took))
                    if id is not None:
                        break
            except NoRespondersError:
                pass
        return sorted(found, key=lambda pair: (pair[0].name, pair[0].id))

    def __repr__(self) -> str:
        return f"<Services {self._prefix!r}>"


def _read(data: bytes, kind: type[S]) -> S | None:
    """Decode a response; return ``None`` if it is malformed. Anyone may have sent it."""
    try:
        raw = msgspec.json.decode(data)
        if not isinstance(raw, dict) or raw.get("type") is None:
            return None
        whole = _complete(_WHOLE, raw)
        parts = whole["endpoints"]
        if isinstance(parts, list):
            whole["endpoints"] = [
                _read_part(part) if isinstance(part, dict) else part for part in parts
            ]
        one = msgspec.convert(whole, kind)
        if not _ID.fullmatch(one.id):
            raise ValueError(f"invalid id {one.id[:80]!a}")
        check_name("service", one.name)
        if isinstance(one, ServiceStats):
            if one.started.tzinfo is None:
                raise ValueError("started has no time zone")
            one = msgspec.structs.replace(one, started=one.started.astimezone(UTC))
    except (ValueError, OverflowError, RecursionError) as error:
        _logger.debug("ignored a malformed response to discovery: %s", str(error))
        return None
    return one


def _read_part(part: dict[str, object]) -> dict[str, object]:
    """Convert the part of a response that describes one endpoint to the types of this package."""
    part = _complete(_PART, part)
    for name in _NUMBERS:
        number = part[name]
        if isinstance(number, (int, float)) and not -(2**63) <= number < 2**63:
            raise ValueError(f"{name} is out of range")
    if not is_shallow(part.get("data")):
        part["data"] = None
    return with_seconds(part)


def _complete(defaults: dict[str, object], raw: dict[str, object]) -> dict[str, object]:
    """Return ``raw`` with defaults for what is missing or null."""
    return defaults | {key: value for key, value in raw.items() if value is not None}
