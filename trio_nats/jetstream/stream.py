"""A stream, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Unpack

import msgspec

from .._constructors import NoPublicConstructor, construct
from ..errors import ConfigurationError, NoRespondersError
from ..options import check_count
from .api import API, Page, PageIterator
from .consumer.config import (
    ConsumerConfig,
    ConsumerOptions,
    DeliverPolicy,
    ReplayPolicy,
    check_consumer,
)
from .consumer.consumer import (
    Consumer,
    PauseState,
    delete_consumer,
    new_name,
    pause_consumer,
    put_consumer,
    unpin_consumer,
)
from .consumer.ordered import OrderedConsumer
from .get.direct_get import Batches, direct_get, not_allowed
from .get.stored_message import MsgAnswer, MsgRequest, StoredMsg, from_answer
from .info import ConsumerInfo, StreamInfo
from .json_codec import Answer
from .validation import check_filter, check_filters, check_name, whole_config

__all__ = ["DEFAULT_BATCH", "Stream", "StreamConsumers"]


class _PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    offset: int = 0


class _Infos(Page, frozen=True, kw_only=True):
    consumers: Sequence[ConsumerInfo] = ()


class _Names(Page, frozen=True, kw_only=True):
    consumers: Sequence[str] = ()


class StreamConsumers:
    """The half of :class:`~trio_nats.jetstream.Stream` that deals with consumers."""

    def __init__(self, api: API, name: str) -> None:
        self._api = api
        self._name = name

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self._name

    async def create_consumer(
        self, config: ConsumerConfig | str | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Create a consumer: ``await stream.create_consumer("workers", ack_wait=60)``.

        With ``durable_name`` it exists until it is deleted. A consumer that exists with the same
        configuration is returned. If cancelled, it may have been created.

        :param config: a configuration, or the name of the consumer. Default: a generated name.
        :param options: fields of :class:`ConsumerConfig`; they override those of ``config``.
        :returns: the consumer.
        :raises ConsumerNameInUseError: if it exists with another configuration.
        """
        return await self._put("create", config, options)

    async def update_consumer(
        self, config: ConsumerConfig | str, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Replace the configuration of a consumer: options that are not given get their defaults.

        To change an option, pass ``await stream.update_consumer(consumer.info.config,
        max_ack_pending=10)``. If cancelled, it may have been updated.

        :param config: a configuration, or the name of the consumer.
        :param options: fields of :class:`ConsumerConfig`; they override those of ``config``.
        :returns: the consumer.
        :raises ConsumerNotFoundError: if it does not exist.
        """
        return await self._put("update", config, options)

    async def create_or_update_consumer(
        self, config: ConsumerConfig | str, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Create a consumer, or replace its configuration.

        If cancelled, it may have been created or updated.

        :param config: a configuration, or the name of the consumer.
        :param options: fields of :class:`ConsumerConfig`; they override those of ``config``.
        :returns: the consumer.
        """
        return await self._put("", config, options)

    async def _put(
        self, action: str, config: ConsumerConfig | str | None, options: ConsumerOptions
    ) -> Consumer:
        whole = whole_config(ConsumerConfig, "" if config is None else config, options)
        return await put_consumer(self._api, self._name, action, whole)

    async def consumer(self, name: str) -> Consumer:
        """Get a consumer. If cancelled, nothing changes.

        :param name: its name.
        :raises ConsumerNotFoundError: if it does not exist.
        """
        check_name("consumer", name)
        suffix = f"CONSUMER.INFO.{self._name}.{name}"
        info = await self._api.request(suffix, None, ConsumerInfo)
        return construct(Consumer, self._api, self._name, info.name, info)

    def bind_consumer(self, name: str) -> Consumer:
        """Use a consumer without requesting it, for users with the permission to pull only.

        Checks that depend on its configuration are left to the server.

        :param name: its name.
        :raises ConfigurationError: if the name is not allowed.
        """
        return construct(Consumer, self._api, self._name, check_name("consumer", name), None)

    async def delete_consumer(self, name: str) -> None:
        """Delete a consumer. If cancelled, it may have been deleted.

        :param name: its name.
        :raises ConsumerNotFoundError: if it does not exist.
        """
        await delete_consumer(self._api, self._name, check_name("consumer", name))

    async def pause_consumer(self, name: str, until: datetime) -> PauseState:
        """Pause a consumer; see :meth:`Consumer.pause`. If cancelled, it may be paused.

        :param name: its name.
        :param until: the time until which it delivers nothing, with a time zone.
        """
        return await pause_consumer(self._api, self._name, check_name("consumer", name), until)

    async def resume_consumer(self, name: str) -> PauseState:
        """Resume a consumer; see :meth:`Consumer.resume`. If cancelled, it may be resumed.

        :param name: its name.
        """
        return await pause_consumer(self._api, self._name, check_name("consumer", name), None)

    async def unpin_consumer(self, name: str, group: str) -> None:
        """Unpin a client of a consumer; see :meth:`Consumer.unpin`. If cancelled, it may be done.

        :param name: its name.
        :param group: the priority group.
        """
        await unpin_consumer(self._api, self._name, check_name("consumer", name), group)

    def consumers(self) -> PageIterator[ConsumerInfo]:
        """List the consumers: ``async for info in stream.consumers():``."""
        return self._api.paged(
            f"CONSUMER.LIST.{self._name}",
            lambda offset: _PageRequest(offset=offset),
            _Infos,
            lambda page: page.consumers,
        )

    def consumer_names(self) -> PageIterator[str]:
        """List the names of the consumers: ``async for name in stream.consumer_names():``."""
        return self._api.paged(
            f"CONSUMER.NAMES.{self._name}",
            lambda offset: _PageRequest(offset=offset),
            _Names,
            lambda page: page.consumers,
        )

    def ordered_consumer(
        self,
        *,
        filter_subjects: Sequence[str] | str = (),
        deliver_policy: DeliverPolicy = DeliverPolicy.ALL,
        opt_start_seq: int = 0,
        opt_start_time: datetime | None = None,
        replay_policy: ReplayPolicy = ReplayPolicy.INSTANT,
        headers_only: bool = False,
        inactive_threshold: float = 300.0,
        name_prefix: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> OrderedConsumer:
        """Read the stream in order, without acknowledging; see :class:`OrderedConsumer`.

        Nothing is sent by this call.

        :param filter_subjects: read only messages of this subject or these subjects, which may have
            wildcards. Default: all.
        :param deliver_policy: the message to begin with. Default: the first.
        :param opt_start_seq: sequence number to begin with, for ``BY_START_SEQUENCE``.
        :param opt_start_time: time to begin with, for ``BY_START_TIME``.
        :param replay_policy: whether to deliver at once (the default) or at the original pace.
        :param headers_only: deliver messages without payload. Default: false.
        :param inactive_threshold: seconds of disuse after which the server deletes the consumer.
            Default: 300.
        :param name_prefix: consumers are named with this prefix and a number. Default: a generated
            one.
        :param metadata: metadata of the consumers.
        :returns: the ordered consumer.
        :raises ConfigurationError: if the arguments are invalid.
        :raises InvalidSubjectError: if a subject is not allowed.
        """
        subjects = (filter_subjects,) if isinstance(filter_subjects, str) else filter_subjects
        config = ConsumerConfig(
            filter_subject=subjects[0] if len(subjects) == 1 else "",
            filter_subjects=() if len(subjects) == 1 else subjects,
            deliver_policy=deliver_policy,
            opt_start_seq=opt_start_seq,
            opt_start_time=opt_start_time,
            replay_policy=replay_policy,
            headers_only=headers_only,
            inactive_threshold=inactive_threshold,
            metadata=metadata,
        )
        prefix = new_name() if name_prefix is None else check_name("consumer", name_prefix)
        check_consumer(config)
        return construct(OrderedConsumer, self._api, self._name, prefix, config)


DEFAULT_BATCH = 256
DEFAULT_BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH = 1_000
"""Maximum number of messages to request at a time; all of them may be in memory."""


class _InfoRequest(msgspec.Struct, frozen=True, kw_only=True):
    deleted_details: bool = False
    subjects_filter: str = ""
    offset: int = 0


class _SubjectCounts(msgspec.Struct, frozen=True, kw_only=True):
    subjects: Mapping[str, int] = {}


class _SubjectsPage(Page, frozen=True, kw_only=True):
    state: _SubjectCounts = _SubjectCounts()


class _PurgeRequest(msgspec.Struct, frozen=True, kw_only=True):
    filter: str = ""
    seq: int = 0
    keep: int = 0


class _PurgeAnswer(Answer, frozen=True, kw_only=True):
    purged: int = 0


class _DeleteRequest(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    no_erase: bool = False


class Stream(
    StreamConsumers, metaclass=NoPublicConstructor, use="js.stream() or js.create_stream()"
):
    """A stream, as returned by :meth:`JetStream.create_stream` and :meth:`JetStream.stream`.

    It holds no resources. Its methods raise what those of :class:`JetStream` raise, and
    :exc:`StreamNotFoundError` if it has been deleted.
    """

    def __init__(self, api: API, info: StreamInfo) -> None:
        super().__init__(api, info.config.name)
        self._info = info

    @property
    def info(self) -> StreamInfo:
        """The last information received about the stream; see :meth:`refresh`."""
        return self._info

    async def refresh(self, *, deleted_details: bool = False) -> StreamInfo:
        """Request the current state, and update :attr:`info`. If cancelled, :attr:`info` stays.

        :param deleted_details: include the sequence numbers of deleted messages. Default: false.
        """
        request = _InfoRequest(deleted_details=True) if deleted_details else None
        self._info = await self._api.request(f"STREAM.INFO.{self.name}", request, StreamInfo)
        return self._info

    def subjects(self, filter: str = ">") -> PageIterator[tuple[str, int]]:
        """Iterate over the subjects with their numbers of messages: ``async for subject, count in
        ...``.

        :param filter: only subjects that match this one, which may have wildcards. Default: all.
        """
        check_filter("filter", filter)
        return self._api.paged(
            f"STREAM.INFO.{self.name}",
            lambda offset: _InfoRequest(subjects_filter=filter, offset=offset),
            _SubjectsPage,
            lambda page: list(page.state.subjects.items()),
        )

    async def purge(
        self, *, subject: str | None = None, seq: int | None = None, keep: int | None = None
    ) -> int:
        """Delete all messages, or some of them. If cancelled, they may have been deleted.

        :param subject: only messages of this subject, which may have wildcards.
        :param seq: only messages before this sequence number.
        :param keep: all but this number of messages.
        :returns: the number of messages deleted.
        :raises ConfigurationError: if both ``seq`` and ``keep`` are given.
        """
        if subject is not None:
            check_filter("subject", subject)
        if seq is not None and keep is not None:
            raise ConfigurationError("purge takes seq or keep, not both")
        request = _PurgeRequest(
            filter=subject or "",
            seq=0 if seq is None else check_count("seq", seq, 1),
            keep=0 if keep is None else check_count("keep", keep, 1),
        )
        answer = await self._api.request(f"STREAM.PURGE.{self.name}", request, _PurgeAnswer)
        return answer.purged

    async def delete_msg(self, seq: int, *, secure: bool = False) -> None:
        """Delete a message. If cancelled, it may have been deleted.

        :param seq: its sequence number.
        :param secure: overwrite its data in the store, which takes longer. Default: false.
        :raises JetStreamAPIError: if it does not exist.
        """
        request = _DeleteRequest(seq=check_count("seq", seq, 1), no_erase=not secure)
        await self._api.request(f"STREAM.MSG.DELETE.{self.name}", request, Answer)

    # --- getting messages ------------------------------------------------------------------------

    async def get_msg(
        self,
        seq: int | None = None,
        *,
        last_for: str | None = None,
        next_for: str | None = None,
        start_time: datetime | None = None,
        direct: bool | None = None,
        timeout: float | None = None,
    ) -> StoredMsg:
        """Get a stored message. If cancelled, nothing changes.

        If the stream has ``allow_direct``, any replica or mirror may answer, which is fast, but may
        be slightly behind.

        :param seq: its sequence number; with ``next_for``, that number or a higher one.
        :param last_for: get the last message of this subject, which may have wildcards.
        :param next_for: get the first message of this subject.
        :param start_time: get the first message stored at this time or later, with ``next_for`` the
            first of that subject (server 2.11 or later).
        :param direct: false asks the leader, true does not. Default: as the stream allows.
        :param timeout: seconds to wait. Default: the timeout of :meth:`Connection.jetstream`.
        :returns: the message.
        :raises MessageNotFoundError: if there is no such message.
        """
        request = _which(seq, last_for, next_for, start_time)
        for name, subject in (("last_for", last_for), ("next_for", next_for)):
            if subject is not None:
                check_filter(name, subject)
        seconds = self._api.seconds(timeout)
        if direct or (direct is None and self._info.config.allow_direct):
            try:
                return await direct_get(self._api, self.name, request, seconds)
            except NoRespondersError:
                if direct:
                    raise not_allowed(self.name) from None
                # It was allowed when that was last heard of; the leader can always be asked.
        answer = await self._api.request(f"STREAM.MSG.GET.{self.name}", request, MsgAnswer, seconds)
        return from_answer(self.name, answer)

    def get_msgs(
        self,
        seq: int | None = None,
        *,
        next_for: str = ">",
        start_time: datetime | None = None,
        stop_after: int | None = None,
        max_messages: int = DEFAULT_BATCH,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> PageIterator[StoredMsg]:
        """Messages in order: ``async for msg in stream.get_msgs(next_for="orders.*"):``.

        This reads what is stored and ends with the last message; a consumer waits for more. The
        stream must have ``allow_direct``, and the server must be 2.11 or later.

        :param seq: begin with this sequence number, or the next one stored. Without it, and without
            ``start_time``, begin with the first message.
        :param next_for: read only the messages of this subject; it may have wildcards.
        :param start_time: begin with the first message stored at this time or later.
        :param stop_after: end after so many messages.
        :param max_messages: how many messages to request at a time, at most 1,000.
        :param max_bytes: how many bytes to request at a time, 8 MiB by default. So much is held in
            memory, and one message more.
        :param timeout: seconds to wait for each message, by default the timeout of
            :meth:`Connection.jetstream`.
        :returns: an iterator over the messages; see :class:`PageIterator`.
        """
        check_filter("next_for", next_for)
        return self._batches(
            _which(seq, None, next_for, start_time), stop_after, max_messages, max_bytes, timeout
        )

    def get_last_msgs(
        self,
        subjects: Sequence[str],
        *,
        up_to_seq: int | None = None,
        up_to_time: datetime | None = None,
        max_messages: int = DEFAULT_BATCH,
        max_bytes: int | None = None,
        timeout: float | None = None,
    ) -> PageIterator[StoredMsg]:
        """Read the last message of each subject: ``async for msg in
        stream.get_last_msgs(["a.*"]):``.

        All are of the same moment: now, or when ``up_to_seq`` was the last message, or
        ``up_to_time``.

        :param subjects: the subjects, which may have wildcards; at most 1,024 subjects may match.
        :param up_to_seq: ignore messages after this sequence number.
        :param up_to_time: ignore messages after this time.
        :param max_messages: number of messages to request at a time, at most 1,000. Default: 256.
        :param max_bytes: number of bytes to request at a time. Default: 8 MiB.
        :param timeout: seconds to wait for each message. Default: the timeout of
            :meth:`Connection.jetstream`.
        :returns: an iterator over the messages; see :class:`PageIterator`.
        """
        check_filters("subjects", subjects)
        if not subjects:
            raise ConfigurationError("subjects must name at least one subject")
        if up_to_seq is not None and up_to_time is not None:
            raise ConfigurationError("give up_to_seq or up_to_time, not both")
        request = MsgRequest(
            multi_last=list(subjects),
            up_to_seq=0 if up_to_seq is None else check_count("up_to_seq", up_to_seq, 1),
            up_to_time=up_to_time,
        )
        return self._batches(request, None, max_messages, max_bytes, timeout)

    def _batches(
        self,
        request: MsgRequest,
        stop_after: int | None,
        max_messages: int,
        max_bytes: int | None,
        timeout: float | None,
    ) -> PageIterator[StoredMsg]:
        if stop_after is not None:
            check_count("stop_after", stop_after, 1)
        if check_count("max_messages", max_messages, 1) > MAX_BATCH:
            raise ConfigurationError(
                f"max_messages must be at most {MAX_BATCH:,}, not {max_messages:,}"
            )
        changed = msgspec.structs.replace(
            request,
            batch=max_messages,
            max_bytes=(
                DEFAULT_BATCH_BYTES if max_bytes is None else check_count("max_bytes", max_bytes, 1)
            ),
        )
        seconds = self._api.seconds(timeout)
        return Batches(self._api, self.name, changed, seconds, stop_after).paged()

    def __repr__(self) -> str:
        return f"<Stream {self.name!r}>"


def _which(
    seq: int | None, last_for: str | None, next_for: str | None, start_time: datetime | None
) -> MsgRequest:
    """What says which message, if it does."""
    given = [one is not None for one in (seq, last_for, next_for, start_time)]
    if last_for is not None and sum(given) > 1:
        raise ConfigurationError("last_for cannot be combined with seq, next_for or start_time")
    if seq is not None and start_time is not None:
        raise ConfigurationError("give seq or start_time, not both")
    if not any(given):
        raise ConfigurationError("say which message: by seq, last_for, next_for or start_time")
    if seq is None and start_time is None and next_for is not None:
        seq = 1
    return MsgRequest(
        seq=0 if seq is None else check_count("seq", seq, 1),
        last_by_subj=last_for or "",
        next_by_subj=next_for or "",
        start_time=start_time,
    )
