"""Flushing, measuring the round trip, and the numbers a connection keeps."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import another, hmsg, msg, receive_n, scripted, served
from tests.support.peer import info_line
from tests.transports import ALL_BUT_WSS, TCP, Transport
from trio_nats import ConfigurationError, RequestTimeoutError

BLOCK = b"NATS/1.0\r\nk: v\r\n\r\n"

# --- flush and rtt --------------------------------------------------------------------------------


async def test_flush_waits_for_the_server_to_have_everything() -> None:
    async with served() as (nc, server), another(server) as other:
        async with other.subscribe("a") as sub:
            await other.flush()
            for _ in range(2000):
                await nc.publish("a", b"x" * 100)
            await nc.flush()
            await other.flush()
            assert sub.pending[0] == 2000
        assert 0 < await nc.rtt() < 10
        assert 0 < await nc.rtt(timeout=5) < 10


async def test_a_late_pong_does_not_end_the_next_flush() -> None:
    async with scripted() as (nc, peer):
        for use in (nc.flush, nc.rtt):
            async with trio.open_nursery() as given_up:
                given_up.start_soon(use)
                await peer.expect_line(b"PING")
                given_up.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            flushed = trio.Event()

            async def flush() -> None:
                await nc.flush()
                flushed.set()

            nursery.start_soon(flush)
            await peer.expect_line(b"PING")
            await peer.send(b"PONG\r\nPONG\r\nPING\r\n")
            await peer.expect_line(b"PONG")
            await trio.testing.wait_all_tasks_blocked()
            assert not flushed.is_set()
            await peer.send(b"PONG\r\nPONG\r\n")  # and one that nobody asked for
            await flushed.wait()


async def test_giving_up_waiting() -> None:
    async with scripted() as (nc, _):
        with pytest.raises(RequestTimeoutError, match=r"flush: .* within 0\.01 s") as caught:
            await nc.flush(timeout=0.01)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(RequestTimeoutError, match=r"rtt: .* within 0\.01 s"):
            await nc.rtt(timeout=0.01)
        assert nc.state == "open"


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("nan")])
async def test_invalid_timeouts(timeout: Any) -> None:
    kind = TypeError if timeout == "1" or timeout is True else ConfigurationError
    async with scripted() as (nc, _):
        for use in (nc.flush, nc.rtt, nc.drain):
            with pytest.raises(kind, match="seconds"):
                await use(timeout=timeout)
        with pytest.raises(kind, match="timeout"):
            await nc.request("a", timeout=timeout)
        assert nc.state == "open"


# --- numbers --------------------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_the_numbers_add_up(transport: Transport) -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        assert nc.stats.out_messages == nc.stats.in_messages == 0
        opening = len(peer.raw_bytes)
        # What was said before counts (ADR-40).
        came, went = nc.stats.in_bytes, nc.stats.out_bytes
        assert came == len(info_line()) + len(b"PONG\r\n" * 2)
        assert went == sum(len(line) + 2 for line in peer.lines)
        await nc.publish("a", b"12345")
        await nc.publish("a", b"12345", headers={"k": "v"})
        sent = b"SUB a 1\r\nPUB a 5\r\n12345\r\nHPUB a 18 23\r\n" + BLOCK + b"12345\r\n"
        assert await peer.receive_exactly(len(sent)) == sent
        # They are NATS's own, without what carries it.
        assert transport is not TCP or len(peer.raw_bytes) == opening + len(sent)
        frames = msg("a", 1, b"123") + msg("a", 1, b"4567", reply="b") + msg("a", 9, b"nobody's")
        frames += hmsg("a", 1, BLOCK, b"8")
        await peer.send(frames + b"PING\r\n")
        await peer.expect_line(b"PONG")
        await trio.testing.wait_all_tasks_blocked()
        stats = nc.stats
        assert stats.out_messages == 2
        assert stats.out_bytes == went + len(sent) + len(b"PONG\r\n")
        assert stats.in_messages == 4
        assert stats.in_bytes == came + len(frames) + len(b"PING\r\n")
        assert (stats.subscriptions, stats.pending_messages) == (1, 3)
        assert stats.pending_bytes == 7 + len(BLOCK) + 1
        assert (stats.dropped, stats.lost_in_flight, stats.reconnects) == (0, 0, 0)
        assert stats.outbox_bytes == 0
        await receive_n(sub, 3)
        assert nc.stats.pending_bytes == nc.stats.pending_messages == 0


async def test_messages_before_garbage_are_delivered() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.send(msg("a", 1, b"x") + b"nonsense\r\n")
        assert await receive_n(sub, 1) == [b"x"]
        await nc.wait_for_state("closed")
        assert nc.stats.in_messages == 1
