"""One run of the JetStream soak: the load, the faults, and the final checks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeGuard, TypeVar

import trio

from tests.reliability.jetstream_soak import messages, stores
from tests.reliability.jetstream_soak.faults import (
    CONNECTION_FAULTS,
    SERVER_FAULTS,
    ConnectionPlans,
    FaultInjector,
    schedule,
)
from tests.reliability.jetstream_soak.messages import STREAM, Consumed, PublishedMessages
from tests.reliability.jetstream_soak.report import Report
from tests.reliability.jetstream_soak.stores import BUCKET, OBJECTS, Counters, Objects, Watched
from tests.reliability.soak import left_over, more_than
from tests.support.chaos import ChaosProxy
from tests.support.internals import open_requests, subscriptions
from tests.support.timeouts import HANG_TIMEOUT
from tests.transports import TLS
from trio_nats import (
    Connection,
    NatsError,
    NoRespondersError,
    ReconnectPolicy,
    RequestTimeoutError,
    open_nats,
)
from trio_nats.jetstream import (
    ConsumerLimits,
    JetStream,
    JetStreamAPIError,
)
from trio_nats.testing import NatsCluster, NatsServer

__all__ = ["Settings", "soak"]

RECONNECT = ReconnectPolicy(wait=0.02, max_wait=0.3, retry_on_initial_connect=True)
CLIENTS = (
    *("single 0", "single 1", "pipelined", "pull", "push", "fetch", "ordered"),
    *("counter 0", "counter 1", "watch", "put", "get", "serve 0", "serve 1", "ask"),
)
DURABLE = {"pull", "push", "fetch"}
WINDOW = 3600.0
"""Seconds within which the stream recognizes message ids: longer than a run."""
ACK_WAIT = 5.0
FILTER = "soak.p0"
SPARE_INBOXES = 17
UNAVAILABLE = 503

_ALARM = re.compile(r"\[(WRN|ERR|FTL)\]")

T = TypeVar("T")
Work: TypeAlias = Callable[[trio.Event], Awaitable[None]]


@dataclass(frozen=True)
class Settings:
    """Duration and load of a run."""

    seconds: float
    """Seconds with faults."""
    pause: float
    """Seconds between two operations of each task."""
    batch: int
    """Number of messages that a pipelined publisher publishes at once."""
    gap: tuple[float, float]
    """Minimum and maximum of the seconds between two faults of servers."""
    threshold: float
    """Seconds until servers delete consumers of lost connections."""
    settle_timeout: float
    """Seconds to wait for an expected state after the faults."""
    expiry_timeout: float | None
    """Seconds until servers must have deleted those consumers; ``None`` to not wait for that. A
    server that cannot delete one, because there is no leader, tries again after up to a minute,
    and two minutes after another failure."""


@dataclass
class Client:
    nc: Connection
    js: JetStream
    proxies: list[ChaosProxy]


class Soak:
    """One run."""

    def __init__(self, seed: int | str, settings: Settings, show: Callable[[str], None]) -> None:
        self.report = Report(seed, show)
        self._seed, self._settings, self._show = seed, settings, show
        self._clients: dict[str, Client] = {}
        self._stop = trio.Event()
        self._published = PublishedMessages(self.report)
        self._counters = Counters(self.report)
        self._objects = Objects(self.report)
        self._known_objects: dict[str, str] = {}
        self._consumed = [Consumed(who, self.report) for who in sorted(DURABLE)]
        self._ordered = Consumed("ordered", self.report, ordered=True)
        self._filtered = Consumed("ordered, with a filter", self.report, ordered=True)
        self._watched = [Watched("watcher 0"), Watched("watcher 1")]

    async def run(self) -> None:
        """Run; raises :exc:`trio.TooSlowError` if something hangs."""
        settings = self._settings
        limit = (
            settings.seconds * 1.5
            + 4 * settings.settle_timeout
            + (settings.expiry_timeout or 0)
            + 60
        )
        async with (
            NatsCluster(
                3,
                jetstream=True,
                name="soak",
                config={"ping_interval": "2s", "ping_max": 2},
                start_timeout=60,
                **TLS.server_options,
            ) as cluster,
            self._connect("checker", [server.port for server in cluster]) as checker,
        ):
            with trio.fail_after(limit):
                js = checker.jetstream(timeout=10)
                await self._create(js)
                async with _all_entered(
                    {who: self._client(who, cluster) for who in CLIENTS}
                ) as self._clients:
                    await self._under_load(cluster, checker, js)
                    await self._check_clients()
                await self._check_servers(cluster, js)
            if self.report.violations:
                for server in cluster:
                    lines = [line for line in server.log.splitlines() if _ALARM.search(line)]
                    self._show("\n".join([f"{server.settings.name}:", *lines[-30:]]))

    # --- preparing -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connect(self, who: str, ports: Sequence[int]) -> AsyncIterator[Connection]:
        async with open_nats(
            [TLS.through(port) for port in ports],
            **TLS.options,
            name=who,
            reconnect=RECONNECT,
            ignore_discovered=True,
            ping_interval=1,
            connect_timeout=2,
            close_timeout=2,
        ) as nc:
            yield nc

    @asynccontextmanager
    async def _client(self, who: str, cluster: NatsCluster) -> AsyncIterator[Client]:
        proxies = {
            str(number): ChaosProxy(server.port, ConnectionPlans(f"{self._seed}/{who}/{number}"))
            for number, server in enumerate(cluster)
        }
        async with (
            _all_entered(proxies),
            self._connect(who, [proxy.port for proxy in proxies.values()]) as nc,
        ):
            yield Client(nc, nc.jetstream(timeout=2), list(proxies.values()))

    async def _create(self, js: JetStream) -> None:
        """Create streams with three replicas, and durable consumers."""
        stream = await js.create_stream(
            STREAM,
            subjects=["soak.>"],
            num_replicas=3,
            allow_direct=True,
            allow_atomic=True,
            duplicate_window=WINDOW,
        )
        await js.create_key_value(BUCKET, num_replicas=3, history=64)
        await js.create_object_store(OBJECTS, num_replicas=3)
        for name in (f"KV_{BUCKET}", f"OBJ_{OBJECTS}"):
            config = (await js.stream(name)).info.config
            limits = ConsumerLimits(inactive_threshold=self._settings.threshold)
            await js.update_stream(config, consumer_limits=limits)
        for name in sorted(DURABLE - {"push"}):
            await stream.create_consumer(durable_name=name, ack_wait=ACK_WAIT)
        await stream.create_consumer(
            durable_name="push",
            ack_wait=ACK_WAIT,
            deliver_subject=js.connection.new_inbox(),
            idle_heartbeat=1,
            flow_control=True,
        )

    # --- the load --------------------------------------------------------------------------------

    async def _under_load(self, cluster: NatsCluster, checker: Connection, js: JetStream) -> None:
        report, settings = self.report, self._settings
        client_proxies = [client.proxies for client in self._clients.values()]
        streams = [STREAM, f"KV_{BUCKET}", f"OBJ_{OBJECTS}"]
        injector = FaultInjector(cluster, checker, client_proxies, streams, self._show)
        servers = schedule(self._seed, settings.seconds, SERVER_FAULTS, settings.gap)
        connections = schedule(self._seed, settings.seconds, CONNECTION_FAULTS, (0.5, 2.0))
        began = trio.current_time()
        async with trio.open_nursery() as consumers:
            for who, work in self._consumers().items():
                consumers.start_soon(self._keep, who, work)
            consumers.start_soon(self._progress, injector)
            async with trio.open_nursery() as producers:
                for who, work in self._producers().items():
                    producers.start_soon(self._keep, who, work)
                async with trio.open_nursery() as faults:
                    faults.start_soon(injector.run, servers, injector.disturb_servers)
                    faults.start_soon(injector.run, connections, injector.disturb_connections)
                    await trio.sleep(settings.seconds)
                injector.restore()
                self._show("faults are over")
                await cluster.wait_until_ready(timeout=settings.settle_timeout)
                self._stop.set()
            self._show("nothing more is written")
            report.counts["time: seconds under load"] = round(trio.current_time() - began)
            report.counts["faults: servers killed"] = injector.kills
            for kind, count in sorted(injector.done.items()):
                report.counts[f"faults: {kind}"] = count
            await self._verify(js)
            consumers.cancel_scope.cancel()
        clients = self._clients.values()
        report.counts["connections: made again"] = sum(
            client.nc.stats.reconnects for client in clients
        )
        report.counts["connections: through proxies"] = sum(
            len(proxy.links) for client in clients for proxy in client.proxies
        )

    async def _keep(self, who: str, work: Work) -> None:
        """Run a task; start it again if it cannot begin. Once it has begun, it must not fail."""
        while True:
            began = trio.Event()
            try:
                await work(began)
            except Exception as error:
                for one in _leaves(error):
                    if _is_temporary(one) and not began.is_set():
                        self.report.error(f"{who} could not begin", one)
                    else:
                        self.report.violation(f"{who} ended: {one!r}")
                await trio.sleep(0.2)
            else:
                return

    def _producers(self) -> dict[str, Work]:
        """Return the tasks that end after ``self._stop``."""
        report, stop, pause = self.report, self._stop, self._settings.pause
        clients = self._clients
        found: dict[str, Work] = {}
        for number in range(8):
            who = f"single {number % 2}"
            found[f"{who} {number}"] = partial(
                messages.publish_one_by_one,
                *(clients[who].js, f"s{number}", self._published, report, stop, pause),
            )
        for number in range(2):
            found[f"pipelined {number}"] = partial(
                messages.publish_pipelined,
                *(clients["pipelined"].js, f"p{number}", self._published, report, stop),
                *(self._settings.batch, 4 * pause),
            )
        found["batches"] = partial(
            messages.publish_batches,
            *(clients["pipelined"].js, "b", self._published, report, stop, 4 * pause),
        )
        for number in range(4):
            who = f"counter {number % 2}"
            found[f"{who} {number}"] = partial(self._increment, who, f"c{number}")
        found["keys"] = self._list_keys
        for number in range(2):
            found[f"put {number}"] = partial(self._put, f"o{number}")
            found[f"get {number}"] = partial(self._get, f"r{number}")
        for number in range(3):
            found[f"ask {number}"] = partial(
                stores.ask, clients["ask"].nc, f"a{number}", report, stop, pause
            )
        return found

    def _consumers(self) -> dict[str, Work]:
        """Return the tasks that run until they are cancelled."""
        clients = self._clients
        found: dict[str, Work] = {
            f"consume {consumed.who}": partial(self._consume, consumed)
            for consumed in self._consumed
        }
        found["ordered"] = partial(self._in_order, self._ordered, [])
        found["ordered, filtered"] = partial(self._in_order, self._filtered, [FILTER])
        for watched in self._watched:
            found[watched.who] = partial(self._watch, watched)
        found["watch objects"] = self._watch_objects
        for who in ("serve 0", "serve 1"):
            found[who] = partial(stores.serve, clients[who].nc, who)
        return found

    async def _increment(self, client: str, who: str, began: trio.Event) -> None:
        kv = await self._clients[client].js.key_value(BUCKET)
        pause = 4 * self._settings.pause
        await stores.increment(kv, who, self._counters, self.report, self._stop, pause, began)

    async def _list_keys(self, began: trio.Event) -> None:
        kv = await self._clients["watch"].js.key_value(BUCKET)
        await stores.list_keys(kv, self._counters, self.report, self._stop, began)

    async def _put(self, who: str, began: trio.Event) -> None:
        store = await self._clients["put"].js.object_store(OBJECTS)
        pause = 10 * self._settings.pause
        await stores.put_objects(store, who, self._objects, self.report, self._stop, pause, began)

    async def _get(self, who: str, began: trio.Event) -> None:
        store = await self._clients["get"].js.object_store(OBJECTS)
        pause = 5 * self._settings.pause
        await stores.read_objects(store, who, self._objects, self.report, self._stop, pause, began)

    async def _consume(self, consumed: Consumed, began: trio.Event) -> None:
        stream = await self._clients[consumed.who].js.stream(STREAM)
        consumer = await stream.consumer(consumed.who)
        if consumed.who == "fetch":
            await messages.fetch(consumer, consumed, self.report, began)
        else:
            leave = consumed.who == "pull"
            await messages.consume(consumer, consumed, self.report, self._stop, leave, began)

    async def _in_order(
        self, consumed: Consumed, subjects: Sequence[str], began: trio.Event
    ) -> None:
        stream = await self._clients["ordered"].js.stream(STREAM)
        await messages.consume_in_order(stream, consumed, subjects, self._settings.threshold, began)

    async def _watch(self, watched: Watched, began: trio.Event) -> None:
        kv = await self._clients["watch"].js.key_value(BUCKET)
        await stores.watch_keys(kv, watched, self.report, began)

    async def _watch_objects(self, began: trio.Event) -> None:
        store = await self._clients["get"].js.object_store(OBJECTS)
        await stores.watch_objects(store, self._known_objects, began)

    async def _progress(self, injector: FaultInjector) -> None:
        while True:
            await trio.sleep(20)
            self._show(
                f"{len(self._published.acknowledged):,} acknowledged, {injector.kills} kills, "
                f"{self._counters.confirmed.total():,} increments"
            )

    # --- final checks ----------------------------------------------------------------------------

    async def _verify(self, js: JetStream) -> None:
        report = self.report
        stored: dict[int, str] = {}
        await self._ask(partial(self._read_all, js, stored))
        report.counts["messages: stored"] = len(stored)
        self._published.verify(stored)
        filtered = {
            seq: name for seq, name in stored.items() if name.startswith(FILTER.split(".")[1])
        }
        expected = [(one, stored) for one in (*self._consumed, self._ordered)]
        expected.append((self._filtered, filtered))
        await self._settle(
            "messages", lambda: all(wanted.keys() <= one.names.keys() for one, wanted in expected)
        )
        for one, wanted in expected:
            one.verify(wanted)
        for name in sorted(DURABLE):
            await self._ask(partial(self._check_durable, js, name))
        actual = await self._ask(partial(self._counters.verify, js))
        for watched in self._watched:
            await self._settle(watched.who, partial(_same, watched.values, actual))
            if watched.values != actual:
                report.violation(f"{watched.who} ends with {watched.values}, not {actual}")
        objects = await self._ask(partial(self._objects.verify, js))
        await self._settle("objects", lambda: self._known_objects == objects)
        if self._known_objects != objects:
            report.violation(f"the watcher ends with {self._known_objects}, not {objects}")
        unused = await self._ask(partial(stores.unused_chunks, js, objects))
        report.counts["objects: chunks of none"] = unused

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the servers, which may be busy, until they answer."""
        deadline = trio.current_time() + self._settings.settle_timeout
        while True:
            try:
                return await ask()
            except NatsError as error:
                if trio.current_time() > deadline:
                    raise
                self.report.error("checker", error)
                await trio.sleep(0.5)

    async def _read_all(self, js: JetStream, stored: dict[int, str]) -> None:
        """Read the whole stream, once nothing more is stored."""
        stream = await js.stream(STREAM)
        while True:
            async for msg in stream.get_msgs(max(stored, default=0) + 1, max_messages=1_000):
                name = messages.read(msg.data)
                if name is None:
                    self.report.violation(f"message {msg.seq} is damaged")
                stored[msg.seq] = name or "?"
            await trio.sleep(1)  # for what is still on its way from a server that was frozen
            state = (await stream.refresh()).state
            if state.last_seq == max(stored, default=0):
                if state.messages != len(stored):
                    self.report.violation(f"{state.messages} are stored, {len(stored)} were read")
                return

    async def _settle(self, name: str, done: Callable[[], bool]) -> None:
        with trio.move_on_after(self._settings.settle_timeout):
            while not done():  # noqa: ASYNC110
                await trio.sleep(0.05)
            return
        self.report.violation(f"{name}: not complete after {self._settings.settle_timeout:g} s")

    async def _check_durable(self, js: JetStream, name: str) -> None:
        """Wait until no message is pending, because all lost ones were delivered again."""
        consumer = await (await js.stream(STREAM)).consumer(name)
        with trio.move_on_after(self._settings.settle_timeout):
            while True:
                info = await consumer.refresh()
                if not info.num_pending and not info.num_ack_pending:
                    return
                await trio.sleep(0.2)
        self.report.violation(f"{name} is not at rest: {consumer.info}")

    # --- leftovers -------------------------------------------------------------------------------

    async def _check_clients(self) -> None:
        """Check that only inboxes for further requests are left."""
        for who, client in self._clients.items():
            await client.nc.flush()
            left = subscriptions(client.nc)
            if left > (SPARE_INBOXES if who == "fetch" else 1):
                self.report.violation(f"{who}: {left} subscriptions are left")
            if requests := open_requests(client.nc):
                self.report.violation(f"{who}: {requests} requests are left")

    async def _check_servers(self, cluster: NatsCluster, js: JetStream) -> None:
        """Check that only durable consumers and the connection of the check are left."""
        report, expiry_timeout = self.report, self._settings.expiry_timeout
        connections = 0
        with trio.move_on_after(self._settings.settle_timeout):
            while (connections := sum([await _connections(one) for one in cluster])) > 1:  # noqa: ASYNC110
                await trio.sleep(0.2)
        if connections > 1:
            report.violation(f"{connections - 1} connections are left")
        left = await self._ask(partial(self._ephemeral, js))
        report.counts["servers: consumers left to their inactive_threshold"] = len(left)
        # One is left if the request to delete it is lost with a connection or a leader.
        if (
            len(left)
            > report.counts["connections: made again"] + report.counts["faults: servers killed"]
        ):
            report.violation(f"consumers are left without a reason: {left}")
        if expiry_timeout is not None:
            with trio.move_on_after(expiry_timeout):
                while left := await self._ask(partial(self._ephemeral, js)):  # noqa: ASYNC110
                    await trio.sleep(1)
            if left:
                report.violation(f"consumers are left after {expiry_timeout:g} s: {left}")

    async def _ephemeral(self, js: JetStream) -> set[str]:
        streams = [await js.stream(name) for name in (STREAM, f"KV_{BUCKET}", f"OBJ_{OBJECTS}")]
        names = {
            f"{stream.name}.{name}" for stream in streams async for name in stream.consumer_names()
        }
        return names - {f"{STREAM}.{name}" for name in DURABLE}


@asynccontextmanager
async def _all_entered(
    managers: Mapping[str, AbstractAsyncContextManager[T]],
) -> AsyncIterator[dict[str, T]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(manager) for name, manager in managers.items()}


async def _connections(server: NatsServer) -> int:
    count = (await server.monitor("connz"))["num_connections"]
    assert isinstance(count, int)
    return count


def _same(left: object, right: object) -> bool:
    return left == right


def _is_temporary(error: BaseException) -> TypeGuard[NatsError]:
    """Whether an error may happen before a consumer or watcher has begun."""
    if isinstance(error, JetStreamAPIError):
        return error.code == UNAVAILABLE
    return isinstance(error, (RequestTimeoutError, NoRespondersError))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


async def soak(seed: int | str, settings: Settings, show: Callable[[str], None]) -> Report:
    """Run the soak. :attr:`Report.violations` must be empty."""
    before = left_over()
    run = Soak(seed, settings, show)
    await run.run()
    report = run.report
    del run
    with trio.move_on_after(HANG_TIMEOUT):
        while more_than(before):  # noqa: ASYNC110
            await trio.sleep(0.05)
    if grown := more_than(before):
        report.violation(f"left over: {grown}")
    return report
