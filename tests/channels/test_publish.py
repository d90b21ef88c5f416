"""Publishing: what may be sent, what is refused and when, and what waits for whom."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE, all_of, choke, deaf, take
from tests.reliability.helpers import deliver, read_line, session
from tests.support.peer import Peer, ScriptedServer, info_line
from tests.transports import MOST, Transport
from trio_nats import (
    ConfigurationError,
    Connection,
    InvalidHeaderError,
    InvalidSubjectError,
    MaxPayloadError,
    OutboxFullError,
    RequestTimeoutError,
    open_nats,
)
from trio_nats.testing import NatsServer

# --- what is sent -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "arrives"),
    [
        (b"", b""),
        (b"\x00\r\nPING\r\n\xff", b"\x00\r\nPING\r\n\xff"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"a view of")[2:6], b"view"),
        (memoryview(b"a-b-c-")[::2], b"abc"),
        (memoryview(array("I", [1, 2, 3])), array("I", [1, 2, 3]).tobytes()),
        (memoryview(bytes(6)).cast("B", (2, 3)), bytes(6)),
        ("gr\u00fc\u00df \U0001f44b", "gr\u00fc\u00df \U0001f44b".encode()),
    ],
)
@MOST
async def test_payloads(
    transport: Transport, nats_server: NatsServer, payload: Any, arrives: bytes
) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        await nc.publish("news", payload)
        await nc.publish("news", payload, headers={"k": "v"})
        assert await take(news, 2) == [arrives] * 2


@pytest.mark.parametrize("payload", [None, 5, ["a"], 1.5])
async def test_payloads_of_other_kinds(nats_server: NatsServer, payload: Any) -> None:
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(TypeError, match=f"bytes-like or str, not {type(payload).__name__}"):
            await nc.publish("news", payload)
        assert nc.stats.out_messages == 0


@MOST
async def test_a_payload_is_copied_at_the_call(
    transport: Transport, nats_server: NatsServer
) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        buffer = bytearray(b"before")
        await nc.publish("news", buffer)
        buffer[:] = b"after."
        assert await take(news, 1) == [b"before"]


@MOST
async def test_headers_and_reply(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news") as news:
        await nc.publish("news", b"x", reply="answers", headers={"a": "1", "B": ["2", "3"]})
        await nc.publish("news", b"y", reply="answers")
        await nc.publish("news", b"z")
        with trio.fail_after(PATIENCE):
            first, second, third = [await news.receive() for _ in range(3)]
    assert (first.subject, first.data, first.reply) == ("news", b"x", "answers")
    assert first.headers is not None
    assert first.headers.pairs() == [("a", "1"), ("B", "2"), ("B", "3")]
    assert (second.reply, second.raw_headers) == ("answers", None)
    assert (third.reply, third.raw_headers) == (None, None)


@MOST
async def test_order(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, transport.open(nats_server) as reader:
        async with reader.subscribe("news", max_msgs=20_000) as news:
            await reader.flush(PATIENCE)
            for number in range(20_000):
                headers = {"k": "v"} if number % 3 == 0 else None
                await nc.publish("news", b"%d" % number, headers=headers)
            assert await all_of(news) == [b"%d" % number for number in range(20_000)]


@pytest.mark.parametrize("echo", [True, False])
@MOST
async def test_echo(transport: Transport, nats_server: NatsServer, echo: bool) -> None:
    async with transport.open(nats_server, echo=echo) as nc, transport.open(nats_server) as other:
        async with nc.subscribe("news") as news:
            await nc.publish("news", b"mine")
            await nc.flush(PATIENCE)
            await other.publish("news", b"other")
            assert await take(news, 1 + echo) == ([b"mine"] if echo else []) + [b"other"]


# --- what is refused ----------------------------------------------------------------------------


@MOST
async def test_max_payload_exactly(transport: Transport, nats_server_factory: Any) -> None:
    server = await nats_server_factory(**transport.server_options, config={"max_payload": 1000})
    async with transport.open(server) as nc, nc.subscribe("news") as news:
        with pytest.raises(MaxPayloadError, match=r"1,001 bytes.*of 1,000 bytes") as caught:
            await nc.publish("news", bytes(1001))
        assert (caught.value.size, caught.value.max_payload) == (1001, 1000)
        headers = {"k": "v"}
        await nc.publish("news", b"?" * 500, headers=headers)
        head = len((await news.receive()).raw_headers or b"")
        assert head > 0
        with pytest.raises(MaxPayloadError, match=r"1,001 bytes \(headers included\)") as caught:
            await nc.publish("news", bytes(1001 - head), headers=headers)
        assert caught.value.size == 1001
        with pytest.raises(MaxPayloadError):
            await nc.request("news", bytes(1001))
        with pytest.raises(MaxPayloadError):
            nc.request_many("news", bytes(1001))
        assert nc.stats.out_messages == 1
        await nc.publish("news", bytes(1000))
        await nc.publish("news", bytes(1000 - head), headers=headers)
        assert await take(news, 2) == [bytes(1000), bytes(1000 - head)]
        assert nc.stats.reconnects == 0


@MOST
async def test_a_new_info_changes_max_payload(transport: Transport) -> None:
    async def shrink(peer: Peer) -> None:
        await read_line(peer, b"PUB shrink")
        await peer.send(info_line(max_payload=5))
        await peer.serve()

    async with transport.scripted(session(shrink)) as server, transport.open(server) as nc:
        await nc.publish("news", b"123456")
        await nc.publish("shrink")
        await nc.flush(PATIENCE)
        with pytest.raises(MaxPayloadError, match="of 6 bytes"):
            await nc.publish("news", b"123456")
        await nc.publish("news", b"12345")


@pytest.mark.parametrize("subject", ["", "a b", "a..b", ".a", "a.", "a.*", ">", "a\r\nPING", None])
async def test_bad_subjects(subject: Any) -> None:
    async with ScriptedServer(session()) as server, open_nats(server.url) as nc:
        with pytest.raises(InvalidSubjectError):
            await nc.publish(subject)
        with pytest.raises(InvalidSubjectError):
            await nc.request(subject)
        with pytest.raises(InvalidSubjectError):
            nc.request_many(subject)
        if subject is not None:
            with pytest.raises(InvalidSubjectError):
                await nc.publish("fine", reply=subject)
        assert nc.stats.out_messages == 0
        await nc.flush(PATIENCE)
        assert (await server.peer()).lines[1:] == [b"PING", b"PING"]


@pytest.mark.parametrize(
    "headers", [{"": "v"}, {"k:": "v"}, {"k": "v\r\nPING"}, {"k\n": "v"}, {"k v": "\x00\r"}]
)
async def test_bad_headers(headers: Any) -> None:
    async with ScriptedServer(session()) as server, open_nats(server.url) as nc:
        with pytest.raises(InvalidHeaderError):
            await nc.publish("news", headers=headers)
        with pytest.raises(InvalidHeaderError):
            await nc.request("news", headers=headers)
        assert nc._core.requests.slots == {}
        await nc.flush(PATIENCE)
        assert (await server.peer()).lines[1:] == [b"PING", b"PING"]


@MOST
async def test_a_server_without_headers(transport: Transport) -> None:
    async with transport.scripted(session(headers=False)) as server, transport.open(server) as nc:
        assert not (await server.peer()).connect.get("headers")
        with pytest.raises(ConfigurationError, match="does not support message headers"):
            await nc.publish("news", headers={"k": "v"})
        await nc.publish("news", b"without")
        await nc.flush(PATIENCE)
        assert (await server.peer()).payloads == [b"without"]


@MOST
async def test_after_the_end(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc:
        pass
    used: list[Callable[[], Any]] = [
        lambda: nc.publish("news"),
        lambda: nc.request("news"),
        lambda: nc.request_many("news").__aenter__(),
        lambda: nc.subscribe("news").__aenter__(),
        nc.flush,
        nc.rtt,
        nc.drain,
        nc.reconnect,
    ]
    for use in used:
        with pytest.raises(trio.ClosedResourceError):
            await use()
    with pytest.raises(trio.ClosedResourceError):
        nc.set_servers(transport.url(nats_server))
    await nc.aclose()
    assert nc._core.requests.slots == {}
    assert nc.stats.outbox_bytes == 0
    assert nc.stats.out_messages == 0
    assert (nc.state, nc.connected_url, nc.tls_info, nc.failure) == ("closed", None, None, None)


# --- another run --------------------------------------------------------------------------------


async def in_another_run(use: Callable[[], Any]) -> object:
    """The exception that ``use`` raises in a Trio run of its own, or what it returns."""
    results: list[object] = []

    async def main() -> None:
        try:
            with trio.move_on_after(1):
                results.append(await use())
                return
            results.append("waiting")
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    return results[0]


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("what", ["publish", "request", "subscribe", "flush", "receive", "drain"])
@MOST
async def test_from_another_run(transport: Transport, what: str, busy: bool) -> None:
    listen = trio.Event()
    async with transport.scripted(deaf(listen)) as server:
        async with transport.open(server, close_timeout=0) as nc, nc.subscribe("news") as news:
            uses: dict[str, Callable[[], Any]] = {
                "publish": lambda: nc.publish("other"),
                "request": lambda: nc.request("other"),
                "subscribe": lambda: nc.subscribe("other").__aenter__(),
                "flush": nc.flush,
                "receive": news.receive,
                "drain": nc.drain,
            }
            await trio.testing.wait_all_tasks_blocked()
            if busy:
                await choke(nc)
            before = nc.stats
            error = await in_another_run(uses[what])
            assert isinstance(error, RuntimeError), error
            assert "another trio.run()" in str(error)
            assert nc.stats == before
            listen.set()


# --- backpressure -------------------------------------------------------------------------------


@MOST
async def test_waiting_for_room(transport: Transport) -> None:
    listen = trio.Event()
    async with transport.scripted(deaf(listen)) as server:
        async with transport.open(server, pending_size=1_500_000) as nc:
            await choke(nc)
            # Each accepted below the limit, the last one beyond it.
            assert 1_500_000 <= nc.stats.outbox_bytes < 1_500_000 + 1_048_700
            accepted = nc.stats.out_messages
            with trio.move_on_after(0.02) as scope:
                await nc.publish("news", b"cancelled")
            assert scope.cancelled_caught
            assert nc.stats.out_messages == accepted
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nc.publish, "news", b"patient")
                await trio.testing.wait_all_tasks_blocked()
                assert nc.stats.out_messages == accepted
                listen.set()
            await nc.flush(PATIENCE)
            payloads = (await server.peer()).payloads
            assert len(payloads) == accepted + 1
            assert payloads[-1] == b"patient"


@MOST
async def test_raising_without_room(transport: Transport) -> None:
    listen = trio.Event()
    async with transport.scripted(deaf(listen)) as server:
        async with transport.open(server, pending_size=100, when_pending_full="raise") as nc:
            await nc.publish("news", bytes(200))
            # It is still below the limit only if the writer has had a turn, which it had not.
            with pytest.raises(OutboxFullError, match=r"\d bytes are waiting.*is 100\)"):
                await nc.publish("news", b"x")
            with pytest.raises(OutboxFullError):
                await nc.request("news", b"x")
            assert nc._core.requests.slots == {}
            listen.set()
            await nc.flush(PATIENCE)
            await nc.publish("news", b"again")
            await nc.flush(PATIENCE)
            assert (await server.peer()).payloads == [bytes(200), b"again"]


@MOST
async def test_publishing_without_waiting(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc, nc.subscribe("news") as sub:
        nc.publish_nowait("news", "text", reply="r", headers={"k": "v"})
        await nc.publish("news", b"second")
        msg = await sub.receive()
        assert (msg.data, msg.reply, msg.headers["k"]) == (b"text", "r", "v")
        assert (await sub.receive()).data == b"second"
        with pytest.raises(InvalidSubjectError):
            nc.publish_nowait("a b")
        with pytest.raises(MaxPayloadError):
            nc.publish_nowait("news", bytes(2_000_000))
        assert nc.stats.out_messages == 2
    with pytest.raises(trio.ClosedResourceError):
        nc.publish_nowait("news")


@MOST
async def test_publishing_without_waiting_or_room(transport: Transport) -> None:
    listen = trio.Event()
    async with transport.scripted(deaf(listen)) as server:
        # Whatever publish() would do: this cannot wait.
        async with transport.open(server, pending_size=100) as nc:
            nc.publish_nowait("news", bytes(200))
            with pytest.raises(trio.WouldBlock):
                nc.publish_nowait("news", b"x")
            listen.set()
            await nc.flush(PATIENCE)
            nc.publish_nowait("news", b"again")
            await nc.flush(PATIENCE)
            assert (await server.peer()).payloads == [bytes(200), b"again"]


@MOST
async def test_closing_with_a_chunk_on_its_way(transport: Transport) -> None:
    listen = trio.Event()
    async with transport.scripted(deaf(listen)) as server:
        async with transport.open(server, pending_size=1_500_000, close_timeout=0) as nc:
            await choke(nc)
        assert nc.stats.outbox_bytes == 0


@MOST
async def test_a_publisher_lets_others_run(transport: Transport, nats_server: NatsServer) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with transport.open(nats_server) as nc, trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await trio.lowlevel.checkpoint()
        before = turns
        for _ in range(10_000):
            await nc.publish("news", bytes(100))
        # 1.1 MB in all: at least one turn for each 128 KiB, in which the writer also runs. How much
        # it gets rid of depends on when the server has a turn of its own.
        assert turns - before >= 6
        nursery.cancel_scope.cancel()


@MOST
async def test_publishers_share_the_room(transport: Transport) -> None:
    listen = trio.Event()
    counts = [0, 0, 0]

    async def publish(nc: Connection, index: int) -> None:
        while True:
            await nc.publish("news", bytes(50_000))
            counts[index] += 1

    async with transport.scripted(deaf(listen)) as server:
        async with transport.open(server, pending_size=100_000) as nc:
            await choke(nc)
            async with trio.open_nursery() as nursery:
                for index in range(3):
                    nursery.start_soon(publish, nc, index)
                await trio.testing.wait_all_tasks_blocked()
                listen.set()
                with trio.fail_after(PATIENCE):
                    while sum(counts) < 300:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    assert min(counts) >= 30, counts


# --- flush, rtt and the numbers -----------------------------------------------------------------


@MOST
async def test_flush_and_rtt_in_time(transport: Transport, nats_server: NatsServer) -> None:
    async with transport.open(nats_server) as nc:
        await nc.flush()
        assert 0 < await nc.rtt() < PATIENCE


@MOST
async def test_flush_and_rtt_give_up(transport: Transport) -> None:
    async with transport.scripted(deaf(trio.Event())) as server:
        async with transport.open(server, close_timeout=0) as nc:
            with pytest.raises(RequestTimeoutError, match=r"flush: .* within 0.01 s") as caught:
                await nc.flush(0.01)
            assert isinstance(caught.value, TimeoutError)
            with pytest.raises(RequestTimeoutError, match=r"rtt: .* within 0.01 s"):
                await nc.rtt(0.01)
            assert nc.state == "open"


@MOST
async def test_the_answer_to_a_cancelled_flush_is_no_other_ones(transport: Transport) -> None:
    asked, go_on = trio.Event(), trio.Event()

    async def script(peer: Peer) -> None:
        await peer.expect_line(b"PING")
        await peer.expect_line(b"PING")
        await peer.send(b"PONG\r\n" + deliver(b"news", b"1", b"answered the first"))
        asked.set()
        await go_on.wait()
        await peer.send(b"PONG\r\n")
        await peer.serve()

    async def after_sub(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await script(peer)

    async with transport.scripted(session(after_sub)) as server, transport.open(server) as nc:
        async with nc.subscribe("news") as news, trio.open_nursery() as nursery:
            async with trio.open_nursery() as cancelled:
                cancelled.start_soon(nc.flush)
                await trio.testing.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            nursery.start_soon(nc.flush)
            await asked.wait()
            assert await take(news, 1) == [b"answered the first"]
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            go_on.set()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
async def test_timeouts_that_mean_nothing(nats_server: NatsServer, timeout: Any) -> None:
    async with open_nats(nats_server.url) as nc:
        for use in (nc.flush, nc.rtt, nc.drain):
            with pytest.raises(ConfigurationError):
                await use(timeout)
        with pytest.raises(ConfigurationError):
            await nc.request("news", timeout=timeout)
        assert nc.state == "open"


async def test_stats(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc, nc.subscribe("news") as news:
        await nc.publish("news", b"four")
        await nc.publish("news", b"x", headers={"k": "v"})
        assert nc.stats.out_messages == 2
        await nc.flush(PATIENCE)
        stats = nc.stats
        assert (stats.in_messages, stats.subscriptions, stats.pending_messages) == (2, 1, 2)
        block = len(b"NATS/1.0\r\nk:v\r\n\r\n")
        assert stats.pending_bytes in (4 + 1 + block, 4 + 1 + block + 1)
        assert (stats.dropped, stats.reconnects, stats.lost_in_flight) == (0, 0, 0)
        sent = b"SUB news 1\r\nPUB news 4\r\nfour\r\nPING\r\n"
        assert len(sent) < stats.out_bytes < len(sent) + 60
        assert stats.in_bytes > len(b"MSG news 1 4\r\nfour\r\n")
        await take(news, 2)
        assert nc.stats.pending_messages == nc.stats.pending_bytes == 0
