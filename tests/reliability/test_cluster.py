"""A real cluster of three that loses, gains and replaces its servers under load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    Ledger,
    Load,
    eventually,
    publishing,
    until,
)
from tests.support.certs import certificates
from trio_nats import Connection, TLSOptions, open_nats
from trio_nats.events import Disconnected, LameDuck, Reconnected, ServersDiscovered
from trio_nats.testing import NatsCluster, NatsServer, ServerTLS

pytestmark = pytest.mark.slow

LAME_DUCK = {"lame_duck_grace_period": "1200ms", "lame_duck_duration": "30s"}


def node_of(cluster: NatsCluster, nc: Connection) -> NatsServer:
    port = int((nc.connected_url or "").rpartition(":")[2])
    return next(node for node in cluster if node.port == port)


@asynccontextmanager
async def load_of(
    cluster: NatsCluster, on: NatsServer, *, pause: float = 0.001
) -> AsyncIterator[tuple[Connection, Connection, Load, Ledger, Ledger]]:
    """A publisher and a subscriber that both begin on one server, plain and in a queue group."""
    plain, grouped = Ledger(), Ledger()
    rest = [node.url for node in cluster if node is not on]
    async with (
        open_nats([on.url, *rest], randomize=False, reconnect=QUICK) as pub,
        open_nats([on.url, *rest], randomize=False, reconnect=QUICK) as sub,
        sub.subscribe("plain") as everything,
        sub.subscribe("grouped", queue="workers") as share,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(plain.keep, everything)
        nursery.start_soon(grouped.keep, share)
        await sub.flush(timeout=HANG_TIMEOUT)
        async with publishing(pub, "p", "plain", "grouped", pause=pause) as load:
            yield pub, sub, load, plain, grouped
        await pub.publish("plain", f"p {load.sent}")
        await pub.flush(timeout=HANG_TIMEOUT)
        with trio.move_on_after(HANG_TIMEOUT):
            await eventually(lambda: load.sent in plain.arrived["p"])
        nursery.cancel_scope.cancel()


async def test_each_server_is_killed_in_turn_under_load() -> None:
    async with NatsCluster(3) as cluster, load_of(cluster, cluster[0]) as parts:
        pub, sub, load, plain, grouped = parts
        for _ in range(3):
            victim = node_of(cluster, sub)
            async with pub.events() as published, sub.events() as received:
                both = pub.connected_url == victim.url
                await load.reach(50)
                await victim.kill()
                assert (await until(received, Disconnected)).server == victim.url
                assert (await until(received, Reconnected)).server != victim.url
                if both:
                    assert (await until(published, Reconnected)).server != victim.url
            # Whatever was lost is lost; from here on everything arrives again.
            await sub.flush(timeout=HANG_TIMEOUT)
            await pub.flush(timeout=HANG_TIMEOUT)
            for ledger in (plain, grouped):
                goal = ledger.count("p") + 20
                await eventually(lambda ledger=ledger, goal=goal: ledger.count("p") >= goal)
            await victim.start()
            await cluster.wait_until_ready()
    for ledger in (plain, grouped):
        numbers = ledger.arrived["p"]
        assert len(set(numbers)) == len(numbers), "a message came twice"


async def test_a_rolling_lame_duck_restart_misses_nothing_and_repeats_nothing() -> None:
    async with (
        NatsCluster(3, config=LAME_DUCK) as cluster,
        load_of(cluster, cluster[0], pause=0.005) as (pub, sub, load, plain, grouped),
    ):
        for node in list(cluster):
            theirs = [nc for nc in (pub, sub) if nc.connected_url == node.url]
            before = [nc.stats.reconnects for nc in theirs]
            await load.reach(50)
            await node.lame_duck()
            for nc, count in zip(theirs, before, strict=True):
                await eventually(lambda nc=nc, count=count: nc.stats.reconnects > count)
            await eventually(lambda node=node: not node.is_running)
            await node.start()
            await cluster.wait_until_ready()
        assert pub.stats.reconnects >= 1
        assert sub.stats.reconnects >= 1
    plain.check("p", load.sent + 1)
    # Both connections are members of the group for a while, so the order is the servers' choice.
    grouped.check("p", load.sent, ordered=False)
    assert pub.stats.lost_in_flight == sub.stats.lost_in_flight == 0


async def test_a_server_in_lame_duck_mode_is_left_in_time_and_reported() -> None:
    async with NatsCluster(2, config=LAME_DUCK) as cluster:
        servers = cluster.urls
        async with open_nats(servers, randomize=False) as nc, nc.events() as events:
            await cluster[0].lame_duck()
            assert await until(events, LameDuck) == LameDuck(servers[0])
            assert await until(events, Reconnected) == Reconnected(servers[1])
            assert nc.state == "open"


async def test_reconnecting_on_a_cluster_loses_nothing() -> None:
    async with (
        NatsCluster(2) as cluster,
        load_of(cluster, cluster[0]) as (pub, sub, load, plain, grouped),
    ):
        await load.reach(50)
        with trio.fail_after(HANG_TIMEOUT):
            await sub.reconnect()
            assert sub.connected_url == cluster[1].url
            await load.reach(50)
            await pub.reconnect()
            assert pub.connected_url == cluster[1].url
        await load.reach(50)
    plain.check("p", load.sent + 1)
    grouped.check("p", load.sent, ordered=False)


async def test_servers_that_join_and_leave_are_known_and_forgotten() -> None:
    async with NatsCluster(2) as cluster:
        async with open_nats(cluster[0].url) as nc, nc.events() as events:
            await eventually(lambda: len(nc.servers) == 2)
            joined = await cluster.add_node()
            assert await until(events, ServersDiscovered) == ServersDiscovered((joined.url,))
            await joined.kill()
            await eventually(lambda: joined.port not in [server.port for server in nc.servers])
            assert [server.port for server in nc.servers if server.discovered] == [cluster[1].port]


async def test_a_discovered_server_is_used_when_the_only_seed_is_down() -> None:
    async with NatsCluster(2) as cluster:
        async with open_nats(cluster[0].url, reconnect=QUICK) as nc, nc.events() as events:
            await eventually(lambda: len(nc.servers) == 2)
            await cluster[0].kill()
            assert await until(events, Reconnected) == Reconnected(cluster[1].url)


async def test_the_server_just_lost_is_the_last_to_be_tried() -> None:
    async with NatsCluster(3) as cluster:
        async with open_nats(cluster[0].url, reconnect=QUICK) as nc, nc.events() as events:
            await eventually(lambda: len(nc.servers) == 3)
            assert nc.servers[-1].url == cluster[0].url
            await cluster[0].kill()
            await until(events, Disconnected)
            assert isinstance(await anext(events), Reconnected)


async def test_discovered_addresses_are_verified_under_the_announcing_servers_name() -> None:
    certs = certificates()
    good = ServerTLS(certs.server_dns_only.cert_file, certs.server_dns_only.key_file)
    async with NatsCluster(2, tls=good) as cluster:
        url = f"tls://localhost:{cluster[0].port}"
        options = TLSOptions(ca_file=certs.ca_file)
        async with open_nats(url, tls=options, reconnect=QUICK) as nc, nc.events() as events:
            port = cluster[1].port
            await eventually(lambda: port in [server.port for server in nc.servers])
            await cluster[0].kill()
            # The certificate names localhost and no address.
            assert await until(events, Reconnected) == Reconnected(cluster[1].url)
            assert nc.tls_info is not None
            assert nc.tls_info.verified_name == "localhost"
