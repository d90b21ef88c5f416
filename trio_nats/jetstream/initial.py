"""The loop over the entries that are current when a watch starts, for both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import trio

__all__ = ["InitialIterator"]

T = TypeVar("T")


class InitialIterator(AsyncIterator[T]):
    """Iterate until a watcher has caught up.

    It is not an async generator, because you would have to close that.

    :param caught_up: set when the watcher has caught up.
    :param step: returns the next entry, or ``None`` if there is none to hand out.
    """

    def __init__(self, caught_up: trio.Event, step: Callable[[], Awaitable[T | None]]) -> None:
        self._caught_up = caught_up
        self._step = step

    async def __anext__(self) -> T:
        while not self._caught_up.is_set():
            entry = await self._step()
            if entry is not None:
                return entry
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration
