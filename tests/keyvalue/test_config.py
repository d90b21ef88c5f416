"""Buckets as the streams they are, by the server's own account (ADR-8, 48, 57)."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
import trio

from tests.jetstream.helpers import MEMORY, connected, fake_api
from tests.keyvalue.helpers import bucket
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConfigurationError, Msg, open_nats
from trio_nats.codecs import JSONCodec
from trio_nats.jetstream import (
    APILevelError,
    DiscardPolicy,
    ExternalStream,
    JetStream,
    JetStreamNotEnabledError,
    Placement,
    RePublish,
    StreamConfig,
    StreamSource,
    SubjectTransform,
)
from trio_nats.keyvalue import (
    BucketExistsError,
    BucketNotFoundError,
    KeyValueConfig,
    NotABucketError,
)
from trio_nats.keyvalue.config import bucket_config, stream_config
from trio_nats.testing import NatsServer
from trio_nats.testing._ports import free_port

pytestmark = pytest.mark.nats_server(jetstream=True)


async def raw_config(nc: Any, name: str) -> dict[str, Any]:
    """What the server has stored, as it says it."""
    answer = msgspec.json.decode((await nc.request(f"$JS.API.STREAM.INFO.KV_{name}")).data)
    config: dict[str, Any] = answer["config"]
    return config


@pytest.mark.requires_server("2.11")
async def test_the_stream_of_the_adr(nats_server: NatsServer) -> None:
    """The example of ADR-8, as far as one server can have it."""
    async with connected(nats_server) as (js, nc):
        await js.create_key_value(
            "CONFIGURATION",
            history=5,
            compression=True,
            limit_marker_ttl=900,
            republish=RePublish(src="$KV.CONFIGURATION.>", dest="dest.>", headers_only=True),
            metadata={"encoding": "base64"},
        )
        config = await raw_config(nc, "CONFIGURATION")
        assert config["metadata"].pop("encoding") == "base64"
        del config["metadata"], config["consumer_limits"]
        expected = {
            "name": "KV_CONFIGURATION",
            "subjects": ["$KV.CONFIGURATION.>"],
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs_per_subject": 5,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "storage": "file",
            "discard": "new",
            "num_replicas": 1,
            "duplicate_window": 120_000_000_000,
            "compression": "s2",
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": 900_000_000_000,
            "republish": {"src": "$KV.CONFIGURATION.>", "dest": "dest.>", "headers_only": True},
        }
        assert {key: config[key] for key in expected} == expected
        assert not any(value for key, value in config.items() if key not in expected)


@pytest.mark.parametrize(("ttl", "window"), [(0.0, None), (30.0, 30.0), (120, 120), (500.0, 120.0)])
def test_the_duplicate_window(ttl: float, window: float | None) -> None:
    config = stream_config(KeyValueConfig(bucket="B", ttl=ttl))
    assert (config.max_age, config.duplicate_window) == (ttl, window)


def test_a_configuration_survives_a_round_trip() -> None:
    config = KeyValueConfig(
        bucket="B",
        description="d",
        max_value_size=10,
        history=64,
        ttl=5.0,
        max_bytes=1000,
        storage=MEMORY,
        num_replicas=3,
        placement=Placement(cluster="c", tags=["t"]),
        compression=True,
        metadata={"a": "b"},
        limit_marker_ttl=1.0,
    )
    assert bucket_config(stream_config(config)) == config


def test_mirrors() -> None:
    for name in ("A", "KV_A"):
        config = stream_config(KeyValueConfig(bucket="B", mirror=StreamSource(name=name)))
        assert config.mirror == StreamSource(name="KV_A")
        assert config.mirror_direct
        assert config.subjects == ()


def test_sources() -> None:
    def source(**options: Any) -> StreamSource:
        config = KeyValueConfig(bucket="B", sources=[StreamSource(**options)])
        [found] = stream_config(config).sources
        return found

    transform = SubjectTransform(src="$KV.A.>", dest="$KV.B.>")
    for name in ("A", "KV_A"):
        assert source(name=name) == StreamSource(name="KV_A", subject_transforms=[transform])
    own = SubjectTransform(src="events.>", dest="$KV.B.>")
    kept = StreamSource(name="EVENTS", subject_transforms=[own])
    assert source(name="EVENTS", subject_transforms=[own]) == kept
    some = source(name="A", filter_subject="$KV.A.*.x.*.>").subject_transforms
    assert some == [
        SubjectTransform(src="$KV.A.*.x.*.>", dest="$KV.B.{{wildcard(1)}}.x.{{wildcard(2)}}.>")
    ]
    external = ExternalStream.in_domain("hub")
    assert source(name="B", external=external) == StreamSource(name="KV_B", external=external)
    with pytest.raises(ConfigurationError, match=r"must be a filter of keys, .* '\$KV\.A\.'"):
        source(name="A", filter_subject="$KV.C.>")


@pytest.mark.parametrize(
    ("keys", "copied_as"),
    [
        ("NEW.>", ">"),  # the example of ADR-57
        ("NEW.EU.>", ">"),
        ("NEW.*", "{{wildcard(1)}}"),
        ("NEW.*.x.*", "{{wildcard(1)}}.x.{{wildcard(2)}}"),
        ("NEW.1", "NEW.1"),
        (">", ">"),
    ],
)
def test_sources_with_a_filter_of_keys(keys: str, copied_as: str) -> None:
    """The part that all keys begin with is left out."""
    transform = SubjectTransform(src=f"$KV.ORDERS.{keys}", dest=f"$KV.NEW_ORDERS.{copied_as}")
    for name in ("ORDERS", "KV_ORDERS"):
        for subject in (keys, f"$KV.ORDERS.{keys}"):
            source = StreamSource(name=name, filter_subject=subject)
            config = stream_config(KeyValueConfig(bucket="NEW_ORDERS", sources=[source]))
            expected = StreamSource(name="KV_ORDERS", subject_transforms=[transform])
            assert list(config.sources) == [expected]
            mirror = stream_config(KeyValueConfig(bucket="M", mirror=source)).mirror
            assert mirror == StreamSource(name="KV_ORDERS", filter_subject=f"$KV.ORDERS.{keys}")


async def test_keys_of_a_source_with_a_filter(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        orders = await js.create_key_value("ORDERS", storage=MEMORY)
        for key in ("NEW.1", "NEW.EU.2", "OLD.3"):
            await orders.put(key, key)
        new = StreamSource(name="ORDERS", filter_subject="NEW.>")
        config = KeyValueConfig(bucket="NEW_ORDERS", storage=MEMORY, sources=[new])
        copied = await js.create_key_value(config)
        await js.create_key_value("M", storage=MEMORY, mirror=new)
        await eventually(js, "NEW_ORDERS", ["1", "EU.2"])
        await eventually(js, "M", ["NEW.1", "NEW.EU.2"])
        assert (await copied.get("1")).value == b"NEW.1"
        await js.create_key_value(config)  # the same again


@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"history": 0}, ConfigurationError, "history must be at least 1"),
        ({"history": 65}, ConfigurationError, "history must be at most 64"),
        ({"ttl": -1}, ConfigurationError, "ttl must be"),
        ({"limit_marker_ttl": 0.5}, ConfigurationError, "at least 1 second"),
        ({"compression": "yes"}, TypeError, "compression"),
        (
            {"sources": [StreamSource(name="A")], "mirror": StreamSource(name="A")},
            ConfigurationError,
            "cannot be combined",
        ),
        ({"colour": "red"}, TypeError, "colour"),
        ({"storage": "paper"}, ConfigurationError, "storage must be one of"),
        ({"codec": JSONCodec}, TypeError, "codec must be an instance"),
    ],
)
async def test_invalid_bucket_options(
    nats_server: NatsServer, options: dict[str, Any], kind: type[Exception], complaint: str
) -> None:
    async with connected(nats_server) as (js, nc):
        sent = nc.stats.out_messages
        with pytest.raises(kind, match=complaint):
            await js.create_key_value("B", **options)
        with pytest.raises(ConfigurationError, match="bucket name"):
            await js.create_key_value("a.b")
        with pytest.raises(TypeError, match="config must be a KeyValueConfig or a name"):
            await js.create_key_value(cast("Any", 5))
        assert nc.stats.out_messages == sent


async def test_creating_and_finding(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        config = KeyValueConfig(bucket="B", storage=MEMORY, history=3)
        kv = await js.create_key_value(config)
        assert kv.name == "B"
        assert repr(kv) == "<KeyValue 'B' of bytes>"
        await js.create_key_value(config)  # the same is as good as new
        with pytest.raises(BucketExistsError, match="bucket 'B' already exists with a different"):
            await js.create_key_value(config, history=4)
        await kv.put("a", "1")
        assert (await (await js.key_value("B")).get("a")).value == b"1"
        status = await (await js.update_key_value(config, history=7, ttl=60)).status()
        assert (status.history, status.ttl, status.values) == (7, 60.0, 1)
        await js.update_key_value(status.config, description="new")
        config = (await (await js.create_or_update_key_value(config)).status()).config
        assert (config.history, config.description) == (3, "")
        await js.create_or_update_key_value("C", storage=MEMORY)
        await js.create_stream("other", storage=MEMORY)
        await js.create_stream("KV_other", subjects=["x"], storage=MEMORY)
        await js.create_key_value("M", mirror=StreamSource(name="B"), storage=MEMORY)
        assert [name async for name in js.key_value_store_names()] == ["B", "C", "M", "other"]
        assert [one.bucket async for one in js.key_value_stores()] == ["B", "C", "M", "other"]
        with pytest.raises(NotABucketError, match="KV_other"):
            await js.key_value("other")
        await js.delete_key_value("C")
        for gone in (js.delete_key_value("C"), js.key_value("C"), js.update_key_value("C")):
            with pytest.raises(BucketNotFoundError, match="bucket 'C' does not exist"):
                await gone


OF_NATS_PY: dict[str, Any] = {
    "subjects": ["$KV.B.>"],
    "allow_rollup_hdrs": True,
    "allow_msg_ttl": True,
    "deny_delete": True,
    "discard": DiscardPolicy.NEW,
    "duplicate_window": 120.0,
    "max_msgs_per_subject": 3,
    "storage": MEMORY,
}
"""How that client configures the stream of a bucket."""


@pytest.mark.requires_server("2.11")
async def test_a_bucket_of_another_client(nats_server: NatsServer) -> None:
    """Only what is a setting of a bucket is compared, and changed."""
    async with connected(nats_server) as (js, _):
        await js.create_stream("KV_B", **OF_NATS_PY)
        theirs = await configured(js)
        await js.create_key_value("B", history=3, storage=MEMORY)
        await js.create_or_update_key_value("B", description="d")
        assert await configured(js) == msgspec.structs.replace(theirs, description="d")
        with pytest.raises(
            BucketExistsError,
            match=r"configuration: description is 'd', not ''; history is 3, not 1; "
            r"ttl is 0\.0, not 60\. Update it",
        ):
            await js.create_key_value("B", storage=MEMORY, ttl=60)
        await js.update_key_value("B", ttl=60)
        assert await configured(js) == msgspec.structs.replace(
            theirs, description="d", max_age=60.0, duplicate_window=60.0
        )
        status = await (await js.key_value("B")).status()
        await js.update_key_value(status.config, ttl=0, description="", history=5)
        assert await configured(js) == msgspec.structs.replace(
            theirs, duplicate_window=60.0, max_msgs_per_subject=5
        )


async def test_updating_a_bucket_with_a_longer_history(nats_server: NatsServer) -> None:
    """Longer than a bucket of this package may have; it stays."""
    async with connected(nats_server) as (js, _):
        await js.create_key_value("B", storage=MEMORY)
        longer = await configured(js)
        await js.update_stream(longer, max_msgs_per_subject=100)
        await js.update_key_value("B", ttl=200)
        changed = await configured(js)
        assert (changed.max_age, changed.max_msgs_per_subject) == (200, 100)
        await js.update_key_value("B", history=5)
        assert (await configured(js)).max_msgs_per_subject == 5


async def configured(js: JetStream) -> StreamConfig:
    """The configuration of the bucket's stream, without what the server adds."""
    return msgspec.structs.replace((await js.stream("KV_B")).info.config, metadata=None)


@pytest.mark.requires_server("2.11")
async def test_status(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await js.create_key_value(
            "B", history=2, ttl=90, compression=True, limit_marker_ttl=2, metadata={"a": "b"}
        )
        for value in range(3):
            await kv.put("a", str(value))
        status = await kv.status()
        assert (status.bucket, status.values, status.history, status.ttl) == ("B", 2, 2, 90.0)
        assert status.size == status.stream_info.state.bytes > 0
        assert (status.is_compressed, status.limit_marker_ttl) == (True, 2.0)
        assert (status.num_replicas, status.backing_store) == (1, "JetStream")
        assert status.metadata["a"] == "b"


async def test_markers_need_a_server_that_knows_them(nats_server: NatsServer) -> None:
    """An older one would leave them out without a word."""
    async with connected(nats_server) as (_, nc):

        def answer(msg: Msg) -> dict[str, Any] | None:
            assert msg.subject == "fake.INFO"
            return {"api": {}}

        async with fake_api(nc, answer):
            with pytest.raises(
                APILevelError,
                match=r"must be 2\.11 or later for limit_marker_ttl, but this one is older",
            ):
                await nc.jetstream(prefix="fake").create_key_value("B", limit_marker_ttl=5)


async def eventually(js: JetStream, name: str, keys: list[str]) -> None:
    kv = await js.key_value(name)
    while sorted(await kv.keys()) != keys:  # noqa: ASYNC110 -- it is asked, and cannot tell
        await trio.sleep(0.01)


async def test_mirrored_and_sourced(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        origin = await bucket(js, "A", history=3)
        await origin.put("x.a", "1")
        await origin.put("y.a", "1")
        mirror = await bucket(js, "M", mirror=StreamSource(name="A"), history=3)
        await bucket(js, "S", sources=[StreamSource(name="A", filter_subject="$KV.A.x.*")])
        await bucket(js, "T", sources=[StreamSource(name="KV_A")])
        revision = await mirror.put("x.b", "2")  # goes to the origin
        assert (await origin.get("x.b")).revision == revision
        await eventually(js, "M", ["x.a", "x.b", "y.a"])
        await eventually(js, "S", ["a", "b"])
        await eventually(js, "T", ["x.a", "x.b", "y.a"])
        entry = await mirror.get("x.b")
        assert (entry.bucket, entry.key, entry.value) == ("M", "x.b", b"2")
        assert len(await mirror.history("x.b")) == 1
        sourced = await js.key_value("S")
        assert (await sourced.get("b")).value == b"2"
        await sourced.put("own", "1")
        assert "own" not in await origin.keys()


async def test_in_a_domain() -> None:
    """Behind a leaf node: what is written goes to the bucket of that domain, and no other."""
    port = free_port("127.0.0.1")
    hub = {"jetstream": {"domain": "hub"}, "leafnodes": {"host": "127.0.0.1", "port": port}}
    remotes = [{"urls": [f"nats-leaf://127.0.0.1:{port}"]}]
    leaf = {"jetstream": {"domain": "leaf"}, "leafnodes": {"remotes": remotes}}
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(jetstream=True, config=hub, name="hub") as server,
            NatsServer(jetstream=True, config=leaf, name="leaf") as behind,
            open_nats(server.url) as at_the_hub,
            open_nats(behind.url) as nc,
        ):
            theirs = await bucket(at_the_hub.jetstream())
            ours = await bucket(nc.jetstream())
            while True:
                try:
                    kv = await nc.jetstream(domain="hub").key_value("B")
                    break
                except JetStreamNotEnabledError:  # the leaf is not connected yet
                    await trio.sleep(0.01)
            await kv.put("a", "1")
            assert (await kv.get("a")).value == b"1"
            assert (await theirs.get("a")).value == b"1"
            assert await ours.keys() == []
            assert await kv.keys() == ["a"]
            await kv.delete("a")
            assert await kv.keys() == []
