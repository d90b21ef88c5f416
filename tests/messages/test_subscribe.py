"""Subscriptions as channels: what comes out of them, who gets it, and how they end."""

from __future__ import annotations

import traceback
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any

import pytest
import trio
import trio.testing

from tests.messages.helpers import all_of, another, barrier, msg, next_event, scripted, served, take
from trio_nats import (
    ConfigurationError,
    Connection,
    InvalidSubjectError,
    PermissionsViolationError,
    Subscription,
    UserPassword,
)
from trio_nats.events import ServerError

# --- what comes -----------------------------------------------------------------------------------


async def test_wildcards() -> None:
    wanted = {
        "a.b": ["a.b"],
        "a.*": ["a.b", "a.c"],
        "a.>": ["a.b", "a.c", "a.b.c"],
        "*.b": ["a.b", "x.b"],
        "a.*.c": ["a.b.c"],
        "*": ["a"],
        ">": ["a", "a.b", "a.c", "a.b.c", "x.b"],
    }
    async with served() as (nc, _), AsyncExitStack() as stack:
        subs = {name: await stack.enter_async_context(nc.subscribe(name)) for name in wanted}
        for subject in wanted[">"]:
            await nc.publish(subject, b"")
        await nc.flush()
        for name, sub in subs.items():
            assert sub.subject == name
            found = [sub.receive_nowait().subject for _ in range(sub.pending[0])]
            assert found == wanted[name]


async def test_no_subject_moves_a_message_to_another_subscription() -> None:
    async with (
        served() as (nc, server),
        nc.subscribe("secret") as one,
        nc.subscribe("open.*") as two,
    ):
        await nc.flush()
        # White space to Python but not to the server, and the number of the first subscription.
        subjects = ["open.\v1", "open.\f1"]
        async with another(server) as other:
            for subject in subjects:
                other._core.outbox.append((f"PUB {subject} 2\r\n".encode(), b"hi", b"\r\n"))
            assert [(await two.receive()).subject for _ in subjects] == subjects
        assert one.pending == (0, 0)


async def test_a_queue_group_spans_connections_and_gets_each_message_once() -> None:
    async with served() as (nc, server), AsyncExitStack() as stack:
        members = []
        for _ in range(3):
            other = await stack.enter_async_context(another(server))
            members.append(await stack.enter_async_context(other.subscribe("a", queue="q")))
            await other.flush()
        sent = [b"%d" % number for number in range(300)]
        async with nc.subscribe("a") as everything, nc.subscribe("a", queue="r") as alone:
            for data in sent:
                await nc.publish("a", data)
            assert await take(everything, 300) == await take(alone, 300) == sent
            got: list[bytes] = []
            shares = []
            for member in members:
                await member.drain()
                shares.append(await all_of(member))
                got += shares[-1]
            assert sorted(got) == sorted(sent)
            assert all(shares)
            assert members[0].queue == "q"


async def test_the_frames_of_a_subscription() -> None:
    async with scripted() as (nc, peer):
        async with nc.subscribe("a.*"):
            assert await peer.expect_line() == b"SUB a.* 1"
            async with nc.subscribe("b", queue="q", max_msgs=2):
                assert await peer.expect_line() == b"SUB b q 2"
                assert await peer.expect_line() == b"UNSUB 2 2"
            assert await peer.expect_line() == b"UNSUB 2"
        assert await peer.expect_line() == b"UNSUB 1"


async def test_max_msgs_ends_it_by_itself() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a", max_msgs=3) as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.expect_line(b"UNSUB 1 3")
        await peer.send(b"".join(msg("a", 1, b"%d" % number) for number in range(5)))
        await peer.expect_line(b"UNSUB 1")
        assert await take(sub, 2) == [b"0", b"1"]
        assert nc.stats.subscriptions == 0
        assert await all_of(sub) == [b"2"]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await sub.receive()
            with pytest.raises(trio.EndOfChannel):
                sub.receive_nowait()


async def test_max_msgs_may_be_more_than_a_server_can_count() -> None:
    async with served() as (nc, _), nc.subscribe("a", max_msgs=10**9) as sub:
        await nc.publish("a", b"x")
        await nc.flush()
        assert sub.receive_nowait().data == b"x"


async def test_max_msgs_with_a_real_server() -> None:
    async with served() as (nc, _), nc.subscribe("a", max_msgs=3) as sub:
        for number in range(10):
            await nc.publish("a", b"%d" % number)
        assert await all_of(sub) == [b"0", b"1", b"2"]
        await nc.flush()
        assert nc.stats.in_messages == 3


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"subject": ""}, InvalidSubjectError),
        ({"subject": "a b"}, InvalidSubjectError),
        ({"subject": "a.>.b"}, InvalidSubjectError),
        ({"subject": "a*"}, InvalidSubjectError),
        ({"subject": "a 1\r\nSUB b"}, InvalidSubjectError),
        ({"subject": "a", "queue": ""}, InvalidSubjectError),
        ({"subject": "a", "queue": "q 7\r\nSUB b"}, InvalidSubjectError),
        ({"subject": "a", "max_msgs": 0}, ConfigurationError),
        ({"subject": "a", "max_msgs": -1}, ConfigurationError),
        ({"subject": "a", "max_msgs": True}, ConfigurationError),
        ({"subject": "a", "max_msgs": "2"}, ConfigurationError),
        ({"subject": "a", "pending": 5}, ConfigurationError),
    ],
)
async def test_what_cannot_be_subscribed_to(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    async with scripted() as (nc, peer):
        with pytest.raises(error):
            nc.subscribe(**arguments)
        await nc.publish("end", b"")
        assert await peer.expect_line() == b"PUB end 0"


# --- receiving ------------------------------------------------------------------------------------


async def test_receive_nowait() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        with pytest.raises(trio.WouldBlock):
            sub.receive_nowait()
        await peer.send(msg("a", 1, b"x") + msg("a", 1, b"y"))
        await barrier(peer)
        assert sub.pending == (2, 2)
        assert sub.receive_nowait().data == b"x"
        assert sub.pending == (1, 1)
        assert await take(sub, 1) == [b"y"]
        with pytest.raises(trio.WouldBlock):
            sub.receive_nowait()


async def test_those_who_wait_are_served_in_turn_and_the_cancelled_are_passed_over() -> None:
    got: dict[int, bytes] = {}
    scopes: list[trio.CancelScope] = []

    async def wait(number: int) -> None:
        with scopes[number]:
            got[number] = (await sub.receive()).data

    async with scripted() as (nc, peer), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        for number in range(6):
            scopes.append(trio.CancelScope())
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[3].cancel()
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(b"".join(msg("a", 1, b"%d" % number) for number in range(5)))
        await barrier(peer)
        assert got == {1: b"0", 2: b"1", 4: b"2", 5: b"3"}
        assert sub.receive_nowait().data == b"4"


async def test_a_pool_of_workers_gets_each_message_once() -> None:
    sent = [b"%d" % number for number in range(3000)]
    shares: list[list[bytes]] = [[] for _ in range(5)]

    async def work(share: list[bytes]) -> None:
        async for message in sub:
            share.append(message.data)
            if len(share) % 7 == 0:
                await trio.lowlevel.checkpoint()

    async with served() as (nc, _), nc.subscribe("a", max_msgs=3000) as sub:
        async with trio.open_nursery() as nursery:
            for share in shares:
                nursery.start_soon(work, share)
            for data in sent:
                await nc.publish("a", data)
        assert sorted(chain.from_iterable(shares)) == sorted(sent)
        assert all(sorted(share, key=int) == share for share in shares)


async def _with_pending(nc: Connection, sub: Subscription, count: int) -> None:
    """Have the server send ``count`` messages, and wait until they are there."""
    for number in range(count):
        await nc.publish(sub.subject, b"%d" % number)
    await nc.flush()
    assert sub.pending[0] == count


async def test_a_receiving_loop_lets_others_run_every_64_messages() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with served() as (nc, _), nc.subscribe("a") as sub:
        await _with_pending(nc, sub, 1280)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await trio.lowlevel.checkpoint()
            before = turns
            await take(sub, 1280)
            assert turns - before >= 1280 / 64 - 1
            nursery.cancel_scope.cancel()


async def test_a_receiving_loop_can_be_cancelled_at_every_message() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        await _with_pending(nc, sub, 200)
        for number in range(200):
            got = []
            with trio.CancelScope() as scope:
                if number % 2:
                    async for message in sub:
                        got.append(message.data)
                        scope.cancel()
                while True:
                    got.append((await sub.receive()).data)
                    scope.cancel()
            assert scope.cancelled_caught
            assert got == [b"%d" % number]
        assert sub.pending == (0, 0)


async def test_a_message_somebody_else_was_quicker_to_take() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        for _ in range(20):
            await _with_pending(nc, sub, 64)
            got: list[bytes] = []

            async def work(got: list[bytes] = got) -> None:
                while len(got) < 64:
                    got += await take(sub, 1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                # It looks for a message, and lets others run before it takes it.
                while len(got) < 60:
                    await trio.lowlevel.checkpoint()
                while sub.pending[0]:
                    sub.receive_nowait()
                    await nc.publish("a", b"instead")
            assert len(got) == 64
            assert sub.pending == (0, 0)


async def test_a_message_for_nobody_is_passed_over() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        async with nc.subscribe("b"):
            pass
        await peer.send(msg("b", 2, b"late") + msg("c", 77, b"?") + msg("a", 1, b"x"))
        assert await take(sub, 1) == [b"x"]
        assert sub.dropped == nc.stats.dropped == 0


# --- entering and leaving -------------------------------------------------------------------------


async def test_leaving_unsubscribes_however_it_is_left() -> None:
    async with scripted() as (nc, peer):
        with trio.CancelScope() as scope:
            async with nc.subscribe("a"):
                scope.cancel()
                await trio.sleep_forever()
        with pytest.raises(KeyError):
            async with nc.subscribe("b"):
                raise KeyError
        async with nc.subscribe("c") as sub:
            await sub.aclose()
            await sub.aclose()
        with trio.CancelScope() as scope:
            scope.cancel()
            async with nc.subscribe("never"):
                raise AssertionError("entered")
        await nc.publish("end", b"")
        while (await peer.expect_line()) != b"PUB end 0":
            pass
        commands = [line for line in peer.lines if b"SUB" in line]
        assert commands[:2] == [b"SUB a 1", b"UNSUB 1"]
        assert commands[2:4] == [b"SUB b 2", b"UNSUB 2"]
        assert commands[4:] == [b"SUB c 3", b"UNSUB 3"]
        assert nc.stats.subscriptions == 0


async def test_a_subscription_is_entered_once() -> None:
    async with scripted() as (nc, _):
        sub = nc.subscribe("a", queue="q")
        assert "'a', queue='q' not entered" in repr(sub)
        for use in (sub.receive, sub.drain):
            with pytest.raises(RuntimeError, match="entered"):
                await use()
        with pytest.raises(RuntimeError, match="entered"):
            sub.receive_nowait()
        async with sub:
            assert "open" in repr(sub)
            with pytest.raises(RuntimeError, match="only once"):
                await sub.__aenter__()
        assert "ended" in repr(sub)
        with pytest.raises(RuntimeError, match="only once"):
            await sub.__aenter__()
        unused = nc.subscribe("a")
        await unused.aclose()
        with pytest.raises(RuntimeError, match="only once"):
            await unused.__aenter__()


async def test_a_closed_subscription_gives_nothing_more() -> None:
    async with served() as (nc, _):
        async with nc.subscribe("a") as sub:
            await _with_pending(nc, sub, 3)
        assert sub.pending == (0, 0)
        with pytest.raises(trio.ClosedResourceError, match="subscription is closed"):
            await sub.receive()
        with pytest.raises(trio.ClosedResourceError):
            sub.receive_nowait()
        with pytest.raises(trio.ClosedResourceError):
            await all_of(sub)


async def test_entering_on_a_closed_connection() -> None:
    async with served() as (nc, _):
        pass
    with pytest.raises(trio.ClosedResourceError, match="connection is closed"):
        async with nc.subscribe("a"):
            pass


async def test_closing_wakes_all_who_wait() -> None:
    errors: list[Exception] = []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await sub.receive()
        errors.append(caught.value)

    async with scripted() as (nc, _), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await sub.aclose()
    assert len(errors) == 3
    for error in errors:
        # Where it happened to one task is not where it happened to another.
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.count("wait") == 1


async def test_the_end_wakes_all_who_wait() -> None:
    ends = 0

    async def work() -> None:
        nonlocal ends
        await all_of(sub)
        ends += 1

    async with scripted() as (nc, peer), nc.subscribe("a", max_msgs=1) as sub:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(msg("a", 1, b"x"))
    assert ends == 3


# --- permissions ----------------------------------------------------------------------------------

DENIED = "Permissions Violation for Subscription to "


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        (DENIED + '"a"', 1),
        (DENIED.lower() + '"a"', 1),
        (DENIED + '"a" using queue "q"', 2),
        (DENIED + '"a" using queue "r"', 3),
        (DENIED + '"a" (sid "4")', 4),
        (DENIED + '"a" using queue "q" (sid "2")', 2),
        (DENIED + '"b"', 5),
        (DENIED + '"c"', None),
        (DENIED + '"a" using queue "s"', None),
    ],
)
async def test_the_server_forbids_one_subscription(text: str, denied: int | None) -> None:
    async with scripted() as (nc, peer), AsyncExitStack() as stack, nc.events() as events:
        subs: dict[int, Subscription] = {}
        for sid, (subject, queue) in enumerate(
            [("a", None), ("a", "q"), ("a", "r"), ("a", None), ("b", None)], 1
        ):
            subs[sid] = await stack.enter_async_context(nc.subscribe(subject, queue=queue))
        await peer.send(b"".join(msg("x", sid, b"before") for sid in subs))
        await peer.send(b"-ERR '%b'\r\n" % text.encode())
        await peer.send(b"".join(msg("x", sid, b"after") for sid in subs))
        await barrier(peer)
        for sid, sub in subs.items():
            if sid != denied:
                assert await take(sub, 2) == [b"before", b"after"]
                continue
            assert await take(sub, 1) == [b"before"]
            for _ in range(2):
                with pytest.raises(PermissionsViolationError) as caught:
                    await sub.receive()
                assert caught.value.operation == "subscription"
        assert nc.stats.subscriptions == (4 if denied else 5)
        if denied is None:
            assert (await next_event(events, ServerError)).error.message == text


async def test_a_real_server_forbids_a_subscription() -> None:
    config = 'authorization { default_permissions: { subscribe: { deny: ["x.>", "*.q q"] } }\n'
    config += "users: [{user: u, password: p}] }"
    async with served(config, auth=UserPassword("u", "p")) as (nc, _), AsyncExitStack() as stack:
        fine = await stack.enter_async_context(nc.subscribe("a"))
        other_queue = await stack.enter_async_context(nc.subscribe("a.q", queue="r"))
        for subject, queue in [("x.y", None), ("x.y", "q"), ("a.q", "q")]:
            async with nc.subscribe(subject, queue=queue) as denied:
                with pytest.raises(PermissionsViolationError) as caught:
                    await denied.receive()
                assert (caught.value.subject, caught.value.queue) == (subject, queue)
        await nc.publish("a", b"1")
        await nc.publish("a.q", b"2")
        assert await take(fine, 1) == [b"1"]
        assert await take(other_queue, 1) == [b"2"]


async def test_whoever_waits_hears_that_it_is_forbidden() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(PermissionsViolationError):
                    await sub.receive()

            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(b"-ERR '%b\"a\"'\r\n" % DENIED.encode())
