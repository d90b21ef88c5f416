"""Failover to servers that are named in plaintext only, as those before 2.12 do.

Anyone on the network path may have named them. So a server that answers there gets nothing but a
ClientHello, unless it shows a certificate for the name that was dialled.
"""

from __future__ import annotations

import pytest
import trio

from tests.support.certs import Certificate, certificates, server_context
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.scripts import no_tls, tls_first, tls_required
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    Connection,
    ReconnectPolicy,
    TLSCertificateError,
    TLSConfigurationError,
    TLSNotOfferedError,
    TLSOptions,
    UserPassword,
    open_nats,
)
from trio_nats.events import ReconnectFailed

CERTS = certificates()
SECRET = UserPassword("joe", "verysecret")
AT_ONCE = ReconnectPolicy(wait=0, max_wait=0)


def names(*addresses: str, certificate: Certificate = CERTS.server) -> Script:
    """A server that names others in plaintext, and goes away when it is told to."""

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_required=True, connect_urls=list(addresses))
        await peer.start_tls(server_context(certificate))
        await peer.accept_connect()
        await peer.expect_line(b"PUB leave")
        await peer.hang_up()

    return script


async def follow(nc: Connection, port: int) -> None:
    """Have the first server go away, and wait until the connection has moved to ``port``."""
    async with nc.events() as events:
        await nc.publish("leave")
        async for event in events:
            if nc.connected_url is not None and nc.connected_url.endswith(f":{port}"):
                return
            if isinstance(event, ReconnectFailed) and event.server.endswith(f":{port}"):
                raise event.error


@pytest.mark.parametrize("later", [tls_required, tls_first])
@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_the_next_one_has_the_name_that_was_dialled(later: object, scheme: str) -> None:
    """Known by its address only, it shows a certificate for the other's name."""
    context = server_context(CERTS.server_dns_only)
    script = later(context)  # type: ignore[operator]  # one of two functions
    async with ScriptedServer(script) as second:
        async with ScriptedServer(names(f"127.0.0.1:{second.port}")) as first:
            url = f"{scheme}://localhost:{first.port}"
            tls = TLSOptions(ca_file=CERTS.ca_file)
            with trio.fail_after(HANG_TIMEOUT):
                async with open_nats(url, tls=tls, auth=SECRET, reconnect=AT_ONCE) as nc:
                    await follow(nc, second.port)
                    assert nc.connected_url == f"tls://127.0.0.1:{second.port}"
                    assert nc.tls_info is not None
                    assert nc.tls_info.verified_name == "localhost"
                    connect = (await second.peer()).connect
    assert connect["pass"] == "verysecret"


async def test_a_server_without_the_name_in_its_certificate_gets_nothing() -> None:
    """Not even one with a trusted certificate for the name it was given."""
    script = tls_required(server_context(CERTS.server_dns_only))
    async with ScriptedServer(script) as second:
        async with ScriptedServer(names(f"localhost:{second.port}")) as first:
            url = f"tls://127.0.0.1:{first.port}"
            tls = TLSOptions(ca_file=CERTS.ca_file)
            with trio.fail_after(HANG_TIMEOUT):
                async with open_nats(url, tls=tls, auth=SECRET, reconnect=AT_ONCE) as nc:
                    with pytest.raises(TLSCertificateError, match=r"127\.0\.0\.1"):
                        await follow(nc, second.port)
                peer = await second.peer()
        assert is_only_tls_records(peer.raw_bytes)
        assert peer.tls is None


async def test_a_server_without_tls_gets_nothing() -> None:
    async with ScriptedServer(no_tls()) as second:
        async with ScriptedServer(names(f"localhost:{second.port}")) as first:
            url = f"nats://localhost:{first.port}"
            tls = TLSOptions(mode="prefer", ca_file=CERTS.ca_file)  # type: ignore[arg-type]
            with trio.fail_after(HANG_TIMEOUT):
                async with open_nats(url, tls=tls, auth=SECRET, reconnect=AT_ONCE) as nc:
                    with pytest.raises(TLSNotOfferedError):
                        await follow(nc, second.port)
        assert is_only_tls_records((await second.peer()).raw_bytes)


async def test_own_name_accepts_the_servers_own_name() -> None:
    script = tls_required(server_context(CERTS.server_dns_only))
    async with ScriptedServer(script) as second:
        async with ScriptedServer(names(f"localhost:{second.port}")) as first:
            url = f"tls://127.0.0.1:{first.port}"
            tls = TLSOptions(ca_file=CERTS.ca_file, unverified_servers="own_name")
            with trio.fail_after(HANG_TIMEOUT):
                async with open_nats(url, tls=tls, auth=SECRET, reconnect=AT_ONCE) as nc:
                    await follow(nc, second.port)
                    assert nc.tls_info is not None
                    assert nc.tls_info.verified_name == "localhost"


@pytest.mark.parametrize(
    "tls",
    [
        TLSOptions(ca_file=CERTS.ca_file, unverified_servers="ignore"),
        TLSOptions(insecure_skip_verify=True),
    ],
    ids=["ignored", "nothing is verified"],
)
async def test_unverified_servers_can_be_ignored(tls: TLSOptions) -> None:
    script = tls_required(server_context(CERTS.server), connect_urls=["192.0.2.1:4222"])
    async with ScriptedServer(script) as server:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(f"tls://localhost:{server.port}", tls=tls) as nc:
                assert [known.host for known in nc.servers] == ["localhost"]


def test_an_invalid_choice_for_unverified_servers() -> None:
    with pytest.raises(TLSConfigurationError, match="unverified_servers"):
        TLSOptions(unverified_servers="both")  # type: ignore[arg-type]
