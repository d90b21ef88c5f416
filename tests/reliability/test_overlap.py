"""Why the old wire is listened to for a while after a change of servers.

The new server has our subscriptions at once; the rest of the cluster hears of them later. What is
published elsewhere in the meantime is sent on to the old server only. Here "later" is when the test
says so: the servers ``new`` and ``elsewhere`` reach each other through proxies that can hold up
what they say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.reliability.helpers import HANG_TIMEOUT, eventually
from tests.support.internals import is_moving, set_handover_limits
from tests.support.proxies import PlainProxy
from trio_nats import open_nats
from trio_nats.testing import NatsServer
from trio_nats.testing._ports import free_port
from trio_nats.testing.cluster import routed_servers
from trio_nats.testing.settings import ServerCluster


@asynccontextmanager
async def member(name: str, seed: NatsServer) -> AsyncIterator[tuple[NatsServer, PlainProxy]]:
    """A server that the others of its cluster reach through a proxy."""
    port = free_port("127.0.0.1")
    async with PlainProxy(port) as proxy:
        async with NatsServer(
            name=name,
            cluster=ServerCluster("slow", port, (seed.cluster_url,)),
            config={"cluster": {"advertise": f"127.0.0.1:{proxy.port}"}},
        ) as server:
            yield server, proxy


@pytest.mark.parametrize("overlap", [None, 0.0], ids=["as it is", "none"])
async def test_a_message_that_the_new_server_does_not_get(overlap: float | None) -> None:
    async with (
        NatsServer(name="old", cluster=ServerCluster("slow")) as old,
        member("new", old) as (new, to_new),
        member("elsewhere", old) as (elsewhere, to_elsewhere),
    ):
        with trio.fail_after(HANG_TIMEOUT):
            while not await routed_servers(new) >= {"old", "elsewhere"}:  # noqa: ASYNC110
                await trio.sleep(0.01)
        async with (
            open_nats(elsewhere.url, ignore_discovered=True) as pub,
            open_nats([old.url, new.url], randomize=False, ignore_discovered=True) as nc,
            nc.subscribe("a") as sub,
            trio.open_nursery() as nursery,
        ):
            if overlap is not None:
                set_handover_limits(nc, overlap=overlap)
            arrived: list[bytes] = []

            async def keep() -> None:
                while True:
                    arrived.append((await sub.receive()).data)

            async def publish_until_it_arrives(data: bytes) -> None:
                with trio.fail_after(HANG_TIMEOUT):
                    while data not in arrived:
                        await pub.publish("a", data)
                        await trio.sleep(0.005)

            nursery.start_soon(keep)
            await publish_until_it_arrives(b"before")
            to_new.swallow = to_elsewhere.swallow = True
            with trio.fail_after(HANG_TIMEOUT):
                await nc.reconnect()
            assert nc.connected_url == new.url
            if overlap is not None:
                await eventually(lambda: not is_moving(nc))
            await pub.publish("a", b"between")
            await pub.flush(timeout=HANG_TIMEOUT)
            if overlap is None:
                await eventually(lambda: b"between" in arrived)
            to_new.swallow = to_elsewhere.swallow = False
            await publish_until_it_arrives(b"later")
            assert arrived.count(b"between") == (1 if overlap is None else 0)
            assert (nc.stats.reconnects, nc.stats.lost_in_flight) == (1, 0)
            nursery.cancel_scope.cancel()
