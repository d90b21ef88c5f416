"""What networks do to connections: cut them anywhere, in any state, or swallow what is said."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio

from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    eventually,
    publishing,
    read_until,
    receive_n,
    session,
    until,
)
from tests.support.chaos import ChaosProxy, Plan, Way
from tests.support.peer import Peer, ScriptedServer
from tests.support.proxies import PlainProxy
from tests.transports import ALL_BUT_WSS, ALL_TRANSPORTS, TCP_AND_WSS, Transport
from trio_nats import ReconnectPolicy, open_nats
from trio_nats.events import Connected, Disconnected, Reconnected, ReconnectFailed
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.slow

AT_ONCE = ReconnectPolicy(wait=0, max_wait=0)
STUBBORN = replace(AT_ONCE, retry_on_initial_connect=True)


async def measured(server: NatsServer, transport: Transport) -> tuple[int, int]:
    """How many bytes up and down the opening of a connection takes."""
    async with ChaosProxy(transport.port(server)) as proxy:
        async with open_nats(transport.through(proxy.port), **transport.options):
            return proxy.links[0].passed_up, proxy.links[0].passed_down


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@ALL_BUT_WSS
async def test_a_connection_attempt_cut_at_any_byte_is_retried(
    transport: Transport, reset: bool
) -> None:
    async with transport.server() as server:
        up, down = await measured(server, transport)
        # In the middle of INFO, of the handshake, between CONNECT and PONG, within PONG.
        step = 149 if transport.encrypted else 41
        plans = [
            Plan(down=Way(cut_after=at), reset=reset)
            for at in [*range(0, down, step), *range(down - 6, down)]
        ]
        plans += [
            Plan(up=Way(cut_after=at), reset=reset) for at in [*range(1, up, step), up - 6, up]
        ]
        async with ChaosProxy(transport.port(server), [*plans, Plan()]) as proxy:
            url = transport.through(proxy.port)
            async with (
                open_nats(url, **transport.options, reconnect=STUBBORN) as nc,
                nc.events() as events,
            ):
                await nc.publish("a", b"published before there was a connection")
                await until(events, Connected)
                await nc.flush(timeout=HANG_TIMEOUT)
                cut = [link for link in proxy.links if link.plan is not proxy.plans[-1]]
                # A cut right behind the last byte of the opening is a connection that ends at once.
                assert len(plans) - 8 <= len(cut) <= len(plans)


@TCP_AND_WSS
async def test_a_stream_cut_in_the_middle_of_a_message_hands_out_whole_ones_only(
    transport: Transport,
) -> None:
    async with transport.server() as server:
        _, opening = await measured(server, transport)
        cuts = [opening + 2_000 + 777 * number for number in range(8)]
        plans = [Plan(down=Way(cut_after=at), reset=at % 2 == 0) for at in cuts]
        async with (
            open_nats(transport.url(server), **transport.options) as pub,
            ChaosProxy(transport.port(server), [*plans, Plan()]) as proxy,
            open_nats(transport.through(proxy.port), **transport.options, reconnect=AT_ONCE) as nc,
            nc.subscribe("a") as sub,
            publishing(pub, "p", "a", pause=0),
        ):
            with trio.fail_after(HANG_TIMEOUT):
                while len(proxy.links) <= len(plans):
                    await sub.receive()
                numbers = []
                for _ in range(100):
                    name, _, number = (await sub.receive()).data.decode().partition(" ")
                    assert name == "p"
                    numbers.append(int(number))
            assert numbers == sorted(set(numbers))
            assert nc.stats.reconnects == len(plans)


@TCP_AND_WSS
async def test_publishing_over_a_wire_that_is_cut_never_leaves_half_a_message(
    transport: Transport,
) -> None:
    async with transport.server() as server:
        up, _ = await measured(server, transport)
        plans = [Plan(up=Way(cut_after=up + 1_000 + 501 * number)) for number in range(8)]
        async with (
            open_nats(transport.url(server), **transport.options) as watcher,
            watcher.subscribe("a") as sub,
            ChaosProxy(transport.port(server), [*plans, Plan()]) as proxy,
            open_nats(
                transport.through(proxy.port),
                **transport.options,
                reconnect=AT_ONCE,
                outbox_size=20_000,
            ) as nc,
        ):
            await watcher.flush(timeout=HANG_TIMEOUT)
            number = 0
            while len(proxy.links) <= len(plans):
                await nc.publish("a", b"%d %b" % (number, b"." * (number % 200)))
                number += 1
            await nc.publish("a", b"end")
            got = await read_until(sub, b"end")
            numbers = [int(data.split()[0]) for data in got]
            # The server may read the last of an old wire behind the first of the next.
            assert len(numbers) == len(set(numbers)), "a message came twice"
            for data, counted in zip(got, numbers, strict=True):
                assert data == b"%d %b" % (counted, b"." * (counted % 200))
            assert "Unknown Protocol" not in server.log


@ALL_TRANSPORTS
async def test_one_byte_at_a_time_in_both_directions(transport: Transport) -> None:
    drops = Plan(up=Way(chunk=1), down=Way(chunk=1))
    async with transport.server() as server:
        async with (
            ChaosProxy(transport.port(server), [drops]) as proxy,
            open_nats(transport.through(proxy.port), **transport.options) as nc,
            nc.subscribe("a") as sub,
        ):
            for number in range(8):
                await nc.publish("a", b"%d" % number, headers={"n": str(number)})
            got = await receive_n(sub, 8)
            assert [(int(msg.data), msg.headers["n"]) for msg in got] == [
                (number, str(number)) for number in range(8)
            ]
            assert nc.stats.reconnects == 0


@TCP_AND_WSS
async def test_a_storm_of_resets(transport: Transport) -> None:
    async with (
        transport.server() as server,
        ChaosProxy(transport.port(server)) as proxy,
        open_nats(transport.through(proxy.port), **transport.options, reconnect=AT_ONCE) as nc,
        nc.subscribe("a") as sub,
        nc.events(buffer=1_000) as events,
    ):
        for _ in range(40):
            proxy.cut(reset=True)
            await until(events, Reconnected)
        await nc.publish("a", b"alive")
        assert (await receive_n(sub, 1))[0].data == b"alive"
        assert nc.stats.reconnects == 40


@ALL_BUT_WSS
async def test_a_half_open_connection_is_detected_by_missing_pongs(transport: Transport) -> None:
    async with (
        transport.server() as server,
        ChaosProxy(transport.port(server)) as proxy,
        open_nats(
            transport.through(proxy.port),
            **transport.options,
            ping_interval=0.05,
            reconnect=QUICK,
            connect_timeout=2,
        ) as nc,
        nc.subscribe("a") as sub,
        nc.events() as events,
    ):
        proxy.swallow = True
        lost = await until(events, Disconnected)
        assert "were not answered" in str(lost.reason)
        await until(events, ReconnectFailed)
        proxy.swallow = False
        await until(events, Reconnected)
        await nc.publish("a", b"alive")
        assert (await receive_n(sub, 1))[0].data == b"alive"


async def test_a_refused_connection_is_tried_until_it_is_accepted() -> None:
    async with (
        NatsServer() as server,
        ChaosProxy(server.port) as proxy,
        open_nats(proxy.url, reconnect=QUICK) as nc,
        nc.events() as events,
    ):
        proxy.refuse()
        proxy.cut()
        for number in range(1, 6):
            failed = await until(events, ReconnectFailed)
            assert failed.attempt == number
        proxy.accept()
        await until(events, Reconnected)


async def test_a_peer_that_never_reads_blocks_publishers_until_it_is_disconnected() -> None:
    go_on = trio.Event()

    async def deaf(peer: Peer) -> None:
        await go_on.wait()

    size = 512 * 1024
    async with ScriptedServer(session(deaf), session()) as server:
        async with (
            open_nats(server.url, outbox_size=4 * size, ping_interval=0.1, reconnect=QUICK) as nc,
            nc.events() as events,
        ):
            accepted = 0
            with trio.move_on_after(0.05) as full:
                while True:
                    await nc.publish("a", b"%08d" % accepted + b"." * size)
                    accepted += 1
            assert full.cancelled_caught
            assert 4 * size <= nc.stats.outbox_bytes < 6 * size
            assert nc.stats.out_messages == accepted
            lost = await until(events, Disconnected)
            assert "were not answered" in str(lost.reason)
            await nc.flush(timeout=HANG_TIMEOUT)
            assert nc.stats.outbox_bytes == 0
            second = await server.peer(1)
            # One message filled a chunk, so it was one that was half written.
            assert nc.stats.lost_in_flight == 1
            numbers = [int(payload[:8]) for payload in second.payloads]
            assert 1 <= len(numbers) < accepted
            assert numbers == list(range(accepted - len(numbers), accepted))
            assert {len(payload) for payload in second.payloads} == {size + 8}
        go_on.set()


# -- names ---------------------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    """Knows nobody until it is told otherwise."""

    def __init__(self) -> None:
        self.works = False
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **more: Any) -> Sequence[Any]:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if not self.works:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_a_name_is_resolved_anew_at_each_attempt() -> None:
    resolver = Resolver()
    trio.socket.set_custom_hostname_resolver(resolver)
    async with NatsServer() as server:
        resolver.works = True
        url = f"nats://nats.example:{server.port}"
        async with open_nats(url, reconnect=QUICK) as nc, nc.events() as events:
            resolver.works = False
            await server.kill()
            failed = await until(events, ReconnectFailed)
            assert "cannot resolve 'nats.example'" in str(failed.error)
            await server.start()
            before = resolver.asked
            await eventually(lambda: resolver.asked >= before + 3)
            resolver.works = True
            await until(events, Reconnected)


# -- no more descriptors -------------------------------------------------------------------------

WITHOUT_DESCRIPTORS = """
import json, resource, sys
import trio
from trio_nats import ConnectError, ReconnectPolicy, open_nats
from trio_nats.events import Reconnected, ReconnectFailed

async def main(url):
    policy = ReconnectPolicy(wait=0.05, max_wait=0.05, jitter=0)
    async with open_nats(url, reconnect=policy) as nc:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # 0, 1 and 2 are in use. Others that are open stay so.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        failures = []
        try:
            await nc.reconnect()
        except ConnectError as error:
            failures.append(str(error))
        await nc.flush()  # over the connection that it had
        async with nc.events() as events:
            print("cut", flush=True)
            async for event in events:
                assert not isinstance(event, Reconnected)
                if isinstance(event, ReconnectFailed):
                    failures.append(str(event.error))
                    if len(failures) == 4:
                        break
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await nc.flush()
        print(json.dumps([nc.stats.reconnects, failures]))

trio.run(main, *sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits descriptors as Linux does")
async def test_running_out_of_descriptors_is_a_failed_attempt_like_any_other() -> None:
    said = b""
    async with (
        NatsServer() as server,
        PlainProxy(server.port) as proxy,
        trio.open_nursery() as nursery,
    ):
        url = f"nats://127.0.0.1:{proxy.port}"
        command = [sys.executable, "-c", WITHOUT_DESCRIPTORS, url]
        run = partial(trio.run_process, command, stdout=subprocess.PIPE)
        child: trio.Process = await nursery.start(run)
        assert child.stdout is not None
        async for chunk in child.stdout:
            said += chunk
            if said == b"cut\n":
                proxy.cut()
    reconnects, failures = json.loads(said.removeprefix(b"cut\n"))
    assert reconnects == 1
    assert len(failures) == 4
    assert all("Too many open files" in failure for failure in failures)
