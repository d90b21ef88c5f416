"""Cancelled at whatever moment, nothing is left behind and nothing is missed."""

from __future__ import annotations

import pytest
import trio

from tests.jetstream.helpers import connected
from tests.jetstream.test_cancellation import settle, sound
from tests.keyvalue.helpers import brief, bucket
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks, no_leaks
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.slow]


async def test_watching(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js, history=3)
        for key in "abc":
            await kv.put(key, key)
        await kv.delete("c")
        await settle(nc)
        async with no_leaks():
            before = all_tasks()

            async def watching() -> None:
                async with kv.watch() as watch:
                    [entry async for entry in watch.initial()]
                    await kv.put("a", "x")
                    await watch.receive()

            async def listing() -> None:
                await kv.keys()
                await kv.history("a")
                await kv.purge_deletes(0)

            async def make_watching() -> Operation:
                return watching

            async def make_listing() -> Operation:
                return listing

            async def check() -> None:
                assert all_tasks() == before
                await sound(nc)

            assert await cancel_at_each_checkpoint(make_watching, check) >= 5
            assert await cancel_at_each_checkpoint(make_listing, check) >= 10


async def test_no_entry_is_lost(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        kv = await bucket(js, history=3)
        for number in range(4):
            await kv.put(str(number), str(number))
        await settle(nc)
        async with kv.watch() as watch:
            found: list[str] = []

            async def make() -> Operation:
                async def operation() -> None:
                    async for entry in watch.initial():
                        found.append(entry.key)  # noqa: PERF401 -- when it comes
                    found.append((await watch.receive()).key)

                await kv.put("next", "")
                return operation

            async def check() -> None:
                await nc.flush()

            await cancel_at_each_checkpoint(make, check)
            total = (await kv.status()).stream_info.state.last_seq
            with trio.move_on_after(0):
                await watch.receive()
            while len(found) < total:
                found.append(brief(await watch.receive())[0])
        assert found == ["0", "1", "2", "3"] + ["next"] * (total - 4)
