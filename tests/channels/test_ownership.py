"""Nothing but a connection's own tasks ever touches its stream.

A user's task that is cancelled in the middle of a frame or of a TLS record would break the stream
for everybody. So no user's task may be in there, whatever it does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.channels.helpers import PATIENCE, all_of, take
from tests.support.certs import certificates
from trio_nats import Connection, NoRespondersError, RequestTimeoutError, TLSOptions, open_nats
from trio_nats.testing import NatsServer, ServerTLS

_METHODS = (
    "aclose",
    "do_handshake",
    "receive_some",
    "send_all",
    "send_eof",
    "unwrap",
    "wait_send_all_might_not_block",
)


@pytest.fixture
def touched(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[trio.lowlevel.Task]]:
    """The tasks that have called each method of any stream, from now on."""
    found: dict[str, set[trio.lowlevel.Task]] = {}
    monkeypatch.setattr("trio_nats._core.supervisor._OVERLAP", 0.02)

    def watched(name: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        def method(self: object, *args: Any) -> Awaitable[Any]:
            found.setdefault(name, set()).add(trio.lowlevel.current_task())
            return original(self, *args)

        return method

    for kind in (trio.SocketStream, trio.SSLStream):
        for name in _METHODS:
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, watched(name, getattr(kind, name)))
    return found


async def use_everything(nc: Connection, users: set[trio.lowlevel.Task]) -> None:
    """Every operation, from several tasks, cancelled and not."""

    async def user(work: Callable[[], Awaitable[object]], cancelled: bool = False) -> None:
        users.add(trio.lowlevel.current_task())
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            await work()

    async def respond() -> None:
        async with nc.subscribe("service", max_msgs=4) as requests:
            answering.set()
            async for msg in requests:
                await msg.respond(msg.data)

    async def ask() -> None:
        assert (await nc.request("service", b"one")).data == b"one"
        async with nc.request_many("service", b"two", max_responses=1) as replies:
            assert await all_of(replies) == [b"two"]
        with pytest.raises(NoRespondersError):
            await nc.request("nobody")
        async with nc.subscribe("silence"):
            with pytest.raises(RequestTimeoutError):
                await nc.request("silence", timeout=0.01)

    async def publish() -> None:
        async with nc.subscribe("large") as large:
            for _ in range(5):
                await nc.publish("large", bytes(500_000), headers={"k": "v"})
            assert await take(large, 5) == [bytes(500_000)] * 5

    async def flush() -> None:
        await nc.flush(PATIENCE)
        await nc.rtt()

    async def drain() -> None:
        async with nc.subscribe("drained") as sub:
            await sub.drain()

    answering = trio.Event()
    operations = [ask, publish, flush, drain]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(user, respond)
        await answering.wait()
        for work in operations:
            nursery.start_soon(user, work)
            nursery.start_soon(user, work, True)
        nursery.start_soon(user, ask)
    # And cancelled in the middle of it.
    async with trio.open_nursery() as nursery:
        for work in (publish, flush, drain):
            nursery.start_soon(user, work)
        await trio.testing.wait_all_tasks_blocked(0.0)
        nursery.cancel_scope.cancel()
    await nc.flush(PATIENCE)


def check(touched: dict[str, set[trio.lowlevel.Task]], users: set[trio.lowlevel.Task]) -> None:
    assert {"send_all", "receive_some"} <= touched.keys()
    for name, tasks in touched.items():
        assert not tasks & users, f"{name}() was called in a user's task"
        for task in tasks:
            # Not even in a task that a user's call has started in a nursery of its own.
            assert task.name.startswith("trio_nats."), f"{name}() was called in {task.name}"


@pytest.mark.parametrize("ending", ["left", "closed", "drained", "broken off", "cancelled"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_no_user_touches_the_stream(
    encrypted: bool, ending: str, touched: dict[str, set[trio.lowlevel.Task]]
) -> None:
    certs = certificates()
    files = certs.server.cert_file, certs.server.key_file
    users = {trio.lowlevel.current_task()}
    async with NatsServer(tls=ServerTLS(*files) if encrypted else None) as server:
        touched.clear()  # the server's harness has asked it over HTTP whether it is there
        tls = TLSOptions(ca_file=certs.ca_file) if encrypted else None
        with trio.CancelScope() as scope:
            try:
                async with open_nats(server.url, tls=tls) as nc:
                    assert (nc.tls_info is not None) == encrypted
                    await use_everything(nc, users)
                    await nc.reconnect()
                    await nc.publish("last", b"x")
                    if ending == "closed":
                        await nc.aclose()
                    elif ending == "drained":
                        await nc.drain()
                    elif ending == "broken off":
                        raise LookupError
                    elif ending == "cancelled":
                        scope.cancel()
            except LookupError:
                assert ending == "broken off"
        check(touched, users)
