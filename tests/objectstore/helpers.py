"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import open_nats
from trio_nats.jetstream import JetStream, StorageType, Stream
from trio_nats.objectstore import ObjectStore
from trio_nats.testing import NatsServer

__all__ = ["HANG_TIMEOUT", "KIB", "connected", "plant", "stored_chunks", "stored_meta", "subjects"]


KIB = 1024


@asynccontextmanager
async def connected(
    server: NatsServer, **options: Any
) -> AsyncIterator[tuple[ObjectStore, JetStream, Any]]:
    """An object store ``b`` in memory, JetStream, and the connection."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url) as nc:
            js = nc.jetstream()
            store = await js.create_object_store("b", **{"storage": StorageType.MEMORY, **options})
            yield store, js, nc


async def subjects(stream: Stream) -> dict[str, int]:
    """What is stored, and how many messages of it."""
    return {subject: count async for subject, count in stream.subjects()}


async def stored_chunks(js: JetStream, bucket: str = "b") -> dict[str, int]:
    """The nuids there are chunks of, and how many."""
    prefix = f"$O.{bucket}.C."
    found = await subjects(await js.stream(f"OBJ_{bucket}"))
    return {
        subject.removeprefix(prefix): count
        for subject, count in found.items()
        if subject.startswith(prefix)
    }


async def stored_meta(js: JetStream, subject: str) -> dict[str, Any]:
    """What is stored about an object."""
    stream = await js.stream("OBJ_b")
    msg = await stream.get_msg(last_for=subject)
    assert msg.headers.get("Nats-Rollup") == "sub"
    decoded: dict[str, Any] = msgspec.json.decode(msg.data)
    return decoded


async def plant(js: JetStream, subject: str, data: bytes | dict[str, Any]) -> None:
    """Store something as another client might have."""
    await js.publish(
        subject,
        data if isinstance(data, bytes) else msgspec.json.encode(data),
        headers={"Nats-Rollup": "sub"},
    )
