"""Errors of servers that run for tests."""

from __future__ import annotations

import trio

from ..errors import NatsError

__all__ = [
    "ServerBinaryNotFoundError",
    "ServerReloadError",
    "ServerSignalError",
    "ServerStartError",
    "ServerWaitError",
]

TAIL_LINES = 40


class ServerBinaryNotFoundError(NatsError, FileNotFoundError):
    """No nats-server was found. The text says how to provide one."""


class _WithLog(NatsError):
    """An error with the server's ``log``; the text ends with its last lines."""

    def __init__(self, reason: str, log: str) -> None:
        lines = log.splitlines()[-TAIL_LINES:]
        text = "\n".join(f"  {line}" for line in lines) if lines else "  (nothing)"
        super().__init__(f"{reason}; its log ends with:\n{text}")
        self.log = log


class ServerStartError(_WithLog):
    """The server exited instead of starting, or was not ready within ``start_timeout``.

    ``returncode`` is the exit code of the process, ``None`` if it had to be killed. If the server
    reported errors in its configuration, the text quotes the lines.
    """

    def __init__(self, reason: str, log: str, returncode: int | None = None) -> None:
        super().__init__(reason, log)
        self.returncode = returncode


class ServerReloadError(_WithLog):
    """The server rejected a changed configuration and keeps the previous one."""


class ServerWaitError(_WithLog, trio.TooSlowError, TimeoutError):
    """A condition was not met within the timeout."""


class ServerSignalError(NatsError, NotImplementedError):
    """The platform lacks a signal: pausing, reloading and lame duck mode need POSIX."""
