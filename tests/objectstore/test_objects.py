"""What is put can be got, whatever its size and wherever it comes from."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.jetstream.helpers import stored
from tests.objectstore.helpers import KIB, connected, plant, stored_chunks, stored_meta
from trio_nats import ConfigurationError
from trio_nats.errors import InvalidHeaderError
from trio_nats.jetstream import JetStreamAPIError
from trio_nats.objectstore import (
    InvalidObjectNameError,
    ObjectMeta,
    ObjectNotFoundError,
    ObjectStoreNotFoundError,
    ObjectTooLargeError,
)
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

CHUNK = 128 * KIB


def some(size: int) -> bytes:
    return hashlib.shake_128(b"some").digest(size)


def digest(data: bytes) -> str:
    return "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()


@pytest.mark.slow
async def test_sizes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        sizes = {0: 0, 1: 1, CHUNK - 1: 1, CHUNK: 1, CHUNK + 1: 2, 10 * KIB * KIB: 80}
        for size, chunks in sizes.items():
            data = some(size)
            put = await store.put("x", data)
            assert (put.size, put.chunks, put.digest) == (size, chunks, digest(data))
            assert await store.get_bytes("x") == data
            # What was there before is gone.
            assert await stored_chunks(js) == ({put.nuid: chunks} if chunks else {})


@pytest.mark.parametrize("size", [99, 100, 101, 1000])
async def test_chunks(nats_server: NatsServer, size: int) -> None:
    async with connected(nats_server) as (store, _, _):
        data = some(size)
        await store.put(ObjectMeta("x", chunk_size=100), data)
        async with store.get("x") as reader:
            chunks = [chunk async for chunk in reader]
            with pytest.raises(trio.EndOfChannel):
                await reader.receive()
        with pytest.raises(RuntimeError, match="only once"):
            await reader.__aenter__()
        assert b"".join(chunks) == data
        assert {len(chunk) for chunk in chunks[:-1]} <= {100}


async def test_what_is_stored_is_as_the_adr_has_it(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        headers = {"key1": "foo", "key2": ["bar", "baz"]}
        meta = ObjectMeta("a name/ü", "words", headers, {"owner": "infra"}, chunk_size=3)
        put = await store.put(meta, b"12345678")
        subject = "$O.b.M.YSBuYW1lL8O8"
        assert await stored_meta(js, subject) == {
            "name": "a name/ü",
            "description": "words",
            "metadata": {"owner": "infra"},
            "headers": {"key1": ["foo"], "key2": ["bar", "baz"]},
            "options": {"max_chunk_size": 3},
            "bucket": "b",
            "nuid": put.nuid,
            "size": 8,
            "chunks": 3,
            "digest": digest(b"12345678"),
        }
        stream = await js.stream("OBJ_b")
        chunks = [m for m in await stored(stream) if m.subject == f"$O.b.C.{put.nuid}"]
        assert [m.data for m in chunks] == [b"123", b"456", b"78"]
        assert not any(m.headers for m in chunks)
        info = await store.info("a name/ü")
        assert info.headers.get_all("key2") == ["bar", "baz"]
        assert info.timestamp is not None
        assert info.timestamp.tzinfo is UTC
        assert datetime.now(UTC) - info.timestamp < timedelta(minutes=1)
        assert info == put.__class__(
            **{name: getattr(put, name) for name in put.__slots__} | {"timestamp": info.timestamp}
        )


async def test_what_other_clients_stored(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        await js.publish("$O.b.C.CkuyLEX4z2hbyjj1aWCfiH", b"12")
        await js.publish("$O.b.C.CkuyLEX4z2hbyjj1aWCfiH", b"3")
        meta: dict[str, Any] = {
            "name": "n",
            "options": {"max_chunk_size": 2},
            "headers": None,
            "bucket": "b",
            "nuid": "CkuyLEX4z2hbyjj1aWCfiH",
            "size": 3,
            "mtime": "0001-01-01T00:00:00Z",
            "chunks": 2,
            "digest": digest(b"123").replace("SHA", "sha").rstrip("="),
            "unknown": {"x": 1},
        }
        await plant(js, "$O.b.M.bg==", meta)
        assert await store.get_bytes("n") == b"123"
        # By others deleted: the object may still say how large it was.
        await plant(js, "$O.b.M.bg==", meta | {"deleted": True, "size": 0, "chunks": 0})
        with pytest.raises(ObjectNotFoundError, match="was deleted"):
            await store.get_bytes("n")


async def test_sources(nats_server: NatsServer, tmp_path: Path) -> None:
    data = some(300)
    path = tmp_path / "file"
    path.write_bytes(data)

    async def pieces() -> AsyncIterator[bytes]:
        yield data[:1]
        yield b""
        yield data[1:250]
        yield data[250:]

    async with connected(nats_server) as (store, _, _):
        meta = ObjectMeta("x", chunk_size=100)
        view = memoryview(bytearray(data))
        for source in (bytearray(data), view, io.BytesIO(data), path, trio.Path(path), pieces()):
            assert (await store.put(meta, source)).chunks == 3
            assert await store.get_bytes("x") == data
        async with await trio.open_file(path, "rb") as file:
            await store.put(meta, file)
            assert not file.closed
        with path.open("rb", buffering=0) as plain:
            await store.put(meta, plain)
            assert not plain.closed
        assert await store.get_bytes("x") == data


async def test_invalid_sources(nats_server: NatsServer, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")

    async def texts() -> AsyncIterator[Any]:
        yield b"12345"
        yield "text"

    async with connected(nats_server) as (store, js, _):
        source: Any
        for source in ("text", 1, [b"x"], None):
            with pytest.raises(TypeError, match="source must be bytes-like"):
                await store.put("x", source)
        with pytest.raises(OSError, match="nothing"):
            await store.put("x", tmp_path / "nothing")
        with path.open() as file, pytest.raises(TypeError, match="binary mode"):
            await store.put("x", file)  # type: ignore[arg-type]  # that is the point
        with pytest.raises(TypeError, match="not str"):
            await store.put(ObjectMeta("x", chunk_size=2), texts())
        assert await stored_chunks(js) == {}
        assert await store.list() == []


async def test_a_source_fails(nats_server: NatsServer) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"123456"
        raise ZeroDivisionError

    async with connected(nats_server) as (store, js, _):
        old = await store.put("x", b"old")
        with pytest.raises(ZeroDivisionError):
            await store.put(ObjectMeta("x", chunk_size=2), failing())
        assert await store.get_bytes("x") == b"old"
        assert await stored_chunks(js) == {old.nuid: 1}


async def test_the_store_is_full(nats_server: NatsServer) -> None:
    async with connected(nats_server, max_bytes=4 * KIB) as (store, js, _):
        old = await store.put("x", b"old")
        with pytest.raises(JetStreamAPIError, match="maximum bytes"):
            await store.put(ObjectMeta("y", chunk_size=500), some(100 * KIB))
        assert await stored_chunks(js) == {old.nuid: 1}
        assert [info.name for info in await store.list()] == ["x"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ("", InvalidObjectNameError),
        ("x" * 2049, InvalidObjectNameError),
        ("\ud800", InvalidObjectNameError),
        (b"x", TypeError),
        (ObjectMeta("x", chunk_size=0), ConfigurationError),
        (ObjectMeta("x", chunk_size=2**30), ConfigurationError),
        (ObjectMeta("x", metadata={"x": 1}), TypeError),  # type: ignore[dict-item]
        (ObjectMeta("x", headers={"a b": "c"}), InvalidHeaderError),
        (ObjectMeta("x", 5), TypeError),  # type: ignore[arg-type]
    ],
)
async def test_values_that_cannot_be_put(
    nats_server: NatsServer, meta: Any, error: type[Exception]
) -> None:
    async with connected(nats_server) as (store, _, _):
        with pytest.raises(error):
            await store.put(meta, b"x")
        assert (await store.status()).size == 0


async def test_the_longest_name(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (_, js, _):
        store = await js.create_object_store("b" * 251)
        await store.put("x" * 2048, b"x")
        assert await store.get_bytes("x" * 2048) == b"x"
        assert [info.name for info in await store.list()] == ["x" * 2048]


async def test_missing_objects_and_stores(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        with pytest.raises(ObjectNotFoundError, match="'x'"):
            await store.get_bytes("x")
        await store.put("x", b"x")
        await js.delete_object_store("b")
        for attempt in (store.get_bytes("x"), store.put("x", b"y"), store.list(), store.status()):
            with pytest.raises(ObjectStoreNotFoundError, match="'b'"):
                await attempt
        with pytest.raises(ObjectStoreNotFoundError, match="'b'"):
            async with store.watch():
                pass


async def test_too_large_to_read_at_once(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, _, _):
        await store.put("x", some(1000))
        assert len(await store.get_bytes("x", max_size=1000)) == 1000
        with pytest.raises(ObjectTooLargeError, match="max_size"):
            await store.get_bytes("x", max_size=999)


async def test_files(nats_server: NatsServer, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(some(300))
    async with connected(nats_server) as (store, _, _):
        assert (await store.put_file(source)).name == "source"
        assert (await store.put_file(str(source), ObjectMeta("n", chunk_size=9))).chunks == 34
        info = await store.get_file("n", target)
        assert (info.name, target.read_bytes()) == ("n", some(300))
        await store.put("n", b"new")
        await store.get_file("n", str(target))
        assert target.read_bytes() == b"new"
        with pytest.raises(ObjectNotFoundError):
            await store.get_file("nothing", target)
        with pytest.raises(OSError, match="missing"):
            await store.get_file("n", tmp_path / "missing" / "target")
        with pytest.raises(ConfigurationError, match="file name"):
            await store.put_file("/")
        with pytest.raises(ConfigurationError, match="path must not be empty"):
            await store.get_file("n", "")
        assert target.read_bytes() == b"new"
        left = {path.name for path in await trio.Path(tmp_path).iterdir()}
        assert left == {"source", "target"}


async def test_many_at_a_time_of_one_name(nats_server: NatsServer) -> None:
    """The last one stays, and no chunks of the others."""
    async with connected(nats_server) as (store, js, _):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                data = some(100 + number)
                nursery.start_soon(store.put, ObjectMeta("x", chunk_size=30), data)
        info = await store.info("x")
        assert await stored_chunks(js) == {info.nuid: info.chunks}
        assert len(await store.get_bytes("x")) == info.size


async def test_one_task_at_a_time_reads(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, _, _):
        await store.put("x", b"x")
        reader = store.get("x")
        with pytest.raises(RuntimeError, match="async with"):
            await reader.receive()
        async with reader:
            results: list[object] = []

            async def read() -> None:
                try:
                    results.append(await reader.receive())
                except trio.BusyResourceError as error:
                    results.append(type(error))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                nursery.start_soon(read)
            assert {*results} == {b"x", trio.BusyResourceError}
            await reader.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await reader.receive()


@pytest.mark.slow
async def test_a_reader_and_memory(nats_server: NatsServer) -> None:
    """What is not read is not asked for."""
    async with connected(nats_server) as (store, _, nc):
        await store.put("x", bytes(20 * KIB * KIB))
        before = nc.stats.in_bytes
        async with store.get("x") as reader:
            size = len(await reader.receive())
            for _ in range(50):
                await trio.testing.wait_all_tasks_blocked()
                assert nc.stats.in_bytes - before <= 9 * KIB * KIB
            async for chunk in reader:
                size += len(chunk)
            assert size == 20 * KIB * KIB


@pytest.mark.slow
async def test_the_connection_drains_before_the_end(nats_server: NatsServer) -> None:
    """That is not the end of the object."""
    async with connected(nats_server) as (store, _, nc), trio.open_nursery() as nursery:
        await store.put("x", bytes(20 * KIB * KIB))
        async with store.get("x") as reader:
            await reader.receive()
            nursery.start_soon(nc.drain)
            with pytest.raises(trio.ClosedResourceError, match="draining"):
                while True:
                    await reader.receive()
