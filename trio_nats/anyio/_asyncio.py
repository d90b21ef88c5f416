"""A connection's way from asyncio to Trio and back."""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Generic, NoReturn, TypeVar, TypeVarTuple

import anyio.lowlevel
import outcome
import trio

import trio_nats
from trio_nats import HeadersLike, OutboxFullError, Payload

from ._backend import Publish
from ._guest import Call, Guest

__all__ = ["AsyncioHost"]

_logger = logging.getLogger("trio_nats")

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class AsyncioHost:
    """See :class:`._host.Host`. One for each connection; the guest run is shared."""

    def __init__(self) -> None:
        self._leave = trio.Event()
        self._guest: Guest | None = None
        self._holder: Call | None = None

    @property
    def guest(self) -> Guest:
        """The Trio run. It is there while the connection's block is entered, open, or left."""
        assert self._guest is not None
        return self._guest

    # --- the connection's block -------------------------------------------------------------------

    async def open(
        self, manager: AbstractAsyncContextManager[trio_nats.Connection]
    ) -> trio_nats.Connection:
        """See :class:`._host.Host`. The block lives in a Trio task of its own."""
        self._guest = guest = await Guest.join()
        try:
            opened: asyncio.Future[trio_nats.Connection | None] = guest.loop.create_future()
            self._holder = holder = guest.start(self._hold, manager, opened)
            holder.ended.add_done_callback(lambda _: _resolve(opened))
            try:
                connection = await opened
            except asyncio.CancelledError as error:
                await guest.cancel(holder)
                self._raise_failure(error)
                raise
            if connection is None:
                await guest.unwrap(holder)
                raise AssertionError("it ended without an error")
            return connection
        except BaseException:
            await guest.leave()
            raise

    async def _hold(
        self,
        manager: AbstractAsyncContextManager[trio_nats.Connection],
        opened: asyncio.Future[trio_nats.Connection | None],
    ) -> None:
        async with manager as connection:
            _resolve(opened, connection)
            await self._leave.wait()

    async def close(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See :class:`._host.Host`."""
        guest, holder = self.guest, self._holder
        assert holder is not None
        try:
            if exc is None:
                self._leave.set()
                try:
                    await asyncio.wait([holder.ended])
                except asyncio.CancelledError as error:
                    await guest.cancel(holder)
                    self._raise_failure(error)
                    raise
                await guest.unwrap(holder)
            else:
                await guest.cancel(holder)
                self._raise_failure(exc)
        finally:
            await guest.leave()

    def _raise_failure(self, leaving: BaseException) -> None:
        """Tell of a failure in the connection's own tasks, by the rules of ``trio_nats._nursery``.

        ``leaving`` is on its way out of the block already.
        """
        assert self._holder is not None
        result = self._holder.result
        if not isinstance(result, outcome.Error):
            return
        if isinstance(leaving, asyncio.CancelledError) or (
            isinstance(leaving, Exception) and not isinstance(result.error, Exception)
        ):
            raise result.error
        _logger.error("another task failed as well: %r", result.error, exc_info=result.error)

    # --- using it --------------------------------------------------------------------------------

    async def run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """See :class:`._host.Host`."""
        return await self.guest.run(function, *args, undo=undo)

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """See :class:`._host.Host`."""
        return await self.guest.call_back(function, *args)

    def publisher(self, connection: trio_nats.Connection) -> Publish:
        """See :class:`._host.Host`. Publishing is synchronous, except where it has to wait."""
        turn = 0

        async def publish(
            subject: str,
            payload: Payload = b"",
            *,
            reply: str | None = None,
            headers: HeadersLike | None = None,
        ) -> None:
            nonlocal turn
            turn = (turn + 1) & 63
            if turn:
                await anyio.lowlevel.checkpoint_if_cancelled()
            else:
                await anyio.lowlevel.checkpoint()
            try:
                connection.publish_nowait(subject, payload, reply=reply, headers=headers)
            except OutboxFullError:
                await self.run(
                    partial(connection.publish, subject, payload, reply=reply, headers=headers)
                )
            except RuntimeError:
                # There is no Trio run to wake the writer in.
                if self.guest.over:
                    raise self.guest.why_over() from None
                raise

        return publish

    def receiver(self, channel: trio.abc.ReceiveChannel[_T]) -> Callable[[], Awaitable[_T]]:
        """See :class:`._host.Host`."""
        nowait: Callable[[], _T] = getattr(channel, "receive_nowait", _would_block)
        return _Receiver(self.guest, channel.receive, nowait).receive


def _resolve(future: asyncio.Future[_T | None], value: _T | None = None) -> None:
    if not future.done():
        future.set_result(value)


def _would_block() -> NoReturn:
    raise trio.WouldBlock


class _Receiver(Generic[_T]):
    """Takes from a Trio channel for tasks of asyncio.

    What is there already is taken without a detour. Only to wait a Trio task is started, the pump,
    which receives as long as someone waits here. All is kept in order: while the pump runs, it is
    the only one to take from the channel, and what it received for a task that was cancelled in
    the same moment goes to the next one, or waits here.
    """

    def __init__(
        self, guest: Guest, receive: Callable[[], Awaitable[_T]], nowait: Callable[[], _T]
    ) -> None:
        self._guest = guest
        self._receive = receive
        self._nowait = nowait
        self._turn = 0
        self._number = 0
        self._returned: list[tuple[int, _T]] = []
        self._waiting: deque[asyncio.Future[tuple[int, outcome.Outcome[_T]]]] = deque()
        self._pump: Call | None = None

    async def receive(self) -> _T:
        """The next item. If cancelled, none is lost."""
        self._turn = (self._turn + 1) & 63
        if self._turn:
            await anyio.lowlevel.checkpoint_if_cancelled()
        else:
            await anyio.lowlevel.checkpoint()
        if self._returned:
            return self._returned.pop(0)[1]
        if self._pump is None:
            try:
                return self._nowait()
            except trio.WouldBlock:
                pass
        return await self._wait()

    async def _wait(self) -> _T:
        waiter: asyncio.Future[tuple[int, outcome.Outcome[_T]]] = self._guest.loop.create_future()
        self._waiting.append(waiter)
        if self._pump is None:
            self._start()
        try:
            _, result = await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                if not self._waiting and self._pump is not None:
                    self._pump.scope.cancel()
            else:
                self._give_back(*waiter.result())
            raise
        return result.unwrap()

    def _give_back(self, number: int, result: outcome.Outcome[_T]) -> None:
        if isinstance(result, outcome.Value) and not self._hand(number, result):
            bisect.insort(self._returned, (number, result.value), key=_number)

    def _hand(self, number: int, result: outcome.Outcome[_T]) -> bool:
        """Give it to the task that has waited longest, if there is one."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result((number, result))
                return True
        return False

    # --- the pump --------------------------------------------------------------------------------

    def _start(self) -> None:
        self._pump = self._guest.start(self._run)
        self._pump.ended.add_done_callback(self._ended)

    async def _run(self) -> None:
        while self._waiting:
            result: outcome.Outcome[_T]
            try:
                result = outcome.Value(await self._receive())
            except trio.Cancelled:
                raise
            except BaseException as error:
                result = outcome.Error(error)
            self._number += 1
            if not self._hand(self._number, result):
                self._give_back(self._number, result)
        self._pump = None

    def _ended(self, _: asyncio.Future[None]) -> None:
        """The pump was cancelled, for nobody waited any more; but that may have changed."""
        pump = self._pump
        if pump is not None and pump.finished:
            self._pump = None
            if self._guest.over:
                while self._hand(0, outcome.Error(self._guest.why_over())):
                    pass
            elif self._waiting:
                self._start()


def _number(entry: tuple[int, object]) -> int:
    return entry[0]
