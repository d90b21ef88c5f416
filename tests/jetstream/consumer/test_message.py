"""Answering messages: once, as the consumer wants it, and with what the server makes of it."""

from __future__ import annotations

from typing import cast

import pytest
import trio

from tests.jetstream.helpers import MEMORY, connected, filled
from tests.jetstream.scripted_server import Puller, pulled_from
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from trio_nats import ConfigurationError, DecodeError, Msg, NoRespondersError, codecs
from trio_nats.connection_base import BaseConnection
from trio_nats.jetstream import AckError, AckPolicy, JetStreamMsg
from trio_nats.jetstream.consumer.message import AckContext
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_the_contents_of_acknowledgements() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume() as messages:
        await puller.deliver(await puller.pull(), 6)
        await (await messages.receive()).ack()
        await (await messages.receive()).nak()
        await (await messages.receive()).nak(delay=1.5)
        await (await messages.receive()).term()
        await (await messages.receive()).term(reason="no good")
        last = await messages.receive()
        await last.in_progress()
        await last.in_progress()
        await last.ack()
        await nc.flush()
        assert [data for _, data in puller.answers] == [
            b"+ACK",
            b"-NAK",
            b'-NAK {"delay": 1500000000}',
            b"+TERM",
            b"+TERM no good",
            b"+WPI",
            b"+WPI",
            b"+ACK",
        ]
        assert puller.answers[0][0] == "$JS.ACK.S.C.1.1.1.1700000000000000000.0"


async def test_a_message_is_answered_once() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        await puller.deliver(await puller.pull(), 3)
        for first in ("ack", "nak", "term"):
            msg = await messages.receive()
            assert not msg.answered
            await getattr(msg, first)()
            assert msg.answered
            assert first in repr(msg)
            for second in (msg.ack, msg.nak, msg.term, msg.in_progress):
                with pytest.raises(AckError, match=rf"already answered by {first}\(\)"):
                    await second()


async def test_cancelled_progress_does_not_take_back_an_answer() -> None:
    sent: list[bytes] = []

    class Connection:
        async def _respond(self, reply: bytes, payload: bytes, headers: None) -> None:
            if payload == b"+WPI":
                await msg.ack()  # as another task does while this one waits for space
                raise KeyError("as if cancelled")
            sent.append(payload)

    context = AckContext(cast("BaseConnection", Connection()), "s", "c", acks=True)
    msg = JetStreamMsg(
        Msg.new("s.1", b"x", reply="$JS.ACK.s.c.1.1.1.1700000000000000000.0"), context
    )
    with pytest.raises(KeyError):
        await msg.in_progress()
    assert sent == [b"+ACK"]
    assert msg.answered


async def test_acknowledging_with_ack_policy_none_is_an_error(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("c", ack_policy=AckPolicy.NONE)
        msg = await consumer.next()
        for answer in (msg.ack, msg.nak, msg.term, msg.in_progress):
            with pytest.raises(AckError, match=r"'c' has AckPolicy.NONE"):
                await answer()


async def test_acknowledging_without_a_reply_subject() -> None:
    msg = JetStreamMsg(Msg.new("s.1", b"x"), AckContext(None, "s", "c", acks=True))
    assert msg.reply == ""
    with pytest.raises(AckError, match="no reply subject"):
        await msg.ack()


async def test_bad_answers() -> None:
    msg = JetStreamMsg(
        Msg.new("s.1", b"x", reply="$JS.ACK.x"), AckContext(None, "s", "c", acks=True)
    )
    with pytest.raises(ConfigurationError, match="delay"):
        await msg.nak(delay=-1)
    with pytest.raises(TypeError, match="reason must be a str, not bytes"):
        await msg.term(reason=cast("str", b"x"))
    with pytest.raises(ConfigurationError, match="line of printable text"):
        await msg.term(reason="a\r\nb")
    assert not msg.answered


async def test_a_double_ack(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("c")
        await (await consumer.next()).double_ack()
        assert (await consumer.refresh()).ack_floor.stream_seq == 1
        again = await consumer.next()
        await stream.delete_consumer("c")
        # Nobody could confirm it, so it is not done with.
        with pytest.raises(NoRespondersError):
            await again.double_ack()
        assert not again.answered


async def test_delivered_again_at_once_later_or_not_at_all(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 3)
        consumer = await stream.create_consumer("c", ack_wait=60)
        first, second, third = await consumer.fetch(3)
        await first.nak()
        await second.nak(delay=0.05)
        await third.term(reason="poison")
        again = [await consumer.next(), await consumer.next()]
        assert [msg.metadata.stream_seq for msg in again] == [1, 2]
        assert [msg.metadata.delivered for msg in again] == [2, 2]
        for msg in again:
            await msg.double_ack()
        assert (await consumer.refresh()).num_ack_pending == 0


async def test_a_cancelled_acknowledgement_can_be_repeated(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY)
        consumer = await stream.create_consumer("c")
        current: list[JetStreamMsg] = []

        for confirm in (False, True):

            async def make(confirm: bool = confirm) -> Operation:
                await js.publish("s", b"x")
                current[:] = [await consumer.next()]

                async def operation() -> None:
                    await (current[0].double_ack() if confirm else current[0].ack())

                return operation

            async def check() -> None:
                if not current[0].answered:
                    await current[0].double_ack()
                while (await consumer.refresh()).num_ack_pending:
                    await trio.lowlevel.checkpoint()

            await cancel_at_each_checkpoint(make, check)


async def test_values(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        consumer = await stream.create_consumer("c")
        numbers = codecs.JSONCodec(int)
        for payload in (b"1", b"2", b"3", b"no number"):
            await js.publish("s.1", payload, headers={"a": "b"})
        msg = await consumer.next()
        assert msg.decode(numbers) + 1 == 2
        assert (msg.subject, msg.data, msg.headers["a"]) == ("s.1", b"1", "b")
        assert msg.metadata.stream_seq == 1
        assert msg.reply.startswith("$JS.ACK.")
        await msg.in_progress()
        await msg.ack()
        assert msg.answered
        assert [one.decode(numbers) for one in await consumer.fetch(1)] == [2]
        async with consumer.consume() as messages:
            assert (await messages.receive()).decode(numbers) == 3
            bad = await messages.receive()
            with pytest.raises(DecodeError, match=r"s\.1"):
                bad.decode(numbers)
            await bad.nak()
            bad = await messages.receive()
            await bad.term(reason="no number")
            await messages.drain()
            async for _ in messages:
                raise AssertionError
            await messages.aclose()
