"""The one time limit of the tests: it ends a test that hangs, and never judges speed.

``tests/conftest.py`` registers this module as a plugin. A test that hangs ends in three ways:

- An async test, after :data:`HANG_TIMEOUT`, with :exc:`trio.TooSlowError` where it waits.
- ``faulthandler_timeout`` of ``pyproject.toml`` then shows where each thread is, and ends nothing.
- Anything else, fixtures included, after :data:`PHASE_TIMEOUT` with a signal, except on Windows.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import signal
import threading
import types
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any, Never

import pytest
import trio
import trio.testing

__all__ = ["HANG_TIMEOUT", "PHASE_TIMEOUT"]

HANG_TIMEOUT = 60.0 * float(os.environ.get("TRIO_NATS_TEST_TIMEOUT_SCALE", "1"))
"""Seconds. On a slow machine, set ``--timeout-scale`` or the variable."""

PHASE_TIMEOUT = 2 * HANG_TIMEOUT
"""Seconds that the set-up, the call or the tear-down of a test may take."""


def pytest_configure() -> None:
    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, _end)


def _end(signum: int, frame: types.FrameType | None) -> Never:
    pytest.fail("it hangs")


@contextlib.contextmanager
def alarm_after(seconds: float) -> Iterator[None]:
    """Fail the test that runs when ``seconds`` have passed."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, before)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    with alarm_after(PHASE_TIMEOUT):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = limited(item.obj)
    with alarm_after(PHASE_TIMEOUT):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    with alarm_after(PHASE_TIMEOUT):
        return (yield)


def limited(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """``test``, ended where it waits once it has taken :data:`HANG_TIMEOUT`."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        # A mocked clock does not measure how long a test takes.
        mocked = isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)
        with trio.fail_after(math.inf if mocked else HANG_TIMEOUT):
            await test(*args, **kwargs)

    return run
