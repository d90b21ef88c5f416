"""Subscriptions that the server forbids."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.channels.helpers import PATIENCE, take
from tests.reliability.helpers import deliver, read_line, session
from tests.support.peer import Peer
from tests.transports import EVERY, Transport
from trio_nats import Msg, PermissionsViolationError, UserPassword
from trio_nats.events import ServerError


def violation(subject: str, *, queue: str | None = None, sid: str | None = None) -> bytes:
    text = f'Permissions Violation for Subscription to "{subject}"'
    text += f' using queue "{queue}"' if queue else ""
    text += f' (sid "{sid}")' if sid else ""
    return f"-ERR '{text}'\r\n".encode()


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        (violation("news"), 0),
        (violation("news", queue="q"), 1),
        (violation("news", sid="3"), 2),
        (violation("NEWS", queue="other", sid="2"), 1),
    ],
)
@EVERY
async def test_a_violation_ends_the_right_subscription(
    transport: Transport, said: bytes, ends: int
) -> None:
    asked = trio.Event()

    async def script(peer: Peer) -> None:
        await read_line(peer, b"SUB other")
        asked.set()
        await peer.send(said)
        for sid in (b"1", b"2", b"3", b"4"):
            await peer.send(deliver(b"news", sid, sid))
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        async with (
            nc.events() as events,
            nc.subscribe("news") as a,
            nc.subscribe("news", queue="q") as b,
            nc.subscribe("news") as c,
            nc.subscribe("other") as d,
        ):
            await asked.wait()
            for index, sub in enumerate((a, b, c, d)):
                if index == ends:
                    for _ in range(2):
                        with pytest.raises(PermissionsViolationError, match=r"(?i)news"):
                            await sub.receive()
                else:
                    assert await take(sub, 1) == [b"%d" % (index + 1)]
            assert nc.stats.subscriptions == 3
            # The subscription knows, so there is no event.
            assert isinstance(events, trio.MemoryReceiveChannel)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


@EVERY
async def test_a_violation_of_none_of_ours_is_an_event(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(violation("elsewhere"))
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        async with nc.events() as events, nc.subscribe("news"):
            with trio.fail_after(PATIENCE):
                event = await events.receive()
            assert isinstance(event, ServerError)
            assert isinstance(event.error, PermissionsViolationError)
            assert nc.stats.subscriptions == 1


@EVERY
async def test_a_real_violation(transport: Transport, nats_server_factory: Any) -> None:
    server = await nats_server_factory(
        **transport.server_options,
        config={
            "authorization": {
                "users": [
                    {
                        "user": "u",
                        "password": "p",
                        "permissions": {"subscribe": {"allow": ["open.>", "shared q"]}},
                    }
                ]
            }
        },
    )
    options = {"auth": UserPassword("u", "p"), "plaintext_auth": "allow"}
    async with transport.open(server, **options) as nc:
        async with (
            nc.subscribe("secret") as secret,
            nc.subscribe("shared", queue="q") as good,
            nc.subscribe("shared", queue="x") as bad,
            nc.subscribe("open.door") as door,
        ):
            for sub in (secret, bad):
                with pytest.raises(PermissionsViolationError), trio.fail_after(PATIENCE):
                    await sub.receive()
            await nc.publish("open.door", b"in")
            await nc.publish("shared", b"share")
            assert await take(door, 1) == [b"in"]
            assert await take(good, 1) == [b"share"]


@EVERY
async def test_what_was_received_before_the_violation_remains(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await read_line(peer, b"SUB")
        await peer.send(deliver(b"news", b"1", b"before") + violation("news"))
        await peer.serve()

    async with transport.scripted(session(script)) as server, transport.open(server) as nc:
        received: list[Msg] = []
        async with nc.subscribe("news") as news:
            await nc.flush(PATIENCE)
            with pytest.raises(PermissionsViolationError):
                async for msg in news:
                    received.append(msg)  # noqa: PERF401
        assert [msg.data for msg in received] == [b"before"]
