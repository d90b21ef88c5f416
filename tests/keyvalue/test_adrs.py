"""Key-value buckets send and accept what ADR-8 says, and those it refers to (6, 48, 57)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from tests.jetstream.helpers import (
    MEMORY,
    REQUIRED,
    RecordedRequest,
    connected,
    error,
    fake_api,
    recorded_requests,
)
from tests.keyvalue.helpers import brief, bucket, initial
from trio_nats import Msg
from trio_nats.jetstream import (
    JetStreamAPIError,
    Placement,
    RePublish,
    StreamSource,
    SubjectTransform,
)
from trio_nats.keyvalue import (
    Entry,
    InvalidKeyError,
    KeyDeletedError,
    KeyExistsError,
    KeyNotFoundError,
    KeyValue,
    KeyValueError,
    Operation,
)
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

SECOND = 1_000_000_000
EXPECTED = "Nats-Expected-Last-Subject-Sequence"

ALWAYS: dict[str, Any] = {
    **REQUIRED,
    "max_msgs_per_subject": 1,
    "discard": "new",
    "allow_rollup_hdrs": True,
    "deny_delete": True,
    "allow_direct": True,
}
"""What the stream of every bucket has, if the user chooses nothing."""


async def created(nats_server: NatsServer, name: str, **options: Any) -> dict[str, Any]:
    """Return the configuration that is sent to create a bucket, which need not be possible."""

    def answer(msg: Msg) -> dict[str, Any]:
        return {"api": {"level": 9}} if msg.subject == "fake.INFO" else error(10000)

    async with connected(nats_server) as (_, nc), fake_api(nc, answer) as asked:
        with pytest.raises(JetStreamAPIError, match="told so"):
            await nc.jetstream(prefix="fake").create_key_value(name, **options)
        subject, config = asked[-1]
        assert subject == f"STREAM.CREATE.KV_{name}"
        found: dict[str, Any] = config
        return found


async def requested(
    nats_server: NatsServer, call: Callable[[KeyValue[bytes]], Awaitable[object]], **options: Any
) -> list[RecordedRequest]:
    """Return the requests of ``call``, which gets a bucket ``B`` with ``a`` and ``gone``."""
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js, **options)
        await kv.put("a", "1")
        await kv.delete("gone")
        async with recorded_requests(nats_server) as found:
            await call(kv)
            await nc.flush()
        return list(found.values())


def sent(one: RecordedRequest) -> tuple[str, bytes, dict[str, str]]:
    return one.msg.subject, one.msg.data, dict(one.msg.headers)


def decoded(one: RecordedRequest) -> tuple[str, Any]:
    return (
        one.msg.subject.removeprefix("$JS.API."),
        msgspec.json.decode(one.msg.data) if one.msg.data else None,
    )


# --- buckets -----------------------------------------------------------------------------------


async def test_adr_8_the_stream_of_a_bucket(nats_server: NatsServer) -> None:
    config = await created(nats_server, "CONFIGURATION")
    assert config == {
        **ALWAYS,
        "name": "KV_CONFIGURATION",
        "subjects": ["$KV.CONFIGURATION.>"],
    }


async def test_adr_8_the_example(nats_server: NatsServer) -> None:
    """With the field's name in the server for what the ADR calls ``rollup_hdrs``."""
    config = await created(
        nats_server,
        "CONFIGURATION",
        history=5,
        compression=True,
        limit_marker_ttl=900,
        placement=Placement(cluster="clstr", tags=["tag1", "tag2"]),
        republish=RePublish(src="repub.>", dest="dest.>", headers_only=True),
        metadata={"encoding": "base64"},
    )
    assert config == {
        **ALWAYS,
        "name": "KV_CONFIGURATION",
        "subjects": ["$KV.CONFIGURATION.>"],
        "max_msgs_per_subject": 5,
        "compression": "s2",
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": 900 * SECOND,
        "placement": {"cluster": "clstr", "tags": ["tag1", "tag2"]},
        "republish": {"src": "repub.>", "dest": "dest.>", "headers_only": True},
        "metadata": {"encoding": "base64"},
    }


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"history": 64}, {"max_msgs_per_subject": 64}),
        ({"max_value_size": 9}, {"max_msg_size": 9}),
        ({"max_bytes": 1000}, {"max_bytes": 1000}),
        ({"storage": MEMORY, "num_replicas": 3}, {"storage": "memory", "num_replicas": 3}),
        ({"description": "d"}, {"description": "d"}),
        ({"ttl": 119.5}, {"max_age": 119_500_000_000, "duplicate_window": 119_500_000_000}),
        ({"ttl": 120}, {"max_age": 120 * SECOND, "duplicate_window": 120 * SECOND}),
        ({"ttl": 120.5}, {"max_age": 120_500_000_000, "duplicate_window": 120 * SECOND}),
        (
            {"limit_marker_ttl": 1},
            {"allow_msg_ttl": True, "subject_delete_marker_ttl": SECOND},
        ),
        (
            {"mirror": StreamSource(name="A")},
            {"subjects": None, "mirror": {"name": "KV_A"}, "mirror_direct": True},
        ),
    ],
    ids=str,
)
async def test_adr_8_options_of_buckets(
    nats_server: NatsServer, options: dict[str, Any], fields: dict[str, Any]
) -> None:
    expected = {**ALWAYS, "name": "KV_B", "subjects": ["$KV.B.>"], **fields}
    expected = {key: value for key, value in expected.items() if value is not None}
    assert await created(nats_server, "B", **options) == expected


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        (
            StreamSource(name="ORDERS", filter_subject="NEW.>"),
            {
                "name": "KV_ORDERS",
                "subject_transforms": [{"src": "$KV.ORDERS.NEW.>", "dest": "$KV.B.>"}],
            },
        ),
        (
            StreamSource(name="KV_ORDERS"),
            {
                "name": "KV_ORDERS",
                "subject_transforms": [{"src": "$KV.ORDERS.>", "dest": "$KV.B.>"}],
            },
        ),
        (
            StreamSource(
                name="EVENTS",
                subject_transforms=[SubjectTransform(src="events.processed.>", dest="$KV.B.>")],
            ),
            {
                "name": "EVENTS",
                "subject_transforms": [{"src": "events.processed.>", "dest": "$KV.B.>"}],
            },
        ),
    ],
    ids=["keys", "a stream of a bucket", "another stream"],
)
async def test_adr_57_sources(
    nats_server: NatsServer, source: StreamSource, fields: dict[str, Any]
) -> None:
    """Generated transforms map keys to keys; transforms that were given stay as they are."""
    assert (await created(nats_server, "B", sources=[source]))["sources"] == [fields]


async def test_adr_57_keys_of_mirrors(nats_server: NatsServer) -> None:
    """A mirror is read by the subjects of its origin, which gets what is written."""
    async with connected(nats_server) as (js, nc):
        await bucket(js, "A")
        mirror = await bucket(js, "M", mirror=StreamSource(name="A"))
        async with recorded_requests(nats_server) as found:
            await mirror.put("k", "v")
            with pytest.raises(KeyNotFoundError):
                await mirror.get("never")
            await nc.flush()
    put, get = found.values()
    assert sent(put) == ("$KV.A.k", b"v", {})
    assert put.answer is not None
    assert msgspec.json.decode(put.answer.data)["stream"] == "KV_A"
    assert sent(get) == ("$JS.API.DIRECT.GET.KV_M.$KV.A.never", b"", {})


async def test_adr_8_management(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        async with recorded_requests(nats_server) as found:
            await bucket(js)
            await js.key_value("B")
            assert [name async for name in js.key_value_store_names()] == ["B"]
            assert [one.bucket async for one in js.key_value_stores()] == ["B"]
            await js.delete_key_value("B")
            await nc.flush()
        create, lookup, names, listing, delete = [decoded(one) for one in found.values()]
    assert create[0] == "STREAM.CREATE.KV_B"
    assert lookup[0] == "STREAM.INFO.KV_B"
    assert (names[0], listing[0]) == ("STREAM.NAMES", "STREAM.LIST")
    assert delete == ("STREAM.DELETE.KV_B", None)


# --- values --------------------------------------------------------------------------------------

WRITES: dict[
    str, tuple[Callable[[KeyValue[bytes]], Awaitable[object]], str, bytes, dict[str, str]]
] = {
    "put": (lambda kv: kv.put("auth.username", "x"), "auth.username", b"x", {}),
    "create": (lambda kv: kv.create("b", "x"), "b", b"x", {EXPECTED: "0"}),
    "update": (lambda kv: kv.update("a", "x", 1), "a", b"x", {EXPECTED: "1"}),
    "update what never was": (lambda kv: kv.update("b", "x", 0), "b", b"x", {EXPECTED: "0"}),
    "delete": (lambda kv: kv.delete("a"), "a", b"", {"KV-Operation": "DEL"}),
    "delete a revision": (
        lambda kv: kv.delete("a", revision=1),
        "a",
        b"",
        {"KV-Operation": "DEL", EXPECTED: "1"},
    ),
    "purge": (
        lambda kv: kv.purge("a"),
        "a",
        b"",
        {"KV-Operation": "PURGE", "Nats-Rollup": "sub"},
    ),
    "purge a revision": (
        lambda kv: kv.purge("a", revision=1),
        "a",
        b"",
        {"KV-Operation": "PURGE", "Nats-Rollup": "sub", EXPECTED: "1"},
    ),
}

WRITES_WITH_TTL: dict[
    str, tuple[Callable[[KeyValue[bytes]], Awaitable[object]], str, bytes, dict[str, str]]
] = {
    "create": (
        lambda kv: kv.create("b", "x", ttl=60),
        "b",
        b"x",
        {EXPECTED: "0", "Nats-TTL": "60"},
    ),
    "purge": (
        lambda kv: kv.purge("a", ttl=3600),
        "a",
        b"",
        {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": "3600"},
    ),
}


@pytest.mark.parametrize("name", WRITES)
async def test_adr_8_writing(nats_server: NatsServer, name: str) -> None:
    call, key, data, headers = WRITES[name]
    assert [sent(one) for one in await requested(nats_server, call)] == [
        (f"$KV.B.{key}", data, headers)
    ]


@pytest.mark.requires_server("2.11")
@pytest.mark.parametrize("name", WRITES_WITH_TTL)
async def test_adr_8_48_writing_with_ttl(nats_server: NatsServer, name: str) -> None:
    call, key, data, headers = WRITES_WITH_TTL[name]
    assert [sent(one) for one in await requested(nats_server, call, limit_marker_ttl=2)] == [
        (f"$KV.B.{key}", data, headers)
    ]


async def test_adr_8_creating_what_was_deleted(nats_server: NatsServer) -> None:
    """If 0 is refused, the entry is read; a marker of deletion is then replaced by its number."""
    found = await requested(nats_server, lambda kv: kv.create("gone", "x"))
    assert sent(found[0]) == ("$KV.B.gone", b"x", {EXPECTED: "0"})
    assert decoded(found[1]) in (
        ("DIRECT.GET.KV_B.$KV.B.gone", None),
        ("STREAM.MSG.GET.KV_B", {"last_by_subj": "$KV.B.gone"}),
    )
    assert sent(found[2]) == ("$KV.B.gone", b"x", {EXPECTED: "2"})
    assert len(found) == 3

    async def create(kv: KeyValue[bytes]) -> None:
        with pytest.raises(KeyExistsError):
            await kv.create("a", "x")

    async with connected(nats_server) as (js, _):
        await js.delete_key_value("B")
    refused = [one for one in await requested(nats_server, create) if "$KV" in one.msg.subject[:3]]
    assert [sent(one) for one in refused] == [("$KV.B.a", b"x", {EXPECTED: "0"})]


READS: dict[str, tuple[Callable[[KeyValue[bytes]], Awaitable[object]], tuple[str, Any]]] = {
    "the latest": (lambda kv: kv.get("a"), ("DIRECT.GET.KV_B.$KV.B.a", None)),
    "a revision": (lambda kv: kv.get("a", revision=1), ("DIRECT.GET.KV_B", {"seq": 1})),
    "status": (lambda kv: kv.status(), ("STREAM.INFO.KV_B", None)),
}


@pytest.mark.parametrize("name", READS)
async def test_adr_8_reading(nats_server: NatsServer, name: str) -> None:
    call, request = READS[name]
    assert [decoded(one) for one in await requested(nats_server, call)] == [request]


async def test_adr_8_buckets_without_direct_get(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        await kv.put("auth.username", "1")
        await js.update_stream("KV_B", allow_direct=False)
        legacy = await js.key_value("B")
        async with recorded_requests(nats_server) as found:
            assert (await legacy.get("auth.username")).value == b"1"
            assert (await legacy.get("auth.username", revision=1)).value == b"1"
    assert [decoded(one) for one in found.values()] == [
        ("STREAM.MSG.GET.KV_B", {"last_by_subj": "$KV.B.auth.username"}),
        ("STREAM.MSG.GET.KV_B", {"seq": 1}),
    ]


@pytest.mark.parametrize(
    ("headers", "operation"),
    [
        ({"KV-Operation": "DEL"}, Operation.DELETE),
        ({"KV-Operation": "PURGE"}, Operation.PURGE),
        ({"KV-Operation": "something new"}, Operation.DELETE),
        ({"Nats-Marker-Reason": "MaxAge"}, Operation.PURGE),
        ({"Nats-Marker-Reason": "Purge"}, Operation.PURGE),
        ({"Nats-Marker-Reason": "Remove"}, Operation.DELETE),
    ],
    ids=str,
)
async def test_adr_8_48_markers_of_deletion(
    nats_server: NatsServer, headers: dict[str, str], operation: Operation
) -> None:
    """A key that is not found to those who get it, an entry to those who watch it."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=2)
        await kv.put("a", "1")
        await js.publish("$KV.B.a", headers=headers)
        with pytest.raises(KeyDeletedError) as caught:
            await kv.get("a")
        assert isinstance(caught.value, KeyNotFoundError)
        assert await kv.keys() == []
        for entries in (await kv.history("a"), await watch(kv)):
            last = entries[-1]
            assert (last.operation, last.revision, last.data) == (operation, 2, b"")
        async with kv.watch(ignore_deletes=True) as watcher:
            assert await initial(watcher) == []


# --- watching ------------------------------------------------------------------------------------


async def watch(kv: KeyValue[bytes], **options: Any) -> list[Entry[bytes]]:
    async with kv.watch(**options) as watcher:
        return [entry async for entry in watcher.initial()]


ORDERED = {
    "ack_policy": "none",
    "mem_storage": True,
    "num_replicas": 1,
}
"""What an ordered consumer has."""

WATCHES: dict[str, tuple[Callable[[KeyValue[bytes]], Awaitable[object]], dict[str, Any]]] = {
    "all keys": (watch, {"deliver_policy": "last_per_subject", "filter_subject": "$KV.B.>"}),
    "some keys": (
        lambda kv: watch(kv, keys="auth.>"),
        {"deliver_policy": "last_per_subject", "filter_subject": "$KV.B.auth.>"},
    ),
    "several keys": (
        lambda kv: watch(kv, keys=["a", "b.*"]),
        {"deliver_policy": "last_per_subject", "filter_subjects": ["$KV.B.a", "$KV.B.b.*"]},
    ),
    "with history": (
        lambda kv: watch(kv, include_history=True),
        {"deliver_policy": "all", "filter_subject": "$KV.B.>"},
    ),
    "updates only": (
        lambda kv: watch(kv, updates_only=True),
        {"deliver_policy": "new", "filter_subject": "$KV.B.>"},
    ),
    "metadata only": (
        lambda kv: watch(kv, meta_only=True),
        {
            "deliver_policy": "last_per_subject",
            "filter_subject": "$KV.B.>",
            "headers_only": True,
        },
    ),
    "history": (
        lambda kv: kv.history("a"),
        {"deliver_policy": "all", "filter_subject": "$KV.B.a"},
    ),
    "keys": (
        lambda kv: kv.keys(),
        {
            "deliver_policy": "last_per_subject",
            "filter_subject": "$KV.B.>",
            "headers_only": True,
        },
    ),
    "filtered keys": (
        lambda kv: kv.keys(["a", "b.*"]),
        {
            "deliver_policy": "last_per_subject",
            "filter_subjects": ["$KV.B.a", "$KV.B.b.*"],
            "headers_only": True,
        },
    ),
}


@pytest.mark.requires_server("2.10")
@pytest.mark.parametrize("name", WATCHES)
async def test_adr_8_consumers_of_watchers(nats_server: NatsServer, name: str) -> None:
    call, expected = WATCHES[name]
    found = [decoded(one) for one in await requested(nats_server, call)]
    (create,) = [request for subject, request in found if subject.startswith("CONSUMER.CREATE.")]
    config = create["config"]
    keys = ("deliver_policy", "filter_subject", "filter_subjects", "headers_only", *ORDERED)
    assert {key: config[key] for key in keys if key in config} == {**ORDERED, **expected}
    assert "durable_name" not in config


async def test_adr_8_the_end_of_the_initial_entries(nats_server: NatsServer) -> None:
    """It is told always, also without any entry; it comes with the entry that none is behind."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=3)
        for options in ({}, {"keys": "never.*"}, {"updates_only": True}, {"include_history": True}):
            async with kv.watch(**options) as watcher:
                await watcher.caught_up()
                assert watcher.is_caught_up
        for value in ("1", "2", "3", "4"):
            await kv.put("a", value)
        await kv.put("b", "5")
        assert [(*brief(one), one.delta) for one in await kv.history("a")] == [
            ("a", "2", 2, 2),
            ("a", "3", 3, 1),
            ("a", "4", 4, 0),
        ]
        async with kv.watch() as watcher:
            assert await initial(watcher) == [("a", "4", 4), ("b", "5", 5)]
            assert watcher.is_caught_up
        async with kv.watch(updates_only=True) as watcher:
            await watcher.caught_up()
            await kv.put("c", "6")
            assert brief(await watcher.receive()) == ("c", "6", 6)


async def test_adr_8_entries(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js, history=2)
        await kv.put("auth.username", "me")
        entry = await kv.get("auth.username")
        raw = await nc.request("$JS.API.DIRECT.GET.KV_B.$KV.B.auth.username")
        assert (entry.bucket, entry.key, entry.value) == ("B", "auth.username", b"me")
        assert (entry.revision, entry.delta, entry.operation) == (1, 0, Operation.PUT)
        stamp = raw.headers["Nats-Time-Stamp"]
        assert entry.timestamp.isoformat()[:19] == stamp[:19]
        assert str(Operation.PUT) == "PUT"
        assert str(Operation.DELETE) == "DEL"
        assert str(Operation.PURGE) == "PURGE"


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["A-Z_a-z_0-9", "-", "_", "KV_", "0"])
async def test_adr_6_buckets(nats_server: NatsServer, name: str) -> None:
    assert (await created(nats_server, name))["subjects"] == [f"$KV.{name}.>"]


@pytest.mark.parametrize("key", ["a", "A-Z_a-z_0-9", "a/b=", "=", "/", "-", "a.b.c", "_kv"])
async def test_adr_6_keys(nats_server: NatsServer, key: str) -> None:
    """They are sent as they are."""
    (put, get) = await requested(nats_server, lambda kv: put_and_get(kv, key))
    assert put.msg.subject == f"$KV.B.{key}"
    assert get.msg.subject == f"$JS.API.DIRECT.GET.KV_B.$KV.B.{key}"


async def put_and_get(kv: KeyValue[bytes], key: str) -> None:
    await kv.put(key, "x")
    assert (await kv.get(key)).key == key


@pytest.mark.parametrize("key", ["", ".a", "a.", "a..b", "a b", "a*", "*", ">", "a:b", "$a", "é"])
async def test_adr_6_no_keys(nats_server: NatsServer, key: str) -> None:
    async def use(kv: KeyValue[bytes]) -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: kv.put(key, "x"),
            lambda: kv.create(key, "x"),
            lambda: kv.update(key, "x", 1),
            lambda: kv.get(key),
            lambda: kv.delete(key),
            lambda: kv.purge(key),
            lambda: kv.history(key),
        ]
        for call in calls:
            with pytest.raises(InvalidKeyError):
                await call()

    assert await requested(nats_server, use) == []


async def test_adr_6_no_buckets(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _), recorded_requests(nats_server) as found:
        for name in ("", "a.b", "a b", "a/b", "a=b", "*", ">", "$a", "é"):
            for call in (js.create_key_value, js.key_value, js.delete_key_value):
                with pytest.raises((KeyValueError, ValueError), match="bucket name"):
                    await call(name)
    assert found == {}
