"""The watchdog of these tests: what hangs here is a finding, so it has to show."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest
import trio

from tests.support.timeouts import HANG_TIMEOUT


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    # Tests on a mocked clock cannot wait for real things.
    mocked = {"autojump_clock", "mock_clock"} & set(getattr(item, "fixturenames", ()))
    if isinstance(item, pytest.Function) and not mocked:
        test = item.obj
        if inspect.iscoroutinefunction(test):

            @functools.wraps(test)
            async def limited(*args: Any, **kwargs: Any) -> None:
                with trio.fail_after(HANG_TIMEOUT):
                    await test(*args, **kwargs)

            item.obj = limited
    return (yield)
