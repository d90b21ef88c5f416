"""JetStream, as a connection sees it, without the stores that are built on it (ADR-37)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Unpack

import msgspec

from .._constructors import construct
from ..connection_base import BaseConnection
from ..errors import NatsError
from . import json_codec
from .api import API, Page, PageIterator
from .consumer.inboxes import InboxPool
from .errors import (
    APILevelError,
    ErrorCode,
    StreamNameInUseError,
    StreamNotFoundError,
    described,
)
from .info import AccountInfo, StreamInfo
from .json_codec import Answer
from .publish.publish import Publishing
from .stream import Stream
from .stream_config import StreamConfig, StreamOptions, check_stream, left_out, required_level
from .validation import check_filter, check_name, whole_config

__all__ = ["BaseJetStream"]


class _ListRequest(msgspec.Struct, frozen=True, kw_only=True):
    offset: int = 0
    subject: str = ""


class _Names(Page, frozen=True, kw_only=True):
    streams: Sequence[str] = ()


class _Infos(Page, frozen=True, kw_only=True):
    streams: Sequence[StreamInfo] = ()


def _names(page: _Names) -> Sequence[str]:
    return page.streams


class BaseJetStream(Publishing):
    """All of :class:`~trio_nats.jetstream.JetStream` except key-value and object stores.

    They are built on this class, so that they need not import what imports them.
    """

    def __init__(
        self,
        nc: BaseConnection,
        inboxes: InboxPool,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(API(nc, inboxes, domain=domain, prefix=prefix, timeout=timeout))

    @property
    def connection(self) -> BaseConnection:
        """The connection."""
        return self._api.nc

    @property
    def prefix(self) -> str:
        """The prefix of the subjects of API requests."""
        return self._api.prefix

    @property
    def timeout(self) -> float:
        """Seconds to wait for an answer of the API, unless a call has its own timeout."""
        return self._api.timeout

    async def account_info(self) -> AccountInfo:
        """Request the use and the limits of the account, and the API level. If cancelled, nothing
        changes.
        """
        return await self._api.request("INFO", None, AccountInfo)

    # --- streams ---------------------------------------------------------------------------------

    async def create_stream(
        self, config: StreamConfig | str, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Create a stream: ``await js.create_stream("ORDERS", subjects=["orders.>"])``.

        A stream that exists with the same configuration is returned. If cancelled, it may have been
        created.

        :param config: a configuration, or the name of the stream.
        :param options: fields of :class:`StreamConfig`; they override those of ``config``.
        :returns: the stream.
        :raises ConfigurationError: if the configuration is invalid.
        :raises StreamNameInUseError: if it exists with another configuration.
        :raises APILevelError: if the server is too old for an option. A server before 2.12 has
            created the stream without it.
        """
        whole = whole_config(StreamConfig, config, options)
        try:
            return await self._put("CREATE", whole)
        except StreamNameInUseError as error:
            raise described(error, await self._what_differs(whole)) from None

    async def update_stream(
        self, config: StreamConfig | str, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Replace the configuration of a stream: options that are not given get their defaults.

        To change an option, pass ``await js.update_stream(stream.info.config, max_msgs=10)``. If
        cancelled, it may have been updated.

        :param config: a configuration, or the name of the stream.
        :param options: fields of :class:`StreamConfig`; they override those of ``config``.
        :returns: the stream.
        :raises StreamNotFoundError: if it does not exist.
        """
        return await self._put("UPDATE", whole_config(StreamConfig, config, options))

    async def _put(self, verb: str, config: StreamConfig) -> Stream:
        check_stream(config)
        info = await self._api.request(
            f"STREAM.{verb}.{config.name}", config, StreamInfo, level=required_level(config)
        )
        if missing := left_out(config, info.config):
            raise APILevelError(
                412,
                ErrorCode.REQUIRED_API_LEVEL,
                f"stream {config.name!r} is there now, but without {', '.join(missing)}: its "
                "server is too old for that",
            )
        return construct(Stream, self._api, info)

    async def _what_differs(self, config: StreamConfig) -> str:
        text = f"stream {config.name!r} exists already, with another configuration"
        try:
            info = await self._api.request(f"STREAM.INFO.{config.name}", None, StreamInfo)
        except NatsError:
            return text
        if what := json_codec.differences(config, info.config):
            text += f": {what}"
        return f"{text}. Update it, or use another name"

    async def create_or_update_stream(
        self, config: StreamConfig | str, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Create a stream, or replace its configuration.

        If cancelled, it may have been created or updated.

        :param config: a configuration, or the name of the stream.
        :param options: fields of :class:`StreamConfig`; they override those of ``config``.
        :returns: the stream.
        """
        whole = whole_config(StreamConfig, config, options)
        try:
            return await self._put("UPDATE", whole)
        except StreamNotFoundError:
            pass
        try:
            return await self._put("CREATE", whole)
        except StreamNameInUseError:  # somebody else has just created it
            return await self._put("UPDATE", whole)

    async def stream(self, name: str) -> Stream:
        """Get a stream. If cancelled, nothing changes.

        :param name: its name.
        :raises StreamNotFoundError: if it does not exist.
        """
        check_name("stream", name)
        return construct(
            Stream, self._api, await self._api.request(f"STREAM.INFO.{name}", None, StreamInfo)
        )

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with its messages. If cancelled, it may have been deleted.

        :param name: its name.
        :raises StreamNotFoundError: if it does not exist.
        """
        check_name("stream", name)
        await self._api.request(f"STREAM.DELETE.{name}", None, Answer)

    async def stream_name_by_subject(self, subject: str) -> str:
        """Get the name of the first stream that stores a subject. If cancelled, nothing changes.

        :param subject: the subject.
        :raises StreamNotFoundError: if no stream stores it.
        """
        async for name in self.stream_names(subject=subject):
            return name
        raise StreamNotFoundError(
            404, ErrorCode.STREAM_NOT_FOUND, f"no stream stores {subject[:80]!r}"
        )

    async def stream_by_subject(self, subject: str) -> Stream:
        """Get the first stream that stores a subject. If cancelled, nothing changes.

        :param subject: the subject.
        :raises StreamNotFoundError: if no stream stores it.
        """
        return await self.stream(await self.stream_name_by_subject(subject))

    def stream_names(self, *, subject: str | None = None) -> PageIterator[str]:
        """List the names of the streams: ``async for name in js.stream_names():``.

        :param subject: list only the streams that store some of it; it may have wildcards.
        :returns: an iterator over the names; see :class:`PageIterator`.
        """
        return self._api.paged("STREAM.NAMES", self._listing(subject), _Names, _names)

    def streams(self, *, subject: str | None = None) -> PageIterator[StreamInfo]:
        """List the streams: ``async for info in js.streams():``.

        Streams that are out of reach at the moment are left out.

        :param subject: list only the streams that store some of it; it may have wildcards.
        :returns: an iterator over what :attr:`Stream.info` is for each; see :class:`PageIterator`.
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
