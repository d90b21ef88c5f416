"""A Trio run inside a running asyncio loop, in the same thread.

Theory of operation. In Trio's guest mode, each step of Trio's scheduler is a callback of the host
loop, here asyncio's. Only waiting for I/O happens in another thread. A thread can have only one
Trio run at a time, so all connections of a loop share one guest run. It starts with the first
connection and ends with the last one.

Because both loops run in the same thread, asyncio may call synchronous functions of Trio directly:
between two steps, Trio's state is consistent. Asynchronous functions run in a Trio system task of
their own (:class:`Call`), which resolves an asyncio future when it ends.

A loop that is closed while a connection is open runs no more callbacks, so its guest run could not
end, and the thread could have no other. So the callbacks are also kept here, and the next
:meth:`Guest.join` in this thread runs them until the guest run has ended and its sockets are
closed.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import queue
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple, cast

import anyio
import anyio.lowlevel
import outcome
import trio

from ._sigint import SigintDeferral

__all__ = ["Call", "Guest"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_Callback = Callable[[], object]


class Call:
    """A call of a Trio function from asyncio. It runs in a Trio task of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.scope = trio.CancelScope()
        self.finished = False
        self.result: outcome.Outcome[Any] | None = None
        """The result, or ``None`` if the call has not ended or was cancelled."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when the call has ended. Cancelling a task that awaits it cancels the future."""


class Guest:
    """The Trio run of an asyncio loop, shared by all that call :meth:`join` and :meth:`leave`.

    :param loop: the loop, which must be running in this thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._users = 0
        self._crashed = False
        self._sigint = SigintDeferral(loop)
        self._ending = trio.Event()
        self._ended_future: asyncio.Future[None] = loop.create_future()
        self._calls: set[Call] = set()
        # Callbacks that are scheduled in the loop. Kept here as well, because closing a loop drops
        # those that have not run.
        self._callbacks: queue.SimpleQueue[_Callback] = queue.SimpleQueue()

    # --- starting and ending ---------------------------------------------------------------------

    @staticmethod
    async def join() -> Guest:
        """Return the guest run of the running loop. Starts it if there is none."""
        loop = asyncio.get_running_loop()
        while True:
            guest = _thread_local.guest
            if guest is None:
                guest = Guest(loop)
                guest._start()
                _thread_local.guest = guest
            if guest.loop is not loop:
                guest._finish_without_loop()
            elif guest._ending.is_set():
                await asyncio.wait([guest._ended_future])
            else:
                guest._users += 1
                return guest

    async def leave(self) -> None:
        """Stop using the guest run. The last user ends it and waits until it has ended."""
        self._users -= 1
        if not self._users and not self.has_ended:
            self._ending.set()
            await self._wait_shielded(self._ended_future)

    @property
    def has_ended(self) -> bool:
        """Whether the guest run has ended."""
        return self._ended_future.done()

    def ended_error(self) -> Exception:
        """Return the error to raise where an ended guest run is used."""
        if self._crashed:
            return trio.BrokenResourceError("the Trio run inside this asyncio loop has crashed")
        return trio.ClosedResourceError("this NATS connection is closed")

    def _start(self) -> None:
        # Trio installs hooks that would also finalize async generators of asyncio. Restore those of
        # the loop below.
        hooks = sys.get_asyncgen_hooks()
        # Before Trio checks whether it has to handle SIGINT itself.
        self._sigint.install()
        try:
            trio.lowlevel.start_guest_run(
                self._main,
                run_sync_soon_threadsafe=self._soon_from_thread,
                run_sync_soon_not_threadsafe=self._soon,
                done_callback=self._finished,
                host_uses_signal_set_wakeup_fd=True,
            )
        except RuntimeError as error:
            self._sigint.remove()
            raise RuntimeError(
                "trio_nats.anyio needs a Trio run of its own inside this asyncio loop, but there "
                "is one in this thread already: use trio_nats.open_nats in that one, or asyncio "
                "in another thread"
            ) from error
        finally:
            sys.set_asyncgen_hooks(*hooks)

    async def _main(self) -> None:
        try:
            await self._ending.wait()
        except trio.Cancelled:
            self._crash()
            raise

    def _crash(self) -> None:
        """Note that Trio has cancelled everything because of an internal error."""
        self._crashed = True
        self._ending.set()

    def _finished(self, result: outcome.Outcome[None]) -> None:
        """Handle the end of the Trio run, whether expected or not."""
        if not self._ending.is_set():
            self._crash()
        if _thread_local.guest is self:
            _thread_local.guest = None
        self._sigint.remove()
        if not self.has_ended and not self.loop.is_closed():
            self._ended_future.set_result(None)
        for call in self._calls.copy():
            self._end(call, None)
        if isinstance(result, outcome.Error) and not self.loop.is_closed():
            text = "the Trio run inside this asyncio loop has crashed"
            self.loop.call_exception_handler({"message": text, "exception": result.error})

    def _finish_without_loop(self) -> None:
        """End a run whose loop was closed too early, to close its sockets."""
        if not self.loop.is_closed():
            raise RuntimeError(
                "a NATS connection is still open in another asyncio loop of this thread, which is "
                "not running now; leave its 'async with' block first"
            )
        with self._sigint.deferred():
            self._ending.set()
            for call in self._calls:
                call.scope.cancel()
            while _thread_local.guest is self:
                self._callbacks.get()()

    # --- Trio's steps ----------------------------------------------------------------------------

    def _soon(self, callback: _Callback) -> None:
        self._callbacks.put(callback)
        if not self.loop.is_closed():
            self.loop.call_soon(self._step)

    def _soon_from_thread(self, callback: _Callback) -> None:
        self._callbacks.put(callback)
        try:
            self.loop.call_soon_threadsafe(self._step)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def _step(self) -> None:
        callback = self._callbacks.get_nowait()
        try:
            callback()
        except BaseException:
            # Trio cannot continue after that.
            self._finished(outcome.Value(None))
            raise

    # --- calls -----------------------------------------------------------------------------------

    def start(self, function: Callable[[*_Ts], Awaitable[object]], *args: *_Ts) -> Call:
        """Call a Trio function in a new Trio task, with the caller's context variables."""
        call = Call(self.loop)
        if self._ending.is_set():
            self._end(call, None)
        else:
            self._calls.add(call)
            trio.lowlevel.spawn_system_task(
                self._run_call,
                call,
                function,
                args,
                name=function,
                context=contextvars.copy_context(),
            )
        return call

    async def _run_call(
        self, call: Call, function: Callable[[*_Ts], Awaitable[object]], args: tuple[*_Ts]
    ) -> None:
        result: outcome.Outcome[object] | None = None
        try:
            with call.scope:
                try:
                    result = outcome.Value(await function(*args))
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    result = outcome.Error(error)
        finally:
            self._end(call, result)

    def _end(self, call: Call, result: outcome.Outcome[object] | None) -> None:
        self._calls.discard(call)
        if not call.finished:
            call.finished = True
            call.result = result
            if not call.ended.done() and not self.loop.is_closed():
                call.ended.set_result(None)

    async def run(
        self,
        function: Callable[[*_Ts], Awaitable[_T]],
        *args: *_Ts,
        undo: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """Call a Trio function and wait until it has ended.

        If cancelled, the function is cancelled, too.

        :param undo: called if the function succeeds although it was cancelled.
        """
        call = self.start(function, *args)
        if anyio.current_effective_deadline() == -math.inf:
            # As in Trio, a call in a cancelled scope runs up to its first checkpoint.
            call.scope.cancel()
        try:
            await call.ended
        except asyncio.CancelledError:
            await self.cancel(call)
            if undo is not None and isinstance(call.result, outcome.Value):
                await self._wait_shielded(self.start(undo).ended)
            raise
        return cast("_T", await self.unwrap(call))

    async def cancel(self, call: Call) -> None:
        """Cancel a call if it is still running, and wait until it has ended."""
        call.scope.cancel()
        if not call.finished:
            if call.ended.cancelled():
                call.ended = self.loop.create_future()
            await self._wait_shielded(call.ended)

    async def _wait_shielded(self, future: asyncio.Future[None]) -> None:
        """Wait for something that takes no time. If cancelled, raise that only afterwards."""
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def unwrap(self, call: Call) -> Any:
        """Return the result of a call that has ended, or raise its error."""
        if call.result is None:
            # If the caller is cancelled, asyncio raises that here. The call's scope cannot say
            # whether it was cancelled if it ended together with the run.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise self.ended_error()
        return call.result.unwrap()

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """Call a user's function, synchronous or not, in an asyncio task. For Trio tasks."""

        async def ask() -> _T:
            # An eager task begins inside a step of Trio, where sniffio would detect Trio.
            await asyncio.sleep(0)
            answer = function(*args)
            return cast("_T", await answer if inspect.isawaitable(answer) else answer)

        ended = trio.Event()
        task = self.loop.create_task(ask())
        task.add_done_callback(lambda _: ended.set())
        try:
            await ended.wait()
        except trio.Cancelled:
            task.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()
            raise
        if task.cancelled():
            raise RuntimeError("the callback was cancelled")
        return task.result()


class _ThreadLocal(threading.local):
    guest: Guest | None = None


_thread_local = _ThreadLocal()
