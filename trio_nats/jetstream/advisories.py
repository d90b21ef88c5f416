"""Advisories: messages in which servers report events of a stream and its consumers.

Listen to them with :meth:`Stream.advisories` and :meth:`Consumer.advisories`. Each is published
once, on a subject such as ``$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.<stream>.<consumer>``. To
lose none, store these subjects in a stream, and decode its messages with :func:`decode_advisory`.

Anybody with the permission to publish to such a subject can forge an advisory.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import ClassVar, cast

import msgspec
import trio

from .._async_with import NeedsAsyncWith
from .._constructors import NoPublicConstructor, construct
from .._event_hub import EventChannel, EventHub
from .._json_depth import MAX_DEPTH, is_shallow
from .._nursery import open_nursery
from .._printable import printable
from ..connection_base import BaseConnection
from ..errors import ConfigurationError
from ..message import Msg
from ..options import check_count
from ..subscription import Subscription
from . import json_codec
from .api import API
from .errors import JetStreamError
from .info import PeerInfo, StreamState
from .json_codec import Choice

__all__ = [
    "Advisory",
    "AdvisoryAction",
    "AdvisoryListener",
    "ConsumerActionAdvisory",
    "ConsumerAdvisory",
    "ConsumerGroupPinnedAdvisory",
    "ConsumerGroupUnpinnedAdvisory",
    "ConsumerLeaderElectedAdvisory",
    "ConsumerPauseAdvisory",
    "ConsumerQuorumLostAdvisory",
    "MaxDeliverAdvisory",
    "NakAdvisory",
    "RestoreCompleteAdvisory",
    "RestoreCreateAdvisory",
    "SnapshotCompleteAdvisory",
    "SnapshotCreateAdvisory",
    "StreamActionAdvisory",
    "StreamBatchAbandonedAdvisory",
    "StreamLeaderElectedAdvisory",
    "StreamQuorumLostAdvisory",
    "TerminatedAdvisory",
    "UnknownAdvisory",
    "decode_advisory",
]

_logger = logging.getLogger("trio_nats.jetstream")

TYPES = "io.nats.jetstream.advisory.v1."
MAX_SIZE = 256 * 1024
"""Maximum size of an advisory in bytes. The largest ones list the replicas of a stream."""
MAX_SHOWN = 200


class AdvisoryAction(Choice):
    """What was done to a stream or a consumer."""

    CREATE = "create"
    """It was created."""
    DELETE = "delete"
    """It was deleted."""
    MODIFY = "modify"
    """Its configuration was changed."""


class Advisory(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of all advisories, of a stream or of one of its consumers."""

    # The tokens of its subjects between "$JS.EVENT.ADVISORY" and the name of the stream.
    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.*", "CONSUMER.*")
    # The last token of its type.
    TYPE: ClassVar[str] = ""

    type: str = ""
    """The name of its JSON schema, such as ``"io.nats.jetstream.advisory.v1.max_deliver"``."""
    id: str = ""
    """A unique id."""
    timestamp: datetime | None = None
    """When it was written."""
    stream: str
    """The name of the stream."""
    domain: str = ""
    """The JetStream domain; empty if there is none. A leaf node and its hub may have streams of the
    same name, and a listener then receives the advisories of both."""
    account: str = ""
    """The account; empty if the server does not send it."""


class ConsumerAdvisory(Advisory, frozen=True, kw_only=True):
    """Base class of advisories of a consumer."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.*",)

    consumer: str
    """The name of the consumer."""


# --- messages ------------------------------------------------------------------------------------


class MaxDeliverAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A message was delivered ``max_deliver`` times, and is not delivered again.

    It stays in the stream. The server notices when it would deliver it again: ``ack_wait`` after
    the last delivery, or after a negative acknowledgement. A message that is being processed for
    the last time may still be acknowledged later.
    """

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.MAX_DELIVERIES",)
    TYPE: ClassVar[str] = "max_deliver"

    stream_seq: int
    """The sequence number of the message in the stream."""
    deliveries: int = 0
    """How often it was delivered."""


class NakAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A message was acknowledged negatively (``-NAK``), so it is delivered again."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.MSG_NAKED",)
    TYPE: ClassVar[str] = "nak"

    stream_seq: int
    """The sequence number of the message in the stream."""
    consumer_seq: int = 0
    """The number of the delivery."""
    deliveries: int = 0
    """How often it was delivered."""


class TerminatedAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A message was terminated with :meth:`JetStreamMsg.term`, and is not delivered again.

    A stream with another retention than ``LIMITS`` removes it, as if it was acknowledged.
    """

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.MSG_TERMINATED",)
    TYPE: ClassVar[str] = "terminated"

    stream_seq: int
    """The sequence number of the message in the stream."""
    consumer_seq: int = 0
    """The number of the delivery."""
    deliveries: int = 0
    """How often it was delivered."""
    reason: str = ""
    """The ``reason`` given to :meth:`JetStreamMsg.term`; empty if there is none."""


# --- consumers -----------------------------------------------------------------------------------


class ConsumerActionAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A consumer was created or deleted."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.CREATED", "CONSUMER.DELETED")
    TYPE: ClassVar[str] = "consumer_action"

    action: AdvisoryAction
    """What was done to it."""


class ConsumerPauseAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A consumer was paused, or delivers again."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.PAUSE",)
    TYPE: ClassVar[str] = "consumer_pause"

    paused: bool = False
    """Whether it is paused."""
    pause_until: datetime | None = None
    """Until when; ``None`` if it is not paused."""


class ConsumerGroupPinnedAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A client of a priority group was pinned (ADR-42)."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.PINNED",)
    TYPE: ClassVar[str] = "consumer_group_pinned"

    group: str = ""
    """The name of the priority group."""
    pinned_id: str = ""
    """The id of the client."""


class ConsumerGroupUnpinnedAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """The pinned client of a priority group was unpinned (ADR-42)."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.UNPINNED",)
    TYPE: ClassVar[str] = "consumer_group_unpinned"

    group: str = ""
    """The name of the priority group."""
    reason: str = ""
    """Why: ``"admin"`` or ``"timeout"``."""


class ConsumerLeaderElectedAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A replicated consumer has a new leader."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.LEADER_ELECTED",)
    TYPE: ClassVar[str] = "consumer_leader_elected"

    leader: str = ""
    """The name of the server that is the leader."""
    replicas: Sequence[PeerInfo] = ()
    """The servers that hold it."""


class ConsumerQuorumLostAdvisory(ConsumerAdvisory, frozen=True, kw_only=True):
    """A replicated consumer has lost its quorum, so it cannot deliver."""

    SUBJECTS: ClassVar[Sequence[str]] = ("CONSUMER.QUORUM_LOST",)
    TYPE: ClassVar[str] = "consumer_quorum_lost"

    replicas: Sequence[PeerInfo] = ()
    """The servers that hold it."""


# --- streams -------------------------------------------------------------------------------------


class StreamActionAdvisory(Advisory, frozen=True, kw_only=True):
    """A stream was created, updated or deleted."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.CREATED", "STREAM.UPDATED", "STREAM.DELETED")
    TYPE: ClassVar[str] = "stream_action"

    action: AdvisoryAction
    """What was done to it."""


class StreamLeaderElectedAdvisory(Advisory, frozen=True, kw_only=True):
    """A replicated stream has a new leader."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.LEADER_ELECTED",)
    TYPE: ClassVar[str] = "stream_leader_elected"

    leader: str = ""
    """The name of the server that is the leader."""
    replicas: Sequence[PeerInfo] = ()
    """The servers that hold it."""


class StreamQuorumLostAdvisory(Advisory, frozen=True, kw_only=True):
    """A replicated stream has lost its quorum, so it stores nothing."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.QUORUM_LOST",)
    TYPE: ClassVar[str] = "stream_quorum_lost"

    replicas: Sequence[PeerInfo] = ()
    """The servers that hold it."""


class StreamBatchAbandonedAdvisory(Advisory, frozen=True, kw_only=True):
    """An atomic batch was abandoned; none of its messages is stored (ADR-50)."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.BATCH_ABANDONED",)
    TYPE: ClassVar[str] = "stream_batch_abandoned"

    batch: str = ""
    """The id of the batch."""
    reason: str = ""
    """Why: ``"timeout"``, ``"large"``, ``"incomplete"`` or ``"unsupported"``."""


class SnapshotCreateAdvisory(Advisory, frozen=True, kw_only=True):
    """A backup of a stream has begun."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.SNAPSHOT_CREATE",)
    TYPE: ClassVar[str] = "snapshot_create"

    state: StreamState = StreamState()
    """The messages that the stream holds."""


class SnapshotCompleteAdvisory(Advisory, frozen=True, kw_only=True):
    """A backup of a stream has ended."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.SNAPSHOT_COMPLETE",)
    TYPE: ClassVar[str] = "snapshot_complete"

    start: datetime | None = None
    """When it began."""
    end: datetime | None = None
    """When it ended."""
    error: str = ""
    """Why it failed; empty if it did not."""


class RestoreCreateAdvisory(Advisory, frozen=True, kw_only=True):
    """A stream is about to be restored from a backup."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.RESTORE_CREATE",)
    TYPE: ClassVar[str] = "restore_create"


class RestoreCompleteAdvisory(Advisory, frozen=True, kw_only=True):
    """A stream was restored from a backup."""

    SUBJECTS: ClassVar[Sequence[str]] = ("STREAM.RESTORE_COMPLETE",)
    TYPE: ClassVar[str] = "restore_complete"

    start: datetime | None = None
    """When that began."""
    end: datetime | None = None
    """When it ended."""
    bytes: int = 0
    """The size of the backup in bytes."""


class UnknownAdvisory(Advisory, frozen=True, kw_only=True):
    """An advisory of a type that this version does not know."""

    SUBJECTS: ClassVar[Sequence[str]] = ()

    stream: str = ""
    """The name of the stream; empty if the server does not send it."""
    consumer: str = ""
    """The name of the consumer; empty if the server does not send it."""
    data: Mapping[str, object] = {}
    """All fields that the server sent."""


_BY_TYPE: dict[str, type[Advisory]] = {
    TYPES + kind.TYPE: kind
    for kind in (
        ConsumerActionAdvisory,
        ConsumerGroupPinnedAdvisory,
        ConsumerGroupUnpinnedAdvisory,
        ConsumerLeaderElectedAdvisory,
        ConsumerPauseAdvisory,
        ConsumerQuorumLostAdvisory,
        MaxDeliverAdvisory,
        NakAdvisory,
        RestoreCompleteAdvisory,
        RestoreCreateAdvisory,
        SnapshotCompleteAdvisory,
        SnapshotCreateAdvisory,
        StreamActionAdvisory,
        StreamBatchAbandonedAdvisory,
        StreamLeaderElectedAdvisory,
        StreamQuorumLostAdvisory,
        TerminatedAdvisory,
    )
}


def decode_advisory(data: bytes) -> Advisory:
    """Decode an advisory, for example one that a stream has stored.

    :param data: the data of the message.
    :returns: the advisory; an :class:`UnknownAdvisory` if this version does not know its type.
    :raises JetStreamError: if it is malformed, or larger than 256 KiB.
    """
    if len(data) > MAX_SIZE:
        raise JetStreamError(f"an advisory must have at most {MAX_SIZE:,} bytes, not {len(data):,}")
    try:
        raw = json_codec.decode(data)
        name = raw.get("type")
        kind = _BY_TYPE.get(name) if isinstance(name, str) else None
        if kind is None:
            if not is_shallow(raw):
                raise ValueError(f"it must have at most {MAX_DEPTH} nested levels")
            return json_codec.from_wire({**raw, "data": raw}, UnknownAdvisory)
        return json_codec.from_wire(raw, kind)
    except (ValueError, OverflowError, RecursionError) as error:
        raise JetStreamError(f"malformed advisory: {error}") from error


# --- listening -----------------------------------------------------------------------------------


class AdvisoryListener(
    AbstractAsyncContextManager[EventChannel[Advisory]],
    NeedsAsyncWith,
    metaclass=NoPublicConstructor,
    use="stream.advisories() or consumer.advisories()",
):
    """Listens to advisories; made by :meth:`Stream.advisories` and :meth:`Consumer.advisories`.

    Use it with ``async with``, which gives a channel of them. The task that entered the block must
    leave it. Receiving from the channel ends with:

    - :exc:`trio.EndOfChannel`, which ends an ``async for``, when the connection is drained;
    - :exc:`PermissionsViolationError` if the user is not allowed to subscribe;
    - :exc:`ConnectionLostError` if the connection was lost for good;
    - :exc:`trio.ClosedResourceError` when the block was left, or the connection was closed.
    """

    def __init__(
        self,
        nc: BaseConnection,
        source: str,
        stream: str,
        consumer: str | None,
        subscriptions: Sequence[Subscription],
        buffer: int,
        use: str,
    ) -> None:
        self._async_with = use
        self._source = source
        self._stream = stream
        self._consumer = consumer
        self._subscriptions = subscriptions
        self._hub: EventHub[Advisory] = EventHub(nc._check_run, use)
        self._channel = self._hub.listen(buffer)
        self._open = 0
        self._entered = False
        self._manager = open_nursery(self._close)
        self._nursery: trio.Nursery | None = None
        self._has_warned = False

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> EventChannel[Advisory]:
        """Subscribe, and return the channel. If cancelled, it has not subscribed.

        :raises trio.ClosedResourceError: if the connection is closed or draining.
        :raises ConnectionLostError: if the connection was lost for good.
        """
        if self._entered:
            raise RuntimeError("it can be entered only once; call advisories() again")
        self._entered = True
        self._nursery = await self._manager.__aenter__()
        try:
            for sub in self._subscriptions:
                await sub.__aenter__()
        except BaseException as error:
            await self._manager.__aexit__(type(error), error, error.__traceback__)
            raise
        self._open = len(self._subscriptions)
        for sub in self._subscriptions:
            self._nursery.start_soon(self._forward, sub)
        return self._channel

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._manager.__aexit__(exc_type, exc, traceback)
        if exc is None:
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _close(self, exc: BaseException | None) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for sub in self._subscriptions:
                await sub.aclose()
            await self._channel.aclose()

    @trio.lowlevel.enable_ki_protection
    async def _forward(self, sub: Subscription) -> None:
        try:
            async for msg in sub:
                self._handle(msg)
        except Exception as error:  # raised where the user receives
            self._hub.close(error)
        self._open -= 1
        if not self._open:
            self._hub.close()

    def _handle(self, msg: Msg) -> None:
        try:
            advisory = decode_advisory(msg.data)
        except JetStreamError as error:
            self._skip(msg, str(error))
            return
        consumer = cast("str", getattr(advisory, "consumer", ""))
        if advisory.stream not in ("", self._stream) or (
            self._consumer is not None and consumer not in ("", self._consumer)
        ):
            self._skip(msg, "it names another stream or consumer")
        else:
            self._hub.emit(advisory)

    def _skip(self, msg: Msg, reason: str) -> None:
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        _logger.log(
            level,
            "%s: ignored an advisory on %s: %s",
            self._source,
            printable(msg.subject, MAX_SHOWN),
            printable(reason, MAX_SHOWN),
        )

    def __repr__(self) -> str:
        return f"<AdvisoryListener of {self._source}>"


def listen_to_advisories(
    api: API,
    kinds: Sequence[type[Advisory]],
    *,
    stream: str,
    consumer: str | None,
    queue: str | None,
    buffer: int,
) -> AdvisoryListener:
    """Listen to the advisories of a stream and its consumers, or of one consumer."""
    top: type[Advisory] = Advisory if consumer is None else ConsumerAdvisory
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Advisory)):
            raise TypeError(f"kinds must be subclasses of Advisory, not {kind!r:.80}")
        if not kind.SUBJECTS or not issubclass(kind, top):
            raise ConfigurationError(
                f"kinds must be {top.__name__} or subclasses of it that have subjects, not "
                f"{kind.__name__}"
            )
    names = dict.fromkeys(name for kind in kinds or (top,) for name in kind.SUBJECTS)
    subscriptions: list[Subscription] = []
    for name in names:
        area = name.partition(".")[0]
        if f"{area}.*" in names and name != f"{area}.*":
            continue  # The wildcard covers it.
        subject = f"{api.event_prefix}.ADVISORY.{name}.{stream}"
        if area == "CONSUMER":
            subject += f".{consumer or '*'}"
        subscriptions.append(api.nc.subscribe(subject, queue=queue))
    check_count("buffer", buffer, 1)
    if consumer is None:
        source, use = f"stream {stream!r}", "stream.advisories(...) as advisories"
    else:
        source = f"consumer {consumer!r} of stream {stream!r}"
        use = "consumer.advisories(...) as advisories"
    return construct(AdvisoryListener, api.nc, source, stream, consumer, subscriptions, buffer, use)
