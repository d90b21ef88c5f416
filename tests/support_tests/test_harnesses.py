"""The harnesses that look for bugs find those that are there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.support.checkpoints import (
    Operation,
    cancel_at_each_checkpoint,
    disturb_at_each_checkpoint,
)
from tests.support.leaks import all_tasks, no_leaks

# --- cancelling at each checkpoint ----------------------------------------------------------------


async def nothing() -> None:
    """What there is to check when nothing is."""


def fresh(operation: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[Operation]]:
    """Always the same operation, which needs no preparation."""

    async def make() -> Operation:
        return operation

    return make


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_every_suspension_is_visited(count: int) -> None:
    reached = []

    async def operation() -> None:
        for step in range(count):
            reached.append(step)
            await trio.lowlevel.checkpoint()
        reached.append(count)

    visited = await cancel_at_each_checkpoint(fresh(operation), nothing)
    assert visited == count
    # Every place was the last one to be reached in some run.
    ends = {a for a, b in zip(reached, [*reached[1:], 0], strict=True) if b == 0}
    assert ends == set(range(count + 1))
    # And once more, to the same effect: nothing depends on luck.
    first = list(reached)
    reached.clear()
    assert await cancel_at_each_checkpoint(fresh(operation), nothing) == count
    assert reached == first


async def test_an_operation_that_never_suspends_is_cancelled_first() -> None:
    done = []

    async def operation() -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        done.append(True)

    assert await cancel_at_each_checkpoint(fresh(operation), nothing) == 0
    # Cancelled in the first run; the other two had nothing to disturb at.
    assert done == [True, True]


async def test_the_check_runs_after_each_run_and_is_not_cancelled() -> None:
    runs = []

    async def operation() -> None:
        await trio.lowlevel.checkpoint()

    async def check() -> None:
        await trio.lowlevel.checkpoint()
        runs.append(True)

    await cancel_at_each_checkpoint(fresh(operation), check)
    # Before it begins; waiting, and none left; woken, and none left.
    assert len(runs) == 5


class Queue:
    """One message, to be received by an operation that takes it before or after its checkpoint."""

    def __init__(self, *, careful: bool) -> None:
        self._careful = careful
        self.waiting = 0
        self.received = 0

    async def prepare(self) -> Operation:
        self.waiting, self.received = 1, 0
        return self.receive

    async def receive(self) -> None:
        if self._careful:
            await trio.lowlevel.checkpoint()
        self.waiting -= 1
        if not self._careful:
            await trio.lowlevel.checkpoint()
        self.received += 1

    async def check(self) -> None:
        assert self.waiting + self.received == 1, "lost"


async def test_a_message_lost_by_a_cancellation_is_detected() -> None:
    careful, careless = Queue(careful=True), Queue(careful=False)
    assert await cancel_at_each_checkpoint(careful.prepare, careful.check) == 1
    with pytest.raises(AssertionError, match="lost"):
        await cancel_at_each_checkpoint(careless.prepare, careless.check)


async def test_tasks_of_the_operation_count_when_asked_to() -> None:
    async def child() -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    async def operation() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    alone = await cancel_at_each_checkpoint(fresh(operation), nothing)
    together = await cancel_at_each_checkpoint(fresh(operation), nothing, background=True)
    assert together >= alone + 3


async def test_something_else_is_done_at_each_suspension() -> None:
    disturbed = []

    async def operation() -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    async def make() -> tuple[Operation, Callable[[], object]]:
        return operation, lambda: disturbed.append(True)

    await disturb_at_each_checkpoint(make, nothing)
    assert len(disturbed) == 3
    await disturb_at_each_checkpoint(make, nothing, first=2, step=2)
    assert len(disturbed) == 4


async def test_an_endless_operation_is_given_up() -> None:
    async def operation() -> None:
        while True:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            if trio.current_effective_deadline() == -float("inf"):
                await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="still suspended"):
        await cancel_at_each_checkpoint(fresh(operation), nothing, limit=5)


# --- leaks ----------------------------------------------------------------------------------------


async def forgotten() -> None:
    """A task that nobody ends."""
    await trio.sleep_forever()


async def listen() -> trio.SocketListener:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener


async def test_nothing_left_is_no_leak() -> None:
    async with no_leaks():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forgotten)
            nursery.cancel_scope.cancel()
        await (await listen()).aclose()


async def test_a_leaked_task_is_named() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=r"leaked tasks: .*forgotten.*: 1"):
            async with no_leaks():
                nursery.start_soon(forgotten)
        assert any("forgotten" in name for name in all_tasks())
        nursery.cancel_scope.cancel()


async def test_a_task_that_runs_a_function_of_trios_is_named_too() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(AssertionError, match=r"leaked tasks: .*sleep_forever.*: 1"):
            async with no_leaks():
                nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()


async def test_a_system_task_of_trio_is_not_a_leak() -> None:
    async with no_leaks():
        task = trio.lowlevel.spawn_system_task(trio.sleep, 0.01)
        assert task.name.startswith("trio.")
    assert not any("sleep" in name for name in all_tasks())


async def test_a_leaked_socket_is_reported() -> None:
    with pytest.raises(AssertionError, match="leaked sockets"):
        async with no_leaks():
            listener = await listen()
    await listener.aclose()


async def test_an_exception_of_the_block_comes_before_leaks() -> None:
    with pytest.raises(ValueError, match="first"):
        async with no_leaks():
            listener = await listen()
            raise ValueError("first")
    await listener.aclose()
