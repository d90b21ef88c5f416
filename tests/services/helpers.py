"""Helpers for the tests of services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    Connection,
    Msg,
    ReconnectPolicy,
    open_nats,
)
from trio_nats.services import Service, ServiceRequest
from trio_nats.testing import NatsServer

__all__ = [
    "HANG_TIMEOUT",
    "NO_RECONNECT",
    "QUICK",
    "Gate",
    "adder",
    "ask",
    "error_of",
    "reverse",
    "running",
]


QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)
NO_RECONNECT = ReconnectPolicy(max_attempts=0)


async def reverse(request: ServiceRequest) -> bytes:
    return request.data[::-1]


def adder(nc: Connection, **options: Any) -> Service:
    return nc.add_service("adder", **{"version": "1.2.3", **options})


@asynccontextmanager
async def running(server: NatsServer, **options: Any) -> AsyncIterator[tuple[Service, Connection]]:
    """Run a service with the endpoint ``reverse``, and yield it with a client's connection."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url) as nc, open_nats(server.url) as client:
            service = adder(nc, **options)
            service.endpoint("reverse")(reverse)
            async with service:
                await nc.flush()
                yield service, client


async def ask(nc: Connection, verb: str, *whose: str) -> dict[str, Any]:
    """Return the response of the only service, decoded from JSON."""
    reply = await nc.request(".".join(["$SRV", verb, *whose]))
    assert reply.raw_headers is None
    response: dict[str, Any] = msgspec.json.decode(reply.data)
    return response


def error_of(reply: Msg) -> tuple[str | None, str | None, bytes]:
    """Return the code, description and data of an error reply."""
    headers = reply.headers
    return headers.get("Nats-Service-Error-Code"), headers.get("Nats-Service-Error"), reply.data


class Gate:
    """A handler that waits for permission to continue, and records its requests."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.finished: list[bytes] = []
        self.cancelled: list[bytes] = []
        self._arrived = trio.lowlevel.ParkingLot()
        self._open = trio.Event()

    def open(self) -> None:
        self._open.set()

    async def arrivals(self, count: int) -> None:
        """Return once so many are, or were, waiting."""
        while len(self.waiting) < count:
            await self._arrived.park()

    async def __call__(self, request: ServiceRequest) -> bytes:
        self.waiting.append(request.data)
        self._arrived.unpark_all()
        try:
            await self._open.wait()
        except trio.Cancelled:
            self.cancelled.append(request.data)
            raise
        self.finished.append(request.data)
        return b"done: " + request.data
