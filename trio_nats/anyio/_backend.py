"""The interface between a connection and the event loop it is used from, and its Trio version."""

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
    """The signature of :meth:`trio_nats.Connection.publish`."""

    async def __call__(
        self,
        subject: str,
        payload: Payload = b"",
        *,
        reply: str | None = None,
        headers: HeadersLike | None = None,
    ) -> None: ...


class Host(Protocol):
    """Calls Trio functions from the user's event loop, for one connection.

    Its methods raise Trio's exceptions. The public classes translate them.
    """

    async def open(
        self, manager: AbstractAsyncContextManager[trio_nats.Connection]
    ) -> trio_nats.Connection:
        """Enter the ``open_nats`` block of a Trio connection."""
        ...

    async def close(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the block, normally or because of an exception."""
        ...

    async def run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """Call a Trio function, and cancel it when the caller is cancelled.

        :param undo: called if the function succeeds although the caller was cancelled, so that a
            cancelled call has no effect.
        """
        ...

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """Call a user's function, written for the user's event loop, from a Trio task."""
        ...

    def publisher(self, connection: trio_nats.Connection) -> Publish:
        """Return the fastest way to publish."""
        ...

    def receiver(self, channel: trio.abc.ReceiveChannel[_T]) -> Callable[[], Awaitable[_T]]:
        """Return the fastest way to receive from a channel. If cancelled, no item is lost."""
        ...


class TrioHost:
    """Calls Trio directly, because the user's event loop is Trio's."""

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
        """See :class:`Host`. A cancelled call has no effect in Trio, so ``undo`` is not needed."""
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
