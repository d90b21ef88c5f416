"""Defer Ctrl-C to a moment when it does no harm.

A signal handler that raises KeyboardInterrupt interrupts whatever code happens to run. If that is
Trio rescheduling a task, the task never runs again. ``trio.run()`` protects itself from that, but
not in guest mode, where asyncio installs the handler and calls Trio's code.
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

__all__ = ["SigintDeferral"]

_STUCK_AFTER = 0.5
"""Seconds after which a loop that does not deliver a signal counts as stuck."""


class SigintDeferral:
    """Calls the previous SIGINT handler between two callbacks of the loop.

    It works only in the main thread, because others do not receive signals. It stays installed as
    long as the Trio run lasts. That includes the time after a KeyboardInterrupt has left the loop,
    when asyncio runs the loop again to clean up. A second signal must not interrupt that, so it
    waits until the Trio run has ended, but for at most ``_STUCK_AFTER`` seconds.

    If an earlier signal has not been delivered after that time, the loop is stuck. Then the next
    signal calls the previous handler immediately.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._previous: Callable[[int, FrameType | None], object] = signal.default_int_handler
        self._deferred_since: float | None = None
        self._interrupted_at = -math.inf
        """When a KeyboardInterrupt last left the loop."""
        self._second: asyncio.TimerHandle | None = None
        """Delivers a second signal, unless the Trio run ends before."""

    def install(self) -> None:
        """Install the handler."""
        if _in_main_thread():
            before = signal.getsignal(signal.SIGINT)
            # Not if the signal is ignored or terminates the process.
            if callable(before):
                self._previous = before
                signal.signal(signal.SIGINT, self._on_sigint)

    def remove(self) -> None:
        """Restore the previous handler, unless another one has been installed."""
        if self._is_installed():
            self._previous = self._handler_to_restore()
            signal.signal(signal.SIGINT, self._previous)
        if self._second is not None and not self._loop.is_closed():
            self._second.cancel()
            self._loop.call_soon(self._deliver, signal.SIGINT)

    @contextmanager
    def deferred(self) -> Generator[None, None, None]:
        """Defer signals to the end of the block, in which Trio's steps run outside of a loop."""
        self.remove()
        if not _in_main_thread():
            yield
            return
        received: list[int] = []
        before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if received:
            signal.raise_signal(signal.SIGINT)

    def _is_installed(self) -> bool:
        # Not `is`, because each access creates another bound method.
        return _in_main_thread() and signal.getsignal(signal.SIGINT) == self._on_sigint

    def _handler_to_restore(self) -> Callable[[int, FrameType | None], object]:
        """Return the handler to restore: the previous one, or the default.

        ``asyncio.Runner.run`` restores the default when it ends, but only if its own handler is
        installed. If it has ended by then, its handler must not be installed again.
        """
        before = self._previous
        if isinstance(before, partial) and isinstance(
            getattr(before.func, "__self__", None), asyncio.Runner
        ):
            task = before.keywords.get("main_task")
            if self._interrupted_at > 0 or (isinstance(task, asyncio.Task) and task.done()):
                return signal.default_int_handler
        return before

    def _cleaning_up_for(self) -> float:
        """Return for how many seconds asyncio has been cleaning up after a KeyboardInterrupt."""
        return time.monotonic() - self._interrupted_at

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._deferred_since is None:
            self._deferred_since = now
        stuck = now - self._deferred_since > _STUCK_AFTER
        will_run = self._loop.is_running() or self._cleaning_up_for() < _STUCK_AFTER
        if stuck or not will_run or self._loop.is_closed():
            self._previous(number, frame)
        else:
            self._loop.call_soon_threadsafe(self._deliver, number)

    def _deliver(self, number: int) -> None:
        if self._cleaning_up_for() < _STUCK_AFTER and self._is_installed():
            if self._second is None:
                seconds = _STUCK_AFTER - self._cleaning_up_for()
                self._second = self._loop.call_later(seconds, self._deliver, number)
            return
        self._second = None
        self._deferred_since = None
        try:
            self._previous(number, None)
        except (KeyboardInterrupt, SystemExit):
            self._interrupted_at = time.monotonic()  # asyncio lets these leave the loop
            raise


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
