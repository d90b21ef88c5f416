"""A nursery that raises single exceptions, used by the whole package.

A Trio nursery wraps every exception in an exception group. For a block such as ``async with
open_nats()`` that is of no use: users do not know of the background tasks, and ``except KeyError``
around the block must catch a KeyError raised in it. So the nursery here follows these rules:

1. An exception of the block is raised as the same object, even if it is an exception group.
2. An exception of a task cancels the block, and is raised in place of that cancellation.
3. A cancellation from outside is raised as one :exc:`trio.Cancelled`.
4. Exceptions such as KeyboardInterrupt and SystemExit take precedence over all others.

Only one exception can be raised. The others are logged with their tracebacks.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import NoReturn

import trio

__all__ = ["open_nursery"]

_logger = logging.getLogger("trio_nats")


Closing = Callable[[BaseException | None], Awaitable[None]]


def open_nursery(
    closing: Closing | None = None,
) -> AbstractAsyncContextManager[trio.Nursery, bool | None]:
    """Like :func:`trio.open_nursery`, but without exception groups of its own.

    :param closing: awaited with the exception of the block, or ``None``, when the block has ended
        and before its tasks are waited for. If it raises, that replaces the exception of the block.
    """
    return _NurseryManager(closing)


class _NurseryManager(AbstractAsyncContextManager[trio.Nursery, bool | None]):
    def __init__(self, closing: Closing | None) -> None:
        self._closing = closing

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> trio.Nursery:
        # The nursery would wrap an exception of the block in a group. So it never sees one, and
        # this scope around it absorbs the cancellations that the nursery causes in the block.
        self._scope = trio.CancelScope()
        self._scope.__enter__()
        self._manager = trio.open_nursery(strict_exception_groups=True)
        self._nursery = await self._manager.__aenter__()
        return self._nursery

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        from_block = await self._close(exc)
        if from_block is not None:
            self._nursery.cancel_scope.cancel()
        from_tasks = await self._join()
        from_block = self._without_own_cancellation(from_block)
        chosen = _choose(from_block, from_tasks)
        try:
            if chosen is None or chosen is exc:
                return chosen is None
            _raise(chosen)
        finally:
            # Break reference cycles: the traceback of the exception refers to this frame.
            del exc, traceback, from_tasks, from_block, chosen

    async def _close(self, exc: BaseException | None) -> BaseException | None:
        if self._closing is not None:
            try:
                await self._closing(exc)
            except BaseException as error:
                return error
        return exc

    async def _join(self) -> tuple[BaseException, ...]:
        """Wait for all tasks, and return their exceptions."""
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            return group.exceptions
        except trio.Cancelled as cancelled:
            return (cancelled,)
        return ()

    def _without_own_cancellation(self, exc: BaseException | None) -> BaseException | None:
        """Return ``exc`` without the cancellations that the nursery caused."""
        if exc is None or not _has_cancelled(exc):
            self._scope.__exit__(None, None, None)
            return exc
        if self._nursery.cancel_scope.cancel_called:
            self._scope.cancel()
        try:
            absorbed = self._scope.__exit__(type(exc), exc, exc.__traceback__)
        except BaseException as rest:
            return rest
        return None if absorbed else exc


def _choose(
    from_block: BaseException | None, from_tasks: tuple[BaseException, ...]
) -> BaseException | None:
    """Return the exception to raise, and log the others."""
    everything = from_tasks if from_block is None else (from_block, *from_tasks)
    failures = [error for error in everything if not _is_cancelled(error)]
    if not failures:
        return next(iter(everything), None)
    # min() returns the first of equals, so the block's exception comes before those of tasks.
    chosen = min(failures, key=lambda error: isinstance(error, Exception))
    for error in failures:
        if error is not chosen:
            _logger.error("another task failed as well: %r", error, exc_info=error)
    return chosen


def _has_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_has_cancelled(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled)


def _is_cancelled(error: BaseException) -> bool:
    """Return whether an exception is a cancellation, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancelled(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled)


def _raise(error: BaseException) -> NoReturn:
    """Raise an exception without changing its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
