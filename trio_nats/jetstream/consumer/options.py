"""Options of pull requests, checked before anything is sent (ADR-37, 42)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import ConfigurationError
from ...options import check_count, check_flag, check_seconds
from ..json_codec import nanoseconds
from .config import ConsumerConfig, PriorityPolicy
from .pull_flow_control import LARGEST_BATCH, PullRequest

__all__ = [
    "LEAST_INTERVAL",
    "ConsumeOptions",
    "PullOptions",
    "check_heartbeat",
    "check_pull_options",
    "check_push_consumer",
    "consume_options",
]

DEFAULT_MESSAGES = 500
DEFAULT_EXPIRES = 30.0
LEAST_EXPIRES = 1.0
LEAST_INTERVAL = 0.5
"""Minimum number of seconds between checks whose interval depends on what the server sent."""
LONGEST_HEARTBEAT = 30.0
MAX_PRIORITY = 9
DEFAULT_INACTIVE_THRESHOLD = 5.0
"""The server's default for ephemeral consumers, in seconds."""
FEW_DELIVERIES = 2
"""Up to this ``max_deliver``, request messages by default only when a task waits for one. A message
that is requested in advance and not received has used up a delivery. If that was the last one, it
is kept, but only as long as the program runs."""


@dataclass(slots=True)
class Pin:
    """The id of this client while it is the pinned one of its group (ADR-42)."""

    id: str = ""


@dataclass(frozen=True, slots=True)
class PullOptions:
    """Options that all pull requests of a call have in common."""

    group: str = ""
    min_pending: int = 0
    min_ack_pending: int = 0
    priority: int = 0
    pin: Pin | None = None
    """Set for ``PriorityPolicy.PINNED_CLIENT``."""

    def request(
        self,
        batch: int,
        max_bytes: int,
        expires: float,
        heartbeat: float,
        *,
        no_wait: bool = False,
    ) -> PullRequest:
        """Return a pull request. Times are in seconds; 0 stands for none."""
        return PullRequest(
            batch=batch,
            max_bytes=max_bytes,
            expires=nanoseconds("expires", expires),
            no_wait=no_wait,
            idle_heartbeat=nanoseconds("heartbeat", heartbeat),
            group=self.group,
            id=self.pin.id if self.pin is not None else "",
            min_pending=self.min_pending,
            min_ack_pending=self.min_ack_pending,
            priority=self.priority,
        )


NO_PULL_OPTIONS = PullOptions()
"""The options of calls that pass none."""


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """Options of ``consume``."""

    limit: int
    by_bytes: bool
    threshold: int | None
    stop_after: int | None
    expires: float
    heartbeat: float
    largest_batch: int
    pull_options: PullOptions
    prefetch: bool = True
    check_interval: float = LONGEST_HEARTBEAT / 2
    """Seconds between checks for missing heartbeats."""
    keep_alive: float | None = None
    """Seconds without a pull request after which to keep the server from deleting the consumer."""


def check_pull_options(
    config: ConsumerConfig | None,
    pin_of: Callable[[str], Pin],
    group: str | None,
    min_pending: int | None,
    min_ack_pending: int | None,
    priority: int | None,
) -> PullOptions:
    """Check options against the consumer's configuration, which may be ``None`` for unknown."""
    given = (group, min_pending, min_ack_pending, priority)
    restricted = config is not None and (config.deliver_subject or config.priority_groups)
    if given == (None, None, None, None) and not restricted:
        return NO_PULL_OPTIONS
    if group is not None:
        check_group(group)
    for name, value in (("min_pending", min_pending), ("min_ack_pending", min_ack_pending)):
        if value is not None:
            check_count(name, value, 1)
    if priority is not None and check_count("priority", priority) > MAX_PRIORITY:
        raise ConfigurationError(f"priority must be between 0 and {MAX_PRIORITY}, not {priority}")
    if config is not None:
        _check_group(config, group)
    if group is None and not (min_pending is min_ack_pending is priority is None):
        raise ConfigurationError("min_pending, min_ack_pending and priority need group as well")
    pinned = config is None or config.priority_policy == PriorityPolicy.PINNED_CLIENT
    return PullOptions(
        group or "",
        min_pending or 0,
        min_ack_pending or 0,
        priority or 0,
        pin_of(group) if group is not None and pinned else None,
    )


def check_push_consumer(config: ConsumerConfig, **options: object) -> None:
    """Check that no option for pull requests is given for a push consumer."""
    if given := ", ".join(name for name, value in options.items() if value is not None):
        raise ConfigurationError(
            f"a push consumer takes no {given}; leave that out, or create a pull consumer, which "
            "has no deliver_subject"
        )


def check_group(group: str) -> None:
    """Check the name of a priority group."""
    if not isinstance(group, str):
        raise TypeError(f"group must be a str, not {type(group).__name__}")
    if not group:
        raise ConfigurationError("group must not be empty")


def _check_group(config: ConsumerConfig, group: str | None) -> None:
    if config.deliver_subject:
        raise ConfigurationError(
            "next() and fetch() need a pull consumer, and this one has the deliver_subject "
            f"{config.deliver_subject!r}; use consume(), or create one without deliver_subject"
        )
    groups = ", ".join(map(repr, config.priority_groups))
    if groups and group is None:
        raise ConfigurationError(
            f"group must be given, one of {groups}, because the consumer has priority groups"
        )
    if group is not None and group not in config.priority_groups:
        known = f"; it has {groups}" if groups else " at all"
        raise ConfigurationError(f"the consumer has no priority group {group!r}{known}")


def check_heartbeat(
    heartbeat: float | None, expires: float, default: Callable[[float], float]
) -> float:
    """Return the interval of heartbeats in seconds, at most half of ``expires``."""
    if heartbeat is None:
        return default(expires)
    if check_seconds("heartbeat", heartbeat) > expires / 2:
        raise ConfigurationError(
            f"heartbeat must be at most half of the {expires:g} s that a pull request lasts, "
            f"not {heartbeat:g} s"
        )
    return heartbeat


def consume_options(
    config: ConsumerConfig | None,
    pull_options: PullOptions,
    *,
    max_messages: int | None,
    max_bytes: int | None,
    threshold: int | None,
    stop_after: int | None,
    expires: float | None,
    heartbeat: float | None,
    default_heartbeat: float = LONGEST_HEARTBEAT,
    prefetch: bool | None = None,
) -> ConsumeOptions:
    """Check the options of ``consume`` and fill in defaults."""
    if max_messages is not None and max_bytes is not None:
        raise ConfigurationError("give max_messages or max_bytes, not both")
    if prefetch is None:
        few = config is not None and 0 < config.max_deliver <= FEW_DELIVERIES
        prefetch = not (few and max_messages is max_bytes is threshold is None)
    else:
        check_flag("prefetch", prefetch)
        if not (prefetch or max_bytes is threshold is None):
            raise ConfigurationError(
                "prefetch=False requests nothing in advance; leave out max_bytes and threshold"
            )
    by_bytes = max_bytes is not None
    if max_bytes is not None:
        limit = check_count("max_bytes", max_bytes, 1)
        if config is not None and config.max_bytes:
            limit = min(limit, config.max_bytes)
    else:
        limit = DEFAULT_MESSAGES
        if max_messages is not None:
            limit = min(check_count("max_messages", max_messages, 1), LARGEST_BATCH)
    if threshold is not None and check_count("threshold", threshold, 1) > limit:
        raise ConfigurationError(f"threshold must be at most {limit}, not {threshold}")
    if not prefetch and by_bytes:
        by_bytes, limit, threshold = False, DEFAULT_MESSAGES, None
    if stop_after is not None:
        check_count("stop_after", stop_after, 1)
    longest = config.max_expires if config is not None and config.max_expires else None
    if expires is None:
        expires = DEFAULT_EXPIRES if longest is None else min(DEFAULT_EXPIRES, longest)
    elif check_seconds("expires", expires) < LEAST_EXPIRES:
        raise ConfigurationError(f"expires must be at least {LEAST_EXPIRES:g} s, not {expires:g} s")
    elif longest is not None and expires > longest:
        raise ConfigurationError(
            f"expires must be at most the consumer's max_expires of {longest:g} s, "
            f"not {expires:g} s"
        )
    nanoseconds("expires", expires)
    heartbeat = check_heartbeat(
        heartbeat, expires, lambda seconds: min(seconds / 2, default_heartbeat)
    )
    # Check twice in each interval. A shorter ``expires`` can only be the server's max_expires.
    least = LEAST_INTERVAL if expires < LEAST_EXPIRES else 0.0
    return ConsumeOptions(
        limit=limit,
        by_bytes=by_bytes,
        threshold=threshold,
        stop_after=stop_after,
        expires=expires,
        heartbeat=heartbeat,
        check_interval=max(heartbeat / 2, least),
        largest_batch=config.max_batch if config is not None else 0,
        pull_options=pull_options,
        prefetch=prefetch,
        keep_alive=_keep_alive(config),
    )


def _keep_alive(config: ConsumerConfig | None) -> float | None:
    if config is None:
        return None
    threshold = config.inactive_threshold
    if not threshold and not config.durable_name:
        threshold = DEFAULT_INACTIVE_THRESHOLD
    # The threshold comes from the server: a tiny one must not keep this program busy.
    return max(threshold / 3, LEAST_INTERVAL) if threshold else None
