"""Batches that are stored whole or not at all."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import MEMORY, connected, filled
from tests.support.proxies import PlainProxy
from trio_nats import (
    ConfigurationError,
    InvalidHeaderError,
    InvalidSubjectError,
    JSONCodec,
    RequestTimeoutError,
    open_nats,
)
from trio_nats.jetstream import (
    APILevelError,
    JetStreamAPIError,
    JetStreamError,
    NoStreamResponseError,
    WrongLastSequenceError,
)
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.requires_server("2.12")]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 99, 100, 101, 250])
async def test_all_messages_of_a_batch_are_stored(nats_server: NatsServer, count: int) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0, allow_atomic=True)
        batch = js.atomic_batch()
        for number in range(count):
            await batch.add(f"s.{number}", number, codec=JSONCodec(int), headers={"A": "b"})
        assert len(batch) == count
        await nc.flush()
        assert (await stream.refresh()).state.messages == 0
        ack = await batch.commit()
        assert (ack.stream, ack.seq, ack.batch, ack.count) == ("S", count, batch.id, count)
        assert len(batch) == count
        stored = [(m.subject, m.data) async for m in stream.get_msgs()]
        assert stored == [(f"s.{number}", str(number).encode()) for number in range(count)]
        for go_on in (batch.commit, lambda: batch.add("s.x")):
            with pytest.raises(JetStreamError, match="has been committed"):
                await go_on()
        assert (await stream.get_msg(1)).headers["A"] == "b"


async def test_an_uncommitted_batch_stores_nothing(nats_server: NatsServer) -> None:
    """Left alone, it is never stored."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0, allow_atomic=True)
        batch = js.atomic_batch()
        for _ in range(5):
            await batch.add("s.a")
        await nc.flush()
        assert (await js.publish("s.b")).seq == 1
        assert (await stream.refresh()).state.messages == 1


async def test_what_is_expected(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 3, allow_atomic=True)
        batch = js.atomic_batch()
        await batch.add("s.0", expect_last_seq=3, expect_last_subject_seq=1)
        await batch.add("s.x", expect_last_subject_seq=2, expect_last_subject="s.1")
        assert (await batch.commit()).seq == 5
        for options in ({"expect_last_seq": 3}, {"expect_last_subject_seq": 3}):
            batch = js.atomic_batch()
            await batch.add("s.0", **options)
            await batch.add("s.1")
            with pytest.raises(WrongLastSequenceError):
                await batch.commit()
            with pytest.raises(JetStreamError, match="the batch has failed"):
                await batch.commit()
        assert (await stream.refresh()).state.messages == 5


async def test_refusals(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0, allow_atomic=True)
        batch = js.atomic_batch()
        for _ in range(2):
            await batch.add("s.0", msg_id="the same")
        with pytest.raises(JetStreamAPIError, match="duplicate message id"):
            await batch.commit()
        batch = js.atomic_batch()
        with pytest.raises(JetStreamAPIError, match="too large"):
            for _ in range(1002):
                await batch.add("s.0")
            await batch.commit()
        assert (await stream.refresh()).state.messages == 0


async def test_a_stream_that_does_not_allow_it(nats_server: NatsServer) -> None:
    """That is known as soon as the first message is sent."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        batch = js.atomic_batch()
        await batch.add("s.0")
        with pytest.raises(JetStreamAPIError, match="atomic publish is disabled"):
            await batch.add("s.1")
        assert (await stream.refresh()).state.messages == 0
        batch = js.atomic_batch()
        await batch.add("other")
        with pytest.raises(NoStreamResponseError):
            await batch.commit()


async def test_a_message_that_belongs_to_another_stream(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0, allow_atomic=True)
        other = await js.create_stream("OTHER", subjects=["other"], storage=MEMORY)
        batch = js.atomic_batch()
        for subject in ("s.a", "other", "s.b"):
            await batch.add(subject)
        with pytest.raises(
            JetStreamAPIError, match=r"incomplete; a message was lost .*another stream"
        ):
            await batch.commit()
        for one in (stream, other):
            assert (await one.refresh()).state.messages == 0


async def test_a_server_that_does_not_know_batches(nats_server: NatsServer) -> None:
    """It stores message after message, and says so at the first one."""
    async with connected(nats_server) as (js, nc), nc.subscribe("old") as sub:
        batch = js.atomic_batch()
        await batch.add("old")
        async with trio.open_nursery() as nursery:

            async def store() -> None:
                await (await sub.receive()).respond(b'{"stream": "S", "seq": 1}')

            nursery.start_soon(store)
            with pytest.raises(APILevelError, match="first message, to 'old', was stored by"):
                await batch.add("old")


async def test_an_empty_acknowledgement_of_the_batch(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("odd") as sub:
        batch = js.atomic_batch()
        await batch.add("odd")
        async with trio.open_nursery() as nursery:

            async def say_nothing() -> None:
                await (await sub.receive()).respond(b"")

            nursery.start_soon(say_nothing)
            with pytest.raises(JetStreamError, match="is not an acknowledgement"):
                await batch.commit()


async def test_invalid_messages_and_empty_batches(nats_server: NatsServer) -> None:
    """Found out at the call, and the batch goes on without it."""
    async with connected(nats_server) as (js, _):
        await filled(js, 0, allow_atomic=True)
        batch = js.atomic_batch()
        with pytest.raises(ConfigurationError, match="must have messages"):
            await batch.commit()
        await batch.add("s.0")
        for subject in ("a b", "s.*", ""):
            with pytest.raises(InvalidSubjectError):
                await batch.add(subject)
        with pytest.raises(TypeError):
            await batch.add("s.0", 5)
        with pytest.raises(InvalidHeaderError):
            await batch.add("s.0", headers={"a b": "c"})
        with pytest.raises(ConfigurationError, match="first message of a batch only"):
            await batch.add("s.0", expect_last_seq=1)
        with pytest.raises(ConfigurationError):
            await batch.add("s.0", ttl=0.5)
        with pytest.raises(ConfigurationError):
            js.atomic_batch(timeout=0)
        assert len(batch) == 1
        assert (await batch.commit()).count == 1


async def test_nobody_answers(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("silent"):
        batch = js.atomic_batch(timeout=0.01)
        await batch.add("silent")
        with pytest.raises(RequestTimeoutError):
            await batch.commit()
        assert repr(batch) == f"<AtomicBatch {batch.id} of 1 messages, has failed>"


async def test_one_task_at_a_time(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("silent"):
        batch = js.atomic_batch()
        await batch.add("silent")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.commit)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await batch.add("silent")
            nursery.cancel_scope.cancel()


async def test_cancelled_batches_do_not_count_as_unfinished(nats_server: NatsServer) -> None:
    """A stream has room for 50 of them. The answers come late, so each is cancelled before."""
    async with PlainProxy(nats_server.port) as proxy:
        async with open_nats(f"nats://127.0.0.1:{proxy.port}") as nc:
            js = nc.jetstream()
            stream = await filled(js, 0, allow_atomic=True)
            proxy.swallow = True
            for _ in range(60):
                batch = js.atomic_batch()
                await batch.add("s.a")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(batch.add, "s.b")
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.cancel_scope.cancel()
                with pytest.raises(JetStreamError, match="has failed"):
                    await batch.commit()
            proxy.swallow = False
            await nc.flush()
            batch = js.atomic_batch()
            await batch.add("s.a")
            await batch.add("s.b")
            assert (await batch.commit()).count == 2
            assert (await stream.refresh()).state.messages == 2
