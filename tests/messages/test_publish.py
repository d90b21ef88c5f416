"""Publishing: what may be sent, what is refused at the call, and what is said on the wire."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
import trio
import trio.testing

from tests.messages.helpers import another, from_another_run, msg, scripted, served, take
from tests.transports import TCP, Transport
from trio_nats import (
    ConfigurationError,
    Headers,
    InvalidHeaderError,
    InvalidSubjectError,
    MaxPayloadError,
    Msg,
    RequestTimeoutError,
)

HELLO = b"NATS/1.0\r\nk: v\r\n\r\n"

# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        (b"", b""),
        (b"\x00\r\nPUB b 0\r\n", b"\x00\r\nPUB b 0\r\n"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view")[1:3], b"ie"),
        (memoryview(array("I", [1, 2])), array("I", [1, 2]).tobytes()),
        (memoryview(b"a-b-c-")[::2], b"abc"),
        ("", b""),
        ("naïve ☃", "naïve ☃".encode()),
    ],
)
async def test_a_payload_is_sent_byte_for_byte(
    payload: bytes | bytearray | memoryview | str, sent: bytes
) -> None:
    async with scripted() as (nc, peer):
        await nc.publish("a", payload)
        assert await peer.expect_line() == b"PUB a %d" % len(sent)
        assert await peer.receive_exactly(len(sent) + 2) == sent + b"\r\n"


async def test_a_payload_may_be_changed_as_soon_as_it_is_published() -> None:
    async with scripted() as (nc, peer):
        payload = bytearray(b"before")
        await nc.publish("a", payload)
        await nc.publish("a", memoryview(payload), headers={"k": "v"})
        payload[:] = b"after!"
        await peer.expect_line(b"PUB a 6")
        assert await peer.receive_exactly(8) == b"before\r\n"
        await peer.expect_line(b"HPUB a ")
        assert await peer.receive_exactly(26) == HELLO + b"before\r\n"


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, b"PUB a 2\r\nhi\r\n"),
        ({"reply": "b.c"}, b"PUB a b.c 2\r\nhi\r\n"),
        ({"headers": {"k": "v"}}, b"HPUB a 18 20\r\n" + HELLO + b"hi\r\n"),
        ({"headers": [("k", "v")], "reply": "b"}, b"HPUB a b 18 20\r\n" + HELLO + b"hi\r\n"),
        ({"headers": Headers({"k": "v"})}, b"HPUB a 18 20\r\n" + HELLO + b"hi\r\n"),
        ({"headers": {}}, b"HPUB a 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"),
        (
            {"headers": {"k": ["v", "w"], "K": "ü"}},
            b"HPUB a 31 33\r\nNATS/1.0\r\nk: v\r\nk: w\r\nK: \xc3\xbc\r\n\r\nhi\r\n",
        ),
    ],
)
async def test_reply_and_headers_on_the_wire(options: dict[str, Any], sent: bytes) -> None:
    async with scripted() as (nc, peer):
        await nc.publish("a", b"hi", **options)
        assert await peer.receive_exactly(len(sent)) == sent


async def test_headers_and_reply_arrive() -> None:
    async with served() as (nc, _), nc.subscribe("a.*") as sub:
        await nc.publish("a.ü", "data", reply="c.d", headers={"k": ["v", "w"], "K": "x"})
        got = await sub.receive()
        assert (got.subject, got.data, got.reply) == ("a.ü", b"data", "c.d")
        assert got.headers.pairs() == [("k", "v"), ("k", "w"), ("K", "x")]


async def test_responding_publishes_to_the_reply_subject() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.send(msg("a", 1, b"?", reply="back"))
        got = await sub.receive()
        await got.respond("!", headers={"k": "v"})
        assert await peer.expect_line() == b"HPUB back 18 19"
        assert await peer.receive_exactly(21) == HELLO + b"!\r\n"
        with pytest.raises(ValueError, match="no reply subject"):
            await Msg.new("a").respond(b"")


async def test_more_subjects_than_are_remembered_are_all_sent_right() -> None:
    async with scripted() as (nc, peer):
        for number in range(5000):
            await nc.publish(f"a.{number}", b"")
        for number in range(5000):
            assert await peer.expect_line() == b"PUB a.%d 0" % number
            await peer.receive_exactly(2)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"subject": ""}, InvalidSubjectError),
        ({"subject": "a b"}, InvalidSubjectError),
        ({"subject": "a\r\nPUB b 0\r\n\r\n"}, InvalidSubjectError),
        ({"subject": "a.*"}, InvalidSubjectError),
        ({"subject": "a."}, InvalidSubjectError),
        ({"subject": b"a"}, InvalidSubjectError),
        ({"subject": bytearray(b"a")}, InvalidSubjectError),
        ({"subject": ["a"]}, InvalidSubjectError),
        ({"subject": None}, InvalidSubjectError),
        ({"subject": "a", "reply": ""}, InvalidSubjectError),
        ({"subject": "a", "reply": "b.>"}, InvalidSubjectError),
        ({"subject": "a", "reply": "b 0\r\nPUB"}, InvalidSubjectError),
        ({"subject": "a", "headers": {"a b": "c"}}, InvalidHeaderError),
        ({"subject": "a", "headers": {"a": "b\r\nc: d"}}, InvalidHeaderError),
        ({"subject": "a", "headers": {"a": 1}}, InvalidHeaderError),
        ({"subject": "a", "headers": "a"}, InvalidHeaderError),
        ({"subject": "a", "payload": 5}, TypeError),
        ({"subject": "a", "payload": None}, TypeError),
        ({"subject": "a", "payload": [1, 2]}, TypeError),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_nothing_leaves(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    async with scripted() as (nc, peer):
        with pytest.raises(error):
            await nc.publish(**arguments)
        await nc.publish("end", b"")
        assert await peer.receive_exactly(13) == b"PUB end 0\r\n\r\n"
        assert nc.stats.out_messages == 1


async def test_max_payload_is_the_servers_to_the_byte() -> None:
    async with scripted({"max_payload": 1000}) as (nc, peer):
        await nc.publish("a", b"x" * 1000)
        with pytest.raises(MaxPayloadError, match=r"1,001 bytes.* 1,000 bytes") as caught:
            await nc.publish("a", b"x" * 1001)
        assert (caught.value.size, caught.value.max_payload) == (1001, 1000)
        await peer.expect_line(b"PUB a 1000")
        await peer.receive_exactly(1002)

        await nc.publish("a", b"x" * (1000 - len(HELLO)), headers={"k": "v"})
        with pytest.raises(MaxPayloadError) as caught:
            await nc.publish("a", b"x" * (1001 - len(HELLO)), headers={"k": "v"})
        assert caught.value.size == 1001
        with pytest.raises(MaxPayloadError):
            await nc.request("a", b"x" * 1001)
        with pytest.raises(MaxPayloadError):
            nc.request_many("a", b"x" * 1001)
        await peer.expect_line(b"HPUB a 18 1000")
        await peer.receive_exactly(1002)

        # The length of text is that of its bytes.
        with pytest.raises(MaxPayloadError) as caught:
            await nc.publish("a", "ü" * 501)
        assert caught.value.size == 1002
        await nc.publish("end", b"")
        await peer.expect_line(b"PUB end")


async def test_max_payload_may_change_while_connected() -> None:
    async with scripted({"max_payload": 10}) as (nc, peer):
        await peer.send(b'INFO {"max_payload":5,"headers":true}\r\nPING\r\n')
        await peer.expect_line(b"PONG")
        assert nc.server_info.max_payload == 5
        with pytest.raises(MaxPayloadError):
            await nc.publish("a", b"123456")


async def test_a_real_server_takes_exactly_max_payload() -> None:
    async with served("max_payload: 2048") as (nc, _), nc.subscribe("a") as sub:
        await nc.publish("a", b"x" * 2048)
        await nc.publish("a", b"x" * (2048 - len(HELLO)), headers={"k": "v"})
        assert [len(data) for data in await take(sub, 2)] == [2048, 2048 - len(HELLO)]


async def test_headers_need_a_server_that_knows_them() -> None:
    async with scripted({"headers": None}) as (nc, peer):
        assert peer.connect["headers"] is peer.connect["no_responders"] is False
        with pytest.raises(ConfigurationError, match="does not support message headers"):
            await nc.publish("a", b"", headers={"k": "v"})
        await nc.publish("a", b"")
        await peer.expect_line(b"PUB a 0")


# --- after the end, and from elsewhere ------------------------------------------------------------


async def test_publishing_on_a_closed_connection() -> None:
    async with served() as (nc, _):
        pass
    with pytest.raises(trio.ClosedResourceError, match="closed"):
        await nc.publish("a", b"")
    assert nc.stats.out_messages == 0


async def test_another_trio_run_is_told_that_it_cannot_use_the_connection() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        await nc.flush()

        async def enter_subscription() -> None:
            async with nc.subscribe("b"):
                pass

        async def enter_request() -> None:
            async with nc.request_many("b"):
                pass

        async def listen() -> None:
            nc.events()

        for use in (
            lambda: nc.publish("a", b""),
            lambda: nc.request("a", b""),
            enter_subscription,
            enter_request,
            listen,
            sub.receive,
            nc.flush,
            nc.rtt,
            nc.drain,
            nc.reconnect,
            lambda: nc.wait_for_state("open"),
        ):
            with pytest.raises(RuntimeError, match=r"another trio\.run"):
                await from_another_run(use)
        # Nothing has come of any of that.
        await nc.publish("a", b"only")
        assert await take(sub, 1) == [b"only"]
        assert nc.stats.out_messages == 1


@pytest.mark.parametrize("echo", [True, False])
async def test_echo(echo: bool) -> None:
    async with served(echo=echo) as (nc, server), another(server) as other:
        async with nc.subscribe("a") as mine, other.subscribe("a") as others:
            await other.flush()
            await nc.publish("a", b"x")
            assert await take(others, 1) == [b"x"]
            await nc.flush()
            assert mine.pending[0] == (1 if echo else 0)


# --- flush, rtt, numbers --------------------------------------------------------------------------


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


async def test_a_late_pong_does_not_answer_the_next_flush() -> None:
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
        with pytest.raises(RequestTimeoutError, match=r"flush: .*0\.01 s"):
            await nc.flush(timeout=0.01)
        with pytest.raises(TimeoutError, match=r"rtt: .*0\.01 s"):
            await nc.rtt(0.01)


@pytest.mark.parametrize("timeout", [0, -1, "1", float("nan")])
async def test_timeouts_that_cannot_be_meant(timeout: Any) -> None:
    async with scripted() as (nc, _):
        for use in (nc.flush, nc.rtt, nc.drain):
            with pytest.raises(ConfigurationError, match="seconds"):
                await use(timeout=timeout)
        with pytest.raises(ConfigurationError, match="timeout"):
            await nc.request("a", timeout=timeout)
        assert nc.state == "open"


async def test_the_numbers_add_up(transport: Transport) -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        assert nc.stats.out_messages == nc.stats.in_messages == 0
        opening = len(peer.raw_bytes)
        await nc.publish("a", b"12345")
        await nc.publish("a", b"12345", headers={"k": "v"})
        sent = b"SUB a 1\r\nPUB a 5\r\n12345\r\nHPUB a 18 23\r\n" + HELLO + b"12345\r\n"
        assert await peer.receive_exactly(len(sent)) == sent
        # They are NATS's own, without what carries it.
        assert transport is not TCP or len(peer.raw_bytes) == opening + len(sent)
        frames = msg("a", 1, b"123") + msg("a", 1, b"4567", reply="b") + msg("a", 9, b"nobody's")
        await peer.send(frames + b"PING\r\n")
        await peer.expect_line(b"PONG")
        await trio.testing.wait_all_tasks_blocked()
        stats = nc.stats
        assert stats.out_messages == 2
        assert stats.out_bytes == len(sent) + len(b"PONG\r\n")
        assert stats.in_messages == 3
        assert stats.in_bytes == len(frames) + len(b"PING\r\n")
        assert (stats.subscriptions, stats.pending_messages, stats.pending_bytes) == (1, 2, 7)
        assert (stats.dropped, stats.lost_in_flight, stats.reconnects) == (0, 0, 0)
        assert stats.outbox_bytes == 0
        await take(sub, 2)
        assert nc.stats.pending_bytes == nc.stats.pending_messages == 0


async def test_messages_count_even_if_nonsense_follows_them_at_once() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.send(msg("a", 1, b"x") + b"nonsense\r\n")
        assert await take(sub, 1) == [b"x"]
        await nc.wait_for_state("closed")
        assert nc.stats.in_messages == 1
