"""JetStream, as a connection sees it (ADR-37)."""

from __future__ import annotations

from typing import Unpack

import msgspec

from ..errors import ConfigurationError
from ..messaging import Messaging
from .api import API
from .config import StreamConfig, StreamOptions, check_stream, required_level
from .info import AccountInfo, StreamInfo
from .names import check_name
from .stream import Stream
from .wire import Answer

__all__ = ["JetStream"]


class JetStream:
    """JetStream, as made by :meth:`Connection.jetstream`.

    Unless said otherwise its methods raise :exc:`ConfigurationError` or
    :exc:`InvalidSubjectError` for what cannot be asked for; :exc:`JetStreamAPIError`, or the
    subclass for it, for what the server refuses; :exc:`JetStreamNotEnabledError` if there is no
    JetStream; :exc:`RequestTimeoutError` if no answer comes within ``timeout`` seconds;
    :exc:`JetStreamError` for answers that make no sense; and what :meth:`Connection.request` raises
    else. Cancelled, what was asked for may happen all the same.
    """

    def __init__(
        self,
        nc: Messaging,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self._api = API(nc, domain=domain, prefix=prefix, timeout=timeout)

    @property
    def prefix(self) -> str:
        """What the subjects of requests to the API begin with."""
        return self._api.prefix

    @property
    def timeout(self) -> float:
        """Seconds that an answer may take, unless a call says otherwise."""
        return self._api.timeout

    async def account_info(self) -> AccountInfo:
        """What the account has and may have, and the server's API level."""
        return await self._api.request("INFO", None, AccountInfo)

    # --- streams ---------------------------------------------------------------------------------

    async def create_stream(
        self, config: StreamConfig | str, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Create a stream: ``await js.create_stream("ORDERS", subjects=["orders.>"])``.

        ``config`` is a whole configuration, or the name; the keywords are the fields of
        :class:`StreamConfig` and override what it says. A stream that is there already, with the
        same configuration, is as good as a new one; otherwise :exc:`StreamNameInUseError` is
        raised.
        """
        return await self._put("CREATE", _whole(config, options))

    async def update_stream(
        self, config: StreamConfig | str, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Configure a stream anew: all of it, not only what is given.

        To change some of it say ``await js.update_stream(stream.info.config, max_msgs=10)``.
        Raises :exc:`StreamNotFoundError` if there is none.
        """
        return await self._put("UPDATE", _whole(config, options))

    async def _put(self, verb: str, config: StreamConfig) -> Stream:
        check_stream(self._api.nc, config)
        info = await self._api.request(
            f"STREAM.{verb}.{config.name}", config, StreamInfo, level=required_level(config)
        )
        return Stream(self._api, info)

    async def stream(self, name: str) -> Stream:
        """The stream of that name. Raises :exc:`StreamNotFoundError` if there is none."""
        check_name("stream", name)
        return Stream(self._api, await self._api.request(f"STREAM.INFO.{name}", None, StreamInfo))

    async def delete_stream(self, name: str) -> None:
        """Delete a stream and all in it. Raises :exc:`StreamNotFoundError` if there is none."""
        check_name("stream", name)
        await self._api.request(f"STREAM.DELETE.{name}", None, Answer)

    def __repr__(self) -> str:
        return f"<JetStream {self.prefix!r}>"


def _whole(config: StreamConfig | str, options: StreamOptions) -> StreamConfig:
    try:
        if isinstance(config, str):
            return StreamConfig(name=config, **options)
        if isinstance(config, StreamConfig):
            return msgspec.structs.replace(config, **options)
    except TypeError as error:
        raise ConfigurationError(f"StreamConfig: {error}") from None
    raise ConfigurationError(
        f"a stream is given by a StreamConfig or its name, not {type(config).__name__}"
    )
