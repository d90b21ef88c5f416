"""Object stores as a whole, what is known about objects, and links."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
import trio

from tests.objectstore.helpers import connected, plant, stored_chunks, stored_meta, subjects
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConfigurationError, RequestTimeoutError, Subscription, UserPassword, open_nats
from trio_nats.headers import Headers
from trio_nats.jetstream import (
    JetStream,
    JetStreamAPIError,
    JetStreamNotEnabledError,
    StorageType,
    StreamNotFoundError,
)
from trio_nats.objectstore import (
    InvalidObjectMetaError,
    ObjectExistsError,
    ObjectInfo,
    ObjectLink,
    ObjectLinkError,
    ObjectMeta,
    ObjectNotFoundError,
    ObjectStoreConfig,
    ObjectStoreError,
    ObjectStoreExistsError,
    ObjectStoreNotFoundError,
)
from trio_nats.objectstore import backend as backend_module
from trio_nats.objectstore.names import latin_subject, meta_subject
from trio_nats.testing import NatsServer
from trio_nats.testing._ports import free_port

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_a_store_comes_and_goes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (_, js, _):
        config = ObjectStoreConfig(bucket="c", description="words", ttl=60.0, max_bytes=1_000_000)
        store = await js.create_object_store(config, compression=True, metadata={"a": "b"})
        assert store.name == "c"
        assert (await js.create_object_store(config, compression=True, metadata={"a": "b"})).name
        with pytest.raises(ObjectStoreExistsError, match="'c'"):
            await js.create_object_store("c")

        stream = (await js.stream("OBJ_c")).info.config
        raw = {key: value for key, value in msgspec.to_builtins(stream).items() if value}
        assert raw["subjects"] == ["$O.c.C.>", "$O.c.M.>"]
        assert (raw["discard"], raw["compression"]) == ("new", "s2")
        assert raw["allow_rollup_hdrs"]
        assert raw["allow_direct"]

        status = await store.status()
        assert (status.bucket, status.description, status.ttl) == ("c", "words", 60.0)
        assert (status.max_bytes, status.storage, status.num_replicas) == (10**6, "file", 1)
        assert (status.is_compressed, status.is_sealed, status.size) == (True, False, 0)
        assert status.metadata["a"] == "b"
        assert status.backing_store == "JetStream"

        await js.update_object_store(config, compression=True, description="others")
        assert (await store.status()).description == "others"
        await js.update_object_store((await store.status()).config, ttl=90)
        status = await store.status()
        assert (status.description, status.ttl, status.is_compressed) == ("others", 90.0, True)
        assert status.size == status.stream_info.state.bytes
        await js.create_or_update_object_store(config, description="these")
        assert (await (await js.object_store("c")).status()).description == "these"
        await js.create_or_update_object_store("d", storage=StorageType.MEMORY)

        await js.create_stream("OTHER", subjects=["$O.x.C.>"])
        assert [name async for name in js.object_store_names()] == ["b", "c", "d"]
        assert [status.bucket async for status in js.object_stores()] == ["b", "c", "d"]

        await js.delete_object_store("c")
        for attempt in (
            js.delete_object_store("c"),
            js.object_store("c"),
            js.update_object_store("c"),
        ):
            with pytest.raises(ObjectStoreNotFoundError, match="'c'"):
                await attempt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options", "kind"),
    [
        ("a.b", {}, ConfigurationError),
        ("", {}, ConfigurationError),
        ("x" * 252, {}, ConfigurationError),
        (5, {}, TypeError),
        ("x", {"nonsense": 1}, TypeError),
        ("x", {"ttl": "1"}, TypeError),
        ("x", {"ttl": -1.0}, ConfigurationError),
        ("x", {"max_bytes": -2}, ConfigurationError),
        ("x", {"num_replicas": "1"}, TypeError),
        ("x", {"metadata": {"": "x"}}, ConfigurationError),
    ],
)
async def test_stores_that_cannot_be(
    nats_server: NatsServer, config: Any, options: dict[str, Any], kind: type[Exception]
) -> None:
    async with connected(nats_server) as (_, js, _):
        with pytest.raises(kind):
            await js.create_object_store(config, **options)


async def test_sealed(nats_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(nats_server) as (store, _, _):
        await store.put("x", b"x")
        assert (await store.seal()).is_sealed
        assert (await store.status()).is_sealed
        assert await store.get_bytes("x") == b"x"
        with pytest.raises(JetStreamAPIError, match="sealed"):
            await store.put("x", b"y")
        assert not caplog.records
        with pytest.raises(JetStreamAPIError, match="sealed"):
            await store.delete("x")
        assert await store.get_bytes("x") == b"x"


async def test_deleting(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        put = await store.put("x", b"123")
        await store.delete("x")
        await store.delete("x")
        assert await stored_chunks(js) == {}
        assert await stored_meta(js, "$O.b.M.eA==") == {
            "name": "x",
            "bucket": "b",
            "nuid": put.nuid,
            "options": {"max_chunk_size": 131072},
            "size": 0,
            "chunks": 0,
            "deleted": True,
        }
        with pytest.raises(ObjectNotFoundError):
            await store.info("x")
        assert (await store.info("x", show_deleted=True)).deleted
        with pytest.raises(ObjectNotFoundError):
            await store.delete("y")
        await store.put("x", b"again")
        assert await store.get_bytes("x") == b"again"


async def test_listing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        assert await store.list() == []
        for name in "abc":
            await store.put(name, name.encode())
        await store.put("a", b"again")
        await store.delete("b")
        assert [(info.name, info.size) for info in await store.list()] == [("c", 1), ("a", 5)]
        assert [info.name for info in await store.list(show_deleted=True)] == ["c", "a", "b"]
        assert (await store.list())[1] == await store.info("a")
        # Malformed metadata is left out, even if it comes last.
        await plant(js, "$O.b.M.ZA==", b"nonsense")
        await plant(js, "$O.b.M.d", b"nonsense")
        assert [info.name for info in await store.list()] == ["c", "a"]


async def test_watching(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        async with store.watch() as watcher:
            assert watcher.is_caught_up
            await store.put("a", b"1")
            assert (await watcher.receive()).name == "a"
        await store.put("b", b"2")
        await store.put("c", b"3")
        await store.delete("b")
        async with (
            store.watch() as everything,
            store.watch(updates_only=True) as updates,
            store.watch(ignore_deletes=True, include_history=True) as present,
        ):
            assert not everything.is_caught_up
            seen = [info async for info in everything.initial()]
            assert everything.is_caught_up
            await everything.caught_up()
            assert [info async for info in everything.initial()] == []
            assert [(info.name, info.deleted) for info in seen] == [
                ("a", False),
                ("c", False),
                ("b", True),
            ]
            assert updates.is_caught_up
            await plant(js, "$O.b.M.ZA==", b"nonsense")
            await store.put("d", b"4")
            for watcher in (everything, updates):
                info = await watcher.receive()
                assert (info.name, info.size) == ("d", 1)
                assert info == await store.info("d")
            assert [info.name async for info in present.initial()] == ["a", "c"]
            assert (await present.receive()).name == "d"
        with pytest.raises(ConfigurationError, match="cannot be combined"):
            store.watch(include_history=True, updates_only=True)
        with pytest.raises(RuntimeError, match="async with"):
            await store.watch().receive()
        with pytest.raises(RuntimeError, match="async with"):
            await store.watch().caught_up()


async def test_what_is_deleted_before_it_is_delivered_is_not_waited_for(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server) as (store, js, _):
        await plant_many(js, 600)
        async with store.watch() as watcher:  # it asks for 500 at first
            await watcher.receive()
            assert await (await js.stream("OBJ_b")).purge() == 600
            assert len([info async for info in watcher.initial()]) < 599
            assert watcher.is_caught_up
            await store.put("b", b"2")
            assert (await watcher.receive()).name == "b"


async def plant_many(js: JetStream, count: int) -> None:
    async with js.publisher() as publisher:
        for number in range(count):
            await publisher.publish(meta_subject("b", str(number)), b'{"nuid": "n"}')


async def test_what_is_replaced_before_it_is_delivered_is_waited_for(
    nats_server: NatsServer,
) -> None:
    """Even if another object is replaced, too, so that the number of messages is as expected."""
    async with connected(nats_server) as (store, js, _):
        await plant_many(js, 600)
        async with store.watch() as watcher:  # it asks for 500 at first
            for name in ("0", "599"):
                await plant(js, meta_subject("b", name), {"nuid": "new"})
            found = {info.name: info.nuid async for info in watcher.initial()}
            assert found.keys() == {str(number) for number in range(600)}
            assert found["599"] == "new"


@pytest.mark.slow
async def test_lists_while_objects_are_replaced(nats_server: NatsServer) -> None:
    """Each object that is there all the time is in each list."""
    async with connected(nats_server) as (store, js, _):
        await plant_many(js, 20)
        async with trio.open_nursery() as nursery:
            for number in range(10):

                @nursery.start_soon
                async def replace(first: int = number) -> None:
                    while True:
                        for name in (first, first + 10):
                            await plant(js, meta_subject("b", str(name)), {"nuid": "new"})

            for _ in range(100):
                assert len(await store.list()) == 20
            nursery.cancel_scope.cancel()


async def test_another_task_waits_until_the_watcher_is_caught_up(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, _, _):
        for name in "abc":
            await store.put(name, b"")
        seen: dict[str, int] = {}
        async with store.watch() as watcher, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def follow() -> None:
                async for info in watcher:
                    seen[info.name] = info.seq

            await watcher.caught_up()
            assert list(seen) == ["a", "b", "c"]
            with pytest.raises(trio.BusyResourceError):
                await watcher.receive()
            nursery.cancel_scope.cancel()


async def test_changing_protocol_text(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        put = await store.put(ObjectMeta("x", "words", chunk_size=2), b"123")
        meta = ObjectMeta("x", "others", {"a": "b"}, {"c": "d"}, chunk_size=77)
        changed = await store.update_meta("x", meta)
        info = await store.info("x")
        assert replace(info, timestamp=None) == replace(changed, timestamp=None)
        assert (info.description, info.headers, info.metadata) == (
            "others",
            Headers({"a": "b"}),
            {"c": "d"},
        )
        assert (info.nuid, info.size, info.chunk_size) == (put.nuid, 3, 2)

        await store.update_meta("x", ObjectMeta("y"))
        assert await store.get_bytes("y") == b"123"
        with pytest.raises(ObjectNotFoundError):
            await store.info("x", show_deleted=True)
        assert set(await subjects(await js.stream("OBJ_b"))) == {
            f"$O.b.C.{put.nuid}",
            "$O.b.M.eQ==",
        }

        await store.put("z", b"z")
        with pytest.raises(ObjectExistsError, match="'z'"):
            await store.update_meta("y", ObjectMeta("z"))
        await store.delete("z")
        await store.update_meta("y", ObjectMeta("z"))
        assert await store.get_bytes("z") == b"123"
        await store.delete("z")
        with pytest.raises(ObjectNotFoundError):
            await store.update_meta("z", ObjectMeta("z"))
        with pytest.raises(ObjectNotFoundError):
            await store.update_meta("nothing", ObjectMeta("z"))


async def test_links(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):
        other = await js.create_object_store("other", storage=StorageType.MEMORY)
        here = await store.put("here", b"1")
        there = await other.put("there", b"2")
        link = await store.add_link("l", here)
        assert await stored_meta(js, "$O.b.M.bA==") == {
            "name": "l",
            "options": {"link": {"bucket": "b", "name": "here"}},
            "bucket": "b",
            "nuid": link.nuid,
            "size": 0,
            "chunks": 0,
        }
        assert (await store.info("l")).link == ObjectLink("b", "here")
        assert await store.get_bytes("l") == b"1"
        await store.add_link("l", there)
        async with store.get("l") as reader:
            assert (reader.info.bucket, reader.info.name) == ("other", "there")
            assert await reader.read_all() == b"2"

        await store.add_bucket_link("l", other)
        assert (await store.info("l")).link == ObjectLink("other")
        with pytest.raises(ObjectLinkError, match="'other'"):
            await store.get_bytes("l")
        await store.update_meta("l", ObjectMeta("m", "words"))
        assert (await store.info("m")).link == ObjectLink("other")
        for make in (store.add_link("here", there), store.add_bucket_link("here", other)):
            with pytest.raises(ObjectExistsError):
                await make
        with pytest.raises(ObjectLinkError, match="link itself"):
            await store.add_link("n", await store.info("m"))
        await other.delete("there")
        with pytest.raises(ObjectLinkError, match="deleted"):
            await store.add_link("n", await other.info("there", show_deleted=True))
        await store.delete("here")
        await store.add_bucket_link("here", other)
        # Another object in its place is an object.
        await store.put("here", b"3")
        assert await store.get_bytes("here") == b"3"
        for wrong in (None, there.name):
            with pytest.raises(TypeError):
                await store.add_link("n", wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                await store.add_bucket_link("n", wrong)  # type: ignore[arg-type]


async def test_links_that_lead_nowhere(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, _):

        def meta(link: dict[str, str]) -> dict[str, Any]:
            return {"name": "l", "nuid": "x", "options": {"link": link}}

        await plant(js, "$O.b.M.bA==", meta({"bucket": "b", "name": "l"}))
        with pytest.raises(ObjectLinkError, match="circle"):
            await store.get_bytes("l")
        for link in ({"bucket": "a.>", "name": "x"}, {"bucket": "b", "name": "x" * 3000}):
            await plant(js, "$O.b.M.bA==", meta(link))
            with pytest.raises((ObjectLinkError, ObjectNotFoundError)):
                await store.get_bytes("l")
        await plant(js, "$O.b.M.bA==", meta({"bucket": "nowhere", "name": "x"}))
        with pytest.raises(ObjectStoreNotFoundError, match="nowhere"):
            await store.get_bytes("l")
        await plant(js, "$O.b.M.bA==", meta({"bucket": "b", "name": "nothing"}))
        with pytest.raises(ObjectNotFoundError, match="nothing"):
            await store.get_bytes("l")


def test_object_info_has_defaults() -> None:
    info = ObjectInfo(bucket="b", name="n")
    assert (info.size, info.deleted, info.link, info.timestamp) == (0, False, None, None)
    assert info == replace(info)


async def test_a_link_of_node(nats_server: NatsServer) -> None:
    """It has no nuid, and needs none."""
    async with connected(nats_server) as (store, js, _):
        target = await store.put("film", b"1")
        link = {"name": "link", "bucket": "b", "options": {"link": {"bucket": "b", "name": "film"}}}
        await plant(js, "$O.b.M.bGluaw==", link)
        info = await store.info("link")
        assert (info.nuid, info.link) == ("", ObjectLink("b", "film"))
        assert await store.get_bytes("link") == b"1"
        assert [info.name for info in await store.list()] == ["film", "link"]
        async with store.watch() as watcher:
            assert [info.name async for info in watcher.initial()] == ["film", "link"]
        await store.update_meta("link", ObjectMeta("link", description="d"))
        assert (await store.info("link")).description == "d"
        await plant(js, "$O.b.M.bGluaw==", link)
        assert (await store.add_link("link", target)).nuid
        await plant(js, "$O.b.M.bGluaw==", link)
        await store.delete("link")
        assert [info.name for info in await store.list()] == ["film"]
        await plant(js, "$O.b.M.bGluaw==", link)
        await store.put("link", b"2")
        assert await store.get_bytes("link") == b"2"
        await plant(js, "$O.b.M.bGluaw==", {**link, "nuid": "*"})
        with pytest.raises(InvalidObjectMetaError, match="nuid"):
            await store.info("link")


async def test_a_name_in_latin_1(nats_server: NatsServer) -> None:
    """Node encodes names so."""
    async with connected(nats_server) as (store, js, _):
        subject = "$O.b.M.6Q=="
        await plant(js, subject, {"name": "é", "bucket": "b", "nuid": "n"})
        assert [info.name for info in await store.list()] == ["é"]
        assert await store.get_bytes("é") == b""
        await store.put("é", b"1")
        assert (await stored_meta(js, subject))["size"] == 1
        assert await store.get_bytes("é") == b"1"
        await store.delete("é")
        assert await store.list() == []
        await store.put("é", b"2")
        # Where both are, that in UTF-8 is the one that is found, and listed.
        mine = meta_subject("b", "é")
        await plant(js, mine, {"nuid": "mine"})
        await plant(js, subject, {"nuid": "n"})
        assert [info.nuid for info in await store.list()] == ["mine"]
        assert (await store.info("é")).nuid == "mine"
        await store.delete("é")
        assert (await stored_meta(js, mine))["deleted"]
        with pytest.raises(ObjectNotFoundError):
            await store.info("ü")
        with pytest.raises(ObjectNotFoundError):
            await store.info("€")


async def test_the_spelling_of_a_name_is_kept_while_it_is_looked_up(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server) as (_, js, _):
        await plant(js, latin_subject("b", "é") or "", {"nuid": "n"})
        backend = backend_module.ObjectBackend(js, await js.stream("OBJ_b"))
        await backend.info("é")
        found = backend.meta_subject("é")
        with trio.move_on_after(0):
            await backend.info("é")  # begun, and not finished
        assert backend.meta_subject("é") == found == latin_subject("b", "é")


async def test_only_some_spellings_are_remembered(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "MAX_LATIN_NAMES", 2)
    async with connected(nats_server) as (_, js, _):
        backend = backend_module.ObjectBackend(js, await js.stream("OBJ_b"))
        for name in ("è", "é", "ê"):
            await plant(js, latin_subject("b", name) or "", {"nuid": "n"})
            await backend.info(name)
        assert backend.meta_subject("è") == meta_subject("b", "è")
        for name in ("é", "ê"):
            assert backend.meta_subject(name) == latin_subject("b", name)


async def test_in_a_domain() -> None:
    """Behind a leaf node: what is stored goes to the store of that domain, and no other."""
    port = free_port("127.0.0.1")
    hub = {"jetstream": {"domain": "hub"}, "leafnodes": {"host": "127.0.0.1", "port": port}}
    remotes = [{"urls": [f"nats-leaf://127.0.0.1:{port}"]}]
    leaf = {"jetstream": {"domain": "leaf"}, "leafnodes": {"remotes": remotes}}
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(jetstream=True, config=hub, name="hub") as server,
            NatsServer(jetstream=True, config=leaf, name="leaf") as behind,
            open_nats(server.url) as at_the_hub,
            open_nats(behind.url) as nc,
        ):
            far = await at_the_hub.jetstream().create_object_store("b")
            while True:
                try:
                    store = await nc.jetstream(domain="hub").object_store("b")
                    break
                except JetStreamNotEnabledError:  # the leaf is not connected yet
                    await trio.sleep(0.01)
            await store.put("a", b"1" * 300_000)
            assert await store.get_bytes("a") == await far.get_bytes("a") == b"1" * 300_000
            await store.delete("a")
            assert await store.list() == await far.list() == []
            await store.put("c", b"2")

            # A store of the same name would store it, too.
            near = await nc.jetstream().create_object_store("b")
            store = await nc.jetstream(domain="hub").object_store("b")
            assert await store.get_bytes("c") == b"2"
            for change in (store.put("a", b"3"), store.delete("c")):
                with pytest.raises(ObjectStoreError, match="the one of the same name in domain 'l"):
                    await change
            assert await near.list() == []
            assert [info.name for info in await far.list()] == ["c"]
            own = await nc.jetstream(domain="leaf").object_store("b")
            assert own.name == "b"


IMPORTING = {
    "accounts": {
        "A": {
            "jetstream": True,
            "users": [{"user": "a", "password": "a"}],
            "exports": [
                {"service": "$JS.API.>", "response_type": "stream"},
                {"service": "$O.>"},
            ],
        },
        "B": {
            "users": [{"user": "b", "password": "b"}],
            "imports": [
                *(
                    {"service": {"account": "A", "subject": f"$JS.API.{of}"}, "to": f"of.a.{of}"}
                    for of in ("STREAM.>", "CONSUMER.>", "DIRECT.>")
                ),
                {"service": {"account": "A", "subject": "$O.>"}, "to": "of.a.$O.>"},
            ],
        },
        "C": {
            "users": [{"user": "c", "password": "c"}],
            "imports": [
                {"service": {"account": "A", "subject": f"$JS.API.{of}"}, "to": f"of.a.{of}"}
                for of in ("STREAM.>", "CONSUMER.>", "DIRECT.>")
            ],
        },
    }
}


async def test_of_another_account() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(jetstream=True, config=IMPORTING) as server,
            open_nats(server.url, auth=UserPassword("a", "a")) as of_a,
            open_nats(server.url, auth=UserPassword("b", "b")) as of_b,
            open_nats(server.url, auth=UserPassword("c", "c")) as of_c,
        ):
            theirs = await of_a.jetstream().create_object_store("b", storage=StorageType.MEMORY)
            store = await of_b.jetstream(prefix="of.a").object_store("b")
            await store.put("x", b"1")
            assert await theirs.get_bytes("x") == await store.get_bytes("x") == b"1"
            await store.put("x", b"2")
            await store.delete("x")
            assert await theirs.list() == []
            # This account imports no such subjects.
            other = await of_c.jetstream(prefix="of.a").object_store("b")
            assert await other.list() == []
            with pytest.raises(ObjectStoreError, match=r"import '\$O\.b\.>' as 'of\.a\.\$O\.b\.>'"):
                await other.put("x", b"3")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            JetStreamAPIError(503, 10008, "no leader"),
            "cannot find out whether .* no leader.* import",
        ),
        (RequestTimeoutError("no answer"), "cannot find out .* no answer.* import"),
        (StreamNotFoundError(404, 10059, "not found"), "no stream stores messages published to"),
    ],
)
async def test_whether_there_is_another_store_is_not_known(
    monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    """Changes are allowed only once it is known that there is no local store."""

    class Local:
        def __init__(self, *_args: object, **_options: object) -> None:
            pass

        async def request(self, *_args: object) -> None:
            raise error

    monkeypatch.setattr(backend_module, "API", Local)
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(jetstream=True, config=IMPORTING) as server,
            open_nats(server.url, auth=UserPassword("a", "a")) as of_a,
            open_nats(server.url, auth=UserPassword("c", "c")) as of_c,
        ):
            await of_a.jetstream().create_object_store("b", storage=StorageType.MEMORY)
            store = await of_c.jetstream(prefix="of.a").object_store("b")
            with pytest.raises(ObjectStoreError, match=text):
                await store.put("x", b"1")


async def test_an_acknowledgement_of_another_store(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (store, js, nc):
        await store.put("x", b"1")
        await js.update_stream((await js.stream("OBJ_b")).info.config, subjects=["elsewhere"])

        async def answer(sub: Subscription) -> None:
            async for msg in sub:
                await msg.respond(b'{"stream": "OBJ_b", "seq": 9, "domain": "far"}')

        async with nc.subscribe("$O.b.>") as sub, trio.open_nursery() as nursery:
            nursery.start_soon(answer, sub)
            for change in (store.delete("x"), store.put("x", b"2")):
                with pytest.raises(ObjectStoreError, match="'OBJ_b' in domain 'far': give"):
                    await change
            nursery.cancel_scope.cancel()
