"""Where operations are cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.channels.helpers import PATIENCE
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import (
    Connection,
    open_nats,
)
from trio_nats.testing import NatsServer

__all__ = ["Scene", "scene"]


@dataclass
class Scene:
    """A connection to be cancelled on, and one that must not notice."""

    nc: Connection
    other: Connection
    url: str
    done: list[bytes] = field(default_factory=list)
    """What the operations that returned had to do."""
    begun: int = 0

    def next(self) -> bytes:
        self.begun += 1
        return b"%d" % self.begun

    async def check(self) -> None:
        """The connection works, holds no reply slot, and never lost its server."""
        assert self.nc._core.requests.slots == {}
        await self.nc.flush(PATIENCE)
        assert self.nc.stats.reconnects == 0
        assert self.nc.stats.lost_in_flight == 0


@asynccontextmanager
async def scene(server: NatsServer, pending_size: int = 8 * 1024 * 1024) -> AsyncIterator[Scene]:
    async with no_leaks(), open_nats(server.url) as other:
        async with open_nats(server.url, pending_size=pending_size) as nc:
            await nc.flush(PATIENCE)
            before = all_tasks()
            found = Scene(nc, other, server.url)
            yield found
            await found.check()
            assert all_tasks() == before
        await other.flush(PATIENCE)
        assert other.stats.reconnects == 0
