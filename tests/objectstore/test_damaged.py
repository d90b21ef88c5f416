"""What is stored may have been changed by anybody, and is not believed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.objectstore.helpers import connected, plant, stored_chunks, stored_meta
from tests.support.internals import looking_after
from trio_nats.objectstore import (
    DamagedObjectError,
    DigestMismatchError,
    InvalidObjectMetaError,
    ObjectChangedError,
    ObjectMeta,
)
from trio_nats.objectstore.info import read_info
from trio_nats.objectstore.names import digest_text, is_nuid, name_in, read_digest
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

META = ObjectMeta("x", chunk_size=2)
SUBJECT = "$O.b.M.eA=="


async def test_a_chunk_is_altered(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        put = await store.put(META, b"123456")
        stream = await js.stream("OBJ_b")
        await stream.purge(subject=f"$O.b.C.{put.nuid}")
        for chunk in (b"12", b"43", b"56"):
            await js.publish(f"$O.b.C.{put.nuid}", chunk)
        async with store.get("x") as reader:
            assert [await reader.receive() for _ in range(3)] == [b"12", b"43", b"56"]
            for _ in range(2):  # for as long as it is asked
                with pytest.raises(DigestMismatchError, match="digest"):
                    await reader.receive()
        with pytest.raises(DigestMismatchError):
            await store.get_bytes("x")


@pytest.mark.parametrize("missing", [0, 1, 2])
async def test_a_chunk_is_missing(nats_server: NatsServer, missing: int) -> None:
    async with connected(nats_server) as (store, js, _):
        put = await store.put(META, b"123456")
        stream = await js.stream("OBJ_b")
        await stream.delete_msg(put.seq - 3 + missing)
        with pytest.raises(DamagedObjectError, match="must have 3 chunks; 2 are stored"):
            await store.get_bytes("x")


async def test_all_chunks_are_missing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        put = await store.put(META, b"123456")
        await (await js.stream("OBJ_b")).purge(subject=f"$O.b.C.{put.nuid}")
        with pytest.raises(DamagedObjectError, match="0 are stored"):
            await store.get_bytes("x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"size": 5}, DamagedObjectError, "must have 5 bytes; more"),
        ({"size": 7}, DamagedObjectError, "must have 7 bytes; 6 are stored"),
        ({"size": 2**70}, InvalidObjectMetaError, "size"),
        ({"size": -1}, InvalidObjectMetaError, "size"),
        ({"chunks": 2}, DamagedObjectError, "4 are stored"),
        ({"chunks": 4}, DamagedObjectError, "3 are stored"),
        ({"chunks": 0}, InvalidObjectMetaError, "must have chunks"),
        ({"digest": ""}, DigestMismatchError, "cannot be verified"),
        ({"digest": "MD5=abc"}, DigestMismatchError, "cannot be verified"),
        ({"digest": "SHA-256=abc"}, DigestMismatchError, "cannot be verified"),
        ({"digest": digest_text(b"x" * 32)}, DigestMismatchError, "do not match"),
        ({"nuid": ">"}, InvalidObjectMetaError, "nuid"),
        ({"nuid": ""}, InvalidObjectMetaError, "nuid"),
        ({"nuid": "a.b"}, InvalidObjectMetaError, "nuid"),
        ({"headers": {"a": 5}}, InvalidObjectMetaError, "invalid metadata"),
        ({"metadata": [{"a": "b"}]}, InvalidObjectMetaError, "invalid metadata"),
    ],
)
async def test_what_is_known_is_wrong(
    nats_server: NatsServer, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    async with connected(nats_server) as (store, js, _):
        await store.put(META, b"123456")
        await plant(js, SUBJECT, await stored_meta(js, SUBJECT) | changes)
        with pytest.raises(error, match=match):
            await store.get_bytes("x")
        # It can be put right.
        await store.put("x", b"again")
        assert await store.get_bytes("x") == b"again"


async def test_deleting_what_has_wildcards_deletes_nothing_else(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        other = await store.put("other", b"1")
        await plant(js, SUBJECT, {"name": "x", "nuid": ">", "size": 1, "chunks": 1})
        with pytest.raises(InvalidObjectMetaError):
            await store.delete("x")
        put = await store.put("x", b"2")
        assert await stored_chunks(js) == {other.nuid: 1, put.nuid: 1}


async def test_the_bucket_and_name_in_metadata_are_ignored(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        await store.put(META, b"123456")
        lie = {"bucket": "other", "name": "y"}
        await plant(js, SUBJECT, await stored_meta(js, SUBJECT) | lie)
        info = await store.info("x")
        assert (info.bucket, info.name) == ("b", "x")
        assert [each.name for each in await store.list()] == ["x"]
        await store.delete("x")
        assert (await stored_meta(js, SUBJECT))["deleted"]


@pytest.mark.slow
@pytest.mark.parametrize("delete", [True, False])
async def test_changed_while_it_is_read(nats_server: NatsServer, delete: bool) -> None:
    async with connected(nats_server) as (store, _, _):
        await store.put(ObjectMeta("x", chunk_size=100_000), bytes(12_000_000))
        async with store.get("x") as reader:
            await reader.receive()
            if delete:
                await store.delete("x")
            else:
                await store.put("x", b"2")
            with pytest.raises(ObjectChangedError, match="get it again"):
                while True:
                    await reader.receive()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"[" * 100_000,
        b'{"size":"1"}',
        b'{"size":1.5}',
        b"\xff",
        b'{"options":5}',
    ],
)
def test_invalid_metadata(data: bytes) -> None:
    with pytest.raises(InvalidObjectMetaError):
        read_info("b", "n", data, seq=1, timestamp=None)


def test_headers_that_cannot_be_are_left_out() -> None:
    data = msgspec.json.encode(
        {"nuid": "n", "headers": {"good": ["1", "2\r\n"], "b a d": ["x"], "": ["y"]}}
    )
    info = read_info("b", "n", data, seq=1, timestamp=None)
    assert info.headers.pairs() == [("good", "1")]


def test_headers_with_a_single_value() -> None:
    data = msgspec.json.encode({"nuid": "n", "headers": {"a": "one", "b": ["two"], "c": "3\n"}})
    info = read_info("b", "n", data, seq=1, timestamp=None)
    assert info.headers.pairs() == [("a", "one"), ("b", "two")]


def test_digests_and_names() -> None:
    digest = bytes(range(224, 256))
    text = digest_text(digest)
    assert text == "SHA-256=4OHi4-Tl5ufo6err7O3u7_Dx8vP09fb3-Pn6-_z9_v8="
    assert read_digest(text) == digest
    assert read_digest(text.replace("-", "+").replace("_", "/").replace("SHA+", "sha-")) == digest
    for wrong in ("", "SHA-256", "SHA-256=", "SHA-256=!", "SHA-256=AAAA", "SHA-1=" + text[8:]):
        assert read_digest(wrong) is None
    for token in ("", "a", "!!!!", "_w=", "a.eA==", "eB==", "+/=="):
        with pytest.raises(ValueError):
            name_in("b", f"$O.b.M.{token}")
    assert name_in("b", SUBJECT) == "x"
    assert name_in("b", "$O.b.M._w==") == "ÿ"
    assert is_nuid("CkuyLEX4z2hbyjj1aWCfiH")
    assert not any(map(is_nuid, ["", "a b", "a.b", "*", ">", "a>", "é", "\r\n", "x" * 256]))


@pytest.mark.parametrize("token", ["mine.eA==", "eB=="])
async def test_metadata_of_another_object_on_the_subject(
    nats_server: NatsServer, token: str
) -> None:
    """A publisher to some subjects of a store cannot change other objects' metadata."""
    async with connected(nats_server) as (store, js, _):
        put = await store.put("x", b"1")
        forged = {"name": "x", "bucket": "b", "nuid": "forged", "size": 9, "chunks": 1}
        await plant(js, f"$O.b.M.{token}", forged)
        assert [info.nuid for info in await store.list()] == [put.nuid]
        async with store.watch() as watcher:
            assert (await watcher.receive()).nuid == put.nuid
            last = await store.put("y", b"2")
            assert (await watcher.receive()).nuid == last.nuid


async def test_silence_is_no_end(nats_server: NatsServer) -> None:
    """However often it is looked up, a chunk that is there is waited for."""
    async with connected(nats_server) as (store, _, _):
        await store.put(META, b"123456" * 20)
        with looking_after(0.0001):
            for _ in range(5):
                assert await store.get_bytes("x") == b"123456" * 20
