"""What is different over TLS with a server before 2.12.

It says its INFO in plaintext only, ahead of the handshake; later ones say it again inside. ``nox -s
servers`` runs this with servers of several versions.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.support.certs import certificates
from tests.support.jwts import Key
from tests.support.server_versions import server_version
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    AuthLike,
    Connection,
    NKey,
    ReconnectPolicy,
    ServerInfo,
    TLSOptions,
    UserPassword,
    open_nats,
)
from trio_nats.events import Event, Reconnected
from trio_nats.testing import NatsCluster, NatsServer, ServerTLS

CERTS = certificates()
KEY = Key("user")
TRUSTING = TLSOptions(ca_file=CERTS.ca_file)
OFTEN = ReconnectPolicy(wait=0.05, max_wait=0.2)
TLS = ServerTLS(CERTS.server.cert_file, CERTS.server.key_file)
CONFIG: dict[str, Any] = {
    "authorization": {"users": [{"user": "joe", "password": "pw"}, {"nkey": KEY.public}]}
}
LOGINS: dict[str, AuthLike] = {
    "password": UserPassword("joe", "pw"),
    "NKey": NKey(seed=KEY.seed),
}


def check_info(nc: Connection) -> None:
    """What is known of the server: what it said inside TLS, and that is little before 2.12."""
    if server_version() >= (2, 12):
        assert nc.server_info.version == ".".join(map(str, server_version()))
        assert nc.server_info.remote_account == "$G"
    else:
        assert nc.server_info == ServerInfo(headers=True)


async def reconnected(events: trio.abc.ReceiveChannel[Event]) -> None:
    """Wait until it is back: what is published before may be lost with the old connection."""
    async for event in events:
        if isinstance(event, Reconnected):
            return


@pytest.mark.parametrize("auth", LOGINS.values(), ids=LOGINS)
async def test_failover_with_one_seed(auth: AuthLike) -> None:
    async with NatsCluster(2, tls=TLS, config=CONFIG) as cluster:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(
                f"tls://localhost:{cluster[0].port}", tls=TRUSTING, auth=auth, reconnect=OFTEN
            ) as nc:
                check_info(nc)
                async with nc.subscribe("a") as sub, nc.events() as events:
                    await cluster[0].kill()
                    await reconnected(events)
                    await nc.publish("a", b"after")
                    assert (await sub.receive()).data == b"after"
                assert nc.connected_url == f"tls://127.0.0.1:{cluster[1].port}"
                assert nc.tls_info is not None
                assert nc.tls_info.verified_name == "localhost"
                check_info(nc)
                # And back, to where the second one names its cluster in turn.
                await cluster[0].start()
                await cluster.wait_until_ready()
                async with nc.events() as events:
                    await cluster[1].kill()
                    await reconnected(events)
                assert nc.connected_url is not None
                assert nc.connected_url.endswith(f":{cluster[0].port}")


async def test_lame_duck_over_tls() -> None:
    """It is said inside TLS on every version, and so believed."""
    async with NatsCluster(2, tls=TLS, config=CONFIG) as cluster:
        with trio.fail_after(HANG_TIMEOUT):
            url = f"tls://localhost:{cluster[0].port}"
            auth = UserPassword("joe", "pw")
            async with open_nats(url, tls=TRUSTING, auth=auth, reconnect=OFTEN) as nc:
                async with nc.events() as events:
                    await cluster[0].lame_duck()
                    async for _ in events:
                        if nc.connected_url == f"tls://127.0.0.1:{cluster[1].port}":
                            break
                await nc.flush()


@pytest.mark.parametrize("first", [False, True], ids=["after INFO", "TLS first"])
async def test_the_largest_message(first: bool) -> None:
    tls = ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, handshake_first=first)
    config = {"max_payload": 2 * 1024 * 1024}
    async with NatsServer(tls=tls, config=config) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING) as nc:
                async with nc.subscribe("a") as sub:
                    await nc.publish("a", bytes(2 * 1024 * 1024))
                    assert len((await sub.receive()).data) == 2 * 1024 * 1024
                assert nc.stats.reconnects == 0


async def test_a_fetch_across_a_reconnect() -> None:
    """A pull does not outlive its connection, which nothing the server says tells apart."""
    async with NatsServer(tls=TLS, jetstream=True) as server:
        with trio.fail_after(HANG_TIMEOUT):
            url = f"tls://localhost:{server.port}"
            async with open_nats(url, tls=TRUSTING, reconnect=OFTEN) as nc:
                js = nc.jetstream()
                stream = await js.create_stream("S", subjects=["s"])
                consumer = await stream.create_consumer("C")
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def fetch() -> None:
                        (msg,) = await consumer.fetch(1, timeout=30)
                        assert msg.data == b"late"

                    await nc.flush()
                    await nc.reconnect()
                    await js.publish("s", b"late")
