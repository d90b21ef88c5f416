"""What the tests of this room share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio

from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, Msg, RequestTimeoutError, open_nats
from trio_nats.jetstream import (
    JetStream,
    JetStreamAPIError,
    MessageNotFoundError,
    StorageType,
    StoredMsg,
    Stream,
)
from trio_nats.testing import NatsServer

__all__ = [
    "HANG_TIMEOUT",
    "MEMORY",
    "REQUIRED",
    "RecordedRequest",
    "connected",
    "error",
    "fake_api",
    "filled",
    "pass_on",
    "recorded_requests",
    "relayed",
    "retried_placement",
    "stored",
]


REQUIRED: dict[str, Any] = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "storage": "file",
    "num_replicas": 1,
}
"""What is always sent for a stream."""

MEMORY = StorageType.MEMORY

T = TypeVar("T")
Answer = bytes | dict[str, Any]


@asynccontextmanager
async def connected(server: NatsServer, **options: Any) -> AsyncIterator[tuple[JetStream, Any]]:
    """JetStream of the server, and the connection it is used by."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(server.url, **options) as nc:
            yield nc.jetstream(), nc


async def filled(js: JetStream, count: int = 6, **options: Any) -> Stream:
    """A stream ``S`` in memory, with messages ``0``, ``1``, ... under ``s.0``, ``s.1``, ``s.2``."""
    stream = await js.create_stream(
        "S", subjects=["s.>"], **{"storage": MEMORY, "allow_direct": True, **options}
    )
    for number in range(count):
        await js.publish(f"s.{number % 3}", str(number))
    return stream


NO_SUITABLE_PEERS = 10005


async def retried_placement(create: Callable[[], Awaitable[T]]) -> T:
    """Create something in a cluster that has just been started; return it.

    Servers before 2.12 take up to a second to learn what the others have room for. On a busy
    machine, later ones may take each other for offline in the beginning, and a request is not
    answered if another server becomes the leader in between. Creating the same again is harmless.
    """
    while True:
        try:
            return await create()
        except RequestTimeoutError:
            continue
        except JetStreamAPIError as failure:
            if failure.err_code != NO_SUITABLE_PEERS:
                raise
            await trio.sleep(0.05)


async def stored(stream: Stream) -> list[StoredMsg]:
    """All messages, one by one, which every server can do."""
    state = (await stream.refresh()).state
    found = []
    for seq in range(state.first_seq, state.last_seq + 1):
        with contextlib.suppress(MessageNotFoundError):
            found.append(await stream.get_msg(seq))
    return found


class RecordedRequest(msgspec.Struct):
    """A request or a message with a reply subject, and the first reply."""

    msg: Msg
    answer: Msg | None = None


@asynccontextmanager
async def recorded_requests(server: NatsServer) -> AsyncIterator[dict[str, RecordedRequest]]:
    """Listen to all requests and their replies, until the block is left."""
    found: dict[str, RecordedRequest] = {}
    async with connected(server) as (_, nc), nc.subscribe(">") as sub:
        await nc.flush()
        yield found
        await nc.flush()
        messages = [await sub.receive() for _ in range(sub.pending[0])]
        for msg in messages:
            if msg.reply is not None and not msg.reply.startswith("$"):
                found[msg.reply] = RecordedRequest(msg)
        for msg in messages:
            if msg.subject in found and found[msg.subject].answer is None:
                found[msg.subject].answer = msg


def error(err_code: int, code: int = 400, description: str = "told so") -> dict[str, Any]:
    """An answer that is an error."""
    return {"error": {"code": code, "err_code": err_code, "description": description}}


@asynccontextmanager
async def fake_api(
    nc: Connection, answer: Callable[[Msg], Answer | None], prefix: str = "fake"
) -> AsyncIterator[list[tuple[str, Any]]]:
    """Answers what is asked below ``prefix``; a list of what was, the subject's suffix first."""
    asked: list[tuple[str, Any]] = []

    async def serve() -> None:
        async for msg in sub:
            payload = msgspec.json.decode(msg.data) if msg.data else None
            asked.append((msg.subject.removeprefix(f"{prefix}."), payload))
            found = answer(msg)
            if found is not None:
                await msg.respond(found if isinstance(found, bytes) else msgspec.json.encode(found))

    async with nc.subscribe(f"{prefix}.>") as sub, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield asked
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def relayed(
    nc: Connection, relay: Callable[[str, Msg], Awaitable[None]], *, timeout: float | None = None
) -> AsyncIterator[JetStream]:
    """JetStream whose requests go to ``relay``, which replies or calls :func:`pass_on`.

    It gets the subject without the prefix, and the request.
    """

    async def serve() -> None:
        async for request in sub:
            await relay(request.subject.removeprefix("relay."), request)

    async with nc.subscribe("relay.>") as sub, trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield nc.jetstream(prefix="relay", timeout=timeout)
        nursery.cancel_scope.cancel()


async def pass_on(nc: Connection, subject: str, request: Msg) -> None:
    """Have the server reply to a request that was relayed."""
    if subject.startswith("CONSUMER.CREATE."):
        # Without the filter, which may be a wildcard and is in the data too.
        subject = ".".join(subject.split(".")[:4])
    # What is published to buckets bears the prefix as well.
    subject = subject if subject.startswith("$") else f"$JS.API.{subject}"
    await nc.publish(subject, request.data, headers=request.headers, reply=request.reply)
