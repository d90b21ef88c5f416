"""The JetStream context without the stores that are built on it (ADR-37)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar, Unpack

import msgspec

from .._constructors import construct
from ..connection_base import BaseConnection
from ..errors import NatsError
from . import json_codec
from .account import AccountInfo
from .api import API, Page, PageIterator
from .consumer.inboxes import InboxPool
from .errors import (
    ErrorCode,
    JetStreamAPIError,
    StreamNameInUseError,
    StreamNotFoundError,
    described,
)
from .features import api_level_error
from .info import StreamInfo
from .json_codec import Answer
from .publish.publish import Publishing
from .stream import Stream
from .stream_config import (
    StreamConfig,
    StreamOptions,
    check_stream,
    features_of,
    left_out,
    with_options,
)
from .validation import check_filter, check_name, whole_config

__all__ = ["BaseJetStream"]


class _ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    ALWAYS: ClassVar[tuple[str, ...]] = ("offset",)
    offset: int = 0
    subject: str = ""


class _Names(Page, frozen=True, kw_only=True):
    streams: Sequence[str] = ()


class _Infos(Page, frozen=True, kw_only=True):
    streams: Sequence[StreamInfo] = ()


def _names(page: _Names) -> Sequence[str]:
    return page.streams


class BaseJetStream(Publishing):
    """All of :class:`~trio_nats.jetstream.JetStream` but key-value and object stores.

    The stores are built on this class, which avoids circular imports.
    """

    def __init__(
        self,
        nc: BaseConnection,
        inboxes: InboxPool,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
        event_prefix: str | None = None,
    ) -> None:
        api = API(
            nc, inboxes, domain=domain, prefix=prefix, timeout=timeout, event_prefix=event_prefix
        )
        super().__init__(api)

    @property
    def connection(self) -> BaseConnection:
        """The connection."""
        return self._api.nc

    @property
    def prefix(self) -> str:
        """The prefix of the subjects of the JetStream API, such as ``$JS.API``."""
        return self._api.prefix

    @property
    def event_prefix(self) -> str:
        """The prefix of the subjects of advisories, such as ``$JS.EVENT``."""
        return self._api.event_prefix

    @property
    def timeout(self) -> float:
        """Seconds to wait for an answer, unless a method is given another timeout."""
        return self._api.timeout

    async def account_info(self) -> AccountInfo:
        """Get the usage and limits of the account, and the API level of the server.

        If cancelled, nothing changes.

        :returns: the information.
        """
        return await self._api.request("INFO", None, AccountInfo)

    # --- streams ---------------------------------------------------------------------------------

    async def create_stream(
        self, config: StreamConfig | str | None = None, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Create a stream: ``await js.create_stream("ORDERS", subjects=["orders.>"])``.

        If the stream exists already with the same configuration, return it. If cancelled, the
        stream may have been created.

        :param config: a configuration, or the name. Default: the ``name`` in ``options``.
        :param options: fields of :class:`StreamConfig`; they override those of ``config``.
        :returns: the stream.
        :raises StreamNameInUseError: if the stream exists with another configuration. The error
            lists the differences.
        :raises APILevelError: if the server is too old for some of the settings. Nothing has been
            created, unless the error states it.
        """
        whole = whole_config(StreamConfig, config, options)
        try:
            return await self._put("STREAM.CREATE", whole)
        except StreamNameInUseError as error:
            raise described(error, await self._describe_differences(whole)) from None

    async def update_stream(
        self, config: StreamConfig | str | None = None, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Change the configuration of a stream: ``await js.update_stream("ORDERS", max_msgs=10)``.

        Pass a name to change single settings. Pass a :class:`StreamConfig` to replace all of them.
        With a name the present settings are read first: a change that another client makes in the
        meantime may be undone. If cancelled, the stream may have been updated.

        :param config: a configuration, or the name. Default: the ``name`` in ``options``.
        :param options: fields of :class:`StreamConfig`; they override those of ``config``.
        :returns: the stream.
        :raises StreamNotFoundError: if the stream does not exist.
        :raises APILevelError: if the server is too old for some of the settings.
        """
        whole = whole_config(StreamConfig, config, options)
        if not isinstance(config, StreamConfig):
            whole = with_options((await self.stream(whole.name)).info.config, options)
        return await self._put("STREAM.UPDATE", whole)

    async def _put(self, verb: str, config: StreamConfig) -> Stream:
        check_stream(config)
        try:
            info = await self._api.request(
                f"{verb}.{config.name}", config, StreamInfo, features=features_of(config)
            )
        except JetStreamAPIError as error:
            if error.err_code == ErrorCode.STREAM_SUBJECT_OVERLAP:
                raise described(error, await self._describe_overlap(config)) from None
            raise
        if missing := left_out(config, info.config):
            raise api_level_error(missing, detail=f"stream {config.name!r} exists now without it")
        return construct(Stream, self._api, info)

    async def _describe_overlap(self, config: StreamConfig) -> str:
        subjects = config.subjects or [config.name]
        text = f"stream {config.name!r} cannot store {', '.join(map(repr, subjects)):.500}"
        with suppress(NatsError):
            for subject in subjects:
                async for name in self.stream_names(subject=subject):
                    if name != config.name:
                        return f"{text}: stream {name!r} stores {subject!r}, or a part of it"
        return f"{text}: another stream stores some of these subjects"

    async def _describe_differences(self, config: StreamConfig) -> str:
        text = f"stream {config.name!r} exists already, with another configuration"
        try:
            info = await self._api.request(f"STREAM.INFO.{config.name}", None, StreamInfo)
        except NatsError:
            return text
        if found := json_codec.differences(config, info.config):
            text += f": {found}"
        return f"{text}. Update it, or use another name"

    async def create_or_update_stream(
        self, config: StreamConfig | str | None = None, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Create a stream, or update it if it exists, as :meth:`update_stream` does.

        If cancelled, the stream may have been created or updated.

        :param config: a configuration, or the name. Default: the ``name`` in ``options``.
        :param options: fields of :class:`StreamConfig`; they override those of ``config``.
        :returns: the stream.
        :raises APILevelError: if the server is too old for some of the settings.
        """
        try:
            return await self.update_stream(config, **options)
        except StreamNotFoundError:
            pass
        try:
            return await self._put("STREAM.CREATE", whole_config(StreamConfig, config, options))
        except StreamNameInUseError:  # another client has just created it
            return await self.update_stream(config, **options)

    async def stream(self, name: str) -> Stream:
        """Get a stream.

        If cancelled, nothing changes.

        :param name: the name of the stream.
        :returns: the stream.
        :raises StreamNotFoundError: if the stream does not exist.
        """
        check_name("stream", name)
        return construct(
            Stream, self._api, await self._api.request(f"STREAM.INFO.{name}", None, StreamInfo)
        )

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with its messages and consumers.

        If cancelled, the stream may have been deleted.

        :param name: the name of the stream.
        :raises StreamNotFoundError: if the stream does not exist.
        """
        check_name("stream", name)
        await self._api.request(f"STREAM.DELETE.{name}", None, Answer)

    async def stream_name_by_subject(self, subject: str) -> str:
        """Get the name of the stream that stores a subject.

        If cancelled, nothing changes.

        :param subject: the subject. If it has wildcards and several streams store parts of it, the
            first of them is meant.
        :returns: the name of the stream.
        :raises StreamNotFoundError: if no stream stores the subject.
        """
        async for name in self.stream_names(subject=subject):
            return name
        raise StreamNotFoundError(
            404, ErrorCode.STREAM_NOT_FOUND, f"no stream stores {subject[:80]!r}"
        )

    async def stream_by_subject(self, subject: str) -> Stream:
        """Get the stream that stores a subject.

        If cancelled, nothing changes.

        :param subject: as for :meth:`stream_name_by_subject`.
        :returns: the stream.
        :raises StreamNotFoundError: if no stream stores the subject.
        """
        return await self.stream(await self.stream_name_by_subject(subject))

    def stream_names(self, *, subject: str | None = None) -> PageIterator[str]:
        """List the names of the streams: ``async for name in js.stream_names():``.

        :param subject: list only streams that store this subject, or a part of it; it may have
            wildcards. Default: list all.
        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        return self._api.paged("STREAM.NAMES", self._listing(subject), _Names, _names)

    def streams(self, *, subject: str | None = None) -> PageIterator[StreamInfo]:
        """List the streams: ``async for info in js.streams():``.

        Streams that the server cannot reach at the moment are missing.

        :param subject: list only streams that store this subject, or a part of it; it may have
            wildcards. Default: list all.
        :returns: an iterator over infos, like :attr:`Stream.info`; see :class:`PageIterator`.
        """
        return self._api.paged(
            "STREAM.LIST",
            self._listing(subject),
            _Infos,
            lambda page: page.streams,
        )

    def _listing(self, subject: str | None) -> Callable[[int], _ListRequest]:
        if subject is not None:
            check_filter("subject", subject)
        return lambda offset: _ListRequest(offset=offset, subject=subject or "")

    def __repr__(self) -> str:
        return f"<JetStream {self.prefix!r}>"
