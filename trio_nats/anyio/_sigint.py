"""Ctrl-C, at a moment when it does no harm.

Where a signal handler raises KeyboardInterrupt it strikes whatever happens to run: Trio in the
midst of rescheduling a task, say, which then never runs again. ``trio.run()`` has ways around that,
but they are no help where Trio is a guest: asyncio's handler is the one that is called, and the
code that calls into Trio is asyncio's.
"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import FrameType

__all__ = ["Interrupts"]

_PATIENCE = 0.5
"""Seconds for which a loop may be busy before it counts as stuck."""


class Interrupts:
    """Puts SIGINT off until the loop is between two callbacks, and then does what would be done.

    Only in the main thread, for others do not get signals, and only while it is installed, which is
    as long as the Trio run lasts: also after a KeyboardInterrupt has left the loop, for asyncio
    then runs the loop again to clean up. Another signal waits until the Trio run has ended, if that
    takes no longer than a moment, or else it would cut the cleaning up short.

    A signal is not put off where an earlier one still is: the loop is stuck then, and that is the
    way out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._before: Callable[[int, FrameType | None], object] = signal.default_int_handler
        self._put_off_at: float | None = None
        self._left_at = -math.inf
        """When a KeyboardInterrupt has left the loop."""
        self._waiting: asyncio.TimerHandle | None = None

    def install(self) -> None:
        """Begin."""
        if _in_main_thread():
            before = signal.getsignal(signal.SIGINT)
            # Neither where the signal is ignored, nor where it ends the process.
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._put_off)

    def remove(self) -> None:
        """End, unless somebody else has taken the signal over."""
        if self._is_installed():
            self._before = self._handler_of_now()
            signal.signal(signal.SIGINT, self._before)
        if self._waiting is not None and not self._loop.is_closed():
            self._waiting.cancel()
            self._loop.call_soon(self._deliver, signal.SIGINT)

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Put the signal off until the end of the block, for Trio's steps outside of a loop."""
        self.remove()
        if not _in_main_thread():
            yield
            return
        held: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _: held.append(number))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if held:
            signal.raise_signal(signal.SIGINT)

    def _is_installed(self) -> bool:
        # Equal, not the same: each look at it makes another bound method.
        return _in_main_thread() and signal.getsignal(signal.SIGINT) == self._put_off

    def _handler_of_now(self) -> Callable[[int, FrameType | None], object]:
        """The handler from before, or its successor if that was asyncio's, whose time is over.

        A Runner puts the default back when its ``run`` ends, but only if its own is in place.
        """
        before = self._before
        if isinstance(before, partial) and isinstance(
            getattr(before.func, "__self__", None), asyncio.Runner
        ):
            task = before.keywords.get("main_task")
            if self._left_at > 0 or (isinstance(task, asyncio.Task) and task.done()):
                return signal.default_int_handler
        return before

    def _left_for(self) -> float:
        """The seconds for which asyncio has been cleaning up after a KeyboardInterrupt."""
        return time.monotonic() - self._left_at

    def _put_off(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._put_off_at is None:
            self._put_off_at = now
        stuck = now - self._put_off_at > _PATIENCE
        goes_on = self._loop.is_running() or self._left_for() < _PATIENCE
        if stuck or not goes_on or self._loop.is_closed():
            self._before(number, frame)
        else:
            self._loop.call_soon_threadsafe(self._deliver, number)

    def _deliver(self, number: int) -> None:
        if self._left_for() < _PATIENCE and self._is_installed():
            if self._waiting is None:
                seconds = _PATIENCE - self._left_for()
                self._waiting = self._loop.call_later(seconds, self._deliver, number)
            return
        self._waiting = None
        self._put_off_at = None
        try:
            self._before(number, None)
        except (KeyboardInterrupt, SystemExit):
            self._left_at = time.monotonic()  # asyncio lets these leave the loop
            raise


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
