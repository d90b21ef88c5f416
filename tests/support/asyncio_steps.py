"""The counterpart of ``checkpoints`` for asyncio: cancel at every point at which asyncio can.

A suspended asyncio task can be cancelled in three cases. *Waiting*: its future is not done, and is
cancelled. *Woken*: its future is done, but the task has not run yet and gets the cancellation
instead of the result. *Running*: it has got the result, and is cancelled at its next suspension.
anyio's scopes do the first and the third, repeatedly until the block is left. ``Task.cancel`` does
all three, once.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Literal

import anyio

from tests.support.timeouts import HANG_TIMEOUT

from .checkpoints import Operation

__all__ = ["cancel_at_each_step"]

Moment = Literal["waiting", "woken", "running"]


async def cancel_at_each_step(
    make_operation: Callable[[], Awaitable[Operation]],
    check_after: Callable[[], Awaitable[object]],
    *,
    limit: int = 1000,
) -> int:
    """Run an operation repeatedly, and cancel it at its first, second, ... last suspension.

    ``make_operation`` prepares a new one and is never cancelled itself. ``check_after`` is called
    after each run. Returns the number of suspensions at which it was cancelled.
    """
    visited = 0
    with anyio.CancelScope() as scope:
        scope.cancel()
        operation = await _prepared(make_operation)
        await operation()
    await check_after()
    for native in (False, True):
        moments: tuple[Moment, ...] = ("waiting", "woken", "running")
        for moment in moments:
            if moment == "woken" and not native:
                continue
            for number in range(1, limit + 1):
                injector = _Injector(number, moment)
                operation = await make_operation()
                run = _run_native if native else _run_in_scope
                with anyio.fail_after(HANG_TIMEOUT):
                    await run(operation, injector)
                await check_after()
                if not injector.struck:
                    break
                visited += moment == "waiting"
            else:
                raise AssertionError(f"still suspended for the {limit}th time")
    return visited


async def _prepared(make_operation: Callable[[], Awaitable[Operation]]) -> Operation:
    with anyio.CancelScope(shield=True):
        return await make_operation()


async def _run_in_scope(operation: Operation, injector: _Injector) -> None:
    with anyio.CancelScope() as scope:
        injector.cancel = scope.cancel
        await injector.watch(operation())


async def _run_native(operation: Operation, injector: _Injector) -> None:
    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        injector.cancel = task.cancel
        await injector.watch(operation())

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class _Injector:
    """Calls ``cancel`` at the ``number``-th suspension of the watched operation."""

    def __init__(self, number: int, moment: Moment) -> None:
        self._left = number
        self._moment = moment
        self.struck = False
        self.cancel: Callable[[], object] = lambda: None

    @types.coroutine
    def watch(self, operation: Awaitable[object]) -> Generator[Any, Any, object]:
        steps = operation.__await__()
        error: BaseException | None = None
        while True:
            try:
                awaited = next(steps) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            counted = self._suspended(awaited)
            try:
                yield awaited
            except BaseException as thrown:
                error = thrown
            else:
                error = None
                if counted and self._moment == "running":
                    self._strike()

    def _suspended(self, awaited: object) -> bool:
        """Count a suspension, and arrange the cancellation if it is the chosen one."""
        if self.struck or (self._moment == "woken" and not isinstance(awaited, asyncio.Future)):
            return False
        self._left -= 1
        if self._left:
            return False
        if self._moment == "waiting":
            # The task is not suspended yet, but will be when the loop runs this callback.
            self.struck = True
            asyncio.get_running_loop().call_soon(self.cancel)
        elif self._moment == "woken":
            # Added before the task's own callback, so it is called first.
            assert isinstance(awaited, asyncio.Future)
            awaited.add_done_callback(lambda _: self._strike())
        return True

    def _strike(self) -> None:
        self.struck = True
        self.cancel()
