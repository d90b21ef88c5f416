"""Streams: made, changed, found, listed, emptied and deleted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio

from tests.jetstream.helpers import MEMORY, REQUIRED, connected, error, fake_api, filled, stored
from tests.support.server_versions import server_version
from trio_nats import ConfigurationError, InvalidSubjectError, Msg
from trio_nats._constructors import construct
from trio_nats.jetstream import (
    Compression,
    ConsumerLimits,
    DiscardPolicy,
    ErrorCode,
    JetStreamAPIError,
    JetStreamError,
    MessageNotFoundError,
    RePublish,
    RetentionPolicy,
    StorageType,
    Stream,
    StreamConfig,
    StreamInfo,
    StreamNameInUseError,
    StreamNotFoundError,
    StreamSource,
    SubjectTransform,
)
from trio_nats.jetstream import stream as stream_module
from trio_nats.jetstream.api import API
from trio_nats.jetstream.stream import ListingError, current_subjects
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


@pytest.mark.requires_server("2.12")
async def test_all_fields_of_a_stream_configuration(nats_server: NatsServer) -> None:
    """What is configured is what the server says is configured."""
    config = StreamConfig(
        name="S",
        description="all of it",
        subjects=["s.>", "t"],
        retention=RetentionPolicy.WORK_QUEUE,
        max_consumers=5,
        max_msgs=1_000,
        max_bytes=1_000_000,
        max_age=3600.5,
        max_msgs_per_subject=7,
        max_msg_size=1024,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
        storage=StorageType.FILE,
        num_replicas=1,
        duplicate_window=60.0,
        deny_delete=True,
        allow_rollup_hdrs=True,
        compression=Compression.S2,
        first_seq=100,
        subject_transform=SubjectTransform(src="s.*", dest="s.{{wildcard(1)}}.x"),
        republish=RePublish(src="s.>", dest="again.>", headers_only=True),
        allow_direct=True,
        consumer_limits=ConsumerLimits(inactive_threshold=30.0, max_ack_pending=50),
        metadata={"owner": "me"},
        allow_msg_ttl=True,
        subject_delete_marker_ttl=5.0,
        allow_atomic=True,
    )
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream(config)
        told = stream.info.config
        assert told.metadata is not None
        assert told.metadata["owner"] == "me"
        expected = msgspec.structs.replace(config, metadata=told.metadata)
        assert msgspec.structs.asdict(told) == msgspec.structs.asdict(expected)
        assert stream.info.state.messages == 0
        assert stream.info.created is not None
        assert (await js.publish("s.a")).seq == 100
        assert (await stream.get_msg(100)).subject == "s.a.x"
        # And what it told can be said again.
        again = await js.update_stream(told, max_msgs=2_000)
        after = msgspec.structs.asdict(again.info.config)
        assert after == {**msgspec.structs.asdict(told), "max_msgs": 2_000}


@pytest.mark.slow
async def test_a_mirror_and_sources(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js)
        mirror = await js.create_stream("M", mirror=StreamSource(name="S"), storage=MEMORY)
        both = await js.create_stream(
            "B",
            sources=[StreamSource(name="S", filter_subject="s.1", opt_start_seq=3)],
            storage=MEMORY,
        )
        for stream, count in ((mirror, 6), (both, 1)):
            while stream.info.state.messages < count:
                await stream.refresh()
        assert mirror.info.mirror is not None
        assert mirror.info.mirror.name == "S"
        assert [source.name for source in both.info.sources] == ["S"]
        assert (await both.get_msg(last_for="s.1")).headers["Nats-Stream-Source"].startswith("S ")


async def test_created_again(nats_server: NatsServer) -> None:
    """The same is as good as a new one; something else is refused."""
    async with connected(nats_server) as (js, _):
        await filled(js)
        again = await js.create_stream("S", subjects=["s.>"], storage=MEMORY, allow_direct=True)
        assert again.info.state.messages == 6
        with pytest.raises(StreamNameInUseError):
            await js.create_stream("S", subjects=["other"])
        with pytest.raises(
            JetStreamAPIError,
            match=r"^stream 'T' cannot store 's.1': stream 'S' stores 's.1', or a part of it \(",
        ):
            await js.create_stream("T", subjects=["s.1"])


async def test_updated(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        with pytest.raises(StreamNotFoundError):
            await js.update_stream("S", subjects=["s"])
        stream = await js.create_or_update_stream("S", subjects=["s"], storage=MEMORY)
        assert stream.info.config.max_msgs == -1
        stream = await js.create_or_update_stream(stream.info.config, max_msgs=5)
        assert stream.info.config.max_msgs == 5
        assert list(stream.info.config.subjects) == ["s"]


async def test_another_client_creates_it_first(nats_server: NatsServer) -> None:
    there = {"config": {"name": "S", "max_msgs": 5}}
    answers = [error(10059, 404), error(10058), there]
    async with connected(nats_server) as (_, nc):
        async with fake_api(nc, lambda msg: answers.pop(0)) as asked:
            await nc.jetstream(prefix="fake").create_or_update_stream(StreamConfig(name="S"))
            assert [what for what, _ in asked] == [
                "STREAM.UPDATE.S",
                "STREAM.CREATE.S",
                "STREAM.UPDATE.S",
            ]
            asked.clear()
            answers[:] = [error(10059, 404), error(10058), there, there]
            await nc.jetstream(prefix="fake").create_or_update_stream("S", max_bytes=7)
        assert [what for what, _ in asked] == [
            "STREAM.INFO.S",
            "STREAM.CREATE.S",
            "STREAM.INFO.S",
            "STREAM.UPDATE.S",
        ]
        assert asked[-1][1] == {**REQUIRED, "name": "S", "max_msgs": 5, "max_bytes": 7}


async def test_found_and_deleted(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"])
        assert (await js.stream("S")).info.config == stream.info.config
        assert await js.stream_name_by_subject("s.a.b") == "S"
        assert (await js.stream_by_subject("s.*")).name == "S"
        with pytest.raises(StreamNotFoundError, match="no stream stores 'other'"):
            await js.stream_name_by_subject("other")
        await js.delete_stream("S")
        with pytest.raises(StreamNotFoundError):
            await js.stream("S")
        with pytest.raises(StreamNotFoundError):
            await js.delete_stream("S")
        with pytest.raises(StreamNotFoundError):
            await stream.refresh()


async def test_listed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        assert [name async for name in js.stream_names()] == []
        for name in "ABC":
            await js.create_stream(name, subjects=[f"{name}.>"], storage=MEMORY)
        assert [name async for name in js.stream_names()] == ["A", "B", "C"]
        assert [name async for name in js.stream_names(subject="B.x")] == ["B"]
        configs = [info.config async for info in js.streams()]
        assert [config.name for config in configs] == ["A", "B", "C"]
        assert [config.subjects[0] for config in configs] == ["A.>", "B.>", "C.>"]
        assert [info.config.name async for info in js.streams(subject="C.>")] == ["C"]
        info = await js.account_info()
        assert (info.streams, info.consumers, info.domain) == (3, 0, "")
        assert (info.api.level >= 2) == (server_version() >= (2, 12))
        assert info.limits.max_streams == -1


async def test_subjects(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 5)
        assert dict([pair async for pair in stream.subjects()]) == {"s.0": 2, "s.1": 2, "s.2": 1}
        assert [pair async for pair in stream.subjects("s.2")] == [("s.2", 1)]
        assert [pair async for pair in stream.subjects("t")] == []


async def test_subjects_in_pages(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (_, nc):
        pages = [
            {"config": {"name": "S"}},
            {"total": 3, "state": {"subjects": {"a": 1, "b": 2}}, "config": {"name": "S"}},
            {"total": 3, "state": {"subjects": {"c": 3}}, "config": {"name": "S"}},
        ]
        async with fake_api(nc, lambda msg: pages.pop(0)) as asked:
            stream = await nc.jetstream(prefix="fake").stream("S")
            assert [pair async for pair in stream.subjects()] == [("a", 1), ("b", 2), ("c", 3)]
        assert asked[1:] == [
            ("STREAM.INFO.S", {"subjects_filter": ">"}),
            ("STREAM.INFO.S", {"subjects_filter": ">", "offset": 2}),
        ]


async def test_purged(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        # In memory, servers before 2.14 count the messages that were deleted too.
        stream = await filled(js, 9, storage=StorageType.FILE)
        assert await stream.purge(subject="s.1") == 3
        assert await stream.purge(seq=4) == 2
        assert await stream.purge(subject="s.2", keep=1) == 1
        assert [msg.seq for msg in await stored(stream)] == [4, 7, 9]
        assert await stream.purge(keep=2) == 1
        assert await stream.purge() == 2
        assert (await stream.refresh()).state.first_seq == 10
        with pytest.raises(ConfigurationError, match="seq or keep"):
            await stream.purge(seq=1, keep=1)
        with pytest.raises(ConfigurationError, match="keep must be at least 1"):
            await stream.purge(keep=0)
        with pytest.raises(InvalidSubjectError, match="subject: "):
            await stream.purge(subject="a b")


async def test_deleted_messages(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        await stream.delete_msg(2)
        await stream.delete_msg(4, secure=True)
        state = (await stream.refresh()).state
        assert (state.num_deleted, list(state.deleted)) == (2, [])
        state = (await stream.refresh(deleted_details=True)).state
        assert list(state.deleted) == [2, 4]
        assert stream.info.state is state
        with pytest.raises(MessageNotFoundError, match=r"^stream 'S' has no message 2 \(code 400"):
            await stream.delete_msg(2)
        with pytest.raises(ConfigurationError, match="seq must be at least 1"):
            await stream.delete_msg(0)


async def test_deleting_a_message(nats_server: NatsServer) -> None:
    answers = [{"config": {"name": "S"}}, {"success": True}, {"success": True}]
    async with connected(nats_server) as (_, nc):
        async with fake_api(nc, lambda msg: answers.pop(0)) as asked:
            stream = await nc.jetstream(prefix="fake").stream("S")
            await stream.delete_msg(2)
            await stream.delete_msg(3, secure=True)
        assert asked[1:] == [
            ("STREAM.MSG.DELETE.S", {"seq": 2, "no_erase": True}),
            ("STREAM.MSG.DELETE.S", {"seq": 3}),
        ]


@pytest.mark.parametrize("config", [5, None, {"name": "S"}, b"S"])
async def test_a_file_that_is_not_a_configuration(nats_server: NatsServer, config) -> None:
    async with connected(nats_server) as (js, _):
        with pytest.raises(TypeError, match="config must be a StreamConfig or a name, not"):
            await js.create_stream(config)


async def test_a_keyword_that_does_not_exist(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        for config in ("S", StreamConfig(name="S")):
            with pytest.raises(TypeError, match="subject"):
                await js.create_stream(config, subject="s")


async def test_names_are_checked(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        for ask in (js.stream, js.delete_stream):
            with pytest.raises(ConfigurationError, match=r"stream name 'a\.b'"):
                await ask("a.b")
        with pytest.raises(InvalidSubjectError):
            js.streams(subject="a b")


async def test_reprs(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        assert repr(js) == "<JetStream '$JS.API'>"
        assert js.timeout == 5.0
        assert repr(await filled(js)) == "<Stream 'S'>"


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([({}, 0)], set()),
        ([({"a": 1, "b": 1}, 2)], {"a", "b"}),
        ([({"a": 1, "b": 1}, 3), ({"b": 1, "c": 1}, 3)], {"a", "b", "c"}),
        # One before the second page is gone, so that page begins later: there is a new listing.
        (
            [
                ({"a": 1, "b": 1}, 4),
                ({"c": 1, "d": 1}, 3),
                ({"b": 1, "c": 1}, 3),
                ({"c": 1, "d": 1}, 3),
            ],
            {"b", "c", "d"},
        ),
        ([({"a": 1, "b": 1}, 3), ({"c": 1}, 2)] * 10, None),
        ([({"a": 1}, 3)] * 10, None),
    ],
)
async def test_current_subjects(nats_server: NatsServer, pages: Any, expected: Any) -> None:
    left = list(reversed(pages))

    def answer(msg: Msg) -> dict[str, Any]:
        found, total = left.pop()
        return {"total": total, "state": {"last_seq": 7, "subjects": found}}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer):
        stream = construct(
            Stream, API(nc, prefix="fake"), StreamInfo(config=StreamConfig(name="S"))
        )
        if expected is None:
            with pytest.raises(JetStreamError, match="changed during each of 10 listings"):
                await current_subjects(stream, ">")
        else:
            assert await current_subjects(stream, ">") == (expected, 7)
        assert not left


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("MAX_LISTING_PAGES", 3, "take more than 3 pages"),
        ("MAX_LISTED_SUBJECTS", 5, "too many subjects"),
        ("MAX_LISTED_CHARACTERS", 30, "too many subjects"),
    ],
)
async def test_current_subjects_without_an_end(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, text: str
) -> None:
    """A part of the subjects is never returned as if it was all of them."""
    monkeypatch.setattr(stream_module, limit, value)
    asked = 0

    def answer(msg: Msg) -> dict[str, Any]:
        nonlocal asked
        found = {f"s{asked:03}": 1, f"s{asked + 1:03}": 1}
        asked += 1
        return {"total": 10**9, "state": {"last_seq": 7, "subjects": found}}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer):
        stream = construct(
            Stream, API(nc, prefix="fake"), StreamInfo(config=StreamConfig(name="S"))
        )
        with pytest.raises(ListingError, match=text):
            await current_subjects(stream, ">")
        assert asked < 10


async def test_fields_of_newer_servers_are_sent_back(nats_server: NatsServer) -> None:
    """Wherever they are in a configuration."""

    def new(**fields: Any) -> dict[str, Any]:
        return {**fields, "new": {"a": [1, None]}, "newer": 0}

    transform = new(src="a.>", dest="b.>")
    source = new(name="A", subject_transforms=[transform], external=new(api="a.b"))
    config = new(
        **REQUIRED,
        name="KV_B",
        subjects=["$KV.B.>"],
        max_msgs_per_subject=2,
        placement=new(cluster="c"),
        sources=[source],
        subject_transform=transform,
        republish=new(src="a", dest="b"),
        consumer_limits=new(max_ack_pending=5),
        extra="is the name of a field of ours",
    )
    consumer = new(name="C", deliver_policy="all", ack_policy="explicit", replay_policy="instant")

    def answer(msg: Msg) -> dict[str, Any]:
        kept = consumer if ".CONSUMER." in msg.subject else config
        if msg.subject.endswith(("OBJ_o", "TASK")):
            kept = new(**REQUIRED, name=msg.subject.rpartition(".")[2], max_msgs_per_subject=2)
        return {"config": kept, "stream_name": "S", "name": "C"}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer) as asked:
        js = nc.jetstream(prefix="fake")
        stream = await js.stream("KV_B")
        assert stream.info.config.extra["new"] == {"a": [1, None]}
        await js.update_stream(stream.info.config, description="d")
        await js.update_key_value("B", description="d")
        kv = await js.key_value("B")
        await js.update_key_value((await kv.status()).config, description="d")
        updates = [sent for subject, sent in asked if "UPDATE" in subject]
        assert updates == [{**config, "description": "d"}] * 3

        found = await stream.consumer("C")
        assert found.info is not None
        await stream.update_consumer(found.info.config, description="d")
        assert asked[-1][1]["config"] == {**consumer, "description": "d"}

        await js.update_object_store("o", description="d")
        store = await js.object_store("o")
        await js.update_object_store((await store.status()).config, description="d")
        await store.seal()
        updates = [sent for subject, sent in asked if subject == "STREAM.UPDATE.OBJ_o"]
        base = {**new(**REQUIRED, name="OBJ_o"), "max_msgs_per_subject": 2}
        assert updates == [{**base, "description": "d"}] * 2 + [{**base, "sealed": True}]


async def test_a_mirror_of_a_stream_that_does_not_exist(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("M", mirror=StreamSource(name="NO"), storage=MEMORY)
        while (mirror := (await stream.refresh()).mirror) is None or mirror.error is None:
            await trio.lowlevel.checkpoint()
        assert (mirror.name, mirror.active, mirror.error.code) == ("NO", None, 404)
        assert mirror.error.err_code == ErrorCode.STREAM_NOT_FOUND
