"""From Trio's words for what went wrong to anyio's."""

from __future__ import annotations

import anyio
import trio

import trio_nats

__all__ = ["TRIO_ERRORS", "ConnectionLostError", "OutboxFullError", "translated"]

TRIO_ERRORS = (
    trio.ClosedResourceError,
    trio.BrokenResourceError,
    trio.EndOfChannel,
    trio.BusyResourceError,
    trio.WouldBlock,
)
"""What :func:`translated` has a translation for; everything else says the same everywhere."""


class ConnectionLostError(trio_nats.ConnectionLostError, anyio.BrokenResourceError):
    """:exc:`trio_nats.ConnectionLostError`, as an :exc:`anyio.BrokenResourceError` too."""


class OutboxFullError(trio_nats.OutboxFullError, anyio.WouldBlock):
    """:exc:`trio_nats.OutboxFullError`, as an :exc:`anyio.WouldBlock` too."""


def translated(error: Exception) -> Exception:
    """What anyio calls this error, with the same text and the same cause."""
    other = _translate(error)
    if other is not error:
        other.__cause__ = error.__cause__
        # Nobody needs to see the error twice.
        other.__suppress_context__ = True
    return other


def _translate(error: Exception) -> Exception:
    match error:
        case trio_nats.ConnectionLostError():
            return ConnectionLostError(*error.args)
        case trio_nats.OutboxFullError():
            return OutboxFullError(*error.args)
        case trio.ClosedResourceError():
            return anyio.ClosedResourceError(*error.args)
        case trio.BrokenResourceError():
            return anyio.BrokenResourceError(*error.args)
        case trio.EndOfChannel():
            return anyio.EndOfStream()
        case trio.BusyResourceError():
            return anyio.BusyResourceError("using")
        case trio.WouldBlock():
            return anyio.WouldBlock()
        case _:
            return error
