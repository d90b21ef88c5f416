"""Ctrl-C, at a moment when it does no harm.

Where a signal handler raises KeyboardInterrupt it strikes whatever happens to run: Trio in the
midst of rescheduling a task, say, which then never runs again. ``trio.run()`` has ways around that,
but they are no help where Trio is a guest: asyncio's handler is the one that is called, and the
code that calls into Trio is asyncio's.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from types import FrameType

__all__ = ["Interrupts"]

_PATIENCE = 0.5
"""Seconds for which a loop may be busy before it counts as stuck."""


class Interrupts:
    """Puts SIGINT off until the loop is between two callbacks, and then does what would be done.

    Only in the main thread, for others do not get signals, and only while it is installed. A signal
    is not put off where an earlier one still is: the loop is stuck then, and that is the way out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._put_off_at: float | None = None

    def install(self) -> None:
        """Begin."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            # Neither where the signal is ignored, nor where it ends the process.
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._put_off)

    def remove(self) -> None:
        """End, unless somebody else has taken the signal over."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) == self._put_off:
            signal.signal(signal.SIGINT, self._before)

    def _put_off(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._put_off_at is None:
            self._put_off_at = now
        if now - self._put_off_at > _PATIENCE or not self._loop.is_running():
            self._before(number, frame)
        else:
            self._loop.call_soon_threadsafe(self._deliver, number)

    def _deliver(self, number: int) -> None:
        self._put_off_at = None
        try:
            self._before(number, None)
        except BaseException:
            # It leaves the loop, as asyncio lets it. Whoever runs the loop expects to find his own
            # handler then.
            self.remove()
            raise
