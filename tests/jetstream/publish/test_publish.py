"""Publishing one message and waiting for its acknowledgement."""

from __future__ import annotations

import math

import msgspec
import pytest
import trio

from tests.jetstream.helpers import MEMORY, connected, filled, stored
from trio_nats import (
    ConfigurationError,
    EncodeError,
    InvalidHeaderError,
    InvalidSubjectError,
    JSONCodec,
    MaxPayloadError,
    NoRespondersError,
    RequestTimeoutError,
)
from trio_nats.jetstream import (
    JetStreamAPIError,
    JetStreamError,
    NoStreamResponseError,
    PubAck,
    StreamMismatchError,
    WrongLastMsgIdError,
    WrongLastSequenceError,
)
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_stored(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        assert await js.publish("s.a", b"x") == PubAck(stream="S", seq=1)
        assert await js.publish("s.a", "text", headers={"A": "1"}) == PubAck(stream="S", seq=2)
        assert await js.publish("s.a") == PubAck(stream="S", seq=3)
        codec = JSONCodec(dict[str, int])
        assert await js.publish("s.a", {"a": 1}, codec=codec) == PubAck(stream="S", seq=4)
        messages = [(m.data, m.headers.pairs()) for m in await stored(stream)]
        assert messages == [(b"x", []), (b"text", [("A", "1")]), (b"", []), (b'{"a":1}', [])]


async def test_duplicates(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        assert not (await js.publish("s.a", msg_id="1")).duplicate
        await js.publish("s.a", msg_id="2")
        again = await js.publish("s.a", msg_id="1")
        assert again == PubAck(stream="S", seq=1, duplicate=True)


async def test_what_is_expected(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        await js.publish("s.a", expect_last_seq=0, expect_last_subject_seq=0, msg_id="a")
        await js.publish("s.b", expect_last_seq=1, expect_last_subject_seq=0, expect_stream="S")
        await js.publish("s.a", expect_last_subject_seq=1)
        await js.publish("s.c", expect_last_subject_seq=0, msg_id="c")
        await js.publish("s.c", expect_last_msg_id="c")
        with pytest.raises(WrongLastSequenceError) as caught:
            await js.publish("s.a", expect_last_seq=1)
        assert caught.value.last_sequence == 5
        with pytest.raises(WrongLastSequenceError) as caught:
            await js.publish("s.a", expect_last_subject_seq=1)
        assert caught.value.last_sequence == 3
        with pytest.raises(StreamMismatchError):
            await js.publish("s.a", expect_stream="T")
        with pytest.raises(WrongLastMsgIdError):
            await js.publish("s.a", expect_last_msg_id="a")
        assert (await js.publish("s.a")).seq == 6


@pytest.mark.requires_server("2.11")
async def test_another_subject_is_expected(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js)
        await js.publish("s.0", expect_last_subject_seq=5, expect_last_subject="s.1")
        with pytest.raises(WrongLastSequenceError) as caught:
            await js.publish("s.0", expect_last_subject_seq=7, expect_last_subject="s.1")
        assert caught.value.last_sequence == 5


@pytest.mark.requires_server("2.11")
@pytest.mark.parametrize(
    ("ttl", "header"),
    [(1, "1"), (2.0, "2"), (1.5, "1500ms"), (90.0001, "90001ms"), (math.inf, "never")],
)
async def test_a_time_to_live(nats_server: NatsServer, ttl: float, header: str) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0, allow_msg_ttl=True)
        ack = await js.publish("s.a", ttl=ttl)
        assert (await stream.get_msg(ack.seq)).headers.pairs() == [("Nats-TTL", header)]


@pytest.mark.requires_server("2.11")
async def test_a_time_to_live_that_is_not_allowed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        with pytest.raises(JetStreamAPIError, match="per-message TTL is disabled"):
            await js.publish("s.a", ttl=1)


@pytest.mark.requires_server("2.12")
async def test_a_counter(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await js.create_stream("C", subjects=["c"], allow_msg_counter=True, storage=MEMORY)
        assert (await js.publish("c", headers={"Nats-Incr": "+5"})).val == 5
        assert (await js.publish("c", headers={"Nats-Incr": "-7"})).val == -2


async def test_own_headers_beside_arguments(nats_server: NatsServer) -> None:
    """What is given by its name replaces what is given as a header; what was given stays as is."""
    given = {"Nats-Msg-Id": "header", "A": ["1", "2"]}
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        await js.publish("s.a", headers=given, msg_id="argument")
        assert (await stream.get_msg(1)).headers.pairs() == [
            ("Nats-Msg-Id", "argument"),
            ("A", "1"),
            ("A", "2"),
        ]
        assert given == {"Nats-Msg-Id": "header", "A": ["1", "2"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"subject": "s.*"}, InvalidSubjectError),
        ({"headers": {"a b": "c"}}, InvalidHeaderError),
        ({"headers": 5, "msg_id": "x"}, TypeError),
        ({"payload": b"x" * (1 << 20), "headers": {"a": "b"}}, MaxPayloadError),
        ({"payload": object(), "codec": JSONCodec(int)}, EncodeError),
        ({"payload": 5}, TypeError),
        ({"msg_id": ""}, ConfigurationError),
        ({"msg_id": 5}, TypeError),
        ({"msg_id": "a\r\nb"}, InvalidHeaderError),
        ({"expect_stream": "a.b"}, ConfigurationError),
        ({"expect_last_seq": -1}, ConfigurationError),
        ({"expect_last_seq": "1"}, TypeError),
        ({"expect_last_subject_seq": 1.5}, TypeError),
        ({"expect_last_subject": "s.a"}, ConfigurationError),
        ({"expect_last_msg_id": ""}, ConfigurationError),
        ({"ttl": 0.5}, ConfigurationError),
        ({"ttl": -1}, ConfigurationError),
        ({"ttl": math.nan}, ConfigurationError),
        ({"timeout": 0}, ConfigurationError),
        ({"attempts": 0}, ConfigurationError),
        ({"retry_wait": -1}, ConfigurationError),
    ],
)
async def test_messages_that_cannot_be_published(nats_server: NatsServer, options, kind) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        with pytest.raises(kind):
            await js.publish(**{"subject": "s.a", **options})
        if not options.keys() & {"timeout", "attempts", "retry_wait"}:
            async with js.publisher() as publisher:
                with pytest.raises(kind):
                    await publisher.publish(**{"subject": "s.a", **options})
                assert publisher.pending == 0
        assert (await stream.refresh()).state.messages == 0


async def test_no_stream(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        with pytest.raises(NoStreamResponseError, match="no stream stores 'other'") as caught:
            await js.publish("other", attempts=1)
        assert isinstance(caught.value, NoRespondersError)
        assert caught.value.subject == "other"


async def test_a_stream_that_is_created_meanwhile(nats_server: NatsServer) -> None:
    """As one that changes its leader is."""
    async with connected(nats_server) as (js, nc):
        acks: list[PubAck] = []

        async def publish() -> None:
            acks.append(await js.publish("s.a", attempts=10_000, retry_wait=0.001))

        async with trio.open_nursery() as nursery:
            before = nc.stats.out_messages
            nursery.start_soon(publish)
            while before + 2 > nc.stats.out_messages:  # it is on its second attempt
                await trio.lowlevel.checkpoint()
            await filled(js, 0)
        assert [ack.seq for ack in acks] == [1]


async def test_the_number_of_attempts(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        for options, attempts in (({}, 3), ({"attempts": 4}, 4), ({"attempts": 1}, 1)):
            before = nc.stats.out_messages
            with pytest.raises(NoStreamResponseError):
                await js.publish("other", retry_wait=0, **options)
            assert before + attempts == nc.stats.out_messages


@pytest.mark.parametrize("answer", [b"", b"+OK", b"{}", b'{"stream": 5}', b"\xff", b"[" * 99_999])
async def test_another_client_replies(nats_server: NatsServer, answer: bytes) -> None:
    async with connected(nats_server) as (js, nc):
        async with nc.subscribe("other") as sub, trio.open_nursery() as nursery:

            async def reply() -> None:
                async for msg in sub:
                    await msg.respond(answer)

            nursery.start_soon(reply)
            with pytest.raises(JetStreamError):
                await js.publish("other")
            nursery.cancel_scope.cancel()


async def test_no_acknowledgement(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await js.create_stream("S", subjects=["s"], no_ack=True, storage=MEMORY)
        with pytest.raises(RequestTimeoutError):
            await js.publish("s", timeout=0.01)


def test_an_acknowledgement_cannot_be_changed() -> None:
    ack = PubAck(stream="S", seq=1)
    with pytest.raises(AttributeError):
        ack.seq = 2  # type: ignore[misc]
    assert msgspec.structs.asdict(ack)["duplicate"] is False
