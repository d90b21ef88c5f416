"""Unit tests of single parts of the core."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest
import trio
import trio.testing

from tests.core.helpers import frames_of
from tests.support.internals import push
from trio_nats import Msg, PermissionsViolationError
from trio_nats._core.outbox import Outbox
from trio_nats._core.pings import Pings
from trio_nats._core.request_mux import ReplySlot
from trio_nats._core.router import Router
from trio_nats._core.server_pool import ServerPool
from trio_nats._protocol import commands
from trio_nats.server_info import ServerInfo
from trio_nats.servers import Server, parse_server

PONG = commands.PONG


def outbox(limit: int = 1_000_000, when_full: Any = "wait") -> Outbox:
    return Outbox(limit, when_full, lambda: None)


def everything(box: Outbox) -> list[bytes]:
    """Write all that waits."""
    frames: list[bytes] = []
    while chunk := box.take():
        frames += frames_of(chunk)
        box.written(sum(map(len, chunk)))
    return frames


# --- pings --------------------------------------------------------------------------------------


def test_pongs_belong_to_pings_in_order() -> None:
    box = outbox()
    pings = Pings(box, Router(box).confirmation)
    pings.pong()  # nobody asked for that one
    first, second, third = (pings.send() for _ in range(3))
    pings.pong()
    assert [ping.settled.is_set() for ping in (first, second, third)] == [True, False, False]
    pings.unsent(1)
    assert (second.settled.is_set(), third.lost) == (False, True)
    pings.end()
    assert (first.lost, second.lost) == (False, True)
    assert pings.send().lost
    assert everything(box) == [commands.PING] * 3


# --- replies ------------------------------------------------------------------------------------


async def push_later(slot: ReplySlot, msg: Msg) -> None:
    await trio.testing.wait_all_tasks_blocked()
    push(slot, msg)


async def test_a_reply_slot_can_be_unwrapped_and_sent() -> None:
    """Trio only unwraps what a task is woken with, but may send it as well."""
    slot, msg = ReplySlot("svc"), Msg.new("inbox", b"answer")

    def takes() -> Generator[str, Msg, None]:
        got.append((yield "once"))
        yield "twice"

    async def takes_too() -> AsyncGenerator[str, Msg]:
        got.append((yield "once"))
        yield "twice"

    got: list[Msg] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(push_later, slot, msg)
        got.append(await trio.lowlevel.wait_task_rescheduled(slot.abort))
    generator, async_generator = takes(), takes_too()
    assert (next(generator), slot.send(generator)) == ("once", "twice")
    assert (await anext(async_generator), await slot.asend(async_generator)) == ("once", "twice")
    await async_generator.aclose()
    assert len(got) == 3
    assert all(one is msg for one in got)


# --- the pool -----------------------------------------------------------------------------------


def pool(*urls: str) -> ServerPool:
    return ServerPool([parse_server(url) for url in urls], randomize=False)


def info(*urls: str, ws: tuple[str, ...] | None = None) -> ServerInfo:
    return ServerInfo(connect_urls=tuple(urls), ws_connect_urls=ws)


def names(servers: Any) -> list[str]:
    return [server.url for server in servers]


def test_servers_without_credentials_have_the_first_ones() -> None:
    found = pool("nats://a", "nats://u:p@b", "nats://t@c", "nats://d").servers
    who = [(server.host, server.user, server.password, server.token) for server in found]
    assert who == [
        ("a", "u", "p", None),
        ("b", "u", "p", None),
        ("c", None, None, "t"),
        ("d", "u", "p", None),
    ]


def test_discovered_servers_have_the_first_ones_credentials_too() -> None:
    servers = pool("nats://u:p@a")
    (new,) = servers.discover(info("b:4222"), servers.servers[0], "nats")
    assert (new.user, new.password, new.discovered) == ("u", "p", True)


def test_discovering() -> None:
    servers = pool("nats://a", "nats://b:5222")
    seed = servers.servers[0]
    urls = ("c:4222", "b:5222", "a:4222", "d:4222", "a b:1", "c:x")
    new = servers.discover(info(*urls), seed, "nats")
    assert names(new) == ["nats://c:4222", "nats://d:4222"]
    assert servers.discover(info("c:4222", "d:4222"), seed, "nats") == []
    # c is gone, e has come. Those that the user named stay for ever.
    assert names(servers.discover(info("d:4222", "e:4222"), seed, "nats")) == ["nats://e:4222"]
    # The one in use comes last.
    assert names(servers.servers) == [
        "nats://b:5222",
        "nats://d:4222",
        "nats://e:4222",
        "nats://a:4222",
    ]
    # It stays although it does not name itself.
    current = servers.servers[1]
    servers.discover(info("e:4222"), current, "nats")
    assert current in servers.servers
    # A server that names none says nothing about them.
    servers.discover(ServerInfo(), seed, "nats")
    assert len(servers.servers) == 4


def test_addresses_are_checked_against_the_name_of_the_announcing_server() -> None:
    servers = pool("tls://cluster.example")
    seed = servers.servers[0]
    found = servers.discover(info("10.0.0.1:4222", "[fd00::1]:4222", "b.example:4222"), seed, "tls")
    assert [(server.host, server.tls_name) for server in found] == [
        ("10.0.0.1", "cluster.example"),
        ("fd00::1", "cluster.example"),
        ("b.example", None),
    ]
    # And so on: an address that was named by an address.
    (new,) = servers.discover(info("10.0.0.2:4222"), found[0], "tls")
    assert (new.host, new.tls_name, new.scheme) == ("10.0.0.2", "cluster.example", "tls")
    # Where nobody has ever named anything but addresses, each is checked against itself.
    address = parse_server("tls://10.0.0.9")
    (new,) = pool("tls://10.0.0.9").discover(info("10.0.0.3:4222"), address, "tls")
    assert new.tls_name is None


def test_websocket_servers_name_their_own_kind() -> None:
    servers = pool("wss://a:443/path")
    seed = servers.servers[0]
    (new,) = servers.discover(info("b:4222", ws=("c:443",)), seed, "wss")
    assert (new.host, new.port, new.scheme, new.path) == ("c", 443, "wss", seed.path)
    # What nats-server says to them.
    (new,) = servers.discover(info("d:443"), seed, "wss")
    assert (new.host, new.port, new.scheme, new.path) == ("d", 443, "wss", seed.path)


def test_failures() -> None:
    servers = pool("nats://a", "nats://b", "nats://c")
    a, b, c = servers.servers
    assert not servers.failed(a, ValueError("one"))
    assert servers.servers == (b, c, a)
    assert servers.failed(a, ValueError("one"))
    assert not servers.failed(a, ValueError("two"))
    assert not servers.failed(a, KeyError("two"))
    assert servers.failures == {a: 4}
    servers.connected(b)
    assert servers.servers == (c, a, b)
    assert servers.failures == {}
    assert not servers.failed(a, KeyError("two"))
    servers.remove(a)
    servers.remove(a)
    assert servers.servers == (c, b)


def test_the_order_is_random_if_so_wanted() -> None:
    seeds = [parse_server(f"nats://host{number}") for number in range(10)]

    def order(randomize: bool) -> tuple[Server, ...]:
        return ServerPool(seeds, randomize=randomize).servers

    assert order(False) == tuple(seeds)
    # Ten servers have 3,628,800 orders, so three equal ones are no accident.
    assert len({order(True) for _ in range(4)}) > 1
    assert set(order(True)) == set(seeds)


# --- the router ---------------------------------------------------------------------------------


class Sink:
    """A subscription that only notes what becomes of it."""

    def __init__(self, subject: bytes, queue: bytes | None = None, remaining: int | None = None):
        self._raw_subject = subject
        self._raw_queue = queue
        self._remaining = remaining
        self.pending = (0, 0)
        self.ended: Exception | None = None
        self.received: list[bytes] = []

    async def _wait_empty(self) -> None:
        await trio.lowlevel.checkpoint()

    def _push(self, msg: Msg) -> None:
        self.received.append(msg.data)

    def _end(self, error: Exception) -> None:
        self.ended = error


def denied(subject: str, queue: str | None = None, sid: str | None = None) -> Any:
    return PermissionsViolationError("no", "subscription", subject, queue, sid)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (denied("news"), 0),
        (denied("news", "q"), 1),
        (denied("news", "other"), None),
        (denied("News"), None),
        (denied("news", None, "3"), 2),
        (denied("whatever", "q", "3"), 2),
        (denied("news", "q", "99"), 1),
        (denied("gr\u00fc\u00dfe"), 3),
    ],
)
def test_denying(error: Any, ends: int | None) -> None:
    router = Router(outbox())
    sinks = [
        Sink(b"news"),
        Sink(b"news", b"q"),
        Sink(b"news"),
        Sink("gr\u00fc\u00dfe".encode()),
    ]
    for sink in sinks:
        router.add(sink)
    assert router.deny(error) == (ends is not None)
    assert [sink.ended is error for sink in sinks] == [index == ends for index in range(4)]
    assert len(router.sinks) == 4 - (ends is not None)


def test_two_violations_end_two_subscriptions() -> None:
    router = Router(outbox())
    sinks = [Sink(b"news"), Sink(b"news")]
    for sink in sinks:
        router.add(sink)
    assert router.deny(denied("news"))
    assert router.deny(denied("news"))
    assert not router.deny(denied("news"))
    assert all(sink.ended for sink in sinks)


async def test_a_denied_subscription_does_not_stall_others() -> None:
    router = Router(outbox())
    sink = Sink(b"news")
    router.add(sink)
    assert router.stall(sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.wait_unstalled)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        router.deny(denied("news"))


def test_commands_sent_to_the_server() -> None:
    box = outbox()
    router = Router(box)
    early = router.add(Sink(b"early"))
    assert everything(box) == []  # no wire yet
    assert router.restore() == [b"SUB early 1\r\n"]
    router.live = True
    late = router.add(Sink(b"late", b"q", remaining=3))
    assert everything(box) == [b"SUB late q 2\r\n", b"UNSUB 2 3\r\n"]
    router.quiesce(early)
    router.quiesce(early)
    router.remove(early)
    router.remove(early)
    assert everything(box) == [b"UNSUB 1\r\n"]
    router.live = False
    router.remove(late)
    assert everything(box) == []
    assert router.restore() == []


def test_a_draining_subscription_is_not_restored_but_still_delivers() -> None:
    router = Router(outbox())
    sink = Sink(b"news")
    sid = router.add(sink)
    router.quiesce(sid)
    assert router.restore() == []
    msg = Msg.new("news", b"x")
    msg.sid = sid
    router.deliver(msg)
    assert sink.received == [b"x"]
