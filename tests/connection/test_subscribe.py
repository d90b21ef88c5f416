"""Subscriptions as channels: what comes out of them, who gets it, and how they end."""

from __future__ import annotations

import traceback
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import (
    all_of,
    another,
    barrier,
    errors_of_waiters,
    msg,
    nothing_was_sent,
    receive_n,
    scripted,
    served,
    taking_turns,
)
from tests.support.internals import push
from tests.support.raw import raw_connection
from tests.transports import ALL_BUT_WSS
from trio_nats import (
    ConfigurationError,
    Connection,
    InvalidSubjectError,
    PendingLimits,
    RequestTimeoutError,
    Subscription,
)
from trio_nats.options import FullPolicy

pytestmark = ALL_BUT_WSS

# --- what comes -----------------------------------------------------------------------------------


async def test_wildcards() -> None:
    wanted = {
        "a.b": ["a.b"],
        "a.*": ["a.b", "a.c"],
        "a.>": ["a.b", "a.c", "a.b.c"],
        "*.b": ["a.b", "x.b"],
        "a.*.c": ["a.b.c"],
        "*.*.c": ["a.b.c"],
        "*": ["a"],
        ">": ["a", "a.b", "a.c", "a.b.c", "x.b"],
    }
    async with served() as (nc, _), AsyncExitStack() as stack:
        subs = {name: await stack.enter_async_context(nc.subscribe(name)) for name in wanted}
        for subject in wanted[">"]:
            await nc.publish(subject, b"")
        await nc.flush()
        for name, sub in subs.items():
            assert (sub.subject, sub.queue) == (name, None)
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
        async with raw_connection(server) as raw:
            for subject in subjects:
                await raw.send(f"PUB {subject} 2\r\nhi\r\n".encode())
            assert [(await two.receive()).subject for _ in subjects] == subjects
        assert one.pending == (0, 0)


async def test_a_queue_group_spans_connections_and_gets_each_message_once() -> None:
    async with served() as (nc, server), AsyncExitStack() as stack:
        members: list[Subscription] = []
        for _ in range(3):
            other = await stack.enter_async_context(another(server))
            both = other.subscribe("a", queue="q"), other.subscribe("a", queue="q")
            members += [await stack.enter_async_context(sub) for sub in both]
            await other.flush()
        sent = [b"%d" % number for number in range(600)]
        async with nc.subscribe("a") as everything, nc.subscribe("a", queue="r") as alone:
            for data in sent:
                await nc.publish("a", data)
            assert await receive_n(everything, 600) == await receive_n(alone, 600) == sent
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
            async with nc.subscribe("b", queue="q", stop_after=2):
                assert await peer.expect_line() == b"SUB b q 2"
                assert await peer.expect_line() == b"UNSUB 2 2"
            assert await peer.expect_line() == b"UNSUB 2"
        assert await peer.expect_line() == b"UNSUB 1"


async def test_max_msgs_ends_it_by_itself() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a", stop_after=3) as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.expect_line(b"UNSUB 1 3")
        await peer.send(b"".join(msg("a", 1, b"%d" % number) for number in range(5)))
        await peer.expect_line(b"UNSUB 1")
        assert await receive_n(sub, 2) == [b"0", b"1"]
        assert nc.stats.subscriptions == 0
        assert await all_of(sub) == [b"2"]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await sub.receive()
            with pytest.raises(trio.EndOfChannel):
                sub.receive_nowait()


async def test_max_msgs_may_be_more_than_a_server_can_count() -> None:
    async with served() as (nc, _), nc.subscribe("a", stop_after=10**9) as sub:
        await nc.publish("a", b"x")
        await nc.flush()
        assert sub.receive_nowait().data == b"x"


@pytest.mark.parametrize("waiting", [False, True])
async def test_max_msgs_with_a_real_server(waiting: bool) -> None:
    got: list[bytes] = []

    async def read() -> None:
        got.extend(await all_of(sub))

    async with served() as (nc, _), nc.subscribe("a", stop_after=3) as sub:
        async with trio.open_nursery() as nursery:
            if waiting:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
            for number in range(10):
                await nc.publish("a", b"%d" % number)
            await nc.flush()
            if not waiting:
                nursery.start_soon(read)
        assert got == [b"0", b"1", b"2"]
        for _ in range(2):
            with pytest.raises(trio.EndOfChannel):
                await sub.receive()
            with pytest.raises(trio.EndOfChannel):
                sub.receive_nowait()
        assert nc.stats.subscriptions == 0
        assert nc.stats.in_messages == 3  # the server knew of it as well


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"subject": ""}, InvalidSubjectError),
        ({"subject": None}, TypeError),
        ({"subject": "a b"}, InvalidSubjectError),
        ({"subject": "a..b"}, InvalidSubjectError),
        ({"subject": "a.>.b"}, InvalidSubjectError),
        ({"subject": "a*"}, InvalidSubjectError),
        ({"subject": "a 1\r\nSUB b"}, InvalidSubjectError),
        ({"subject": "a", "queue": ""}, InvalidSubjectError),
        ({"subject": "a", "queue": "a b"}, InvalidSubjectError),
        ({"subject": "a", "queue": "a..b"}, InvalidSubjectError),
        ({"subject": "a", "queue": "a.>.b"}, InvalidSubjectError),
        ({"subject": "a", "queue": "a*"}, InvalidSubjectError),
        ({"subject": "a", "queue": "q 7\r\nSUB b"}, InvalidSubjectError),
        ({"subject": "a", "stop_after": 0}, ConfigurationError),
        ({"subject": "a", "stop_after": -1}, ConfigurationError),
        ({"subject": "a", "stop_after": 1.5}, TypeError),
        ({"subject": "a", "stop_after": True}, TypeError),
        ({"subject": "a", "stop_after": "2"}, TypeError),
        ({"subject": "a", "pending_limits": 5}, TypeError),
    ],
)
async def test_invalid_subscriptions(arguments: dict[str, Any], error: type[Exception]) -> None:
    async with scripted() as (nc, peer):
        with pytest.raises(error):
            nc.subscribe(**arguments)
        await nothing_was_sent(nc, peer)


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
        assert await receive_n(sub, 1) == [b"y"]
        assert sub.pending == (0, 0)
        with pytest.raises(trio.WouldBlock):
            sub.receive_nowait()


async def test_receivers_are_served_in_order_without_cancelled_ones() -> None:
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

    async with served() as (nc, _), nc.subscribe("a", stop_after=3000) as sub:
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
    async with served() as (nc, _), nc.subscribe("a") as sub:
        await _with_pending(nc, sub, 1280)
        async with taking_turns() as turns:
            await receive_n(sub, 1280)
            assert turns.taken >= 1280 / 64 - 1


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


async def test_a_message_that_another_task_received_first() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        for _ in range(20):
            await _with_pending(nc, sub, 64)
            got: list[bytes] = []

            async def work(got: list[bytes] = got) -> None:
                while len(got) < 64:
                    got += await receive_n(sub, 1)

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


async def test_a_message_without_a_subscription_is_ignored() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        async with nc.subscribe("b"):
            pass
        await peer.send(msg("b", 2, b"late") + msg("c", 77, b"?") + msg("a", 1, b"x"))
        assert await receive_n(sub, 1) == [b"x"]
        assert sub.dropped == nc.stats.dropped == 0


# --- entering and leaving -------------------------------------------------------------------------


async def test_leaving_unsubscribes_however_it_is_left() -> None:
    async with scripted() as (nc, peer):
        with trio.CancelScope() as scope:
            async with nc.subscribe("a", queue="q") as sub:
                scope.cancel()
                await sub.receive()
        assert scope.cancelled_caught
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
        assert commands[:2] == [b"SUB a q 1", b"UNSUB 1"]
        assert commands[2:4] == [b"SUB b 2", b"UNSUB 2"]
        assert commands[4:] == [b"SUB c 3", b"UNSUB 3"]
        assert nc.stats.subscriptions == 0


async def test_a_subscription_is_entered_once() -> None:
    async with served() as (nc, _):
        sub = nc.subscribe("a", queue="q")
        assert "'a', queue='q' not entered" in repr(sub)
        for use in (sub.receive, sub.drain):
            with pytest.raises(RuntimeError, match="not been entered"):
                await use()
        with pytest.raises(RuntimeError, match="not been entered"):
            sub.receive_nowait()
        async with sub:
            assert "open" in repr(sub)
            with pytest.raises(RuntimeError, match="only once"):
                await sub.__aenter__()
            await _with_pending(nc, sub, 1)
            assert await receive_n(sub, 1) == [b"0"]
        assert "ended" in repr(sub)
        with pytest.raises(RuntimeError, match="only once"):
            await sub.__aenter__()
        unused = nc.subscribe("a")
        await unused.aclose()
        with pytest.raises(RuntimeError, match="only once"):
            await unused.__aenter__()
        assert nc.stats.subscriptions == 0


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


async def test_closing_wakes_all_who_wait() -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub:
        async with errors_of_waiters(sub.receive, 3) as errors:
            await sub.aclose()
            await sub.aclose()
    assert len(errors) == 3
    for error in errors:
        assert isinstance(error, trio.ClosedResourceError)
        assert "this subscription is closed" in str(error)
        # Where it happened to one task is not where it happened to another.
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names.count("waiter") == 1


async def test_the_end_wakes_all_waiting_tasks() -> None:
    got: list[bytes] = []

    async def work() -> None:
        got.append((await sub.receive()).data)

    async with scripted() as (nc, peer), nc.subscribe("a", stop_after=1) as sub:
        async with errors_of_waiters(work, 3) as errors:
            await peer.send(msg("a", 1, b"x"))
    assert got == [b"x"]
    assert [type(error) for error in errors] == [trio.EndOfChannel] * 2


# --- draining -------------------------------------------------------------------------------------


async def test_draining_keeps_what_was_sent_until_then() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.send(msg("a", 1, b"before"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sub.drain)
            await peer.expect_line(b"UNSUB 1")
            await peer.expect_line(b"PING")
            assert await receive_n(sub, 1) == [b"before"]
            await peer.send(msg("a", 1, b"late") + b"PONG\r\n")
            assert await all_of(sub) == [b"late"]
        await sub.aclose()
        await nothing_was_sent(nc, peer)  # to unsubscribe once is enough


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "wait"])
async def test_draining_keeps_a_bounded_amount(policy: FullPolicy) -> None:
    """A server that keeps sending, and does not confirm the end, does not fill the memory."""
    size = 1024 * 1024
    most = 1000 + PendingLimits().bytes
    limits = PendingLimits(bytes=1000, when_full=policy)
    async with scripted() as (nc, peer), nc.subscribe("a", pending_limits=limits) as sub:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sub.drain)
            await peer.expect_line(b"SUB a 1")
            await peer.expect_line(b"UNSUB 1")
            await peer.expect_line(b"PING")
            await peer.send(msg("a", 1, b"x" * size))
            while not sub.pending[0]:
                await trio.lowlevel.checkpoint()
            received = await sub.receive()
            push(sub, *[received] * (2 * most // size))
            assert most - size < sub.pending[1] <= most
            await peer.send(b"PONG\r\n")  # it is read although the subscription is full
        assert len(await all_of(sub)) == most // size


async def test_draining_gives_up() -> None:
    async with scripted() as (nc, _), nc.subscribe("a") as sub:
        with pytest.raises(RequestTimeoutError, match=r"drain: .* 0\.01 s"):
            await sub.drain(timeout=0.01)
        assert await all_of(sub) == []
