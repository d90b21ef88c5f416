"""On three servers: any of them answers, and one of them decides."""

from __future__ import annotations

import pytest
import trio

from tests.jetstream.helpers import retried_placement
from tests.jetstream.scripted_server import QUICK
from tests.keyvalue.helpers import brief, bucket
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import open_nats
from trio_nats.jetstream import WrongLastSequenceError
from trio_nats.keyvalue import KeyExistsError
from trio_nats.testing import NatsCluster

pytestmark = pytest.mark.slow


async def test_in_a_cluster() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        await contend()


async def contend() -> None:
    async with (
        NatsCluster(3, jetstream=True) as cluster,
        open_nats(cluster[0].url, reconnect=QUICK) as nc,
    ):
        await cluster.wait_until_ready()
        kv = await retried_placement(lambda: bucket(nc.jetstream(), num_replicas=3, history=64))
        won: list[int] = []

        async def create(number: int) -> None:
            try:
                won.append(await kv.create("a", str(number)))
            except KeyExistsError:
                pass

        async def update(last: int) -> None:
            try:
                won.append(await kv.update("a", "", last))
            except WrongLastSequenceError:
                pass

        async with kv.watch("a") as watch:
            for round_ in range(6):
                won.clear()
                async with trio.open_nursery() as nursery:
                    for number in range(5):
                        nursery.start_soon(create, number)
                [created] = won
                won.clear()
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(update, created)
                [updated] = won
                if round_ in (1, 3):
                    await nc.reconnect()
                deleted = await kv.delete("a", revision=updated)
                found = [brief(await watch.receive()) for _ in range(3)]
                assert [one[2] for one in found] == [created, updated, deleted]
        assert nc.stats.reconnects == 2
