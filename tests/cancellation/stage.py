"""Where calls are cancelled: a connection of theirs, and another one that looks at the server."""

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
    "PATIENCE",
    "Call",
    "Group",
    "Stage",
    "State",
    "Step",
    "failing",
    "nothing",
    "staged",
]

MEMORY = StorageType.MEMORY
PATIENCE = HANG_TIMEOUT / 4
"""Seconds until what was to change on the server counts as unchanged."""


class StreamState(NamedTuple):
    """What is compared of a stream."""

    messages: int
    consumers: int
    config: str


State = dict[str, StreamState]


@dataclass
class Stage:
    """What calls are made with."""

    server: NatsServer
    nc: Connection
    js: JetStream
    witness: JetStream
    """JetStream over a connection whose calls are not cancelled."""
    folder: trio.Path
    """An empty folder."""
    tasks: Counter[str] = field(default_factory=Counter)
    subs: int = 0
    number: int = 0
    """Another one for each run."""

    stream: Stream = None  # type: ignore[assignment]
    consumer: Consumer = None  # type: ignore[assignment]
    kv: KeyValue[bytes] = None  # type: ignore[assignment]
    store: ObjectStore = None  # type: ignore[assignment]
    it: Any = None
    """What the call is a method of, if it is made for each run."""
    got: list[int] = field(default_factory=list)
    """What was received so far in this run."""
    ack_wait: float = 3600.0
    """Seconds after which a message that was lost is delivered again."""
    has_outages: bool = False
    """Whether the connection is lost during calls."""
    warned: bool = False
    """Whether the call has logged that it may leave something behind."""
    completed: bool = False
    """Whether the call has ended in spite of its cancellation."""

    # --- the client ------------------------------------------------------------------------------

    def note(self) -> None:
        """Remember what there is before a call."""
        self.tasks = all_tasks()
        self.subs = self._subscriptions()
        self.got.clear()
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
        """What the server has."""
        reply = await self.witness.connection.request("$JS.API.STREAM.LIST", b'{"offset":0}')
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
        """Wait until the server has one of these states. Not all deletions are waited for.

        :param messages: whether to compare the numbers of messages.
        """
        found: State = {}
        with trio.move_on_after(PATIENCE):
            while True:
                found = await self.state()
                for wanted in states:
                    if messages and found == wanted:
                        return
                    if not messages and _without_messages(found) == _without_messages(wanted):
                        return
        raise AssertionError(f"the server has {found}; expected: {' or '.join(map(str, states))}")

    async def expire(self, longest: float) -> None:
        """Delete the consumers that the server deletes when they are unused for so long."""
        async for name in self.witness.stream_names():
            stream = await self.witness.stream(name)
            async for info in stream.consumers():
                if (info.config.inactive_threshold or longest + 1) <= longest:
                    with suppress(ConsumerNotFoundError):
                        await stream.delete_consumer(info.name)

    async def clear(self) -> None:
        """Delete everything."""
        async for name in self.witness.stream_names():
            await self.witness.delete_stream(name)


def _without_messages(state: State) -> State:
    return {name: one._replace(messages=0) for name, one in state.items()}


Step = Callable[[Stage], Awaitable[object]]


async def nothing(stage: Stage) -> None:
    """What a call needs that needs nothing."""


@dataclass(frozen=True)
class Call:
    """A call, and what is expected of it when it is cancelled."""

    names: str
    """The public names that it calls, with spaces between them."""
    run: Step
    before: Step = nothing
    """Called before each run, and is not cancelled."""
    check: Step = nothing
    """Called after each run that was cancelled, before the call is repeated."""
    done: tuple[type[Exception], ...] = ()
    """What the repeated call may raise, because the cancelled one was carried out."""
    changes: bool = False
    """Whether it changes what the server has."""
    whole: bool = True
    """Whether the server carries out all of it or nothing, even if the connection is lost."""
    idempotent: bool = True
    """Whether the call, repeated, leaves the server as a single one does."""
    background: bool = False
    """Whether suspensions of tasks that it starts count too."""
    needs_cleanup: bool = False
    """Whether it has something to undo when it is cancelled."""
    survives_outages: bool = True
    """Whether nothing is lost if the connection is lost, too."""

    def __str__(self) -> str:
        return self.names


def failing(
    names: str,
    enter: Callable[[Stage], AbstractAsyncContextManager[Any]],
    use: Callable[[Any], Awaitable[object]],
    **options: Any,
) -> Call:
    """Return a call whose block is left by an exception, which its cleanup has to deal with."""

    async def run(stage: Stage) -> None:
        try:
            async with enter(stage) as entered:
                await use(entered)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    return Call(names, run, needs_cleanup=True, **options)


class Group(NamedTuple):
    """Calls that need the same things."""

    set_up: Step
    calls: tuple[Call, ...]


@asynccontextmanager
async def staged(
    server: NatsServer, group: Group, *, url: str = "", **options: Any
) -> AsyncIterator[Stage]:
    """Everything that the calls of a group need."""
    timeout = options.pop("api_timeout", None)
    async with open_nats(server.url) as witness, open_nats(url or server.url, **options) as nc:
        with tempfile.TemporaryDirectory() as folder:
            js = nc.jetstream(timeout=timeout)
            stage = Stage(server, nc, js, witness.jetstream(), trio.Path(folder))
            await stage.clear()
            await group.set_up(stage)
            # The first request makes the subscription for replies.
            with suppress(NatsError):
                await nc.request("nobody", timeout=1)
            yield stage
