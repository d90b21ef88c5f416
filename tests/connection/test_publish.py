"""Publishing: what may be sent, what is refused at the call, and what is said on the wire."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from tests.connection.helpers import another, msg, nothing_was_sent, receive_n, scripted, served
from tests.support.internals import open_requests
from tests.support.peer import info_line
from tests.transports import ALL_BUT_WSS
from trio_nats import (
    ConfigurationError,
    Headers,
    InvalidHeaderError,
    InvalidSubjectError,
    MaxPayloadError,
    RequestTimeoutError,
)
from trio_nats._protocol import commands

pytestmark = ALL_BUT_WSS

HELLO = b"NATS/1.0\r\nk: v\r\n\r\n"

# --- what is sent ---------------------------------------------------------------------------------


PAYLOADS: list[tuple[bytes | bytearray | memoryview | str, bytes]] = [
    (b"", b""),
    (b"\x00\r\nPUB b 0\r\n\xff", b"\x00\r\nPUB b 0\r\n\xff"),
    (bytearray(b"array"), b"array"),
    (memoryview(b"view")[1:3], b"ie"),
    (memoryview(array("I", [1, 2])), array("I", [1, 2]).tobytes()),
    (memoryview(bytes(6)).cast("B", (2, 3)), bytes(6)),
    (memoryview(b"a-b-c-")[::2], b"abc"),
    ("", b""),
    ("naïve ☃ 👋", "naïve ☃ 👋".encode()),
]


@pytest.mark.parametrize(("payload", "sent"), PAYLOADS)
async def test_a_payload_is_sent_byte_for_byte(
    payload: bytes | bytearray | memoryview | str, sent: bytes
) -> None:
    async with scripted() as (nc, peer):
        await nc.publish("a", payload)
        assert await peer.expect_line() == b"PUB a %d" % len(sent)
        assert await peer.receive_exactly(len(sent) + 2) == sent + b"\r\n"
        await nc.publish("a", payload, headers={"k": "v"})
        assert await peer.expect_line() == b"HPUB a 18 %d" % (18 + len(sent))
        assert await peer.receive_exactly(18 + len(sent) + 2) == HELLO + sent + b"\r\n"


async def test_payloads_arrive_as_they_were_sent() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        for payload, sent in PAYLOADS:
            await nc.publish("a", payload)
            await nc.publish("a", payload, headers={"k": "v"})
            assert await receive_n(sub, 2) == [sent] * 2


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
        await nc.publish("a.b", b"y", reply="c.d")
        await nc.publish("a.b", b"z")
        got, without_headers, bare = [await sub.receive() for _ in range(3)]
        assert (got.subject, got.data, got.reply) == ("a.ü", b"data", "c.d")
        assert got.headers.pairs() == [("k", "v"), ("k", "w"), ("K", "x")]
        assert (without_headers.reply, without_headers.raw_headers) == ("c.d", None)
        assert (bare.reply, bare.raw_headers) == (None, None)


async def test_responding_publishes_to_the_reply_subject() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        await peer.expect_line(b"SUB a 1")
        await peer.send(msg("a", 1, b"?", reply="back"))
        got = await sub.receive()
        assert await got.respond("!", headers={"k": "v"}) is True
        assert await peer.expect_line() == b"HPUB back 18 19"
        assert await peer.receive_exactly(21) == HELLO + b"!\r\n"


async def test_more_subjects_than_are_remembered_are_all_sent_right() -> None:
    async with scripted() as (nc, peer):
        for number in range(5000):
            await nc.publish(f"a.{number}", b"")
        for number in range(5000):
            assert await peer.expect_line() == b"PUB a.%d 0" % number
            await peer.receive_exactly(2)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "a b",
        "a\r\nPUB b 0\r\n\r\n",
        "a.*",
        ">",
        "a.",
        ".a",
        "a..b",
    ],
)
async def test_subjects_that_cannot_be_published_to(subject: Any) -> None:
    await refused(InvalidSubjectError, subject=subject)


@pytest.mark.parametrize("subject", [b"a", bytearray(b"a"), ["a"], None])
async def test_subjects_of_other_types(subject: Any) -> None:
    await refused(TypeError, "subject must be a str", subject=subject)


@pytest.mark.parametrize("reply", ["", "a b", "b 0\r\nPUB", "a..b", ".a", "a.", "a.*", "b.>", b"b"])
async def test_replies_cannot_go_there(reply: Any) -> None:
    async with scripted() as (nc, peer):
        kind = InvalidSubjectError if isinstance(reply, str) else TypeError
        with pytest.raises(kind):
            await nc.publish("a", reply=reply)
        with pytest.raises(kind):
            nc.publish_nowait("a", reply=reply)
        await nothing_was_sent(nc, peer)


@pytest.mark.parametrize(
    "headers",
    [
        {"": "v"},
        {"a b": "c"},
        {"k:": "v"},
        {"k\n": "v"},
        {"a": "b\r\nc: d"},
        {"k v": "\x00\r"},
    ],
)
async def test_headers_that_cannot_be_sent(headers: Any) -> None:
    await refused(InvalidHeaderError, headers=headers)


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, "a"])
async def test_headers_of_other_types(headers: Any) -> None:
    await refused(TypeError, "header", headers=headers)


@pytest.mark.parametrize("payload", [5, None, [1, 2], 1.5])
async def test_payloads_of_other_kinds(payload: Any) -> None:
    match = f"bytes-like or str, not {type(payload).__name__}"
    await refused(TypeError, match, payload=payload)


async def refused(error: type[Exception], match: str | None = None, **argument: Any) -> None:
    """At the call, by whatever publishes; nothing leaves, and nothing else changes."""
    arguments: dict[str, Any] = {"subject": "a"} | argument
    async with scripted() as (nc, peer):
        for use in (nc.publish, nc.request):
            with pytest.raises(error, match=match):
                await use(**arguments)
        for use_at_once in (nc.publish_nowait, nc.request_many):
            with pytest.raises(error, match=match):
                use_at_once(**arguments)
        assert open_requests(nc) == 0
        await nothing_was_sent(nc, peer)
        assert nc.stats.out_messages == 1


async def test_publish_nowait_makes_a_control_line_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[bytes] = []
    pub = commands.pub

    def counting(subject: bytes, reply: bytes | None, payload: bytes) -> commands.Frame:
        made.append(subject)
        return pub(subject, reply, payload)

    async with scripted() as (nc, peer):
        monkeypatch.setattr(commands, "pub", counting)
        await nc.publish("a", b"0")
        learned = len(made)
        for number in range(1, 4):
            nc.publish_nowait("a", b"%d" % number)
        assert len(made) == learned
        for number in range(4):
            await peer.expect_line(b"PUB a 1")
            await peer.expect_line(b"%d" % number)
        assert nc.stats.out_messages == 4


async def test_max_payload_is_the_servers_to_the_byte() -> None:
    async with scripted({"max_payload": 1000}) as (nc, peer):
        await nc.publish("a", b"x" * 1000)
        await nc.publish("a", b"x" * (1000 - len(HELLO)), headers={"k": "v"})
        for payload, headers, match in [
            (b"x" * 1001, None, r"1,001 bytes.* 1,000 bytes"),
            (b"x" * (1001 - len(HELLO)), {"k": "v"}, r"1,001 bytes \(headers included\)"),
            # The length of text is that of its bytes.
            ("ü" * 500 + "x", None, "1,001 bytes"),
        ]:
            for use in (nc.publish, nc.request):
                with pytest.raises(MaxPayloadError, match=match) as caught:
                    await use("a", payload, headers=headers)
                assert (caught.value.size, caught.value.max_payload) == (1001, 1000)
            for use_at_once in (nc.publish_nowait, nc.request_many):
                with pytest.raises(MaxPayloadError, match=match):
                    use_at_once("a", payload, headers=headers)
        await peer.expect_line(b"PUB a 1000")
        await peer.receive_exactly(1002)
        await peer.expect_line(b"HPUB a 18 1000")
        await peer.receive_exactly(1002)
        await nothing_was_sent(nc, peer)
        assert nc.stats.out_messages == 3


async def test_max_payload_may_change_while_connected() -> None:
    async with scripted({"max_payload": 10}) as (nc, peer):
        await nc.publish("a", b"123456")
        await peer.expect_line(b"PUB a 6")
        await peer.receive_exactly(8)
        await peer.send(info_line(max_payload=5) + b"PING\r\n")
        await peer.expect_line(b"PONG")
        assert nc.server_info.max_payload == 5
        with pytest.raises(MaxPayloadError, match="of 6 bytes"):
            await nc.publish("a", b"123456")
        await nc.publish("a", b"12345")
        await peer.expect_line(b"PUB a 5")


async def test_a_real_server_takes_exactly_max_payload() -> None:
    async with served("max_payload: 2048") as (nc, _), nc.subscribe("a") as sub:
        await nc.publish("a", b"x" * 2048)
        await nc.publish("a", b"x" * (2048 - len(HELLO)), headers={"k": "v"})
        assert await receive_n(sub, 2) == [b"x" * 2048, b"x" * (2048 - len(HELLO))]
        assert nc.stats.reconnects == 0


@pytest.mark.parametrize("headers", [None, False])
async def test_headers_need_a_server_that_knows_them(headers: bool | None) -> None:
    async with scripted({"headers": headers}) as (nc, peer):
        assert peer.connect["headers"] is peer.connect["no_responders"] is False
        for use in (nc.publish, nc.request):
            with pytest.raises(ConfigurationError, match="does not support message headers"):
                await use("a", b"", headers={"k": "v"})
        for use_at_once in (nc.publish_nowait, nc.request_many):
            with pytest.raises(ConfigurationError, match="does not support message headers"):
                use_at_once("a", b"", headers={"k": "v"})
        await nothing_was_sent(nc, peer)
        # Nor can it say that nobody is there.
        with pytest.raises(RequestTimeoutError):
            await nc.request("a", timeout=0.01)


# --- who gets it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("echo", [True, False])
async def test_echo(echo: bool) -> None:
    async with served(echo=echo) as (nc, server), another(server) as other:
        async with nc.subscribe("a") as mine, other.subscribe("a") as others:
            for one in (nc, other):
                await one.flush()
            await nc.publish("a", b"mine")
            await nc.flush()
            await other.publish("a", b"other")
            assert await receive_n(others, 2) == [b"mine", b"other"]
            assert await receive_n(mine, 1 + echo) == ([b"mine"] if echo else []) + [b"other"]


async def test_publishing_without_waiting() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        nc.publish_nowait("a", "text", reply="r", headers={"k": "v"})
        await nc.publish("a", b"second")
        got = await sub.receive()
        assert (got.data, got.reply, got.headers["k"]) == (b"text", "r", "v")
        assert await receive_n(sub, 1) == [b"second"]
        assert nc.stats.out_messages == 2
