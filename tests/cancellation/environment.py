"""The environment of cancelled calls: a server, their connection, and one that checks it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import trio

from tests.support.internals import open_requests, spare_inboxes, subscriptions
from tests.support.leaks import all_tasks
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, open_nats
from trio_nats.errors import NatsError
from trio_nats.jetstream import Consumer, ConsumerNotFoundError, JetStream, StorageType, Stream
from trio_nats.keyvalue import KeyValue
from trio_nats.objectstore import ObjectStore
from trio_nats.testing import NatsServer

__all__ = [
    "MEMORY",
    "SETTLE_TIMEOUT",
    "Action",
    "Call",
    "Environment",
    "Group",
    "State",
    "environment",
    "failing_block",
    "no_action",
]

MEMORY = StorageType.MEMORY
SETTLE_TIMEOUT = HANG_TIMEOUT / 4
"""Seconds to wait for an expected state of the server."""


class StreamState(NamedTuple):
    """The properties of a stream that are compared."""

    messages: int
    consumers: int
    config: str


State = dict[str, StreamState]


@dataclass
class Environment:
    """A server, a connection whose calls are cancelled, and the objects that calls use."""

    server: NatsServer
    nc: Connection
    js: JetStream
    observer: JetStream
    """JetStream over a connection whose calls are not cancelled."""
    folder: trio.Path
    """An empty folder."""
    tasks: Counter[str] = field(default_factory=Counter)
    subs: int = 0
    number: int = 0
    """A number that calls may use, such as a revision."""

    stream: Stream = None  # type: ignore[assignment]
    consumer: Consumer = None  # type: ignore[assignment]
    kv: KeyValue[bytes] = None  # type: ignore[assignment]
    store: ObjectStore = None  # type: ignore[assignment]
    target: Any = None
    """The object whose method is called, if it is created for each run."""
    received: list[int] = field(default_factory=list)
    """Numbers of the messages received so far in this run."""
    ack_wait: float = 3600.0
    """Seconds after which a message that was lost is delivered again."""
    has_outages: bool = False
    """Whether the connection is lost during calls."""
    warned: bool = False
    """Whether the call has logged that it may leave something behind."""
    completed: bool = False
    """Whether the call has ended normally in spite of the cancellation."""

    # --- the client ------------------------------------------------------------------------------

    def take_snapshot(self) -> None:
        """Remember tasks and subscriptions before a call."""
        self.tasks = all_tasks()
        self.subs = self._subscriptions()
        self.received.clear()
        self.completed = False

    def _subscriptions(self) -> int:
        return self.nc.stats.subscriptions - spare_inboxes(self.nc)

    async def check_client(self) -> None:
        """Check that the call has left nothing on the client, and that its connection works."""
        assert open_requests(self.nc) == 0
        assert self._subscriptions() == self.subs
        assert spare_inboxes(self.nc) <= 16
        await self.nc.flush(timeout=HANG_TIMEOUT)
        left = all_tasks() - self.tasks
        assert not left, f"leaked tasks: {dict(left)}"

    async def check_subscriptions(self) -> None:
        """Check that the server has the subscriptions that the client has, and no others."""
        await self.nc.flush()
        connections: Any = (await self.server.monitor("connz?subs=1"))["connections"]
        cid = self.nc.server_info.client_id
        (mine,) = [one for one in connections if one["cid"] == cid]
        assert len(mine.get("subscriptions_list", [])) == subscriptions(self.nc)

    # --- the server ------------------------------------------------------------------------------

    async def state(self) -> State:
        """Return the streams of the server."""
        reply = await self.observer.connection.request("$JS.API.STREAM.LIST", b'{"offset":0}')
        page = msgspec.json.decode(reply.data)
        assert page["total"] <= page["limit"]
        return {
            one["config"]["name"]: StreamState(
                one["state"]["messages"],
                one["state"]["consumer_count"],
                msgspec.json.encode(one["config"], order="sorted").decode(),
            )
            for one in page["streams"] or []
        }

    async def wait_for(self, *states: State, messages: bool = True) -> None:
        """Wait until the server has one of these states. It carries out some deletions later.

        :param messages: whether to compare the numbers of messages.
        """
        found: State = {}
        with trio.move_on_after(SETTLE_TIMEOUT):
            while True:
                found = await self.state()
                for wanted in states:
                    if messages and found == wanted:
                        return
                    if not messages and _without_messages(found) == _without_messages(wanted):
                        return
        raise AssertionError(f"the server has {found}; expected: {' or '.join(map(str, states))}")

    async def expire(self, longest: float) -> None:
        """Delete consumers whose ``inactive_threshold`` is at most so many seconds."""
        async for name in self.observer.stream_names():
            stream = await self.observer.stream(name)
            async for info in stream.consumers():
                if (info.config.inactive_threshold or longest + 1) <= longest:
                    with suppress(ConsumerNotFoundError):
                        await stream.delete_consumer(info.name)

    async def clear(self) -> None:
        """Delete everything."""
        async for name in self.observer.stream_names():
            await self.observer.delete_stream(name)


def _without_messages(state: State) -> State:
    return {name: one._replace(messages=0) for name, one in state.items()}


Action = Callable[[Environment], Awaitable[object]]


async def no_action(env: Environment) -> None:
    """Do nothing, for calls that need no preparation."""


@dataclass(frozen=True)
class Call:
    """A call, and what is expected when it is cancelled."""

    names: str
    """The public names that it calls, separated by spaces."""
    run: Action
    before: Action = no_action
    """Called before each run, and is not cancelled."""
    check: Action = no_action
    """Called after each run that was cancelled, before the call is repeated."""
    repeat_errors: tuple[type[Exception], ...] = ()
    """Exceptions that the repeated call may raise because the cancelled one was carried out."""
    changes: bool = False
    """Whether it changes what the server has."""
    atomic: bool = True
    """Whether the server carries out all of it or nothing, even if the connection is lost."""
    idempotent: bool = True
    """Whether the call, repeated, leaves the server as a single one does."""
    background: bool = False
    """Whether to cancel at suspensions of tasks that it starts, too."""
    needs_cleanup: bool = False
    """Whether it has something to undo when it is cancelled."""
    survives_outages: bool = True
    """Whether nothing is lost even if the connection is lost at the same time."""

    def __str__(self) -> str:
        return self.names


def failing_block(
    names: str,
    enter: Callable[[Environment], AbstractAsyncContextManager[Any]],
    use: Callable[[Any], Awaitable[object]],
    **options: Any,
) -> Call:
    """Return a call whose ``async with`` block is left by an exception."""

    async def run(env: Environment) -> None:
        try:
            async with enter(env) as entered:
                await use(entered)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    return Call(names, run, needs_cleanup=True, **options)


class Group(NamedTuple):
    """Calls that need the same preparation."""

    set_up: Action
    calls: tuple[Call, ...]


@asynccontextmanager
async def environment(
    server: NatsServer, group: Group, *, url: str = "", **options: Any
) -> AsyncIterator[Environment]:
    """Prepare the environment for the calls of a group."""
    timeout = options.pop("api_timeout", None)
    async with open_nats(server.url) as observer, open_nats(url or server.url, **options) as nc:
        with tempfile.TemporaryDirectory() as folder:
            js = nc.jetstream(timeout=timeout)
            env = Environment(server, nc, js, observer.jetstream(), trio.Path(folder))
            await env.clear()
            await group.set_up(env)
            # The first request makes the subscription for replies.
            with suppress(NatsError):
                await nc.request("nobody", timeout=1)
            yield env
