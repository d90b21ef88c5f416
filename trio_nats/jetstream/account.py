"""What JetStream reports about an account."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["APIStats", "AccountInfo", "AccountLimits", "Tier"]


class AccountLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of an account. -1 means no limit."""

    max_memory: int = -1
    """Maximum size of all streams in memory, in bytes."""
    max_storage: int = -1
    """Maximum size of all streams in files, in bytes."""
    max_streams: int = -1
    """Maximum number of streams."""
    max_consumers: int = -1
    """Maximum number of consumers."""
    max_ack_pending: int = -1
    """The largest ``max_ack_pending`` that a consumer may have."""
    memory_max_stream_bytes: int = -1
    """Maximum size of one stream in memory, in bytes."""
    storage_max_stream_bytes: int = -1
    """Maximum size of one stream in files, in bytes."""
    max_bytes_required: bool = False
    """Whether each stream must set ``max_bytes``."""


class APIStats(msgspec.Struct, frozen=True, kw_only=True):
    """How the account has used the JetStream API."""

    level: int = 0
    """The API level of the server (ADR-44)."""
    total: int = 0
    """Number of requests."""
    errors: int = 0
    """Number of requests that were answered with an error."""
    inflight: int = 0
    """Number of requests being processed."""


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """The usage and the limits of an account, in one tier."""

    memory: int = 0
    """Bytes stored in memory."""
    storage: int = 0
    """Bytes stored in files."""
    reserved_memory: int = 0
    """Bytes reserved in memory by the ``max_bytes`` of streams."""
    reserved_storage: int = 0
    """Bytes reserved in files by the ``max_bytes`` of streams."""
    streams: int = 0
    """Number of streams."""
    consumers: int = 0
    """Number of consumers."""
    limits: AccountLimits = AccountLimits()
    """The limits of the account, in this tier."""


class AccountInfo(Tier, frozen=True, kw_only=True):
    """The usage and the limits of an account."""

    domain: str = ""
    """The JetStream domain."""
    api: APIStats = APIStats()
    """How the account has used the JetStream API."""
    tiers: Mapping[str, Tier] = {}
    """Usage and limits of each tier, such as ``R3``, if the limits of the account are by tier."""
