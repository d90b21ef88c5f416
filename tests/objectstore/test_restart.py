"""The server goes away and comes back, and objects are read and put all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.jetstream.helpers import pass_on, relayed
from tests.objectstore.helpers import HANG_TIMEOUT, KIB, connected, stored_chunks
from trio_nats import Msg, ReconnectPolicy, open_nats
from trio_nats.errors import NatsError, RequestTimeoutError
from trio_nats.objectstore import ObjectMeta, ObjectStoreError, ObjectStoreNotFoundError
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)


@pytest.mark.slow
async def test_reading_continues(nats_server: NatsServer) -> None:
    data = bytes(range(256)) * 64 * KIB  # more than is on the way at a time
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK) as nc:
            js = nc.jetstream(timeout=1)
            store = await js.create_object_store("b")
            await store.put("x", data)
            found = bytearray()
            async with store.get("x") as reader:
                for _ in range(10):
                    found += await reader.receive()
                await nats_server.restart()
                async for chunk in reader:
                    found += chunk
            assert found == data


async def test_watching_goes_on(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK) as nc:
            store = await nc.jetstream().create_object_store("b")
            async with store.watch() as watcher:
                for number in range(4):
                    if number == 2:
                        await nats_server.restart()
                        await nc.flush()
                    await store.put(f"{number}", b"")
                    assert (await watcher.receive()).name == f"{number}"


async def test_an_object_is_stored_completely_or_not_at_all(nats_server: NatsServer) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(20):
            if number == 10:
                await nats_server.restart()
            yield b"x"

    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK) as nc:
            js = nc.jetstream(timeout=0.5)
            store = await js.create_object_store("b")
            old = await store.put("x", b"old")
            try:
                info = await store.put(ObjectMeta("x", chunk_size=1), pieces())
            except NatsError:
                info = old
            assert await store.get_bytes("x") == (b"old" if info is old else b"x" * 20)
            assert await stored_chunks(js) == {info.nuid: info.chunks}


@pytest.mark.parametrize("exists", [True, False])
async def test_metadata_that_arrives_late_is_not_stored(
    nats_server: NatsServer, exists: bool
) -> None:
    """As when a server was frozen that had received it. Its chunks have been deleted by then."""
    late: list[tuple[str, Msg]] = []

    async def relay(subject: str, request: Msg) -> None:
        if subject.startswith("$O.b.M.") and not late:
            late.append((subject, request))
        else:
            await pass_on(nc, subject, request)

    async with connected(nats_server) as (store, js, nc):
        old = await store.put("x", b"old") if exists else None
        async with relayed(nc, relay, timeout=1) as relayed_js:
            relayed_store = await relayed_js.object_store("b")
            with pytest.raises(RequestTimeoutError):
                await relayed_store.put("x", b"new")
        [(subject, request)] = late
        await nc.request(subject, request.data, headers=request.headers)
        assert await stored_chunks(js) == ({} if old is None else {old.nuid: old.chunks})
        if old is None:
            assert await store.list() == []
        else:
            assert await store.get_bytes("x") == b"old"


async def test_no_stream_stores_the_chunks(nats_server: NatsServer) -> None:
    """As while a cluster elects a leader, so it must not be reported as a store that is missing."""

    async def pieces() -> AsyncIterator[bytes]:
        await js.delete_object_store("b")
        yield b"x"

    async with connected(nats_server) as (store, js, _):
        with pytest.raises(ObjectStoreError, match="deleted, or has no leader") as caught:
            await store.put("x", pieces())
        assert not isinstance(caught.value, ObjectStoreNotFoundError)
        with pytest.raises(ObjectStoreNotFoundError):
            await store.put("x", b"x")
