"""A real server that dies, freezes and comes back, and what the wire looks like after that."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    deliver,
    eventually,
    frames_of,
    read_line,
    receive_n,
    session,
    until,
)
from tests.support.certs import certificates
from tests.support.peer import Peer, ScriptedServer
from tests.transports import ALL_TRANSPORTS, Transport
from trio_nats import ConnectionLostError, ConnectionState, TLSMode, TLSOptions, open_nats
from trio_nats.errors import TLSNotOfferedError
from trio_nats.events import Disconnected, Reconnected, ReconnectFailed
from trio_nats.testing import NatsServer, ServerTLS


@ALL_TRANSPORTS
async def test_a_killed_server_comes_back_on_its_port(transport: Transport) -> None:
    async with transport.server() as server:
        url = transport.url(server)
        async with (
            open_nats(url, **transport.options, reconnect=QUICK) as nc,
            nc.events() as events,
            nc.subscribe("a.*") as plain,
            nc.subscribe("a.*", queue="q") as grouped,
        ):
            await nc.flush(timeout=HANG_TIMEOUT)
            await server.kill()
            lost = await until(events, Disconnected)
            assert lost.server == url
            assert isinstance(lost.reason, ConnectionLostError)
            assert nc.state is ConnectionState.RECONNECTING
            assert nc.connected_url is None
            for number in range(500):
                await nc.publish(f"a.{number}", b"%d" % number)
            assert nc.stats.outbox_bytes > 0
            await server.start()
            assert await until(events, Reconnected) == Reconnected(url)
            for sub in (plain, grouped):
                got = await receive_n(sub, 500)
                assert [int(msg.data) for msg in got] == list(range(500))
            assert nc.stats.lost_in_flight == 0
            assert nc.stats.reconnects == 1
            assert nc.state is ConnectionState.OPEN


async def test_a_new_connection_restores_subscriptions_before_publishing() -> None:
    async def first(peer: Peer) -> None:
        await read_line(peer, b"SUB gone")
        await peer.send(deliver(b"few", b"2", b"1") + deliver(b"few", b"2", b"2"))
        await read_line(peer, b"UNSUB 4")
        peer.close()

    async with ScriptedServer(session(first), session()) as server:
        async with (
            open_nats(server.url, reconnect=QUICK) as nc,
            nc.events() as events,
            nc.subscribe("all.>"),
            nc.subscribe("few", stop_after=5) as few,
            nc.subscribe("q", queue="workers"),
        ):
            async with nc.subscribe("gone"):
                await receive_n(few, 2)
            await until(events, Disconnected)
            await nc.publish("all.1", b"one")
            async with nc.subscribe("new"):
                await nc.publish("all.2", b"two")
                await nc.flush(timeout=HANG_TIMEOUT)
            peer = await server.peer(1)
            assert frames_of(peer)[:9] == [
                b"CONNECT",
                b"PING",
                b"PING",
                b"SUB all.> 1",
                b"SUB few 2",
                b"UNSUB 2 3",
                b"SUB q workers 3",
                b"SUB new 5",
                b"PUB all.1 3",
            ]
            assert frames_of(peer)[9:11] == [b"PUB all.2 3", b"PING"]
            assert peer.payloads == [b"one", b"two"]


async def test_an_automatic_unsubscription_counts_over_a_restart() -> None:
    async with (
        NatsServer() as server,
        open_nats(server.url, reconnect=QUICK) as nc,
        nc.subscribe("a", stop_after=3) as sub,
        nc.events() as events,
    ):
        await nc.publish("a", b"1")
        await receive_n(sub, 1)
        await server.kill()
        await server.start()
        await until(events, Reconnected)
        for number in (b"2", b"3", b"4"):
            await nc.publish("a", number)
        await nc.flush(timeout=HANG_TIMEOUT)
        assert [msg.data async for msg in sub] == [b"2", b"3"]


@pytest.mark.slow
async def test_thousands_of_subscriptions_are_restored() -> None:
    count = 3_000
    async with NatsServer() as server, open_nats(server.url, reconnect=QUICK) as nc:
        async with AsyncExitStack() as stack:
            subs = [
                await stack.enter_async_context(nc.subscribe(f"many.{number}"))
                for number in range(count)
            ]
            async with nc.events() as events:
                await server.kill()
                await server.start()
                await until(events, Reconnected)
            await nc.flush(timeout=HANG_TIMEOUT)
            assert (await server.monitor("varz"))["subscriptions"] >= count
            for number in range(0, count, 997):
                await nc.publish(f"many.{number}", b"%d" % number)
                assert (await receive_n(subs[number], 1))[0].data == b"%d" % number


async def test_a_paused_server_is_detected_and_reconnected_to() -> None:
    async with (
        NatsServer() as server,
        open_nats(server.url, ping_interval=0.05, connect_timeout=2, reconnect=QUICK) as nc,
        nc.events() as events,
        nc.subscribe("a") as sub,
    ):
        server.pause()
        lost = await until(events, Disconnected)
        assert "2 PINGs in a row were not answered" in str(lost.reason)
        await nc.publish("a", b"between")
        await until(events, ReconnectFailed)
        server.resume()
        await until(events, Reconnected)
        assert (await receive_n(sub, 1))[0].data == b"between"


@pytest.mark.parametrize("operation", ["flush", "rtt"])
async def test_flush_and_rtt_wait_over_a_reconnect(operation: str) -> None:
    async def never_answers(peer: Peer) -> None:
        await read_line(peer, b"PUB")
        await peer.expect_line(b"PING")
        peer.close()

    async with ScriptedServer(session(never_answers), session()) as server:
        async with open_nats(server.url, reconnect=QUICK) as nc:
            await nc.publish("a")
            with trio.fail_after(HANG_TIMEOUT):
                await getattr(nc, operation)()
            assert nc.stats.reconnects == 1
            assert frames_of(await server.peer(1)) == [b"CONNECT", b"PING", b"PING", b"PING"]


async def test_many_concurrent_flushes_do_not_end_the_connection() -> None:
    answer = trio.Event()

    async def slow(peer: Peer) -> None:
        for _ in range(20):
            await peer.expect_line(b"PING")
        await peer.expect_line(b"PING")  # the keep-alive's own
        await peer.send(b"PONG\r\n" * 21)
        answer.set()
        await peer.serve()

    async with ScriptedServer(session(slow)) as server:
        async with open_nats(server.url, ping_interval=0.1) as nc:
            with trio.fail_after(HANG_TIMEOUT):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(nc.flush)
            assert answer.is_set()
            assert nc.stats.reconnects == 0


# -- TLS switched on and off ---------------------------------------------------------------------


def server_tls() -> ServerTLS:
    certs = certificates()
    return ServerTLS(certs.server.cert_file, certs.server.key_file)


async def test_a_server_that_returns_with_tls_must_keep_using_it() -> None:
    tls = TLSOptions(mode=TLSMode.PREFER, ca_file=certificates().ca_file)
    async with NatsServer() as server:
        url = f"nats://127.0.0.1:{server.port}"
        async with (
            open_nats(url, tls=tls, reconnect=QUICK) as nc,
            nc.events() as events,
            nc.subscribe("a") as sub,
        ):
            assert nc.tls_info is None
            await server.restart(tls=server_tls())
            await until(events, Reconnected)
            assert nc.tls_info is not None
            # Off again: anyone may say that now.
            await server.restart(tls=None)
            while True:
                failed = await until(events, ReconnectFailed)
                if isinstance(failed.error, TLSNotOfferedError):
                    break
            assert nc.state is ConnectionState.RECONNECTING
            await nc.publish("a", b"secret")
            clients = (await server.monitor("varz"))["in_msgs"]
            assert clients == 0
            await server.restart(tls=server_tls())
            await until(events, Reconnected)
            assert nc.tls_info is not None
            assert (await receive_n(sub, 1))[0].data == b"secret"


async def test_rotated_certificates_are_picked_up(tmp_path: Path) -> None:
    certs = certificates()
    old, new = certs.client, certs.client_other_ca
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    authority = tmp_path / "ca.pem"

    def install(client_ca: Path) -> ServerTLS:
        files = certs.server.cert_file, certs.server.key_file
        return ServerTLS(*files, ca_file=client_ca, verify=True)

    def rotate(cert_file: Path, key_file: Path) -> None:
        cert.write_bytes(cert_file.read_bytes())
        key.write_bytes(key_file.read_bytes())

    rotate(old.cert_file, old.key_file)
    authority.write_bytes(certs.ca_file.read_bytes())
    tls = TLSOptions(ca_file=authority, cert_file=cert, key_file=key)
    async with NatsServer(tls=install(certs.ca_file)) as server:
        async with open_nats(server.url, tls=tls, reconnect=QUICK) as nc, nc.events() as events:
            await server.restart(tls=install(certs.other_ca_file))
            await until(events, ReconnectFailed)
            rotate(new.cert_file, new.key_file)
            await until(events, Reconnected)
            # The server's own authority changes as well.
            other = certs.server_other_ca
            files = other.cert_file, other.key_file
            await server.restart(tls=ServerTLS(*files, ca_file=certs.other_ca_file, verify=True))
            await until(events, ReconnectFailed)
            authority.write_bytes(certs.other_ca_file.read_bytes())
            await until(events, Reconnected)
            await eventually(lambda: nc.state is ConnectionState.OPEN)
