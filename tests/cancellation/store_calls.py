"""Calls of key-value buckets and object stores."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio

from tests.cancellation.environment import (
    MEMORY,
    SETTLE_TIMEOUT,
    Call,
    Environment,
    Group,
    failing_block,
)
from trio_nats.jetstream import WrongLastSequenceError
from trio_nats.keyvalue import BucketNotFoundError, KeyExistsError
from trio_nats.objectstore import ObjectMeta, ObjectNotFoundError, ObjectStoreNotFoundError

__all__ = ["BUCKETS", "KEYS", "OBJECTS", "STORES", "no_partial_objects"]


# --- buckets --------------------------------------------------------------------------------------


async def without_anything(env: Environment) -> None:
    """There is nothing yet."""


async def with_bucket(env: Environment) -> None:
    await env.clear()
    await env.observer.create_key_value("B", storage=MEMORY)


async def list_buckets(env: Environment) -> None:
    assert [status.bucket async for status in env.js.key_value_stores()] == ["B"]


async def list_bucket_names(env: Environment) -> None:
    assert [name async for name in env.js.key_value_store_names()] == ["B"]


BUCKETS = Group(
    without_anything,
    (
        Call(
            "JetStream.create_key_value",
            lambda s: s.js.create_key_value("B", storage=MEMORY),
            before=Environment.clear,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_key_value",
            lambda s: s.js.create_or_update_key_value("B", storage=MEMORY),
            before=Environment.clear,
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
            repeat_errors=(BucketNotFoundError,),
            changes=True,
        ),
    ),
)


# --- keys -----------------------------------------------------------------------------------------


async def with_keys(env: Environment) -> None:
    env.kv = await env.js.create_key_value("B", storage=MEMORY, history=2)
    await some_keys(env)


async def some_keys(env: Environment) -> None:
    """A key with a history, one with a single value, and one that was deleted."""
    await (await env.observer.stream("KV_B")).purge()
    await env.kv.put("a", "1")
    env.number = await env.kv.put("a", "2")
    await env.kv.put("b", "1")
    await env.kv.put("c", "1")
    await env.kv.delete("c")


async def put(env: Environment) -> None:
    """Together with the entry before, the latest one is always as many."""
    await env.kv.put("a", "3")
    assert (await env.kv.get("a")).value == b"3"


async def watch(env: Environment) -> None:
    async with env.kv.watch() as watcher, watcher.events():
        assert [entry.key async for entry in watcher.initial()] == ["a", "b", "c"]
        await watcher.caught_up()


async def watch_changes(env: Environment) -> None:
    async with env.kv.watch(include_history=True) as watcher:
        assert (await watcher.receive()).value == b"1"
        async for entry in watcher:
            assert entry.value == b"2"
            break
        await watcher.aclose()


async def keys(env: Environment) -> None:
    assert await env.kv.keys() == ["a", "b"]


async def history(env: Environment) -> None:
    assert [entry.value for entry in await env.kv.history("a")] == [b"1", b"2"]


async def no_value_is_lost(env: Environment) -> None:
    assert (await env.kv.get("a")).value == b"2"
    assert (await env.kv.get("b")).value == b"1"


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
        failing_block(
            "KeyWatcher.__aexit__", lambda s: s.kv.watch(), lambda watcher: watcher.receive()
        ),
        Call("KeyValue.put", put, before=some_keys),
        Call(
            "KeyValue.update",
            lambda s: s.kv.update("a", "3", s.number),
            before=some_keys,
            repeat_errors=(WrongLastSequenceError,),
        ),
        Call(
            "KeyValue.create",
            lambda s: s.kv.create("d", "1"),
            before=some_keys,
            repeat_errors=(KeyExistsError,),
            changes=True,
        ),
        Call(
            "KeyValue.create",  # after a deletion, which takes more than one request
            lambda s: s.kv.create("c", "1"),
            before=some_keys,
            repeat_errors=(KeyExistsError,),
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


async def with_store(env: Environment) -> None:
    await env.clear()
    env.store = await env.js.create_object_store("O", storage=MEMORY)


async def list_stores(env: Environment) -> None:
    assert [status.bucket async for status in env.js.object_stores()] == ["O"]


async def list_store_names(env: Environment) -> None:
    assert [name async for name in env.js.object_store_names()] == ["O"]


STORES = Group(
    without_anything,
    (
        Call(
            "JetStream.create_object_store",
            lambda s: s.js.create_object_store("O", storage=MEMORY),
            before=Environment.clear,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_object_store",
            lambda s: s.js.create_or_update_object_store("O", storage=MEMORY),
            before=Environment.clear,
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
            repeat_errors=(ObjectStoreNotFoundError,),
            changes=True,
        ),
    ),
)


# --- objects --------------------------------------------------------------------------------------

OLD, NEW = b"old", b"1234567"


async def some_objects(env: Environment) -> None:
    await with_store(env)
    await env.store.put("x", OLD)


async def no_partial_objects(env: Environment) -> None:
    """All chunks are those of an object, and each object is whole."""
    stream = await env.observer.stream("OBJ_O")
    infos = await env.store.list(show_deleted=True)
    expected = {f"$O.O.C.{info.nuid}": info.chunks for info in infos if info.chunks}
    found: dict[str, int] = {}
    with trio.move_on_after(SETTLE_TIMEOUT):
        while found != expected and not env.warned:
            found = {name: count async for name, count in stream.subjects("$O.O.C.>")}
            if env.has_outages:
                # What replaces chunks without waiting for an answer may be left itself.
                for name in found.keys() - expected.keys():
                    if (await stream.get_msg(last_for=name)).data == b"" and found[name] == 1:
                        del found[name]
    assert env.warned or found == expected, f"the chunks are {found}, expected: {expected}"
    for info in infos:
        if not info.deleted and info.link is None:
            assert await env.store.get_bytes(info.name) in (OLD, NEW)


async def pieces() -> AsyncIterator[bytes]:
    for position in range(0, len(NEW), 2):
        await trio.lowlevel.checkpoint()
        yield NEW[position : position + 2]


async def put_object(env: Environment) -> None:
    await env.store.put(ObjectMeta("x", chunk_size=2), pieces())


async def put_half_an_object(env: Environment) -> None:
    """The source fails, and the cleanup is cancelled."""

    async def half() -> AsyncIterator[bytes]:
        yield NEW[:4]
        raise ZeroDivisionError

    with contextlib.suppress(ZeroDivisionError):
        await env.store.put(ObjectMeta("x", chunk_size=2), half())
    assert await env.store.get_bytes("x") == OLD


async def put_new_object(env: Environment) -> None:
    await env.store.put(ObjectMeta("y", chunk_size=2), NEW)


async def put_file(env: Environment) -> None:
    path = env.folder / "source"
    with trio.CancelScope(shield=True):
        await path.write_bytes(NEW)
    await env.store.put_file(path, "x")


async def get(env: Environment) -> None:
    async with env.store.get("x") as reader:
        assert await reader.receive() == OLD
        async for _ in reader:
            raise AssertionError
        await reader.aclose()


async def read_all(env: Environment) -> None:
    async with env.store.get("x") as reader:
        assert await reader.read_all() == OLD


async def get_bytes(env: Environment) -> None:
    assert await env.store.get_bytes("x") == OLD


async def get_file(env: Environment) -> None:
    await env.store.get_file("x", env.folder / "target")
    assert await (env.folder / "target").read_bytes() == OLD


async def no_part_is_left(env: Environment) -> None:
    names = {path.name for path in await env.folder.iterdir()}
    assert names <= {"source", "target"}


async def watch_objects(env: Environment) -> None:
    async with env.store.watch() as watcher, watcher.events():
        assert [info.name async for info in watcher.initial()] == ["x"]
        await watcher.caught_up()


async def watch_object_changes(env: Environment) -> None:
    async with env.store.watch() as watcher:
        assert (await watcher.receive()).name == "x"
        await watcher.aclose()
    async with env.store.watch() as watcher:
        async for info in watcher:
            assert info.name == "x"
            break


async def list_objects(env: Environment) -> None:
    assert [info.name for info in await env.store.list()] == ["x"]


async def add_link(env: Environment) -> None:
    await env.store.add_link("l", await env.store.info("x"))


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
        failing_block("ObjectReader.__aexit__", lambda s: s.store.get("x"), lambda r: r.receive()),
        failing_block("ObjectWatcher.__aexit__", lambda s: s.store.watch(), lambda w: w.receive()),
        Call("ObjectReader.read_all", read_all, needs_cleanup=True),
        Call("ObjectStore.get_bytes", get_bytes, needs_cleanup=True),
        Call("ObjectStore.get_file", get_file, check=no_part_is_left, needs_cleanup=True),
        Call(
            "ObjectStore.put",
            put_object,
            before=some_objects,
            check=no_partial_objects,
            changes=True,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.put",
            put_new_object,
            before=some_objects,
            check=no_partial_objects,
            changes=True,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.put",
            put_half_an_object,
            before=some_objects,
            check=no_partial_objects,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.put_file",
            put_file,
            before=some_objects,
            check=no_partial_objects,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.update_meta",
            lambda s: s.store.update_meta("x", ObjectMeta("x", "words")),
            before=some_objects,
            check=no_partial_objects,
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.update_meta",
            lambda s: s.store.update_meta("x", ObjectMeta("y")),
            before=some_objects,
            check=no_partial_objects,
            repeat_errors=(ObjectNotFoundError,),
            needs_cleanup=True,
        ),
        Call(
            "ObjectStore.delete",
            lambda s: s.store.delete("x"),
            before=some_objects,
            check=no_partial_objects,
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
