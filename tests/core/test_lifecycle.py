"""From entering an ``open_nats`` block to what is left of it afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.messages.helpers import (
    ONCE,
    PATIENCE,
    QUICK,
    all_of,
    fill,
    from_another_run,
    msg,
    scripted,
    served,
    take,
)
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, Script, ScriptedServer
from trio_nats import (
    ConfigurationError,
    Connection,
    ConnectionLostError,
    ReconnectPolicy,
    Subscription,
    open_nats,
)
from trio_nats.testing import NatsServer

# --- how it is left -------------------------------------------------------------------------------


async def _connecting(url: str) -> None:
    async with open_nats(url):
        raise AssertionError("connected")


async def _waiting(url: str) -> None:
    async with open_nats(url) as nc, nc.subscribe("a") as sub:
        await sub.receive()


async def _reconnecting(url: str) -> None:
    async with open_nats(url, reconnect=ReconnectPolicy(wait=100, max_wait=100)) as nc:
        await nc.wait_for_state("reconnecting")
        await nc.flush()


async def _connecting_behind(url: str) -> None:
    behind = ReconnectPolicy(wait=0, retry_on_initial_connect=True)
    async with open_nats(url, reconnect=behind) as nc:
        assert nc.state == "connecting"
        await nc.publish("a", b"")
        await nc.flush()


async def _closing(url: str) -> None:
    async with open_nats(url, close_timeout=100):
        pass


async def _draining(url: str) -> None:
    async with open_nats(url, close_timeout=100) as nc, nc.subscribe("a"):
        await nc.drain()


def _lets_in(then: Callable[[Peer], Awaitable[object]]) -> Script:
    async def script(peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        await then(peer)

    return script


async def _forget(peer: Peer) -> None:
    peer.close()


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        (Peer.stall, _connecting),
        (_lets_in(Peer.stall), _waiting),
        (_lets_in(_forget), _reconnecting),
        (Peer.stall, _connecting_behind),
        (_lets_in(Peer.stall), _closing),
        (_lets_in(Peer.stall), _draining),
    ],
)
async def test_cancelling_the_whole_block_at_any_stage(
    script: Script, stage: Callable[[str], Awaitable[None]]
) -> None:
    left: list[BaseException] = []

    async def watched() -> None:
        try:
            await stage(server.url)
        except BaseException as error:
            left.append(error)
            raise

    with trio.fail_after(PATIENCE):
        async with ScriptedServer(script) as server, no_leaks():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watched)
                peer = await server.peer(0)
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert not left
                nursery.cancel_scope.cancel()
            assert [type(error) for error in left] == [trio.Cancelled]
            await peer.finished.wait()
            # The server's end of it is a socket of this process too.
            await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", [LookupError, KeyboardInterrupt, GeneratorExit, trio.TooSlowError])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_bodys_exception_leaves_as_itself(
    kind: type[BaseException], cancelled: bool
) -> None:
    """Also when everything around it has been cancelled meanwhile."""
    error = kind("mine")
    with trio.fail_after(PATIENCE):
        async with NatsServer() as server, no_leaks():
            with pytest.raises(kind) as caught, trio.CancelScope() as scope:
                async with open_nats(server.url) as nc:
                    await nc.publish("a", b"x")
                    if cancelled:
                        scope.cancel()
                    raise error
            assert caught.value is error
            assert (error.__cause__, error.__context__) == (None, None)
            assert nc.state == "closed"


async def test_the_body_may_end_with_an_error_of_the_connections() -> None:
    async with scripted() as (nc, _):
        pass
    with pytest.raises(trio.ClosedResourceError):
        async with scripted():
            await nc.flush()


async def test_nothing_is_kept_of_closed_connections() -> None:
    with trio.fail_after(PATIENCE):
        async with NatsServer() as server, no_leaks():
            kept = []
            for number in range(200):
                async with open_nats(server.url) as nc, nc.subscribe("a") as sub:
                    if number % 4 == 0:
                        await nc.publish("a", b"x", reply="b")
                        kept.append(weakref.ref(nc))
                        message = await sub.receive()
                        assert message.reply == "b"
                    if number % 4 == 1:
                        with pytest.raises(TimeoutError):
                            await nc.request("a", timeout=0.001)
                        assert nc._core.requests.slots == {}
            del nc, sub, message
            gc.collect()
            assert [ref for ref in kept if ref() is not None] == []


async def test_what_it_looks_like() -> None:
    async with scripted() as (nc, _):
        assert repr(nc) == f"<Connection open {nc.connected_url}>"
    assert repr(nc) == "<Connection closed >"


async def test_two_connections_of_a_task_are_independent() -> None:
    async with served() as (one, server), open_nats(server.url) as two:
        await one.aclose()
        async with two.subscribe("a") as sub:
            await two.publish("a", b"x")
            assert await take(sub, 1) == [b"x"]


# --- who waits when it is closed ------------------------------------------------------------------


async def _drain(nc: Connection, sub: Subscription) -> None:
    await nc.drain()


async def _drain_one(nc: Connection, sub: Subscription) -> None:
    await sub.drain()


async def _reconnect(nc: Connection, sub: Subscription) -> None:
    await nc.reconnect()


async def _rtt(nc: Connection, sub: Subscription) -> None:
    await nc.rtt()


async def _iterate(nc: Connection, sub: Subscription) -> None:
    async for _ in sub:
        pass


Wait = Callable[[Connection, Subscription], Awaitable[None]]


@pytest.mark.parametrize("wait", [_drain_one, _reconnect, _rtt, _iterate])
async def test_closing_lets_go_whoever_waits(wait: Wait) -> None:
    ended = trio.Event()

    async def waiter() -> None:
        try:
            await wait(nc, sub)
        except trio.ClosedResourceError:
            pass
        ended.set()

    async with scripted() as (nc, _), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        nursery.start_soon(waiter)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not ended.is_set()
        await nc.aclose()
        await ended.wait()


@pytest.mark.parametrize("how", ["closed", "lost"])
async def test_the_end_lets_go_of_a_drain_whose_messages_nobody_takes(how: str) -> None:
    ended = trio.Event()

    async def drain() -> None:
        try:
            await nc.drain()
        except (trio.ClosedResourceError, ConnectionLostError):
            pass
        ended.set()

    async with scripted() as (nc, peer), nc.subscribe("a") as sub, trio.open_nursery() as nursery:
        await peer.expect_line(b"SUB")
        await peer.send(msg("a", 1, b"x"))
        nursery.start_soon(drain)
        await peer.expect_line(b"UNSUB 1")
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (nc.state, sub.pending) == ("draining", (1, 1))
        if how == "closed":
            await nc.aclose()
        else:
            peer.close()
            await nc.wait_for_state("closed")
        with trio.move_on_after(1):
            await ended.wait()
        nursery.cancel_scope.cancel()
        assert ended.is_set()


async def test_a_second_close_that_is_cancelled_closes_at_once() -> None:
    async with scripted(close_timeout=100) as (nc, _), trio.open_nursery() as nursery:
        nursery.start_soon(nc.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert nc.state == "closing"
        with trio.move_on_after(0):
            await nc.aclose()
        assert nc.state == "closed"


async def test_closing_from_another_run_is_refused() -> None:
    """It would wake this run's tasks in the other one, which crashes both."""
    async with served() as (nc, _), nc.subscribe("a") as sub, nc.subscribe("quiet"):
        async with nc.request_many("quiet", timeout=8) as replies:
            # Nobody waits here, so that nothing worse happens than that it is not refused.
            for use in (nc.aclose, sub.drain, sub.aclose, replies.receive, replies.aclose):
                with pytest.raises(RuntimeError, match=r"another trio\.run"):
                    await from_another_run(use)


# --- what is sent before the end ------------------------------------------------------------------


async def test_everything_has_left_before_a_clean_end() -> None:
    async with served() as (other, server), other.subscribe("a") as sub:
        await other.flush()
        async with open_nats(server.url) as nc:
            async with nc.subscribe("b"), trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(nc.publish, "a", b"%d" % number)
        await other.flush()
        assert sub.pending[0] == 500


async def test_close_timeout_is_all_that_an_unresponsive_server_is_given() -> None:
    async with scripted(close_timeout=0.05) as (nc, _):
        await fill(nc, 1_000_000)
        begun = trio.current_time()
        await nc.aclose()
        assert 0.04 < trio.current_time() - begun < 2
        assert nc.failure is None
    # One was being written, unless the kernel had room for it in the very last moment.
    assert nc.stats.lost_in_flight in (0, 1)
    assert nc.stats.out_bytes < 300_000


async def test_a_failing_body_is_not_held_up_by_a_server_that_does_not_read() -> None:
    with pytest.raises(LookupError):
        async with scripted(close_timeout=1000) as (nc, _):
            await fill(nc, 1_000_000)
            raise LookupError


# --- losing the server ----------------------------------------------------------------------------


async def test_losing_it_for_good_is_told_with_its_cause_to_who_asks() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB")
        await peer.send(msg("a", 1, b"before"))
        await peer.send(b"-ERR 'Stale Connection'\r\n")
        peer.close()
        assert await take(sub, 1) == [b"before"]
        for use in (sub.receive, nc.flush, nc.rtt, lambda: nc.request("a"), nc.drain):
            with pytest.raises(ConnectionLostError, match="for good") as caught:
                await use()
            assert caught.value.__cause__ is nc.failure
            assert isinstance(caught.value, trio.BrokenResourceError)
        assert "Stale Connection" in str(nc.failure)
        assert nc.connected_url is nc.tls_info is None


async def test_a_body_that_does_not_wait_goes_on_and_may_close() -> None:
    async with scripted() as (nc, peer):
        peer.abort()
        await nc.wait_for_state("closed")
        await nc.aclose()
        for _ in range(10):
            await trio.lowlevel.checkpoint()
    assert nc.state == "closed"
    assert isinstance(nc.failure, ConnectionLostError)


async def test_a_reconnect_restores_what_there_is_and_only_that() -> None:
    with trio.fail_after(PATIENCE):
        async with NatsServer() as server, open_nats(server.url, reconnect=QUICK) as nc:
            async with nc.subscribe("a") as one, nc.subscribe("b", max_msgs=3) as two:
                async with nc.subscribe("gone"):
                    pass
                await nc.publish("b", b"0")
                assert await take(two, 1) == [b"0"]
                await server.kill()
                await nc.wait_for_state("reconnecting")
                async with nc.subscribe("meanwhile"):
                    pass
                late = nc.subscribe("c")
                async with late:
                    await nc.publish("a", b"waited")
                    await server.start()
                    await nc.flush()
                    assert nc.stats.subscriptions == 3
                    for subject in "bbbc":
                        await nc.publish(subject, subject)
                    assert await take(one, 1) == [b"waited"]
                    assert await all_of(two) == [b"b", b"b"]
                    assert await take(late, 1) == [b"c"]
                    connz = await server.monitor("connz?subs=1")
                    (entry,) = connz["connections"]  # type: ignore[misc]
                    assert sorted(entry["subscriptions_list"]) == ["a", "c"]
            assert nc.stats.reconnects == 1


async def test_once_means_once() -> None:
    async with scripted(reconnect=ONCE) as (nc, peer):
        peer.close()
        assert await nc.wait_for_state("closed") == "closed"
        with pytest.raises(ConnectionLostError):
            await nc.wait_for_state("open", "draining")
        assert nc.servers == ()


async def test_waiting_for_a_state_that_there_is_not() -> None:
    typo: Any = "opne"
    async with NatsServer() as server, open_nats(server.url) as nc:
        with pytest.raises(ConfigurationError, match="state is one of 'connecting', 'open'"):
            await nc.wait_for_state("open", typo)
