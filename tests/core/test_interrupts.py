"""Control-C, at every moment of a connection's life.

It has to reach the user as ``KeyboardInterrupt``, not inside a group, and not become a fault of the
connection.
"""

from __future__ import annotations

import signal
import sys
import threading

import pytest
import trio

from tests.support.peer import ScriptedServer
from tests.support.scripts import session
from trio_nats import open_nats

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals work differently there")


class Interrupter(trio.abc.Instrument):
    """Presses control-C when the ``number``-th step of any task of ours begins."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.pressed = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.pressed or not task.name.startswith(("trio_nats.", f"{__name__}.use")):
            return
        self._left -= 1
        if self._left == 0:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)


async def use(port: int, started: list[int]) -> None:
    async with open_nats(f"nats://127.0.0.1:{port}") as nc:
        started.append(1)
        async with nc.subscribe("news") as news:
            await nc.publish("news", b"x")
            await nc.flush()
            await nc.rtt()
            assert news.pending == (0, 0)


@pytest.mark.slow
def test_an_interrupt_is_never_wrapped_or_swallowed() -> None:
    """The server lives in a thread of its own, so that only the client is interrupted."""
    ports: list[int] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with ScriptedServer(session()) as server:
            ports.append(server.port)
            ready.set()
            await trio.to_thread.run_sync(over.wait)

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        ready.wait(10)
        for number in range(1, 500):
            interrupter = Interrupter(number)
            try:
                trio.run(use, ports[0], [], instruments=[interrupter])
            except KeyboardInterrupt:
                assert interrupter.pressed
                continue
            assert not interrupter.pressed, f"interrupt {number} was swallowed"
            break
        else:
            raise AssertionError("interrupted for ever")
        assert number > 20
    finally:
        over.set()
        thread.join(10)
