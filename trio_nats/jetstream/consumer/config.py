"""The configuration of consumers (ADR-15, 37, 42)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypedDict

import msgspec

from ...errors import ConfigurationError
from .. import json_codec
from ..json_codec import Choice, Seconds
from ..validation import (
    check_filter,
    check_filters,
    check_metadata,
    check_name,
    check_overlap,
    check_subject,
)

__all__ = [
    "AckPolicy",
    "ConsumerConfig",
    "ConsumerOptions",
    "DeliverPolicy",
    "PriorityPolicy",
    "ReplayPolicy",
    "check_consumer",
    "features_of",
    "with_options",
]


class DeliverPolicy(Choice):
    """The message of the stream with which a consumer begins."""

    ALL = "all"
    """The first message."""
    LAST = "last"
    """The last message."""
    NEW = "new"
    """The first message stored after the consumer was created."""
    BY_START_SEQUENCE = "by_start_sequence"
    """The message with the sequence number ``opt_start_seq``."""
    BY_START_TIME = "by_start_time"
    """The first message stored at ``opt_start_time`` or later."""
    LAST_PER_SUBJECT = "last_per_subject"
    """The last message of each subject."""


class AckPolicy(Choice):
    """Which messages must be acknowledged."""

    EXPLICIT = "explicit"
    """Each message."""
    ALL = "all"
    """Any message; this acknowledges all messages before it, too."""
    NONE = "none"
    """No message: a delivery counts as acknowledged."""
    FLOW_CONTROL = "flow_control"
    """The reply to a flow control message acknowledges all messages before it. It needs a push
    consumer with ``flow_control`` and an ``idle_heartbeat`` of 1 s. Servers use it to copy streams
    (server 2.14 or later)."""


class ReplayPolicy(Choice):
    """How fast messages are delivered."""

    INSTANT = "instant"
    """As fast as possible."""
    ORIGINAL = "original"
    """With the pauses between them as they were published."""


class PriorityPolicy(Choice):
    """How the clients of a consumer share its messages (ADR-42)."""

    NONE = "none"
    """All clients alike."""
    OVERFLOW = "overflow"
    """A client can ask for messages only above a number of pending, or unacknowledged, messages."""
    PINNED_CLIENT = "pinned_client"
    """One client receives all messages, until it goes away."""
    PRIORITIZED = "prioritized"
    """Clients with the lowest priority number first (server 2.12 or later)."""


class ConsumerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a consumer. Durations are in seconds.

    ``None`` stands for the default of the server.
    """

    ALWAYS: ClassVar[tuple[str, ...]] = (
        "deliver_policy",
        "ack_policy",
        "replay_policy",
    )
    """Fields that are sent even with their default: the schema of the API requires it, or the
    default of the server is different."""

    name: str = ""
    """Name of the consumer. Default: a generated one."""
    durable_name: str = ""
    """The name of a durable consumer, which exists until it is deleted. A consumer with only a
    ``name`` is ephemeral: the server deletes it if it is unused for ``inactive_threshold``."""
    description: str = ""
    """Description for people."""
    deliver_policy: DeliverPolicy = DeliverPolicy.ALL
    """The message to begin with."""
    opt_start_seq: int = 0
    """Sequence number to begin with, for ``DeliverPolicy.BY_START_SEQUENCE``."""
    opt_start_time: datetime | None = None
    """Time to begin with, for ``DeliverPolicy.BY_START_TIME``."""
    ack_policy: AckPolicy = AckPolicy.EXPLICIT
    """Which messages must be acknowledged."""
    ack_wait: Seconds | None = None
    """Seconds after which a message that is not acknowledged is redelivered. The server's default
    is 30."""
    max_deliver: int = -1
    """Maximum number of deliveries of a message; -1 for no limit."""
    backoff: Sequence[Seconds] = ()
    """``ack_wait`` for the first, second, ... delivery; the last value is used from then on."""
    filter_subject: str = ""
    """Deliver only messages of this subject, which may have wildcards."""
    filter_subjects: Sequence[str] = ()
    """The same for several subjects."""
    replay_policy: ReplayPolicy = ReplayPolicy.INSTANT
    """Whether to deliver at once or at the original pace."""
    rate_limit_bps: int = 0
    """Bits per second that a push consumer delivers; 0 for no limit."""
    sample_freq: str = ""
    """Percentage of acknowledgements to report in advisories, such as ``"10%"``."""
    max_waiting: int | None = None
    """Maximum number of waiting pull requests. The server's default is 512."""
    max_ack_pending: int | None = None
    """Maximum number of unacknowledged messages; at this number, delivery pauses. -1 for no limit.
    The server's default is 1000."""
    headers_only: bool = False
    """Deliver messages without payload; the header ``Nats-Msg-Size`` has its size."""
    max_batch: int = 0
    """Maximum number of messages in a pull request; 0 for no limit."""
    max_expires: Seconds = 0.0
    """Maximum number of seconds that a pull request may wait; 0 for no limit."""
    max_bytes: int = 0
    """Maximum number of bytes in a pull request; 0 for no limit."""
    inactive_threshold: Seconds | None = None
    """Seconds without use after which the server deletes the consumer. The server's default is 5
    for ephemeral consumers; durable ones are kept."""
    num_replicas: int = 0
    """Number of replicas; 0 for as many as the stream has."""
    mem_storage: bool = False
    """Keep the state in memory, wherever the stream is stored."""
    metadata: Mapping[str, str] | None = None
    """Metadata, at most 128 KiB (ADR-33). Keys that begin with ``_nats.`` belong to the server
    (ADR-44)."""
    pause_until: datetime | None = None
    """Deliver nothing before this time (server 2.11 or later)."""
    priority_groups: Sequence[str] = ()
    """Priority groups, of which servers so far support only one (server 2.11 or later)."""
    priority_policy: PriorityPolicy = PriorityPolicy.NONE
    """How clients of a priority group share messages."""
    priority_timeout: Seconds = 0.0
    """With ``PINNED_CLIENT``, seconds of silence after which another client is pinned; 0 for the
    server's default."""
    deliver_subject: str = ""
    """The subject that a push consumer delivers to; empty for a pull consumer."""
    deliver_group: str = ""
    """The queue group of a push consumer."""
    flow_control: bool = False
    """Whether a push consumer waits for replies to its flow control messages. Needs
    ``idle_heartbeat``."""
    idle_heartbeat: Seconds = 0.0
    """Seconds of silence after which a push consumer sends a heartbeat; 0 for none."""
    extra: Mapping[str, Any] = {}
    """Fields that this version does not know, as a newer server sent them. They are sent back."""


class ConsumerOptions(TypedDict, total=False):
    """The fields of :class:`ConsumerConfig`, except ``extra``, as keywords."""

    name: str
    durable_name: str
    description: str
    deliver_policy: DeliverPolicy
    opt_start_seq: int
    opt_start_time: datetime | None
    ack_policy: AckPolicy
    ack_wait: float | None
    max_deliver: int
    backoff: Sequence[float]
    filter_subject: str
    filter_subjects: Sequence[str]
    replay_policy: ReplayPolicy
    rate_limit_bps: int
    sample_freq: str
    max_waiting: int | None
    max_ack_pending: int | None
    headers_only: bool
    max_batch: int
    max_expires: float
    max_bytes: int
    inactive_threshold: float | None
    num_replicas: int
    mem_storage: bool
    metadata: Mapping[str, str] | None
    pause_until: datetime | None
    priority_groups: Sequence[str]
    priority_policy: PriorityPolicy
    priority_timeout: float
    deliver_subject: str
    deliver_group: str
    flow_control: bool
    idle_heartbeat: float


def with_options(present: ConsumerConfig, options: Mapping[str, object]) -> ConsumerConfig:
    """Return ``present`` with other values for some fields. Its name stays."""
    changes = {key: one for key, one in options.items() if key not in ("name", "durable_name")}
    # One filter replaces several, and the other way round.
    if changes.get("filter_subject"):
        changes.setdefault("filter_subjects", ())
    if changes.get("filter_subjects"):
        changes.setdefault("filter_subject", "")
    return msgspec.structs.replace(present, **changes)


def check_consumer(config: ConsumerConfig) -> ConsumerConfig:
    """Return ``config`` unless it is certain that the server would refuse it."""
    json_codec.check_types(config)
    for name in filter(None, (config.name, config.durable_name)):
        check_name("consumer", name)
    if config.name and config.durable_name and config.name != config.durable_name:
        raise ConfigurationError(
            f"name and durable_name must be the same, not {config.name!a} and "
            f"{config.durable_name!a}; give one of them"
        )
    if config.filter_subject:
        if config.filter_subjects:
            raise ConfigurationError("give filter_subject or filter_subjects, not both")
        check_filter("filter_subject", config.filter_subject)
    check_filters("filter_subjects", config.filter_subjects)
    check_overlap("filter_subjects", config.filter_subjects)
    if config.metadata is not None:
        check_metadata(config.metadata)
    if config.deliver_subject:
        check_subject("deliver_subject", config.deliver_subject)
    _check_start(config)
    return config


def _check_start(config: ConsumerConfig) -> None:
    """Check that the start matches the deliver policy."""
    policy = config.deliver_policy
    by_sequence = policy == DeliverPolicy.BY_START_SEQUENCE
    if (config.opt_start_seq > 0) != by_sequence:
        raise ConfigurationError(
            "opt_start_seq and DeliverPolicy.BY_START_SEQUENCE go together: give both or neither"
        )
    if (config.opt_start_time is not None) != (policy == DeliverPolicy.BY_START_TIME):
        raise ConfigurationError(
            "opt_start_time and DeliverPolicy.BY_START_TIME go together: give both or neither"
        )


def features_of(config: ConsumerConfig) -> list[str]:
    """Return the :data:`~..features.FEATURES` that the configuration needs."""
    needed: list[str] = []
    if config.pause_until is not None:
        needed.append("pause_until")
    if config.priority_groups or config.priority_policy != PriorityPolicy.NONE:
        needed.append("priority_groups")
    if config.priority_policy == PriorityPolicy.PRIORITIZED:
        needed.append("PriorityPolicy.PRIORITIZED")
    if config.ack_policy == AckPolicy.FLOW_CONTROL:
        needed.append("AckPolicy.FLOW_CONTROL")
    return needed
