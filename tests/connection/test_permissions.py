"""What the server forbids: who is told, and that everybody else goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from tests.connection.helpers import (
    HANG_TIMEOUT,
    QUICK,
    barrier,
    errors_of_waiters,
    msg,
    next_event,
    read_request,
    receive_n,
    scripted,
    served,
)
from tests.support.internals import open_requests
from tests.transports import TCP_AND_WSS
from trio_nats import (
    Connection,
    EventChannel,
    PermissionsViolationError,
    ServerReportedError,
    Subscription,
    UserPassword,
)
from trio_nats.events import Reconnected, ServerError

pytestmark = TCP_AND_WSS


@asynccontextmanager
async def permitted(permissions: dict[str, Any], **options: Any) -> AsyncIterator[Connection]:
    """A connection of a user with these permissions."""
    user = {"user": "u", "password": "p", "permissions": permissions}
    config = {"authorization": {"users": [user]}}
    async with served(config, auth=UserPassword("u", "p"), **options) as (nc, _):
        yield nc


# --- subscriptions --------------------------------------------------------------------------------

DENIED = "Permissions Violation for Subscription to "


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        (DENIED + '"a"', 1),
        (DENIED.lower() + '"a"', 1),
        (DENIED + '"a" using queue "q"', 2),
        (DENIED + '"a" using queue "r"', 3),
        (DENIED + '"a" (sid "4")', 4),
        (DENIED + '"a" using queue "q" (sid "2")', 2),
        (DENIED + '"A" using queue "other" (sid "2")', 2),
        (DENIED + '"b"', 5),
        (DENIED + '"c"', None),
        (DENIED + '"a" using queue "s"', None),
    ],
)
async def test_the_server_forbids_one_subscription(text: str, denied: int | None) -> None:
    async with scripted() as (nc, peer), AsyncExitStack() as stack, nc.events() as events:
        subs: dict[int, Subscription] = {}
        for sid, (subject, queue) in enumerate(
            [("a", None), ("a", "q"), ("a", "r"), ("a", None), ("b", None)], 1
        ):
            subs[sid] = await stack.enter_async_context(nc.subscribe(subject, queue=queue))
        await peer.send(b"".join(msg("x", sid, b"before") for sid in subs))
        await peer.send(b"-ERR '%b'\r\n" % text.encode())
        await peer.send(b"".join(msg("x", sid, b"after") for sid in subs))
        await barrier(peer)
        for sid, sub in subs.items():
            if sid != denied:
                assert await receive_n(sub, 2) == [b"before", b"after"]
                continue
            assert await receive_n(sub, 1) == [b"before"]
            for _ in range(2):
                with pytest.raises(PermissionsViolationError) as caught:
                    await sub.receive()
                assert (caught.value.operation, caught.value.message) == ("subscription", text)
        assert nc.stats.subscriptions == (4 if denied else 5)
        if denied is None:
            event = await next_event(events, ServerError)
            assert isinstance(event.error, PermissionsViolationError)
            assert event.error.message == text
        # Otherwise the subscription knows, so there is no event.
        assert isinstance(events, EventChannel)
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()


async def test_a_real_server_forbids_a_subscription() -> None:
    permissions = {"subscribe": {"deny": ["x.>", "*.q q"]}}
    async with permitted(permissions) as nc, AsyncExitStack() as stack:
        fine = await stack.enter_async_context(nc.subscribe("a"))
        other_queue = await stack.enter_async_context(nc.subscribe("a.q", queue="r"))
        for subject, queue in [("x.y", None), ("x.y", "q"), ("a.q", "q")]:
            async with nc.subscribe(subject, queue=queue) as denied:
                with pytest.raises(PermissionsViolationError) as caught:
                    await denied.receive()
                assert (caught.value.subject, caught.value.queue) == (subject, queue)
        await nc.publish("a", b"1")
        await nc.publish("a.q", b"2")
        assert await receive_n(fine, 1) == [b"1"]
        assert await receive_n(other_queue, 1) == [b"2"]


async def test_a_real_server_forbids_a_subscription_with_a_long_subject() -> None:
    async with permitted({"subscribe": {"deny": ["x.>"]}}) as nc:
        # With a character that the server's text has as six.
        subject, queue = "x." + "\u2028" * 600, "q" * 1000
        async with nc.subscribe(subject, queue=queue) as denied:
            with pytest.raises(PermissionsViolationError) as caught:
                await denied.receive()
        assert (caught.value.subject, caught.value.queue) == (subject, queue)
        assert len(str(caught.value)) < 1200


async def test_a_real_server_permits_a_queue_group_only() -> None:
    async with permitted({"subscribe": {"allow": ["shared q"]}}) as nc:
        async with (
            nc.subscribe("shared", queue="q") as good,
            nc.subscribe("shared", queue="x") as bad,
        ):
            with pytest.raises(PermissionsViolationError):
                await bad.receive()
            await nc.publish("shared", b"share")
            assert await receive_n(good, 1) == [b"share"]


async def test_all_waiting_tasks_hear_that_it_is_forbidden() -> None:
    async with scripted() as (nc, peer), nc.subscribe("a") as sub:
        async with errors_of_waiters(sub.receive) as errors:
            await peer.send(b"-ERR '%b\"a\"'\r\n" % DENIED.encode())
    assert [type(error) for error in errors] == [PermissionsViolationError] * 2


# --- requests -------------------------------------------------------------------------------------


def refused(subject: str) -> bytes:
    return b"-ERR 'Permissions Violation for Publish to \"%b\"'\r\n" % subject.encode()


async def test_a_forbidden_subject_fails_the_requests_to_it_only() -> None:
    async with scripted() as (nc, peer), nc.events() as events, trio.open_nursery() as nursery:

        async def ask() -> None:
            assert (await nc.request("svc")).data == b"!"

        await peer.send(refused("secret.x"))
        event = await events.receive()  # for that was nobody's
        assert isinstance(event, ServerError)
        assert isinstance(event.error, PermissionsViolationError)
        assert event.error.subject == "secret.x"
        nursery.start_soon(ask)
        inbox = await read_request(peer, "svc")
        async with errors_of_waiters(lambda: nc.request("secret.x", timeout=100)) as errors:
            for _ in range(2):
                await read_request(peer, "secret.x")
            await peer.send(refused("secret.x"))
            await barrier(peer)
            for error in errors:
                assert isinstance(error, PermissionsViolationError)
                assert (error.operation, error.subject) == ("publish", "secret.x")
            assert len(errors) == 2
        await peer.send(refused("elsewhere"))
        event = await events.receive()  # which the other was not
        assert isinstance(event, ServerError)
        assert isinstance(event.error, PermissionsViolationError)
        assert event.error.subject == "elsewhere"
        await peer.send(msg(inbox, 1, b"!"))
    assert open_requests(nc) == 0


async def test_a_forbidden_inbox_fails_all_requests_and_the_next_one_tries_again() -> None:
    async with scripted() as (nc, peer), trio.open_nursery() as nursery:
        async with errors_of_waiters(lambda: nc.request("svc", timeout=100)) as errors:
            inbox = (await peer.expect_line(b"SUB")).split()[1]
            for _ in range(2):
                await read_request(peer, "svc")
            await peer.send(b"-ERR '%b\"%b\"'\r\n" % (DENIED.encode(), inbox))
            await barrier(peer)
            assert open_requests(nc) == 0
        for error in errors:
            assert isinstance(error, PermissionsViolationError)
            assert error.operation == "subscription"
        assert len(errors) == 2

        async def ask() -> None:
            assert (await nc.request("three")).data == b"!"

        nursery.start_soon(ask)
        assert await peer.expect_line() == b"SUB %b 2" % inbox
        await peer.send(msg(await read_request(peer, "three"), 2, b"!"))


@pytest.mark.parametrize(
    ("permissions", "operation", "subject"),
    [
        ({"publish": {"deny": "svc"}}, "publish", "svc"),
        ({"subscribe": {"deny": "_INBOX.>"}}, "subscription", "_INBOX"),
        ({"subscribe": {"allow": "svc"}}, "subscription", "_INBOX"),
    ],
)
async def test_a_real_server_forbids_a_request(
    permissions: dict[str, Any], operation: str, subject: str
) -> None:
    async with permitted(permissions) as nc, nc.subscribe("svc"):
        for _ in range(2):  # the next one subscribes again, and hears of it too
            with pytest.raises(PermissionsViolationError, match=subject) as caught:
                await nc.request("svc", timeout=100)
            assert caught.value.operation == operation
            async with nc.request_many("svc", timeout=100) as replies:
                with pytest.raises(PermissionsViolationError, match=subject):
                    await replies.receive()
        assert open_requests(nc) == 0


async def test_a_real_server_permits_an_inbox_prefix_of_ones_own() -> None:
    permissions = {"subscribe": {"allow": ["my.own.>", "svc"]}}
    async with permitted(permissions, inbox_prefix="my.own") as nc:
        async with nc.subscribe("svc") as requests, trio.open_nursery() as nursery:

            async def answer() -> None:
                await (await requests.receive()).respond(b"!")

            nursery.start_soon(answer)
            reply = await nc.request("svc")
            assert reply.subject.startswith("my.own.")


async def test_a_forbidden_reply_subject_fails_its_request() -> None:
    async with scripted() as (nc, peer), errors_of_waiters(lambda: nc.request("svc"), 1) as errors:
        inbox = await read_request(peer, "svc")
        text = f'Permissions Violation for Publish with Reply of "{inbox}"'
        await peer.send(b"-ERR '%b'\r\n" % text.encode())
        await barrier(peer)
        assert [type(error) for error in errors] == [PermissionsViolationError]


# --- how many subscriptions there may be ----------------------------------------------------------


async def test_the_subscriptions_that_are_too_many_are_told() -> None:
    async with (
        served("max_subscriptions: 3") as (nc, _),
        nc.events() as events,
        nc.subscribe("a.0") as kept,
        nc.subscribe("a.1"),
    ):
        await nc.flush()
        async with (
            nc.subscribe("a.2") as last,
            nc.subscribe("a.3") as third,
            nc.subscribe("a.4") as fourth,
        ):
            for sub in (third, fourth):
                with pytest.raises(ServerReportedError, match="maximum subscriptions exceeded"):
                    await sub.receive()
            assert "maximum subscriptions" in str((await next_event(events, ServerError)).error)
            for sub, subject in ((kept, "a.0"), (last, "a.2")):
                await nc.publish(subject, b"x")
                assert await receive_n(sub, 1) == [b"x"]
        # What was freed can be used again, and what is over is not taken for another.
        async with nc.subscribe("a.5") as next_one:
            await nc.publish("a.5", b"x")
            assert await receive_n(next_one, 1) == [b"x"]
            async with nc.subscribe("a.6"):
                pass
            with pytest.raises(ServerReportedError, match="maximum subscriptions exceeded"):
                await nc.request("a.5", timeout=HANG_TIMEOUT)
            await nc.publish("a.5", b"y")
            while await receive_n(next_one, 1) != [b"y"]:
                pass


async def test_subscriptions_beyond_the_limit_get_an_error() -> None:
    async with served("max_subscriptions: 3", reconnect=QUICK) as (nc, server):
        async with AsyncExitStack() as stack:
            subs = [
                await stack.enter_async_context(nc.subscribe(f"a.{number}")) for number in range(3)
            ]
            await nc.flush()
            async with nc.events() as events:
                await server.restart(config="max_subscriptions: 2")
                await next_event(events, Reconnected)
            with pytest.raises(ServerReportedError, match="maximum subscriptions exceeded"):
                await subs[2].receive()
            for number in range(2):
                await nc.publish(f"a.{number}", b"x")
                assert await receive_n(subs[number], 1) == [b"x"]
