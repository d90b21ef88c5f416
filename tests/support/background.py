"""Base classes of scripted servers and proxies: background tasks in an ``async with`` block.

Tests rely on these rules:

* leaving the block cancels the tasks and closes every socket, so nothing outlives it;
* an exception of the body propagates unchanged, never inside an exception group;
* an exception of a task, such as an assertion in a script, cancels the body and propagates instead
  of the body's exception, which is only a consequence;
* a peer that closes the connection is recorded, but is not a failure.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import trio
import trio.testing

__all__ = ["Background", "LoopbackServer", "PeerGone", "close_now", "is_gone"]

LOOPBACK = "127.0.0.1"

_MEMORY_HALVES = (trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream)


class PeerGone(Exception):
    """The peer closed the connection while more data was expected."""


def is_gone(error: BaseException) -> bool:
    """Whether ``error``, or all errors of a group, only mean that the connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_gone(inner) for inner in error.exceptions)
    return isinstance(error, PeerGone | trio.BrokenResourceError | trio.ClosedResourceError)


def close_now(stream: trio.abc.Stream, *, reset: bool = False) -> None:
    """Close a socket or memory stream without waiting; ``reset`` sends RST instead of FIN."""
    if isinstance(stream, trio.SocketStream):
        if reset:
            # A linger time of zero discards unsent data and turns close() into a reset.
            layout = "hh" if sys.platform == "win32" else "ii"
            linger = struct.pack(layout, 1, 0)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.socket.close()
    elif isinstance(stream, trio.StapledStream):
        for half in (stream.send_stream, stream.receive_stream):
            assert isinstance(half, _MEMORY_HALVES)
            half.close()
    else:
        raise TypeError(f"cannot close a {type(stream).__name__} without waiting")


class Background:
    """An async context manager that runs background tasks by the rules above."""

    _nursery: trio.Nursery

    def __init__(self) -> None:
        self._failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        try:
            await self._start()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._stop()
        self._nursery.cancel_scope.cancel()
        swallow = False
        try:
            # Background tasks never raise, so an exception here is the body's or an outer
            # cancellation. If it is the body's, Python continues with the original.
            swallow = bool(await self._manager.__aexit__(exc_type, exc, traceback))
        except BaseException:
            if exc is None and not self._failures:
                raise
        if self._failures:
            raise self._failures[0]
        return swallow

    async def _start(self) -> None:
        """Start background tasks; called inside the nursery."""

    def _stop(self) -> None:
        """Close everything that the tasks do not close themselves."""

    def _run_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        self._nursery.start_soon(self._run, function)

    async def _run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            await function()
        except trio.Cancelled:
            raise
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if rest is not None:
                self._fail(rest)
            if cancelled is not None:
                raise cancelled from None
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not is_gone(error):
            self._failures.append(error)
            self._nursery.cancel_scope.cancel()


class LoopbackServer(Background):
    """A TCP server on the loopback interface. Subclasses handle the connections.

    The port stays reserved for the whole block, so that it can :meth:`refuse` connections for a
    while and :meth:`accept` them again without another process taking the port in between.
    """

    port: int

    def __init__(self) -> None:
        super().__init__()
        self._placeholder: socket.socket | None = None
        self._listener: trio.SocketListener | None = None

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    def refuse(self) -> None:
        """Refuse new connections ("connection refused"); existing ones are not affected."""
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None

    def accept(self) -> None:
        """Accept connections again after :meth:`refuse`."""
        if self._listener is None:
            bound = _bind(self.port)
            bound.listen(100)
            bound.setblocking(False)
            self._listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
            self._nursery.start_soon(self._accept_all, self._listener)

    async def _start(self) -> None:
        self._placeholder = _bind(0)
        self.port = self._placeholder.getsockname()[1]
        self.accept()

    def _stop(self) -> None:
        self.refuse()
        if self._placeholder is not None:
            self._placeholder.close()

    async def _accept_all(self, listener: trio.SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            self._nursery.start_soon(self._handle_and_close, stream)

    async def _handle_and_close(self, stream: trio.SocketStream) -> None:
        try:
            await self._run(lambda: self._handle(stream))
        finally:
            close_now(stream)

    async def _handle(self, stream: trio.SocketStream) -> None:
        raise NotImplementedError


def _bind(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sys.platform != "win32":
        # Lets the placeholder, which never listens, share the port with the listener.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((LOOPBACK, port))
    return bound
