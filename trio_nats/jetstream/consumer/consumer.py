"""Pull and push consumers (ADR-37).

:meth:`Consumer.consume` returns a channel (:mod:`.message_channel`) whose messages come from
:mod:`.pull` or :mod:`.push`. :meth:`Consumer.next` and :meth:`Consumer.fetch` make single pull
requests (:mod:`.fetch`).
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Mapping
from datetime import datetime

import msgspec

from ..._constructors import NoPublicConstructor, construct
from ...errors import NatsError, RequestTimeoutError, timed_out
from ...options import check_count, check_flag
from .. import json_codec
from ..advisories import Advisory, AdvisoryListener, listen_to_advisories
from ..api import API
from ..errors import (
    ConsumerNameInUseError,
    ErrorCode,
    JetStreamAPIError,
    described,
)
from ..features import api_level_error
from ..json_codec import Answer, Seconds, time_to_wire
from ..stream_config import Placement, StepDownRequest
from .config import AckPolicy, ConsumerConfig, check_consumer, features_of
from .fetch import Fetch
from .info import ConsumerInfo
from .message import AckContext, JetStreamMsg
from .message_channel import ConsumerMessages, Messages
from .message_source import MessageSource
from .options import (
    Pin,
    PullOptions,
    check_group,
    check_heartbeat,
    check_pull_options,
    check_push_consumer,
    consume_options,
)
from .pull import PullSubscription
from .pull_flow_control import LARGEST_BATCH
from .push import PushSubscription

__all__ = [
    "Consumer",
    "PauseState",
    "delete_consumer",
    "new_name",
    "pause_consumer",
    "put_consumer",
    "unpin_consumer",
]


_logger = logging.getLogger("trio_nats.jetstream")


class _CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    stream_name: str
    config: ConsumerConfig
    action: str = ""


SERVER_DEFAULTS: Mapping[str, float] = {
    "ack_wait": 30.0,
    "inactive_threshold": 5.0,
    "max_ack_pending": 1000,
    "max_waiting": 512,
    "priority_timeout": 120.0,
}
"""The values that servers fill in for fields that are not set."""
FILLED_IN_LATE = ("inactive_threshold", "priority_timeout")
"""Fields that servers do not fill in before they compare the configurations of two consumers."""


async def put_consumer(api: API, stream: str, action: str, config: ConsumerConfig) -> Consumer:
    """Create or update a consumer.

    :param action: ``"create"``, ``"update"``, or empty for either.
    """
    check_consumer(config)
    if not (config.name or config.durable_name):
        config = msgspec.structs.replace(config, name=new_name())
    try:
        info = await _put(api, stream, action, config)
    except ConsumerNameInUseError as error:
        present = await _present_config(api, stream, config)
        if (same := _filled_in(config, present)) is None:
            raise described(error, _describe_differences(stream, config, present)) from None
        try:
            info = await _put(api, stream, action, same)
        except ConsumerNameInUseError:
            raise described(error, _describe_differences(stream, config, present)) from None
    return construct(Consumer, api, stream, info.name, info)


async def _put(api: API, stream: str, action: str, config: ConsumerConfig) -> ConsumerInfo:
    suffix = f"CONSUMER.CREATE.{stream}.{config.name or config.durable_name}"
    # With the filter in the subject, permissions can restrict it.
    if config.filter_subject:
        suffix = f"{suffix}.{config.filter_subject}"
    request = _CreateRequest(stream_name=stream, config=config, action=action)
    features = features_of(config)
    try:
        info = await api.request(suffix, request, ConsumerInfo, features=features)
    except JetStreamAPIError as error:
        # Servers that do not know a value reject it as invalid JSON, before they check the level.
        if features and error.err_code == ErrorCode.INVALID_JSON:
            raise api_level_error(features, detail=f"it answered {error.description!r}") from None
        raise
    if missing := [feature for feature in features if feature not in features_of(info.config)]:
        raise api_level_error(missing, detail=f"consumer {info.name!r} exists now without it")
    return info


async def _present_config(api: API, stream: str, config: ConsumerConfig) -> ConsumerConfig | None:
    """Return the configuration of the consumer that has the name, or ``None`` if it is unknown."""
    suffix = f"CONSUMER.INFO.{stream}.{config.name or config.durable_name}"
    try:
        return (await api.request(suffix, None, ConsumerInfo)).config
    except NatsError:
        return None


def _filled_in(config: ConsumerConfig, present: ConsumerConfig | None) -> ConsumerConfig | None:
    """Return ``config`` with the defaults that the server filled in late; ``None`` if none."""
    changes = {
        name: SERVER_DEFAULTS[name]
        for name in FILLED_IN_LATE
        if not getattr(config, name) and getattr(present, name, None) == SERVER_DEFAULTS[name]
    }
    return msgspec.structs.replace(config, **changes) if changes else None


def _describe_differences(
    stream: str, config: ConsumerConfig, present: ConsumerConfig | None
) -> str:
    name = config.name or config.durable_name
    text = f"consumer {name!r} of stream {stream!r} exists already, with another configuration"
    if present and (found := json_codec.differences(config, present, SERVER_DEFAULTS)):
        text += f": {found}"
    return f"{text}. Update it, or use another name"


def new_name() -> str:
    """Return a unique name for a consumer."""
    return secrets.token_hex(11)


DEFAULT_BATCH = 100
LONG = 10.0
HEARTBEAT = 5.0


class PauseState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a consumer is paused."""

    paused: bool = False
    """Whether it is paused."""
    pause_until: datetime | None = None
    """When it resumes."""
    pause_remaining: Seconds = 0.0
    """Seconds until then."""


class _PauseRequest(msgspec.Struct, frozen=True, kw_only=True):
    pause_until: datetime | None = None


class _UnpinRequest(msgspec.Struct, frozen=True, kw_only=True):
    group: str


class _ResetRequest(msgspec.Struct, frozen=True, kw_only=True):
    seq: int


class _ResetAnswer(ConsumerInfo, frozen=True, kw_only=True):
    reset_seq: int = 0


class Consumer(metaclass=NoPublicConstructor, use="stream.consumer() or stream.create_consumer()"):
    """A pull or push consumer, as returned by :meth:`Stream.create_consumer` and the like.

    :meth:`next` receives one message, :meth:`fetch` several, and :meth:`consume` all as they
    arrive. A push consumer has :meth:`consume` only. Several tasks and processes may use a consumer
    at the same time; each message goes to one of them.

    ``group``, ``min_pending``, ``min_ack_pending`` and ``priority`` are for consumers with priority
    groups (ADR-42), which require ``group``.
    """

    def __init__(self, api: API, stream: str, name: str, info: ConsumerInfo | None) -> None:
        self._api = api
        self._stream = stream
        self._name = name
        self._info = info
        self._pins: dict[str, Pin] = {}
        self._kept: deque[JetStreamMsg] = deque()
        self._has_logged_prefetch = False
        config = self._config
        self._ack_context = AckContext(api.nc, stream, name, acks=True)
        if config is not None:
            self._note_config(config)

    @property
    def name(self) -> str:
        """The name of the consumer."""
        return self._name

    @property
    def stream_name(self) -> str:
        """The name of the stream."""
        return self._stream

    @property
    def info(self) -> ConsumerInfo | None:
        """Configuration and state when they were last requested; ``None`` if they never were."""
        return self._info

    @property
    def _config(self) -> ConsumerConfig | None:
        return None if self._info is None else self._info.config

    def __repr__(self) -> str:
        return f"<Consumer {self._name!r} of stream {self._stream!r}>"

    # --- the consumer itself ---------------------------------------------------------------------

    async def refresh(self) -> ConsumerInfo:
        """Get the present configuration and state, and update :attr:`info`.

        If cancelled, :attr:`info` does not change.

        :returns: the new :attr:`info`.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        """
        suffix = f"CONSUMER.INFO.{self._stream}.{self._name}"
        self._info = await self._api.request(suffix, None, ConsumerInfo)
        self._note_config(self._info.config)
        return self._info

    def _note_config(self, config: ConsumerConfig) -> None:
        self._ack_context.acks = config.ack_policy != AckPolicy.NONE
        self._ack_context.max_deliver = config.max_deliver

    async def delete(self) -> None:
        """Delete the consumer.

        If cancelled, the consumer may have been deleted.

        :raises ConsumerNotFoundError: if the consumer does not exist.
        """
        await delete_consumer(self._api, self._stream, self._name)

    async def pause(self, until: datetime) -> PauseState:
        """Pause the consumer: it delivers nothing until a point in time (server 2.11 or later).

        If cancelled, the consumer may have been paused.

        :param until: the time, with a time zone.
        :returns: whether it is paused, and until when.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises ConfigurationError: if ``until`` has no time zone.
        :raises APILevelError: if the server is too old.
        """
        return await pause_consumer(self._api, self._stream, self._name, until)

    async def resume(self) -> PauseState:
        """Resume a paused consumer (server 2.11 or later).

        If cancelled, the consumer may have been resumed.

        :returns: whether it is paused, and until when.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises APILevelError: if the server is too old.
        """
        return await pause_consumer(self._api, self._stream, self._name, None)

    async def unpin(self, group: str) -> None:
        """Unpin the pinned client of a priority group, so that another one is pinned (ADR-42).

        If cancelled, the client may have been unpinned.

        :param group: the name of the priority group.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises ConfigurationError: if ``group`` is empty.
        :raises APILevelError: if the server is older than 2.11.
        """
        await unpin_consumer(self._api, self._stream, self._name, group)

    async def reset(self, seq: int | None = None) -> int:
        """Deliver messages of the stream again, or skip some (ADR-60; server 2.14 or later).

        The consumer starts over: deliveries are counted from 1, and messages that were delivered
        and not acknowledged are delivered again. If cancelled, the consumer may have been reset.

        :param seq: the sequence number in the stream to continue with. Needs
            ``DeliverPolicy.ALL``, or ``BY_START_SEQUENCE`` or ``BY_START_TIME`` and a message that
            is not before that start. Default: the first message that is not acknowledged.
        :returns: the sequence number that delivery continues with.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises ConfigurationError: if ``seq`` is less than 1.
        :raises JetStreamAPIError: if the consumer cannot be reset to ``seq``.
        :raises APILevelError: if the server is too old.
        """
        request = None if seq is None else _ResetRequest(seq=check_count("seq", seq, 1))
        await self.refresh()  # Nobody answers a reset of a consumer that does not exist.
        suffix = f"CONSUMER.RESET.{self._stream}.{self._name}"
        answer = await self._api.request(suffix, request, _ResetAnswer, features=["reset()"])
        fields = {name: getattr(answer, name) for name in ConsumerInfo.__struct_fields__}
        self._info = ConsumerInfo(**fields)
        self._kept.clear()  # The server delivers them again.
        return answer.reset_seq

    async def step_down(self, *, placement: Placement | None = None) -> None:
        """Have another server of a cluster become the leader of the consumer.

        If cancelled, it may have been done.

        :param placement: which server, by ``preferred`` or by ``tags`` (server 2.11 or later).
            Default: any.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises JetStreamAPIError: if the server is not in a cluster, or there is no such server.
        :raises APILevelError: if the server is too old for ``placement``.
        """
        suffix = f"CONSUMER.LEADER.STEPDOWN.{self._stream}.{self._name}"
        features = () if placement is None else ("step_down(placement=)",)
        await self._api.request(
            suffix, StepDownRequest(placement=placement), Answer, features=features
        )

    def advisories(
        self,
        *kinds: type[Advisory],
        queue: str | None = None,
        buffer: int = 256,
    ) -> AdvisoryListener:
        """Listen to advisories of the consumer; see :meth:`Stream.advisories`.

        .. code-block:: python

            async with consumer.advisories(MaxDeliverAdvisory) as advisories:
                async for advisory in advisories:
                    ...

        :param kinds: listen to these advisories of consumers only, such as ``MaxDeliverAdvisory``.
            Default: listen to all.
        :param queue: a queue group; each advisory goes to one of its listeners. Default: none.
        :param buffer: number of advisories that may wait to be received. Once it is reached, the
            oldest is dropped for each new one, and counted in ``dropped``. Default: 256.
        :returns: an asynchronous context manager; see :class:`AdvisoryListener`.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if ``queue`` is not allowed.
        """
        return listen_to_advisories(
            self._api,
            kinds,
            stream=self._stream,
            consumer=self._name,
            queue=queue,
            buffer=buffer,
        )

    # --- one message, or several -----------------------------------------------------------------

    async def next(
        self,
        *,
        timeout: float | None = None,
        heartbeat: float | None = None,
        group: str | None = None,
        min_pending: int | None = None,
        min_ack_pending: int | None = None,
        priority: int | None = None,
    ) -> JetStreamMsg:
        """Wait for the next message.

        If cancelled, a message that is on its way goes where those of :meth:`fetch` go, and
        cancelling may take up to two seconds to wait for it. Also raises the exceptions of
        :meth:`Connection.publish`.

        :param timeout: seconds to wait, and up to one more if the server is silent. Default: the
            timeout of :meth:`Connection.jetstream`.
        :param heartbeat: seconds after which the server confirms that it is still there. Default: 5
            for a timeout of 10 seconds or more, otherwise none.
        :param group: the priority group.
        :param min_pending: receive only if at least this number of messages is pending.
        :param min_ack_pending: receive only if at least this number of messages is unacknowledged.
        :param priority: from 0 to 9; lower numbers are served first.
        :returns: the message.
        :raises ConfigurationError: if an argument is invalid, or this is a push consumer.
        :raises RequestTimeoutError: if no message arrived within ``timeout``.
        :raises ConsumerDeletedError: if the consumer was deleted.
        :raises PullError: if the server refuses for another reason.
        """
        pull_options = self._pull_options(group, min_pending, min_ack_pending, priority)
        seconds = self._api.seconds(timeout)
        came, told = await self._fetch(
            pull_options,
            batch=1,
            max_bytes=0,
            timeout=seconds,
            heartbeat=check_heartbeat(heartbeat, seconds, _heartbeat),
            no_wait=False,
        )
        if not came:
            raise self._no_message(seconds, told=told)
        return came[0]

    async def fetch(
        self,
        max_messages: int | None = None,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        no_wait: bool = False,
        heartbeat: float | None = None,
        group: str | None = None,
        min_pending: int | None = None,
        min_ack_pending: int | None = None,
        priority: int | None = None,
    ) -> list[JetStreamMsg]:
        """Receive several messages: wait until all have arrived, or until time is up.

        The list is empty if the server has no messages. To process messages while others are still
        to come, use :meth:`consume` with ``stop_after``. An error is raised only if no message has
        arrived; otherwise the next call raises it. If cancelled, messages that have arrived are
        returned to the server and delivered again at once. Messages that the server will not
        deliver again (``AckPolicy.NONE``, or ``max_deliver`` reached) are kept for the next call on
        the same :class:`Consumer`. Cancelling may take up to two seconds, to wait for messages on
        their way.

        :param max_messages: maximum number of messages. Default: 100, or any number with
            ``max_bytes``.
        :param max_bytes: maximum size of all messages in bytes. Default: no limit.
        :param timeout: seconds to wait, and up to one more if the server is silent. Default: the
            timeout of :meth:`Connection.jetstream`.
        :param no_wait: return what is available at the moment. Default: false.
        :param heartbeat: seconds after which the server confirms that it is still there. Default: 5
            for a timeout of 10 seconds or more, otherwise none.
        :param group: the priority group.
        :param min_pending: receive only if at least this number of messages is pending.
        :param min_ack_pending: receive only if at least this number of messages is unacknowledged.
        :param priority: from 0 to 9; lower numbers are served first.
        :returns: the messages.
        :raises ConfigurationError: if an argument is invalid, or this is a push consumer.
        :raises RequestTimeoutError: if there is no connection to request them over.
        :raises ConsumerDeletedError: if the consumer was deleted.
        :raises PullError: if the server refuses for another reason.
        """
        pull_options = self._pull_options(group, min_pending, min_ack_pending, priority)
        check_flag("no_wait", no_wait)
        if max_messages is not None:
            check_count("max_messages", max_messages, 1)
        if max_bytes is not None:
            check_count("max_bytes", max_bytes, 1)
        batch = max_messages or (DEFAULT_BATCH if max_bytes is None else LARGEST_BATCH)
        if max_messages is None and self._config is not None and self._config.max_batch:
            batch = min(batch, self._config.max_batch)
        seconds = self._api.seconds(timeout)
        came, told = await self._fetch(
            pull_options,
            batch=batch,
            max_bytes=max_bytes or 0,
            timeout=seconds,
            heartbeat=check_heartbeat(heartbeat, seconds, _heartbeat),
            no_wait=no_wait,
        )
        if not came and not told and self._api.nc.disconnected_for is not None:
            raise self._no_message(seconds, told=told)
        return came

    def _no_message(self, seconds: float, *, told: bool) -> RequestTimeoutError:
        disconnected_for = self._api.nc.disconnected_for
        silent = not told and disconnected_for is None
        hint = "; the server sent nothing, so check the permissions of this user" if silent else ""
        return timed_out(
            f"consumer {self._name!r} had no message within {seconds:g} s{hint}", disconnected_for
        )

    async def _fetch(
        self,
        pull_options: PullOptions,
        *,
        batch: int,
        max_bytes: int,
        timeout: float,
        heartbeat: float,
        no_wait: bool,
    ) -> tuple[list[JetStreamMsg], bool]:
        """Return the messages that arrived, and whether the server sent a status."""
        fetch = Fetch(
            self._api,
            self._api.subject(f"CONSUMER.MSG.NEXT.{self._stream}.{self._name}"),
            self._ack_context,
            self._kept,
            pull_options,
            batch=batch,
            max_bytes=max_bytes,
            timeout=timeout,
            heartbeat=heartbeat,
            no_wait=no_wait,
        )
        came = await fetch.run()
        fetch.check_came()
        return came, fetch.told

    # --- all messages ----------------------------------------------------------------------------

    def consume(
        self,
        *,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        threshold: int | None = None,
        stop_after: int | None = None,
        expires: float | None = None,
        heartbeat: float | None = None,
        group: str | None = None,
        min_pending: int | None = None,
        min_ack_pending: int | None = None,
        priority: int | None = None,
        prefetch: bool | None = None,
    ) -> Messages:
        """Receive all messages as they arrive.

        .. code-block:: python

            async with consumer.consume() as messages:
                async for msg in messages:
                    ...
                    await msg.ack()

        Messages requested in advance must be acknowledged within ``ack_wait`` too, so pass
        ``prefetch=False`` for long work. A slow receiver delays further requests, and nothing else.

        A push consumer, one with a ``deliver_subject``, takes none of the arguments. Receiving
        keeps its flow control going; silence for three times its ``idle_heartbeat`` is logged.
        Without flow control it sends as fast as it can, so that the connection's limits for pending
        messages apply; dropped messages are delivered again after ``ack_wait``. A consumer from
        :meth:`Stream.bind_consumer` is assumed to be a pull consumer.

        :param max_messages: maximum number of messages to request in advance. Default: 500. Each
            may have up to ``max_payload`` bytes.
        :param max_bytes: the same in bytes, instead, of subjects, headers and payloads. Use it to
            bound memory if messages are large.
        :param threshold: request more when this number of messages, or bytes, is left of that.
            Default: half of it.
        :param stop_after: end after this number of messages. Default: no end.
        :param expires: seconds that the server keeps a request. Default: 30.
        :param heartbeat: seconds of silence after which the server sends a heartbeat, at most half
            of ``expires``, which is the default. After twice as long without any, the request is
            repeated.
        :param group: the priority group.
        :param min_pending: receive only if at least this number of messages is pending.
        :param min_ack_pending: receive only if at least this number of messages is unacknowledged.
        :param priority: from 0 to 9; lower numbers are served first.
        :param prefetch: whether to request messages in advance. Otherwise a message is requested
            when a task waits for it, which costs a round trip for each message; ``max_bytes`` and
            ``threshold`` do not apply. If receiving is then cancelled, the request stays open for
            up to ``expires``, and its message waits for the next call. Default: true, but false
            for a consumer with a ``max_deliver`` of 1 or 2 unless ``max_messages``, ``max_bytes``
            or ``threshold`` is given, because a message that was requested in advance and then
            returned has used up a delivery.
        :returns: a channel of the messages; see :class:`Messages`.
        :raises ConfigurationError: if the arguments contradict each other or the consumer.
        """
        config = self._config
        if config is not None and config.deliver_subject:
            check_push_consumer(
                config,
                max_messages=max_messages,
                max_bytes=max_bytes,
                threshold=threshold,
                stop_after=stop_after,
                expires=expires,
                heartbeat=heartbeat,
                group=group,
                min_pending=min_pending,
                min_ack_pending=min_ack_pending,
                priority=priority,
                prefetch=prefetch,
            )
            source: MessageSource = PushSubscription(
                self._api.nc, self._name, config, self._ack_context, self._kept, self.refresh
            )
        else:
            options = consume_options(
                config,
                self._pull_options(group, min_pending, min_ack_pending, priority),
                max_messages=max_messages,
                max_bytes=max_bytes,
                threshold=threshold,
                stop_after=stop_after,
                expires=expires,
                heartbeat=heartbeat,
                prefetch=prefetch,
            )
            if prefetch is None and not options.prefetch and not self._has_logged_prefetch:
                self._has_logged_prefetch = True
                _logger.info(
                    "consumer %r: requesting no messages in advance, because of max_deliver=%d; "
                    "pass prefetch=True to change this",
                    self._name,
                    self._ack_context.max_deliver,
                )
            source = PullSubscription(
                self._api,
                self._stream,
                self._name,
                self._ack_context,
                options,
                self._kept,
                is_there=self.refresh,
            )
        return construct(ConsumerMessages, repr(self), source, self._api.nc._check_run)

    def _pull_options(
        self,
        group: str | None,
        min_pending: int | None,
        min_ack_pending: int | None,
        priority: int | None,
    ) -> PullOptions:
        return check_pull_options(
            self._config, self._pin_of, group, min_pending, min_ack_pending, priority
        )

    def _pin_of(self, group: str) -> Pin:
        return self._pins.setdefault(group, Pin())


def _heartbeat(seconds: float) -> float:
    return HEARTBEAT if seconds >= LONG else 0.0


async def delete_consumer(api: API, stream: str, name: str) -> None:
    """Delete a consumer."""
    await api.request(f"CONSUMER.DELETE.{stream}.{name}", None, Answer)


async def pause_consumer(api: API, stream: str, name: str, until: datetime | None) -> PauseState:
    """Pause or resume a consumer."""
    if until is not None:
        if not isinstance(until, datetime):
            raise TypeError(f"until must be a datetime, not {type(until).__name__}")
        time_to_wire("until", until)  # raises if it has no time zone
    suffix = f"CONSUMER.PAUSE.{stream}.{name}"
    return await api.request(
        suffix, _PauseRequest(pause_until=until), PauseState, features=["pause()"]
    )


async def unpin_consumer(api: API, stream: str, name: str, group: str) -> None:
    """Unpin the pinned client of a priority group."""
    check_group(group)
    suffix = f"CONSUMER.UNPIN.{stream}.{name}"
    await api.request(suffix, _UnpinRequest(group=group), Answer, features=["unpin()"])
