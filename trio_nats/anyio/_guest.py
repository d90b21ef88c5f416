"""A Trio run inside a running asyncio loop, in the same thread.

Trio calls it a guest run: its scheduler's steps are callbacks of the asyncio loop, and only the
waiting for I/O is done in a thread of Trio's. A thread can have one Trio run at a time, so the
connections of a loop share one guest; it starts with the first and ends with the last of them.

Because the thread is the same, whatever is synchronous in Trio may be called from asyncio as it is:
between two steps of the guest nothing of Trio's is half done.
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

from ._sigint import Interrupts

__all__ = ["Call", "Guest"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_Callback = Callable[[], object]


class Call:
    """A Trio function that was called from asyncio, running in a Trio task of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.scope = trio.CancelScope()
        self.finished = False
        self.result: outcome.Outcome[Any] | None = None
        """How it ended; ``None`` before that, and when it was cancelled."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Done when it has ended. Waiting for it directly may cancel it."""


class Guest:
    """The Trio run of an asyncio loop. Have it with :meth:`join`, give it back with :meth:`leave`.

    :param loop: the loop, which must be running in this thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._users = 0
        self._crashed = False
        self._interrupts = Interrupts(loop)
        self._ending = trio.Event()
        self._over: asyncio.Future[None] = loop.create_future()
        self._calls: set[Call] = set()
        # Scheduled in the loop, but not run yet. Kept here as well: a loop that is closed forgets.
        self._due: queue.SimpleQueue[_Callback] = queue.SimpleQueue()

    # --- its life --------------------------------------------------------------------------------

    @staticmethod
    async def join() -> Guest:
        """The guest of the running loop, started if need be."""
        loop = asyncio.get_running_loop()
        while True:
            guest = _of_thread.guest
            if guest is None:
                guest = Guest(loop)
                guest._start()
                _of_thread.guest = guest
            if guest.loop is not loop:
                guest._finish_without_loop()
            elif guest._ending.is_set():
                await asyncio.wait([guest._over])
            else:
                guest._users += 1
                return guest

    async def leave(self) -> None:
        """Done with it. The last one waits until everything of Trio's has ended."""
        self._users -= 1
        if not self._users and not self.over:
            self._ending.set()
            await self._until(self._over)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.done()

    def why_over(self) -> Exception:
        """What to raise for having used it after its end."""
        if self._crashed:
            return trio.BrokenResourceError("the Trio run inside this asyncio loop has crashed")
        return trio.ClosedResourceError("this NATS connection is closed")

    def _start(self) -> None:
        # Trio would look after async generators that it did not see begin, such as those of a loop
        # that it joins late. So the loop goes on looking after all of them.
        hooks = sys.get_asyncgen_hooks()
        # Before Trio looks whether it has to see to SIGINT itself.
        self._interrupts.install()
        try:
            trio.lowlevel.start_guest_run(
                self._main,
                run_sync_soon_threadsafe=self._soon_from_thread,
                run_sync_soon_not_threadsafe=self._soon,
                done_callback=self._finished,
                host_uses_signal_set_wakeup_fd=True,
            )
        except RuntimeError as error:
            self._interrupts.remove()
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
        """A task of the run has failed that must not, and Trio has given everything up."""
        self._crashed = True
        self._ending.set()

    def _finished(self, result: outcome.Outcome[None]) -> None:
        """The Trio run is over, as it should be or not."""
        if not self._ending.is_set():
            self._crash()
        if _of_thread.guest is self:
            _of_thread.guest = None
        self._interrupts.remove()
        if not self.over and not self.loop.is_closed():
            self._over.set_result(None)
        for call in self._calls.copy():
            self._end(call, None)
        if isinstance(result, outcome.Error) and not self.loop.is_closed():
            text = "the Trio run inside this asyncio loop has crashed"
            self.loop.call_exception_handler({"message": text, "exception": result.error})

    def _finish_without_loop(self) -> None:
        """End a run whose loop was closed under it, as far as that goes: close its sockets."""
        if not self.loop.is_closed():
            raise RuntimeError(
                "a NATS connection is still open in another asyncio loop of this thread, which is "
                "not running now; leave its 'async with' block first"
            )
        with self._interrupts.held():
            self._ending.set()
            for call in self._calls:
                call.scope.cancel()
            while _of_thread.guest is self:
                self._due.get()()

    # --- Trio's steps ----------------------------------------------------------------------------

    def _soon(self, callback: _Callback) -> None:
        self._due.put(callback)
        if not self.loop.is_closed():
            self.loop.call_soon(self._step)

    def _soon_from_thread(self, callback: _Callback) -> None:
        self._due.put(callback)
        try:
            self.loop.call_soon_threadsafe(self._step)
        except RuntimeError:
            if not self.loop.is_closed():
                raise

    def _step(self) -> None:
        callback = self._due.get_nowait()
        try:
            callback()
        except BaseException:
            # Not even Trio can go on after that.
            self._finished(outcome.Value(None))
            raise

    # --- calls -----------------------------------------------------------------------------------

    def start(self, function: Callable[[*_Ts], Awaitable[object]], *args: *_Ts) -> Call:
        """Call a Trio function in a new Trio task, in the context of the caller."""
        call = Call(self.loop)
        if self._ending.is_set():
            self._end(call, None)
        else:
            self._calls.add(call)
            trio.lowlevel.spawn_system_task(
                self._carry_out,
                call,
                function,
                args,
                name=function,
                context=contextvars.copy_context(),
            )
        return call

    async def _carry_out(
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
        """Call a Trio function and wait for it. If cancelled, it is cancelled too.

        Returns or raises only once it has ended. If it succeeded nevertheless, ``undo`` is called.
        """
        call = self.start(function, *args)
        if anyio.current_effective_deadline() == -math.inf:
            # Called in a cancelled scope it does what it does in one in Trio.
            call.scope.cancel()
        try:
            await call.ended
        except asyncio.CancelledError:
            await self.cancel(call)
            if undo is not None and isinstance(call.result, outcome.Value):
                await self._until(self.start(undo).ended)
            raise
        return cast("_T", await self.unwrap(call))

    async def cancel(self, call: Call) -> None:
        """Cancel a call, if it still runs, and wait until it has ended."""
        call.scope.cancel()
        if not call.finished:
            if call.ended.cancelled():
                call.ended = self.loop.create_future()
            await self._until(call.ended)

    async def _until(self, future: asyncio.Future[None]) -> None:
        """Wait for what takes but a moment, to the end even if cancelled."""
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
        """The result of a call that has ended."""
        if call.result is None:
            # Who is cancelled hears it from asyncio, in its own time. A scope that ended with its
            # run does not even say whether it was cancelled.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise self.why_over()
        return call.result.unwrap()

    async def call_back(self, function: Callable[[*_Ts], _T | Awaitable[_T]], *args: *_Ts) -> _T:
        """From Trio: call a user's function, which may be asynchronous, in an asyncio task."""

        async def ask() -> _T:
            # An eager task begins right here, inside a step of Trio's, where all looks like Trio.
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


class _OfThread(threading.local):
    guest: Guest | None = None


_of_thread = _OfThread()
