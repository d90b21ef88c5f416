"""Cancel an operation at every point at which Trio can.

An operation can be cancelled only before it begins and while it is suspended, so there are finitely
many points. At each suspension there are two cases. *Waiting*: the awaited event has not happened,
and Trio cancels the wait. *Woken*: the event has happened, but the operation has not run yet; then
the cancellation is delivered at its next checkpoint, if there is one.

:func:`disturb_at_each_checkpoint` does something else at each suspension, such as closing the
connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from tests.support.timeouts import HANG_TIMEOUT

__all__ = ["Disturb", "Operation", "cancel_at_each_checkpoint", "disturb_at_each_checkpoint"]

Operation: TypeAlias = Callable[[], Awaitable[object]]
Disturb: TypeAlias = Callable[[], object]


async def cancel_at_each_checkpoint(
    make_operation: Callable[[], Awaitable[Operation]],
    check_after: Callable[[], Awaitable[object]],
    *,
    limit: int = 1000,
    background: bool = False,
) -> int:
    """Run an operation repeatedly, and cancel it at its first, second, ... last suspension.

    ``make_operation`` prepares a new one and is never cancelled itself. ``check_after`` is called
    after each run. With ``background``, suspensions of tasks that the operation starts count too.
    Returns the number of suspensions at which it was cancelled.
    """
    scope = trio.CancelScope()
    scope.cancel()
    await _run(await make_operation(), scope, None)
    await check_after()
    visited = 0
    for woken in (False, True):
        for number in range(1, limit + 1):
            scope = trio.CancelScope()
            injector = _Injector(scope.cancel, number, woken=woken, background=background)
            await _run(await make_operation(), scope, injector)
            await check_after()
            if not injector.disturbed:
                break
            visited += not woken
        else:
            raise AssertionError(f"still suspended for the {limit}th time")
    return visited


async def disturb_at_each_checkpoint(
    make_operation: Callable[[], Awaitable[tuple[Operation, Disturb]]],
    check_after: Callable[[], Awaitable[object]],
    *,
    limit: int = 1000,
    first: int = 1,
    step: int = 1,
) -> None:
    """Run an operation repeatedly, and call a function at its first, second, ... last suspension.

    Like :func:`cancel_at_each_checkpoint`, but without the case *woken*.

    :param make_operation: returns a new operation, and the function to call.
    :param check_after: called after each run.
    :param limit: fail if the operation is still suspended after so many runs.
    :param first: the first suspension to visit.
    :param step: visit every ``step``-th suspension only.
    """
    for number in range(first, limit + first, step):
        operation, disturb = await make_operation()
        injector = _Injector(disturb, number, woken=False, background=False)
        await _run(operation, trio.CancelScope(), injector)
        await check_after()
        if not injector.disturbed:
            return
    raise AssertionError(f"still suspended for the {limit}th time")


async def _run(operation: Operation, scope: trio.CancelScope, injector: _Injector | None) -> None:
    with trio.fail_after(HANG_TIMEOUT), scope:
        if injector is None:
            await operation()
            return
        trio.lowlevel.add_instrument(injector)
        try:
            await operation()
        finally:
            trio.lowlevel.remove_instrument(injector)


class _Injector(trio.abc.Instrument):
    """Calls ``disturb`` at the ``number``-th suspension of the task that creates it."""

    def __init__(self, disturb: Disturb, number: int, *, woken: bool, background: bool) -> None:
        self._disturb = disturb
        self._left = number
        self._woken = woken
        self._background = background
        self._task = trio.lowlevel.current_task()
        self._suspended: set[trio.lowlevel.Task] = set()
        self.disturbed = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        # Called once the task is suspended and can be woken by a cancellation.
        if self._counts(task):
            self._suspended.add(task)
            if not self._woken:
                self._strike()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        # Called once the result that the task is woken with is decided.
        if self._woken and task in self._suspended:
            self._strike()
        self._suspended.discard(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._suspended.discard(task)

    def _strike(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.disturbed = True
            self._disturb()

    def _counts(self, task: trio.lowlevel.Task) -> bool:
        if task is self._task or not self._background:
            return task is self._task
        seen: trio.lowlevel.Task | None = task
        while seen is not None and seen is not self._task:
            nursery = seen.parent_nursery
            seen = None if nursery is None else nursery.parent_task
        return seen is not None and task.coro.cr_frame is not None
