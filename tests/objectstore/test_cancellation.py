"""Cancelled at whatever moment, nothing is left behind and every object is whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.objectstore.helpers import HANG_TIMEOUT, connected, plant, stored_chunks
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.internals import failing_metadata
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import Connection
from trio_nats.errors import RequestTimeoutError
from trio_nats.jetstream import JetStream, JetStreamError, StorageType
from trio_nats.objectstore import ObjectExistsError, ObjectMeta, ObjectStore
from trio_nats.objectstore.info import write_info
from trio_nats.objectstore.names import meta_subject
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.slow]

OLD, NEW = b"old", b"1234567"


async def settle(nc: Connection) -> None:
    """Until there is nothing in the connection that comes with its first request."""
    await nc.request_many("x", timeout=1).aclose()
    await nc.flush()


async def whole(store: ObjectStore, js: JetStream, *, name: str = "x") -> bytes:
    """What the object is; nothing is stored but that."""
    info = await store.info(name)
    expected = {info.nuid: info.chunks} if info.chunks else {}
    assert await stored_chunks(js) == expected
    return await store.get_bytes(name)


async def pieces() -> AsyncIterator[bytes]:
    for position in range(0, len(NEW), 2):
        await trio.lowlevel.checkpoint()
        yield NEW[position : position + 2]


async def test_putting(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, nc):
        await settle(nc)
        async with no_leaks():
            before = all_tasks()
            found: set[bytes] = set()

            async def make() -> Operation:
                await store.put("x", OLD)

                async def operation() -> None:
                    await store.put(ObjectMeta("x", chunk_size=4), pieces())

                return operation

            async def check() -> None:
                assert all_tasks() == before
                assert nc.stats.subscriptions == 0
                found.add(await whole(store, js))

            assert await cancel_at_each_checkpoint(make, check, background=True) >= 10
            assert found == {OLD, NEW}


async def test_getting(nats_server: NatsServer, tmp_path: Path) -> None:
    target = tmp_path / "target"
    async with connected(nats_server) as (store, _, nc):
        await settle(nc)
        await store.put(ObjectMeta("x", chunk_size=4), NEW)
        async with no_leaks():
            before = all_tasks()

            async def read() -> None:
                assert await store.get_bytes("x") == NEW

            async def save() -> None:
                await store.get_file("x", target)

            async def make_read() -> Operation:
                target.write_bytes(OLD)
                return read

            async def make_save() -> Operation:
                target.write_bytes(OLD)
                return save

            async def check() -> None:
                assert all_tasks() == before
                assert nc.stats.subscriptions == 0
                assert target.read_bytes() in (OLD, NEW)
                assert [path.name for path in await trio.Path(tmp_path).iterdir()] == ["target"]

            assert await cancel_at_each_checkpoint(make_read, check, background=True) >= 5
            assert await cancel_at_each_checkpoint(make_save, check, background=True) >= 5
            assert target.read_bytes() == NEW


async def test_a_cancelled_read_loses_nothing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, _, nc):
        await settle(nc)
        await store.put(ObjectMeta("x", chunk_size=1), bytes(range(200)))
        async with store.get("x") as reader:
            found: list[bytes] = []

            async def make() -> Operation:
                async def operation() -> None:
                    for _ in range(3):
                        found.append(await reader.receive())  # noqa: PERF401 -- one by one

                return operation

            async def check() -> None:
                assert b"".join(found) == bytes(range(len(found)))

            await cancel_at_each_checkpoint(make, check)
            async for chunk in reader:
                found.append(chunk)  # noqa: PERF401
        assert b"".join(found) == bytes(range(200))


async def test_no_consumer_is_left(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, nc):
        await store.put(ObjectMeta("x", chunk_size=2), NEW)
        async with store.get("x") as reader:
            await reader.receive()
        async with store.watch() as watcher:
            await watcher.receive()
        await store.get_bytes("x")
        await store.list()
        await nc.flush()
        stream = await js.stream("OBJ_b")
        while [name async for name in stream.consumer_names()]:
            pass  # They are deleted without waiting for it.


async def test_changing_and_deleting(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, nc):
        await settle(nc)

        async def make() -> Operation:
            for info in await store.list():
                await store.delete(info.name)
            await store.put("x", OLD)

            async def operation() -> None:
                await store.update_meta("x", ObjectMeta("y", "words"))
                await store.delete("y")

            return operation

        async def check() -> None:
            """It has one name, or none."""
            names = [info.name for info in await store.list()]
            assert len(names) <= 1
            if names:
                assert await whole(store, js, name=names[0]) == OLD
            else:
                assert await stored_chunks(js) == {}

        assert await cancel_at_each_checkpoint(make, check) >= 2


async def test_the_connection_is_lost_for_good_while_putting(nats_server: NatsServer) -> None:
    """There is nobody to clean up with, and that does not take long."""
    sent = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10)
            sent.set()
            await trio.lowlevel.checkpoint()

    async with connected(nats_server) as (store, _, nc):
        with trio.fail_after(HANG_TIMEOUT):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def put() -> None:
                    with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                        await store.put(ObjectMeta("x", chunk_size=10), endless())

                await sent.wait()
                await nc.aclose()


async def test_chunks_in_flight_when_an_upload_fails(nats_server: NatsServer) -> None:
    """They are deleted too, though the server might be asked for that before it stores them."""

    async def many() -> AsyncIterator[bytes]:
        yield bytes(16_000 * 256)
        raise ZeroDivisionError

    async with connected(nats_server, storage=StorageType.FILE) as (store, js, _):
        for _ in range(10):
            with pytest.raises(ZeroDivisionError):
                await store.put(ObjectMeta("x", chunk_size=16_000), many())
            assert await stored_chunks(js) == {}


@pytest.mark.parametrize("error", [RequestTimeoutError("late"), JetStreamError("what?")])
@pytest.mark.parametrize("stored", [True, False])
async def test_the_last_acknowledgement_is_lost(
    nats_server: NatsServer, error: Exception, stored: bool
) -> None:
    """The object is there with all its chunks, or is what it was."""
    async with connected(nats_server) as (store, js, _):
        await store.put("x", OLD)
        with failing_metadata(error, stored=stored):
            if stored and isinstance(error, RequestTimeoutError):
                await store.put("x", NEW)
                assert await whole(store, js) == NEW
            else:
                with pytest.raises(type(error)):
                    await store.put("x", NEW)
        assert await store.get_bytes("x") == (NEW if stored else OLD)
        if not stored:
            assert await whole(store, js) == OLD


@pytest.mark.parametrize("error", [RequestTimeoutError("late"), JetStreamError("what?")])
@pytest.mark.parametrize("stored", [True, False])
async def test_the_acknowledgement_of_a_deletion_is_lost(
    nats_server: NatsServer, error: Exception, stored: bool
) -> None:
    """Either the object is whole or its chunks are deleted, at the latest by another call."""
    async with connected(nats_server) as (store, js, _):
        await store.put("x", OLD)
        with failing_metadata(error, stored=stored):
            if stored and isinstance(error, RequestTimeoutError):
                await store.delete("x")
            else:
                with pytest.raises(type(error)):
                    await store.delete("x")
                if not stored:
                    assert await whole(store, js) == OLD
                await store.delete("x")
        assert await stored_chunks(js) == {}
        assert await store.list() == []


async def test_a_renaming_that_was_interrupted_is_repeated(nats_server: NatsServer) -> None:
    """The object has both names then; deleting one of them would delete its chunks."""
    async with connected(nats_server) as (store, js, _):
        info = await store.put("x", NEW)
        await plant(js, meta_subject("b", "y"), write_info(replace(info, name="y")))
        with pytest.raises(ObjectExistsError):
            await store.add_link("y", info)
        assert (await store.update_meta("x", ObjectMeta("y"))).nuid == info.nuid
        assert [one.name for one in await store.list()] == ["y"]
        assert await whole(store, js, name="y") == NEW
        await store.put("z", OLD)
        with pytest.raises(ObjectExistsError):
            await store.update_meta("y", ObjectMeta("z"))
