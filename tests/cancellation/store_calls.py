"""Calls of key-value buckets and object stores."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio

from tests.cancellation.stage import MEMORY, PATIENCE, Call, Group, Stage, failing
from trio_nats.jetstream import WrongLastSequenceError
from trio_nats.keyvalue import BucketNotFoundError, KeyExistsError
from trio_nats.objectstore import ObjectMeta, ObjectNotFoundError, ObjectStoreNotFoundError

__all__ = ["BUCKETS", "KEYS", "OBJECTS", "STORES", "nothing_is_half"]


# --- buckets --------------------------------------------------------------------------------------


async def without_anything(stage: Stage) -> None:
    """There is nothing yet."""


async def with_bucket(stage: Stage) -> None:
    await stage.clear()
    await stage.witness.create_key_value("B", storage=MEMORY)


async def list_buckets(stage: Stage) -> None:
    assert [status.bucket async for status in stage.js.key_value_stores()] == ["B"]


async def list_bucket_names(stage: Stage) -> None:
    assert [name async for name in stage.js.key_value_store_names()] == ["B"]


BUCKETS = Group(
    without_anything,
    (
        Call(
            "JetStream.create_key_value",
            lambda s: s.js.create_key_value("B", storage=MEMORY),
            before=Stage.clear,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_key_value",
            lambda s: s.js.create_or_update_key_value("B", storage=MEMORY),
            before=Stage.clear,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_key_value",
            lambda s: s.js.create_or_update_key_value("B", history=3),
            before=with_bucket,
            changes=True,
        ),
        Call(
            "JetStream.update_key_value",
            lambda s: s.js.update_key_value("B", history=3),
            before=with_bucket,
            changes=True,
        ),
        Call("JetStream.key_value", lambda s: s.js.key_value("B"), before=with_bucket),
        Call("JetStream.key_value_stores", list_buckets, before=with_bucket),
        Call("JetStream.key_value_store_names", list_bucket_names, before=with_bucket),
        Call(
            "JetStream.delete_key_value",
            lambda s: s.js.delete_key_value("B"),
            before=with_bucket,
            done=(BucketNotFoundError,),
            changes=True,
        ),
    ),
)


# --- keys -----------------------------------------------------------------------------------------


async def with_keys(stage: Stage) -> None:
    stage.kv = await stage.js.create_key_value("B", storage=MEMORY, history=2)
    await some_keys(stage)


async def some_keys(stage: Stage) -> None:
    """A key with a history, one with a single value, and one that was deleted."""
    await (await stage.witness.stream("KV_B")).purge()
    await stage.kv.put("a", "1")
    stage.number = await stage.kv.put("a", "2")
    await stage.kv.put("b", "1")
    await stage.kv.put("c", "1")
    await stage.kv.delete("c")


async def put(stage: Stage) -> None:
    """Together with the entry before, the latest one is always as many."""
    await stage.kv.put("a", "3")
    assert (await stage.kv.get("a")).value == b"3"


async def watch(stage: Stage) -> None:
    async with stage.kv.watch() as watcher, watcher.events():
        assert [entry.key async for entry in watcher.initial()] == ["a", "b", "c"]
        await watcher.caught_up()


async def watch_changes(stage: Stage) -> None:
    async with stage.kv.watch(include_history=True) as watcher:
        assert (await watcher.receive()).value == b"1"
        async for entry in watcher:
            assert entry.value == b"2"
            break
        await watcher.aclose()


async def keys(stage: Stage) -> None:
    assert await stage.kv.keys() == ["a", "b"]


async def history(stage: Stage) -> None:
    assert [entry.value for entry in await stage.kv.history("a")] == [b"1", b"2"]


async def no_value_is_lost(stage: Stage) -> None:
    assert (await stage.kv.get("a")).value == b"2"
    assert (await stage.kv.get("b")).value == b"1"


KEYS = Group(
    with_keys,
    (
        Call("KeyValue.status", lambda s: s.kv.status()),
        Call("KeyValue.get", lambda s: s.kv.get("a")),
        Call("KeyValue.history", history, needs_cleanup=True),
        Call("KeyValue.keys", keys, needs_cleanup=True),
        Call(
            "KeyValue.watch KeyWatcher.__aenter__ KeyWatcher.__aexit__ KeyWatcher.initial "
            "KeyWatcher.caught_up KeyWatcher.events",
            watch,
            needs_cleanup=True,
        ),
        Call(
            "KeyWatcher.receive KeyWatcher.__anext__ KeyWatcher.aclose",
            watch_changes,
            needs_cleanup=True,
        ),
        failing("KeyWatcher.__aexit__", lambda s: s.kv.watch(), lambda watcher: watcher.receive()),
        Call("KeyValue.put", put, before=some_keys),
        Call(
            "KeyValue.update",
            lambda s: s.kv.update("a", "3", s.number),
            before=some_keys,
            done=(WrongLastSequenceError,),
        ),
        Call(
            "KeyValue.create",
            lambda s: s.kv.create("d", "1"),
            before=some_keys,
            done=(KeyExistsError,),
            changes=True,
        ),
        Call(
            "KeyValue.create",  # after a deletion, which takes more than one request
            lambda s: s.kv.create("c", "1"),
            before=some_keys,
            done=(KeyExistsError,),
        ),
        Call("KeyValue.delete", lambda s: s.kv.delete("a"), before=some_keys),
        Call("KeyValue.purge", lambda s: s.kv.purge("a"), before=some_keys, changes=True),
        Call(
            "KeyValue.purge_deletes",
            lambda s: s.kv.purge_deletes(0),
            before=some_keys,
            check=no_value_is_lost,
            changes=True,
            needs_cleanup=True,
        ),
    ),
)


# --- object stores --------------------------------------------------------------------------------


async def with_store(stage: Stage) -> None:
    await stage.clear()
    stage.store = await stage.js.create_object_store("O", storage=MEMORY)


async def list_stores(stage: Stage) -> None:
    assert [status.bucket async for status in stage.js.object_stores()] == ["O"]


async def list_store_names(stage: Stage) -> None:
    assert [name async for name in stage.js.object_store_names()] == ["O"]


STORES = Group(
    without_anything,
    (
        Call(
            "JetStream.create_object_store",
            lambda s: s.js.create_object_store("O", storage=MEMORY),
            before=Stage.clear,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_object_store",
            lambda s: s.js.create_or_update_object_store("O", storage=MEMORY),
            before=Stage.clear,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_object_store",
            lambda s: s.js.create_or_update_object_store("O", ttl=3600),
            before=with_store,
            changes=True,
        ),
        Call(
            "JetStream.update_object_store",
            lambda s: s.js.update_object_store("O", ttl=3600),
            before=with_store,
            changes=True,
        ),
        Call("JetStream.object_store", lambda s: s.js.object_store("O"), before=with_store),
        Call("JetStream.object_stores", list_stores, before=with_store),
        Call("JetStream.object_store_names", list_store_names, before=with_store),
        Call("ObjectStore.status", lambda s: s.store.status(), before=with_store),
        Call("ObjectStore.seal", lambda s: s.store.seal(), before=with_store, changes=True),
        Call(
            "JetStream.delete_object_store",
            lambda s: s.js.delete_object_store("O"),
            before=with_store,
            done=(ObjectStoreNotFoundError,),
            changes=True,
        ),
    ),
)


# --- objects --------------------------------------------------------------------------------------

OLD, NEW = b"old", b"1234567"


async def some_objects(stage: Stage) -> None:
    await with_store(stage)
    await stage.store.put("x", OLD)


async def nothing_is_half(stage: Stage) -> None:
    """All chunks are those of an object, and each object is whole."""
    stream = await stage.witness.stream("OBJ_O")
    infos = await stage.store.list(show_deleted=True)
    expected = {f"$O.O.C.{info.nuid}": info.chunks for info in infos if info.chunks}
    found: dict[str, int] = {}
    with trio.move_on_after(PATIENCE):
        while found != expected and not stage.warned:
            found = {name: count async for name, count in stream.subjects("$O.O.C.>")}
            if stage.has_outages:
                # What replaces chunks without waiting for an answer may be left itself.
                for name in found.keys() - expected.keys():
                    if (await stream.get_msg(last_for=name)).data == b"" and found[name] == 1:
                        del found[name]
    assert stage.warned or found == expected, f"the chunks are {found}, expected: {expected}"
    for info in infos:
        if not info.deleted and info.link is None:
            assert await stage.store.get_bytes(info.name) in (OLD, NEW)


async def pieces() -> AsyncIterator[bytes]:
    for position in range(0, len(NEW), 2):
        await trio.lowlevel.checkpoint()
        yield NEW[position : position + 2]


async def put_object(stage: Stage) -> None:
    await stage.store.put(ObjectMeta("x", chunk_size=2), pieces())


async def put_half_an_object(stage: Stage) -> None:
    """The source fails, and the cleanup is cancelled."""

    async def half() -> AsyncIterator[bytes]:
        yield NEW[:4]
        raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        await stage.store.put(ObjectMeta("x", chunk_size=2), half())
    assert await stage.store.get_bytes("x") == OLD


async def put_new_object(stage: Stage) -> None:
    await stage.store.put(ObjectMeta("y", chunk_size=2), NEW)


async def put_file(stage: Stage) -> None:
    path = stage.folder / "source"
    with trio.CancelScope(shield=True):
        await path.write_bytes(NEW)
    await stage.store.put_file(path, "x")


async def get(stage: Stage) -> None:
    async with stage.store.get("x") as reader:
        assert await reader.receive() == OLD
        async for _ in reader:
            raise AssertionError
        await reader.aclose()


async def read_all(stage: Stage) -> None:
    async with stage.store.get("x") as reader:
        assert await reader.read_all() == OLD


async def get_bytes(stage: Stage) -> None:
    assert await stage.store.get_bytes("x") == OLD


async def get_file(stage: Stage) -> None:
    await stage.store.get_file("x", stage.folder / "target")
    assert await (stage.folder / "target").read_bytes() == OLD


async def no_part_is_left(stage: Stage) -> None:
    names = {path.name for path in await stage.folder.iterdir()}
    assert names <= {"source", "target"}


async def watch_objects(stage: Stage) -> None:
    async with stage.store.watch() as watcher, watcher.events():
        assert [info.name async for info in watcher.initial()] == ["x"]
        await watcher.caught_up()


async def watch_object_changes(stage: Stage) -> None:
    async with stage.store.watch() as watcher:
        assert (await watcher.receive()).name == "x"
        await watcher.aclose()
    async with stage.store.watch() as watcher:
        async for info in watcher:
            assert info.name == "x"
            break


async def list_objects(stage: Stage) -> None:
    assert [info.name for info in await stage.store.list()] == ["x"]


async def add_link(stage: Stage) -> None:
    await stage.store.add_link("l", await stage.store.info("x"))


OBJECTS = Group(
    some_objects,
    (
        Call("ObjectStore.info", lambda s: s.store.info("x")),
        Call("ObjectStore.list", list_objects, needs_cleanup=True),
        Call(
            "ObjectStore.watch ObjectWatcher.__aenter__ ObjectWatcher.__aexit__ "
            "ObjectWatcher.initial ObjectWatcher.caught_up ObjectWatcher.events",
            watch_objects,
            needs_cleanup=True,
        ),
        Call(
            "ObjectWatcher.receive ObjectWatcher.__anext__ ObjectWatcher.aclose",
            watch_object_changes,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.get ObjectReader.__aenter__ ObjectReader.__aexit__ ObjectReader.receive "
            "ObjectReader.__anext__ ObjectReader.aclose",
            get,
            needs_cleanup=True,
        ),
        failing("ObjectReader.__aexit__", lambda s: s.store.get("x"), lambda r: r.receive()),
        failing("ObjectWatcher.__aexit__", lambda s: s.store.watch(), lambda w: w.receive()),
        Call("ObjectReader.read_all", read_all, needs_cleanup=True),
        Call("ObjectStore.get_bytes", get_bytes, needs_cleanup=True),
        Call("ObjectStore.get_file", get_file, check=no_part_is_left, needs_cleanup=True),
        Call(
            "ObjectStore.put",
            put_object,
            before=some_objects,
            check=nothing_is_half,
            changes=True,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.put",
            put_new_object,
            before=some_objects,
            check=nothing_is_half,
            changes=True,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.put",
            put_half_an_object,
            before=some_objects,
            check=nothing_is_half,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.put_file",
            put_file,
            before=some_objects,
            check=nothing_is_half,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.update_meta",
            lambda s: s.store.update_meta("x", ObjectMeta("x", "words")),
            before=some_objects,
            check=nothing_is_half,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.update_meta",
            lambda s: s.store.update_meta("x", ObjectMeta("y")),
            before=some_objects,
            check=nothing_is_half,
            done=(ObjectNotFoundError,),
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.delete",
            lambda s: s.store.delete("x"),
            before=some_objects,
            check=nothing_is_half,
            changes=True,
            needs_cleanup=True,
        ),
        Call("ObjectStore.add_link", add_link, before=some_objects, changes=True),
        Call(
            "ObjectStore.add_bucket_link",
            lambda s: s.store.add_bucket_link("l", s.store),
            before=some_objects,
            changes=True,
        ),
    ),
)
