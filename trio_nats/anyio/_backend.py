"""What a connection needs of the event loop it is used from, and Trio's way to give it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, TypeVar, TypeVarTuple, cast

import trio

import trio_nats
from trio_nats import HeadersLike, Payload

__all__ = ["Host", "Publish", "TrioHost"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Publish(Protocol):
    """:meth:`trio_nats.Connection.publish`."""

    async def __call__(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None: ...


class Host(Protocol):
    """One connection's way from the caller's event loop to Trio and back.

    All of it raises Trio's errors; they are translated once, where users call.
    """

    async def open(
        self, manager: AbstractAsyncContextManager[trio_nats.Connection]
    ) -> trio_nats.Connection:
        """Enter the block of a Trio connection."""
        ...

    async def close(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave it, normally or because of an exception."""
        ...

    async def run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """Call a Trio function, and cancel it when the caller is cancelled.

        Where it had happened already by then, and the caller is told that it has not, ``undo``
        takes it back.
        """
        ...

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """From Trio: call a function of the user's, who may have written it for asyncio."""
        ...

    def publisher(self, connection: trio_nats.Connection) -> Publish:
        """The quickest way to publish."""
        ...

    def receiver(self, channel: trio.abc.ReceiveChannel[_T]) -> Callable[[], Awaitable[_T]]:
        """The quickest way to receive from a channel. If cancelled, it loses nothing."""
        ...


class TrioHost:
    """Nothing stands between the caller and Trio."""

    def __init__(self) -> None:
        self._manager: AbstractAsyncContextManager[trio_nats.Connection] | None = None

    async def open(
        self, manager: AbstractAsyncContextManager[trio_nats.Connection]
    ) -> trio_nats.Connection:
        """See :class:`Host`."""
        connection = await manager.__aenter__()
        self._manager = manager
        return connection

    async def close(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See :class:`Host`."""
        assert self._manager is not None
        await self._manager.__aexit__(exc_type, exc, traceback)

    async def run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """See :class:`Host`. What is cancelled in Trio has not happened: nothing to undo."""
        return await function(*args)

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """See :class:`Host`."""
        answer = function(*args)
        return cast("_T", await answer if inspect.isawaitable(answer) else answer)

    def publisher(self, connection: trio_nats.Connection) -> Publish:
        """See :class:`Host`."""
        return connection.publish

    def receiver(self, channel: trio.abc.ReceiveChannel[_T]) -> Callable[[], Awaitable[_T]]:
        """See :class:`Host`."""
        return channel.receive
