"""A nats-server process that never outlives the test program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import trio

from ._system import poll
from .errors import ServerSignalError

__all__ = ["ServerProcess"]

_KILL_TIMEOUT = 10.0


class ServerProcess:
    """Run ``argv`` with its output appended to ``log_file``.

    This uses ``subprocess`` instead of Trio's processes: spawning cannot be cancelled half-way,
    output to a file needs no task, and waiting is by the wall clock (see :func:`poll`). It costs a
    few milliseconds of blocking in a test.

    :raises OSError: if the program cannot be run.
    """

    def __init__(self, argv: Sequence[str], log_file: Path) -> None:
        self.paused = False
        with log_file.open("ab") as log:
            self._popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        # For blocks that are never left, as when an asynchronous generator is not closed: the
        # process outlives neither this object nor the interpreter.
        weakref.finalize(self, self._popen.kill)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for the signal that ended it; ``None`` while it runs."""
        return self._popen.poll()

    @property
    def is_running(self) -> bool:
        return self.returncode is None

    def send(
        self, name: Literal["SIGHUP", "SIGUSR2", "SIGSTOP", "SIGCONT"], *, purpose: str
    ) -> None:
        """Send a signal; do nothing if the process has ended.

        :raises ServerSignalError: on Windows; the text says that ``purpose`` is not possible there.
        """
        if sys.platform == "win32":
            raise ServerSignalError(f"{purpose} needs {name}, a signal that Windows does not have")
        self._popen.send_signal(signal.Signals[name])

    def pause(self) -> None:
        self.send("SIGSTOP", purpose="pausing a server")
        self.paused = True
        if sys.platform == "linux":
            # The signal takes effect later. Wait until all threads have stopped, without reaping
            # the process, which Popen does.
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self.send("SIGCONT", purpose="resuming a server")
        self.paused = False

    async def stop(self, timeout: float) -> None:
        """Terminate the process, and kill it if it is still running after ``timeout`` seconds."""
        self._popen.terminate()
        if self.paused:
            # Only after terminate(), so that the process handles SIGTERM first.
            self.resume()
        if not await poll(lambda: not self.is_running, timeout):
            await self.kill()

    async def kill(self) -> None:
        """Kill the process, paused or not, and collect its exit code. Must not be cancelled."""
        self._popen.kill()
        self.paused = False
        with trio.CancelScope(shield=True):
            await poll(lambda: not self.is_running, _KILL_TIMEOUT)
