"""What waits to be written: order, priority, counting, and who waits for room."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from tests.connection.helpers import from_another_run
from tests.core.helpers import frames_of, put
from tests.support.internals import chunks_of
from trio_nats import OutboxFullError
from trio_nats._core.outbox import Outbox

KIB = 1024


def outbox(limit: int = 1000, *, when_full: str = "wait") -> Outbox:
    assert when_full in ("wait", "raise")
    token = trio.lowlevel.current_trio_token()

    def check_run() -> None:
        if trio.lowlevel.current_trio_token() is not token:
            raise RuntimeError("another run")

    return Outbox(limit, "raise" if when_full == "raise" else "wait", check_run)


def take_all(box: Outbox) -> bytes:
    """Everything there is, as one writer after the other would write it."""
    data = b""
    while chunk := b"".join(box.take()):
        data += chunk
        box.written(len(chunk))
    return data


def pub(size: int) -> bytes:
    """A PUB frame of ``size`` bytes in all."""
    return b"PUB a " + b"x" * (size - 8) + b"\r\n"


# --- order and chunks -----------------------------------------------------------------------------


async def test_frames_leave_in_the_order_they_came() -> None:
    box = outbox()
    frames = [b"%d\r\n" % number for number in range(20_000)]
    for frame in frames:
        put(box, frame)
    assert box.size == sum(map(len, frames))
    assert take_all(box) == b"".join(frames)
    assert box.size == 0


@pytest.mark.parametrize(("frame", "chunk"), [(100, 128), (1 * KIB, 512), (10 * KIB, 512)])
async def test_chunks_are_larger_where_messages_are(frame: int, chunk: int) -> None:
    box = outbox(4000 * KIB)
    for _ in range(2000 * KIB // frame):
        await box.wait_for_space()
        put(box, pub(frame))
    await box.wait_for_space()
    put(box, pub(300 * KIB))
    sizes = []
    while box.size:
        frames = box.take()
        assert set(map(len, frames_of(frames))) <= {frame, 300 * KIB}
        sizes.append(sum(map(len, frames)))
        box.written(sizes[-1])
    # What is in the first one decides about the others.
    assert all(chunk * KIB <= size < (chunk + 11) * KIB for size in sizes[1:-1])
    assert len(sizes) > 3


async def test_what_a_new_wire_must_hear_comes_first() -> None:
    box = outbox()
    put(box, pub(70 * KIB))
    put(box, pub(100))
    box.prepend([b"SUB a 1\r\n", b"SUB b 2\r\n"])
    box.prepend([])
    put(box, pub(50))
    assert box.size == 70 * KIB + 150 + 18
    assert take_all(box) == b"SUB a 1\r\nSUB b 2\r\n" + pub(70 * KIB) + pub(100) + pub(50)


# --- answers to PINGs -----------------------------------------------------------------------------


async def test_pongs_overtake_everything() -> None:
    box = outbox(200 * KIB)
    put(box, pub(130 * KIB))
    await box.wait_for_space()
    put(box, pub(100))
    assert box.pong()
    assert box.pong()
    first = b"".join(box.take())
    assert first == b"PONG\r\n" * 2 + pub(130 * KIB)
    assert box.size == 130 * KIB + 100 + 12
    box.written(len(first))
    assert box.pong()
    assert take_all(box) == b"PONG\r\n" + pub(100)
    assert box.size == 0


async def test_too_many_pongs_are_a_flood() -> None:
    box = outbox()
    assert all(box.pong() for _ in range(1024))
    assert not box.pong()
    assert len(b"".join(box.take())) == 1025 * 6
    # Once they are being written, it may ask again.
    assert box.pong()


# --- a wire that breaks ---------------------------------------------------------------------------


async def test_commands_of_a_lost_connection_are_dropped() -> None:
    box = outbox()
    big = pub(70 * KIB)
    for frame in (b"SUB a 1\r\n", pub(50), b"PING\r\n", big, b"HPUB a 0 0\r\n", b"UNSUB 1\r\n"):
        put(box, frame)
    put(box, b"PING\r\n")
    box.pong()
    assert box.remove_commands() == [b"SUB a 1\r\n", b"PING\r\n", b"UNSUB 1\r\n", b"PING\r\n"]
    assert box.size == 50 + 70 * KIB + 12
    assert take_all(box) == pub(50) + big + b"HPUB a 0 0\r\n"
    assert box.remove_commands() == []
    assert box.size == 0


async def test_a_message_that_looks_like_a_command_is_kept() -> None:
    box = outbox()
    box.append((b"PUB a 6\r\n", b"PING\r\n", b"\r\n"))
    put(box, b"PING\r\n")
    assert box.remove_commands() == [b"PING\r\n"]
    assert take_all(box) == b"PUB a 6\r\nPING\r\n\r\n"


async def test_removing_the_only_commands_empties_the_outbox() -> None:
    box = outbox()
    put(box, b"SUB a 1\r\n")
    assert box.remove_commands() == [b"SUB a 1\r\n"]
    assert box.size == 0
    with trio.move_on_after(0) as scope:
        await box.wait()
    assert scope.cancelled_caught


async def test_what_was_being_written_is_lost_and_counted() -> None:
    box = outbox()
    for frame in (b"SUB a 1\r\n", pub(50), b"HPUB a 0 0\r\n", b"PING\r\n"):
        put(box, frame)
    box.pong()
    chunk = box.take()
    put(box, pub(10))
    assert box.lost(chunk) == 2
    assert box.size == 10
    assert take_all(box) == pub(10)


async def test_closing_drops_everything_for_good() -> None:
    box = outbox()
    put(box, pub(70 * KIB))
    chunk = box.take()
    put(box, pub(10))
    box.pong()
    box.close()
    assert box.accepted == 2
    assert box.size == 0
    assert box.lost(chunk) == 1
    assert box.size == 0
    assert take_all(box) == b""


# --- the writer -----------------------------------------------------------------------------------


async def test_the_writer_wakes_for_each_kind_of_work() -> None:
    box = outbox()
    woken = 0

    async def write() -> None:
        nonlocal woken
        while True:
            await box.wait()
            woken += 1
            box.take()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        # Twice at once wakes it once; but each call of prepend() makes a chunk.
        for work, wakes in [
            (lambda: put(box, b"x"), 1),
            (box.pong, 2),
            (lambda: box.prepend([b"x"]), 4),
        ]:
            await trio.testing.wait_all_tasks_blocked()
            work()
            work()
            await trio.testing.wait_all_tasks_blocked()
            assert woken == wakes
        nursery.cancel_scope.cancel()


async def test_a_cancelled_writer_is_not_woken() -> None:
    box = outbox()
    with trio.move_on_after(0):
        await box.wait()
    put(box, b"x")
    await box.wait()
    assert frames_of(box.take()) == [b"x"]


async def test_a_released_writer_looks_again() -> None:
    box = outbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.wait)
        await trio.testing.wait_all_tasks_blocked()
        box.wake_writer()


async def test_another_run_may_not_wake_the_writer() -> None:
    box = outbox()

    async def append() -> None:
        put(box, b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="another run"):
            await from_another_run(append)
        assert box.size == 0
        nursery.cancel_scope.cancel()


# --- room -----------------------------------------------------------------------------------------


async def test_there_is_room_up_to_the_limit() -> None:
    box = outbox(100, when_full="raise")
    put(box, pub(99))
    await box.wait_for_space()
    put(box, pub(10))
    with pytest.raises(OutboxFullError, match=r"109 bytes .*outbox_size is 100"):
        await box.wait_for_space()
    box.written(9)
    with pytest.raises(OutboxFullError, match=r"100 bytes"):
        await box.wait_for_space()
    box.written(1)
    await box.wait_for_space()


async def test_waiting_publishers_continue_once_there_is_space() -> None:
    box = outbox(100)
    put(box, pub(150))
    entered = 0

    async def enter() -> None:
        nonlocal entered
        await box.wait_for_space()
        entered += 1
        put(box, pub(60))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(enter)
        await trio.testing.wait_all_tasks_blocked()
        assert entered == 0
        box.written(50)
        await trio.testing.wait_all_tasks_blocked()
        assert entered == 0
        box.written(1)
        await trio.testing.wait_all_tasks_blocked()
        assert (entered, box.size) == (1, 159)
        box.written(159)
        await trio.testing.wait_all_tasks_blocked()
        assert (entered, box.size) == (3, 120)
        box.close()
        await trio.testing.wait_all_tasks_blocked()
        assert entered == 4


async def test_written_lost_and_dropped_messages_free_space() -> None:
    for give_back in ("written", "lost", "forgotten", "closed"):
        box = outbox(10)
        put(box, pub(20) if give_back != "forgotten" else b"SUB something 1\r\n")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(box.wait_for_space)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 3
            if give_back == "written":
                take_all(box)
            elif give_back == "lost":
                box.lost(box.take())
            elif give_back == "forgotten":
                box.remove_commands()
            else:
                box.close()
            await trio.testing.wait_all_tasks_blocked()
            assert not nursery.child_tasks, give_back


async def test_waiting_for_room_can_be_cancelled() -> None:
    box = outbox(100)
    for size in (50, 150):
        put(box, pub(size))
        with trio.CancelScope() as scope:
            scope.cancel()
            await box.wait_for_space()
        assert scope.cancelled_caught


async def test_raising_is_a_checkpoint_too() -> None:
    box = outbox(10, when_full="raise")
    put(box, pub(20))
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.wait_for_space()
    assert scope.cancelled_caught


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
async def test_no_message_is_lost_repeated_or_reordered(seed: int) -> None:
    """The size is right at all times, and messages come out once and in order."""
    chance = random.Random(seed)
    box = outbox()
    accepted: list[bytes] = []
    written: list[bytes] = []
    held = 0
    for number in range(500):
        what = chance.random()
        if what < 0.6:
            frame = b"PUB %d %b\r\n" % (number, b"x" * chance.choice([0, 10, 9000]))
            accepted.append(frame)
            put(box, frame)
        elif what < 0.7:
            put(box, chance.choice([b"PING\r\n", b"SUB a 1\r\n"]))
        elif what < 0.75:
            box.prepend([b"SUB b 2\r\n"])
        elif what < 0.8:
            box.pong()
        elif what < 0.85:
            box.remove_commands()
        elif box.size:
            chunk = box.take()
            messages = [frame for frame in frames_of(chunk) if frame.startswith(b"PUB")]
            if chance.random() < 0.2:
                assert box.lost(chunk) == len(messages)
                accepted = [frame for frame in accepted if frame not in messages]
            else:
                box.written(sum(map(len, chunk)))
                written += messages
        held = sum(map(len, accepted)) - sum(map(len, written))
        commands = sum(
            len(frame)
            for chunk in chunks_of(box)
            for frame in frames_of(chunk)
            if not frame.startswith(b"PUB")
        )
        assert box.size == held + commands
    while box.size:
        chunk = box.take()
        written += [frame for frame in frames_of(chunk) if frame.startswith(b"PUB")]
        box.written(sum(map(len, chunk)))
    assert written == accepted
    assert box.size == 0
