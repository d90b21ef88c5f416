"""Opening a TCP connection (happy eyeballs, by Trio), with errors that say what went wrong."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import trio

from ..servers import Server

__all__ = ["DialError", "dial", "peer_address"]

# What Trio makes of the system's words: "Error connecting to ('::1', 4222, 0, 0): refused".
_TRIO_SAYS = re.compile(r"Error connecting to \('([^']*)', (\d+).*?\): (.*)", re.DOTALL)


class DialError(OSError):
    """The server could not be reached; ``resolving`` if already its name could not be resolved."""

    def __init__(self, text: str, *, resolving: bool = False) -> None:
        super().__init__(text)
        self.resolving = resolving


async def dial(server: Server) -> trio.SocketStream:
    """Connect to the server's host and port. Raises :exc:`DialError`; cancelled, leaves nothing."""
    try:
        return await trio.open_tcp_stream(server.host, server.port)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid host name"
        raise DialError(f"cannot resolve {server.host!r}: {reason}", resolving=True) from error
    except OSError as error:
        raise DialError(", ".join(dict.fromkeys(_reasons(error)))) from error


def _reasons(error: BaseException) -> Iterator[str]:
    """The distinct causes in what Trio reports when it tried several addresses."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _reasons(inner)
    elif error.__cause__ is not None:
        yield from _reasons(error.__cause__)
    else:
        text = getattr(error, "strerror", None) or str(error)
        said = _TRIO_SAYS.fullmatch(text)
        if said is not None:
            host = f"[{said[1]}]" if ":" in said[1] else said[1]
            text = f"{said[3]} ({host}:{said[2]})"
        yield text


def peer_address(stream: trio.SocketStream) -> str:
    """The IP address at the other end."""
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return ""
