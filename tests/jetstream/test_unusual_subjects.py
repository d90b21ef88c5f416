"""Stored messages whose subjects contain bytes that this client would not publish to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio

from tests.jetstream.helpers import MEMORY
from tests.support.raw import raw_connection
from tests.support.server_versions import server_version
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, open_nats
from trio_nats.jetstream import Consumer, JetStreamMsg, Messages, Stream
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

# Each looks like a subject and the number of another subscription to whom splits at that byte.
ODD = [b"s.a%b2" % bytes([byte]) for byte in range(256) if byte not in b"\t\n *>."]

SKIPPED = b"s.a\x7f2"
"""The server's own index of last messages leaves that one out."""

BLOCK = b"NATS/1.0\r\nNats-Subject: forged\r\nNats-Sequence: 9\r\nk: v\r\nodd: a\rb\r\n\r\n"


async def publish(server: NatsServer, subjects: list[bytes], *, headers: bool = False) -> None:
    """A message to each, with the subject as its payload."""
    frames = [b"PUB %b %d\r\n%b\r\n" % (subject, len(subject), subject) for subject in subjects]
    if headers:
        frames = [
            b"HPUB %b %d %d\r\n%b%b\r\n"
            % (subject, len(BLOCK), len(BLOCK) + len(subject), BLOCK, subject)
            for subject in subjects
        ]
    async with raw_connection(server) as raw:
        await raw.until_pong(*frames)


@asynccontextmanager
async def stored(
    server: NatsServer, *, headers: bool = False, **options: bool
) -> AsyncIterator[tuple[Connection, Stream]]:
    """A stream with all of them, and the connection it is used by, which is never lost."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url) as nc:
            js = nc.jetstream()
            stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY, **options)
            await publish(server, ODD, headers=headers)
            while (await stream.refresh()).state.messages < len(ODD):
                pass  # Streams store messages after the server has answered a PING.
            yield nc, stream
            assert nc.stats.reconnects == 0


def expect(messages: list[JetStreamMsg]) -> None:
    assert [msg.data for msg in messages] == ODD
    assert [msg.raw.raw_subject for msg in messages] == ODD


async def pulled(stream: Stream) -> Consumer:
    return await stream.create_consumer("c")


async def pushed(stream: Stream) -> Consumer:
    return await stream.create_consumer("c", deliver_subject="here")


OPEN: dict[str, Callable[[Consumer], AbstractAsyncContextManager[Messages]]] = {
    "pull": lambda consumer: consumer.consume(),
    "push": lambda consumer: consumer.consume(),
}


@pytest.mark.slow
@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("kind", ["pull", "push"])
async def test_consuming(nats_server: NatsServer, *, kind: str, headers: bool) -> None:
    async with stored(nats_server, headers=headers) as (_, stream):
        consumer = await (pulled if kind == "pull" else pushed)(stream)
        got: list[JetStreamMsg] = []
        async with OPEN[kind](consumer) as messages:
            while len(got) < len(ODD):
                msg = await messages.receive()
                await msg.double_ack()
                got.append(msg)
        expect(got)
        assert (await consumer.refresh()).num_ack_pending == 0


async def test_fetching(nats_server: NatsServer) -> None:
    async with stored(nats_server) as (_, stream):
        consumer = await pulled(stream)
        first = await consumer.next()
        expect([first, *await consumer.fetch(len(ODD) - 1)])


@pytest.mark.parametrize("headers", [False, True])
async def test_an_ordered_consumer(nats_server: NatsServer, *, headers: bool) -> None:
    async with stored(nats_server, headers=headers) as (_, stream):
        async with stream.ordered_consumer().consume() as messages:
            expect([await messages.receive() for _ in ODD])


@pytest.mark.slow
@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("direct", [False, True])
async def test_getting_one(nats_server: NatsServer, *, direct: bool, headers: bool) -> None:
    async with stored(nats_server, headers=headers, allow_direct=direct) as (_, stream):
        for seq, odd in enumerate(ODD, 1):
            msg = await stream.get_msg(seq)
            assert (msg.seq, msg.data) == (seq, odd)
            assert msg.subject.startswith("s.a")
            if odd.isascii():
                # Some servers put a space in the place of CR, lest it end the header.
                assert msg.subject.replace(" ", "\r") == odd.decode()
            # What the publisher says about it is not believed, and what is odd left out.
            expected = [("Nats-Subject", "forged"), ("Nats-Sequence", "9"), ("k", "v")]
            assert msg.headers.pairs() == (expected if headers else [])


@pytest.mark.requires_server("2.11")
async def test_getting_many(nats_server: NatsServer) -> None:
    async with stored(nats_server, headers=True, allow_direct=True) as (_, stream):
        assert [msg.data async for msg in stream.get_msgs(seq=1)] == ODD
        last = [msg.data async for msg in stream.get_last_msgs(["s.>"])]
        assert last == [odd for odd in ODD if odd != SKIPPED]


@pytest.mark.parametrize(
    "block",
    [
        b"NATS/1.1 404 Not Found\r\n\r\n",
        b"NATS/1.1 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n",
        b"NATS/1.1 408\r\nNats-Sequence: 9\r\nk: v\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 404\r\n",
        b"NATS/1.0\r\nNats-Stream: forged\r\nk: vxx",
        b"x\r\n\r\n",
        b"\r\n\r\n",
        b"\r\n",
    ],
)
async def test_messages_with_error_like_headers_are_not_hidden(
    nats_server: NatsServer, block: bytes
) -> None:
    """Neither it nor those behind it are hidden."""
    with trio.fail_after(60):
        async with open_nats(nats_server.url) as nc:
            js = nc.jetstream()
            stream = await js.create_stream(
                "S", subjects=["s.>"], storage=MEMORY, allow_direct=True
            )
            async with raw_connection(nats_server) as raw:
                await raw.until_pong(
                    b"HPUB s.odd %d %d\r\n%b\r\n" % (len(block), len(block), block)
                )
            await js.publish("s.last", b"last")
            one = await stream.get_msg(last_for="s.odd", direct=True)
            assert (one.stream, one.subject, one.seq, one.data) == ("S", "s.odd", 1, b"")
            assert one.headers.get("k", "v") == "v"
            if server_version() >= (2, 11):
                for many in (stream.get_msgs(), stream.get_last_msgs(["s.>"])):
                    assert [msg.seq async for msg in many] == [1, 2]


async def test_a_bucket(nats_server: NatsServer) -> None:
    keys = [b"$KV.B." + odd for odd in ODD]
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            kv = await nc.jetstream().create_key_value("B", storage=MEMORY)
            await publish(nats_server, keys)
            await kv.put("mine", b"1")
            await kv.put("gone", b"1")
            await kv.delete("gone")
            if server_version() >= (2, 12):
                keys.remove(b"$KV.B." + SKIPPED)
            assert len(await kv.keys()) == len(keys) + 1
            async with kv.watch() as watch:
                entries = [entry async for entry in watch.initial()]
            assert [entry.data for entry in entries] == [*keys, b"1", b""]
            await kv.purge_deletes(older_than=0)
            assert (await kv.get("mine")).data == b"1"
            assert nc.stats.reconnects == 0
