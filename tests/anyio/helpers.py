"""Running a test's body under each of anyio's backends, and looking at what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import pytest
import trio

from tests.support.asyncio_steps import cancel_at_each_step
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks, open_sockets
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Msg
from trio_nats.anyio import Subscription

__all__ = ["BACKENDS", "Home", "cancel_everywhere", "on_asyncio", "receive_n", "run"]

BACKENDS = ["trio", "asyncio", pytest.param("uvloop", marks=pytest.mark.slow)]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Home:
    """From the backend's thread back into the Trio run of the test, where the servers live."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token

    async def do(self, function: Callable[[*_Ts], Awaitable[_T]], *args: *_Ts) -> _T:
        call = partial(trio.from_thread.run, function, *args, trio_token=self._token)
        return await anyio.to_thread.run_sync(call)


async def run(backend: str, main: Callable[[Home], Awaitable[_T]], *, debug: bool = True) -> _T:
    """Run ``main`` in a thread under a backend. Nothing may be left when it is over.

    :param debug: use asyncio's debug mode, which doubles the time.
    """
    home = Home(trio.lowlevel.current_trio_token())
    return await trio.to_thread.run_sync(_run, backend, partial(main, home), debug)


def _run(backend: str, main: Callable[[], Awaitable[_T]], debug: bool) -> _T:
    if backend == "trio":
        return anyio.run(_on_trio, main, backend="trio")
    options = {"use_uvloop": backend == "uvloop", "debug": debug and backend == "asyncio"}
    return anyio.run(on_asyncio, main, backend="asyncio", backend_options=options)


async def _on_trio(main: Callable[[], Awaitable[_T]]) -> _T:
    tasks, sockets = all_tasks(), open_sockets()
    with anyio.fail_after(HANG_TIMEOUT):
        result = await main()
    assert all_tasks() - tasks == {}
    assert open_sockets() - sockets == set()
    return result


async def on_asyncio(main: Callable[[], Awaitable[_T]]) -> _T:
    """``main``, after which no task, socket or Trio run may be left, and nothing have been said."""
    loop = asyncio.get_running_loop()
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    with anyio.fail_after(HANG_TIMEOUT):
        result = await main()
    assert not trio.lowlevel.in_trio_run()
    assert asyncio.all_tasks() - tasks == set()
    assert open_sockets() - sockets == set()
    gc.collect()
    assert problems == []
    return result


async def cancel_everywhere(
    make_operation: Callable[[], Awaitable[Operation]],
    check_after: Callable[[], Awaitable[object]],
) -> int:
    """Cancel an operation at every moment that the backend knows."""
    if trio.lowlevel.in_trio_task():
        return await cancel_at_each_checkpoint(make_operation, check_after)
    return await cancel_at_each_step(make_operation, check_after)


async def receive_n(sub: Subscription, count: int) -> list[bytes]:
    received: list[Msg] = []
    with anyio.fail_after(HANG_TIMEOUT):
        while len(received) < count:
            received.append(await sub.receive())
    return [msg.data for msg in received]
