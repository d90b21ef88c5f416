"""What is sent and received, compared with the JSON schemas of the JetStream API.

A real server answers each kind of request that the package can send. A second connection listens
to all that passes between them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path

import msgspec
import pytest

import trio_nats.jetstream
from tests.jetstream.helpers import MEMORY, RecordedRequest, connected, recorded_requests
from tests.support.schemas import (
    needs_schemas,
    read_schema,
    schema_fields,
    schema_names,
    unknown_fields,
    violations,
)
from trio_nats.jetstream import (
    AccountInfo,
    AckPolicy,
    Compression,
    ConsumerConfig,
    ConsumerInfo,
    ConsumerLimits,
    ConsumerNotFoundError,
    DeliverPolicy,
    DiscardPolicy,
    JetStream,
    JetStreamAPIError,
    PauseState,
    PersistMode,
    Placement,
    PriorityPolicy,
    PubAck,
    ReplayPolicy,
    RePublish,
    RetentionPolicy,
    Stream,
    StreamConfig,
    StreamInfo,
    StreamSource,
    SubjectTransform,
)
from trio_nats.testing import NatsServer

pytestmark = [needs_schemas, pytest.mark.slow]

FOLDER = "jetstream/api/v1"
PREFIX = "$JS.API."
TOMORROW = datetime.now(UTC) + timedelta(days=1)

NOT_SENT = {
    "ACCOUNT.PURGE": "for the system account: deletes all of an account",
    "META.LEADER.STEPDOWN": "for the system account: administration of the cluster",
    "SERVER.REMOVE": "for the system account: administration of the cluster",
    "STREAM.SNAPSHOT": "a backup, which is made with the nats command",
    "STREAM.RESTORE": "a backup, which is made with the nats command",
}
"""Requests in the schemas that the package does not send, and why."""

NOT_IN_THE_API = {
    "STREAM.CANCEL_MOVE": "new in server 2.15",
    "STREAM.PEER.EVACUATE": "new in server 2.15",
}
"""Requests that the package sends and that have no schema, and why."""

DIRECT = "DIRECT.GET"
"""A request outside of the API, with the schema of STREAM.MSG.GET. Its answer is a message."""

WRONG_SCHEMAS = {
    "sent consumer_getnext_request: $.batch: 500 is greater than the maximum of 256": (
        "the server has no such maximum, but the max_batch of the consumer"
    ),
    "received stream_names_response: streams is unknown": "the schema has consumers in its place",
}
"""What differs, and why it is the schemas that are wrong, or older than the server."""

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "account_info_response": AccountInfo,
    "consumer_configuration": ConsumerConfig,
    "consumer_info_response": ConsumerInfo,
    "consumer_pause_response": PauseState,
    "pub_ack_response": PubAck,
    "stream_configuration": StreamConfig,
    "stream_info_response": StreamInfo,
}

NOT_IN_STRUCTS = {
    "consumer_configuration: direct": "for servers, to copy streams; kept in extra",
    "consumer_configuration: sourcing": "for servers, to copy streams; kept in extra",
    "consumer_info_response: config.direct": "as above",
    "consumer_info_response: config.sourcing": "as above",
    "stream_info_response: limit": "of a list of subjects, which Stream.subjects requests",
    "stream_info_response: offset": "as above",
    "stream_info_response: total": "as above",
    "stream_info_response: state.subjects": "as above",
}
"""Fields of the schemas that the structs leave out, and why."""

NOT_IN_SCHEMAS = {
    "consumer_info_response: cluster.desired": "new in server 2.15",
    "consumer_info_response: cluster.replicas[].pending": "new in server 2.15",
    "stream_info_response: cluster.desired": "new in server 2.15",
    "stream_info_response: cluster.replicas[].pending": "new in server 2.15",
}
"""Fields of the structs that the schemas do not have, and why."""


def schemas_of_requests() -> dict[str, str]:
    """The name of the schema of each request without ``_request``, by the subject."""
    found = {}
    for name in schema_names(FOLDER):
        subject = re.search(r" \$JS\.API\.([A-Z.]+) API", read_schema(name)["description"])
        if name.endswith("_response") and subject is not None:
            found[subject[1]] = name.removesuffix("_response")
    found["CONSUMER.MSG.NEXT"] = f"{FOLDER}/consumer_getnext"
    return found


def requests_in_the_source() -> set[str]:
    """The requests that the package can send, by its source."""
    source = Path(trio_nats.jetstream.__file__).parent
    quoted = re.compile(r'"((?:STREAM|CONSUMER|DIRECT)\.[A-Z._]+[A-Z]|INFO)[".]')
    return {
        subject
        for path in source.rglob("*.py")
        if path.name != "advisories.py"  # which has names of another kind
        for subject in quoted.findall(path.read_text("utf-8"))
    }


def verb_of(subject: str) -> str:
    """The part of the subject of a request before names, which are in lower case here."""
    return ".".join(takewhile(str.isupper, subject.removeprefix(PREFIX).split(".")))


async def use_streams(js: JetStream) -> Stream:
    """All that can be done with streams, with all settings."""
    await js.account_info()
    stream = await js.create_stream(
        "all",
        description="all settings",
        subjects=["all.>", "more"],
        max_consumers=50,
        max_msgs=1_000,
        max_bytes=1_000_000,
        max_age=3600.5,
        max_msgs_per_subject=7,
        max_msg_size=1024,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        num_replicas=1,
        duplicate_window=60.0,
        allow_rollup_hdrs=True,
        compression=Compression.S2,
        first_seq=100,
        subject_transform=SubjectTransform(src="more", dest="all.more"),
        republish=RePublish(src="all.>", dest="again.>", headers_only=True),
        allow_direct=True,
        consumer_limits=ConsumerLimits(inactive_threshold=30.0, max_ack_pending=50),
        metadata={"owner": "me"},
        allow_msg_ttl=True,
        subject_delete_marker_ttl=5.0,
        allow_atomic=True,
        allow_batched=True,
    )
    await js.update_stream(stream.info.config, max_msgs=2_000)
    for subject in ("all.1", "all.2", "all.1", "all.3", "more"):
        ack = await js.publish(subject, b"x")
    await stream.get_msg(ack.seq)
    await stream.get_msg(last_for="all.1")
    await stream.get_msg(next_for="all.*", start_time=datetime.now(UTC) - timedelta(1))
    await stream.get_msg(ack.seq, direct=False)
    await stream.get_msg(last_for="all.*", direct=False)
    assert len([msg async for msg in stream.get_msgs(101, next_for="all.*")]) == 4
    assert len([msg async for msg in stream.get_last_msgs(["all.*"], up_to_seq=ack.seq)]) == 4
    assert [msg async for msg in stream.get_last_msgs(["all.1"], up_to_time=TOMORROW)]
    assert await stream.purge(subject="all.1", keep=1) == 1
    assert await stream.purge(seq=102) == 1
    await stream.delete_msg(ack.seq, secure=True)
    await stream.delete_msg(ack.seq - 1)
    assert dict([pair async for pair in stream.subjects("all.>")]) == {"all.1": 1}
    await stream.refresh(deleted_details=True)
    await js.create_stream("a", mirror=StreamSource(name="all", opt_start_seq=3))
    source = StreamSource(name="all", filter_subject="all.1", opt_start_time=TOMORROW)
    other = SubjectTransform(src="all.2", dest="b.2")
    await js.create_stream(
        "b",
        sources=[source, StreamSource(name="all", subject_transforms=[other])],
        no_ack=True,
        retention=RetentionPolicy.INTEREST,
    )
    counter = await js.create_stream("c", allow_msg_counter=True, storage=MEMORY)
    assert (await js.publish("c", headers={"Nats-Incr": "3"})).val == 3
    await js.update_stream(counter.info.config, deny_delete=True, deny_purge=True)
    await js.create_stream("d", persist_mode=PersistMode.ASYNC)
    await js.create_stream("e", allow_msg_schedules=True)
    assert len([info async for info in js.streams()]) == 6
    assert await js.stream_name_by_subject("all.1") == "all"
    await js.delete_stream("c")
    async with js.publisher() as publisher:
        await (await publisher.publish("all.5"))
    batch = js.atomic_batch()
    await batch.add("all.6", b"")
    await batch.add("all.7", b"")
    assert (await batch.commit()).count == 2
    return stream


async def use_consumers(stream: Stream) -> None:
    """All that can be done with consumers, with all settings."""
    config = ConsumerConfig(
        durable_name="c",
        description="all settings of a pull consumer",
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=1,
        ack_wait=20.5,
        max_deliver=7,
        backoff=[1.0, 2.0],
        filter_subjects=["all.1", "all.5", "all.*.x"],
        sample_freq="10%",
        max_waiting=10,
        max_ack_pending=20,
        headers_only=True,
        max_batch=50,
        max_expires=60.0,
        max_bytes=10_000,
        inactive_threshold=30.0,
        num_replicas=1,
        mem_storage=True,
        metadata={"owner": "me"},
        pause_until=datetime.now(UTC),
        priority_groups=["g"],
        priority_policy=PriorityPolicy.PINNED_CLIENT,
        priority_timeout=5.0,
    )
    consumer = await stream.create_consumer(config)
    await consumer.next(group="g", timeout=20)
    await consumer.fetch(group="g", max_messages=2, max_bytes=5_000, no_wait=True)
    await consumer.unpin("g")
    await stream.update_consumer(config, max_ack_pending=10)
    await consumer.pause(TOMORROW)
    await consumer.resume()
    await consumer.refresh()
    overflow = await stream.create_consumer(
        "d", priority_groups=["g"], priority_policy=PriorityPolicy.OVERFLOW
    )
    await overflow.fetch(group="g", min_pending=1, min_ack_pending=5, no_wait=True)
    prioritized = await stream.create_consumer(
        "e", priority_groups=["g"], priority_policy=PriorityPolicy.PRIORITIZED
    )
    await prioritized.fetch(group="g", priority=1, no_wait=True)
    await stream.create_consumer(
        "f",
        deliver_subject="deliver.f",
        deliver_group="workers",
        rate_limit_bps=100_000,
        flow_control=True,
        idle_heartbeat=10.0,
        ack_policy=AckPolicy.ALL,
        deliver_policy=DeliverPolicy.BY_START_TIME,
        opt_start_time=TOMORROW,
        replay_policy=ReplayPolicy.ORIGINAL,
        filter_subject="all.5",
    )
    names = [name async for name in stream.consumer_names()]
    assert [info.name async for info in stream.consumers()] == names == ["c", "d", "e", "f"]
    async with stream.ordered_consumer(name_prefix="o").consume() as messages:
        await messages.receive()
    assert await (await stream.consumer("e")).reset() == 102
    assert await (await stream.consumer("d")).reset(103) == 103
    await stream.delete_consumer("d")
    with pytest.raises(ConsumerNotFoundError):
        await stream.consumer("d")


async def use_a_cluster(stream: Stream) -> None:
    """What needs a cluster, which refuses it here; ``test_cluster`` has one."""
    placement = Placement(preferred="n1", tags=["a"], cluster="c")
    consumer = await stream.consumer("c")
    calls = [
        consumer.step_down(placement=placement),
        stream.step_down(placement=placement),
        stream.step_down(),
        stream.remove_peer("n1"),
        stream.evacuate_peer("n1"),
        stream.cancel_move(),
    ]
    for call in calls:
        with pytest.raises(JetStreamAPIError, match="clustering support required"):
            await call


async def use_stores(js: JetStream) -> None:
    """Key-value and object stores, which are streams with settings of their own."""
    kv = await js.create_key_value("k", limit_marker_ttl=2.0, history=3, compression=True)
    await kv.put("a", b"1")
    await kv.create("b", b"2", ttl=60)
    await kv.delete("a")
    assert await kv.keys() == ["b"]
    await js.update_key_value("k", description="new", ttl=math.inf and 60.0)
    await js.create_key_value("l", sources=[StreamSource(name="k")])
    await js.create_key_value("m", mirror=StreamSource(name="k"))
    store = await js.create_object_store("o", ttl=60.0)
    await store.put("a", b"abc")
    await store.delete("a")
    await store.seal()


def check(found: dict[str, RecordedRequest]) -> Iterator[str]:
    """Compare what was recorded_requests with the schemas; yield what differs."""
    names = schemas_of_requests()
    for one in found.values():
        verb = verb_of(one.msg.subject)
        is_request = one.msg.subject.startswith(PREFIX)
        if verb in NOT_IN_THE_API:
            continue
        if is_request:
            name = names["STREAM.MSG.GET" if verb == DIRECT else verb]
            if one.msg.data:
                yield from check_one(f"{name}_request", one.msg.data, "sent")
        if one.answer is not None and verb not in (DIRECT, "CONSUMER.MSG.NEXT"):
            name = f"{name}_response" if is_request else f"{FOLDER}/pub_ack_response"
            yield from check_one(name, one.answer.data, "received")


def check_one(name: str, data: bytes, what: str) -> Iterator[str]:
    if not data:  # of a batch that is not committed yet
        return
    value = msgspec.json.decode(data)
    what = f"{what} {name.removeprefix(f'{FOLDER}/')}"
    for text in violations(name, value):
        yield f"{what}: {text}"
    for path in unknown_fields(name, value):
        yield f"{what}: {path} is unknown"


@pytest.mark.requires_server("2.15")
@pytest.mark.nats_server(jetstream=True)
async def test_all_requests_and_answers(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        async with recorded_requests(nats_server) as found:
            stream = await use_streams(js)
            await use_consumers(stream)
            await use_a_cluster(stream)
            await use_stores(js)
            await nc.flush()
    sent = {verb_of(one.msg.subject) for one in found.values() if one.msg.subject.startswith("$JS")}
    assert sent == requests_in_the_source()
    described = schemas_of_requests().keys()
    assert sent - {DIRECT} - NOT_IN_THE_API.keys() == described - NOT_SENT.keys()
    answered = [one for one in found.values() if one.answer is not None]
    assert len(answered) > 50
    assert set(check(found)) == WRONG_SCHEMAS.keys()


def fields_of(kind: msgspec.inspect.Type, path: str = "") -> Iterator[str]:
    """The paths of the fields of a struct, such as ``sources[].name``."""
    if isinstance(kind, msgspec.inspect.UnionType):
        for one in kind.types:
            yield from fields_of(one, path)
    elif isinstance(kind, msgspec.inspect.CollectionType):
        yield from fields_of(kind.item_type, f"{path}[]")
    elif isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            if field.name != "extra":
                where = f"{path}.{field.encode_name}".removeprefix(".")
                yield where
                yield from fields_of(field.type, where)


def test_all_fields() -> None:
    """The structs have the fields of the schemas, and no others."""
    known, described = set(), set()
    for name, kind in STRUCTS.items():
        known |= {f"{name}: {path}" for path in fields_of(msgspec.inspect.type_info(kind))}
        found = schema_fields(f"{FOLDER}/{name}") - {"type", "error"}  # of every answer
        described |= {f"{name}: {path}" for path in found if not path.startswith("error.")}
    assert outermost(described - known) == NOT_IN_STRUCTS.keys()
    assert outermost(known - described) == NOT_IN_SCHEMAS.keys()


def outermost(paths: set[str]) -> set[str]:
    """Leave out the fields of fields that are in ``paths`` themselves."""
    return {
        path
        for path in paths
        if not any(re.match(rf"{re.escape(other)}(\[\])?\.", path) for other in paths)
    }
