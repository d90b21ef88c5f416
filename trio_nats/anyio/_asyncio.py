"""Use a connection, which runs in Trio, from asyncio.

Theory of operation. Trio runs as a guest of the asyncio loop, in the same thread (see
:mod:`._guest`). The ``open_nats`` block lives in a Trio task of its own. An operation that may wait
is called in a new Trio task; cancelling the asyncio task cancels that task, and waits until it has
ended. Starting a task takes long, so what can be done without waiting is called directly from
asyncio: publishing while the outbox has space, and receiving a message that is already queued.
"""

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
    """See :class:`._backend.Host`. All connections of a loop share one guest run."""

    def __init__(self) -> None:
        self._leave = trio.Event()
        self._guest: Guest | None = None
        self._block: Call | None = None
        """The Trio task in which the connection's block is open."""

    @property
    def guest(self) -> Guest:
        """The Trio run, from entering the connection's block until it has been left."""
        assert self._guest is not None
        return self._guest

    # --- the connection's block -------------------------------------------------------------------

    async def open(
        self, manager: AbstractAsyncContextManager[trio_nats.Connection]
    ) -> trio_nats.Connection:
        """See :class:`._backend.Host`."""
        self._guest = guest = await Guest.join()
        try:
            opened: asyncio.Future[trio_nats.Connection | None] = guest.loop.create_future()
            self._block = block = guest.start(self._run_block, manager, opened)
            block.ended.add_done_callback(lambda _: _resolve(opened))
            try:
                connection = await opened
            except asyncio.CancelledError as error:
                await guest.cancel(block)
                self._raise_failure(error)
                raise
            if connection is None:
                await guest.unwrap(block)
                raise AssertionError("it ended without an error")
            return connection
        except BaseException:
            await guest.leave()
            raise

    async def _run_block(
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
        """See :class:`._backend.Host`."""
        guest, block = self.guest, self._block
        assert block is not None
        try:
            if exc is None:
                self._leave.set()
                try:
                    await asyncio.wait([block.ended])
                except asyncio.CancelledError as error:
                    await guest.cancel(block)
                    self._raise_failure(error)
                    raise
                await guest.unwrap(block)
            else:
                await guest.cancel(block)
                self._raise_failure(exc)
        finally:
            await guest.leave()

    def _raise_failure(self, leaving: BaseException) -> None:
        """Raise or log a failure of the connection's tasks, by the rules of ``trio_nats._nursery``.

        :param leaving: the exception that is leaving the block.
        """
        assert self._block is not None
        result = self._block.result
        if not isinstance(result, outcome.Error):
            return
        if isinstance(leaving, asyncio.CancelledError) or (
            isinstance(leaving, Exception) and not isinstance(result.error, Exception)
        ):
            raise result.error
        _logger.error("another task failed as well: %r", result.error, exc_info=result.error)

    # --- using the connection --------------------------------------------------------------------

    async def run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """See :class:`._backend.Host`."""
        return await self.guest.run(function, *args, undo=undo)

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """See :class:`._backend.Host`."""
        return await self.guest.call_back(function, *args)

    def publisher(self, connection: trio_nats.Connection) -> Publish:
        """See :class:`._backend.Host`. It is synchronous unless it has to wait for space."""
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
                # Without a Trio run, the writer cannot be woken.
                if self.guest.has_ended:
                    raise self.guest.ended_error() from None
                raise

        return publish

    def receiver(self, channel: trio.abc.ReceiveChannel[_T]) -> Callable[[], Awaitable[_T]]:
        """See :class:`._backend.Host`."""
        nowait: Callable[[], _T] = getattr(channel, "receive_nowait", _would_block)
        return _Receiver(self.guest, channel.receive, nowait).receive


def _resolve(future: asyncio.Future[_T | None], value: _T | None = None) -> None:
    if not future.done():
        future.set_result(value)


def _would_block() -> NoReturn:
    raise trio.WouldBlock


class _Receiver(Generic[_T]):
    """Receives from a Trio channel in asyncio tasks.

    Items that are already queued are received directly. To wait, a Trio task is started, the pump,
    which receives as long as an asyncio task waits. Order is kept: while the pump runs, nothing
    else receives from the channel. If an asyncio task is cancelled just when it is given an item,
    that goes to the next waiting task, or is kept for the next call.
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
        """Return the next item. If cancelled, none is lost."""
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
                self._return(*waiter.result())
            raise
        return result.unwrap()

    def _return(self, number: int, result: outcome.Outcome[_T]) -> None:
        if isinstance(result, outcome.Value) and not self._pass_on(number, result):
            bisect.insort(self._returned, (number, result.value), key=_number)

    def _pass_on(self, number: int, result: outcome.Outcome[_T]) -> bool:
        """Give a result to the task that has waited longest. Returns whether there is one."""
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
            if not self._pass_on(self._number, result):
                self._return(self._number, result)
        self._pump = None

    def _ended(self, _: asyncio.Future[None]) -> None:
        """Start the pump again if a task waits that began to wait while the pump was cancelled."""
        pump = self._pump
        if pump is not None and pump.finished:
            self._pump = None
            if self._guest.has_ended:
                while self._pass_on(0, outcome.Error(self._guest.ended_error())):
                    pass
            elif self._waiting:
                self._start()


def _number(entry: tuple[int, object]) -> int:
    return entry[0]
