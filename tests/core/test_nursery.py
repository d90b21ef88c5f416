"""What leaves a block that has tasks of ours behind it."""

from __future__ import annotations

import functools
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import pytest
import trio

from trio_nats._nursery import open_nursery

P = ParamSpec("P")

KINDS = [KeyError, BaseException, KeyboardInterrupt, SystemExit, GeneratorExit]


def in_a_run(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Not left to pytest-trio, which takes a test that raises Cancelled for one that passed."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        trio.run(functools.partial(test, *args, **kwargs))

    return run


async def fail(error: BaseException) -> None:
    raise error


async def fail_when_cancelled(error: BaseException) -> None:
    try:
        await trio.sleep_forever()
    finally:
        raise error


@in_a_run
async def test_leaving_waits_for_all_tasks() -> None:
    done = []

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        done.append(1)

    async with open_nursery() as nursery:
        nursery.start_soon(work)
        nursery.start_soon(work)
    assert done == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
@in_a_run
async def test_the_blocks_exception_leaves_as_itself(kind: type[BaseException]) -> None:
    error = kind("mine")
    context = error.__context__ = OSError("why")
    with pytest.raises(kind) as caught:
        async with open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error
    assert error.__context__ is context


@in_a_run
async def test_a_group_of_the_blocks_leaves_as_itself() -> None:
    error = ExceptionGroup("mine", [KeyError("a"), ExceptionGroup("inner", [OSError("b")])])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error


@pytest.mark.parametrize("kind", KINDS)
@in_a_run
async def test_a_tasks_failure_cancels_the_block_and_leaves_as_itself(
    kind: type[BaseException],
) -> None:
    error = kind("ours")
    context = error.__context__ = OSError("why")
    with pytest.raises(kind) as caught:
        async with open_nursery() as nursery:
            nursery.start_soon(fail, error)
            await trio.sleep_forever()
    assert caught.value is error
    assert error.__context__ is context


@in_a_run
async def test_a_tasks_failure_after_the_block_has_ended() -> None:
    error = KeyError("ours")
    with pytest.raises(KeyError) as caught:
        async with open_nursery() as nursery:
            nursery.start_soon(fail, error)
    assert caught.value is error


@in_a_run
async def test_a_tasks_failure_when_the_block_runs_a_nursery_of_its_own() -> None:
    error = KeyError("ours")
    with pytest.raises(KeyError) as caught:
        async with open_nursery() as nursery, trio.open_nursery() as theirs:
            theirs.start_soon(trio.sleep_forever)
            theirs.start_soon(trio.sleep_forever)
            nursery.start_soon(fail, error)
            await trio.sleep_forever()
    assert caught.value is error


@in_a_run
async def test_a_failure_beside_our_cancellation_in_a_group_of_the_blocks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The cancellation is ours, and must not get out; the rest is the block's."""
    mine = KeyError("mine")
    with pytest.raises(ExceptionGroup) as caught:
        async with open_nursery() as nursery, trio.open_nursery() as theirs:
            theirs.start_soon(trio.sleep_forever)
            theirs.start_soon(fail_when_cancelled, mine)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(fail, OSError("ours"))
            await trio.sleep_forever()
    assert caught.value.exceptions == (mine,)
    assert "ours" in caplog.text


@pytest.mark.parametrize("block", ["ends", "waits"])
@in_a_run
async def test_cancellation_from_outside_passes(block: str) -> None:
    left: BaseException | None = None
    with trio.CancelScope() as scope:
        try:
            async with open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                if block == "waits":
                    await trio.sleep_forever()
        except BaseException as error:
            left = error
            raise
    assert scope.cancelled_caught
    assert type(left) is trio.Cancelled
    del left


@in_a_run
async def test_cancellation_from_outside_does_not_hide_a_failure() -> None:
    with pytest.raises(KeyError, match="ours"), trio.CancelScope() as scope:
        async with open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled, KeyError("ours"))
            scope.cancel()
            await trio.sleep_forever()


@in_a_run
async def test_cancelling_the_nursery_is_no_failure() -> None:
    async with open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()


@in_a_run
async def test_cancelling_the_nursery_inside_of_a_cancelled_scope() -> None:
    with trio.CancelScope() as scope:
        async with open_nursery() as nursery:
            nursery.cancel_scope.cancel()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


@in_a_run
async def test_an_error_in_a_cancelled_inner_scope_propagates() -> None:
    """An error on the way out, while a scope inside of the block is being cancelled."""
    async with open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        with trio.move_on_after(0) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@in_a_run
async def test_exceptions_that_end_the_program_take_precedence(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(kind, match="tasks"):
        async with open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled, kind("tasks"))
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError("blocks")
    [record] = caplog.records
    assert "blocks" in record.getMessage()


@in_a_run
async def test_of_several_failures_the_blocks_leaves_and_the_others_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(KeyError, match="blocks"):
        async with open_nursery() as nursery:
            nursery.start_soon(fail_when_cancelled, ValueError("first"))
            nursery.start_soon(fail_when_cancelled, OSError("second"))
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError("blocks")
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert {type(record.exc_info[1]) for record in caplog.records if record.exc_info} == {
        ValueError,
        OSError,
    }


@in_a_run
async def test_nesting_flattens_at_each_level() -> None:
    with pytest.raises(KeyError, match="deep"):
        async with open_nursery() as outer:

            async def inner() -> None:
                async with open_nursery() as nursery:
                    nursery.start_soon(fail, KeyError("deep"))
                    await trio.sleep_forever()

            outer.start_soon(inner)
            await trio.sleep_forever()


def test_strict_exception_groups_make_no_difference() -> None:
    async def main() -> None:
        error = ExceptionGroup("mine", [KeyError("a")])
        with pytest.raises(ExceptionGroup) as caught:
            async with open_nursery():
                raise error
        assert caught.value is error

    with pytest.warns(trio.TrioDeprecationWarning):
        trio.run(main, strict_exception_groups=False)


@in_a_run
async def test_no_reference_cycles_are_left() -> None:
    class MyError(Exception):
        pass

    async def raise_it() -> None:
        raise MyError

    async def task() -> None:
        async with open_nursery() as nursery:
            nursery.start_soon(raise_it)
            await trio.sleep_forever()

    gc.collect()
    gc.disable()
    try:
        try:
            await task()
        except MyError as error:
            gone = weakref.ref(error)
        await trio.lowlevel.checkpoint()
        assert gone() is None
    finally:
        gc.enable()
