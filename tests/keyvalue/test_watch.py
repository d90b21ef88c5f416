"""Watching: what is there first, then what happens, each once and in order."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected
from tests.jetstream.scripted_server import QUICK
from tests.keyvalue.helpers import brief, bucket, initial
from tests.support.proxies import PlainProxy
from trio_nats import ConfigurationError, DecodeError, RequestTimeoutError, open_nats
from trio_nats.headers import Headers, Status, decode_headers
from trio_nats.jetstream import JetStreamError, NoStreamResponseError, watched_messages
from trio_nats.jetstream.stream import ListingError, Stream
from trio_nats.keyvalue import BucketNotFoundError, InvalidKeyError, KeyValue
from trio_nats.keyvalue import entry as entry_module
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def filled(js: Any, **options: Any) -> KeyValue[bytes]:
    kv = await bucket(js, history=5, **options)
    for key, value in (("a", "1"), ("b.x", "2"), ("a", "3"), ("gone", "4")):
        await kv.put(key, value)
    await kv.delete("gone")
    return kv


A, B, LAST, GONE = ("a", "1", 1), ("b.x", "2", 2), ("a", "3", 3), ("gone", "DEL", 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        (">", {}, [B, LAST, GONE]),
        ("a", {}, [LAST]),
        (["a", "b.*"], {}, [B, LAST]),
        (">", {"include_history": True}, [A, B, LAST, ("gone", "4", 4), GONE]),
        (">", {"ignore_deletes": True}, [B, LAST]),
        (">", {"updates_only": True}, []),
        (">", {"resume_from": 3}, [LAST, ("gone", "4", 4), GONE]),
        (">", {"resume_from": 6}, []),
        (">", {"resume_from": 600}, []),
        ("nothing.>", {}, []),
    ],
)
async def test_current_values_and_changes(
    nats_server: NatsServer, keys: Any, options: dict[str, Any], expected: list[Any]
) -> None:
    async with connected(nats_server) as (js, _):
        kv = await filled(js)
        async with kv.watch(keys, **options) as watch:
            assert watch.is_caught_up == (not expected)
            assert await initial(watch) == expected
            assert watch.is_caught_up
            await watch.caught_up()
            assert await initial(watch) == []
            if options.get("resume_from") == 600:
                return
            key = "b.x" if "b.*" in keys else keys.replace(">", "x")
            first = await kv.put(key, "new")
            assert brief(await watch.receive()) == (key, "new", first)
            await kv.delete(key)
            second = await kv.put(key, "again")
            found = [brief(await watch.receive())]
            if not options.get("ignore_deletes"):
                assert found == [(key, "DEL", second - 1)]
                found = [brief(await watch.receive())]
            assert found == [(key, "again", second)]


async def test_an_empty_bucket(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        async with kv.watch() as watch:
            assert watch.is_caught_up
            await kv.put("a", "1")
            assert [brief(entry) async for entry in watch.initial()] == []
            assert brief(await watch.receive()) == ("a", "1", 1)
        with pytest.raises(trio.ClosedResourceError):
            await watch.receive()


async def test_meta_only(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        await kv.put("a", "12345")
        async with kv.watch(meta_only=True) as watch:
            entry = await watch.receive()
        assert (entry.data, entry.size, entry.revision) == (b"", 5, 1)
        with pytest.raises(DecodeError, match="was not sent"):
            _ = entry.value


async def test_invalid_watch_options(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js)
        sent = nc.stats.out_messages
        with pytest.raises(InvalidKeyError):
            kv.watch("a*")
        for options in (
            {"include_history": True, "updates_only": True},
            {"include_history": True, "resume_from": 5},
            {"updates_only": True, "resume_from": 5},
        ):
            with pytest.raises(ConfigurationError, match="give one"):
                kv.watch(**options)
        with pytest.raises(ConfigurationError, match="resume_from"):
            kv.watch(resume_from=0)
        with pytest.raises(TypeError, match="ignore_deletes"):
            kv.watch(ignore_deletes=1)  # type: ignore[arg-type]  # the test
        with pytest.raises(RuntimeError, match="not been entered"):
            await kv.watch().receive()
        assert nc.stats.out_messages == sent


async def test_another_task_waits_until_it_is_caught_up(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await filled(js)
        seen: dict[str, int] = {}
        async with kv.watch() as watch, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def follow() -> None:
                async for entry in watch:
                    seen[entry.key] = entry.revision

            await watch.caught_up()
            assert set(seen) == {"a", "b.x", "gone"}
            assert "caught up" in repr(watch)
            with pytest.raises(trio.BusyResourceError):
                await watch.receive()
            nursery.cancel_scope.cancel()


async def test_skipped_deletion_markers_count(nats_server: NatsServer) -> None:
    """Even if the last thing that is there is one."""
    async with connected(nats_server) as (js, _):
        kv = await filled(js)
        async with kv.watch("gone", ignore_deletes=True) as watch:
            assert not watch.is_caught_up
            assert await initial(watch) == []
            assert watch.is_caught_up


async def test_values_deleted_before_delivery(nats_server: NatsServer) -> None:
    """Nobody says so, and it is noticed all the same."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        async with js.publisher() as publisher:
            for number in range(600):
                await publisher.publish(f"$KV.B.{number}", b"x")
        async with kv.watch() as watch:  # it asks for 500 at first
            await watch.receive()
            assert await (await js.stream("KV_B")).purge() == 600
            assert len(await initial(watch)) < 599
            assert watch.is_caught_up
            await kv.put("a", "1")
            assert brief(await watch.receive()) == ("a", "1", 601)


@pytest.mark.parametrize("options", [{}, {"include_history": True}])
async def test_what_is_replaced_before_it_comes(
    nats_server: NatsServer, options: dict[str, bool]
) -> None:
    """Even if another key is replaced, too, so that the number of entries is as expected."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        async with js.publisher() as publisher:
            for number in range(600):
                await publisher.publish(f"$KV.B.{number}", b"x")
        async with kv.watch(**options) as watch:  # it asks for 500 at first
            await kv.put("0", "new")
            await kv.put("599", "new")
            found = {entry.key: entry.value async for entry in watch.initial()}
            assert found.keys() == {str(number) for number in range(600)}
            assert found["599"] == b"new"


async def test_what_was_stored_since_is_no_part_of_the_beginning(nats_server: NatsServer) -> None:
    """With ``resume_from``, what is replaced comes as a change."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        async with js.publisher() as publisher:
            for number in range(600):
                await publisher.publish(f"$KV.B.{number}", b"x")
        async with kv.watch(resume_from=11) as watch:
            await kv.put("599", "new")
            found = [entry.key async for entry in watch.initial()]
            assert found[:589] == [str(number) for number in range(10, 599)]
            assert len(found) <= 590


@pytest.mark.slow
async def test_keys_while_they_are_overwritten(nats_server: NatsServer) -> None:
    """Each key that has a value all the time is in each list."""
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        names = {f"k.{number}" for number in range(20)}
        for name in names:
            await kv.put(name, "0")
        async with (
            open_nats(nats_server.url) as other,
            other.jetstream().publisher(max_pending=100) as publisher,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def overwrite() -> None:
                while True:
                    for name in names:
                        await publisher.publish(f"$KV.B.{name}", b"1")

            for _ in range(100):
                assert set(await kv.keys()) == names
                assert await kv.keys("k.7") == ["k.7"]
            nursery.cancel_scope.cancel()


async def test_a_check_that_fails_is_not_repeated_for_each_message(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def current_subjects(stream: Stream, subject: str) -> tuple[set[str], int]:
        nonlocal asked
        asked += 1
        raise JetStreamError("no answer")

    asked = 0
    monkeypatch.setattr(watched_messages, "current_subjects", current_subjects)
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        await kv.put("a", "0")
        async with kv.watch("a") as watch:
            for number in range(1, 200):
                await kv.put("a", str(number))
                await watch.receive()
            assert not watch.is_caught_up
        # The delay doubles each time, up to half a minute.
        assert 1 <= asked < 10


async def test_subjects_that_cannot_be_listed_end_the_watch(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def current_subjects(stream: Stream, subject: str) -> tuple[set[str], int]:
        nonlocal asked
        asked += 1
        raise ListingError("the subjects changed")

    asked = 0
    monkeypatch.setattr(watched_messages, "current_subjects", current_subjects)
    monkeypatch.setattr(watched_messages, "LONGEST_SILENCE", 0.01)
    monkeypatch.setattr(watched_messages, "FIRST_SILENCE", 0.01)
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        await kv.put("a", "1")
        with pytest.raises(JetStreamError, match="the subjects changed"):
            await kv.keys("a")
    assert asked == watched_messages.MAX_FAILED_LISTINGS


async def test_messages_that_are_not_keys_are_skipped(nats_server: NatsServer) -> None:
    """A source may bring anything."""
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream(
            "KV_B", subjects=["$KV.B.>", "x"], storage=MEMORY, max_msgs_per_subject=1
        )
        kv = await js.key_value("B")
        await js.publish("x", b"1")
        await kv.put("a", "1")
        assert await kv.keys() == ["a"]
        assert stream.info.config.allow_direct is False
        assert (await kv.get("a")).value == b"1"  # the leader is asked then


async def test_the_bucket_is_deleted(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        async with kv.watch() as watch:
            await kv.put("a", "1")
            await watch.receive()  # so the server knows who to tell
            await js.delete_key_value("B")
            with pytest.raises(BucketNotFoundError, match="bucket 'B' does not exist"):
                await watch.receive()
        with pytest.raises(BucketNotFoundError, match="bucket 'B' does not exist"):
            async with kv.watch():
                pass


async def test_over_a_reconnect(nats_server: NatsServer) -> None:
    """What others store in that time comes too, each once."""
    async with connected(nats_server) as (other, _), PlainProxy(nats_server.port) as proxy:
        theirs = await bucket(other, history=20)
        await theirs.put("a", "0")
        url = f"nats://127.0.0.1:{proxy.port}"
        async with open_nats(url, reconnect=QUICK) as nc:
            kv = await nc.jetstream().key_value("B")
            async with kv.watch() as watch:
                assert brief(await watch.receive()) == ("a", "0", 1)
                for round_ in range(3):
                    start = 1 + 4 * round_
                    await theirs.put("a", str(start))
                    assert (await watch.receive()).value == str(start).encode()
                    proxy.refuse()
                    proxy.cut()
                    for number in range(start + 1, start + 4):
                        await theirs.put("a", str(number))
                    proxy.accept()
                    for number in range(start + 1, start + 4):
                        assert (await watch.receive()).value == str(number).encode()
                assert watch.is_caught_up


@pytest.mark.parametrize("others", [0, 3])
async def test_over_a_reconnect_before_the_first_entry(
    nats_server: NatsServer, others: int
) -> None:
    """A watcher that has caught up gets every change, even if it has not received any yet."""
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js, history=5)
        for number in range(others):
            await kv.put(f"b.{number}", "")
        async with kv.watch("a") as watch:
            assert watch.is_caught_up
            for number in range(2):
                await kv.put("a", str(number))
            await nc.reconnect()
            await kv.put("a", "2")
            found = [brief(await watch.receive()) for _ in range(3)]
            assert found == [("a", str(number), others + 1 + number) for number in range(3)]


async def test_over_a_restart(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK) as nc:
            kv = await nc.jetstream(timeout=0.5).create_key_value("B", history=20)
            for number in range(3):
                await kv.put("a", str(number))
            async with kv.watch(include_history=True) as watch:
                assert [one[1] for one in await initial(watch)] == ["0", "1", "2"]
                await nats_server.restart()
                while True:
                    try:
                        last = await kv.put("a", "3")
                        break
                    except (RequestTimeoutError, NoStreamResponseError, JetStreamError):
                        continue
                found = [brief(await watch.receive())]
                while found[-1][2] < last:
                    found.append(brief(await watch.receive()))
                assert [one[2] for one in found] == list(range(4, last + 1))
            assert (await kv.get("a")).revision == last


async def test_draining(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await filled(js)
        async with kv.watch() as watch, trio.open_nursery() as nursery:
            assert len(await initial(watch)) == 3
            nursery.start_soon(nc.drain)
            assert [entry async for entry in watch] == []


async def test_headers_are_not_decoded_unless_they_are_read(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def decode(block: bytes) -> tuple[Headers, Status | None]:
        decoded.append(block)
        return decode_headers(block)

    monkeypatch.setattr(entry_module, "decode_headers", decode)
    async with connected(nats_server) as (js, _):
        kv = await bucket(js)
        for number in range(3):
            await kv.put(f"k{number}", b"value")
        async with kv.watch(meta_only=True) as watcher:
            entries = [entry async for entry in watcher.initial()]
        assert len(entries) == 3
        assert not decoded
        assert [entry.size for entry in entries] == [5, 5, 5]
        assert len(decoded) == 3
        assert [entry.timestamp for entry in entries] == [
            (await kv.get(entry.key)).timestamp for entry in entries
        ]
