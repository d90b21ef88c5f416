"""What can go wrong with a server that runs for a test."""

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
    """There is no nats-server to run. The text says where it was looked for and what to do."""


class _WithLog(NatsError):
    """``log`` is what the server had logged; the text ends with the last lines of it."""

    def __init__(self, reason: str, log: str) -> None:
        lines = log.splitlines()[-TAIL_LINES:]
        text = "\n".join(f"  {line}" for line in lines) if lines else "  (nothing)"
        super().__init__(f"{reason}; its log ends with:\n{text}")
        self.log = log


class ServerStartError(_WithLog):
    """The server ended instead of starting, or was not ready within ``start_timeout``.

    ``returncode`` is the exit code of the process, None if it had to be killed. When the server
    complained about its configuration, the text quotes the lines it named.
    """

    def __init__(self, reason: str, log: str, returncode: int | None = None) -> None:
        super().__init__(reason, log)
        self.returncode = returncode


class ServerReloadError(_WithLog):
    """The server refused a changed configuration and goes on with the one it had."""


class ServerWaitError(_WithLog, trio.TooSlowError, TimeoutError):
    """What was waited for did not happen, or did not show in the log, within the timeout."""


class ServerSignalError(NatsError, NotImplementedError):
    """The platform has no signal for this: pausing, reloading and lame duck mode need POSIX."""
