"""What hangs ends, and says where."""

from __future__ import annotations

import signal
import threading

import pytest
import trio

from tests.support import timeouts

needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an alarm clock")


async def test_an_async_test_ends_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "HANG_TIMEOUT", 0.01)
    with pytest.raises(trio.TooSlowError):
        await timeouts.limited(trio.sleep_forever)()


@needs_alarm
def test_anything_else_that_waits_is_ended() -> None:
    with pytest.raises(pytest.fail.Exception, match="hangs"), timeouts.alarm_after(0.01):
        threading.Event().wait()


@needs_alarm
def test_the_limit_of_the_test_itself_stays() -> None:
    with timeouts.alarm_after(timeouts.HANG_TIMEOUT):
        pass
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= timeouts.PHASE_TIMEOUT


async def test_every_async_test_has_the_limit() -> None:
    assert trio.current_effective_deadline() <= trio.current_time() + timeouts.HANG_TIMEOUT
