"""Every byte in every place of a control line, as a real server relays it.

Servers split control lines at spaces and tabs, and end them with LF. Any other byte, CR and the
rest of the control characters included, may be part of a subject, a reply subject or a
subscription's number. The publisher chooses two of these three.
"""

from __future__ import annotations

from itertools import product

import pytest
import trio

from tests.protocol.helpers import feed
from tests.support.raw import raw_connection
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Msg, open_nats
from trio_nats._protocol.parser import Parser, Signal
from trio_nats.options import ProtocolLimits
from trio_nats.testing import NatsServer

HEADERS = b"NATS/1.0\r\nk: v\r\n\r\n"

Fields = tuple[bytes, bytes, bytes | None, bytes | None, bytes]
"""Subject, number of the subscription, reply subject, headers and payload."""

# Where the byte may stand, and what an attacker would add behind it: the number of another
# subscription, and numbers that might be taken for the sizes.
SHAPES = (b"fuzz.%b", b"fuzz.x%b2", b"fuzz.%b%b2%b3%b4")
BYTES = [bytes([number]) for number in range(256)]


def words_of(text: bytes) -> list[bytes]:
    """What the server makes of the arguments of a line."""
    return [word for word in text.replace(b"\t", b" ").split(b" ") if word]


def command(subject: bytes, reply: bytes, payload: bytes, *, headers: bool) -> bytes:
    if headers:
        sizes = b"%d %d" % (len(HEADERS), len(HEADERS) + len(payload))
        return b"HPUB %b %b %b\r\n%b%b\r\n" % (subject, reply, sizes, HEADERS, payload)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(payload), payload)


def parsed(data: bytes) -> list[Fields]:
    # The server asks whether its clients are alive whenever it likes.
    events = [event for event in feed(Parser(ProtocolLimits()), data) if event is not Signal.PING]
    messages = [event for event in events if isinstance(event, Msg)]
    assert messages == events
    return [(m.raw_subject, m.sid, m.raw_reply, m.raw_headers, m.data) for m in messages]


@pytest.mark.slow
@pytest.mark.parametrize("headers", [False, True], ids=["MSG", "HMSG"])
@pytest.mark.parametrize("place", ["subject", "reply"])
async def test_what_a_publisher_chooses(
    nats_server: NatsServer, *, place: str, headers: bool
) -> None:
    block = HEADERS if headers else None
    expected: list[Fields] = []
    relayed = b""
    # Both kinds of messages have the same arguments, which the sizes stand behind.
    shapes = SHAPES[2:] if headers else SHAPES
    with trio.fail_after(HANG_TIMEOUT):
        async with raw_connection(nats_server) as receiver, raw_connection(nats_server) as usual:
            await receiver.until_pong(b"SUB fuzz.> 1\r\n")
            for shape, byte in product(shapes, BYTES):
                value = shape.replace(b"%b", byte)
                payload = b"payload %02x" % byte[0]
                subject, reply = (value, b"r") if place == "subject" else (b"fuzz.a", value)
                frame = command(subject, reply, payload, headers=headers)
                if byte in b"\t\n ":
                    async with raw_connection(nats_server) as publisher:  # it may be cut off
                        await publisher.until_pong(frame)
                else:
                    await usual.until_pong(frame)
                got = await receiver.until_pong()
                words = words_of(subject + b" " + reply)
                # Two words more, LF or an empty token, and the server takes nothing.
                assert got or byte in b"\t\n ." or byte in b"*>", value
                if got:
                    assert len(words) == 2
                    expected.append((words[0], b"1", words[1], block, payload))
                relayed += got
    assert parsed(relayed) == expected
    assert len(expected) > 250 * len(shapes)


@pytest.mark.slow
@pytest.mark.parametrize("headers", [False, True], ids=["MSG", "HMSG"])
async def test_the_number_of_a_subscription(nats_server: NatsServer, *, headers: bool) -> None:
    block = HEADERS if headers else None
    relayed = b""
    expected: list[Fields] = []
    with trio.fail_after(HANG_TIMEOUT):
        async with raw_connection(nats_server) as publisher:
            for byte in BYTES:
                if byte in b" \t\r\n":
                    continue  # separates or ends what a client sends
                async with raw_connection(nats_server) as receiver:
                    await receiver.until_pong(b"SUB fuzz.a 1%b2\r\n" % byte)
                    await publisher.until_pong(command(b"fuzz.a", b"r", b"x", headers=headers))
                    relayed += await receiver.until_pong()
                expected.append((b"fuzz.a", b"1%b2" % byte, b"r", block, b"x"))
    assert parsed(relayed) == expected


@pytest.mark.slow
@pytest.mark.parametrize("headers", [False, True], ids=["MSG", "HMSG"])
async def test_only_the_subscription_it_is_for_gets_it(
    nats_server: NatsServer, *, headers: bool
) -> None:
    sent = 0
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            raw_connection(nats_server) as publisher,
            open_nats(nats_server.url) as nc,
            nc.subscribe("fuzz.>") as public,
            nc.subscribe("private") as private,
        ):
            await nc.flush()
            for shape, byte in product(SHAPES[2:] if headers else SHAPES, BYTES):
                if byte in b"\t\n *>.":
                    continue
                value = shape.replace(b"%b", byte)
                await publisher.until_pong(
                    command(value, b"r", b"x", headers=headers),
                    command(b"fuzz.a", value, b"x", headers=headers),
                )
                await nc.flush()
                msg, other = await public.receive(), await public.receive()
                assert (msg.raw_subject, msg.raw_reply) == (value, b"r")
                assert (other.raw_subject, other.raw_reply) == (b"fuzz.a", value)
                # Neither raises for any of these bytes.
                assert msg.subject
                assert other.reply
                sent += 2
            assert private.pending == (0, 0)
            assert public.pending == (0, 0)
            assert nc.stats.in_messages == sent
            assert nc.stats.reconnects == 0
