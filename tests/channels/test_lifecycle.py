"""From entering an ``open_nats`` block to having left it, whichever way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE, all_of, choke, deaf, take
from tests.reliability.helpers import read_line, session
from tests.support.leaks import no_leaks
from tests.support.peer import Peer
from tests.transports import MOST, Transport
from trio_nats import (
    ConnectError,
    Connection,
    ConnectionLostError,
    ReconnectPolicy,
    RequestTimeoutError,
    Subscription,
    open_nats,
)
from trio_nats.testing import NatsServer

ONCE = ReconnectPolicy(max_attempts=0)

# --- how the body ends --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LookupError, KeyboardInterrupt, SystemExit, trio.EndOfChannel])
@MOST
async def test_the_bodys_exception_leaves_as_itself(
    transport: Transport, nats_server: NatsServer, kind: type[BaseException]
) -> None:
    error = kind()
    async with no_leaks():
        with pytest.raises(kind) as caught:
            async with transport.open(nats_server) as nc, nc.subscribe("news"):
                raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert error.__context__ is None
        assert nc.state == "closed"


@MOST
async def test_the_bodys_exception_group_leaves_as_itself(
    transport: Transport, nats_server: NatsServer
) -> None:
    group = ExceptionGroup("mine", [LookupError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with transport.open(nats_server):
            raise group
    assert caught.value is group


@MOST
async def test_cancellation_leaves_as_itself(transport: Transport) -> None:
    async with transport.scripted(session()) as server, no_leaks():
        with trio.CancelScope() as scope:
            async with transport.open(server) as nc:
                await nc.publish("news", b"never awaited")
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert nc.state == "closed"


@MOST
async def test_a_clean_exit_sends_everything(transport: Transport, nats_server: NatsServer) -> None:
    count = 3000
    async with transport.open(nats_server) as other, other.subscribe("news") as news:
        await other.flush(PATIENCE)
        async with transport.open(nats_server) as nc:
            for number in range(count):
                await nc.publish("news", b"%d" % number + b"." * 1000)
            assert nc.stats.outbox_bytes > 0
        assert nc.stats.outbox_bytes == 0
        # The server has them all, and so has sent them: nothing has to be waited for.
        await other.flush(PATIENCE)
        received = [news.receive_nowait().data.rstrip(b".") for _ in range(news.pending[0])]
        assert received == [b"%d" % number for number in range(count)]


@MOST
async def test_an_exit_by_exception_closes_at_once(transport: Transport) -> None:
    async with transport.scripted(deaf(trio.Event())) as server:
        with pytest.raises(LookupError), trio.fail_after(1):
            async with transport.open(server, close_timeout=100) as nc:
                await choke(nc)
                raise LookupError


@pytest.mark.parametrize("choked", [False, True])
@MOST
async def test_close_timeout(
    transport: Transport, choked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with transport.scripted(deaf(trio.Event())) as server:
        async with transport.open(server, close_timeout=0.05) as nc:
            if choked:
                await choke(nc)
            begun = trio.current_time()
        assert 0.04 <= trio.current_time() - begun < 1
        assert nc.failure is None
    if choked:
        assert "bytes not written" in caplog.text


@MOST
async def test_an_answer_that_overtakes_the_writer_is_no_loss(
    transport: Transport,
    nats_server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The PONG may be read before the task that wrote the PING has had another turn."""
    original = trio.SocketStream.send_all

    async def send_all(self: trio.SocketStream, data: bytes) -> None:
        await original(self, data)
        await trio.testing.wait_all_tasks_blocked(0.02)

    async with transport.open(nats_server) as nc:
        await nc.flush(PATIENCE)
        monkeypatch.setattr(trio.SocketStream, "send_all", send_all)
    assert "not written" not in caplog.text
    assert nc.stats.lost_in_flight == 0


async def test_entering_once_only(nats_server: NatsServer) -> None:
    manager = open_nats(nats_server.url)
    async with manager as nc:
        with pytest.raises(RuntimeError, match="only once"):
            await manager.__aenter__()
        await nc.flush(PATIENCE)
    with pytest.raises(RuntimeError, match="only once"):
        await manager.__aenter__()


@MOST
async def test_after_a_failure_to_connect_nothing_is_left(transport: Transport) -> None:
    async with transport.scripted(session()) as server, no_leaks():
        server.refuse()
        for _ in range(3):
            with pytest.raises(ConnectError):
                async with transport.open(server):
                    raise AssertionError("connected to nothing")


async def test_many_times(nats_server: NatsServer) -> None:
    async with no_leaks():
        for number in range(200):
            async with open_nats(nats_server.url) as nc:
                if number % 2:
                    await nc.publish("news", b"x")


# --- closing ------------------------------------------------------------------------------------


@MOST
async def test_closing_twice(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(nc.aclose)
        await nc.aclose()
        assert nc.state == "closed"


@MOST
async def test_a_second_close_waits_for_the_first(transport: Transport) -> None:
    listen = trio.Event()
    ended: list[str] = []

    async def close(nc: Connection, name: str) -> None:
        await nc.aclose()
        ended.append(name)

    async with transport.scripted(deaf(listen)) as server, transport.open(server) as nc:
        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(close, nc, name)
                await trio.testing.wait_all_tasks_blocked()
            assert (ended, nc.state) == ([], "closing")
            with pytest.raises(trio.ClosedResourceError):
                await nc.publish("news")
            listen.set()
    assert sorted(ended) == ["first", "second"]


@MOST
async def test_closing_inside_a_message_loop(transport: Transport, nats_server: NatsServer) -> None:
    received = []
    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        for _ in range(3):
            await nc.publish("news", b"x")
        with pytest.raises(trio.ClosedResourceError):
            async for msg in news:
                received.append(msg.data)
                await nc.aclose()
    assert received == [b"x"]


async def receive(nc: Connection, sub: Subscription) -> None:
    await sub.receive()


async def request(nc: Connection, sub: Subscription) -> None:
    await nc.request("silence", timeout=100)


async def request_many(nc: Connection, sub: Subscription) -> None:
    async with nc.request_many("silence", timeout=100) as replies:
        await replies.receive()


async def publish(nc: Connection, sub: Subscription) -> None:
    while True:
        await nc.publish("filling", bytes(1_000_000))


async def flush(nc: Connection, sub: Subscription) -> None:
    await nc.flush()


async def await_state(nc: Connection, sub: Subscription) -> None:
    await nc.wait_for_state("reconnecting")  # type: ignore[arg-type]


WAITING = [receive, request, request_many, publish, flush, await_state]
Wait = Callable[[Connection, Subscription], Awaitable[None]]


@pytest.mark.parametrize("wait", WAITING)
@pytest.mark.parametrize("ending", ["closed", "left by exception"])
@MOST
async def test_whoever_waits_is_told_of_the_closing(
    transport: Transport, wait: Wait, ending: str
) -> None:
    told: list[BaseException] = []

    async def waiter(nc: Connection, sub: Subscription) -> None:
        try:
            await wait(nc, sub)
        except Exception as error:
            told.append(error)

    async with transport.scripted(deaf(trio.Event())) as server, trio.open_nursery() as nursery:
        try:
            async with transport.open(server, close_timeout=0.01) as nc:
                sub = await nc.subscribe("news").__aenter__()
                for _ in range(2):
                    nursery.start_soon(waiter, nc, sub)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert told == []
                if ending == "closed":
                    await nc.aclose()
                else:
                    raise LookupError
        except LookupError:
            pass
        await trio.testing.wait_all_tasks_blocked()
        assert [type(error) for error in told] == [trio.ClosedResourceError] * 2
        assert nc._core.requests.slots == {}


# --- draining -----------------------------------------------------------------------------------


@MOST
async def test_draining_lets_what_arrived_be_dealt_with(
    transport: Transport, nats_server: NatsServer
) -> None:
    async with transport.open(nats_server) as other, other.subscribe("answers") as answers:
        await other.flush(PATIENCE)
        async with transport.open(nats_server) as nc:
            async with nc.subscribe("work") as work, trio.open_nursery() as nursery:
                for number in range(10):
                    await nc.publish("work", b"%d" % number, reply="answers")
                nursery.start_soon(nc.drain)
                await nc.wait_for_state("draining")  # type: ignore[arg-type]
                with pytest.raises(trio.ClosedResourceError, match="draining"):
                    await nc.subscribe("more").__aenter__()
                async for msg in work:
                    await msg.respond(msg.data)
            assert nc.state == "closed"
        assert await take(answers, 10) == [b"%d" % number for number in range(10)]


@MOST
async def test_draining_gives_up(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("work") as work:
        await nc.publish("work", b"left")
        await nc.flush(PATIENCE)
        with pytest.raises(RequestTimeoutError, match=r"drain: .* 0.01 s"):
            await nc.drain(0.01)
        assert nc.state == "closed"
        assert await all_of(work) == [b"left"]


# --- losing the connection for good -------------------------------------------------------------


def lost_after(event: trio.Event) -> Callable[[Peer], Awaitable[None]]:
    """A server that hangs up once ``event`` is set, without reading anything before."""

    async def script(peer: Peer) -> None:
        await event.wait()
        peer.abort()

    return script


@pytest.mark.parametrize("wait", WAITING[:-1])
@MOST
async def test_whoever_waits_is_told_of_the_loss(transport: Transport, wait: Wait) -> None:
    lose = trio.Event()
    told: list[BaseException] = []

    async def waiter(nc: Connection, sub: Subscription) -> None:
        try:
            await wait(nc, sub)
        except Exception as error:
            told.append(error)

    async with transport.scripted(session(lost_after(lose))) as server:
        async with transport.open(server, reconnect=ONCE) as nc, nc.subscribe("news") as sub:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(waiter, nc, sub)
                await trio.testing.wait_all_tasks_blocked(0.05)
                lose.set()
            assert [type(error) for error in told] == [ConnectionLostError] * 2
            assert all(error.__cause__ is nc.failure for error in told)
            assert isinstance(nc.failure, ConnectionLostError)
            assert nc.state == "closed"
            with pytest.raises(ConnectionLostError) as caught:
                await nc.publish("news")
            assert caught.value.__cause__ is nc.failure
            with pytest.raises(ConnectionLostError):
                await sub.receive()


@MOST
async def test_a_body_that_does_not_wait_is_undisturbed(transport: Transport) -> None:
    lose = trio.Event()
    async with transport.scripted(session(lost_after(lose))) as server:
        async with transport.open(server, reconnect=ONCE) as nc:
            lose.set()
            with trio.fail_after(PATIENCE):
                await nc.wait_for_state("closed")  # type: ignore[arg-type]
            await trio.lowlevel.checkpoint()
            done = True
    assert done
    assert isinstance(nc.failure, ConnectionLostError)


@MOST
async def test_closing_while_there_is_no_server(transport: Transport) -> None:
    """What cannot be sent is given up after ``close_timeout``, and nothing hangs."""

    async def script(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        peer.abort()

    policy = ReconnectPolicy(wait=0.001, max_wait=0.001)
    async with transport.scripted(session(script)) as server, no_leaks():
        with trio.fail_after(PATIENCE):
            async with transport.open(server, reconnect=policy, close_timeout=0.05) as nc:
                server.refuse()
                await nc.publish("news")
                await nc.wait_for_state("reconnecting")  # type: ignore[arg-type]
                await nc.publish("news", b"never sent")
        assert nc.state == "closed"
        assert nc.failure is None
