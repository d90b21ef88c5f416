"""Reading and writing."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
import trio

from tests.jetstream.helpers import connected, pass_on, relayed
from tests.keyvalue.helpers import brief, bucket
from tests.support.raw import raw_connection
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConfigurationError, DecodeError, EncodeError, Msg
from trio_nats._constructors import construct
from trio_nats.codecs import JSONCodec
from trio_nats.headers import Headers, encode_headers
from trio_nats.jetstream import (
    JetStreamAPIError,
    NoStreamResponseError,
    WrongLastSequenceError,
)
from trio_nats.keyvalue import (
    BucketNotFoundError,
    Entry,
    InvalidKeyError,
    KeyDeletedError,
    KeyExistsError,
    KeyNotFoundError,
    Operation,
)
from trio_nats.keyvalue.entry import operation_of
from trio_nats.keyvalue.store import RAW
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_put_and_get(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=2)
        before = datetime.now(UTC) - timedelta(minutes=1)
        assert await kv.put("a", "1") == 1
        assert await kv.put("b/=_-.C.9", b"2") == 2
        assert await kv.put("a", bytearray(b"3")) == 3
        entry = await kv.get("a")
        assert (entry.bucket, entry.key, entry.value, entry.data) == ("B", "a", b"3", b"3")
        assert (entry.revision, entry.delta, entry.size) == (3, 0, 1)
        assert (entry.operation, entry.is_deleted) == (Operation.PUT, False)
        assert before < entry.timestamp < before + timedelta(minutes=2)
        assert repr(entry) == "<Entry PUT 'a' of 'B', revision 3>"
        assert (await kv.get("a", revision=1)).value == b"1"
        with pytest.raises(KeyNotFoundError, match="no value of revision 2 for key 'a'"):
            await kv.get("a", revision=2)  # another key's
        with pytest.raises(KeyNotFoundError, match="bucket 'B' has no value for key 'x'") as info:
            await kv.get("x")
        assert isinstance(info.value, LookupError)
        assert (info.value.bucket, info.value.key, info.value.revision) == ("B", "x", None)


async def test_invalid_keys(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js)
        sent = nc.stats.out_messages
        for key in ("", "a.*", ">", ".a", "a b"):
            for call in (
                kv.get(key),
                kv.put(key, b""),
                kv.create(key, b""),
                kv.update(key, b"", 1),
                kv.delete(key),
                kv.purge(key),
                kv.history(key),
            ):
                with pytest.raises(InvalidKeyError):
                    await call
        for bad in (kv.get("a", revision=0), kv.delete("a", revision=0), kv.update("a", b"", -1)):
            with pytest.raises(ConfigurationError, match="revision"):
                await bad
        with pytest.raises(ConfigurationError, match="older_than"):
            await kv.purge_deletes(-1)
        assert nc.stats.out_messages == sent


async def test_create_and_update(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        first = await kv.create("a", "1")
        with pytest.raises(KeyExistsError, match="already has a value") as info:
            await kv.create("a", "2")
        assert info.value.last_sequence == first
        second = await kv.update("a", "2", first)
        with pytest.raises(WrongLastSequenceError) as wrong:
            await kv.update("a", "3", first)
        assert wrong.value.last_sequence == second
        assert (await kv.get("a")).value == b"2"
        assert await kv.update("new", "1", 0) == second + 1


@pytest.mark.parametrize("how", ["delete", "purge", "emptied"])
async def test_create_what_was_deleted(nats_server: NatsServer, how: str) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        await kv.put("a", "1")
        if how == "emptied":
            await (await js.stream("KV_B")).purge()
        else:
            await getattr(kv, how)("a")
        revision = await kv.create("a", "2")
        assert (await kv.get("a")).revision == revision
        with pytest.raises(KeyExistsError):
            await kv.create("a", "3")


async def test_create_with_a_replica_that_lags(nats_server: NatsServer) -> None:
    """What it says is compared with what the leader said."""
    asked: list[str] = []

    async def behind(subject: str, request: Msg) -> None:
        asked.append(subject)
        if subject.startswith("DIRECT.GET."):
            found = await nc.request("$JS.API.DIRECT.GET.KV_B", b'{"seq": %d}' % old)
            await request.respond(found.data, headers=found.headers)
        else:
            await pass_on(nc, subject, request)

    async with connected(nats_server) as (real, nc), relayed(nc, behind) as js:
        original = await bucket(real, history=5)
        kv = await js.key_value("B")
        old = await original.put("a", "1")
        await original.delete("a")
        asked.clear()
        assert await kv.create("a", "2") == old + 2
        create = "$KV.B.a"
        assert asked == [create, f"DIRECT.GET.KV_B.{create}", "STREAM.MSG.GET.KV_B", create]


async def test_one_of_many_creates_it(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        await kv.put("a", "0")
        await kv.delete("a")
        won: list[int] = []

        async def create(number: int) -> None:
            try:
                await kv.create("a", str(number))
            except KeyExistsError:
                return
            won.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(create, number)
        assert [(await kv.get("a")).value] == [str(number).encode() for number in won]


async def test_delete(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        first = await kv.put("a", "1")
        with pytest.raises(WrongLastSequenceError):
            await kv.delete("a", revision=first + 1)
        deleted = await kv.delete("a", revision=first)
        with pytest.raises(KeyDeletedError, match="was deleted by revision 2") as info:
            await kv.get("a")
        assert (info.value.revision, info.value.operation) == (deleted, "DEL")
        assert (await kv.get("a", revision=first)).value == b"1"
        history = await kv.history("a")
        assert [brief(entry) for entry in history] == [("a", "1", 1), ("a", "DEL", 2)]
        assert [entry.delta for entry in history] == [1, 0]
        assert history[1].data == b""
        with pytest.raises(KeyDeletedError):
            _ = history[1].value
        with pytest.raises(KeyNotFoundError):
            await kv.history("x")


async def test_purge(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        for value in range(4):
            await kv.put("a", str(value))
        with pytest.raises(WrongLastSequenceError):
            await kv.purge("a", revision=1)
        assert await kv.purge("a", revision=4) == 5
        with pytest.raises(KeyDeletedError, match="was purged by revision 5") as info:
            await kv.get("a")
        assert info.value.operation == "PURGE"
        assert [brief(entry) for entry in await kv.history("a")] == [("a", "PURGE", 5)]


async def test_keys(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        assert await kv.keys() == []
        for key in ("a", "b.c", "b.d", "gone", "b.e.f", "a"):
            await kv.put(key, key)
        await kv.delete("gone")
        assert await kv.keys() == ["b.c", "b.d", "b.e.f", "a"]
        assert await kv.keys("b.*") == ["b.c", "b.d"]
        assert await kv.keys(["b.e.>", "a", "gone"]) == ["b.e.f", "a"]
        with pytest.raises(InvalidKeyError):
            await kv.keys("b.>.c")


@pytest.mark.requires_server("2.11")
async def test_what_the_server_says_of_ttl(nats_server: NatsServer) -> None:
    """What it does with it is its business; what it is told can be read in the message."""
    async with connected(nats_server) as (js, _):
        plain = await bucket(js, "P")
        with pytest.raises(JetStreamAPIError, match="TTL"):
            await plain.create("a", "1", ttl=5)
        kv = await bucket(js, limit_marker_ttl=5)
        revision = await kv.create("a", "1", ttl=60)
        assert (await kv.get("a")).headers["Nats-TTL"] == "60"
        await kv.update("a", "2", revision, ttl=math.inf)
        assert (await kv.get("a")).headers["Nats-TTL"] == "never"
        marker = await kv.purge("a", ttl=2.5)
        msg = await (await js.stream("KV_B")).get_msg(marker)
        assert dict(msg.headers.pairs()) == {
            "KV-Operation": "PURGE",
            "Nats-Rollup": "sub",
            "Nats-TTL": "2500ms",
        }
        longer = await bucket(js, "L", limit_marker_ttl=5, history=2)
        with pytest.raises(ConfigurationError, match="history of 1"):
            await longer.update("a", "1", 0, ttl=5)
        with pytest.raises(ConfigurationError, match="at least 1 second"):
            await kv.create("x", "1", ttl=0.5)


@pytest.mark.requires_server("2.11")
@pytest.mark.slow
async def test_expired_entries(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, limit_marker_ttl=30)
        async with kv.watch("a", updates_only=True) as watch:
            await kv.create("a", "1", ttl=1)
            assert brief(await watch.receive()) == ("a", "1", 1)
            gone = await watch.receive()
        assert (gone.operation, gone.headers["Nats-Marker-Reason"]) == (Operation.PURGE, "MaxAge")
        with pytest.raises(KeyDeletedError):
            await kv.get("a")
        assert await kv.create("a", "2") == gone.revision + 1


@pytest.mark.parametrize(
    ("headers", "operation"),
    [
        ({}, Operation.PUT),
        ({"KV-Operation": "DEL"}, Operation.DELETE),
        ({"KV-Operation": "PURGE"}, Operation.PURGE),
        ({"KV-Operation": "whatever"}, Operation.DELETE),
        ({"Nats-Marker-Reason": "MaxAge"}, Operation.PURGE),
        ({"Nats-Marker-Reason": "Purge"}, Operation.PURGE),
        ({"Nats-Marker-Reason": "Remove"}, Operation.DELETE),
    ],
)
def test_the_operation_is_read_from_headers(headers: dict[str, str], operation: Operation) -> None:
    assert operation_of(Headers(headers)) is operation
    entry = construct(
        Entry,
        bucket="b",
        key="k",
        revision=1,
        timestamp=1_700_000_000_123_456_789,
        delta=0,
        data=b"",
        headers=encode_headers(headers),
        codec=RAW,
    )
    assert entry.operation is operation
    assert entry.headers == Headers(headers)
    assert entry.timestamp == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)


async def test_purge_deletes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        for key in ("a", "b", "kept"):
            await kv.put(key, "1")
            await kv.put(key, "2")
        await kv.delete("a")
        await kv.purge("b")
        assert await kv.purge_deletes() == 2  # what marks them is too young
        assert [brief(entry) for entry in await kv.history("a")] == [("a", "DEL", 7)]
        assert await kv.purge_deletes(older_than=0) == 2
        assert (await kv.status()).values == 2
        assert [entry.revision for entry in await kv.history("kept")] == [5, 6]
        assert await kv.purge_deletes(older_than=0) == 0


async def test_purge_deletes_spares_what_comes_during_it(nats_server: NatsServer) -> None:
    async def late(subject: str, request: Msg) -> None:
        if subject == "STREAM.INFO.KV_B":
            await original.put("a", "2")
        await pass_on(nc, subject, request)

    async with connected(nats_server) as (real, nc), relayed(nc, late) as js:
        original = await bucket(real)
        kv = await js.key_value("B")
        await original.put("a", "1")
        await original.delete("a")
        await kv.purge_deletes(older_than=0)
        assert (await kv.get("a")).value == b"2"


@pytest.mark.slow
@pytest.mark.parametrize("older_than", [0, 3600])
@pytest.mark.parametrize("key", [b">", b"*", b"a.>", b"*.b", b"a\x01"])
async def test_purge_deletes_spares_what_a_wildcard_would_match(
    nats_server: NatsServer, key: bytes, older_than: float
) -> None:
    """The server complains of publishing to one, and stores the message all the same."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=5)
        for value in ("1", "2"):
            await kv.put("a", value)
            await kv.put("a.b", value)
        headers = b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"
        async with raw_connection(nats_server) as raw:
            size = len(headers)
            await raw.until_pong(b"HPUB $KV.B.%b %d %d\r\n%b\r\n" % (key, size, size, headers))
        with trio.fail_after(HANG_TIMEOUT):
            while (await kv.status()).values < 5:
                pass  # Streams store messages after the server has answered a PING.
        assert await kv.purge_deletes(older_than) == 0
        assert [brief(entry)[1] for entry in await kv.history("a")] == ["1", "2"]
        assert [brief(entry)[1] for entry in await kv.history("a.b")] == ["1", "2"]


async def test_a_deleted_bucket(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        await js.delete_key_value("B")
        for call in (kv.get("a"), kv.status(), kv.keys(), kv.history("a"), kv.purge_deletes()):
            with pytest.raises(BucketNotFoundError, match="bucket 'B' does not exist"):
                await call
        for call in (kv.put("a", "1"), kv.delete("a")):
            with pytest.raises(
                NoStreamResponseError, match="nothing was stored: bucket 'B' was deleted, or has no"
            ):
                await call


# --- values of a type ----------------------------------------------------------------------------


class User(msgspec.Struct):
    name: str
    age: int = 0


async def test_typed_values(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        users = await js.create_key_value("B", codec=JSONCodec(User), history=5)
        assert repr(users) == "<KeyValue 'B' of JSONCodec(User)>"
        revision = await users.create("ann", User("Ann"))
        await users.update("ann", User("Ann", 7), revision)
        await users.put("bob", User("Bob"))
        assert (await users.get("ann")).value == User("Ann", 7)
        assert [entry.value.age for entry in await users.history("ann")] == [0, 7]
        async with users.watch() as watch:
            found = {entry.key: entry.value async for entry in watch.initial()}
        assert found == {"ann": User("Ann", 7), "bob": User("Bob")}
        with pytest.raises(EncodeError):
            await users.put("eve", cast("Any", object()))
        raw = await js.key_value("B")
        await raw.put("eve", b"not JSON")
        entry = await users.get("eve")
        assert entry.data == b"not JSON"
        with pytest.raises(DecodeError, match="cannot decode the value of key 'eve'"):
            _ = entry.value


async def test_an_invalid_codec(nats_server: NatsServer) -> None:
    class Reader:
        def decode(self, data: bytes) -> bytes:
            return data

    async with connected(nats_server) as (js, _):
        for codec in (JSONCodec, object(), Reader()):
            with pytest.raises(TypeError, match=r"codec must (have|be)"):
                await js.key_value("B", codec=cast("Any", codec))


async def test_keys_that_are_too_long_for_a_line(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js)
        key = "k" * 3900  # the inbox of the request takes some, too
        assert await kv.put(key, "1") == 1
        assert (await kv.get(key)).data == b"1"
        too_long = "k" * 4096
        for call in (kv.put(too_long, "1"), kv.get(too_long), kv.delete(too_long)):
            with pytest.raises(InvalidKeyError, match=r"^key 'k+'\.\.\. is too long: "):
                await call
        assert nc.stats.reconnects == 0


@pytest.mark.requires_server("2.11")
async def test_the_least_ttl_of_a_value(nats_server: NatsServer) -> None:
    """With a history, the server would keep the value as long as a marker."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js, history=2, limit_marker_ttl=60)
        with pytest.raises(ConfigurationError, match="must be at least 60 s, the bucket's limit_m"):
            await kv.create("a", b"1", ttl=59)
        with pytest.raises(TypeError, match="ttl must be a number of seconds, not '5'"):
            await kv.create("a", b"1", ttl="5")  # type: ignore[call-overload]
        with pytest.raises(ConfigurationError, match="ttl must be a number of seconds, not nan"):
            await kv.create("a", b"1", ttl=math.nan)
        assert (await kv.get("b", revision=await kv.create("b", b"1", ttl=60))).value == b"1"
        other = await bucket(js, "C", limit_marker_ttl=60)
        entry = await other.get("a", revision=await other.create("a", b"1", ttl=1))
        assert entry.headers["Nats-TTL"] == "1"


@pytest.mark.slow
async def test_creating_while_others_delete(nats_server: NatsServer) -> None:
    """A key that has no value can be created, however often others delete it."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        async with trio.open_nursery() as nursery:
            for _ in range(3):

                @nursery.start_soon
                async def delete() -> None:
                    while True:
                        await kv.delete("a")
                        for _ in range(5):  # leaves some time
                            await js.account_info()

            for number in range(100):
                await kv.delete("a")
                await kv.create("a", str(number))
            nursery.cancel_scope.cancel()
