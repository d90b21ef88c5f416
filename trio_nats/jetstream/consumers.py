"""The consumers of a stream: the half of :class:`~trio_nats.jetstream.Stream` they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Unpack

import msgspec

from .api import API, Page, Paged
from .consumer import Consumer, Paused, delete_consumer, pause_consumer, unpin_consumer
from .consumer_config import (
    ConsumerConfig,
    ConsumerOptions,
    DeliverPolicy,
    ReplayPolicy,
    check_consumer,
)
from .creating import new_name, put_consumer, whole_config
from .info import ConsumerInfo
from .names import check_name
from .ordered import OrderedConsumer

__all__ = ["StreamConsumers"]


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
        """The stream's name."""
        return self._name

    async def create_consumer(
        self, config: ConsumerConfig | str | None = None, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Create a consumer: ``await stream.create_consumer("workers", ack_wait=60)``.

        ``config`` is a whole configuration, or the name, or ``None`` for one that is made up; the
        keywords are the fields of :class:`ConsumerConfig` and override what it says. With
        ``durable_name`` it stays until it is deleted. One that is there already, with the same
        configuration, is as good as a new one; otherwise :exc:`ConsumerNameInUseError` is raised.

        Cancelled, it may have been created all the same.
        """
        return await put_consumer(self._api, self._name, "create", whole_config(config, options))

    async def update_consumer(
        self, config: ConsumerConfig | str, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Configure a consumer anew: all of it, not only what is given.

        To change some of it say
        ``await stream.update_consumer(consumer.info.config, max_ack_pending=10)``. Raises
        :exc:`ConsumerNotFoundError` if there is none. Cancelled, it may have happened all the same.
        """
        return await put_consumer(self._api, self._name, "update", whole_config(config, options))

    async def create_or_update_consumer(
        self, config: ConsumerConfig | str, **options: Unpack[ConsumerOptions]
    ) -> Consumer:
        """Create a consumer, or configure the one there is anew; see :meth:`create_consumer`."""
        return await put_consumer(self._api, self._name, "", whole_config(config, options))

    async def consumer(self, name: str) -> Consumer:
        """The consumer of that name. Raises :exc:`ConsumerNotFoundError` if there is none."""
        check_name("consumer", name)
        suffix = f"CONSUMER.INFO.{self._name}.{name}"
        info = await self._api.request(suffix, None, ConsumerInfo)
        return Consumer(self._api, self._name, info.name, info)

    def bind_consumer(self, name: str) -> Consumer:
        """The consumer of that name, without asking for it.

        For users that may pull and nothing else. What depends on its configuration is left to the
        server then. Raises :exc:`ConfigurationError` for what is no name.
        """
        return Consumer(self._api, self._name, check_name("consumer", name), None)

    async def delete_consumer(self, name: str) -> None:
        """Delete a consumer. Raises :exc:`ConsumerNotFoundError` if there is none.

        Cancelled, it may have been deleted all the same.
        """
        await delete_consumer(self._api, self._name, check_name("consumer", name))

    async def pause_consumer(self, name: str, until: datetime) -> Paused:
        """See :meth:`Consumer.pause`."""
        return await pause_consumer(self._api, self._name, check_name("consumer", name), until)

    async def resume_consumer(self, name: str) -> Paused:
        """See :meth:`Consumer.resume`."""
        return await pause_consumer(self._api, self._name, check_name("consumer", name), None)

    async def unpin_consumer(self, name: str, group: str) -> None:
        """See :meth:`Consumer.unpin`."""
        await unpin_consumer(self._api, self._name, check_name("consumer", name), group)

    def consumers(self) -> Paged[ConsumerInfo]:
        """All consumers: ``async for info in stream.consumers():``; see :class:`Paged`."""
        return self._api.paged(
            f"CONSUMER.LIST.{self._name}",
            lambda offset: _PageRequest(offset=offset),
            _Infos,
            lambda page: page.consumers,
        )

    def consumer_names(self) -> Paged[str]:
        """The names of all consumers: ``async for name in stream.consumer_names():``."""
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

        Nothing is sent by this. ``filter_subjects`` is one or several; the others are the fields of
        :class:`ConsumerConfig`. The consumers behind it are named ``name_prefix`` and a number.
        Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
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
        check_consumer(self._api.nc, config)
        return OrderedConsumer(self._api, self._name, prefix, config)
