"""Tests of ``NatsCluster``."""

from __future__ import annotations

import json
import socket
import sys

import pytest
import trio

from tests.testing.raw import HANG_TIMEOUT, RawClient, dial
from trio_nats.errors import ConfigurationError
from trio_nats.testing import (
    NatsCluster,
    NatsServer,
    ServerCluster,
    ServerStartError,
    ServerWaitError,
    ServerWebSocket,
    cluster,
)
from trio_nats.testing._system import poll

pytestmark = pytest.mark.slow


async def neighbours(server: NatsServer) -> set[str]:
    routes = (await server.monitor("routez"))["routes"]
    return {route["remote_name"] for route in routes}


async def publish_until_cancelled(client: RawClient) -> None:
    """Interest in a subject spreads through a cluster in its own time."""
    while True:
        await client.send("PUB s 2", "hi")
        await trio.sleep(0.01)


@pytest.mark.parametrize("n", [1, 2, 4])
async def test_every_server_has_routes_to_every_other(n) -> None:
    async with NatsCluster(n, name="flock") as flock:
        names = {f"flock-{i + 1}" for i in range(n)}
        assert len(flock) == n
        assert list(flock) == list(flock.servers) == [flock[i] for i in range(n)]
        assert flock.urls == [server.url for server in flock]
        assert {server.settings.name for server in flock} == names
        for server in flock:
            assert await neighbours(server) == names - {server.settings.name}
            async with dial(server) as client:
                info = await client.info()
                assert (info["server_name"], info["cluster"]) == (server.settings.name, "flock")
                if n > 1:
                    ports = {int(url.rpartition(":")[2]) for url in info["connect_urls"]}
                    assert ports == {one.port for one in flock}
    assert not any(server.is_running for server in flock)


async def test_a_message_crosses() -> None:
    async with NatsCluster(2) as pair:
        async with dial(pair[0]) as listener, dial(pair[1]) as speaker:
            for client in (listener, speaker):
                await client.info()
                assert await client.login() == "PONG"
            await listener.send("SUB s 1")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish_until_cancelled, speaker)
                assert await listener.line() == "MSG s 1 2"
                assert await listener.line() == "hi"
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("n", [2, 3])
async def test_jetstream_is_ready_at_once(n) -> None:
    async with NatsCluster(n, jetstream=True) as trinity:
        for number, server in enumerate(trinity):
            async with dial(server) as client:
                await client.info()
                await client.login()
                stream = {"name": f"S{number}", "subjects": [f"s{number}"], "num_replicas": n}
                created = await client.request(f"$JS.API.STREAM.CREATE.S{number}", stream)
                assert "error" not in created, json.dumps(created)
                assert created["config"]["num_replicas"] == n


async def test_options_hold_for_every_server() -> None:
    async with NatsCluster(
        2, user="ann", password="x", websocket=ServerWebSocket(), config={"ping_max": 7}
    ) as pair:
        assert pair[0].ws_url != pair[1].ws_url
        for server in pair:
            assert (await server.monitor("varz"))["ping_max"] == 7
            async with dial(server) as client:
                await client.info()
                assert await client.login(user="ann", **{"pass": "x"}) == "PONG"


@pytest.mark.parametrize("pool_size", [-1, 1, 5])
async def test_route_pools_of_other_sizes(pool_size) -> None:
    config = {"cluster": {"pool_size": pool_size}}
    async with NatsCluster(2, config=config, start_timeout=HANG_TIMEOUT) as pair:
        routes = (await pair[0].monitor("routez"))["routes"]
        assert sum(not route.get("account") for route in routes) == abs(pool_size)


async def test_a_restarted_server_rejoins_its_cluster() -> None:
    async with NatsCluster(3) as trio_of_servers:
        first, second, third = trio_of_servers
        await first.kill()
        await trio_of_servers.wait_until_ready()
        assert await neighbours(second) == {"trio-nats-3"}
        port = first.port
        await first.start()
        await trio_of_servers.wait_until_ready()
        assert first.port == port
        for server in (second, third):
            assert "trio-nats-1" in await neighbours(server)


async def test_jetstream_has_a_leader_again_after_a_crash() -> None:
    async with NatsCluster(3, jetstream=True) as trinity:
        leader_name = (await trinity[0].monitor("jsz"))["meta_cluster"]["leader"]
        leader = next(one for one in trinity if one.settings.name == leader_name)
        await leader.kill()
        with pytest.raises(ServerWaitError, match="the cluster still lacks"):
            await trinity.wait_until_ready(timeout=0.05)
        await trinity.wait_until_ready(timeout=30)
        others = [one for one in trinity if one is not leader]
        leaders = {(await one.monitor("jsz"))["meta_cluster"]["leader"] for one in others}
        assert len(leaders) == 1
        assert leaders < {one.settings.name for one in others}


async def test_a_node_is_added_for_good() -> None:
    async with NatsCluster(2, name="flock", config={"ping_max": 7}) as flock:
        added = await flock.add_node(debug=True)
        assert added is flock[2]
        assert added.settings.name == "flock-3"
        assert (await added.monitor("varz"))["ping_max"] == 7
        assert "[DBG]" in added.log
        assert await neighbours(added) == {"flock-1", "flock-2"}
        # The others learned its address by gossip only, and find it again.
        for server in flock:
            await server.kill()
        for server in (flock[0], added):
            await server.start()
        await flock.wait_until_ready()
        assert await neighbours(flock[0]) == {"flock-3"}
        with pytest.raises(ConfigurationError, match="makes the cluster settings itself"):
            await flock.add_node(cluster=ServerCluster("other"))
        assert len(flock) == 3
    with pytest.raises(RuntimeError, match="inside its `async with` block"):
        await flock.add_node()
    assert not added.is_running


async def test_a_node_that_does_not_start_is_not_added() -> None:
    async with NatsCluster(2) as pair:
        with pytest.raises(ServerStartError):
            await pair.add_node(config="nonsense {")
        assert len(pair) == 2
        await pair.wait_until_ready()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
async def test_paused_servers_do_not_count() -> None:
    async with NatsCluster(2) as pair:
        pair[0].pause()
        with trio.fail_after(HANG_TIMEOUT):
            await pair.wait_until_ready()
        pair[0].resume()


async def test_servers_that_cannot_form_a_cluster() -> None:
    # The routes are right, but each server has another cluster name.
    names = iter("abc")

    class Loners(NatsCluster):
        async def _start_one(self, *args):
            self._name = next(names)
            return await super()._start_one(*args)

    loners = Loners(2, start_timeout=1)
    with pytest.raises(ServerWaitError, match="lacks routes from a-1 to b-2 after 1 s"):
        await loners.__aenter__()
    assert len(loners) == 2
    assert not any(server.is_running for server in loners)


async def test_an_exception_leaves_the_block_as_itself() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with NatsCluster(2) as pair:
            raise error
    assert caught.value is error
    assert not any(server.is_running for server in pair)


async def test_cancelling_the_start_leaves_nothing_behind() -> None:
    class Unready(NatsCluster):
        async def wait_until_ready(self, *, timeout: float = 10.0) -> None:
            await trio.sleep_forever()

    flock = Unready(2)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flock.__aenter__)
            assert await poll(lambda: len(flock) == 2, HANG_TIMEOUT)
            assert all(server.is_running for server in flock)
            scope.cancel()
    assert scope.cancelled_caught
    assert not any(server.is_running for server in flock)


async def test_a_port_lost_to_another_process(monkeypatch) -> None:
    free_port, calls = cluster.free_port, iter(range(100))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        monkeypatch.setattr(
            cluster, "free_port", lambda host: taken if next(calls) == 1 else free_port(host)
        )
        async with NatsCluster(2) as pair:
            assert next(calls) == 4
            assert len(pair) == 2
            assert str(taken) not in "".join(server.cluster_url for server in pair)


async def test_ports_lost_to_other_processes_every_time(monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        calls = []
        monkeypatch.setattr(cluster, "free_port", lambda host: calls.append(host) or taken)
        with pytest.raises(ServerStartError, match=r"address already in use|Only one usage"):
            await NatsCluster(1, start_timeout=1).__aenter__()
    assert len(calls) == 5


async def test_it_is_entered_once() -> None:
    async with NatsCluster(1) as single:
        with pytest.raises(RuntimeError, match="entered once"):
            await single.__aenter__()
        assert single[0].is_running


@pytest.mark.parametrize(
    ("n", "options", "complaint"),
    [
        (0, {}, "needs at least one server"),
        (1, {"jetstream": True}, "two servers to elect a leader"),
        (3, {"port": 4222}, "cannot share a port"),
        (3, {"websocket": ServerWebSocket(8080)}, "cannot share a port"),
        (3, {"cluster": ServerCluster("c")}, "makes the cluster settings itself"),
        (3, {"user": "ann"}, "must be passed together"),
    ],
)
def test_options_that_cannot_work(n, options, complaint) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        NatsCluster(n, **options)
