"""Requests, headers and acknowledgements on the wire are those of the ADRs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.jetstream.helpers import MEMORY, RecordedRequest, connected, filled, recorded_requests
from trio_nats.jetstream import (
    AckPolicy,
    JetStream,
    PriorityPolicy,
    Stream,
    SubjectTransform,
)
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.requires_server("2.12")]

API = "$JS.API."
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


async def consume_all(stream: Stream, **options: Any) -> list[Any]:
    return [msg async for msg in stream.get_last_msgs(**options)]


async def requested(
    nats_server: NatsServer, call: Callable[[JetStream, Stream], Awaitable[object]]
) -> list[RecordedRequest]:
    """Return what is published with a reply subject while ``call`` runs; ``S`` has messages."""
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, allow_msg_ttl=True, allow_atomic=True)
        async with recorded_requests(nats_server) as found:
            await call(js, stream)
            await nc.flush()
        return list(found.values())


GETS: dict[str, tuple[Callable[[Stream], Awaitable[object]], str, dict[str, Any] | None]] = {
    "by sequence number": (lambda s: s.get_msg(3), "DIRECT.GET.S", {"seq": 3}),
    "the last of a subject": (lambda s: s.get_msg(last_for="s.1"), "DIRECT.GET.S.s.1", None),
    "the last of a wildcard": (
        lambda s: s.get_msg(last_for="s.*"),
        "DIRECT.GET.S",
        {"last_by_subj": "s.*"},
    ),
    "the next of a subject": (
        lambda s: s.get_msg(2, next_for="s.1"),
        "DIRECT.GET.S",
        {"seq": 2, "next_by_subj": "s.1"},
    ),
    "from the leader": (lambda s: s.get_msg(3, direct=False), "STREAM.MSG.GET.S", {"seq": 3}),
    "the last of several subjects": (
        lambda s: consume_all(s, subjects=["s.1", "s.2"], up_to_seq=5, max_bytes=100),
        "DIRECT.GET.S",
        {"multi_last": ["s.1", "s.2"], "up_to_seq": 5, "batch": 256, "max_bytes": 100},
    ),
    "the last until a time": (
        lambda s: consume_all(s, subjects=["s.*"], up_to_time=NOON, max_messages=9, max_bytes=99),
        "DIRECT.GET.S",
        {
            "multi_last": ["s.*"],
            "up_to_time": "2030-01-01T12:00:00Z",
            "batch": 9,
            "max_bytes": 99,
        },
    ),
}


@pytest.mark.parametrize("name", GETS)
async def test_adr_31_gets(nats_server: NatsServer, name: str) -> None:
    call, subject, request = GETS[name]
    first, *_ = await requested(nats_server, lambda _, stream: call(stream))
    assert first.msg.subject == API + subject
    assert (msgspec.json.decode(first.msg.data) if first.msg.data else None) == request


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({"msg_id": "x"}, {"Nats-Msg-Id": "x"}),
        ({"expect_stream": "S"}, {"Nats-Expected-Stream": "S"}),
        ({"expect_last_seq": 6}, {"Nats-Expected-Last-Sequence": "6"}),
        ({"expect_last_subject_seq": 4}, {"Nats-Expected-Last-Subject-Sequence": "4"}),
        (
            {"expect_last_subject_seq": 6, "expect_last_subject": "s.*"},
            {
                "Nats-Expected-Last-Subject-Sequence": "6",
                "Nats-Expected-Last-Subject-Sequence-Subject": "s.*",
            },
        ),
        ({"ttl": 60}, {"Nats-TTL": "60"}),  # ADR-43
        ({"ttl": 1.5}, {"Nats-TTL": "1500ms"}),
        ({"ttl": math.inf}, {"Nats-TTL": "never"}),
    ],
    ids=str,
)
async def test_headers_of_published_messages(
    nats_server: NatsServer, options: Any, headers: dict[str, str]
) -> None:
    (one,) = [
        found
        for found in await requested(nats_server, lambda js, _: js.publish("s.0", b"", **options))
        if found.msg.subject == "s.0"
    ]
    assert dict(one.msg.headers) == headers
    assert one.answer is not None
    assert msgspec.json.decode(one.answer.data) == {"stream": "S", "seq": 7}


async def test_adr_43_44_48_marker_ttl(nats_server: NatsServer) -> None:
    """Seconds here are nanoseconds there, and the level that it takes is required."""
    found = await requested(
        nats_server, lambda js, _: js.create_key_value("B", limit_marker_ttl=2.5, storage=MEMORY)
    )
    (create,) = [one.msg for one in found if ".STREAM.CREATE." in one.msg.subject]
    config = msgspec.json.decode(create.data)
    assert (config["allow_msg_ttl"], config["subject_delete_marker_ttl"]) == (True, 2_500_000_000)
    assert dict(create.headers) == {"Nats-Required-Api-Level": "1"}


async def test_adr_50_batches(nats_server: NatsServer) -> None:
    async def store(js: JetStream, _: Stream) -> None:
        batch = js.atomic_batch()
        for number in range(3):
            await batch.add(f"s.{number}", b"")
        ack = await batch.commit()
        assert (ack.seq, ack.batch, ack.count) == (9, batch.id, 3)

    found = [one for one in await requested(nats_server, store) if one.msg.subject.startswith("s.")]
    first, last = found[0], found[-1]
    name = first.msg.headers["Nats-Batch-Id"]
    assert dict(first.msg.headers) == {"Nats-Batch-Id": name, "Nats-Batch-Sequence": "1"}
    assert dict(last.msg.headers) == {
        "Nats-Batch-Id": name,
        "Nats-Batch-Sequence": "3",
        "Nats-Batch-Commit": "1",
    }
    assert first.answer is not None
    assert last.answer is not None
    assert first.answer.data == b""
    assert msgspec.json.decode(last.answer.data)["count"] == 3


async def test_adr_33_44_metadata(nats_server: NatsServer) -> None:
    """The server adds what begins with ``_nats.``; the rest comes back unchanged."""
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("M", metadata={"owner": "me"}, storage=MEMORY)
        consumer = await stream.create_consumer("c", metadata={"owner": "you"})
        assert consumer.info is not None
        for metadata, owner in (
            (stream.info.config.metadata, "me"),
            (consumer.info.config.metadata, "you"),
        ):
            assert metadata is not None
            assert metadata["owner"] == owner
            own = {key for key in metadata if key != "owner"}
            assert own == {"_nats.level", "_nats.req.level", "_nats.ver"}


async def test_adr_34_36_subjects(nats_server: NatsServer) -> None:
    """Several filters are in the request only; one is in the subject as well."""
    found = await requested(
        nats_server, lambda _, stream: stream.create_consumer("c", filter_subject="s.*")
    )
    assert found[0].msg.subject == API + "CONSUMER.CREATE.S.c.s.*"
    async with connected(nats_server) as (js, _):
        await js.delete_stream("S")
        transform = SubjectTransform(src="t.*", dest="t.{{wildcard(1)}}.x")
        stream = await js.create_stream(
            "T", subjects=["t.*"], subject_transform=transform, storage=MEMORY
        )
        await js.publish("t.a")
        assert (await stream.get_msg(1)).subject == "t.a.x"
        consumer = await stream.create_consumer("c", filter_subjects=["t.a.x", "t.b.x"])
        assert (await consumer.next()).subject == "t.a.x"


async def test_adr_13_42_pull_requests(nats_server: NatsServer) -> None:
    async def pull(_: JetStream, stream: Stream) -> None:
        consumer = await stream.create_consumer(
            "c", priority_groups=["g"], priority_policy=PriorityPolicy.OVERFLOW
        )
        options = {"group": "g", "min_pending": 1, "max_bytes": 1000}
        await consumer.fetch(2, timeout=20, heartbeat=7, **options)
        await consumer.fetch(2, no_wait=True, **options)

    async def pinned(_: JetStream, stream: Stream) -> None:
        consumer = await stream.create_consumer(
            "c", priority_groups=["g"], priority_policy=PriorityPolicy.PINNED_CLIENT
        )
        first = await consumer.next(group="g")
        await consumer.next(group="g")
        pins.append(first.headers["Nats-Pin-Id"])

    pins: list[str] = []
    async with connected(nats_server) as (js, _):
        for call in (pull, pinned):
            found = [
                msgspec.json.decode(one.msg.data)
                for one in await requested(nats_server, call)
                if ".MSG.NEXT." in one.msg.subject
            ]
            if call is pull:
                assert found[0].pop("expires") <= 20_000_000_000
                same = {"batch": 2, "max_bytes": 1000, "group": "g", "min_pending": 1}
                assert found[0] == {**same, "idle_heartbeat": 7_000_000_000}
                assert found[1] == {**same, "no_wait": True}
            else:
                assert [one.get("id") for one in found] == [None, *pins]
            await js.delete_stream("S")


async def test_adr_17_ordered_consumers(nats_server: NatsServer) -> None:
    """In memory, with one replica and without acknowledgements."""

    async def read(_: JetStream, stream: Stream) -> None:
        async with stream.ordered_consumer(filter_subjects=["s.1"]).consume() as messages:
            assert (await messages.receive()).data == b"1"

    found = await requested(nats_server, read)
    (create,) = [one.msg for one in found if ".CONSUMER.CREATE." in one.msg.subject]
    config = msgspec.json.decode(create.data)["config"]
    assert config["ack_policy"] == AckPolicy.NONE
    assert (config["mem_storage"], config["num_replicas"]) == (True, 1)
    assert create.subject.endswith(".s.1")


async def test_adr_49_counters(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream(
            "C", subjects=["hits"], allow_msg_counter=True, allow_direct=True, storage=MEMORY
        )
        values = [
            (await js.publish("hits", headers={"Nats-Incr": step})).val
            for step in ("1", "+99999999999999999999", "-2")
        ]
        assert values == [1, 10**20, 10**20 - 2]
        stored = await stream.get_msg(last_for="hits")
        assert msgspec.json.decode(stored.data)["val"] == str(10**20 - 2)


async def test_adr_51_schedules(nats_server: NatsServer) -> None:
    """A schedule in the past publishes to its target at once."""
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream(
            "D", subjects=["plan.*", "do.*"], allow_msg_schedules=True, storage=MEMORY
        )
        consumer = await stream.create_consumer("c", filter_subject="do.*")
        headers = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "do.1"}
        await js.publish("plan.1", b"now", headers=headers)
        msg = await consumer.next(timeout=20)
        assert (msg.subject, msg.data) == ("do.1", b"now")
        assert msg.headers["Nats-Scheduler"] == "plan.1"
