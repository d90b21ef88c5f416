"""From entering an ``open_nats`` block to what is left of it afterwards.

What is still done when a connection ends, and who is told, is in ``test_endings``.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.connection.helpers import HANG_TIMEOUT, QUICK, all_of, receive_n, scripted, served
from tests.support.internals import open_requests
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.scripts import session
from tests.transports import ALL_BUT_WSS, Transport
from trio_nats import (
    ConfigurationError,
    ConnectError,
    ReconnectPolicy,
    open_nats,
)
from trio_nats.testing import NatsServer

# --- how it is left -------------------------------------------------------------------------------


async def _connecting(url: str) -> None:
    async with open_nats(url):
        raise AssertionError("connected")


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


async def _forget(peer: Peer) -> None:
    peer.close()


@pytest.mark.parametrize(
    ("script", "stage"),
    [
        (Peer.stall, _connecting),
        (session(_forget), _reconnecting),
        (Peer.stall, _connecting_behind),
        (session(Peer.stall), _closing),
        (session(Peer.stall), _draining),
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

    with trio.fail_after(HANG_TIMEOUT):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        LookupError,
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
        trio.TooSlowError,
        trio.EndOfChannel,
    ],
)
@pytest.mark.parametrize("cancelled", [False, True])
@ALL_BUT_WSS
async def test_the_bodys_exception_leaves_as_itself(
    transport: Transport, nats_server: NatsServer, kind: type[BaseException], cancelled: bool
) -> None:
    """Also when everything around it is cancelled in that time."""
    error = kind("mine")
    with trio.fail_after(HANG_TIMEOUT):
        async with no_leaks():
            with pytest.raises(kind) as caught, trio.CancelScope() as scope:
                async with transport.open(nats_server) as nc:
                    await nc.subscribe("a").__aenter__()  # whose exit would notice a cancellation
                    await nc.publish("a", b"x")
                    if cancelled:
                        scope.cancel()
                    raise error
            assert caught.value is error
            assert (error.__cause__, error.__context__) == (None, None)
            assert nc.state == "closed"


@ALL_BUT_WSS
async def test_the_bodys_exception_group_leaves_as_itself() -> None:
    group = ExceptionGroup("mine", [LookupError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with served():
            raise group
    assert caught.value is group


@ALL_BUT_WSS
async def test_cancellation_leaves_as_itself() -> None:
    async with no_leaks():
        with trio.CancelScope() as scope:
            async with scripted(close_timeout=100) as (nc, _), nc.subscribe("a") as sub:
                await nc.publish("b", b"never awaited")
                scope.cancel()
                await sub.receive()
        assert scope.cancelled_caught
        assert nc.state == "closed"


async def test_the_body_may_end_with_an_error_of_the_connections() -> None:
    async with scripted() as (nc, _):
        pass
    with pytest.raises(trio.ClosedResourceError):
        async with scripted():
            await nc.flush()


@ALL_BUT_WSS
async def test_after_a_failure_to_connect_nothing_is_left(transport: Transport) -> None:
    async with transport.scripted(Peer.stall) as server, no_leaks():
        server.refuse()
        for _ in range(3):
            with pytest.raises(ConnectError):
                async with transport.open(server):
                    raise AssertionError("connected to nothing")


async def test_entering_once_only(nats_server: NatsServer) -> None:
    manager = open_nats(nats_server.url)
    async with manager as nc:
        with pytest.raises(RuntimeError, match="only once"):
            await manager.__aenter__()
        await nc.flush()
    with pytest.raises(RuntimeError, match="only once"):
        await manager.__aenter__()


# --- what is left of it ---------------------------------------------------------------------------


@ALL_BUT_WSS
async def test_a_closed_connection_refuses_everything(transport: Transport) -> None:
    async with served() as (nc, server):
        replies, sub = nc.request_many("a"), nc.subscribe("a")
    uses: list[Callable[[], Awaitable[object]]] = [
        lambda: nc.publish("a"),
        lambda: nc.request("a"),
        replies.__aenter__,
        sub.__aenter__,
        nc.flush,
        nc.rtt,
        nc.drain,
        nc.reconnect,
    ]
    for use in uses:
        with pytest.raises(trio.ClosedResourceError, match="connection is closed"):
            await use()
    for use_at_once in (lambda: nc.publish_nowait("a"), lambda: nc.set_servers(server.url)):
        with pytest.raises(trio.ClosedResourceError, match="connection is closed"):
            use_at_once()
    await nc.aclose()
    assert open_requests(nc) == 0
    assert (nc.stats.outbox_bytes, nc.stats.out_messages) == (0, 0)
    assert (nc.state, nc.connected_url, nc.tls_info, nc.failure) == ("closed", None, None, None)


@pytest.mark.slow
async def test_nothing_is_kept_of_closed_connections() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with NatsServer() as server, no_leaks():
            kept = []
            for number in range(60):
                async with open_nats(server.url) as nc, nc.subscribe("a") as sub:
                    if number % 4 == 0:
                        await nc.publish("a", b"x", reply="b")
                        kept.append(weakref.ref(nc))
                        message = await sub.receive()
                        assert message.reply == "b"
                    if number % 4 == 1:
                        with pytest.raises(TimeoutError):
                            await nc.request("a", timeout=0.001)
                        assert open_requests(nc) == 0
            del nc, sub, message
            gc.collect()
            assert [ref for ref in kept if ref() is not None] == []


async def test_reprs() -> None:
    async with scripted() as (nc, _):
        assert repr(nc) == f"<Connection open {nc.connected_url}>"
    assert repr(nc) == "<Connection closed >"


async def test_two_connections_of_a_task_are_independent() -> None:
    async with served() as (one, server), open_nats(server.url) as two:
        await one.aclose()
        async with two.subscribe("a") as sub:
            await two.publish("a", b"x")
            assert await receive_n(sub, 1) == [b"x"]


# --- losing the server for a while ----------------------------------------------------------------


async def test_a_reconnect_restores_what_there_is_and_only_that() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with NatsServer() as server, open_nats(server.url, reconnect=QUICK) as nc:
            async with nc.subscribe("a") as one, nc.subscribe("b", stop_after=3) as two:
                async with nc.subscribe("gone"):
                    pass
                await nc.publish("b", b"0")
                assert await receive_n(two, 1) == [b"0"]
                await server.kill()
                await nc.wait_for_state("reconnecting")
                async with nc.subscribe("between"):
                    pass
                late = nc.subscribe("c")
                async with late:
                    await nc.publish("a", b"waited")
                    await server.start()
                    await nc.flush()
                    assert nc.stats.subscriptions == 3
                    for subject in "bbbc":
                        await nc.publish(subject, subject)
                    assert await receive_n(one, 1) == [b"waited"]
                    assert await all_of(two) == [b"b", b"b"]
                    assert await receive_n(late, 1) == [b"c"]
                    connz = await server.monitor("connz?subs=1")
                    (entry,) = connz["connections"]  # type: ignore[misc]
                    assert sorted(entry["subscriptions_list"]) == ["a", "c"]
            assert nc.stats.reconnects == 1


async def test_waiting_for_an_unknown_state() -> None:
    typo: Any = "opne"
    async with NatsServer() as server, open_nats(server.url) as nc:
        with pytest.raises(ConfigurationError, match="state must be one of 'connecting', 'open'"):
            await nc.wait_for_state("open", typo)
