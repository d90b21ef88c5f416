"""``Connection.reconnect()``: make before break, as seen by those who publish and subscribe."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.reliability.helpers import (
    HANG_TIMEOUT,
    QUICK,
    Ledger,
    eventually,
    publishing,
    read_line,
    receive_n,
    session,
    shorten_overlap,
    until,
)
from tests.support.certs import certificates
from tests.support.internals import is_moving, set_handover_limits
from tests.support.jwts import Operator
from tests.support.peer import Peer, ScriptedServer
from tests.support.proxies import PlainProxy
from tests.transports import ALL_BUT_WSS, ALL_TRANSPORTS, Transport
from trio_nats import (
    Auth,
    ConnectError,
    Connection,
    ConnectionState,
    Credentials,
    EventChannel,
    PendingLimits,
    Server,
    TLSOptions,
    UserPassword,
    open_nats,
)
from trio_nats.errors import (
    AuthorizationError,
    CredentialsError,
    PermissionsViolationError,
    TLSConfigurationError,
)
from trio_nats.events import Connected, Disconnected, LameDuck, Reconnected
from trio_nats.testing import NatsCluster, NatsServer, ServerTLS


@pytest.mark.slow
@ALL_BUT_WSS
async def test_a_move_on_a_single_server_loses_and_repeats_nothing(
    transport: Transport,
) -> None:
    plain, grouped = Ledger(), Ledger()
    async with (
        transport.server() as server,
        transport.open(server) as pub,
        transport.open(server) as nc,
        nc.subscribe("plain") as everything,
        nc.subscribe("grouped", queue="q") as share,
        nc.events() as events,
        trio.open_nursery() as nursery,
    ):
        shorten_overlap(nc)
        nursery.start_soon(plain.keep, everything)
        nursery.start_soon(grouped.keep, share)
        await nc.flush(timeout=HANG_TIMEOUT)
        async with (
            publishing(pub, "other", "plain", "grouped", pause=0.0002) as other,
            publishing(nc, "self", "plain", pause=0.0002) as own,
        ):
            await other.reach(50)
            with trio.fail_after(HANG_TIMEOUT):
                await nc.reconnect()
                await other.reach(200)
                # Another one, when the first is over with.
                await nc.reconnect()
            await other.reach(200)
        await eventually(lambda: plain.count("other") >= other.sent)
        await eventually(lambda: plain.count("self") >= own.sent)
        await eventually(lambda: grouped.count("other") >= other.sent)
        # Whatever would come twice comes from the old wire, until that is closed.
        await eventually(lambda: not is_moving(nc))
        assert await until(events, Reconnected) == Reconnected(transport.url(server))
        nursery.cancel_scope.cancel()
    plain.check("other", other.sent)
    plain.check("self", own.sent)
    grouped.check("other", other.sent, ordered=False)
    assert nc.stats.lost_in_flight == 0
    assert nc.stats.reconnects == 2


@ALL_TRANSPORTS
async def test_a_move_reports_no_loss_and_stays_open(transport: Transport) -> None:
    async with transport.scripted(session()) as server, transport.open(server) as nc:
        async with nc.events() as events:
            with trio.fail_after(HANG_TIMEOUT):
                await nc.reconnect()
            assert nc.state is ConnectionState.OPEN
            assert events.receive_nowait() == Reconnected(transport.url(server))
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


@ALL_TRANSPORTS
async def test_new_credentials_come_into_use(transport: Transport) -> None:
    asked: list[str] = []

    def auth(server: Server) -> Auth:
        asked.append(f"user{len(asked)}")
        return UserPassword(asked[-1], "x")

    async with transport.scripted(session()) as server, transport.open(server, auth=auth) as nc:
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
        assert (await server.peer(1)).connect["user"] == "user1"


@pytest.mark.slow
@ALL_BUT_WSS
async def test_without_echo_nothing_is_missed_and_nothing_own_is_heard(
    transport: Transport,
) -> None:
    ledger = Ledger()
    async with (
        transport.server() as server,
        transport.open(server) as pub,
        transport.open(server, echo=False) as nc,
        nc.subscribe("a") as sub,
        nc.events() as events,
        trio.open_nursery() as nursery,
    ):
        shorten_overlap(nc)
        nursery.start_soon(ledger.keep, sub)
        await nc.flush(timeout=HANG_TIMEOUT)
        async with (
            publishing(pub, "other", "a", pause=0.0002) as other,
            publishing(nc, "self", "a", pause=0.0002) as own,
        ):
            await own.reach(50)
            for _ in range(2):
                with trio.fail_after(HANG_TIMEOUT):
                    await nc.reconnect()
                await own.reach(50)
                await other.reach(50)
        await eventually(lambda: ledger.count("other") >= other.sent)
        await eventually(lambda: not is_moving(nc))
        assert not any(isinstance(event, Disconnected) for event in await drained(events))
        nursery.cancel_scope.cancel()
    ledger.check("other", other.sent)
    assert ledger.count("self") == 0
    assert nc.stats.reconnects == 2


# --- moves that come to nothing -------------------------------------------------------------------


@dataclass
class Rotation:
    """What has a connection's moves fail, and succeed again."""

    spoil: Callable[[Connection], object]
    mend: Callable[[Connection], object]


@asynccontextmanager
async def wrong_password(folder: Path) -> AsyncIterator[tuple[Connection, Rotation]]:
    auth = UserPassword("u", "right")

    def use(password: str) -> None:
        nonlocal auth
        auth = UserPassword("u", password)

    async with NatsServer(user="u", password="right") as server:
        async with open_nats(server.url, auth=lambda _: auth, reconnect=QUICK) as nc:
            yield nc, Rotation(lambda _: use("wrong"), lambda _: use("right"))


@asynccontextmanager
async def missing_creds(folder: Path) -> AsyncIterator[tuple[Connection, Rotation]]:
    operator, file = Operator(), folder / "user.creds"
    text = operator.user("u").creds
    file.write_text(text)
    async with NatsServer(config=operator.config) as server:
        async with open_nats(server.url, auth=Credentials(file=file), reconnect=QUICK) as nc:
            yield nc, Rotation(lambda _: file.unlink(), lambda _: file.write_text(text))


@asynccontextmanager
async def half_a_ca_file(folder: Path) -> AsyncIterator[tuple[Connection, Rotation]]:
    certs, file = certificates(), folder / "ca.pem"
    text = await trio.Path(certs.ca_file).read_text()
    file.write_text(text)
    async with NatsServer(tls=ServerTLS(certs.server.cert_file, certs.server.key_file)) as server:
        async with open_nats(server.url, tls=TLSOptions(ca_file=file), reconnect=QUICK) as nc:
            yield (
                nc,
                Rotation(
                    lambda _: file.write_text(text[: len(text) // 2]),
                    lambda _: file.write_text(text),
                ),
            )


@asynccontextmanager
async def nobody_there(folder: Path) -> AsyncIterator[tuple[Connection, Rotation]]:
    async with NatsServer() as gone:
        pass
    async with NatsServer() as server, open_nats(server.url, reconnect=QUICK) as nc:
        yield (
            nc,
            Rotation(lambda nc: nc.set_servers(gone.url), lambda nc: nc.set_servers(server.url)),
        )


@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        (wrong_password, AuthorizationError),
        (missing_creds, CredentialsError),
        (half_a_ca_file, TLSConfigurationError),
        (nobody_there, OSError),
    ],
)
async def test_a_failed_rotation_keeps_the_connection(
    situation: Callable[[Path], AbstractAsyncContextManager[tuple[Connection, Rotation]]],
    reason: type[Exception],
    tmp_path: Path,
) -> None:
    async with situation(tmp_path) as (nc, rotation), nc.subscribe("a") as sub:
        await nc.flush(timeout=HANG_TIMEOUT)
        async with nc.events() as events:
            rotation.spoil(nc)
            for number in range(3):
                with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
                    await nc.reconnect()
                assert list(caught.value.errors(reason))
                assert nc.state is ConnectionState.OPEN
                await nc.publish("a", b"%d" % number)
                assert [msg.data for msg in await receive_n(sub, 1)] == [b"%d" % number]
            assert await drained(events) == []
            rotation.mend(nc)
            with trio.fail_after(HANG_TIMEOUT):
                await nc.reconnect()
            assert nc.stats.reconnects == 1
            assert nc.stats.lost_in_flight == 0
            await nc.publish("a", b"end")
            assert [msg.data for msg in await receive_n(sub, 1)] == [b"end"]


@ALL_TRANSPORTS
async def test_without_a_second_connection_the_first_stays(transport: Transport) -> None:
    async def refuses(peer: Peer) -> None:
        await peer.send(b"-ERR 'maximum connections exceeded'\r\n")
        await peer.hang_up()

    async with transport.scripted(session(), refuses, session()) as server:
        async with transport.open(server, reconnect=QUICK) as nc:
            with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError, match="maximum connec"):
                await nc.reconnect()
            assert nc.stats.reconnects == 0
            await nc.flush(timeout=HANG_TIMEOUT)
            assert not server.peers[0].finished.is_set()


@pytest.mark.parametrize("lost", [False, True], ids=["moving", "reconnecting"])
async def test_a_server_that_is_removed_while_it_is_connected_to_is_not_used(lost: bool) -> None:
    async with NatsServer() as server, NatsServer() as removed, NatsServer() as wanted:

        def auth(at: Server) -> None:
            if at.url == removed.url:
                nc.set_servers(wanted.url)

        async with open_nats(server.url, auth=auth, reconnect=QUICK) as nc, nc.events() as events:
            nc.set_servers(removed.url)
            with trio.fail_after(HANG_TIMEOUT):
                if lost:
                    await server.kill()
                else:
                    await nc.reconnect()
                assert await until(events, Reconnected) == Reconnected(wanted.url)
            assert [known.url for known in nc.servers] == [wanted.url]


async def test_a_server_that_forbids_a_subscription_is_not_moved_to() -> None:
    """Another one is, if there is one."""

    async def forbids(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(b"-ERR 'Permissions Violation for Subscription to \"a\"'\r\n")
        await peer.serve()

    async with (
        ScriptedServer(session()) as server,
        ScriptedServer(session(forbids)) as strict,
        ScriptedServer(session()) as kind,
        open_nats([server.url, strict.url], randomize=False) as nc,
        nc.subscribe("a"),
    ):
        await nc.flush(timeout=HANG_TIMEOUT)
        nc.set_servers(strict.url)
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(ConnectError) as caught:
            await nc.reconnect()
        (attempt,) = caught.value.attempts
        assert isinstance(attempt.error, PermissionsViolationError)
        assert attempt.phase == "subscribe"
        await nc.flush(timeout=HANG_TIMEOUT)
        nc.set_servers([strict.url, kind.url])
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
        assert nc.connected_url == kind.url


async def test_a_reconnect_during_a_failing_move_makes_its_own_attempt() -> None:
    password, asked, corrected = "wrong", trio.Event(), trio.Event()

    async def auth(server: Server) -> Auth:
        used = UserPassword("u", password)
        if nc is not None and not corrected.is_set():
            asked.set()
            await corrected.wait()
        return used

    nc = None
    async with NatsServer(user="u", password="right") as server:
        password = "right"
        async with open_nats(server.url, auth=auth) as nc, trio.open_nursery() as nursery:
            password = "wrong"

            async def too_early() -> None:
                with pytest.raises(ConnectError):
                    await nc.reconnect()

            nursery.start_soon(too_early)
            with trio.fail_after(HANG_TIMEOUT):
                await asked.wait()
                password = "right"
                nursery.start_soon(nc.reconnect)
                nursery.start_soon(nc.reconnect)
                await trio.testing.wait_all_tasks_blocked()
                corrected.set()
                await nc.wait_for_state(ConnectionState.OPEN)
        assert nc.stats.reconnects == 1


async def test_a_lost_connection_during_a_move_is_not_a_failed_move() -> None:
    dialled, go_on = trio.Event(), trio.Event()

    async def refuse(peer: Peer) -> None:
        dialled.set()
        await go_on.wait()

    async with ScriptedServer(refuse, session()) as other, ScriptedServer(session()) as server:
        async with (
            open_nats([server.url, other.url], randomize=False, reconnect=QUICK) as nc,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(nc.reconnect)
            with trio.fail_after(HANG_TIMEOUT):
                await dialled.wait()
                server.refuse()
                server.peers[0].close()
                await nc.wait_for_state(ConnectionState.RECONNECTING)
                go_on.set()
                await nc.wait_for_state(ConnectionState.OPEN)
        assert nc.stats.reconnects == 1


async def test_closing_ends_the_wait_for_a_move() -> None:
    dialled = trio.Event()

    async def unresponsive(peer: Peer) -> None:
        dialled.set()
        await trio.sleep_forever()

    async with ScriptedServer(session(), unresponsive) as server:
        async with open_nats(server.url) as nc, trio.open_nursery() as nursery:

            async def move() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await nc.reconnect()

            nursery.start_soon(move)
            with trio.fail_after(HANG_TIMEOUT):
                await dialled.wait()
                await nc.aclose()


@pytest.mark.parametrize("echo", [True, False])
async def test_a_lame_duck_is_not_left_before_there_is_another_server(echo: bool) -> None:
    config = {"lame_duck_grace_period": "5s", "lame_duck_duration": "30s"}
    async with (
        NatsServer(config=config) as server,
        open_nats(server.url) as pub,
        # Nobody listens at the other one.
        open_nats([server.url, url_of(1)], randomize=False, echo=echo) as nc,
        nc.subscribe("a") as sub,
        nc.events() as events,
    ):
        await nc.flush(timeout=HANG_TIMEOUT)
        await server.lame_duck()
        await until(events, LameDuck)
        for number in range(30):
            await pub.publish("a", b"%d" % number)
        assert [msg.data for msg in await receive_n(sub, 30)] == [b"%d" % n for n in range(30)]
        assert await drained(events) == []


@pytest.mark.slow
@pytest.mark.parametrize("echo", [True, False])
async def test_a_lame_duck_is_left_for_another_server_without_a_gap(echo: bool) -> None:
    ledger = Ledger()
    config = {"lame_duck_grace_period": "3s", "lame_duck_duration": "30s"}
    async with (
        NatsCluster(2, config=config) as cluster,
        open_nats(cluster[1].url, ignore_discovered=True) as pub,
        open_nats(cluster[0].url, echo=echo) as nc,
        nc.subscribe("a") as sub,
        nc.events() as events,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ledger.keep, sub)
        await nc.flush(timeout=HANG_TIMEOUT)
        async with publishing(pub, "p", "a") as load:
            await eventually(lambda: ledger.count("p") > 0)
            await cluster[0].lame_duck()
            await until(events, LameDuck)
            assert await until(events, Reconnected) == Reconnected(cluster[1].url)
            await load.reach(20)
        await eventually(lambda: load.sent - 1 in ledger.arrived["p"])
        nursery.cancel_scope.cancel()
    first = ledger.arrived["p"][0]
    assert ledger.arrived["p"] == list(range(first, load.sent))


@ALL_TRANSPORTS
async def test_a_cancelled_reconnect_goes_on(transport: Transport) -> None:
    async with transport.scripted(session()) as server, transport.open(server) as nc:
        async with nc.events() as events:
            with trio.CancelScope() as scope:
                scope.cancel()
                await nc.reconnect()
            with trio.move_on_after(0) as scope:
                await nc.reconnect()
            assert scope.cancelled_caught
            assert await until(events, Reconnected) == Reconnected(transport.url(server))


@ALL_TRANSPORTS
async def test_reconnecting_while_disconnected_returns_once_connected(transport: Transport) -> None:
    async with transport.server() as server:
        async with transport.open(server, reconnect=QUICK) as nc, nc.events() as events:
            await server.kill()
            await until(events, Disconnected)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(nc.reconnect)
                await server.start()
            assert nc.state is ConnectionState.OPEN
            assert nc.stats.reconnects == 1
            await nc.reconnect()
            assert nc.stats.reconnects == 2
            assert not any(isinstance(event, Connected) for event in await drained(events))


async def drained(events: EventChannel) -> list[object]:
    """What waits in a channel."""
    found = []
    await trio.lowlevel.checkpoint()
    while True:
        try:
            found.append(events.receive_nowait())
        except trio.WouldBlock:
            return found


@ALL_BUT_WSS
async def test_subscriptions_made_and_left_during_a_move_are_right_on_the_new_wire(
    transport: Transport,
) -> None:
    async with transport.server() as server, transport.open(server) as nc:
        shorten_overlap(nc)
        async with nc.subscribe("stays") as stays, trio.open_nursery() as nursery:
            nursery.start_soon(nc.reconnect)
            made = 0
            with trio.fail_after(HANG_TIMEOUT):
                while nc.stats.reconnects == 0:
                    async with nc.subscribe(f"short.{made}", stop_after=1) as short:
                        await nc.publish(f"short.{made}", b"x")
                        assert (await short.receive()).data == b"x"
                    made += 1
            assert made > 0
            await nc.publish("stays", b"still")
            assert [msg.data for msg in await receive_n(stays, 1)] == [b"still"]
            await eventually(lambda: not is_moving(nc))
            await nc.flush(timeout=HANG_TIMEOUT)
            subscriptions = (await server.monitor("connz?subs=1"))["connections"]
            assert isinstance(subscriptions, list)
            mine = [one["subscriptions_list"] for one in subscriptions if one["subscriptions"]]
            assert mine == [["stays"]]


# --- what happens at the same time ----------------------------------------------------------------


@pytest.mark.parametrize("echo", [True, False])
async def test_a_subscription_that_has_stopped_the_reading_misses_nothing(echo: bool) -> None:
    limits = PendingLimits(messages=10, when_full="wait")
    async with (
        NatsServer() as server,
        open_nats(server.url) as pub,
        open_nats(server.url, echo=echo) as nc,
        nc.subscribe("a", pending_limits=limits) as sub,
    ):
        set_handover_limits(nc, pong_timeout=0.5, overlap=0.1)
        await nc.flush(timeout=HANG_TIMEOUT)
        for number in range(3000):
            await pub.publish("a", b"%d " % number + bytes(1000))
        await pub.flush(timeout=HANG_TIMEOUT)
        await nc.reconnect()
        await eventually(lambda: not is_moving(nc))
        await pub.publish("a", b"3000 end")
        got: list[int] = []
        while not got or got[-1] != 3000:
            got.append(int((await sub.receive()).data.split()[0]))
        assert got == list(range(3001))
        assert sub.dropped == 0


@pytest.mark.slow
async def test_a_slow_handler_that_publishes_does_not_keep_the_move_from_its_end() -> None:
    """Without echo nothing is published before the old server has sent all it has."""
    limits = PendingLimits(messages=10, when_full="wait")
    async with (
        NatsServer() as server,
        open_nats(server.url) as other,
        open_nats(server.url, echo=False, outbox_size=20_000) as nc,
        nc.subscribe("in", pending_limits=limits) as sub,
        other.subscribe("out") as out,
        trio.open_nursery() as nursery,
    ):
        set_handover_limits(nc, pong_timeout=0.5, overlap=0.1)

        async def handle() -> None:
            async for msg in sub:
                await nc.publish("out", msg.data)

        await nc.flush(timeout=HANG_TIMEOUT)
        for number in range(3000):
            await other.publish("in", b"%d " % number + bytes(1000))
        nursery.start_soon(nc.reconnect)
        nursery.start_soon(handle)
        got = [int(msg.data.split()[0]) for msg in await receive_n(out, 3000)]
        assert got == list(range(3000))
        await eventually(lambda: nc.stats.reconnects == 1)
        nursery.cancel_scope.cancel()


async def test_a_member_that_leaves_its_queue_group_during_a_move_takes_nothing_more() -> None:
    async with (
        NatsServer() as server,
        open_nats(server.url) as other,
        open_nats(server.url) as nc,
        other.subscribe("q", queue="g") as stays,
    ):
        set_handover_limits(nc, overlap=3600)
        async with nc.subscribe("q", queue="g"):
            await nc.flush(timeout=HANG_TIMEOUT)
            await nc.reconnect()

        async def members() -> int:
            found = (await server.monitor("connz?subs=1"))["connections"]
            assert isinstance(found, list)
            return sum("q" in one.get("subscriptions_list", ()) for one in found)

        with trio.fail_after(HANG_TIMEOUT):
            while await members() > 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
        for number in range(100):
            await other.publish("q", b"%d" % number)
        assert [int(msg.data) for msg in await receive_n(stays, 100)] == list(range(100))


async def test_the_new_connection_breaking_during_the_overlap_brings_back_the_old_one() -> None:
    ledger = Ledger()
    async with (
        NatsCluster(2) as cluster,
        PlainProxy(cluster[1].port) as proxy,
        open_nats(cluster[0].url) as pub,
        open_nats(cluster[0].url, ignore_discovered=True, reconnect=QUICK) as nc,
        nc.subscribe("a") as sub,
        nc.events() as events,
        trio.open_nursery() as nursery,
    ):
        set_handover_limits(nc, overlap=3600)
        nursery.start_soon(ledger.keep, sub)
        await nc.flush(timeout=HANG_TIMEOUT)
        async with publishing(pub, "p", "a") as load:
            await eventually(lambda: ledger.count("p") > 0)
            nc.set_servers(url_of(proxy.port))
            await nc.reconnect()
            await load.reach(20)
            async with nc.subscribe("b") as later:
                proxy.cut()
                assert (await until(events, Disconnected)).server == url_of(proxy.port)
                assert await until(events, Reconnected) == Reconnected(cluster[0].url)
                await load.reach(20)
                await nc.publish("b", b"x")
                assert [msg.data for msg in await receive_n(later, 1)] == [b"x"]
            # Another move, now that this one is over.
            shorten_overlap(nc)
            nc.set_servers(cluster[1].url)
            await nc.reconnect()
            await load.reach(20)
        await eventually(lambda: ledger.count("p") >= load.sent - ledger.arrived["p"][0])
        await eventually(lambda: not is_moving(nc))
        nursery.cancel_scope.cancel()
    first = ledger.arrived["p"][0]
    assert ledger.arrived["p"] == list(range(first, load.sent))
    assert nc.stats.reconnects == 3


def url_of(port: int) -> str:
    return f"nats://127.0.0.1:{port}"


async def test_a_lame_duck_is_left_as_soon_as_there_is_another_server() -> None:
    config = {"lame_duck_grace_period": "50s", "lame_duck_duration": "90s"}
    async with (
        NatsServer(config=config) as server,
        NatsServer() as other,
        open_nats([server.url, other.url], randomize=False, reconnect=QUICK) as nc,
        nc.events() as events,
    ):
        shorten_overlap(nc)
        await other.kill()
        await server.lame_duck()
        await until(events, LameDuck)
        assert nc.connected_url == server.url
        await other.start()
        async for event in events:
            assert not isinstance(event, Disconnected)
            if isinstance(event, Reconnected):
                assert event.server == other.url
                break
