"""Key-value buckets of this and other clients: each writes, the others read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.helpers import (
    KEY_VALUE_CLIENTS,
    Client,
    Clients,
    RemoteError,
    differing,
    pairs,
)
from trio_nats import open_nats
from trio_nats.jetstream import StreamSource

pytestmark = pytest.mark.slow

ODD_KEYS = ["=", "/", "-", "_", "1", "a/b=c-_.D", "x" * 300]


def entry(key: str, operation: str, value: str, revision: int) -> dict[str, Any]:
    return {"key": key, "operation": operation, "value": value, "revision": revision}


@pytest.mark.parametrize(("writer", "reader"), pairs("nats_key_value"))
def test_values_and_tombstones(clients: Clients, bucket: str, writer: str, reader: str) -> None:
    write, read = clients[writer], clients[reader]
    write("kv_create_bucket", bucket, history=5)
    assert write("kv_put", bucket, "a.b", "one") == 1
    assert write("kv_put", bucket, "a.b", "zwölf €") == 2
    write("kv_put", bucket, "deleted", "v")
    write("kv_delete", bucket, "deleted")
    write("kv_put", bucket, "purged", "v")
    write("kv_purge", bucket, "purged")
    write("kv_put", bucket, "empty", "")
    assert read("kv_get", bucket, "a.b") == entry("a.b", "PUT", "zwölf €", 2)
    assert read("kv_get", bucket, "a.b", revision=1) == entry("a.b", "PUT", "one", 1)
    assert read("kv_get", bucket, "a.b", revision=3) is None  # another key's
    assert read("kv_get", bucket, "empty") == entry("empty", "PUT", "", 7)
    for key in ("deleted", "purged", "never"):
        assert read("kv_get", bucket, key) is None
    assert read("kv_history", bucket, "a.b") == [
        entry("a.b", "PUT", "one", 1),
        entry("a.b", "PUT", "zwölf €", 2),
    ]
    assert read("kv_history", bucket, "deleted") == [
        entry("deleted", "PUT", "v", 3),
        entry("deleted", "DEL", "", 4),
    ]
    assert read("kv_history", bucket, "purged") == [entry("purged", "PURGE", "", 6)]
    assert read("kv_keys", bucket) == ["a.b", "empty"]
    # What one has deleted, the other can create again, but only once.
    assert read("kv_create", bucket, "deleted", "again") == 8
    assert read("kv_create", bucket, "purged", "again") == 9
    assert write("kv_create", bucket, "purged", "more") is None
    assert write("kv_update", bucket, "purged", "more", 9) == 10
    assert read("kv_update", bucket, "purged", "more", 9) is None
    assert read("kv_update", bucket, "purged", "most", 10) == 11
    assert write("kv_get", bucket, "purged") == entry("purged", "PUT", "most", 11)


@pytest.mark.parametrize("writer", KEY_VALUE_CLIENTS)
def test_odd_keys(clients: Clients, bucket: str, writer: str) -> None:
    clients[writer]("kv_create_bucket", bucket)
    for key in ODD_KEYS:
        clients[writer]("kv_put", bucket, key, key)
    for read in clients.present(KEY_VALUE_CLIENTS):
        assert read("kv_keys", bucket) == sorted(ODD_KEYS)
        for key in ODD_KEYS:
            assert read("kv_get", bucket, key)["value"] == key


@pytest.mark.parametrize("writer", KEY_VALUE_CLIENTS)
def test_expiry_and_limit_markers(clients: Clients, bucket: str, writer: str) -> None:
    """The server writes a marker when a value expires. Others read some of them as values."""
    write, watcher = clients[writer], clients["trio_nats"]
    write("kv_create_bucket", bucket, marker_ttl=60)
    watcher("kv_watch", "expiry", bucket)
    write("kv_create", bucket, "short", "v", ttl=1)
    write("kv_put", bucket, "purged", "v")
    write("kv_purge", bucket, "purged", ttl=1)  # the marker expires without another marker
    write("kv_put", bucket, "stays", "v")
    seen = watcher.watched("expiry", "short", operation="PURGE")
    marker = [entry("short", "PURGE", "", 5)]
    assert [one for one in seen if one["key"] == "short"] == [
        entry("short", "PUT", "v", 1),
        *marker,
    ]
    readers = clients.present(KEY_VALUE_CLIENTS)
    for read in readers:
        assert read("kv_settings", bucket)["marker_ttl"] == 60
        assert read("kv_history", bucket, "short") == marker
        # nats-py returns the marker as an empty value.
        expected = entry("short", "PUT", "", 5) if read.name == "nats_py" else None
        assert read("kv_get", bucket, "short") == expected
        # Two others list the key of the marker.
        expected = ["short"] if read.name in ("node", "nats_key_value") else []
        assert [key for key in read("kv_keys", bucket) if key != "purged"] == [*expected, "stays"]
    for number, again in enumerate(readers):
        revision = again("kv_create", bucket, "short", "again")
        # nats-py takes the marker for a value only if it is the latest revision.
        assert revision == 6 + 2 * number
        clients["trio_nats"]("kv_purge", bucket, "short")


@pytest.mark.parametrize(("writer", "reader"), pairs("nats_key_value"))
def test_watch_options(clients: Clients, bucket: str, writer: str, reader: str) -> None:
    write, read = clients[writer], clients[reader]
    write("kv_create_bucket", bucket, history=3)
    for key, value in (("a", "1"), ("a", "2"), ("b.x", "3"), ("b.y", "4"), ("z", "5")):
        write("kv_put", bucket, key, value)
    write("kv_delete", bucket, "b.x")
    write("kv_put", bucket, "end", "7")
    gone, last = entry("b.x", "DEL", "", 6), entry("end", "PUT", "7", 7)

    def watched(keys: str = ">", until: str = "end", **options: Any) -> list[dict[str, Any]]:
        read("kv_watch", "options", bucket, keys, **options)
        return read.watched("options", until)

    a, y, z = entry("a", "PUT", "2", 2), entry("b.y", "PUT", "4", 4), entry("z", "PUT", "5", 5)
    assert watched() == [a, y, z, gone, last]
    assert watched(ignore_deletes=True) == [a, y, z, last]
    assert watched(include_history=True) == [
        entry("a", "PUT", "1", 1),
        a,
        entry("b.x", "PUT", "3", 3),
        y,
        z,
        gone,
        last,
    ]
    assert watched("b.*", until="b.x") == [y, gone]
    without = [{**one, "value": ""} for one in (a, y, z, gone, last)]
    assert watched(meta_only=True) == without
    if reader == "nats_py":  # it has no more options
        return
    assert watched(resume_from=5) == [z, gone, last]
    read("kv_watch", "updates", bucket, updates_only=True)
    write("kv_put", bucket, "new", "8")
    assert read.watched("updates", "new") == [entry("new", "PUT", "8", 8)]


def test_ignoring_deletes_in_node_leaves_purges(clients: Clients, bucket: str) -> None:
    """And in the others leaves nothing that is no value."""
    clients["trio_nats"]("kv_create_bucket", bucket)
    clients["trio_nats"]("kv_purge", bucket, "a")
    clients["trio_nats"]("kv_put", bucket, "end", "v")
    last = entry("end", "PUT", "v", 2)
    purge = entry("a", "PURGE", "", 1)
    for read in clients.present(KEY_VALUE_CLIENTS):
        read("kv_watch", "purges", bucket, ignore_deletes=True)
        found = read.watched("purges", "end")
        assert found == ([purge, last] if read.name == "node" else [last])


def test_all_watch_while_all_write(clients: Clients, bucket: str) -> None:
    """All watchers see the same changes in the same order."""
    running = clients.present(KEY_VALUE_CLIENTS)
    running[0]("kv_create_bucket", bucket, history=64)
    for client in running:
        client("kv_watch", "live", bucket)
    count = 50
    for client in running:
        client.send("kv_write_many", bucket, client.name, count)
    for client in running:
        client.result()
    running[0]("kv_put", bucket, "end", "")
    first, *others = [client.watched("live", "end") for client in running]
    assert len(first) == len(running) * count + 1
    assert all(found == first for found in others)
    revisions = [one["revision"] for one in first]
    assert revisions == sorted(revisions)
    for client in running:
        mine = [one["value"] for one in first if one["value"].startswith(client.name)]
        assert mine == [f"{client.name} {n}" for n in range(count) if n % 7 != 6]
    for client in running:
        for number in range(5):
            key = f"shared.{number}"
            seen = [one for one in first if one["key"] == key]
            present = client("kv_get", bucket, key)
            assert present == (seen[-1] if seen[-1]["operation"] == "PUT" else None)


def test_all_change_the_same_keys(clients: Clients, bucket: str) -> None:
    """Only one of several clients can update a revision, or create a key that was deleted."""
    running = clients.present(KEY_VALUE_CLIENTS)
    running[0]("kv_create_bucket", bucket, history=64)
    running[0]("kv_watch", "changes", bucket)
    times = 15
    for operation in ("kv_count", "kv_claim"):
        for client in running:
            client.send(operation, bucket, operation, times)
        for client in running:
            client.result()
    running[0]("kv_put", bucket, "end", "")
    seen = running[0].watched("changes", "end")
    numbers = [one["value"] for one in seen if one["key"] == "kv_count"]
    assert numbers == [str(number) for number in range(1, len(running) * times + 1)]
    claims = [one["operation"] for one in seen if one["key"] == "kv_claim"]
    assert claims == ["PUT", "DEL"] * len(running) * times
    for client in running:
        assert client("kv_keys", bucket) == ["end", "kv_count"], client.name


async def test_mirrors_and_sources(clients: Clients, node: Client, bucket: str) -> None:
    """The others look for the keys of a mirror under its own name, and find none."""
    mirror, sourced = f"{bucket}_mirror", f"{bucket}_sourced"
    node("kv_create_bucket", bucket)
    node("kv_put", bucket, "a", "1")
    node("kv_create_bucket", mirror, mirror={"name": bucket})
    node("kv_create_bucket", sourced, sources=[{"name": bucket}])
    async with open_nats(clients.url) as nc:
        js = nc.jetstream()
        for name in (mirror, sourced):
            kv = await js.key_value(name)
            async with kv.watch() as watcher:
                seen = await watcher.receive()  # it may take a while to get there
            assert (seen.key, seen.value) == ("a", b"1")
            assert (await kv.get("a")).value == b"1"
            assert await kv.keys() == ["a"]
        await (await js.key_value(mirror)).put("b", b"2")
        assert node("kv_get", bucket, "b") == entry("b", "PUT", "2", 2)
        await js.create_key_value(mirror, mirror=StreamSource(name=bucket))
        await js.create_key_value(sourced, sources=[StreamSource(name=bucket)])
    for client in clients.present(KEY_VALUE_CLIENTS[1:]):
        assert client("kv_get", sourced, "a")["value"] == "1"
        assert client("kv_get", mirror, "a") is None
        with pytest.raises(RemoteError, match=r"JetStreamNotEnabled|NoStreamResponse|NoResponders"):
            client("kv_put", mirror, "c", "3")


# --- the settings of buckets ---------------------------------------------------------------------

SETTINGS = {"history": 3, "ttl": 3600, "description": "for all", "max_bytes": 2**20}


@pytest.mark.parametrize("maker", KEY_VALUE_CLIENTS)
def test_all_know_the_settings(clients: Clients, bucket: str, maker: str) -> None:
    clients[maker]("kv_create_bucket", bucket, **SETTINGS)
    for read in clients.present(KEY_VALUE_CLIENTS):
        assert read("kv_settings", bucket) == {
            **SETTINGS,
            "marker_ttl": 0,
            "memory": False,
        }


@pytest.mark.parametrize("options", [{}, SETTINGS, {"marker_ttl": 60}], ids=["", "all", "marker"])
@pytest.mark.parametrize("maker", KEY_VALUE_CLIENTS[1:])
def test_create_buckets_of_others_again(
    clients: Clients, bucket: str, maker: str, options: dict[str, Any]
) -> None:
    made = clients[maker]("kv_create_bucket", bucket, **options)
    assert clients["trio_nats"]("kv_create_bucket", bucket, **options) == made
    with pytest.raises(RemoteError, match=r"history is [13], not 7"):
        clients["trio_nats"]("kv_create_bucket", bucket, **{**options, "history": 7})


@pytest.mark.parametrize("maker", KEY_VALUE_CLIENTS)
async def test_updates_change_only_what_they_are_told(
    clients: Clients, bucket: str, maker: str
) -> None:
    clients[maker]("kv_create_bucket", bucket, **SETTINGS)
    async with open_nats(clients.url) as nc:
        js = nc.jetstream()
        before = (await js.stream(f"KV_{bucket}")).info.config
        await js.update_key_value(bucket, description="changed")
        after = (await js.stream(f"KV_{bucket}")).info.config
        assert differing(before, after) == {"description": "changed"}
        await js.create_or_update_key_value(bucket, history=9)
        last = (await js.stream(f"KV_{bucket}")).info.config
        assert differing(after, last) == {"max_msgs_per_subject": 9}
        kv = await js.update_key_value(bucket, limit_marker_ttl=60)
        config = (await kv.status()).stream_info.config
        expected = {"subject_delete_marker_ttl": 60}
        if not last.allow_msg_ttl:  # as in buckets of nats-py
            expected["allow_msg_ttl"] = True
        assert differing(last, config) == expected
    assert clients[maker]("kv_settings", bucket) == {
        **SETTINGS,
        "description": "changed",
        "history": 9,
        "marker_ttl": 60,
        "memory": False,
    }


@pytest.mark.parametrize(("maker", "writer"), pairs("nats_key_value"))
def test_a_ttl_without_markers(clients: Clients, bucket: str, maker: str, writer: str) -> None:
    """All buckets of nats-py allow it."""
    clients[maker]("kv_create_bucket", bucket)
    if maker == "nats_py":
        assert clients[writer]("kv_create", bucket, "a", "v", ttl=60) == 1
    else:
        with pytest.raises(RemoteError, match=r"(?i)ttl is (disabled|not enabled)"):
            clients[writer]("kv_create", bucket, "a", "v", ttl=60)


def test_others_create_buckets_again(clients: Clients, bucket: str) -> None:
    """Node opens any bucket of that name; the others compare all settings of the stream."""
    clients["trio_nats"]("kv_create_bucket", bucket)
    made = clients["trio_nats"]("kv_settings", bucket)
    for other in clients.present(KEY_VALUE_CLIENTS[1:]):
        if other.name == "nats_py":
            with pytest.raises(RemoteError, match="different configuration"):
                other("kv_create_bucket", bucket)
        else:
            assert other("kv_create_bucket", bucket) == made
        assert other("kv_settings", bucket) == made
    assert clients["node"]("kv_create_bucket", bucket, history=7) == made
