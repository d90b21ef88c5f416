"""Streams: their messages and their consumers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar, Literal, Unpack

import msgspec

from .._constructors import NoPublicConstructor, construct
from ..errors import ConfigurationError, NoRespondersError
from ..options import check_choice, check_count
from . import json_codec
from .advisories import Advisory, AdvisoryListener, listen_to_advisories
from .api import API, Page, PageIterator
from .consumer.config import (
    ConsumerConfig,
    ConsumerOptions,
    DeliverPolicy,
    ReplayPolicy,
    check_consumer,
    with_options,
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
from .consumer.info import ConsumerInfo
from .consumer.ordered import OrderedConsumer
from .errors import (
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    JetStreamAPIError,
    JetStreamError,
    MessageNotFoundError,
)
from .get.direct_get import Batches, direct_get, not_allowed
from .get.stored_message import (
    MsgAnswer,
    MsgRequest,
    StoredMsg,
    from_answer,
    message_not_found,
)
from .info import StreamInfo
from .json_codec import Answer, time_to_wire
from .stream_config import Placement, StepDownRequest
from .validation import check_filter, check_filters, check_name, whole_config

__all__ = ["DEFAULT_BATCH", "ListingError", "Stream", "StreamConsumers", "current_subjects"]


class _PageRequest(msgspec.Struct, frozen=True, kw_only=True):
    ALWAYS: ClassVar[tuple[str, ...]] = ("offset",)
    offset: int = 0


class _Infos(Page, frozen=True, kw_only=True):
    consumers: Sequence[ConsumerInfo] = ()


class _Names(Page, frozen=True, kw_only=True):
    consumers: Sequence[str] = ()


def _whole(config: ConsumerConfig | str | None, options: ConsumerOptions) -> ConsumerConfig:
    return whole_config(ConsumerConfig, config, options, named="durable_name")


class StreamConsumers:
    """The part of :class:`~trio_nats.jetstream.Stream` that manages consumers."""

    def __init__(self, api: API, name: str) -> None:
        self._api = api
        self._name = name

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self._name

    async def create_consumer(
        self, config: ConsumerConfig | str | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Create a consumer: ``await stream.create_consumer("workers", ack_wait=60)``.

        A consumer with a ``durable_name`` is durable: it exists until you delete it. Any other one
        is ephemeral, and the server deletes it after ``inactive_threshold``. If the consumer exists
        already with the same configuration, return it. If cancelled, it may have been created.

        :param config: a configuration, or the name of a durable consumer. Default: ``durable_name``
            or ``name`` in ``options``, or a random name.
        :param options: fields of :class:`ConsumerConfig`; they override those of ``config``.
        :returns: the consumer.
        :raises ConsumerNameInUseError: if the consumer exists with another configuration. The error
            lists the differences.
        :raises StreamNotFoundError: if the stream does not exist any more.
        :raises APILevelError: if the server is too old for some of the settings.
        """
        if config is None and "name" not in options:
            options = {"durable_name": "", **options}  # A random name is chosen later.
        return await put_consumer(self._api, self._name, "create", _whole(config, options))

    async def update_consumer(
        self, config: ConsumerConfig | str | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Change the configuration of a consumer, such as its ``max_ack_pending``.

        Pass a name to change single settings. Pass a :class:`ConsumerConfig` to replace all of
        them. With a name the present settings are read first: a change that another client makes in
        the meantime may be undone. If cancelled, the consumer may have been updated.

        :param config: a configuration, or the name. Default: ``durable_name`` or ``name`` in
            ``options``.
        :param options: fields of :class:`ConsumerConfig`; they override those of ``config``.
        :returns: the consumer.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises APILevelError: if the server is too old for some of the settings.
        """
        whole = _whole(config, options)
        if not isinstance(config, ConsumerConfig):
            name = whole.name or whole.durable_name
            present = (await self.consumer(name)).info
            assert present is not None
            whole = with_options(present.config, options)
            if not whole.durable_name:
                whole = msgspec.structs.replace(whole, name=name)
        return await put_consumer(self._api, self._name, "update", whole)

    async def create_or_update_consumer(
        self, config: ConsumerConfig | str | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Create a consumer, or update it if it exists, as :meth:`update_consumer` does.

        If cancelled, the consumer may have been created or updated.

        :param config: a configuration, or the name; a new consumer of that name is durable.
            Default: ``durable_name`` or ``name`` in ``options``.
        :param options: fields of :class:`ConsumerConfig`; they override those of ``config``.
        :returns: the consumer.
        :raises StreamNotFoundError: if the stream does not exist any more.
        :raises APILevelError: if the server is too old for some of the settings.
        """
        if isinstance(config, ConsumerConfig):
            return await put_consumer(self._api, self._name, "", _whole(config, options))
        try:
            return await self.update_consumer(config, **options)
        except ConsumerNotFoundError:
            pass
        try:
            return await self.create_consumer(config, **options)
        except ConsumerNameInUseError:  # another client has just created it
            return await self.update_consumer(config, **options)

    async def consumer(self, name: str) -> Consumer:
        """Get a consumer.

        If cancelled, nothing changes.

        :param name: the name of the consumer.
        :returns: the consumer.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        """
        check_name("consumer", name)
        suffix = f"CONSUMER.INFO.{self._name}.{name}"
        info = await self._api.request(suffix, None, ConsumerInfo)
        return construct(Consumer, self._api, self._name, info.name, info)

    def bind_consumer(self, name: str) -> Consumer:
        """Use a pull consumer without asking the server for it.

        For users with no permission but to pull. Arguments are then not checked against the
        configuration of the consumer.

        :param name: the name of the consumer.
        :returns: the consumer; its :attr:`Consumer.info` is ``None``.
        :raises ConfigurationError: if ``name`` is not a valid name.
        """
        return construct(Consumer, self._api, self._name, check_name("consumer", name), None)

    async def delete_consumer(self, name: str) -> None:
        """Delete a consumer.

        If cancelled, the consumer may have been deleted.

        :param name: the name of the consumer.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        """
        await delete_consumer(self._api, self._name, check_name("consumer", name))

    async def pause_consumer(self, name: str, until: datetime) -> PauseState:
        """Pause a consumer; see :meth:`Consumer.pause`.

        If cancelled, the consumer may have been paused.

        :param name: the name of the consumer.
        :param until: when the consumer shall deliver again, with a time zone.
        :returns: whether it is paused, and until when.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises APILevelError: if the server is older than 2.11.
        """
        return await pause_consumer(self._api, self._name, check_name("consumer", name), until)

    async def resume_consumer(self, name: str) -> PauseState:
        """Resume a paused consumer; see :meth:`Consumer.resume`.

        If cancelled, the consumer may have been resumed.

        :param name: the name of the consumer.
        :returns: whether it is paused, and until when.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises APILevelError: if the server is older than 2.11.
        """
        return await pause_consumer(self._api, self._name, check_name("consumer", name), None)

    async def unpin_consumer(self, name: str, group: str) -> None:
        """Unpin the pinned client of a priority group; see :meth:`Consumer.unpin`.

        If cancelled, the client may have been unpinned.

        :param name: the name of the consumer.
        :param group: the name of the priority group.
        :raises ConsumerNotFoundError: if the consumer does not exist.
        :raises APILevelError: if the server is older than 2.11.
        """
        await unpin_consumer(self._api, self._name, check_name("consumer", name), group)

    def consumers(self) -> PageIterator[ConsumerInfo]:
        """List the consumers: ``async for info in stream.consumers():``.

        :returns: an iterator over infos, like :attr:`Consumer.info`; see :class:`PageIterator`.
        """
        return self._api.paged(
            f"CONSUMER.LIST.{self._name}",
            lambda offset: _PageRequest(offset=offset),
            _Infos,
            lambda page: page.consumers,
        )

    def consumer_names(self) -> PageIterator[str]:
        """List the names of the consumers: ``async for name in stream.consumer_names():``.

        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        return self._api.paged(
            f"CONSUMER.NAMES.{self._name}",
            lambda offset: _PageRequest(offset=offset),
            _Names,
            lambda page: page.consumers,
        )

    def ordered_consumer(
        self,
        *,
        filter_subjects: Sequence[str] = (),
        deliver_policy: DeliverPolicy = DeliverPolicy.ALL,
        opt_start_seq: int = 0,
        opt_start_time: datetime | None = None,
        replay_policy: ReplayPolicy = ReplayPolicy.INSTANT,
        headers_only: bool = False,
        inactive_threshold: float = 300.0,
        name_prefix: str | None = None,
        metadata: Mapping[str, str] | None = None,
        on_stream_replaced: Literal["raise", "restart"] = "raise",
    ) -> OrderedConsumer:
        """Read the stream in order, without acknowledgements; see :class:`OrderedConsumer`.

        Nothing is sent by this call.

        :param filter_subjects: a list of subjects, with or without wildcards; only their messages
            are read. Default: all.
        :param deliver_policy: the message to begin with. Default: the first one.
        :param opt_start_seq: the sequence number to begin with, for
            ``DeliverPolicy.BY_START_SEQUENCE``.
        :param opt_start_time: the time to begin with, with a time zone, for
            ``DeliverPolicy.BY_START_TIME``.
        :param replay_policy: how fast the messages come. Default: as fast as possible.
        :param headers_only: whether to leave out the payloads; the header ``Nats-Msg-Size`` then
            tells the size.
        :param inactive_threshold: seconds until the server deletes the consumer if it is not used.
            Default: 300, or what the ``consumer_limits`` of the stream allow.
        :param name_prefix: the beginning of the names of the consumers; a random part and a number
            follow. Default: a random name.
        :param metadata: the metadata of the consumers.
        :param on_stream_replaced: what to do if the stream was deleted and created again, or has
            lost messages that were already read. ``"raise"`` raises :exc:`StreamNotFoundError`.
            ``"restart"`` begins again: with the last message of each subject for
            ``DeliverPolicy.LAST_PER_SUBJECT``, at the start time for ``BY_START_TIME``, and with
            the first message otherwise. While the stream is missing, it waits. Default:
            ``"raise"``.
        :returns: the ordered consumer.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if a subject is not valid.
        """
        check_filters("filter_subjects", filter_subjects)
        check_choice("on_stream_replaced", on_stream_replaced, ("raise", "restart"))
        single = len(filter_subjects) == 1
        config = ConsumerConfig(
            filter_subject=filter_subjects[0] if single else "",
            filter_subjects=() if single else filter_subjects,
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
        return construct(
            OrderedConsumer,
            self._api,
            self._name,
            prefix,
            config,
            self._known_creation(),
            restart=on_stream_replaced == "restart",
        )

    def _known_creation(self) -> datetime | None:
        """Return when the stream was created, if that is known."""
        return None


MAX_LISTINGS = 10
MAX_LISTING_PAGES = 10_000
MAX_LISTED_SUBJECTS = 10_000_000
MAX_LISTED_CHARACTERS = 1024 * 1024 * 1024
DEFAULT_BATCH = 256
DEFAULT_BATCH_BYTES = 8 * 1024 * 1024
MAX_BATCH = 1_000
"""A batch is held in memory, so its number of messages is limited."""


class _InfoRequest(msgspec.Struct, frozen=True, kw_only=True):
    deleted_details: bool = False
    subjects_filter: str = ""
    offset: int = 0


class _SubjectCounts(msgspec.Struct, frozen=True, kw_only=True):
    subjects: Mapping[str, int] = {}
    last_seq: int = 0


class _SubjectsPage(Page, frozen=True, kw_only=True):
    state: _SubjectCounts = _SubjectCounts()


class _PurgeRequest(msgspec.Struct, frozen=True, kw_only=True):
    filter: str = ""
    seq: int = 0
    keep: int = 0


class _PurgeAnswer(Answer, frozen=True, kw_only=True):
    purged: int = 0


_MISSING = ("no message found", "stream store EOF")
"""Descriptions in the errors of a file store for a message that does not exist, or not yet."""


class _DeleteRequest(msgspec.Struct, frozen=True, kw_only=True):
    seq: int
    no_erase: bool = False


class _PeerRequest(msgspec.Struct, frozen=True, kw_only=True):
    peer: str


class Stream(
    StreamConsumers, metaclass=NoPublicConstructor, use="js.stream() or js.create_stream()"
):
    """A stream; made by :meth:`JetStream.create_stream` and :meth:`JetStream.stream`.

    It holds nothing open. In addition to the exceptions that they list, its asynchronous methods
    raise those of :class:`JetStream`, and :exc:`StreamNotFoundError` if the stream does not exist
    any more.
    """

    def __init__(self, api: API, info: StreamInfo) -> None:
        super().__init__(api, info.config.name)
        self._info = info

    def _known_creation(self) -> datetime | None:
        return self._info.created

    @property
    def info(self) -> StreamInfo:
        """The configuration and state, as of when the stream was opened or refreshed last."""
        return self._info

    async def refresh(self, *, deleted_details: bool = False) -> StreamInfo:
        """Get the present configuration and state, and update :attr:`info`.

        If cancelled, :attr:`info` does not change.

        :param deleted_details: whether to list the sequence numbers of deleted messages in
            ``state.deleted``, and not only count them.
        :returns: the new :attr:`info`.
        """
        request = _InfoRequest(deleted_details=True) if deleted_details else None
        self._info = await self._api.request(f"STREAM.INFO.{self.name}", request, StreamInfo)
        return self._info

    def advisories(
        self,
        *kinds: type[Advisory],
        queue: str | None = None,
        buffer: int = 256,
    ) -> AdvisoryListener:
        """Listen to advisories: ``async with stream.advisories() as advisories:``.

        Servers publish advisories about the stream and its consumers, for example when a message
        has been delivered ``max_deliver`` times; see :mod:`trio_nats.jetstream.advisories`. The
        block gives a channel of them. Advisories that are published while nobody listens, or while
        there is no connection, are lost.

        :param kinds: listen to these only, such as ``MaxDeliverAdvisory``; ``ConsumerAdvisory``
            stands for all advisories of consumers. Default: listen to all.
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
            stream=self.name,
            consumer=None,
            queue=queue,
            buffer=buffer,
        )

    def subjects(self, filter: str = ">") -> PageIterator[tuple[str, int]]:
        """List the subjects of the stored messages: ``async for subject, count in ...``.

        :param filter: list only subjects that match this one. Default: list all.
        :returns: an iterator over pairs of a subject and its number of messages; see
            :class:`PageIterator`.
        :raises InvalidSubjectError: if ``filter`` is not a valid subject.
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
        """Delete messages: all of them, unless parameters limit it.

        If cancelled, the messages may have been deleted.

        :param subject: delete only messages of this subject, with or without wildcards.
        :param seq: delete only messages before this sequence number.
        :param keep: keep this number of the last messages. Cannot be combined with ``seq``. Without
            ``subject``, servers before 2.14 also count messages of streams in memory that were
            deleted before, so they keep fewer.
        :returns: the number of messages that were deleted.
        """
        if subject is not None:
            check_filter("subject", subject)
        if seq is not None and keep is not None:
            raise ConfigurationError("give seq or keep, not both")
        request = _PurgeRequest(
            filter=subject or "",
            seq=0 if seq is None else check_count("seq", seq, 1),
            keep=0 if keep is None else check_count("keep", keep, 1),
        )
        answer = await self._api.request(f"STREAM.PURGE.{self.name}", request, _PurgeAnswer)
        return answer.purged

    def _purge_nowait(self, subject: str) -> None:
        """Ask the server to delete the messages of a subject, without waiting for its answer."""
        nc = self._api.nc
        nc.publish_nowait(
            self._api.subject(f"STREAM.PURGE.{self.name}"),
            json_codec.encode(_PurgeRequest(filter=subject)),
            reply=nc.new_inbox(),
        )

    async def delete_msg(self, seq: int, *, secure: bool = False) -> None:
        """Delete a message.

        If cancelled, the message may have been deleted.

        :param seq: the sequence number of the message.
        :param secure: whether to overwrite the data in the store, which takes longer.
        :raises MessageNotFoundError: if the message does not exist.
        """
        request = _DeleteRequest(seq=check_count("seq", seq, 1), no_erase=not secure)
        try:
            await self._api.request(f"STREAM.MSG.DELETE.{self.name}", request, Answer)
        except JetStreamAPIError as error:
            if not isinstance(error, MessageNotFoundError) and error.description not in _MISSING:
                raise
            missing = MessageNotFoundError(error.code, error.err_code, error.description)
            raise message_not_found(missing, self.name, MsgRequest(seq=seq)) from None

    async def seal(self) -> None:
        """Seal the stream: nothing can be stored or deleted any more. This cannot be undone.

        If cancelled, the stream may have been sealed.
        """
        config = msgspec.structs.replace((await self.refresh()).config, sealed=True)
        self._info = await self._api.request(f"STREAM.UPDATE.{self.name}", config, StreamInfo)

    # --- in a cluster ----------------------------------------------------------------------------

    async def step_down(self, *, placement: Placement | None = None) -> None:
        """Have another server of a cluster become the leader of the stream.

        If cancelled, it may have been done.

        :param placement: which server, by ``preferred`` or by ``tags`` (server 2.11 or later).
            Default: any.
        :raises JetStreamAPIError: if the server is not in a cluster, or there is no such server.
        :raises APILevelError: if the server is too old for ``placement``.
        """
        suffix = f"STREAM.LEADER.STEPDOWN.{self.name}"
        features = () if placement is None else ("step_down(placement=)",)
        await self._api.request(
            suffix, StepDownRequest(placement=placement), Answer, features=features
        )

    async def remove_peer(self, peer: str) -> None:
        """Move a replica from a server that is gone for good to another server.

        If cancelled, it may have been done.

        :param peer: the name of the server, or its id, such as :attr:`PeerInfo.peer`.
        :raises JetStreamAPIError: if the server is not in a cluster, does not hold a replica, or
            there is no other server to take its place.
        """
        await self._api.request(f"STREAM.PEER.REMOVE.{self.name}", _peer(peer), Answer)

    async def evacuate_peer(self, peer: str) -> None:
        """Move a replica from a server that still runs to another server (server 2.15 or later).

        ``info.cluster.desired`` shows the progress. If cancelled, it may have been started.

        :param peer: the name of the server, or its id, such as :attr:`PeerInfo.peer`.
        :raises JetStreamAPIError: as for :meth:`remove_peer`.
        :raises APILevelError: if the server is too old.
        """
        suffix = f"STREAM.PEER.EVACUATE.{self.name}"
        await self._api.request(suffix, _peer(peer), Answer, features=["evacuate_peer()"])

    async def cancel_move(self) -> StreamInfo:
        """Undo a change of replicas, placement or retention under way (server 2.15 or later).

        If cancelled, it may have been done.

        :returns: the new :attr:`info`.
        :raises JetStreamAPIError: if no change is under way, or the server is not in a cluster.
        :raises APILevelError: if the server is too old.
        """
        self._info = await self._api.request(
            f"STREAM.CANCEL_MOVE.{self.name}", None, StreamInfo, features=["cancel_move()"]
        )
        return self._info

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
        """Get one message of the stream (ADR-31).

        - ``get_msg(7)``: the message with this sequence number;
        - ``get_msg(last_for="orders.*")``: the last message of the subject;
        - ``get_msg(7, next_for="orders.*")``: the first message of the subject from this sequence
          number on; without a number, the first message of the subject;
        - ``get_msg(start_time=...)``: the first message stored at this time or later (server 2.11
          or later), with ``next_for`` that of the subject.

        If cancelled, nothing changes.

        :param seq: a sequence number.
        :param last_for: get the last message of this subject, with or without wildcards. Cannot be
            combined with the other parameters that select a message.
        :param next_for: get the next message of this subject, with or without wildcards.
        :param start_time: a time, with a time zone. Cannot be combined with ``seq``.
        :param direct: ``True`` to let any replica or mirror answer, which is fast, but may miss the
            latest messages; the stream must have ``allow_direct``. ``False`` to ask the leader.
            Default: ``True`` if the stream has ``allow_direct``.
        :param timeout: seconds to wait for the answer. Default: the timeout of
            :meth:`Connection.jetstream`.
        :returns: the message.
        :raises MessageNotFoundError: if there is no such message.
        :raises APILevelError: if the server is too old for ``start_time``.
        :raises JetStreamError: if ``direct`` is ``True`` and the stream does not have
            ``allow_direct``.
        """
        request = _which(seq, last_for, next_for, start_time)
        for name, subject in (("last_for", last_for), ("next_for", next_for)):
            if subject is not None:
                check_filter(name, subject)
        seconds = self._api.seconds(timeout)
        if start_time is not None:
            time_to_wire("start_time", start_time)  # raises if it has no time zone
            await self._api.require("get_msg(start_time=)")
        try:
            return await self._get(request, seconds, direct=direct)
        except MessageNotFoundError as error:
            raise message_not_found(error, self.name, request) from None

    async def _get(self, request: MsgRequest, seconds: float, *, direct: bool | None) -> StoredMsg:
        if direct or (direct is None and self._info.config.allow_direct):
            try:
                return await direct_get(self._api, self.name, request, seconds)
            except NoRespondersError:
                if direct:
                    raise not_allowed(self.name) from None
                # allow_direct may have been changed; the leader always answers.
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
        """Get messages in order: ``async for msg in stream.get_msgs(next_for="orders.*"):``.

        The iteration ends with the last message stored; use a consumer to wait for more. The stream
        must have ``allow_direct``, and the server must be 2.11 or later (ADR-31).

        :param seq: begin with this sequence number, or the next one stored. Default: the first
            message.
        :param next_for: get only messages of this subject, with or without wildcards. Default: all.
        :param start_time: begin with the first message stored at this time or later. Cannot be
            combined with ``seq``.
        :param stop_after: end after this number of messages. Default: no limit.
        :param max_messages: maximum number of messages to request at a time, at most 1,000.
            Default: 256.
        :param max_bytes: maximum number of bytes to request at a time. Up to this size, plus one
            message, is held in memory. Default: 8 MiB.
        :param timeout: seconds to wait for each message. Default: the timeout of
            :meth:`Connection.jetstream`.
        :returns: an iterator over the messages; see :class:`PageIterator`.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if ``next_for`` is not a valid subject.
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
        """Get the last message of each subject: ``async for msg in stream.get_last_msgs(["a"]):``.

        All messages show the stream at one moment, by default the present. If they come in several
        batches, those that were removed or replaced in between are missing. The stream must have
        ``allow_direct``, and the server must be 2.11 or later (ADR-31).

        :param subjects: the subjects, with or without wildcards. At most 1,024 stored subjects can
            match.
        :param up_to_seq: ignore messages after this sequence number.
        :param up_to_time: ignore messages stored after this time. Cannot be combined with
            ``up_to_seq``.
        :param max_messages: maximum number of messages to request at a time, at most 1,000.
            Default: 256.
        :param max_bytes: maximum number of bytes to request at a time. Up to this size, plus one
            message, is held in memory. Default: 8 MiB.
        :param timeout: seconds to wait for each message. Default: the timeout of
            :meth:`Connection.jetstream`.
        :returns: an iterator over the messages; see :class:`PageIterator`.
        :raises ConfigurationError: if an argument is invalid.
        :raises InvalidSubjectError: if a subject is not valid.
        """
        check_filters("subjects", subjects)
        if not subjects:
            raise ConfigurationError("subjects must not be empty")
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


def _peer(peer: str) -> _PeerRequest:
    if not isinstance(peer, str):
        raise TypeError(f"peer must be the name or id of a server, not {type(peer).__name__}")
    if not peer:
        raise ConfigurationError("peer must not be empty")
    return _PeerRequest(peer=peer)


def _which(
    seq: int | None, last_for: str | None, next_for: str | None, start_time: datetime | None
) -> MsgRequest:
    """Check the parameters that select a message, and return the request."""
    given = [one is not None for one in (seq, last_for, next_for, start_time)]
    if last_for is not None and sum(given) > 1:
        raise ConfigurationError("last_for cannot be combined with seq, next_for or start_time")
    if seq is not None and start_time is not None:
        raise ConfigurationError("give seq or start_time, not both")
    if not any(given):
        raise ConfigurationError("give at least one of seq, last_for, next_for and start_time")
    if seq is None and start_time is None and next_for is not None:
        seq = 1
    return MsgRequest(
        seq=0 if seq is None else check_count("seq", seq, 1),
        last_by_subj=last_for or "",
        next_by_subj=next_for or "",
        start_time=start_time,
    )


class ListingError(JetStreamError):
    """The subjects of a stream cannot be listed: they change all the time, or are too many."""


async def current_subjects(stream: Stream, subject: str) -> tuple[set[str], int]:
    """Return the subjects of stored messages, and the last sequence number before they were listed.

    Every subject is included that has messages all the time. The server counts the subjects in
    alphabetical order, so each page begins with the last subject of the page before: if it has
    moved, there is a new listing.

    :param subject: a filter for the subjects; may have wildcards.
    :raises ListingError: if the subjects change all the time, or are too many.
    """
    for _ in range(MAX_LISTINGS):
        found: set[str] = set()
        offset, moved, last_seq, before, characters = 0, False, 0, "", 0
        for _ in range(MAX_LISTING_PAGES):
            page = await stream._api.request(
                f"STREAM.INFO.{stream.name}",
                _InfoRequest(subjects_filter=subject, offset=offset),
                _SubjectsPage,
            )
            names = sorted(page.state.subjects)
            last_seq = last_seq or page.state.last_seq
            moved = bool(before) and names[:1] != [before]
            found.update(names)
            characters += sum(map(len, names))
            if len(found) > MAX_LISTED_SUBJECTS or characters > MAX_LISTED_CHARACTERS:
                raise ListingError(f"stream {stream.name!r} has too many subjects to list them")
            if moved or not names or offset + len(names) >= page.total:
                break
            moved = len(names) == 1
            if moved:
                break  # this page and the next one do not overlap
            before = names[-1]
            offset += len(names) - 1
        else:
            raise ListingError(
                f"the subjects of stream {stream.name!r} take more than {MAX_LISTING_PAGES:,} pages"
            )
        if not moved:
            return found, last_seq
    raise ListingError(
        f"the subjects of stream {stream.name!r} changed during each of {MAX_LISTINGS} listings"
    )
