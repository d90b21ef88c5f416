"""Object stores send and accept what ADR-20 says."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tests.jetstream.helpers import REQUIRED, error, fake_api
from tests.objectstore.helpers import KIB, connected, plant, stored_chunks, stored_meta
from trio_nats import ConfigurationError, Msg, open_nats
from trio_nats.headers import Headers
from trio_nats.jetstream import JetStreamAPIError, Placement
from trio_nats.objectstore import (
    DigestMismatchError,
    ObjectExistsError,
    ObjectInfo,
    ObjectLink,
    ObjectLinkError,
    ObjectMeta,
    ObjectNotFoundError,
    ObjectStore,
)
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

ABC = "SHA-256=ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0="
"""Of ``abc``, from RFC 6234; it has both characters that are special in the URL-safe alphabet."""

ALWAYS: dict[str, Any] = {
    **REQUIRED,
    "discard": "new",
    "allow_rollup_hdrs": True,
    "allow_direct": True,
}
"""What the stream of every store has, if the user chooses nothing."""


async def created(nats_server: NatsServer, name: str, **options: Any) -> dict[str, Any]:
    """Return the configuration that is sent to create a store, which need not be possible."""

    def answer(msg: Msg) -> dict[str, Any]:
        return error(10000)

    async with open_nats(nats_server.url) as nc, fake_api(nc, answer) as asked:
        with pytest.raises(JetStreamAPIError, match="told so"):
            await nc.jetstream(prefix="fake").create_object_store(name, **options)
        ((subject, config),) = asked
        assert subject == f"STREAM.CREATE.OBJ_{name}"
        found: dict[str, Any] = config
        return found


async def heard(
    nats_server: NatsServer, nc: Any, call: Callable[[], Awaitable[object]]
) -> list[Msg]:
    """Return all requests and messages to the store while ``call`` runs."""
    async with open_nats(nats_server.url) as other, other.subscribe(">") as sub:
        await other.flush()
        await call()
        await nc.flush()
        await other.flush()
        messages = [await sub.receive() for _ in range(sub.pending[0])]
    return [
        msg
        for msg in messages
        if msg.subject.startswith(("$JS.API.", "$O."))
        and not (msg.reply or "").startswith("$JS.ACK.")
    ]


def is_of(msg: Msg, kind: str) -> bool:
    return msg.subject.startswith(f"$O.b.{kind}.")


def encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


# --- stores ------------------------------------------------------------------------------------


async def test_adr_20_the_stream_of_a_store(nats_server: NatsServer) -> None:
    assert await created(nats_server, "MY-STORE") == {
        **ALWAYS,
        "name": "OBJ_MY-STORE",
        "subjects": ["$O.MY-STORE.C.>", "$O.MY-STORE.M.>"],
    }


async def test_adr_20_the_example(nats_server: NatsServer) -> None:
    """With metadata as its table of types has it, and the field's name for ``rollup_hdrs``."""
    config = await created(
        nats_server,
        "MY-STORE",
        description="description",
        metadata={"owner": "infra"},
        placement=Placement(cluster="clstr", tags=["tag1", "tag2"]),
        compression=True,
    )
    assert config == {
        **ALWAYS,
        "name": "OBJ_MY-STORE",
        "subjects": ["$O.MY-STORE.C.>", "$O.MY-STORE.M.>"],
        "description": "description",
        "metadata": {"owner": "infra"},
        "placement": {"cluster": "clstr", "tags": ["tag1", "tag2"]},
        "compression": "s2",
    }


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"ttl": 1.5}, {"max_age": 1_500_000_000}),
        ({"max_bytes": 1000}, {"max_bytes": 1000}),
        ({"storage": "memory"}, {"storage": "memory"}),
        ({"num_replicas": 3}, {"num_replicas": 3}),
    ],
    ids=str,
)
async def test_adr_20_options_of_stores(
    nats_server: NatsServer, options: dict[str, Any], fields: dict[str, Any]
) -> None:
    config = await created(nats_server, "b", **options)
    assert config == {
        **ALWAYS,
        "name": "OBJ_b",
        "subjects": ["$O.b.C.>", "$O.b.M.>"],
        **fields,
    }


async def test_adr_20_management(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, nc):

        async def manage() -> None:
            await js.object_store("b")
            await store.status()
            await store.seal()
            await js.delete_object_store("b")

        look, status, *_, seal, delete = await heard(nats_server, nc, manage)
        assert look.subject == status.subject == "$JS.API.STREAM.INFO.OBJ_b"
        assert seal.subject == "$JS.API.STREAM.UPDATE.OBJ_b"
        assert msgspec.json.decode(seal.data)["sealed"] is True
        assert delete.subject == "$JS.API.STREAM.DELETE.OBJ_b"


async def test_adr_6_20_names_of_stores(nats_server: NatsServer) -> None:
    name = "A-Z_a-z_0-9"
    assert (await created(nats_server, name))["subjects"] == [f"$O.{name}.C.>", f"$O.{name}.M.>"]
    async with connected(nats_server) as (_, js, nc):

        async def refused() -> None:
            for bad in ("", "a.b", "a b", "a/b", "a=b", "*", ">", "$a", "é"):
                for call in (js.create_object_store, js.object_store, js.delete_object_store):
                    with pytest.raises(ConfigurationError, match="bucket name"):
                        await call(bad)

        assert await heard(nats_server, nc, refused) == []


# --- objects ---------------------------------------------------------------------------------


async def test_adr_20_what_is_stored(nats_server: NatsServer) -> None:
    """Chunks under the NUID, then the info under the encoded name, rolled up, without a time."""
    meta = ObjectMeta(
        "object-name",
        "object-desc",
        Headers([("key1", "foo"), ("key2", "bar"), ("key2", "baz")]),
        {"owner": "infra"},
        chunk_size=2,
    )
    async with connected(nats_server) as (store, _, nc):
        messages = await heard(nats_server, nc, lambda: store.put(meta, b"abc"))
        chunks = [msg for msg in messages if is_of(msg, "C")]
        (info,) = [msg for msg in messages if is_of(msg, "M")]
        assert messages[-1] == info
        nuid = chunks[0].subject.removeprefix("$O.b.C.")
        assert re.fullmatch("[0-9A-Za-z]{22}", nuid)
        assert [(msg.subject, msg.data, len(msg.headers)) for msg in chunks] == [
            (f"$O.b.C.{nuid}", b"ab", 0),
            (f"$O.b.C.{nuid}", b"c", 0),
        ]
        assert info.subject == f"$O.b.M.{encoded('object-name')}"
        assert info.headers["Nats-Rollup"] == "sub"
        assert msgspec.json.decode(info.data) == {
            "name": "object-name",
            "description": "object-desc",
            "metadata": {"owner": "infra"},
            "headers": {"key1": ["foo"], "key2": ["bar", "baz"]},
            "options": {"max_chunk_size": 2},
            "bucket": "b",
            "nuid": nuid,
            "size": 3,
            "chunks": 2,
            "digest": ABC,
        }


async def test_adr_20_chunks_are_of_128_kib(nats_server: NatsServer) -> None:
    data = bytes(range(256)) * 4 * 300
    async with connected(nats_server) as (store, js, nc):
        messages = await heard(nats_server, nc, lambda: store.put("x", data))
        chunks = [msg.data for msg in messages if is_of(msg, "C")]
        assert [len(chunk) for chunk in chunks] == [128 * KIB, 128 * KIB, 44 * KIB]
        assert b"".join(chunks) == data
        info = await stored_meta(js, f"$O.b.M.{encoded('x')}")
        assert info["options"] == {"max_chunk_size": 128 * KIB}
        assert (info["size"], info["chunks"]) == (300 * KIB, 3)


async def test_adr_20_empty_objects(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, nc):
        messages = await heard(nats_server, nc, lambda: store.put("x", b""))
        assert not [msg for msg in messages if is_of(msg, "C")]
        info = await stored_meta(js, f"$O.b.M.{encoded('x')}")
        assert (info["size"], info["chunks"]) == (0, 0)
        assert info["digest"] == "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="
        assert await store.get_bytes("x") == b""


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("a", "YQ=="),
        ("ab", "YWI="),
        (">>>", "Pj4-"),
        ("???", "Pz8_"),
        ("a.b *.> /\\\r\n", "YS5iICouPiAvXA0K"),
        ("ü€🎈", "w7zigqzwn46I"),
    ],
)
async def test_adr_6_20_names_of_objects(nats_server: NatsServer, name: str, token: str) -> None:
    """Any text, in the URL-safe alphabet of base 64 with padding."""
    async with connected(nats_server) as (store, _, nc):
        messages = await heard(nats_server, nc, lambda: store.put(name, b"abc"))
        (info,) = [msg for msg in messages if is_of(msg, "M")]
        assert info.subject == f"$O.b.M.{token}"
        assert msgspec.json.decode(info.data)["name"] == name
        requests = await heard(nats_server, nc, lambda: store.info(name))
        assert [msg.subject for msg in requests] == [f"$JS.API.DIRECT.GET.OBJ_b.$O.b.M.{token}"]
        assert [found.name for found in await store.list()] == [name]


async def test_adr_20_reading(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, _, nc):
        put = await store.put(ObjectMeta("x", chunk_size=1), b"abc")
        get, create, *_ = await heard(nats_server, nc, lambda: store.get_bytes("x"))
        assert (get.subject, get.data) == (f"$JS.API.DIRECT.GET.OBJ_b.$O.b.M.{encoded('x')}", b"")
        config = msgspec.json.decode(create.data)["config"]
        assert config["filter_subject"] == f"$O.b.C.{put.nuid}"
        assert (config["deliver_policy"], config["ack_policy"]) == ("all", "none")


async def test_adr_20_modified_time(nats_server: NatsServer) -> None:
    """It is the present when the object is put, later that of the message; none is believed."""
    async with connected(nats_server) as (store, js, nc):
        before = datetime.now(UTC)
        put = await store.put("x", b"abc")
        assert put.timestamp is not None
        assert put.timestamp.utcoffset() == timedelta(0)
        assert before <= put.timestamp <= datetime.now(UTC)
        stored = await stored_meta(js, f"$O.b.M.{encoded('x')}")
        assert "mtime" not in stored
        await plant(js, f"$O.b.M.{encoded('x')}", {**stored, "mtime": "2001-02-03T04:05:06Z"})
        raw = await nc.request(f"$JS.API.DIRECT.GET.OBJ_b.$O.b.M.{encoded('x')}")
        stamp = raw.headers["Nats-Time-Stamp"]
        async with store.watch() as watcher:
            (watched,) = [info async for info in watcher.initial()]
        for info in (await store.info("x"), *await store.list(), watched):
            assert info.timestamp is not None
            assert info.timestamp.isoformat()[:19] == stamp[:19]
            assert info.timestamp >= before - timedelta(minutes=1)


async def test_adr_20_the_example_of_an_info(nats_server: NatsServer) -> None:
    """With the metadata as an object, which the table of types says it is."""
    stored = {
        "name": "object-name",
        "description": "object-desc",
        "metadata": {"owner": "infra"},
        "headers": {"key1": ["foo"], "key2": ["bar", "baz"]},
        "options": {
            "link": {"bucket": "link-to-bucket", "name": "link-to-name"},
            "max_chunk_size": 8196,
        },
        "bucket": "b",
        "nuid": "CkuyLEX4z2hbyjj1aWCfiH",
        "size": 344000,
        "chunks": 42,
        "digest": "SHA-256=abcdefghijklmnopqrstuvwxyz=",
        "deleted": True,
    }
    async with connected(nats_server) as (store, js, _):
        await plant(js, f"$O.b.M.{encoded('object-name')}", stored)
        info = await store.info("object-name", show_deleted=True)
        assert info == ObjectInfo(
            bucket="b",
            name="object-name",
            description="object-desc",
            headers=Headers([("key1", "foo"), ("key2", "bar"), ("key2", "baz")]),
            metadata={"owner": "infra"},
            nuid="CkuyLEX4z2hbyjj1aWCfiH",
            size=344000,
            chunks=42,
            digest="SHA-256=abcdefghijklmnopqrstuvwxyz=",
            deleted=True,
            chunk_size=8196,
            link=ObjectLink("link-to-bucket", "link-to-name"),
            timestamp=info.timestamp,
            seq=1,
        )


async def test_adr_20_objects_of_other_clients(nats_server: NatsServer) -> None:
    """Their fields that are left out have defaults, fields that nobody knows are ignored."""
    async with connected(nats_server) as (store, js, _):
        for chunk in (b"a", b"bc"):
            await js.publish("$O.b.C.CkuyLEX4z2hbyjj1aWCfiH", chunk)
        info = {
            "name": "x",
            "bucket": "b",
            "nuid": "CkuyLEX4z2hbyjj1aWCfiH",
            "size": 3,
            "chunks": 2,
            "digest": ABC,
            "new": {"field": [1]},
        }
        await plant(js, f"$O.b.M.{encoded('x')}", info)
        assert await store.get_bytes("x") == b"abc"
        found = await store.info("x")
        assert (found.description, found.metadata, len(found.headers)) == ("", {}, 0)
        assert (found.link, found.deleted, found.chunk_size) == (None, False, None)
        other = "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(b"other").digest()).decode()
        await plant(js, f"$O.b.M.{encoded('x')}", {**info, "digest": other})
        with pytest.raises(DigestMismatchError):
            await store.get_bytes("x")


# --- changes -----------------------------------------------------------------------------------


async def test_adr_20_deleting(nats_server: NatsServer) -> None:
    """The chunks go, the info stays as that of a deleted object, which is like none."""
    async with connected(nats_server) as (store, js, nc):
        put = await store.put("x", b"abc")
        _, marker, purge = await heard(nats_server, nc, lambda: store.delete("x"))
        assert marker.subject == f"$O.b.M.{encoded('x')}"
        assert marker.headers["Nats-Rollup"] == "sub"
        stored = msgspec.json.decode(marker.data)
        assert (stored["deleted"], stored["nuid"], stored["size"], stored["chunks"]) == (
            True,
            put.nuid,
            0,
            0,
        )
        assert "digest" not in stored
        assert purge.subject == "$JS.API.STREAM.PURGE.OBJ_b"
        assert msgspec.json.decode(purge.data) == {"filter": f"$O.b.C.{put.nuid}"}
        assert await stored_chunks(js) == {}
        for call in (store.info, store.get_bytes):
            with pytest.raises(ObjectNotFoundError):
                await call("x")
        assert await store.list() == []
        assert [info.deleted for info in await store.list(show_deleted=True)] == [True]
        await store.delete("x")  # again, which changes nothing
        with pytest.raises(ObjectNotFoundError):
            await store.delete("never")


async def test_adr_20_updating(nats_server: NatsServer) -> None:
    """Objects and both kinds of links; not what is deleted, nor to a name that is taken."""
    async with connected(nats_server) as (store, js, _):
        info = await store.put(ObjectMeta("x", chunk_size=2), b"abc")
        await store.add_link("link", info)
        await store.add_bucket_link("bucket link", store)
        for name in ("x", "link", "bucket link"):
            before = await stored_meta(js, f"$O.b.M.{encoded(name)}")
            await store.update_meta(name, ObjectMeta(name, "new", {"a": "b"}))
            after = await stored_meta(js, f"$O.b.M.{encoded(name)}")
            assert after == {**before, "description": "new", "headers": {"a": ["b"]}}
        with pytest.raises(ObjectExistsError):
            await store.update_meta("x", ObjectMeta("link"))
        await store.update_meta("x", ObjectMeta("y"))
        assert (await stored_meta(js, f"$O.b.M.{encoded('y')}"))["name"] == "y"
        assert await store.get_bytes("y") == b"abc"
        with pytest.raises(ObjectNotFoundError):
            await store.info("x", show_deleted=True)
        await store.delete("y")
        with pytest.raises(ObjectNotFoundError):
            await store.update_meta("y", ObjectMeta("y", "new"))


# --- links ---------------------------------------------------------------------------------------


async def test_adr_20_what_is_stored_of_links(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        info = await store.put("x", b"abc")
        link = await store.add_link("l", info)
        assert await stored_meta(js, f"$O.b.M.{encoded('l')}") == {
            "name": "l",
            "bucket": "b",
            "options": {"link": {"bucket": "b", "name": "x"}},
            "nuid": link.nuid,
            "size": 0,
            "chunks": 0,
        }
        await store.add_bucket_link("s", store)
        stored = await stored_meta(js, f"$O.b.M.{encoded('s')}")
        assert stored["options"] == {"link": {"bucket": "b"}}
        assert (await store.info("s")).link == ObjectLink("b", None)


Add = Callable[[ObjectStore, str], Awaitable[object]]


async def add_link(store: ObjectStore, name: str) -> None:
    await store.add_link(name, await store.info("target"))


async def add_bucket_link(store: ObjectStore, name: str) -> None:
    await store.add_bucket_link(name, store)


@pytest.mark.parametrize("add", [add_link, add_bucket_link])
async def test_adr_20_names_of_links(nats_server: NatsServer, add: Add) -> None:
    """One that is free, that of something deleted or of a link; not that of an object."""
    async with connected(nats_server) as (store, _, _):
        await store.put("target", b"abc")
        await store.put("deleted", b"")
        await store.delete("deleted")
        await add_link(store, "link")
        await add_bucket_link(store, "bucket link")
        for name in ("free", "deleted", "link", "bucket link"):
            await add(store, name)
            info = await store.info(name)
            assert info.link == ObjectLink("b", "target" if add is add_link else None)
        await store.put("object", b"")
        with pytest.raises(ObjectExistsError):
            await add(store, "object")


async def test_adr_20_targets_of_links(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, _, _):
        link = await store.add_link("link", await store.put("x", b"abc"))
        with pytest.raises(ObjectLinkError, match="is a link"):
            await store.add_link("again", link)
        await store.delete("x")
        with pytest.raises(ObjectLinkError, match="was deleted"):
            await store.add_link("again", await store.info("x", show_deleted=True))
        with pytest.raises(TypeError):
            await store.put(ObjectMeta("x", link=ObjectLink("b")), b"")  # type: ignore[call-arg]


WATCHES = [
    ({}, "last_per_subject"),
    ({"updates_only": True}, "new"),
    ({"include_history": True}, "all"),
]


@pytest.mark.parametrize(("options", "policy"), WATCHES, ids=str)
async def test_adr_20_watching(
    nats_server: NatsServer, options: dict[str, bool], policy: str
) -> None:
    async with connected(nats_server) as (store, _, nc):
        await store.put("x", b"abc")
        watched: list[str] = []

        async def watch() -> None:
            async with store.watch(**options) as watcher:
                watched.extend([info.name async for info in watcher.initial()])

        create, *_ = await heard(nats_server, nc, watch)
        config = msgspec.json.decode(create.data)["config"]
        assert (config["deliver_policy"], config["filter_subject"]) == (policy, "$O.b.M.>")
        assert watched == ([] if policy == "new" else ["x"])
