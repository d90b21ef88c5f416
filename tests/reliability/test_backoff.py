"""When, how often and where to a connection is tried again, on a clock that jumps."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from itertools import pairwise

import pytest
import trio
import trio.testing

from tests.reliability.helpers import HANG_TIMEOUT, QUICK, session, until
from tests.support.peer import Peer, ScriptedServer, info_line
from trio_nats import (
    ConnectError,
    ConnectionLostError,
    ConnectionState,
    ReconnectPolicy,
    Server,
    ServerInfo,
    open_nats,
)
from trio_nats._core.reconnect import Reconnector
from trio_nats._core.server_pool import ServerPool
from trio_nats._event_hub import EventHub
from trio_nats._protocol.server_errors import server_error
from trio_nats._transport.connector import AttemptFailed, ServerConnection
from trio_nats.errors import AuthorizationError, ConnectAttempt, WebSocketError
from trio_nats.events import Closed, Connected, Disconnected, Reconnected, ReconnectFailed
from trio_nats.options import Candidate, Picked
from trio_nats.servers import parse_servers
from trio_nats.testing import NatsServer

CEILINGS = [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]


class Attempts:
    """A redialer whose attempts all fail, up to a number; remembers when and where they were."""

    def __init__(self, policy: ReconnectPolicy, *urls: str) -> None:
        self.pool = ServerPool(parse_servers(urls or ("a",)), randomize=False)
        self.event_hub = EventHub()
        self._redialer = Reconnector(self.pool, policy, self.event_hub, self._fail)
        self._last = trio.current_time()
        self.waits: list[float] = []
        self.hosts: list[str] = []
        self.error: Exception = OSError("nobody there")
        self.errors: dict[str, Exception] = {}
        """Of single hosts."""

    async def _fail(self, server: Server) -> ServerConnection:
        self.waits.append(round(trio.current_time() - self._last, 6))
        self.hosts.append(server.host)
        self._last = trio.current_time()
        if len(self.waits) == self._limit:
            self._enough.cancel()
        error = self.errors.get(server.host, self.error)
        raise AttemptFailed(ConnectAttempt(server.url, "dial", error))

    async def make(self, limit: int) -> None:
        """Let ``limit`` attempts happen, or fewer where none are left."""
        self._limit = len(self.waits) + limit
        self._last = trio.current_time()
        with trio.CancelScope() as self._enough:
            await self._redialer.until_connected(ServerInfo(server_name="last"))


async def test_every_wait_is_random_below_a_doubling_ceiling_the_first_included(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled = iter([0.0, 0.25, 0.5, 0.75, 0.999, 0.0, 0.5, 0.1] * 2)
    monkeypatch.setattr(random, "random", lambda: next(rolled))
    attempts = Attempts(ReconnectPolicy())
    await attempts.make(8)
    parts = [1.0, 0.75, 0.5, 0.25, 0.001, 1.0, 0.5, 0.9]
    expected = [ceiling * part for ceiling, part in zip(CEILINGS, parts, strict=True)]
    assert attempts.waits == pytest.approx(expected)


async def test_waits_are_spread_over_the_whole_range(
    autojump_clock: trio.testing.MockClock,
) -> None:
    firsts = []
    for _ in range(300):
        attempts = Attempts(ReconnectPolicy(wait=1.0))
        await attempts.make(1)
        firsts += attempts.waits
    assert all(0 <= wait <= 1 for wait in firsts)
    assert min(firsts) < 0.1
    assert max(firsts) > 0.9
    assert 0.35 < sum(firsts) / 300 < 0.65


@pytest.mark.slow
async def test_a_server_that_is_back_is_tried_soon_also_after_a_long_outage(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """By default within about a second in the median, and never later than ``max_wait``."""
    late = []
    for _ in range(150):
        attempts = Attempts(ReconnectPolicy())
        while sum(attempts.waits) < 10:
            await attempts.make(1)
        late.append(sum(attempts.waits) - 10)
    assert max(late) <= 4
    assert statistics.median(late) < 1.7


async def test_without_jitter_waits_double_up_to_the_most(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(jitter=0))
    await attempts.make(8)
    assert attempts.waits == CEILINGS


async def test_half_a_jitter_leaves_half_of_the_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(wait=1, max_wait=1, jitter=0.5))
    await attempts.make(200)
    assert min(attempts.waits) >= 0.5
    assert max(attempts.waits) <= 1.0


async def test_each_server_doubles_on_its_own_and_success_forgets_it_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(jitter=0), "a", "b")
    await attempts.make(6)
    assert attempts.hosts == ["a", "b", "a", "b", "a", "b"]
    assert attempts.waits == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]
    attempts.pool.connected(attempts.pool.servers[0])
    await attempts.make(2)
    assert attempts.hosts[6:] == ["b", "a"]
    assert attempts.waits[6:] == [0.25, 0.25]


async def test_a_server_that_keeps_dropping_connections_is_retried_more_slowly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(jitter=0, max_attempts=5))
    server = attempts.pool.servers[0]
    waits = []
    for _ in range(7):
        attempts.pool.connected(server)
        attempts.pool.lost(server, None, soon=True)
        await attempts.make(1)
        waits.append(attempts.waits[-1])
    # It could be connected to each time, so it is not given up.
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0]
    attempts.pool.connected(server)
    attempts.pool.lost(server, None, soon=False)
    await attempts.make(1)
    assert attempts.waits[-1] == 0.25


async def test_a_server_that_drops_each_login_is_retried_with_backoff() -> None:
    logins: list[float] = []

    async def drop(peer: Peer) -> None:
        logins.append(trio.current_time())
        await trio.lowlevel.checkpoint()

    async def stay(peer: Peer) -> None:
        logins.append(trio.current_time())
        await peer.serve()

    policy = ReconnectPolicy(wait=0.001, max_wait=60, jitter=0)
    async with ScriptedServer(*[session(drop) for _ in range(6)], session(stay)) as server:
        async with open_nats(server.url, reconnect=policy) as nc:
            await server.peer(6)
            await nc.flush(timeout=HANG_TIMEOUT)
    pauses = [after - before for before, after in pairwise(logins)]
    assert len(pauses) == 6
    assert all(pause >= 0.001 * 2**lives for lives, pause in enumerate(pauses, 1))


async def test_the_delay_callable_is_told_which_attempt_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(delay=lambda number: number * 10.0), "a", "b")
    await attempts.make(4)
    assert attempts.waits == [10, 20, 30, 40]


@pytest.mark.parametrize("result", [-5.0, float("nan")])
async def test_an_invalid_delay_counts_as_zero(
    autojump_clock: trio.testing.MockClock, result: float
) -> None:
    attempts = Attempts(ReconnectPolicy(delay=lambda number: result))
    await attempts.make(3)
    assert attempts.waits == [0, 0, 0]


async def test_a_delay_that_raises_is_replaced_by_the_usual_one(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = Attempts(ReconnectPolicy(jitter=0, delay=lambda number: 1 / 0))
    await attempts.make(2)
    assert attempts.waits == [0.25, 0.5]
    assert "ReconnectPolicy.delay failed" in caplog.text


async def test_attempts_are_counted_per_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(max_attempts=3), "a", "b")
    with pytest.raises(ConnectError) as caught:
        await attempts.make(100)
    assert attempts.hosts == ["a", "b"] * 3
    assert len(caught.value.attempts) == 6


async def test_no_attempts_at_all(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(ReconnectPolicy(max_attempts=0), "a", "b")
    with pytest.raises(ConnectError):
        await attempts.make(100)
    assert attempts.hosts == []


async def test_refusals_count_only_in_a_row_and_in_the_same_words(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(refused_credentials_timeout=0))
    for text in ("one", "two", "one"):
        attempts.error = AuthorizationError(text)
        await attempts.make(1)
    assert attempts.pool.servers
    with pytest.raises(ConnectError):
        await attempts.make(100)
    assert len(attempts.hosts) == 4
    assert not attempts.pool.servers


async def test_refused_credentials_are_tried_again_for_half_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A new secret takes a while to reach every server."""
    attempts = Attempts(ReconnectPolicy(wait=0, max_wait=0))
    attempts.error = AuthorizationError("Authorization Violation")
    with pytest.raises(ConnectError):
        await attempts.make(100)
    assert attempts.waits == pytest.approx([0, 1, 1, 2, 4, 8, 14])


async def test_the_usual_waits_may_be_longer_than_those_for_refused_credentials(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(wait=20, max_wait=20, jitter=0))
    attempts.error = AuthorizationError("Authorization Violation")
    with pytest.raises(ConnectError):
        await attempts.make(100)
    assert attempts.waits == [20, 20, 20]


async def test_waiting_for_a_server_that_refuses_keeps_no_other_from_being_tried(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(wait=0.4, max_wait=0.4, jitter=0), "a", "b")
    attempts.errors = {"a": AuthorizationError("Authorization Violation")}
    await attempts.make(100)
    assert attempts.hosts[:8] == list("abbbabbb")
    assert 6 <= attempts.hosts.count("a") <= 7
    assert attempts.waits == pytest.approx([0.4] * 100)
    assert [server.host for server in attempts.pool.servers] == ["b"]


async def test_new_servers_start_without_failures(autojump_clock: trio.testing.MockClock) -> None:
    attempts = Attempts(ReconnectPolicy(wait=0, max_wait=0))
    attempts.error = AuthorizationError("Authorization Violation")
    await attempts.make(5)
    attempts.pool.replace(parse_servers("a"))
    await attempts.make(2)
    assert attempts.waits[5:] == pytest.approx([0, 1])


async def test_late_credentials_are_not_reported_as_rejected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy())
    attempts.error = server_error("Authentication Timeout")
    await attempts.make(5)
    assert len(attempts.hosts) == 5


@pytest.mark.parametrize(("status", "given_up"), [(401, True), (403, True), (503, False)])
async def test_a_refused_upgrade_counts_as_refused_credentials(
    autojump_clock: trio.testing.MockClock, status: int, given_up: bool
) -> None:
    attempts = Attempts(ReconnectPolicy(refused_credentials_timeout=0), "ws://a")
    attempts.error = WebSocketError("refused", status)
    if given_up:
        with pytest.raises(ConnectError):
            await attempts.make(5)
        assert len(attempts.hosts) == 2
    else:
        await attempts.make(5)
        assert len(attempts.hosts) == 5


async def test_a_server_that_is_replaced_while_waiting_for_it_is_not_tried(
    autojump_clock: trio.testing.MockClock,
) -> None:
    attempts = Attempts(ReconnectPolicy(wait=4.0, jitter=0.0), "a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempts.make, 2)
        await trio.sleep(1)
        attempts.pool.replace(parse_servers("b"))
    assert attempts.hosts == ["b", "b"]


def test_servers_replaced_while_moving_are_not_moved_to() -> None:
    pool = ServerPool(parse_servers("a,b,c"), randomize=False)
    tried = []
    for server in pool.successors(pool.servers[0], None, include_current=True):
        tried.append(server.host)
        if server.host == "b":
            pool.replace(parse_servers("d,e"))
    assert tried == ["b", "d", "e"]


# -- picking -------------------------------------------------------------------------------------


async def test_pick_sees_the_candidates_and_decides(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[tuple[list[tuple[str, int]], str]] = []

    def pick(candidates: Sequence[Candidate], info: ServerInfo) -> Picked:
        shown = [(candidate.server.host, candidate.failures) for candidate in candidates]
        seen.append((shown, info.server_name))
        last = candidates[-1].server
        return last if len(seen) < 3 else (candidates[0].server, 7.0)

    attempts = Attempts(ReconnectPolicy(jitter=0, pick=pick), "a", "b", "c")
    await attempts.make(3)
    assert attempts.hosts == ["c", "c", "a"]
    assert attempts.waits == [0.25, 0.5, 7.0]
    assert seen[0] == ([("a", 0), ("b", 0), ("c", 0)], "last")
    assert seen[2] == ([("a", 0), ("b", 0), ("c", 2)], "last")


@pytest.mark.parametrize("fault", ["none", "raises", "unknown", "nonsense"])
async def test_an_invalid_pick_selects_the_next_server(
    autojump_clock: trio.testing.MockClock, fault: str
) -> None:
    def pick(candidates: Sequence[Candidate], info: ServerInfo) -> Picked:
        if fault == "none":
            return None
        if fault == "unknown":
            return parse_servers("elsewhere")[0]
        if fault == "nonsense":
            return candidates  # type: ignore[return-value]
        raise RuntimeError("no idea")

    attempts = Attempts(ReconnectPolicy(jitter=0, pick=pick), "a", "b")
    await attempts.make(3)
    assert attempts.hosts == ["a", "b", "a"]
    assert attempts.waits == [0.25, 0.25, 0.5]


async def test_a_negative_wait_from_pick_counts_as_zero(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = ReconnectPolicy(pick=lambda candidates, info: (candidates[0].server, -1.0))
    attempts = Attempts(policy)
    await attempts.make(2)
    assert attempts.waits == [0, 0]


# -- with real servers ---------------------------------------------------------------------------


async def test_giving_up_is_reported_everywhere_with_its_cause() -> None:
    policy = ReconnectPolicy(wait=0.01, max_wait=0.01, max_attempts=2)
    async with NatsServer() as server:
        async with open_nats(server.url, reconnect=policy) as nc:
            async with nc.events() as events, nc.subscribe("a") as sub:
                await server.kill()
                lost = await until(events, Disconnected)
                assert (await until(events, ReconnectFailed)).attempt == 1
                assert (await until(events, ReconnectFailed)).attempt == 2
                closed = await until(events, Closed)
                assert nc.state is ConnectionState.CLOSED
                assert isinstance(nc.failure, ConnectError)
                assert closed.reason is nc.failure
                assert nc.failure.__context__ is lost.reason
                with pytest.raises(ConnectionLostError) as caught:
                    await sub.receive()
                assert caught.value.__cause__ is nc.failure
                with pytest.raises(trio.EndOfChannel):
                    await events.receive()
            with pytest.raises(ConnectionLostError):
                await nc.wait_for_state(ConnectionState.OPEN)


async def test_without_attempts_the_loss_itself_is_the_failure() -> None:
    async with NatsServer() as server:
        async with open_nats(server.url, reconnect=ReconnectPolicy(max_attempts=0)) as nc:
            await server.kill()
            with trio.fail_after(HANG_TIMEOUT):
                await nc.wait_for_state(ConnectionState.CLOSED)
            assert isinstance(nc.failure, ConnectionLostError)
            assert server.url in str(nc.failure)


async def test_new_servers_are_used_from_the_next_attempt_on() -> None:
    async with NatsServer() as old, NatsServer() as new:
        async with open_nats(old.url, reconnect=QUICK) as nc, nc.events() as events:
            await old.kill()
            await until(events, ReconnectFailed)
            nc.set_servers(new.url)
            assert await until(events, Reconnected) == Reconnected(new.url)


async def test_new_servers_are_moved_to_on_demand() -> None:
    async with NatsServer() as old, NatsServer() as new, open_nats(old.url) as nc:
        nc.set_servers([new.url])
        assert nc.connected_url == old.url
        with trio.fail_after(HANG_TIMEOUT):
            await nc.reconnect()
        assert nc.connected_url == new.url
        await nc.flush(timeout=HANG_TIMEOUT)


async def test_what_the_old_server_names_is_not_among_the_new_servers() -> None:
    replaced = trio.Event()

    async def tells(peer: Peer) -> None:
        await replaced.wait()
        await peer.send(info_line(connect_urls=["10.0.0.1:4222"]))
        await peer.serve()

    async with ScriptedServer(session(tells)) as old, open_nats(old.url) as nc:
        nc.set_servers("new.example")
        replaced.set()
        await nc.flush(timeout=HANG_TIMEOUT)
        assert [server.url for server in nc.servers] == ["nats://new.example:4222"]


async def test_moving_to_new_servers_is_not_moving_to_the_old_one_again() -> None:
    async with ScriptedServer(session()) as old, ScriptedServer(session()) as new:
        async with open_nats(old.url, reconnect=QUICK) as nc:
            new.refuse()
            nc.set_servers(new.url)
            with trio.fail_after(HANG_TIMEOUT):
                with pytest.raises(ConnectError) as caught:
                    await nc.reconnect()
                assert [attempt.server for attempt in caught.value.attempts] == [new.url]
                assert nc.connected_url == old.url
                await nc.flush()
                new.accept()
                await nc.reconnect()
            assert nc.connected_url == new.url
            assert len(old.peers) == 1


async def test_a_connection_can_be_opened_before_the_server_starts() -> None:
    policy = ReconnectPolicy(wait=0.01, max_wait=0.02, retry_on_initial_connect=True)
    async with NatsServer() as server:
        await server.kill()
        async with open_nats(server.url, reconnect=policy) as nc, nc.events() as events:
            assert nc.state is ConnectionState.CONNECTING
            async with nc.subscribe("a") as sub:
                await nc.publish("a", b"early")
                await until(events, ReconnectFailed)
                await server.start()
                assert await until(events, Connected) == Connected(server.url)
                assert nc.state is ConnectionState.OPEN
                with trio.fail_after(HANG_TIMEOUT):
                    assert (await sub.receive()).data == b"early"
            assert nc.stats.reconnects == 0


async def test_a_connection_that_never_opens_raises_the_reason() -> None:
    policy = ReconnectPolicy(wait=0, max_attempts=3, retry_on_initial_connect=True)
    async with NatsServer() as server:
        url = server.url
    async with open_nats(url, reconnect=policy) as nc:
        with pytest.raises(ConnectionLostError, match="cannot connect") as caught:
            await nc.flush()
        assert isinstance(caught.value.__cause__, ConnectError)
        assert len(caught.value.__cause__.attempts) == 3
