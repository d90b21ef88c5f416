"""A name with several addresses: all of them are used, and a bad one does not hide the others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.reliability.helpers import HANG_TIMEOUT, QUICK, eventually, read_line, session, until
from tests.support.internals import is_moving
from tests.support.peer import Peer, ScriptedServer, info_line
from trio_nats import ConnectError, ConnectionState, NoInfoError, open_nats
from trio_nats._transport.dial import AddressHistory
from trio_nats.events import LameDuck, Reconnected
from trio_nats.servers import parse_server
from trio_nats.testing import NatsServer

URL = "nats://some.name:4222"


class Names(trio.abc.HostnameResolver):
    """Resolves every name to servers of this machine, which differ in their ports."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        await trio.lowlevel.checkpoint()
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", ("127.0.0.1", port)) for port in self.ports]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@contextmanager
def resolving(*servers: NatsServer | ScriptedServer) -> Iterator[Names]:
    """All names are those of ``servers``, in this order."""
    names = Names(*(server.port for server in servers))
    trio.socket.set_custom_hostname_resolver(names)  # for this run of Trio
    yield names


async def unresponsive(peer: Peer) -> None:
    """Accept the connection, and say nothing."""
    await trio.sleep_forever()


@pytest.mark.slow
async def test_clients_spread_over_all_addresses() -> None:
    async with NatsServer(name="one") as one, NatsServer(name="two") as two:
        with resolving(one, two):
            found = set()
            for _ in range(40):
                async with open_nats(URL) as nc:
                    found.add(nc.server_info.server_name)
    # All at the same one: once in 5 * 10 ** 11.
    assert found == {"one", "two"}


async def test_in_the_order_given_the_first_address_is_used() -> None:
    async with NatsServer(name="one") as one, NatsServer(name="two") as two:
        with resolving(one, two):
            for _ in range(5):
                async with open_nats(URL, randomize=False) as nc:
                    assert nc.server_info.server_name == "one"


async def test_an_unresponsive_address_is_skipped_at_the_first_connection() -> None:
    async with ScriptedServer(unresponsive) as bad, NatsServer(name="good") as good:
        with resolving(bad, good):
            async with open_nats(URL, randomize=False, connect_timeout=3) as nc:
                assert nc.server_info.server_name == "good"


class DeadPort(trio.abc.SocketFactory):
    """Connecting to one port is never answered, not even refused."""

    def __init__(self, port: int) -> None:
        self.port = port

    def socket(self, family: Any = -1, type: Any = -1, proto: int = -1) -> Any:
        made: Any = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        connect = made.connect

        async def connect_or_hang(address: Any) -> None:
            if address[1] == self.port:
                await trio.sleep_forever()
            await connect(address)

        made.connect = connect_or_hang
        return made


async def test_an_unreachable_address_does_not_use_up_the_time_of_others() -> None:
    async with ScriptedServer(unresponsive) as dead, NatsServer(name="good") as good:
        with resolving(dead, good):
            trio.socket.set_custom_socket_factory(DeadPort(dead.port))
            async with open_nats(URL, randomize=False, connect_timeout=1000) as nc:
                assert nc.server_info.server_name == "good"


async def test_if_no_address_responds_each_is_reported() -> None:
    async with ScriptedServer(unresponsive) as one, ScriptedServer(unresponsive) as two:
        with resolving(one, two):
            with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
                async with open_nats(URL, randomize=False, connect_timeout=0.05):
                    raise AssertionError("connected")
    assert len(list(caught.value.errors(NoInfoError))) == 2
    for server in (one, two):
        assert f"{URL} (127.0.0.1:{server.port}) [info]" in str(caught.value)


async def test_the_address_that_was_lost_is_the_last_to_be_tried() -> None:
    async def drop(peer: Peer) -> None:
        await read_line(peer, b"SUB")

    async with ScriptedServer(session(drop), unresponsive) as bad, NatsServer() as good:
        with resolving(bad, good):
            async with open_nats(URL, randomize=False, connect_timeout=1000) as nc:
                async with nc.events() as events, nc.subscribe("a"):
                    await until(events, Reconnected)
                    assert nc.server_info.server_name != "scripted"
        assert len(bad.peers) == 1


async def test_an_address_that_failed_waits_until_the_others_have_been_tried() -> None:
    async def closes(peer: Peer) -> None:
        await trio.lowlevel.checkpoint()

    async def drop(peer: Peer) -> None:
        await read_line(peer, b"SUB")

    scripts = (session(drop), closes, session())
    async with (
        ScriptedServer(*scripts) as one,
        ScriptedServer(closes) as two,
        ScriptedServer(closes) as three,
    ):
        with resolving(one, two, three):
            async with open_nats(URL, randomize=False, reconnect=QUICK) as nc, nc.subscribe("a"):
                with trio.fail_after(HANG_TIMEOUT):
                    await one.peer(2)
                    await nc.wait_for_state(ConnectionState.OPEN)
        assert [len(server.peers) for server in (one, two, three)] == [3, 2, 2]


@pytest.mark.slow
async def test_a_lame_duck_is_left_for_another_address_of_its_name() -> None:
    async def lame(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(info_line(ldm=True))
        await peer.serve()

    async with ScriptedServer(session(lame)) as bad, NatsServer(name="good") as good:
        with resolving(bad, good):
            async with open_nats(URL, randomize=False) as nc, nc.subscribe("a"):
                async with nc.events() as events:
                    await until(events, LameDuck)
                    await until(events, Reconnected)
                assert nc.server_info.server_name == "good"
                await eventually(lambda: not is_moving(nc))


async def test_a_server_known_by_name_and_by_address_is_one() -> None:
    async with NatsServer() as good:

        async def drop(peer: Peer) -> None:
            urls = [f"127.0.0.1:{port}" for port in (server.port, good.port)]
            await read_line(peer, b"SUB")
            await peer.send(info_line(connect_urls=urls))

        async with ScriptedServer(session(drop), unresponsive) as server:
            with resolving(server):
                async with (
                    open_nats(URL, randomize=False, connect_timeout=1000) as nc,
                    nc.events() as events,
                    nc.subscribe("a"),
                ):
                    assert (await until(events, Reconnected)).server == good.url
            assert len(server.peers) == 1


# --- the order ------------------------------------------------------------------------------------


def addresses(*hosts: str) -> list[Any]:
    return [
        (socket.AF_INET6, (host, 4222, 0, 0)) if ":" in host else (socket.AF_INET, (host, 4222))
        for host in hosts
    ]


def hosts(found: list[Any]) -> list[str]:
    return [address[0] for _, address in found]


SERVER = parse_server(URL)


def test_families_alternate_at_the_beginning_and_the_failed_come_last() -> None:
    history = AddressHistory(randomize=False)
    known = addresses("::1", "::2", "10.0.0.1", "10.0.0.2")
    assert hosts(history.in_order(SERVER, known)) == ["::1", "10.0.0.1", "::2", "10.0.0.2"]
    assert history.failed(SERVER, ("10.0.0.1", 4222))
    assert history.failed(SERVER, ("::1", 4222))
    assert hosts(history.in_order(SERVER, known)) == ["::2", "10.0.0.2", "10.0.0.1", "::1"]
    assert history.failed(SERVER, ("::2", 4222))
    assert not history.failed(SERVER, ("10.0.0.2", 4222))
    # All have failed, so it is the turn of the one that did first.
    assert hosts(history.in_order(SERVER, known)) == ["10.0.0.1", "::1", "::2", "10.0.0.2"]
    history.clear()
    assert hosts(history.in_order(SERVER, known)) == ["::1", "10.0.0.1", "::2", "10.0.0.2"]


def test_the_family_that_the_system_prefers_stays_first() -> None:
    history = AddressHistory(randomize=True)
    known = addresses("::1", "::2", "::3", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    orders = [hosts(history.in_order(SERVER, known)) for _ in range(100)]
    assert {order[0] for order in orders} == {"::1", "::2", "::3"}
    assert {order[1] for order in orders} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert all(sorted(order) == sorted(hosts(known)) for order in orders)


def test_addresses_that_a_name_no_longer_has_are_forgotten() -> None:
    history = AddressHistory(randomize=False)
    for number in range(100):
        history.in_order(SERVER, addresses(f"10.0.0.{number}", "10.0.1.1"))
        assert history.failed(SERVER, (f"10.0.0.{number}", 4222))
    assert len(history) == 1


def test_a_single_address_is_not_remembered() -> None:
    history = AddressHistory(randomize=False)
    history.in_order(SERVER, addresses("10.0.0.1"))
    assert not history.failed(SERVER, ("10.0.0.1", 4222))
    history.in_order(SERVER, addresses("10.0.0.1"))
    assert len(history) == 0
