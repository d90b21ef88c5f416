"""Lists with and without TLS: one ``tls://`` URL speaks for all; its credentials keep to TLS."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.scripts import no_tls, tls_required
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    ConnectAttempt,
    ConnectError,
    PlaintextAuthError,
    ReconnectPolicy,
    TLSConfigurationError,
    TLSMode,
    TLSNotOfferedError,
    TLSOptions,
    Token,
    open_nats,
)
from trio_nats._core.server_pool import ServerPool
from trio_nats.server_info import ServerInfo
from trio_nats.servers import parse_servers

CERTS = certificates()
ENCRYPTED = tls_required(server_context(CERTS.server))
AUTO, PREFER = TLSMode.AUTO, TLSMode.PREFER


async def unreachable(peer: Peer) -> None:
    peer.abort()


def mixed(first: ScriptedServer, second: ScriptedServer, user: str = "") -> str:
    at = f"{user}@" if user else ""
    return f"tls://joe:verysecret@localhost:{first.port},nats://{at}localhost:{second.port}"


async def second_attempt(urls: str, tls: TLSOptions | None, **options: object) -> ConnectAttempt:
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
        async with open_nats(urls, tls=tls, randomize=False, **options):  # type: ignore[arg-type]
            pass
    assert len(caught.value.attempts) == 2
    return caught.value.attempts[1]


async def test_one_tls_url_applies_to_all() -> None:
    """Even where certificates are the system's, so that nothing else asks for TLS."""
    async with ScriptedServer(unreachable) as first, ScriptedServer(no_tls()) as second:
        attempt = await second_attempt(mixed(first, second), None)
        assert isinstance(attempt.error, TLSNotOfferedError)
        assert "tls://" in str(attempt.error)
        peer = await second.peer()
        assert is_only_tls_records(peer.raw_bytes)


async def test_wherever_it_stands_and_later_too() -> None:
    async with ScriptedServer(no_tls()) as plain, ScriptedServer(no_tls()) as other:
        urls = [f"nats://localhost:{plain.port}", f"tls://localhost:{other.port}"]
        attempt = await second_attempt(",".join(urls), None)
        assert isinstance(attempt.error, TLSNotOfferedError)
        async with open_nats(urls[0]) as nc:
            nc.set_servers(urls)
            assert {server.scheme for server in nc.servers} == {"tls"}
            with pytest.raises(TLSConfigurationError, match="ws://"):
                nc.set_servers(["wss://a", "ws://b"])
        assert is_only_tls_records(other.peers[0].raw_bytes)


@pytest.mark.parametrize("auth", [None, Token("another")])
async def test_an_explicit_mode_allows_plaintext_without_the_credentials(
    auth: Token | None,
) -> None:
    """Then it is plaintext for the other one, but not with the credentials of the tls:// URL."""
    tls = TLSOptions(mode=PREFER, ca_file=CERTS.ca_file)
    async with ScriptedServer(unreachable) as first, ScriptedServer(no_tls()) as second:
        urls = mixed(first, second)
        if auth is None:
            attempt = await second_attempt(urls, tls)
            assert isinstance(attempt.error, PlaintextAuthError)
            assert "verysecret" not in str(attempt.error)
            assert (await second.peer()).raw_bytes == b""
            return
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(urls, tls=tls, auth=auth, randomize=False):
                connect = (await second.peer()).connect
        assert connect["auth_token"] == "another"
        assert "pass" not in connect


async def test_a_server_may_use_its_own_credentials() -> None:
    tls = TLSOptions(mode=PREFER, ca_file=CERTS.ca_file)
    async with ScriptedServer(unreachable) as first, ScriptedServer(no_tls()) as second:
        with trio.fail_after(HANG_TIMEOUT):
            urls = mixed(first, second, "ann:hers")
            async with open_nats(urls, tls=tls, randomize=False):
                connect = (await second.peer()).connect
    assert (connect["user"], connect["pass"]) == ("ann", "hers")


@pytest.mark.parametrize("mode", [AUTO, PREFER, TLSMode.REQUIRE])
async def test_over_tls_the_others_have_them(mode: TLSMode) -> None:
    tls = TLSOptions(mode=mode, ca_file=CERTS.ca_file)
    async with ScriptedServer(unreachable) as first, ScriptedServer(ENCRYPTED) as second:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(mixed(first, second), tls=tls, randomize=False):
                peer = await second.peer()
                assert peer.connect["pass"] == "verysecret"
                assert is_only_tls_records(peer.raw_bytes)


def naming(address: Callable[[], str]) -> Script:
    """A server without TLS that names another one, and goes away."""

    async def script(peer: Peer) -> None:
        await peer.send_info(connect_urls=[address()])
        await peer.accept_connect()
        await peer.hang_up()

    return script


async def test_discovered_servers_get_no_credentials_in_plaintext() -> None:
    """They have the credentials of who named them, and where those are from does not change."""
    servers = ServerPool(parse_servers("tls://joe:verysecret@a,nats://b"), randomize=False)
    b = servers.servers[1]
    assert b.password == "verysecret"
    assert b.userinfo_needs_tls
    assert not servers.servers[0].userinfo_needs_tls
    (c,) = servers.discover(ServerInfo(connect_urls=("c:1",)), b, "nats")
    assert c.userinfo_needs_tls
    servers.replace(parse_servers("nats://d"))
    (e,) = servers.discover(ServerInfo(connect_urls=("e:1",)), c, "nats")
    assert e.userinfo_needs_tls
    own = ServerPool(parse_servers("nats://joe:pw@a,tls://b"), randomize=False)
    assert not any(server.userinfo_needs_tls for server in own.servers)


@pytest.mark.parametrize("urls", ["wss://a,ws://b", "ws://b,wss://joe:pw@a"])
def test_websockets_alike(urls: str) -> None:
    with pytest.raises(TLSConfigurationError, match=r"ws://b.*wss://"):
        open_nats(urls)
    open_nats(urls, tls=TLSOptions(mode=PREFER))


async def test_reconnecting_does_not_leak_either() -> None:
    """The encrypted server goes away, and the next in the list offers no TLS."""

    async def short(peer: Peer) -> None:
        await peer.send_info(tls_required=True)
        await peer.start_tls(server_context(CERTS.server))
        await peer.accept_connect()
        await peer.hang_up()

    async with ScriptedServer(short, unreachable) as first, ScriptedServer(no_tls()) as second:
        policy = ReconnectPolicy(wait=0, max_wait=0, max_attempts=1)
        tls = TLSOptions(mode=PREFER, ca_file=CERTS.ca_file)
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(
                mixed(first, second), tls=tls, randomize=False, reconnect=policy
            ) as nc:
                with pytest.raises(Exception, match="offers no TLS"):
                    while True:
                        await nc.flush()
        assert is_only_tls_records((await second.peer()).raw_bytes)
