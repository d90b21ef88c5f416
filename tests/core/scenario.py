"""Where operations are cancelled: a server, a connection of theirs, and one that only looks on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import trio
import trio.testing

from tests.connection.helpers import receive_n
from tests.support.certs import certificates
from tests.support.checkpoints import Operation
from tests.support.internals import open_requests, stalled
from tests.support.leaks import all_tasks, no_leaks, open_sockets
from tests.transports import Transport
from trio_nats import Connection, Subscription, TLSOptions, open_nats
from trio_nats.testing import NatsServer, ServerTLS

__all__ = ["Make", "Stage", "echo", "entries", "staged", "tls_sides"]

PENDING_SIZE = 200_000


@dataclass
class Stage:
    """A connection whose operations are cancelled, and one that is only looked at."""

    server: NatsServer
    nc: Connection
    witness: Connection
    inbox: Subscription
    """What ``nc`` has published to "ledger", as the witness gets it."""
    number: int = 0
    done: list[bytes] = field(default_factory=list)
    """What was published according to the publishers."""
    got: list[bytes] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    sockets: set[str] = field(default_factory=set)

    def next(self) -> bytes:
        self.number += 1
        return b"%d" % self.number

    async def fill(self) -> None:
        """Publish until there is no room for more, before the writer has had its turn."""
        await self.nc.publish("filling", bytes(PENDING_SIZE))
        assert self.nc.stats.outbox_bytes >= PENDING_SIZE

    async def subscribed(self) -> list[str]:
        """What the server thinks ``nc`` has subscribed to, beside the inbox of its requests."""
        await self.nc.flush()
        connz = await self.server.monitor("connz?subs=1")
        listed: Any = connz["connections"]
        found = [entry.get("subscriptions_list", []) for entry in listed]
        (mine,) = [subjects for subjects in found if "work" in subjects]
        return [subject for subject in mine if not subject.startswith("_INBOX.")]

    async def check(self) -> None:
        """After every run: nothing is left, and both connections work."""
        nc = self.nc
        assert open_requests(nc) == 0
        assert (nc.state, nc.stats.lost_in_flight, nc.stats.reconnects) == ("open", 0, 0)
        await self.use()
        assert all_tasks() == self.tasks
        assert open_sockets() == self.sockets

    async def use(self) -> None:
        """Both connections work, and come to rest."""
        for one in (self.nc, self.witness):
            await one.flush()
        async with self.nc.subscribe("check") as sub:
            await self.nc.publish("check", b"x")
            assert await receive_n(sub, 1) == [b"x"]
        await trio.testing.wait_all_tasks_blocked()
        assert self.nc.stats.outbox_bytes == 0
        assert stalled(self.nc) == set()

    async def published(self) -> list[bytes]:
        """What has come to "ledger" since the last time, without the filling."""
        return await entries(self.nc, self.inbox)


Make: TypeAlias = Callable[[Stage, Subscription], Awaitable[Operation]]


def tls_sides(encrypted: bool) -> tuple[ServerTLS | None, TLSOptions | None]:
    """The TLS of a server, and of its clients."""
    if not encrypted:
        return None, None
    certs = certificates()
    server = ServerTLS(certs.server.cert_file, certs.server.key_file)
    return server, TLSOptions(ca_file=certs.ca_file)


@asynccontextmanager
async def staged(transport: Transport) -> AsyncIterator[Stage]:
    async with transport.server() as server, no_leaks():
        url, options = transport.url(server), transport.options
        async with (
            open_nats(url, **options, outbox_size=PENDING_SIZE) as nc,
            open_nats(url, **options) as witness,
            witness.subscribe("ledger") as inbox,
        ):
            await witness.flush()
            yield Stage(server, nc, witness, inbox)


async def entries(nc: Connection, inbox: Subscription) -> list[bytes]:
    """What has come to "ledger" before an end that ``nc`` publishes now, without the filling."""
    await nc.publish("ledger", b"end")
    found: list[bytes] = []
    while (data := (await receive_n(inbox, 1))[0].rstrip(b".")) != b"end":
        found.append(data)
    return found


async def echo(sub: Subscription) -> None:
    """Answer every message with itself."""
    async for message in sub:
        await message.respond(message.data)
