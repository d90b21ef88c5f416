"""The proxy that does what bad networks do, does what it was told and nothing else."""

from __future__ import annotations

from dataclasses import fields

import pytest
import trio
import trio.testing

from tests.support.chaos import ChaosProxy, Plan, RandomPlans, Way
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, ScriptedServer
from tests.support.timeouts import HANG_TIMEOUT

DATA = bytes(range(256)) * 40


async def sink(peer: Peer) -> None:
    while await peer.receive():
        pass


async def echo(peer: Peer) -> None:
    while data := await peer.receive():
        await peer.send(data)


async def speak(peer: Peer) -> None:
    await peer.send(DATA)
    await peer.hang_up()


async def dial(proxy: ChaosProxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def said(stream: trio.SocketStream) -> bytes:
    """All that comes until the end."""
    heard = bytearray()
    async for data in stream:
        heard += data
    return bytes(heard)


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    heard = b""
    while len(heard) < count:
        more = await stream.receive_some(count - len(heard))
        assert more, f"the stream ended after {len(heard)} bytes"
        heard += more
    return heard


async def test_without_plans_all_passes_and_ends_pass_one_way_at_a_time() -> None:
    async def answer(peer: Peer) -> None:
        while await peer.receive():
            pass
        await peer.send(peer.raw_bytes)

    with trio.fail_after(HANG_TIMEOUT):
        async with no_leaks(), ScriptedServer(answer) as server, ChaosProxy(server.port) as proxy:
            async with await dial(proxy) as stream:
                await stream.send_all(DATA)
                await stream.send_eof()
                assert await said(stream) == DATA
            link = await proxy.link(0)
            await link.closed.wait()
            assert (link.passed_up, link.passed_down) == (len(DATA), len(DATA))
            assert link.closed_at is not None
            assert link.closed_at >= link.opened


# Before the first byte, between two reads of the client's, in the middle, after the last byte.
@pytest.mark.parametrize("at", [0, 1, 5000, len(DATA)])
@pytest.mark.parametrize("chunk", [None, 7])
async def test_cutting_what_comes_down(at: int, chunk: int | None) -> None:
    plan = Plan(down=Way(cut_after=at, chunk=chunk))
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(speak) as server, ChaosProxy(server.port, [plan]) as proxy:
            async with await dial(proxy) as stream:
                assert await said(stream) == DATA[:at]
            link = await proxy.link(0)
            await link.closed.wait()
            assert (link.passed_up, link.passed_down) == (0, at)
            await (await server.peer()).finished.wait()


@pytest.mark.parametrize("at", [0, 1, 5000])
async def test_cutting_what_goes_up(at: int) -> None:
    plan = Plan(up=Way(cut_after=at))
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(sink) as server, ChaosProxy(server.port, [plan]) as proxy:
            async with await dial(proxy) as stream:
                await stream.send_all(DATA)
                peer = await server.peer()
                await peer.finished.wait()
                assert peer.raw_bytes == DATA[:at]
            await (await proxy.link(0)).closed.wait()


async def test_cutting_with_a_reset() -> None:
    plan = Plan(up=Way(cut_after=3), reset=True)
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(sink) as server, ChaosProxy(server.port, [plan]) as proxy:
            async with await dial(proxy) as stream:
                await stream.send_all(b"one")
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            peer = await server.peer()
            await peer.finished.wait()
            assert isinstance(peer.error, trio.BrokenResourceError)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 4999, len(DATA) - 1, len(DATA)])
@pytest.mark.parametrize("chunk", [None, 7])
async def test_corrupting_one_bit(at: int, chunk: int | None) -> None:
    plan = Plan(down=Way(corrupt_at=at, chunk=chunk))
    assert plan.corrupts
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(speak) as server, ChaosProxy(server.port, [plan]) as proxy:
            async with await dial(proxy) as stream:
                heard = await said(stream)
    wrong = [place for place, pair in enumerate(zip(heard, DATA, strict=True)) if len({*pair}) > 1]
    assert wrong == ([at] if at < len(DATA) else [])
    for place in wrong:
        assert (heard[place] ^ DATA[place]).bit_count() == 1


async def test_one_direction_is_corrupted_and_the_other_is_not() -> None:
    plan = Plan(up=Way(corrupt_at=1))
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(echo) as server, ChaosProxy(server.port, [plan]) as proxy:
            async with await dial(proxy) as stream:
                await stream.send_all(b"abc")
                assert await exactly(stream, 3) == b"arc"
                await stream.send_all(b"abc")
                assert await exactly(stream, 3) == b"abc"


async def test_delaying_each_piece(autojump_clock: trio.testing.MockClock) -> None:
    plan = Plan(up=Way(delay=100, chunk=1), down=Way(delay=1))
    async with ScriptedServer(sink) as server, ChaosProxy(server.port, [plan]) as proxy:
        async with await dial(proxy) as stream:
            begun = trio.current_time()
            await stream.send_all(b"abc")
            await stream.send_eof()
            peer = await server.peer()
            await peer.finished.wait()
            assert peer.raw_bytes == b"abc"
            assert trio.current_time() - begun >= 300


async def test_swallowing_from_some_byte_on(autojump_clock: trio.testing.MockClock) -> None:
    plan = Plan(up=Way(swallow_after=4))
    async with ScriptedServer(echo) as server, ChaosProxy(server.port, [plan]) as proxy:
        async with await dial(proxy) as stream:
            await stream.send_all(b"heard, and not heard")
            assert await exactly(stream, 4) == b"hear"
            await stream.send_all(b"nor this, nor the end")
            await stream.send_eof()
            with trio.move_on_after(1000) as waiting:
                await stream.receive_some()
            assert waiting.cancelled_caught
            peer = await server.peer()
            assert peer.raw_bytes == b"hear"
            assert not peer.finished.is_set()


async def test_swallowing_on_all_connections(autojump_clock: trio.testing.MockClock) -> None:
    async with ScriptedServer(echo) as server, ChaosProxy(server.port) as proxy:
        async with await dial(proxy) as stream:
            await stream.send_all(b"heard")
            assert await exactly(stream, 5) == b"heard"
            proxy.swallow = True
            await stream.send_all(b"lost")
            with trio.move_on_after(1000):
                await stream.receive_some()
            proxy.swallow = False
            # What vanished stays away, other than with a PlainProxy.
            await stream.send_all(b"again")
            assert await exactly(stream, 5) == b"again"
            assert (await server.peer()).raw_bytes == b"heardagain"


async def test_the_last_plan_is_for_all_that_follow() -> None:
    plans = [Plan(down=Way(cut_after=2)), Plan(down=Way(cut_after=5))]
    with trio.fail_after(HANG_TIMEOUT):
        async with ScriptedServer(speak) as server, ChaosProxy(server.port, plans) as proxy:
            for count in (2, 5, 5):
                async with await dial(proxy) as stream:
                    assert await said(stream) == DATA[:count]
            # Other plans are for those that come after that.
            proxy.plans = lambda number: Plan(down=Way(cut_after=number))
            async with await dial(proxy) as stream:
                assert await said(stream) == DATA[:3]
            assert [link.number for link in proxy.links] == [0, 1, 2, 3]


@pytest.mark.parametrize("reset", [False, True])
async def test_cutting_all_at_once(reset: bool) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with no_leaks(), ScriptedServer(echo) as server, ChaosProxy(server.port) as proxy:
            async with await dial(proxy) as first, await dial(proxy) as second:
                for stream in (first, second):
                    await stream.send_all(b"x")
                    assert await exactly(stream, 1) == b"x"
                proxy.cut(reset=reset)
                for stream in (first, second):
                    if reset:
                        with pytest.raises(trio.BrokenResourceError):
                            await stream.receive_some()
                    else:
                        assert await stream.receive_some() == b""
            for link in proxy.links:
                await link.closed.wait()


async def test_a_target_that_refuses_connections() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with no_leaks(), ScriptedServer(echo) as server, ChaosProxy(server.port) as proxy:
            server.refuse()
            async with await dial(proxy) as stream:
                assert await stream.receive_some() == b""
            assert proxy.links[0].closed.is_set()


async def test_leaving_closes_what_is_open() -> None:
    plans = [Plan(up=Way(delay=1000)), Plan(down=Way(swallow_after=0)), Plan()]
    with trio.fail_after(HANG_TIMEOUT):
        async with no_leaks():
            async with ScriptedServer(speak) as server, ChaosProxy(server.port, plans) as proxy:
                streams = [await dial(proxy) for _ in plans]
                for stream in streams:
                    await stream.send_all(b"x")
                assert len({(await proxy.link(number)).number for number in range(3)}) == 3
            assert all(link.closed.is_set() for link in proxy.links)
            for stream in streams:
                await stream.aclose()


# --- plans at random ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_plans_in_any_order() -> None:
    numbers = range(200)
    plans = [RandomPlans(7)(number) for number in numbers]
    again = RandomPlans(7)
    assert [again(number) for number in reversed(numbers)] == plans[::-1]
    assert [RandomPlans("7")(number) for number in numbers] == plans
    assert [RandomPlans(8)(number) for number in numbers] != plans
    assert len(set(plans)) == len(plans)


def test_random_plans_have_every_fault_and_an_end_within_reach() -> None:
    plans = [RandomPlans(1, reach=5_000)(number) for number in range(500)]
    ways = [way for plan in plans for way in (plan.up, plan.down)]
    for field in fields(Way):
        assert len({getattr(way, field.name) for way in ways}) > 1, f"{field.name} never varies"
    assert {plan.reset for plan in plans} == {True, False}
    assert {plan.corrupts for plan in plans} == {True, False}
    for plan in plans:
        # Every connection ends by itself, unless it has gone silent.
        for way in (plan.up, plan.down):
            assert way.cut_after is not None
            assert way.cut_after < 5_000 + 2_000
            assert way.corrupt_at is None or way.corrupt_at < way.cut_after


def test_random_plans_without_corruption() -> None:
    plans = RandomPlans(1, corrupt=False)
    assert not any(plans(number).corrupts for number in range(500))
    assert repr(plans) == "RandomPlans(1, reach=60000, corrupt=False)"
