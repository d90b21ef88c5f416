"""Real servers in all their TLS configurations: what we send them, and how they turn us away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.support.certs import certificates
from tests.support.proxies import PlainProxy
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    ConnectAttempt,
    ConnectError,
    NoInfoError,
    TLSHandshakeError,
    TLSInjectionError,
    TLSMode,
    TLSOptions,
    UserPassword,
    open_nats,
)
from trio_nats.testing import NatsServer, ServerTLS

CERTS = certificates()
SECRET = UserPassword("joe", "verysecret")
AUTO, PREFER, REQUIRE, IMPLICIT, DISABLE = TLSMode
KINDS: dict[str, ServerTLS | None] = {
    "none": None,
    "tls": ServerTLS(CERTS.server.cert_file, CERTS.server.key_file),
    "allow_non_tls": ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, allow_non_tls=True),
    "verify": ServerTLS(
        CERTS.server.cert_file, CERTS.server.key_file, ca_file=CERTS.ca_file, verify=True
    ),
    "first": ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, handshake_first=True),
    "first: auto": ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, handshake_first="auto"),
    "first: 300ms": ServerTLS(
        CERTS.server.cert_file, CERTS.server.key_file, handshake_first="300ms"
    ),
}


@asynccontextmanager
async def recorded(kind: str) -> AsyncIterator[PlainProxy]:
    async with NatsServer(tls=KINDS[kind]) as server, PlainProxy(server.port) as proxy:
        yield proxy


def tls(mode: TLSMode) -> TLSOptions:
    if mode is DISABLE:
        return TLSOptions(mode=mode)
    client = CERTS.client
    return TLSOptions(
        mode=mode, ca_file=CERTS.ca_file, cert_file=client.cert_file, key_file=client.key_file
    )


async def failure(url: str, options: TLSOptions, timeout: float = 5) -> ConnectAttempt:
    with pytest.raises(ConnectError) as caught:
        async with open_nats(url, tls=options, auth=SECRET, connect_timeout=timeout):
            pass
    (attempt,) = caught.value.attempts
    return attempt


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [AUTO, REQUIRE, IMPLICIT])
async def test_only_tls_leaves_in_a_mode_that_promises_it(mode: TLSMode, kind: str) -> None:
    plain_first = kind in ("none", "tls", "allow_non_tls", "verify")
    succeeds = kind != "none" if mode is not IMPLICIT else not plain_first
    async with recorded(kind) as proxy:
        url = f"nats://localhost:{proxy.port}"
        if succeeds:
            async with open_nats(url, tls=tls(mode), auth=SECRET) as nc:
                await nc.publish("secret", b"verysecret")
                await nc.flush()
                assert nc.tls_info is not None
                # A server that waits only for a while may be faster than a busy machine.
                if kind not in ("first: auto", "first: 300ms"):
                    assert nc.tls_info.info_inside_tls is not plain_first
        else:
            assert (await failure(url, tls(mode))).phase == "tls"
        link = await proxy.link()
        await link.closed.wait()
        assert is_only_tls_records(bytes(link.to_server))
        assert b"verysecret" not in link.to_server


@pytest.mark.parametrize("kind", ["tls", "allow_non_tls", "verify", "first: auto"])
async def test_prefer_speaks_tls_to_servers_that_offer_it(kind: str) -> None:
    async with recorded(kind) as proxy:
        async with open_nats(f"localhost:{proxy.port}", tls=tls(PREFER), auth=SECRET) as nc:
            await nc.flush()
        link = await proxy.link()
        await link.closed.wait()
        assert is_only_tls_records(bytes(link.to_server))


async def test_tls_first_with_a_way_out_lets_plaintext_in() -> None:
    """``handshake_first: auto`` and ``allow_non_tls``: silence brings ``tls_available``."""
    lenient = ServerTLS(
        CERTS.server.cert_file, CERTS.server.key_file, handshake_first="auto", allow_non_tls=True
    )
    async with NatsServer(tls=lenient) as server:
        for mode, encrypted in ((DISABLE, False), (PREFER, True), (REQUIRE, True)):
            async with open_nats(f"localhost:{server.port}", tls=tls(mode)) as nc:
                await nc.flush()
                assert (nc.tls_info is not None) is encrypted


@pytest.mark.parametrize("mode", [PREFER, DISABLE])
async def test_a_tls_first_server_that_closes_the_connection(mode: TLSMode) -> None:
    """The real one closes a connection that stays silent; its default is two seconds."""
    impatient = ServerTLS(
        CERTS.server.cert_file, CERTS.server.key_file, handshake_first=True, timeout=0.2
    )
    async with NatsServer(tls=impatient) as server:
        attempt = await failure(f"nats://localhost:{server.port}", tls(mode))
    assert isinstance(attempt.error, NoInfoError)
    assert (attempt.phase, attempt.error.closed) == ("info", True)
    assert f"TLS mode {mode} waits for INFO in plaintext" in str(attempt.error)
    assert "use REQUIRE or IMPLICIT" in str(attempt.error)


@pytest.mark.parametrize(
    ("kind", "error"), [("tls", TLSInjectionError), ("first", TLSHandshakeError)]
)
@pytest.mark.parametrize("mode", [PREFER, REQUIRE])
async def test_a_full_server_is_not_reported_as_tampering(
    kind: str, mode: TLSMode, error: type[Exception]
) -> None:
    """A server rejects clients in plaintext. The error quotes that, but does not rely on it."""
    async with NatsServer(tls=KINDS[kind], config={"max_connections": 1}) as server:
        url = f"nats://localhost:{server.port}"
        async with open_nats(url, tls=tls(REQUIRE)):
            attempt = await failure(url, tls(mode))
    assert "maximum connections exceeded" in str(attempt.error)
    if kind == "first" and mode is PREFER:
        assert attempt.phase == "info"
    else:
        assert isinstance(attempt.error, error)
        assert "rejects clients" in str(attempt.error)
        assert "may be injecting" not in str(attempt.error)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("mode", [PREFER, REQUIRE])
async def test_any_split_of_the_bytes(mode: TLSMode, chunk: int) -> None:
    """INFO in plaintext, and the handshake behind it, in as many segments as there are bytes."""
    async with recorded("tls") as proxy:
        proxy.chunk = chunk
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"localhost:{proxy.port}", tls=tls(mode)) as nc:
                await nc.flush()
                assert nc.tls_info is not None
                assert not nc.tls_info.info_inside_tls
