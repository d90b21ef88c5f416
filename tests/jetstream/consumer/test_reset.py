"""Resetting a consumer (ADR-60)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.jetstream.helpers import connected, fake_api, filled
from trio_nats import ConfigurationError, Msg
from trio_nats.jetstream import (
    APILevelError,
    ConsumerInfo,
    ConsumerNotFoundError,
    DeliverPolicy,
    JetStreamAPIError,
)
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.requires_server("2.14")]


async def test_back_to_the_first_message_not_acknowledged(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("C")
        first, second, _ = await consumer.fetch(3)
        await first.double_ack()
        assert (first.metadata.consumer_seq, second.metadata.consumer_seq) == (1, 2)
        assert await consumer.reset() == 2
        assert type(consumer.info) is ConsumerInfo
        assert (consumer.info.num_ack_pending, consumer.info.num_pending) == (0, 5)
        again = await consumer.next()
        assert (again.data, again.metadata.consumer_seq, again.metadata.delivered) == (b"1", 1, 1)


async def test_to_any_sequence_number(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("C")
        for seq in (5, 2):  # forward and back
            assert await consumer.reset(seq) == seq
            assert (await consumer.next()).metadata.stream_seq == seq
        assert await stream.bind_consumer("C").reset(1) == 1
        assert (await consumer.next()).metadata.stream_seq == 1


async def test_while_it_is_consumed(nats_server: NatsServer) -> None:
    """Messages that were received already are delivered again."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 3)
        consumer = await stream.create_consumer("C")
        async with consumer.consume() as messages:
            found = []
            for _ in range(3):
                msg = await messages.receive()
                await msg.double_ack()
                found.append(msg.data)
            await consumer.reset(2)
            found += [(await messages.receive()).data for _ in range(2)]
        assert found == [b"0", b"1", b"2", b"1", b"2"]


async def test_not_before_the_start(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        by_sequence = await stream.create_consumer(
            "A", deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=3
        )
        by_time = await stream.create_consumer(
            "B",
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=datetime.now(UTC) + timedelta(days=1),
        )
        new = await stream.create_consumer("C", deliver_policy=DeliverPolicy.NEW)
        for consumer in (by_sequence, by_time, new):
            with pytest.raises(JetStreamAPIError, match=r"invalid reset: (below|not allowed)"):
                await consumer.reset(2)
        assert await by_sequence.reset(4) == 4
        with pytest.raises(ConfigurationError, match="seq must be at least 1, not 0"):
            await new.reset(0)
        await stream.delete_consumer("C")
        with pytest.raises(ConsumerNotFoundError, match="consumer 'C' of stream 'S' not found"):
            await new.reset()


async def test_on_an_older_server(nats_server: NatsServer) -> None:
    """It would not answer these requests."""

    def answer(msg: Msg) -> dict[str, Any]:
        if msg.subject == "fake.INFO":
            return {"api": {"level": 3}}
        return {"stream_name": "S", "name": "C", "config": {"name": "S"}}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer) as asked:
        stream = await nc.jetstream(prefix="fake").stream("S")
        with pytest.raises(APILevelError, match=r"must be 2\.14 or later for reset\(\)"):
            await stream.bind_consumer("C").reset()
        with pytest.raises(APILevelError, match=r"must be 2\.15 or later for evacuate_peer\(\)"):
            await stream.evacuate_peer("a")
        with pytest.raises(APILevelError, match=r"must be 2\.15 or later for cancel_move\(\)"):
            await stream.cancel_move()
        for peer, error in (("", ConfigurationError), (5, TypeError)):
            with pytest.raises(error, match="peer must"):
                await stream.remove_peer(peer)
        assert {what for what, _ in asked} == {"INFO", "CONSUMER.INFO.S.C", "STREAM.INFO.S"}
