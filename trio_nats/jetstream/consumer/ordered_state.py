"""The position of an ordered consumer, and its consumers on the server (ADR-17)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
import trio

from ...errors import NatsError, NoRespondersError, RequestTimeoutError
from ...events import ConnectionState
from ..api import API, OrderedMode
from ..errors import (
    ConsumerDeletedError,
    ConsumerNotFoundError,
    ErrorCode,
    JetStreamAPIError,
    PullError,
    StreamNotFoundError,
)
from ..info import StreamInfo
from .config import AckPolicy, ConsumerConfig, DeliverPolicy
from .consumer import delete_consumer, put_consumer
from .info import ConsumerInfo
from .message import JetStreamMsg
from .pull_status import TOO_LARGE

__all__ = ["OrderedState", "is_another_stream", "is_temporary", "pause"]

_logger = logging.getLogger("trio_nats.jetstream")

FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
UNAVAILABLE = 503
GONE = (404, 409, 503)
UNIQUE = 6
"""Bytes of the random part of the names of consumers."""
CLOCK_SKEW = timedelta(seconds=10)
"""The clocks of two servers of a cluster are expected to differ by less."""
CHECK_TIMEOUT = 2.0
"""Seconds to wait for the state of the stream."""
UNDO_TIMEOUT = 1.0
"""Seconds to wait until a consumer is deleted whose creation was cancelled."""
UNDO_WAIT = 0.05
MAX_BEHIND = 30.0
"""Seconds after which a leader that lacks messages must have heard of its successor. Servers step
down after ten seconds without the others."""


class OrderedState:
    """The position in the stream, and the present consumer on the server, if any."""

    def __init__(
        self,
        api: API,
        stream: str,
        prefix: str,
        config: ConsumerConfig,
        created: datetime | None = None,
        *,
        restart: bool = False,
    ) -> None:
        self.api = api
        self.stream = stream
        self.prefix = prefix
        self.name: str | None = None
        """The name of the present consumer, or ``None``."""
        self.info: ConsumerInfo | None = None
        """Its information from when it was created."""
        self.next_seq: int | None = None
        """Where the next consumer begins in the stream; ``None``: as configured."""
        self.mode: OrderedMode = api.ordered_mode(stream)
        self.replacements: int = 0
        """How often it restarted because the stream was replaced."""
        self.replace_reason: str = ""
        """How the last replacement was noticed."""
        self._restart = restart
        self._config = config
        # Two programs may use the same prefix, or the consumer of an earlier one may be left. The
        # position of such a consumer means nothing here.
        self._unique = secrets.token_hex(UNIQUE)
        self._serial = 0
        self._since: datetime | None = None  # when the first consumer was created
        self._supposed = created  # when the stream was created, as asked earlier
        self._created: datetime | None = None  # the same, asked since the first consumer exists
        self._reached = 0  # a sequence number that the stream has reached
        self._behind_since: float | None = None  # when the stream was first seen not to reach it
        self._consumer_seq = 0  # number of deliveries received from the present consumer
        self._busy = False

    def __repr__(self) -> str:
        return f"<OrderedConsumer {self.prefix!r} of stream {self.stream!r}>"

    @property
    def next_name(self) -> str:
        """The name of the next consumer."""
        return f"{self.prefix}_{self._unique}_{self._serial + 1}"

    async def ensure(self, push: ConsumerConfig | None = None) -> str:
        """Return the name of the current consumer. Creates a consumer first if necessary.

        With ``push``, create a push consumer that delivers as that configuration tells. If
        cancelled, a consumer that may have been created is deleted.

        :raises StreamNotFoundError: if the stream does not exist. Also if it was replaced, unless
            ``restart`` was given.
        """
        if self.name is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self.api.nc.state is not ConnectionState.OPEN:
                # A request that waits for the connection would be sent even if this is cancelled,
                # and the server may handle the one that deletes the consumer first.
                await self.api.nc.flush(timeout=self.api.timeout)
            info = None
            while info is None:  # Each has another name, by which its messages can be told apart.
                name = self.next_name
                self._serial += 1
                info = await self._create_checked(name, push)
            self.name, self.info, self._consumer_seq = info.name, info, 0
            if self._since is None:
                self._since = info.created
            policy = self._config.deliver_policy
            if self.next_seq is None and not (
                policy == DeliverPolicy.LAST_PER_SUBJECT and info.num_pending
            ):
                # Set it before the first message, so that a new consumer never begins later.
                self.next_seq = info.delivered.stream_seq + 1
                if policy != DeliverPolicy.BY_START_SEQUENCE:
                    self._reached = info.delivered.stream_seq
        return self.name

    async def _create_checked(self, name: str, push: ConsumerConfig | None) -> ConsumerInfo | None:
        """Create a consumer. Return ``None`` if the stream was replaced; the position is reset."""
        config = self._next_config(name)
        if push is not None:
            config = msgspec.structs.replace(
                config,
                deliver_subject=push.deliver_subject,
                flow_control=push.flow_control,
                idle_heartbeat=push.idle_heartbeat,
            )
        created = False
        try:
            info = await self._create(config)
            created = True
            stream = None if self._since is None else await self._stream_info()
            reason = "" if stream is None else self._replaced_reason(stream)
            if stream is None or not reason:
                return info
            if not self._restart:
                raise StreamNotFoundError(
                    404,
                    ErrorCode.STREAM_NOT_FOUND,
                    f"stream {self.stream!r} {reason}; make a new ordered consumer",
                )
        except BaseException as error:
            if created or not isinstance(error, NatsError):
                await self._undo(name)
            elif isinstance(error, RequestTimeoutError):
                self._delete_nowait(name)
            raise
        await self._undo(name)
        self._reset_position(stream, reason)
        return None

    def _reset_position(self, stream: StreamInfo, reason: str) -> None:
        """Begin with the first message of a stream that was replaced."""
        _logger.info("%s: the stream %s; beginning again", repr(self), reason)
        self.replacements += 1
        self.replace_reason = reason
        self.next_seq = self._since = self._created = None
        self._supposed, self._reached, self._behind_since = stream.created, 0, None
        if self._config.deliver_policy not in (
            DeliverPolicy.LAST_PER_SUBJECT,
            DeliverPolicy.BY_START_TIME,
        ):
            # All messages are new, and the old sequence numbers mean nothing in this stream.
            self._config = msgspec.structs.replace(
                self._config, deliver_policy=DeliverPolicy.ALL, opt_start_seq=0
            )

    def is_temporary(self, error: BaseException) -> bool:
        """Whether to try again after an error. With ``restart``, wait for a missing stream."""
        has_begun = self._since is not None or self.replacements > 0
        waits = self._restart and has_begun and isinstance(error, StreamNotFoundError)
        return waits or is_temporary(error)

    async def _create(self, config: ConsumerConfig) -> ConsumerInfo:
        try:
            consumer = await put_consumer(self.api, self.stream, "create", config)
        except JetStreamAPIError as error:
            if error.err_code != ErrorCode.CONSUMER_INACTIVE_THRESHOLD_EXCESS:
                raise
            # The stream's consumer_limits are lower, so take what they allow.
            self._config = msgspec.structs.replace(self._config, inactive_threshold=None)
            config = msgspec.structs.replace(config, inactive_threshold=None)
            consumer = await put_consumer(self.api, self.stream, "create", config)
        assert consumer.info is not None
        return consumer.info

    async def _stream_info(self) -> StreamInfo | None:
        """Ask for the stream; return ``None`` if the server does not answer.

        :raises StreamNotFoundError: if it does not exist.
        """
        try:
            return await self.api.request(
                f"STREAM.INFO.{self.stream}", None, StreamInfo, min(self.api.timeout, CHECK_TIMEOUT)
            )
        except StreamNotFoundError:
            raise
        except NatsError as error:  # the user may lack the permission, for example
            _logger.debug("%s could not be checked: %s", repr(self), str(error))
            return None

    def _replaced_reason(self, info: StreamInfo) -> str:
        """Return why the stream is not the one of the earlier consumers; empty if it is.

        The position is meaningless in another stream of that name: its messages have lower numbers,
        so a consumer would wait, perhaps for ever, for the number to come.

        :raises JetStreamAPIError: if its leader may be out of date; ask again later.
        """
        if info.created is not None and is_another_stream(
            info.created, self._created, self._supposed, self._since
        ):
            return f"was created again at {info.created.isoformat()}, after this consumer began"
        if info.state.last_seq < self._reached:
            reason = f"ends at {info.state.last_seq}, but message {self._reached} was already read"
            if (
                info.cluster is not None
                and info.cluster.replicas
                and not self._is_behind_for_long()
            ):
                raise JetStreamAPIError(
                    UNAVAILABLE,
                    ErrorCode.CLUSTER_NOT_AVAILABLE,
                    f"stream {self.stream!r} {reason}: its leader is behind, or it lost messages",
                )
            return f"{reason}: it has lost messages"
        self._created, self._behind_since = info.created, None
        return ""

    def _is_behind_for_long(self) -> bool:
        """Whether the stream has lacked messages for longer than a leader may be out of date.

        A leader that was frozen or cut off from the others answers with what it has, until it hears
        of its successor.
        """
        now = trio.current_time()
        if self._behind_since is None:
            self._behind_since = now
        return now - self._behind_since > MAX_BEHIND

    async def _undo(self, name: str) -> None:
        """Delete a consumer that was or may have been created. If cancelled, it goes on."""
        if self.api.nc.state is not ConnectionState.OPEN:
            self._delete_nowait(name)
            return
        # Servers do not handle requests in turn: this one may overtake the one that creates it.
        with trio.move_on_after(UNDO_TIMEOUT, shield=True):
            while True:
                try:
                    await delete_consumer(self.api, self.stream, name)
                except ConsumerNotFoundError:
                    await trio.sleep(UNDO_WAIT)
                except (NatsError, trio.ClosedResourceError) as failure:
                    _logger.debug("consumer %r could not be deleted: %s", name, str(failure))
                    return
                else:
                    return

    def _next_config(self, name: str) -> ConsumerConfig:
        config = msgspec.structs.replace(
            self._config,
            name=name,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
        )
        if self.next_seq is not None:
            return msgspec.structs.replace(
                config,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self.next_seq,
                opt_start_time=None,
            )
        unfiltered = not config.filter_subject and not config.filter_subjects
        if config.deliver_policy == DeliverPolicy.LAST_PER_SUBJECT and unfiltered:
            return msgspec.structs.replace(config, filter_subject=">")
        return config

    async def skip_check(self) -> None:
        """Do nothing: a consumer that is lost is replaced without asking for it."""

    def forget(self) -> None:
        """Give up the present consumer: ask the server to delete it, without waiting."""
        name, self.name, self.info = self.name, None, None
        if name is not None:
            self._delete_nowait(name)

    def _delete_nowait(self, name: str) -> None:
        nc = self.api.nc
        try:
            # Without this, the server deletes the consumer after its inactive_threshold.
            nc.publish_nowait(
                self.api.subject(f"CONSUMER.DELETE.{self.stream}.{name}"),
                reply=nc.new_inbox(),
            )
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("consumer %r could not be deleted: %s", name, str(error))

    def follows(self, msg: JetStreamMsg) -> bool | None:
        """Whether a message is the next one; ``None`` if it is from another consumer.

        If it is, the position moves on.
        """
        context = msg._ack_context
        found = None
        if context.consumer == self.name:
            # Decoding all metadata would take several times as long.
            found = context.replies.sequences(msg.raw.raw_reply or b"")
        if found is None and (found := self._decoded_sequences(msg)) is None:
            return None
        stream_seq, consumer_seq = found
        if consumer_seq != self._consumer_seq + 1:
            _logger.info(
                "consumer %r: delivery %d came after %d; continuing from sequence %s",
                self.name,
                consumer_seq,
                self._consumer_seq,
                self.next_seq,
            )
            return False
        self._consumer_seq = consumer_seq
        self.next_seq = stream_seq + 1
        self._reached = stream_seq
        return True

    def _decoded_sequences(self, msg: JetStreamMsg) -> tuple[int, int] | None:
        """Return the sequence numbers in the stream and the consumer.

        ``None`` if the message is from another consumer.
        """
        try:
            metadata = msg.metadata
        except ValueError as error:
            _logger.debug("%s", str(error))
            return None
        if metadata.consumer != self.name:
            return None
        return metadata.stream_seq, metadata.consumer_seq

    @property
    def is_busy(self) -> bool:
        """Whether a task is using it."""
        return self._busy

    @contextmanager
    def use(self) -> Generator[None, None, None]:
        """Let only one task in at a time."""
        if self._busy:
            raise trio.BusyResourceError(
                "another task is using this ordered consumer; make another one for each task"
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def is_another_stream(
    created: datetime, before: datetime | None, supposed: datetime | None, began: datetime | None
) -> bool:
    """Whether a stream is not the one that an ordered consumer began with.

    :param created: when the stream was created.
    :param before: the same, as asked since the first consumer exists.
    :param supposed: the same, as asked earlier, so that it may be out of date.
    :param began: when the first consumer was created.
    """
    if before is not None:
        return created > before
    if began is None:
        return False
    # Another server may have created the consumer, and its clock may be late. A stream with the
    # time that was known before is certainly the same.
    tolerance = CLOCK_SKEW if supposed is None else timedelta()
    return created != supposed and created > began + tolerance


def is_temporary(error: BaseException) -> bool:
    """Whether an error is temporary, so that it is worth trying again."""
    if isinstance(error, (ConsumerDeletedError, NoRespondersError, RequestTimeoutError)):
        return True
    if isinstance(error, PullError):
        return error.code in GONE and not error.description.startswith(TOO_LARGE)
    return isinstance(error, JetStreamAPIError) and error.code == UNAVAILABLE


def pause(waits: int) -> float:
    """Return the seconds to wait before the next try, after a number of earlier waits."""
    return min(FIRST_WAIT * 2.0 ** min(waits, 8), LONGEST_WAIT)  # 2**1024 is no float
