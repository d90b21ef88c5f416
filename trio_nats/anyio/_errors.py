"""Translate Trio's exceptions to anyio's."""

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
"""Exceptions that :func:`translated` translates. The others are raised unchanged."""


class ConnectionLostError(trio_nats.ConnectionLostError, anyio.BrokenResourceError):
    """A :exc:`trio_nats.ConnectionLostError` that is also an :exc:`anyio.BrokenResourceError`."""


class OutboxFullError(trio_nats.OutboxFullError, anyio.WouldBlock):
    """A :exc:`trio_nats.OutboxFullError` that is also an :exc:`anyio.WouldBlock`."""


def translated(error: Exception) -> Exception:
    """Return the corresponding exception of anyio, with the same text and the same cause."""
    other = _translate(error)
    if other is not error:
        other.__cause__ = error.__cause__
        # Otherwise the traceback would show the error twice.
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
