"""Real servers: plain, encrypted, with client certificates, compressed, restarted and left."""

from __future__ import annotations

import os

import pytest
import trio

from tests.reliability.helpers import eventually, until
from tests.support.certs import server_context
from tests.support.jwts import Key, Operator
from tests.support.leaks import no_leaks
from tests.support.proxies import PlainProxy, TLSTerminatingProxy
from tests.websocket.helpers import CERTS, HANG_TIMEOUT, QUICK, failure, server_tls, trusting
from trio_nats import (
    JWT,
    Auth,
    AuthorizationError,
    ConnectionState,
    MaxPayloadError,
    NKey,
    NoRespondersError,
    Token,
    UserPassword,
    WebSocketOptions,
    open_nats,
)
from trio_nats.events import Disconnected, LameDuck, Reconnected, ServersDiscovered
from trio_nats.testing import NatsCluster, NatsServer, ServerWebSocket

COMPRESSED = WebSocketOptions(compression=True)
ENCRYPTIONS = pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])


def listener(encrypted: bool, **options: bool) -> ServerWebSocket:
    return ServerWebSocket(tls=server_tls() if encrypted else None, **options)


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.slow
@ENCRYPTIONS
@pytest.mark.parametrize("theirs", [False, True], ids=["server plain", "server compresses"])
@pytest.mark.parametrize("ours", [False, True], ids=["plain", "compress"])
async def test_messages_both_ways(encrypted: bool, theirs: bool, ours: bool) -> None:
    payloads = [b"", b"x", os.urandom(200_000), b"again " * 50_000, bytes(1_000_000), b"end"]
    async with NatsServer(websocket=listener(encrypted, compression=theirs)) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with (
                no_leaks(),
                open_nats(
                    server.ws_url,
                    tls=trusting(server.ws_url),
                    websocket=WebSocketOptions(compression=ours),
                ) as nc,
                nc.subscribe("a") as sub,
            ):
                assert nc.connected_url == server.ws_url
                for payload in payloads:
                    await nc.publish("a", payload, headers={"n": str(len(payload))})
                for payload in payloads:
                    msg = await sub.receive()
                    assert (msg.data, msg.headers["n"]) == (payload, str(len(payload)))
                with pytest.raises(NoRespondersError):
                    await nc.request("nobody")
                with pytest.raises(MaxPayloadError):
                    await nc.publish("a", bytes(1024 * 1024 + 1))
                assert nc.stats.reconnects == 0


async def test_both_sides_really_compress() -> None:
    async with (
        NatsServer(websocket=ServerWebSocket(compression=True)) as server,
        PlainProxy(int(server.ws_url.rpartition(":")[2])) as proxy,
    ):
        passed = []
        for options in (COMPRESSED, WebSocketOptions()):
            async with (
                open_nats(f"ws://127.0.0.1:{proxy.port}", websocket=options) as nc,
                nc.subscribe("a") as sub,
            ):
                for _ in range(20):
                    await nc.publish("a", b"the same words " * 1000)
                for _ in range(20):
                    assert len((await sub.receive()).data) == 15_000
                link = proxy.links[-1]
                passed.append((len(link.to_server), len(link.to_client)))
        (up, down), (plain_up, plain_down) = passed
        assert min(plain_up, plain_down) > 300_000
        assert max(up, down) < 15_000


@pytest.mark.slow
async def test_many_small_messages_where_the_server_takes_only_small_ones() -> None:
    """It hangs up where more than its max_payload comes out of one compressed message."""
    async with NatsServer(
        config={"max_payload": 1000}, websocket=ServerWebSocket(compression=True)
    ) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with (
                open_nats(server.ws_url, websocket=COMPRESSED) as nc,
                nc.subscribe("a") as sub,
            ):
                for number in range(2000):
                    await nc.publish("a", b"%d" % number * 100)
                    if number % 100 == 99:
                        await nc.flush()
                for number in range(2000):
                    assert (await sub.receive()).data == b"%d" % number * 100
                assert nc.stats.reconnects == 0


async def test_one_connection_over_websocket_and_one_without() -> None:
    async with NatsServer(websocket=ServerWebSocket()) as server:
        async with open_nats(server.url) as tcp, open_nats(server.ws_url) as web:
            async with tcp.subscribe("a") as here, web.subscribe("b") as there:
                await tcp.flush()
                await web.flush()
                await tcp.publish("b", b"over TCP")
                await web.publish("a", b"over WebSocket")
                with trio.fail_after(HANG_TIMEOUT):
                    assert (await there.receive()).data == b"over TCP"
                    assert (await here.receive()).data == b"over WebSocket"


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
async def test_a_path_and_ipv6(encrypted: bool) -> None:
    async with NatsServer(host="::1", websocket=listener(encrypted)) as server:
        url = f"{server.ws_url}/any/path?of=mine"
        async with open_nats(url, tls=trusting(url)) as nc:
            await nc.flush()
            # Without the query, which may hold a secret.
            assert nc.connected_url == server.ws_url


async def test_behind_a_proxy_that_terminates_tls() -> None:
    async with (
        NatsServer(websocket=ServerWebSocket()) as server,
        TLSTerminatingProxy(
            int(server.ws_url.rpartition(":")[2]), server_context(CERTS.server)
        ) as proxy,
    ):
        url = f"wss://localhost:{proxy.port}/nats"
        async with open_nats(url, tls=trusting(url)) as nc:
            await nc.flush()
            assert nc.tls_info is not None
        assert proxy.to_server.startswith(b"GET /nats HTTP/1.1\r\n")


async def test_a_server_may_reject_an_origin() -> None:
    config = {"websocket": {"same_origin": True}}
    async with NatsServer(config=config, websocket=ServerWebSocket()) as server:
        attempt = await failure(
            server.ws_url, websocket=WebSocketOptions(headers={"Origin": "https://a.example"})
        )
        assert "HTTP 403, saying 'Forbidden'" in str(attempt.error)
        assert "which origins" in str(attempt.error)
        origin = server.ws_url.replace("ws:", "http:")
        headers = WebSocketOptions(headers={"Origin": origin})
        async with open_nats(server.ws_url, websocket=headers) as nc:
            await nc.flush()


# --- credentials ----------------------------------------------------------------------------------

KEY = Key()
OPERATOR = Operator()
USER = OPERATOR.user("alice")
CREDENTIALS: dict[str, tuple[str, Auth, Auth]] = {
    "password": (
        'authorization { user: "joe", password: "right" }',
        UserPassword("joe", "right"),
        UserPassword("joe", "wrong"),
    ),
    "token": ('authorization { token: "right" }', Token("right"), Token("wrong")),
    "nkey": (
        f'authorization {{ users: [ {{ nkey: "{KEY.public}" }} ] }}',
        NKey(seed=KEY.seed),
        NKey(seed=Key().seed),
    ),
    "jwt": (
        OPERATOR.config,
        JWT(USER.jwt, seed=USER.seed),
        JWT(Operator().user("x").jwt, sign=lambda nonce: b"x" * 64),
    ),
}


@pytest.mark.parametrize("case", CREDENTIALS)
async def test_credentials(case: str) -> None:
    config, right, wrong = CREDENTIALS[case]
    async with NatsServer(config=config, websocket=ServerWebSocket()) as server:
        async with open_nats(server.ws_url, auth=right) as nc:
            await nc.flush()
        attempt = await failure(server.ws_url, auth=wrong)
        assert attempt.phase == "auth"
        assert isinstance(attempt.error, AuthorizationError)


# --- losing and changing servers ------------------------------------------------------------------


@ENCRYPTIONS
async def test_a_server_that_comes_back(encrypted: bool) -> None:
    async with NatsServer(websocket=listener(encrypted)) as server:
        async with (
            open_nats(server.ws_url, tls=trusting(server.ws_url), reconnect=QUICK) as nc,
            nc.subscribe("a") as sub,
            nc.events() as events,
        ):
            await server.kill()
            await until(events, Disconnected)
            await nc.publish("a", b"published between")
            await server.start()
            await until(events, Reconnected)
            with trio.fail_after(HANG_TIMEOUT):
                assert (await sub.receive()).data == b"published between"


async def test_a_server_that_shuts_down_says_so() -> None:
    async with NatsServer(websocket=ServerWebSocket()) as server:
        async with open_nats(server.ws_url, reconnect=QUICK) as nc, nc.events() as events:
            await nc.flush()
            await server.stop()
            lost = await until(events, Disconnected)
            assert "closed the WebSocket: 1001 (going away): 'Server Shutdown'" in str(lost.reason)


@ENCRYPTIONS
async def test_reconnecting_on_demand_misses_nothing(encrypted: bool) -> None:
    async with NatsServer(websocket=listener(encrypted, compression=True)) as server:
        async with (
            open_nats(server.url) as pub,
            open_nats(server.ws_url, tls=trusting(server.ws_url), websocket=COMPRESSED) as nc,
            nc.subscribe("a") as sub,
        ):
            await nc.flush()
            sent = 0

            async def publish() -> None:
                nonlocal sent
                while True:
                    await pub.publish("a", b"%d" % sent)
                    sent += 1
                    await trio.sleep(0.001)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                await eventually(lambda: sent > 20)
                with trio.fail_after(HANG_TIMEOUT):
                    await nc.reconnect()
                goal = sent + 20
                await eventually(lambda: sent > goal)
                nursery.cancel_scope.cancel()
            await pub.flush()
            with trio.fail_after(HANG_TIMEOUT):
                assert [int((await sub.receive()).data) for _ in range(sent)] == [*range(sent)]
            assert nc.stats.reconnects == 1


@ENCRYPTIONS
async def test_a_lame_duck_is_left_for_a_websocket_that_it_named(encrypted: bool) -> None:
    """Not for one of the cluster's other ports; and with the path that led to the first."""
    config = {"lame_duck_grace_period": "1s", "lame_duck_duration": "30s"}
    async with NatsCluster(2, config=config, websocket=listener(encrypted)) as cluster:
        first, second = cluster
        url = first.ws_url.replace("127.0.0.1", "localhost") + "/through?a=b"
        async with (
            open_nats(url, tls=trusting(url), reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            await eventually(lambda: second.ws_url in [server.url for server in nc.servers])
            (found,) = (server for server in nc.servers if server.url == second.ws_url)
            assert found.path == "/through?a=b"
            # What it is known by is an address, so its certificate has to be for the first's name.
            assert found.tls_name == "localhost"
            await first.lame_duck()
            await until(events, LameDuck)
            await until(events, Reconnected)
            assert nc.connected_url == second.ws_url
            assert nc.state is ConnectionState.OPEN
            if encrypted:
                assert nc.tls_info is not None
                assert nc.tls_info.verified_name == "localhost"


async def test_a_server_discovered_later_is_told_of_by_its_websocket_url() -> None:
    async with NatsCluster(1, websocket=ServerWebSocket()) as cluster:
        async with open_nats(cluster[0].ws_url) as nc, nc.events() as events:
            joined = await cluster.add_node()
            assert await until(events, ServersDiscovered) == ServersDiscovered((joined.ws_url,))
