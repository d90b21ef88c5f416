"""Discovery of services: the client's side of ADR-32."""

from __future__ import annotations

import logging
import time
from typing import TypeVar

import msgspec

from .._constructors import NoPublicConstructor
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
"""Maximum number of answers to accept: a peer may never stop answering."""
MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of all answers together, in bytes."""

S = TypeVar("S", bound=ServiceIdentity)

_logger = logging.getLogger("trio_nats.services")

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
    ID. It returns their answers sorted by name and ID, an empty list if there are none. As the
    number of instances is not known, it waits until ``stall`` seconds have passed since the last
    answer, at most ``timeout`` seconds; for one instance, until it has answered. At most 10,000
    answers or 64 MiB are accepted, and malformed ones are ignored.

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
        """Ask which instances are running, and how long each takes to answer.

        If cancelled, the answers are lost.

        :param name: the name of a service. Default: all services.
        :param id: the ID of an instance, together with ``name``. Default: all instances.
        :returns: the identity of each instance, and its round-trip time.
        """
        answers = await self._ask("PING", name, id, ServicePing)
        return [msgspec.structs.replace(one, rtt=rtt) for one, rtt in answers]

    async def info(self, name: str | None = None, id: str | None = None) -> list[ServiceInfo]:
        """Ask for descriptions of services and their endpoints.

        If cancelled, the answers are lost.

        :param name: the name of a service. Default: all services.
        :param id: the ID of an instance, together with ``name``. Default: all instances.
        :returns: the description of each instance.
        """
        return [one for one, _ in await self._ask("INFO", name, id, ServiceInfo)]

    async def stats(self, name: str | None = None, id: str | None = None) -> list[ServiceStats]:
        """Ask for statistics of services.

        If cancelled, the answers are lost.

        :param name: the name of a service. Default: all services.
        :param id: the ID of an instance, together with ``name``. Default: all instances.
        :returns: the statistics of each instance.
        """
        return [one for one, _ in await self._ask("STATS", name, id, ServiceStats)]

    async def _ask(
        self, verb: str, name: str | None, id: str | None, kind: type[S]
    ) -> list[tuple[S, float]]:
        """Return the answers, and how many seconds each has taken."""
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
            stop_after=MAX_INSTANCES if id is None else 1,
            pending_limits=PendingLimits(messages=MAX_INSTANCES, bytes=MAX_BYTES),
        ) as replies:
            try:
                async for msg in replies:
                    took = time.perf_counter() - begun
                    size += len(msg.data)
                    if size > MAX_BYTES:
                        _logger.warning(
                            "more than %d bytes of answers to %s; the rest is ignored",
                            MAX_BYTES,
                            verb,
                        )
                        break
                    if (one := _read(msg.data, kind)) is not None:
                        found.append((one, took))
            except NoRespondersError:
                pass
        return sorted(found, key=lambda pair: (pair[0].name, pair[0].id))

    def __repr__(self) -> str:
        return f"<Services {self._prefix!r}>"


def _read(data: bytes, kind: type[S]) -> S | None:
    """Decode an answer; return ``None`` if it is malformed. Anyone may have sent it."""
    try:
        raw = msgspec.json.decode(data)
        if not isinstance(raw, dict) or raw.get("type") is None:
            return None
        whole = _complete(_WHOLE, raw)
        parts = whole["endpoints"]
        if isinstance(parts, list):
            whole["endpoints"] = [
                with_seconds(_complete(_PART, part)) if isinstance(part, dict) else part
                for part in parts
            ]
        return msgspec.convert(whole, kind)
    except (ValueError, OverflowError, RecursionError) as error:
        _logger.debug("ignored a malformed answer to discovery: %s", str(error))
        return None


def _complete(defaults: dict[str, object], raw: dict[str, object]) -> dict[str, object]:
    """Return ``raw`` with defaults for what is missing or null."""
    return defaults | {key: value for key, value in raw.items() if value is not None}
