"""How much work receiving and acknowledging takes, counted rather than timed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest
import trio

from tests.jetstream.helpers import connected, filled
from tests.support.internals import has_decoded_metadata, remembered_subjects
from trio_nats.connection_base import BaseConnection
from trio_nats.jetstream import AckPolicy
from trio_nats.jetstream.consumer.message import ReplySubjects, read_metadata
from trio_nats.jetstream.json_codec import nanoseconds
from trio_nats.testing import NatsServer

needs_server = pytest.mark.nats_server(jetstream=True)


@contextmanager
def counting_scopes() -> Iterator[list[None]]:
    """Count how often a cancel scope is entered."""
    entered: list[None] = []
    enter = trio.CancelScope.__enter__

    def count(scope: trio.CancelScope) -> trio.CancelScope:
        entered.append(None)
        return enter(scope)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.CancelScope, "__enter__", count)
        yield entered


@needs_server
@pytest.mark.parametrize("policy", [AckPolicy.EXPLICIT, AckPolicy.NONE])
async def test_fetch_enters_no_time_limit_for_messages_that_wait(
    nats_server: NatsServer, policy: AckPolicy
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 500)
        consumer = await stream.create_consumer("c", ack_policy=policy)
        with counting_scopes() as entered:
            came = await consumer.fetch(500)
        assert [int(msg.data) for msg in came] == list(range(500))
        # One for each time that it had to wait, which is a read of many messages.
        assert len(entered) < 100


@needs_server
async def test_fetching_in_order_enters_time_limits_only_to_wait(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        ordered = (await filled(js, 20)).ordered_consumer()
        await ordered.next()
        with counting_scopes() as entered:
            for number in range(1, 11):
                assert (await ordered.next()).data == b"%d" % number
        assert len(entered) < 15


@needs_server
async def test_fetch_does_not_count_what_waits_elsewhere(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stats(_: BaseConnection) -> None:
        raise AssertionError("this adds up the messages of all subscriptions")

    async with connected(nats_server) as (js, _):
        consumer = await (await filled(js, 2)).create_consumer("c")
        monkeypatch.setattr(BaseConnection, "stats", property(stats))
        assert len(await consumer.fetch(1)) == 1
        assert (await consumer.next()).data == b"1"


@needs_server
async def test_acknowledging_fills_no_cache(nats_server: NatsServer) -> None:
    """Each reply subject is used once, so it would only push out those that are used again."""
    async with connected(nats_server) as (js, nc):
        consumer = await (await filled(js, 100)).create_consumer("c")
        came = await consumer.fetch(100)
        before = remembered_subjects(nc)
        for msg in came[:-1]:
            await msg.in_progress()
            await msg.ack()
        await came[-1].nak()
        assert remembered_subjects(nc) == before


@needs_server
async def test_ordered_consumer_decodes_metadata_only_when_asked(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 10)
        async with stream.ordered_consumer().consume(stop_after=10) as messages:
            came = [msg async for msg in messages]
        assert not any(map(has_decoded_metadata, came))
        assert [msg.metadata.stream_seq for msg in came] == list(range(1, 11))


@needs_server
async def test_watching_enters_no_time_limit_for_entries_that_wait(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await js.create_key_value("b")
        for number in range(500):
            await kv.put(f"k{number}", b"")
        async with kv.watch() as watcher:
            with counting_scopes() as entered:
                found = [entry.key async for entry in watcher.initial()]
        assert found == [f"k{number}" for number in range(500)]
        # It is also entered to ask whether the watcher has caught up.
        assert len(entered) < 100


@needs_server
@pytest.mark.parametrize("closing", ["watcher", "connection"])
async def test_a_closed_watcher_has_no_entries(nats_server: NatsServer, closing: str) -> None:
    """Also none that it has already taken from its consumer."""
    async with connected(nats_server) as (js, nc):
        kv = await js.create_key_value("b")
        for number in range(50):
            await kv.put(f"k{number}", b"")
        async with kv.watch() as watcher:
            assert (await watcher.receive()).key == "k0"
            await (watcher if closing == "watcher" else nc).aclose()
            with pytest.raises(trio.ClosedResourceError):
                await watcher.receive()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"$JS.ACK.S.C.1.22.3.4.5", (22, 3)),
        (b"$JS.ACK.S.C.1.22.3.4.5.6", None),
        (b"$JS.ACK.S.C.1.22.3.4", None),
        (b"$JS.ACK.S.C.1.22.3.4.x", None),
        (b"$JS.ACK.S.C.1.22.3.+4.5", None),
        (b"$JS.ACK.S.C.1.22. 3.4.5", None),
        (b"$JS.ACK.S.C.1.22..4.5", None),
        (b"$JS.ACK.S.C.1.*.3.4.5", None),
        (b"$JS.ACK.S.C.1.22.3.4.5\n", None),
        (b"$JS.ACK.S.C.1.22.3.4.\xd9\xa5", None),
        (b"$JS.ACK.S.C.1.18446744073709551616.3.4.5", None),
        (b"$JS.ACK.S.CD.1.22.3.4.5", None),
        (b"$JS.ACK.SC.C.1.22.3.4.5", None),
        (b"$JS.ACK.hub.hash.S.C.1.22.3.4.5", None),
        (b"_GR_.a.b.$JS.ACK.S.C.1.22.3.4.5", None),
        (b"", None),
    ],
)
def test_sequences_of_a_reply_subject(reply: bytes, expected: tuple[int, int] | None) -> None:
    assert ReplySubjects("S", "C").sequences(reply) == expected


@pytest.mark.parametrize(
    ("reply", "can_answer"),
    [
        (b"$JS.ACK.S.C.1.22.3.4.5", True),
        (b"$JS.ACK.S.C.1.22.3.4.5.6", True),
        (b"$JS.ACK.hub.hash.S.C.1.22.3.4.5", True),
        (b"$JS.ACK.S.C.1.*.3.4.5", False),
        (b"$JS.ACK.S.C.1.22.3.4.>", False),
        (b"$JS.ACK.S.C.1.22.3.4.5\r\nPUB x 0", False),
        (b"$JS.ACK.S.C.1..3.4.5", False),
        (b"$JS.API.STREAM.DELETE.S", False),
    ],
)
def test_reply_subjects_that_can_be_answered(reply: bytes, can_answer: bool) -> None:
    assert ReplySubjects("S", "C").can_answer(reply) == can_answer


@pytest.mark.parametrize("name", ["*", ">", "a b", "a\r\nPUB x 0", ""])
def test_names_with_which_nothing_can_be_answered(name: str) -> None:
    """A server may report any name."""
    for stream, consumer in ((name, "C"), ("S", name)):
        reply = f"$JS.ACK.{stream}.{consumer}.1.22.3.4.5"
        assert not ReplySubjects(stream, consumer).can_answer(reply.encode())


def test_sequences_after_a_longer_reply_subject() -> None:
    """The numbers are those of the metadata, whatever form the consumer's subjects have."""
    replies = ReplySubjects("S", "C")
    forged = b"$JS.ACK.d.h.S.C.1.2.3.4.5.S.C.6.7.8.9.10"
    assert replies.is_ack(forged)
    assert read_metadata(forged.decode()).stream_seq == 2
    assert replies.sequences(forged) is None
    assert replies.sequences(b"$JS.ACK.S.C.1.22.3.4.5") == (22, 3)


def test_nanoseconds_are_exact() -> None:
    pick = random.Random(1)
    for _ in range(2000):
        digits = pick.randrange(10 ** pick.randrange(1, 16))
        value = digits / 1e9
        assert nanoseconds("expires", value) == int(Decimal(repr(value)) * 10**9)
