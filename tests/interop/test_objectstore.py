"""Object stores of this and other clients: each writes, the others read."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tests.interop.helpers import CLIENTS, Client, Clients, RemoteError, differing, pairs
from trio_nats import open_nats
from trio_nats.objectstore import ObjectLink, ObjectMeta

pytestmark = pytest.mark.slow

ODD_NAMES = ["with space", "a/b", "..", "*", ">", "a.b", "\t", "x" * 300]
ABOVE_LATIN_1 = ["ünïcode €", "日本", "🙂"]
MEBIBYTE = 2**20


def stored(size: int) -> list[Any]:
    """What reading an object of this size returns: the content is the same in all clients."""
    pattern = bytes(range(256)) * 4 + b"x"
    data = (pattern * (size // len(pattern) + 1))[:size]
    return [size, hashlib.sha256(data).hexdigest()]


def info(bucket: str, name: str, size: int, **fields: Any) -> dict[str, Any]:
    return {
        "bucket": bucket,
        "name": name,
        "description": "",
        "headers": {},
        "size": size,
        "chunks": int(size > 0),
        "chunk_size": 128 * 1024,
        "deleted": False,
        "link": None,
        **fields,
    }


@pytest.mark.parametrize(("writer", "reader"), pairs())
def test_objects_and_metadata(clients: Clients, bucket: str, writer: str, reader: str) -> None:
    write, read = clients[writer], clients[reader]
    write("obj_create_bucket", bucket)
    described: dict[str, Any] = {"description": "zwölf €", "headers": {"Content-Type": "text/x"}}
    # nats-py knows no metadata.
    metadata = {} if "nats_py" in (writer, reader) else {"owner": "me"}
    own = {"metadata": metadata} if metadata else {}
    write("obj_put", bucket, "plain", 10, **described, **own)
    write("obj_put", bucket, "zero", 0)
    write("obj_put", bucket, "chunks", 1000, chunk=100)
    write("obj_put", bucket, "replaced", 5, description="before")
    write("obj_put", bucket, "replaced", 6)
    write("obj_put", bucket, "gone", 3)
    write("obj_delete", bucket, "gone")
    rest = {} if reader == "nats_py" else {"metadata": {}}

    def read_info(name: str) -> dict[str, Any]:
        return {**rest, **read("obj_info", bucket, name)}

    assert read_info("plain") == {**info(bucket, "plain", 10, **described), **rest, **own}
    assert read("obj_get", bucket, "plain") == stored(10)
    assert read_info("zero") == {**info(bucket, "zero", 0), **rest}
    assert read("obj_get", bucket, "zero") == stored(0)
    expected = info(bucket, "chunks", 1000, chunks=10, chunk_size=100)
    assert read_info("chunks") == {**expected, **rest}
    assert read("obj_get", bucket, "chunks") == stored(1000)
    assert read_info("replaced") == {**info(bucket, "replaced", 6), **rest}
    assert read("obj_get", bucket, "replaced") == stored(6)
    assert read_info("gone") == {**info(bucket, "gone", 0, deleted=True), **rest}
    assert read("obj_get", bucket, "gone") is None
    assert read("obj_info", bucket, "never") is None
    assert read("obj_get", bucket, "never") is None
    assert read("obj_list", bucket) == ["chunks", "plain", "replaced", "zero"]
    read("obj_watch", "all", bucket)
    assert read.watched("all", "gone") == [
        {"key": "plain", "size": 10, "deleted": False},
        {"key": "zero", "size": 0, "deleted": False},
        {"key": "chunks", "size": 1000, "deleted": False},
        {"key": "replaced", "size": 6, "deleted": False},
        {"key": "gone", "size": 0, "deleted": True},
    ]
    # What one has stored, the other can describe, replace and delete.
    read("obj_update", bucket, "plain", "plain", "described")
    assert write("obj_info", bucket, "plain")["description"] == "described"
    assert write("obj_get", bucket, "plain") == stored(10)
    read("obj_put", bucket, "gone", 7)
    read("obj_put", bucket, "chunks", 8)
    read("obj_delete", bucket, "zero")
    assert write("obj_get", bucket, "gone") == stored(7)
    assert write("obj_get", bucket, "chunks") == stored(8)
    assert write("obj_get", bucket, "zero") is None
    assert write("obj_list", bucket) == ["chunks", "gone", "plain", "replaced"]


@pytest.mark.parametrize("writer", ["trio_nats", "node"])  # in nats-py it always fails
def test_renamed_objects(clients: Clients, bucket: str, writer: str) -> None:
    write = clients[writer]
    write("obj_create_bucket", bucket)
    write("obj_put", bucket, "old", 9)
    write("obj_update", bucket, "old", "new", "renamed")
    for read in clients.present():
        assert read("obj_info", bucket, "new")["description"] == "renamed"
        assert read("obj_get", bucket, "new") == stored(9)
        assert read("obj_info", bucket, "old") is None
        assert read("obj_list", bucket) == ["new"]


@pytest.mark.parametrize("writer", CLIENTS)
def test_odd_names(clients: Clients, bucket: str, writer: str) -> None:
    clients[writer]("obj_create_bucket", bucket)
    for name in ODD_NAMES:
        clients[writer]("obj_put", bucket, name, 3)
    for read in clients.present():
        assert read("obj_list", bucket) == sorted(ODD_NAMES)
        for name in ODD_NAMES:
            assert read("obj_get", bucket, name) == stored(3)


def test_names_above_latin_1(clients: Clients, bucket: str) -> None:
    """Node lists them, but has no way to name them."""
    writers = ["trio_nats", "nats_py"]
    clients["trio_nats"]("obj_create_bucket", bucket)
    for writer, name in zip(writers * 2, ABOVE_LATIN_1, strict=False):
        clients[writer]("obj_put", bucket, name, 3)
    for name in ABOVE_LATIN_1:
        for reader in writers:
            assert clients[reader]("obj_get", bucket, name) == stored(3)
        with pytest.raises(RemoteError, match="InvalidCharacter"):
            clients["node"]("obj_get", bucket, name)
        with pytest.raises(RemoteError, match="InvalidCharacter"):
            clients["node"]("obj_put", bucket, name, 3)
    for read in clients.present():
        assert sorted(read("obj_list", bucket)) == sorted(ABOVE_LATIN_1)


def test_names_that_node_encodes_in_latin_1(clients: Clients, bucket: str) -> None:
    """Node and nats-py do not find each other's; this package finds both."""
    ours, nats_py, node = (clients[name] for name in CLIENTS)
    ours("obj_create_bucket", bucket)
    node("obj_put", bucket, "é", 3)
    nats_py("obj_put", bucket, "è", 4)
    assert node("obj_get", bucket, "è") is None
    assert nats_py("obj_get", bucket, "é") is None
    assert ours("obj_get", bucket, "é") == stored(3)
    assert ours("obj_get", bucket, "è") == stored(4)
    assert ours("obj_list", bucket) == ["è", "é"]
    ours("obj_watch", "latin", bucket)
    assert [one["key"] for one in ours.watched("latin", "è")] == ["é", "è"]
    # What it changes stays where the other finds it.
    ours("obj_put", bucket, "é", 5)
    ours("obj_put", bucket, "è", 6)
    assert node("obj_get", bucket, "é") == stored(5)
    assert nats_py("obj_get", bucket, "è") == stored(6)
    ours("obj_update", bucket, "é", "é", "still there")
    assert node("obj_info", bucket, "é")["description"] == "still there"
    ours("obj_link", bucket, "link", bucket, "é")
    assert ours("obj_get", bucket, "link") == stored(5)
    assert node("obj_get", bucket, "link") == stored(5)
    ours("obj_delete", bucket, "é")
    assert node("obj_info", bucket, "é")["deleted"]
    ours("obj_update", bucket, "è", "ê", "renamed")
    assert nats_py("obj_get", bucket, "ê") == stored(6)
    assert ours("obj_list", bucket) == ["link", "ê"]
    # With both spellings the one in UTF-8 counts.
    node("obj_put", bucket, "ê", 7)
    assert node("obj_get", bucket, "ê") == stored(7)
    assert ours("obj_get", bucket, "ê") == nats_py("obj_get", bucket, "ê") == stored(6)
    assert ours("obj_list", bucket) == ["link", "ê"]


@pytest.mark.parametrize(("writer", "reader"), pairs())
def test_links(clients: Clients, bucket: str, writer: str, reader: str) -> None:
    if writer == "nats_py":
        pytest.skip("nats-py makes no links")
    write, read = clients[writer], clients[reader]
    other = bucket[:50] + "_other"
    write("obj_create_bucket", bucket)
    write("obj_create_bucket", other)
    write("obj_put", bucket, "film", 10)
    write("obj_put", other, "far", 20)
    write("obj_link", bucket, "near link", bucket, "film")
    write("obj_link", bucket, "far link", other, "far")
    write("obj_link_bucket", bucket, "store link", other)
    if reader == "nats_py" and writer == "node":
        # It needs a nuid.
        with pytest.raises(RemoteError, match="BadObjectMeta"):
            read("obj_get", bucket, "near link")
        assert read("obj_list", bucket) == ["film", "store link"]
        return
    for name, target in {
        "near link": [bucket, "film"],
        "far link": [other, "far"],
        "store link": [other, None],
    }.items():
        found = read("obj_info", bucket, name)
        assert (found["link"], found["size"], found["deleted"]) == (target, 0, False)
    assert read("obj_get", bucket, "near link") == stored(10)
    assert read("obj_get", bucket, "far link") == stored(20)
    with pytest.raises(RemoteError, match=r"(?i)link.*is.*a.*(bucket|store)"):
        read("obj_get", bucket, "store link")
    assert read("obj_list", bucket) == ["far link", "film", "near link", "store link"]
    # A link can be deleted and replaced; its target stays.
    read("obj_delete", bucket, "near link")
    read("obj_delete", bucket, "store link")
    read("obj_put", bucket, "far link", 5)
    assert write("obj_get", bucket, "near link") is None
    assert write("obj_get", bucket, "far link") == stored(5)
    assert write("obj_get", other, "far") == stored(20)
    assert write("obj_list", bucket) == ["far link", "film"]


async def test_change_links_of_node(clients: Clients, node: Client, bucket: str) -> None:
    """They have no nuid."""
    node("obj_create_bucket", bucket)
    node("obj_put", bucket, "film", 10)
    node("obj_put", bucket, "book", 11)
    node("obj_link", bucket, "link", bucket, "film")
    async with open_nats(clients.url) as nc:
        store = await nc.jetstream().object_store(bucket)
        link = await store.info("link")
        assert (link.nuid, link.link) == ("", ObjectLink(bucket, "film"))
        assert [one.name for one in await store.list()] == ["film", "book", "link"]
        async with store.watch() as watcher:
            assert [one.name async for one in watcher.initial()] == ["film", "book", "link"]
            link = await store.update_meta("link", ObjectMeta("moved", "described"))
            assert (await watcher.receive()).link == ObjectLink(bucket, "film")
        assert node("obj_info", bucket, "moved")["description"] == "described"
        assert node("obj_get", bucket, "moved") == stored(10)
        await store.add_link("moved", await store.info("book"))
        assert node("obj_get", bucket, "moved") == stored(11)
        node("obj_delete", bucket, "moved")
        assert (await store.info("moved", show_deleted=True)).deleted
        node("obj_link", bucket, "moved", bucket, "film")
        assert await store.get_bytes("moved") == await store.get_bytes("film")
        await store.delete("moved")
        assert node("obj_get", bucket, "moved") is None
        assert [one.name for one in await store.list()] == ["film", "book"]


def test_what_others_lose_when_they_describe_objects(clients: Clients, bucket: str) -> None:
    """nats-py the metadata, Node the size of the chunks; the content stays."""
    ours = clients["trio_nats"]
    ours("obj_create_bucket", bucket)
    for other in CLIENTS[1:]:
        ours("obj_put", bucket, other, 300, chunk=100, metadata={"owner": "me"})
        clients[other]("obj_update", bucket, other, other, "described")
        assert ours("obj_get", bucket, other) == stored(300)
    found = {other: ours("obj_info", bucket, other) for other in CLIENTS[1:]}
    assert [(one["metadata"], one["chunk_size"]) for one in found.values()] == [
        ({}, 100),
        ({}, None),
    ]
    ours("obj_put", bucket, "ours", 300, chunk=100, metadata={"owner": "me"})
    ours("obj_update", bucket, "ours", "ours", "described")
    info = ours("obj_info", bucket, "ours")
    assert (info["metadata"], info["chunk_size"]) == ({"owner": "me"}, 100)
    with pytest.raises(RemoteError, match="ObjectAlreadyExists"):  # of any object
        clients["nats_py"]("obj_update", bucket, "ours", "free", "renamed")


async def test_node_breaks_links_that_it_describes(
    clients: Clients, node: Client, bucket: str
) -> None:
    """It forgets where they lead. What is left can be replaced."""
    node("obj_create_bucket", bucket)
    node("obj_put", bucket, "film", 10)
    node("obj_link", bucket, "link", bucket, "film")
    node("obj_update", bucket, "link", "link", "described")
    assert node("obj_info", bucket, "link")["link"] is None
    async with open_nats(clients.url) as nc:
        store = await nc.jetstream().object_store(bucket)
        assert [one.name for one in await store.list()] == ["film"]
        await store.put("link", b"whole")
        assert await store.get_bytes("link") == b"whole"


@pytest.mark.parametrize("writer", CLIENTS)
def test_large_objects(clients: Clients, bucket: str, writer: str) -> None:
    size, chunk = 20 * MEBIBYTE, 64 * 1024
    clients[writer]("obj_create_bucket", bucket)
    clients[writer]("obj_put", bucket, "large", size, chunk=chunk)
    expected = stored(size)
    # It takes the others seconds of processor time; what they make of each other's is left out.
    for read in clients.present(CLIENTS if writer == "trio_nats" else CLIENTS[:1]):
        assert read("obj_info", bucket, "large")["chunks"] == size // chunk
        assert read("obj_get", bucket, "large") == expected


def test_all_watch_while_all_write(clients: Clients, bucket: str) -> None:
    """All watchers end with the same objects."""
    running = clients.present()
    running[0]("obj_create_bucket", bucket)
    for client in running:
        client("obj_watch", "live", bucket)
    for client in running:
        client.send("obj_write_many", bucket, 20)
    for client in running:
        client.result()
    running[0]("obj_put", bucket, "end", 1)
    seen = [client.watched("live", "end") for client in running]
    truth = {name: running[0]("obj_info", bucket, name) for name in ("0", "1", "2", "end")}
    for found in seen:
        last = {one["key"]: (one["size"], one["deleted"]) for one in found}
        assert last == {name: (one["size"], one["deleted"]) for name, one in truth.items()}
    for client in running:
        for name, one in truth.items():
            expected = None if one["deleted"] else stored(one["size"])
            assert client("obj_get", bucket, name) == expected


# --- the settings of stores ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"description": "for all", "ttl": 3600}], ids=["", "some"])
@pytest.mark.parametrize("maker", [*CLIENTS[1:], "node batched"])
async def test_open_create_and_update_stores_of_others(
    clients: Clients, bucket: str, maker: str, options: dict[str, Any]
) -> None:
    maker, _, batched = maker.partition(" ")
    own = {"allowBatched": True} if batched else {}  # a setting of the stream
    clients[maker]("obj_create_bucket", bucket, **options, **own)
    clients[maker]("obj_put", bucket, "film", 10)
    clients["trio_nats"]("obj_create_bucket", bucket, **options)
    with pytest.raises(RemoteError, match=r"ttl is (0|3600)\.0, not 60"):
        clients["trio_nats"]("obj_create_bucket", bucket, **{**options, "ttl": 60})
    async with open_nats(clients.url) as nc:
        js = nc.jetstream()
        before = (await js.stream(f"OBJ_{bucket}")).info.config
        assert before.allow_batched is bool(batched)
        store = await js.update_object_store(bucket, description="changed")
        after = (await store.status()).stream_info.config
        assert differing(before, after) == {"description": "changed"}
        store = await js.create_or_update_object_store(bucket, ttl=7200)
        last = (await store.status()).stream_info.config
        assert differing(after, last) == {"max_age": 7200}
        assert len(await store.get_bytes("film")) == 10
    assert clients[maker]("obj_get", bucket, "film") == stored(10)


def test_others_create_stores_again(clients: Clients, bucket: str) -> None:
    clients["trio_nats"]("obj_create_bucket", bucket)
    clients["node"]("obj_create_bucket", bucket, description="Node compares nothing")
    clients["nats_py"]("obj_create_bucket", bucket)
