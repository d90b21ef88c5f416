"""The nursery that everything in this package runs in, and one policy for what comes out of it.

A Trio nursery raises an exception group whatever went wrong in it. Behind a block such as
``async with open_nats()`` that is of no use: the tasks are ours, you do not know of them, and
``except KeyError`` around the block has to catch the KeyError raised in it. So here

1. what the block raised leaves it as the same object, a group of your own included;
2. what a task raised cancels the block, and leaves it as itself, in place of that cancellation;
3. a cancellation from outside passes on as one :exc:`trio.Cancelled`;
4. KeyboardInterrupt, SystemExit and their kind come before everything else.

Only one exception can leave. Any others are logged with their tracebacks, so none is lost.
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
    """Like :func:`trio.open_nursery`, but raises no exception groups of its own.

    :param closing: awaited when the block has ended, with what it raised, before the tasks are
        waited for. What it raises takes the place of that.
    """
    return _NurseryManager(closing)


class _NurseryManager(AbstractAsyncContextManager[trio.Nursery, bool | None]):
    def __init__(self, closing: Closing | None) -> None:
        self._closing = closing

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> trio.Nursery:
        # Around the nursery, for what the block raised does not go through the nursery itself,
        # which would put it into a group, and rebuild it if it is one.
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
        left = await self._close(exc)
        if left is not None:
            self._nursery.cancel_scope.cancel()
        raised = await self._join()
        left = self._without_ours(left)
        leaving = _choose(left, raised)
        try:
            if leaving is None or leaving is exc:
                return leaving is None
            _raise(leaving)
        finally:
            # The traceback of what is raised refers to this frame.
            del exc, traceback, raised, left, leaving

    async def _close(self, exc: BaseException | None) -> BaseException | None:
        if self._closing is not None:
            try:
                await self._closing(exc)
            except BaseException as error:
                return error
        return exc

    async def _join(self) -> tuple[BaseException, ...]:
        """Wait for all tasks, and return what they raised."""
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            return group.exceptions
        except trio.Cancelled as cancelled:
            return (cancelled,)
        return ()

    def _without_ours(self, exc: BaseException | None) -> BaseException | None:
        """``exc`` less the cancellations that were the nursery's."""
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


def _choose(left: BaseException | None, raised: tuple[BaseException, ...]) -> BaseException | None:
    """The one exception to raise, of what the block and the tasks raised; the rest is logged."""
    everything = raised if left is None else (left, *raised)
    failures = [error for error in everything if not _is_cancelled(error)]
    if not failures:
        return next(iter(everything), None)
    # min() takes the first of equals: the block's own before those of tasks.
    leaving = min(failures, key=lambda error: isinstance(error, Exception))
    for error in failures:
        if error is not leaving:
            _logger.error("another task failed as well: %r", error, exc_info=error)
    return leaving


def _has_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_has_cancelled(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled)


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is a cancellation and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_cancelled(one) for one in error.exceptions)
    return isinstance(error, trio.Cancelled)


def _raise(error: BaseException) -> NoReturn:
    """Raise it with the context that it has."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
