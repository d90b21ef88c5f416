"""Errors of JetStream name the stream, consumer or bucket, and the difference."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.jetstream.helpers import MEMORY, connected, filled
from trio_nats.jetstream import (
    ConsumerConfig,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    ErrorCode,
    JetStream,
    JetStreamAPIError,
    MessageNotFoundError,
    NoStreamResponseError,
    StorageType,
    StreamConfig,
    StreamNameInUseError,
    StreamNotFoundError,
    WrongLastSequenceError,
)
from trio_nats.keyvalue import BucketExistsError
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_streams(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: js.stream("NO"),
            lambda: js.delete_stream("NO"),
            lambda: js.update_stream("NO"),
        ]
        for call in calls:
            with pytest.raises(StreamNotFoundError, match=r"^stream 'NO' not found \(code 404"):
                await call()
        await js.create_stream("S", subjects=["a"], storage=MEMORY)
        with pytest.raises(StreamNameInUseError) as caught:
            await js.create_stream("S", subjects=["a", "b"], storage=MEMORY, max_msgs=5)
        assert str(caught.value) == (
            "stream 'S' exists already, with another configuration: subjects is ['a'], not "
            "['a', 'b']; max_msgs is -1, not 5. Update it, or use another name "
            "(code 400, err_code 10058)"
        )
        assert (caught.value.code, caught.value.err_code) == (400, 10058)


async def test_consumers(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["a"], storage=MEMORY)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: stream.consumer("NO"),
            lambda: stream.delete_consumer("NO"),
            lambda: stream.update_consumer("NO"),
            lambda: stream.bind_consumer("NO").refresh(),
        ]
        for call in calls:
            with pytest.raises(ConsumerNotFoundError, match=r"^consumer 'NO' of stream 'S' not"):
                await call()
        await js.delete_stream("S")
        with pytest.raises(StreamNotFoundError, match=r"^stream 'S' not found"):
            await stream.consumer("NO")


async def test_a_consumer_that_is_there(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["a"], storage=MEMORY)
        await stream.create_consumer("C")
        with pytest.raises(ConsumerNameInUseError) as caught:
            await stream.create_consumer("C", max_deliver=4)
        assert caught.value.description == (
            "consumer 'C' of stream 'S' exists already, with another configuration: "
            "max_deliver is -1, not 4. Update it, or use another name"
        )


async def test_keys_and_buckets(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        bucket = await js.create_key_value("B", storage=MEMORY)
        with pytest.raises(BucketExistsError, match=r"history is 1, not 5\. Update it"):
            await js.create_key_value("B", storage=MEMORY, history=5)
        await bucket.put("a", b"1")
        with pytest.raises(WrongLastSequenceError, match=r"key 'a' .* is not 7") as caught:
            await bucket.update("a", b"2", 7)
        assert caught.value.last_sequence == 1


async def test_one_string_for_a_list(nats_server: NatsServer) -> None:
    async def refused(call: Callable[[JetStream], Awaitable[object]], text: str) -> None:
        with pytest.raises(TypeError, match=text):
            await call(js)

    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("T", subjects=["t"], storage=MEMORY)
        one = StreamConfig(name="S", subjects="x")
        await refused(
            lambda js: js.create_stream(one),
            r"StreamConfig: subjects must be a list, not a str; write subjects=\['x'\]$",
        )
        two = ConsumerConfig(filter_subjects="x")
        await refused(
            lambda _: stream.create_consumer(two),
            r"ConsumerConfig: filter_subjects must be a list, .* write filter_subjects=\['x'\]$",
        )
        with pytest.raises(TypeError, match=r"filter_subjects must be a list .* write \['x'\]$"):
            stream.ordered_consumer(filter_subjects="x")
        with pytest.raises(TypeError, match=r"filter_subjects must be a list .* not int$"):
            stream.ordered_consumer(filter_subjects=5)  # type: ignore[arg-type]


@pytest.mark.requires_server("2.11")
@pytest.mark.parametrize("direct", [False, True])
async def test_messages(nats_server: NatsServer, direct: bool) -> None:
    since = datetime(2200, 1, 1, tzinfo=UTC)
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        expected: list[tuple[dict[str, Any], str]] = [
            ({"seq": 99}, "99"),
            ({"last_for": "s.x"}, "of 's.x'"),
            ({"next_for": "s.*.x"}, "of 's.*.x'"),
            ({"next_for": "s.*", "seq": 7}, "of 's.*' from sequence number 7 on"),
            ({"start_time": since}, "stored at 2200-01-01T00:00:00+00:00 or later"),
        ]
        for options, text in expected:
            with pytest.raises(MessageNotFoundError) as caught:
                await stream.get_msg(**options, direct=direct)
            assert (
                str(caught.value) == f"stream 'S' has no message {text} (code 404, err_code 10037)"
            )


async def test_overlapping_subjects(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await js.create_stream("S", subjects=["a.>", "b"], storage=MEMORY)
        await js.create_stream("T", subjects=["c"], storage=MEMORY)
        for call, name in ((js.create_stream, "U"), (js.update_stream, "T")):
            with pytest.raises(
                JetStreamAPIError, match=rf"^stream '{name}' cannot store 'd', 'a\.\*': stream 'S'"
            ) as caught:
                await call(name, subjects=["d", "a.*"], storage=MEMORY)
            assert caught.value.err_code == ErrorCode.STREAM_SUBJECT_OVERLAP
        with pytest.raises(JetStreamAPIError, match=r"^stream 'b' cannot store 'b': stream 'S'"):
            await js.create_stream("b", storage=MEMORY)


@pytest.mark.requires_server("2.12")
async def test_what_the_stream_does_not_allow(nats_server: NatsServer) -> None:
    """The error says which setting does."""
    async with connected(nats_server) as (js, _):
        await js.create_stream("S", subjects=["s"], storage=MEMORY)
        kv = await js.create_key_value("B", storage=MEMORY)
        batch = js.atomic_batch()
        await batch.add("s", b"")
        settings: dict[Callable[[], Awaitable[object]], str] = {
            lambda: js.publish("s", ttl=5): "allow_msg_ttl of the stream, or limit_marker_ttl of",
            lambda: kv.create("a", b"", ttl=5): "limit_marker_ttl of the bucket",
            lambda: js.publish("s", headers={"Nats-Incr": "1"}): "allow_msg_counter",
            batch.commit: "allow_atomic",
            lambda: js.publish("s", headers={"Nats-Schedule": "@every 1h"}): "allow_msg_schedules",
        }
        for call, setting in settings.items():
            with pytest.raises(JetStreamAPIError, match=rf"is disabled; .*{setting}") as caught:
                await call()
            assert caught.value.err_code in list(ErrorCode)


@pytest.mark.requires_server("2.14")
async def test_a_stream_without_fast_batches(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await js.create_stream("S", subjects=["s"], storage=MEMORY)
        text = r"is disabled; set allow_batched of the stream \("
        with pytest.raises(JetStreamAPIError, match=text) as caught:
            async with js.fast_batch() as batch:
                await batch.add("s")
        assert caught.value.err_code == ErrorCode.FAST_BATCH_DISABLED


@pytest.mark.parametrize("storage", StorageType)
async def test_deleting_a_message_that_does_not_exist(
    nats_server: NatsServer, storage: StorageType
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s"], storage=storage)
        await js.publish("s")
        await stream.delete_msg(1)
        for seq in (1, 2):
            with pytest.raises(MessageNotFoundError, match=f"^stream 'S' has no message {seq} "):
                await stream.delete_msg(seq)


async def test_another_revision_of_a_key(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await js.create_key_value("B", storage=MEMORY)
        for number in range(2):
            await kv.put("a", str(number))
        text = "the latest revision of key 'a' of bucket 'B' is not 1: wrong last sequence: 2"
        for call in (kv.update("a", "2", 1), kv.delete("a", revision=1), kv.purge("a", revision=1)):
            with pytest.raises(WrongLastSequenceError, match=text):
                await call


async def test_no_stream(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        with pytest.raises(NoStreamResponseError) as caught:
            await js.publish("s", attempts=1)
        assert str(caught.value).startswith("no stream stores 's': create a stream with")
        assert str(caught.value) in repr(caught.value)
        assert caught.value.subject == "s"
