"""Requests, headers, acknowledgements, names and errors are those of the ADRs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio

from tests.jetstream.helpers import (
    HANG_TIMEOUT,
    MEMORY,
    RecordedRequest,
    connected,
    error,
    fake_api,
    filled,
    recorded_requests,
)
from tests.support.peer import Peer, ScriptedServer
from trio_nats import ConfigurationError, Msg, NoRespondersError, RequestTimeoutError, open_nats
from trio_nats.jetstream import (
    AckPolicy,
    ConsumerNotFoundError,
    JetStream,
    JetStreamAPIError,
    NoStreamResponseError,
    PriorityPolicy,
    Stream,
    StreamConsumerSource,
    StreamNotFoundError,
    StreamSource,
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
        options: dict[str, Any] = {"group": "g", "min_pending": 1, "max_bytes": 1000}
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


# --- the API: ADR-1, 7, 10 -----------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[[JetStream, Stream], Awaitable[object]], str, Any]] = {
    "stream info": (lambda js, _: js.stream("S"), "STREAM.INFO.S", None),
    "delete a stream": (lambda js, _: js.delete_stream("S"), "STREAM.DELETE.S", None),
    "purge": (lambda _, s: s.purge(), "STREAM.PURGE.S", None),
    "purge up to": (lambda _, s: s.purge(seq=4), "STREAM.PURGE.S", {"seq": 4}),
    "purge all but": (lambda _, s: s.purge(keep=2), "STREAM.PURGE.S", {"keep": 2}),
    "purge a subject": (
        lambda _, s: s.purge(subject="s.*"),
        "STREAM.PURGE.S",
        {"filter": "s.*"},
    ),
    "purge a subject up to": (
        lambda _, s: s.purge(subject="s.1", seq=4),
        "STREAM.PURGE.S",
        {"filter": "s.1", "seq": 4},
    ),
    "purge a subject all but": (
        lambda _, s: s.purge(subject="s.1", keep=1),
        "STREAM.PURGE.S",
        {"filter": "s.1", "keep": 1},
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_adr_1_10_requests(nats_server: NatsServer, name: str) -> None:
    """What has no parameters is nothing or an empty object."""
    call, subject, request = CALLS[name]
    (one,) = await requested(nats_server, call)
    assert one.msg.subject == API + subject
    assert (msgspec.json.decode(one.msg.data) if one.msg.data else None) in (
        [request] if request else [None, {}]
    )


async def test_adr_10_what_is_purged(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)  # 0 to 5 under s.0, s.1, s.2, s.0, s.1, s.2
        assert await stream.purge(subject="s.1", seq=5) == 1
        assert await stream.purge(subject="s.*", keep=4) == 1
        assert [seq async for seq in seqs(stream)] == [3, 4, 5, 6]
        assert await stream.purge(subject="s.2", keep=9) == 0
        assert await stream.purge() == 4
        invalid: list[dict[str, Any]] = [{"seq": 1, "keep": 1}, {"seq": 0}, {"keep": 0}]
        for options in invalid:
            with pytest.raises(ConfigurationError):
                await stream.purge(**options)


async def seqs(stream: Stream) -> Any:
    state = (await stream.refresh()).state
    for seq in range(state.first_seq, state.last_seq + 1):
        yield (await stream.get_msg(seq)).seq


async def test_adr_1_pages(nats_server: NatsServer) -> None:
    """The offset of the next page is the number of what has come, until that is the total."""
    names = [f"S{number}" for number in range(5)]

    def answer(msg: Msg) -> dict[str, Any]:
        offset = msgspec.json.decode(msg.data).get("offset", 0) if msg.data else 0
        page = {"total": 5, "offset": offset, "limit": 2, "streams": names[offset : offset + 2]}
        return {"type": "io.nats.jetstream.api.v1.stream_names_response", **page}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer) as asked:
        found = [name async for name in nc.jetstream(prefix="fake").stream_names()]
    assert found == names
    assert [subject for subject, _ in asked] == ["STREAM.NAMES"] * 3
    assert [(request or {}).get("offset", 0) for _, request in asked] == [0, 2, 4]


@pytest.mark.parametrize(
    ("code", "err_code", "kind"),
    [
        (404, 10059, StreamNotFoundError),
        (404, 10014, ConsumerNotFoundError),
        (503, 12345, JetStreamAPIError),
    ],
)
async def test_adr_7_errors(
    nats_server: NatsServer, code: int, err_code: int, kind: type[JetStreamAPIError]
) -> None:
    """The number tells, not the text; it is shown behind it. Without one, there is none."""
    response = error(err_code, code, "another text")

    def answer(msg: Msg) -> dict[str, Any]:
        return {"config": {"name": "S"}} if ".STREAM.INFO." in msg.subject else response

    async with connected(nats_server) as (_, nc), fake_api(nc, answer):
        stream = await nc.jetstream(prefix="fake").stream("S")
        with pytest.raises(kind) as caught:
            await stream.consumer("c")
        assert type(caught.value) is kind
        assert (caught.value.code, caught.value.err_code) == (code, err_code)
        assert str(err_code) in str(caught.value)
        del response["error"]["err_code"]
        with pytest.raises(JetStreamAPIError) as caught:
            await stream.consumer("c")
        assert (caught.value.code, caught.value.err_code) == (code, 0)


async def test_adr_1_large_numbers(nats_server: NatsServer) -> None:
    largest = 2**64 - 1

    def answer(msg: Msg) -> dict[str, Any]:
        state = {"messages": largest, "bytes": largest, "last_seq": largest}
        config = {"name": "S", "subjects": ["s"], "new_field": 1}
        return {"config": config, "state": state, "created": "2030-01-01T12:00:00.123456789Z"}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer):
        info = (await nc.jetstream(prefix="fake").stream("S")).info
    assert (info.state.messages, info.state.bytes, info.state.last_seq) == (largest,) * 3
    assert info.created == NOON.replace(microsecond=123456)


# --- names: ADR-6 --------------------------------------------------------------------------------

FILE_NAMES = ["a", "A-Z_a-z_0-9", "!\"#$%&'()+,-:;<=?@[]^_`{|}~", "x" * 255]
NO_FILE_NAMES = ["", "a.b", "a*", "*", "a>", ">", "a/b", "a\\b", "a b", "a\tb", "a\x7f", "x" * 256]


@pytest.mark.parametrize("name", FILE_NAMES)
async def test_adr_6_streams_and_consumers(nats_server: NatsServer, name: str) -> None:
    """Their names are sent as they are, all that file names may have."""
    found = {"config": {"name": name}, "stream_name": name, "name": name}

    async with connected(nats_server) as (_, nc), fake_api(nc, lambda _: found) as asked:
        js = nc.jetstream(prefix="fake")
        stream = await js.create_stream(name, subjects=["s"])
        await stream.create_consumer(name, durable_name=name)
        await stream.consumer(name)
    assert [subject for subject, _ in asked] == [
        f"STREAM.CREATE.{name}",
        f"CONSUMER.CREATE.{name}.{name}",
        f"CONSUMER.INFO.{name}.{name}",
    ]


@pytest.mark.parametrize("name", NO_FILE_NAMES)
async def test_adr_6_no_streams_or_consumers(nats_server: NatsServer, name: str) -> None:
    """They are refused before anything is sent."""

    async def use(js: JetStream, stream: Stream) -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: js.create_stream(name, subjects=["t"]),
            lambda: js.stream(name),
            lambda: js.delete_stream(name),
            lambda: stream.consumer(name),
            lambda: stream.create_consumer(name or "."),
            lambda: stream.delete_consumer(name),
        ]
        for call in calls:
            with pytest.raises(ConfigurationError):
                await call()

    assert await requested(nats_server, use) == []


# --- publishing without a stream: ADR-22 ---------------------------------------------------------


class Responder:
    """A server that answers requests with what it is given, in turn, and then with nothing."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = [*answers]
        self.heard: list[tuple[float, bytes, bytes]] = []

    async def __call__(self, peer: Peer) -> None:
        await peer.send_info()
        await peer.accept_connect()
        sid = b""
        while await peer.peek():
            line = await peer.expect_line()
            operation, *arguments = line.split()
            if operation == b"PING":
                await peer.send(b"PONG\r\n")
            elif operation == b"SUB":
                sid = arguments[-1]
            elif operation in (b"PUB", b"HPUB"):
                data = (await peer.receive_exactly(int(arguments[-1]) + 2))[:-2]
                self.heard.append((trio.current_time(), arguments[0], data))
                if self.answers:
                    answer = self.answers.pop(0)
                    if answer.startswith(b"NATS/"):
                        size = b"%d %d" % (len(answer), len(answer))
                        head = b"HMSG %b %b %b\r\n" % (arguments[1], sid, size)
                    else:
                        head = b"MSG %b %b %d\r\n" % (arguments[1], sid, len(answer))
                    await peer.send(head + answer + b"\r\n")


NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"
ACK = b'{"stream": "S", "seq": 7}'


@pytest.mark.parametrize(
    ("failures", "options", "attempts"),
    [
        (0, {}, 1),
        (2, {}, 3),
        (3, {"retry_wait": 0.01}, 3),
        (1, {"attempts": 1}, 1),
        (9, {"attempts": 10, "retry_wait": 0.01}, 10),
        (10, {"attempts": 10, "retry_wait": 0.01}, 10),
    ],
    ids=str,
)
async def test_adr_22_attempts(failures: int, options: dict[str, Any], attempts: int) -> None:
    """The same message again, after a while; 3 times and 0.25 s by default."""
    responder = Responder(*[NO_RESPONDERS] * failures, ACK)
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(responder) as server,
            open_nats(f"nats://127.0.0.1:{server.port}") as nc,
        ):
            publish = nc.jetstream().publish("foo", b"bar", headers={"A": "b"}, **options)
            if failures < attempts:
                assert (await publish).seq == 7
            else:
                with pytest.raises(NoStreamResponseError) as caught:
                    await publish
                assert isinstance(caught.value, NoRespondersError)
    assert [one[1:] for one in responder.heard] == [
        (b"foo", b"NATS/1.0\r\nA: b\r\n\r\nbar")
    ] * attempts
    times = [when for when, _, _ in responder.heard]
    wait = options.get("retry_wait", 0.25)
    assert all(after - before > 0.9 * wait for before, after in pairwise(times))


async def test_adr_22_until_a_deadline() -> None:
    """Silence is a timeout; who wants to repeat until a deadline sets one."""
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(Responder(NO_RESPONDERS), Responder()) as server,
            open_nats(f"nats://127.0.0.1:{server.port}") as nc,
        ):
            with pytest.raises(RequestTimeoutError):
                await nc.jetstream().publish("foo", timeout=0.05, retry_wait=0)
            with trio.move_on_after(0.05) as scope:
                await nc.jetstream().publish("foo", timeout=HANG_TIMEOUT)
            assert scope.cancelled_caught


# --- ADR-60 --------------------------------------------------------------------------------------


async def test_adr_60_durable_consumers_of_sources(nats_server: NatsServer) -> None:
    """The example: the name and the subject of the consumer, and of the rest nothing."""

    def answer(msg: Msg) -> dict[str, Any]:
        return {"api": {"level": 9}} if msg.subject == "fake.INFO" else error(10000)

    consumer = StreamConsumerSource(
        name="source-consumer", deliver_subject="source.consumer.deliver.subject"
    )
    source = StreamSource(name="source", consumer=consumer)
    async with connected(nats_server) as (_, nc), fake_api(nc, answer) as asked:
        with pytest.raises(JetStreamAPIError):
            await nc.jetstream(prefix="fake").create_stream("aggregate", sources=[source])
        subject, config = asked[-1]
        assert subject == "STREAM.CREATE.aggregate"
        assert config["sources"] == [
            {
                "name": "source",
                "consumer": {
                    "name": "source-consumer",
                    "deliver_subject": "source.consumer.deliver.subject",
                },
            }
        ]
