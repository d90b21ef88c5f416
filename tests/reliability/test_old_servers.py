"""Servers of several versions: each is connected to over TLS, with a cluster that it names.

Before 2.12 a server with ordinary TLS says its INFO in plaintext only, ahead of the handshake; from
then on it says it again inside. ``nox -s old-servers`` runs this with old ones, whose paths come in
``NATS_OLD_SERVERS``; without it there is just the one that all other tests use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.support.certs import certificates
from tests.support.jwts import Key
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
from trio_nats.testing import NatsCluster, NatsServer, ServerTLS, find_server_binary

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
BINARIES = [path for path in os.environ.get("NATS_OLD_SERVERS", "").split(os.pathsep) if path]


def version_of(binary: Path) -> tuple[int, ...]:
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.rpartition("v")[2].strip().split("."))


@pytest.fixture(params=BINARIES or [None], ids=lambda path: Path(path).parts[-3] if path else "")
def binary(request: pytest.FixtureRequest) -> Path:
    return Path(request.param or find_server_binary())


def check_info(nc: Connection, binary: Path) -> None:
    """What is known of the server: what it said inside TLS, and that is little before 2.12."""
    if version_of(binary) >= (2, 12):
        assert nc.server_info.version == ".".join(map(str, version_of(binary)))
        assert nc.server_info.remote_account == "$G"
    else:
        assert nc.server_info == ServerInfo(headers=True)


async def reconnected(events: trio.abc.ReceiveChannel[Event]) -> None:
    """Wait until it is back: what is published before may be lost with the old connection."""
    async for event in events:
        if isinstance(event, Reconnected):
            return


@pytest.mark.parametrize("auth", LOGINS.values(), ids=LOGINS)
async def test_failover_with_one_seed(binary: Path, auth: AuthLike) -> None:
    async with NatsCluster(2, binary=binary, tls=TLS, config=CONFIG) as cluster:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(
                f"tls://localhost:{cluster[0].port}", tls=TRUSTING, auth=auth, reconnect=OFTEN
            ) as nc:
                check_info(nc, binary)
                async with nc.subscribe("a") as sub, nc.events() as events:
                    await cluster[0].kill()
                    await reconnected(events)
                    await nc.publish("a", b"after")
                    assert (await sub.receive()).data == b"after"
                assert nc.connected_url == f"tls://127.0.0.1:{cluster[1].port}"
                assert nc.tls_info is not None
                assert nc.tls_info.verified_name == "localhost"
                check_info(nc, binary)
                # And back, to where the second one names its cluster in turn.
                await cluster[0].start()
                await cluster.wait_until_ready()
                async with nc.events() as events:
                    await cluster[1].kill()
                    await reconnected(events)
                assert nc.connected_url is not None
                assert nc.connected_url.endswith(f":{cluster[0].port}")


async def test_lame_duck_over_tls(binary: Path) -> None:
    """It is said inside TLS on every version, and so believed."""
    async with NatsCluster(2, binary=binary, tls=TLS, config=CONFIG) as cluster:
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
async def test_the_largest_message(binary: Path, first: bool) -> None:
    tls = ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, handshake_first=first)
    config = {"max_payload": 2 * 1024 * 1024}
    async with NatsServer(binary=binary, tls=tls, config=config) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=TRUSTING) as nc:
                async with nc.subscribe("a") as sub:
                    await nc.publish("a", bytes(2 * 1024 * 1024))
                    assert len((await sub.receive()).data) == 2 * 1024 * 1024
                assert nc.stats.reconnects == 0


async def test_a_fetch_across_a_reconnect(binary: Path) -> None:
    """A pull does not outlive its connection, which nothing the server says tells apart."""
    async with NatsServer(binary=binary, tls=TLS, jetstream=True) as server:
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


def test_the_versions_differ() -> None:
    assert len({version_of(Path(path)) for path in BINARIES}) == len(BINARIES)
    assert shutil.which(find_server_binary())
