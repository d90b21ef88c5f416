"""What users do with a connection, the same on every backend."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import cast

import anyio
import anyio.abc
import anyio.lowlevel
import nkeys
import pytest

import trio_nats
from tests.anyio.helpers import BACKENDS, Home, receive_n, run
from tests.support.certs import certificates
from tests.support.jwts import Operator
from trio_nats import (
    JWT,
    ConfigurationError,
    ConnectError,
    ConnectionState,
    CredentialsError,
    DecodeError,
    EncodeError,
    InvalidSubjectError,
    JSONCodec,
    MaxPayloadError,
    NoRespondersError,
    ReconnectPolicy,
    RequestTimeoutError,
    Server,
    TextCodec,
    TLSOptions,
    UserPassword,
)
from trio_nats.anyio import Connection, ConnectionLostError, OutboxFullError, open_nats
from trio_nats.events import Closed, Disconnected, Reconnected
from trio_nats.testing import NatsServer, ServerTLS

QUICK = ReconnectPolicy(wait=0.01, max_wait=0.05)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


async def test_publish_subscribe_request(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("a.*", queue="q") as sub:
            assert isinstance(nc, Connection)
            assert isinstance(sub, anyio.abc.ObjectReceiveStream)
            assert (sub.subject, sub.queue, sub.dropped) == ("a.*", "q", 0)
            await nc.publish("a.b", "grüße", headers={"k": "v"})
            msg = await sub.receive()
            assert (msg.subject, msg.data.decode(), msg.headers["k"]) == ("a.b", "grüße", "v")

            async def serve() -> None:
                async for request in sub:
                    await request.respond(request.data[::-1])

            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                reply = await nc.request("a.svc", b"abc", timeout=5)
                assert reply.data == b"cba"
                assert await reply.respond(b"") is False
                group.cancel_scope.cancel()
            assert await nc.rtt() > 0
            assert (nc.stats.in_messages, nc.stats.subscriptions) == (3, 1)

    await run(backend, main)


async def test_a_publisher_is_a_send_stream(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("out") as sub:
            async with nc.publisher("out", headers={"a": "1"}) as out:
                assert isinstance(out, anyio.abc.ObjectSendStream)
                await out.send(b"bytes")
                await out.send("text")
            with pytest.raises(anyio.ClosedResourceError):
                await out.send(b"late")
            assert await receive_n(sub, 2) == [b"bytes", b"text"]
            await nc.flush()
            assert sub.pending == (0, 0)

    await run(backend, main)


async def test_values_in_payloads(backend: str, nats_server: NatsServer) -> None:
    numbers, text = JSONCodec(list[int]), TextCodec()

    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("sum") as sub:
            assert isinstance(sub, anyio.abc.ObjectReceiveStream)
            async with nc.publisher("sum", codec=numbers) as out:
                await out.send([1, 2])
                with pytest.raises(EncodeError):
                    await out.send(object())  # type: ignore[arg-type]
            await nc.publish("sum", [3], codec=numbers)
            await nc.publish("sum", b"no list")
            received = [(await sub.receive()).decode(numbers) for _ in range(2)]
            assert received == [[1, 2], [3]]
            bad = await sub.receive()
            with pytest.raises(DecodeError):
                bad.decode(numbers)
            assert bad.data == b"no list"

            async def serve() -> None:
                async for msg in sub:
                    await msg.respond(str(sum(msg.decode(numbers))), codec=text)

            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                reply = await nc.request("sum", [4, 5], codec=numbers)
                assert reply.decode(text) == "9"
                async with nc.request_many("sum", [1], codec=numbers, stop_after=1) as replies:
                    assert [reply.decode(text) async for reply in replies] == ["1"]
                group.cancel_scope.cancel()

    await run(backend, main)


async def test_many_messages_stay_in_order(backend: str, nats_server: NatsServer) -> None:
    count = 5000

    async def main(_: Home) -> None:
        async with open_nats(nats_server.url, outbox_size=64 * 1024) as nc:
            async with nc.subscribe("many", stop_after=count) as sub:

                async def publish() -> None:
                    for number in range(count):
                        await nc.publish("many", b"%060d" % number)

                async with anyio.create_task_group() as group:
                    group.start_soon(publish)
                    received = [int(msg.data) async for msg in sub]
                assert received == list(range(count))
                with pytest.raises(anyio.EndOfStream):
                    await sub.receive()

    await run(backend, main)


async def test_each_worker_gets_its_share(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("jobs", stop_after=30) as sub:
            done: list[int] = []

            async def work() -> None:
                async for msg in sub:
                    done.append(int(msg.data))
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(work)
                for number in range(30):
                    await nc.publish("jobs", b"%d" % number)
            assert sorted(done) == list(range(30))

    await run(backend, main)


async def test_request_many(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("svc") as sub:

            async def serve() -> None:
                async for request in sub:
                    for number in range(5):
                        await request.respond(b"%d" % number)
                    await request.respond(b"")

            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                async with nc.request_many("svc", stop_after=3) as replies:
                    assert isinstance(replies, anyio.abc.ObjectReceiveStream)
                    assert replies.subject == "svc"
                    assert [msg.data async for msg in replies] == [b"0", b"1", b"2"]
                async with nc.request_many("svc", sentinel=trio_nats.empty_sentinel) as replies:
                    assert len([msg async for msg in replies]) == 5
                    with pytest.raises(anyio.EndOfStream):
                        await replies.receive()
                with pytest.raises(anyio.ClosedResourceError):
                    await replies.receive()
                async with nc.request_many("nobody") as replies:
                    with pytest.raises(NoRespondersError):
                        await replies.receive()
                group.cancel_scope.cancel()

    await run(backend, main)


async def test_events_and_states(backend: str, nats_server: NatsServer) -> None:
    async def main(home: Home) -> None:
        async with open_nats(nats_server.url, reconnect=QUICK) as nc, nc.events() as events:
            async with nc.subscribe("after") as sub:
                await nc.reconnect()
                assert isinstance(await events.receive(), Reconnected)
                await home.do(nats_server.kill)
                assert isinstance(await events.receive(), Disconnected)
                assert await nc.wait_for_state(ConnectionState.RECONNECTING)
                await nc.publish("after", b"queued")
                await home.do(nats_server.start)
                state = await nc.wait_for_state(ConnectionState.OPEN)
                assert state is nc.state is ConnectionState.OPEN
                assert await receive_n(sub, 1) == [b"queued"]
            await nc.aclose()
            await nc.aclose()
            assert [event async for event in events][-1] == Closed(None)
            with pytest.raises(anyio.ClosedResourceError):
                await nc.wait_for_state(ConnectionState.OPEN)

    await run(backend, main)


async def test_draining(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("a") as a, nc.subscribe("b") as b:
            for number in range(3):
                await nc.publish("a", b"%d" % number)
                await nc.publish("b", b"%d" % number)
            await nc.flush()
            await a.drain()
            assert [msg.data async for msg in a] == [b"0", b"1", b"2"]

            async def consume() -> None:
                received.extend([msg.data async for msg in b])

            received: list[bytes] = []
            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                await nc.drain(timeout=5)
            assert received == [b"0", b"1", b"2"]
            with pytest.raises(anyio.ClosedResourceError):
                await nc.publish("a")

    await run(backend, main)


async def test_errors_of_a_closed_connection(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc:
            subs = [nc.subscribe("x") for _ in range(2)]
            await subs[0].__aenter__()
            replies = nc.request_many("x")
            events = nc.events()
        assert nc.state is ConnectionState.CLOSED
        assert (nc.failure, nc.connected_url, nc.tls_info) == (None, None, None)
        with pytest.raises(anyio.ClosedResourceError):
            nc.set_servers("nats://localhost")
        for late in (
            lambda: nc.publish("x"),
            lambda: nc.request("x"),
            lambda: nc.flush(),
            lambda: nc.rtt(timeout=1),
            lambda: nc.reconnect(),
            lambda: nc.drain(),
            lambda: subs[0].receive(),
            lambda: subs[1].__aenter__(),
            lambda: replies.__aenter__(),
        ):
            with pytest.raises(anyio.ClosedResourceError):
                await late()
        assert [event async for event in events] == [Closed(None)]
        # Closing is harmless, ever so late.
        for resource in (*subs, replies, events, nc):
            await resource.aclose()

    await run(backend, main)


async def test_losing_the_connection_for_good(backend: str, nats_server: NatsServer) -> None:
    policy = ReconnectPolicy(wait=0.01, max_wait=0.01, max_attempts=1)

    async def main(home: Home) -> None:
        async with open_nats(nats_server.url, reconnect=policy) as nc, nc.subscribe("x") as sub:

            async def wait() -> None:
                with pytest.raises(ConnectionLostError) as caught:
                    await sub.receive()
                errors.append(caught.value)

            errors: list[ConnectionLostError] = []
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(wait)
                await home.do(nats_server.kill)
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await nc.publish("x")
            assert isinstance(caught.value, trio_nats.ConnectionLostError)
            assert errors[0] is not errors[1]
            assert str(errors[0]) == str(caught.value)
            assert isinstance(errors[0].__cause__, Exception)
            assert nc.failure is caught.value.__cause__

    await run(backend, main)


async def test_errors_that_are_the_same_everywhere(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        with pytest.raises(ConfigurationError):
            open_nats("http://x")
        with pytest.raises(ConnectError):
            async with open_nats("nats://127.0.0.1:1"):
                raise AssertionError
        manager = open_nats(nats_server.url)
        with pytest.raises(TypeError, match="async with open_nats"):
            await cast("Awaitable[object]", manager)
        async with manager as nc:
            with pytest.raises(RuntimeError, match="only once"):
                await manager.__aenter__()
            with pytest.raises(InvalidSubjectError):
                await nc.publish("a b")
            with pytest.raises(InvalidSubjectError):
                nc.subscribe("a b")
            with pytest.raises(TypeError, match="bytes-like or str"):
                await nc.publish("a", 7)  # type: ignore[arg-type]  # the point
            with pytest.raises(MaxPayloadError):
                await nc.publish("a", bytes(2_000_000))
            with pytest.raises(NoRespondersError):
                await nc.request("nobody")
            async with nc.subscribe("silent"):
                with pytest.raises(RequestTimeoutError):
                    await nc.request("silent", timeout=0.01)
                with pytest.raises(TimeoutError):
                    with anyio.fail_after(0.01):
                        await nc.request("silent")
            with pytest.raises(RuntimeError, match="not been entered"):
                await nc.subscribe("a").receive()

    await run(backend, main)


async def test_a_full_outbox(backend: str, nats_server: NatsServer) -> None:
    async def main(home: Home) -> None:
        async with (
            open_nats(nats_server.url, outbox_size=10, reconnect=QUICK) as waits,
            open_nats(
                nats_server.url, outbox_size=10, reconnect=QUICK, when_outbox_full="raise"
            ) as raises,
            waits.subscribe("x") as sub,
        ):
            await home.do(nats_server.kill)
            for nc, subject in ((waits, "x"), (raises, "y")):
                await nc.wait_for_state(ConnectionState.RECONNECTING)
                await nc.publish(subject, b"1")
            with pytest.raises(anyio.WouldBlock) as caught:
                await raises.publish("y", b"2")
            assert type(caught.value) is OutboxFullError
            with anyio.move_on_after(0.01) as scope:
                await waits.publish("x", b"never")
            assert scope.cancelled_caught
            async with anyio.create_task_group() as group:
                group.start_soon(waits.publish, "x", b"2")
                await home.do(nats_server.start)
            await waits.wait_for_state(ConnectionState.OPEN)
            assert await receive_n(sub, 2) == [b"1", b"2"]

    await run(backend, main)


async def test_tls(backend: str) -> None:
    certs = certificates()
    tls = ServerTLS(certs.server.cert_file, certs.server.key_file)
    async with NatsServer(tls=tls) as server:

        async def main(_: Home) -> None:
            options = TLSOptions(ca_file=certs.ca_file)
            async with open_nats(f"tls://localhost:{server.port}", tls=options) as nc:
                assert nc.tls_info is not None
                assert nc.connected_url == f"tls://localhost:{server.port}"
                assert nc.server_info.max_payload == 1048576
                assert [s.host for s in nc.servers] == ["localhost"]
                async with nc.subscribe(nc.new_inbox()) as sub:
                    for number in range(300):
                        await nc.publish(sub.subject, b"%d" % number * 1000)
                    assert len(await receive_n(sub, 300)) == 300

        await run(backend, main)


# --- callables are called where the user's code runs ----------------------------------------------


@pytest.mark.nats_server(user="ann", password="pass")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_auth_callbacks(backend: str, kind: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        def sync(server: Server) -> UserPassword:
            assert server.port == nats_server.port
            look()
            return UserPassword("ann", "pass")

        async def asynchronous(server: Server) -> UserPassword:
            await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0)
            return sync(server)

        def look() -> None:
            if backend != "trio":
                assert asyncio.current_task() is not None

        url = f"nats://127.0.0.1:{nats_server.port}"
        async with open_nats(url, auth=sync if kind == "sync" else asynchronous) as nc:
            await nc.flush()

        async def broken(_: Server) -> UserPassword:
            raise KeyError("a secret")

        with pytest.raises(ConnectError) as caught:
            async with open_nats(url, auth=broken):
                raise AssertionError
        [error] = caught.value.errors(CredentialsError)
        assert "KeyError" in str(error)

        async def forever(_: Server) -> UserPassword:
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.append(True)
            raise AssertionError

        cancelled: list[bool] = []
        with pytest.raises(ConnectError, match="connect_timeout"):
            async with open_nats(url, auth=forever, connect_timeout=0.05):
                raise AssertionError
        assert cancelled == [True]

    await run(backend, main)


async def test_signing_elsewhere(backend: str) -> None:
    operator = Operator()
    user = operator.user("alice")

    async def main(_: Home) -> None:
        async def sign(nonce: bytes) -> bytes:
            await anyio.sleep(0.001)
            return nkeys.from_seed(user.seed.encode()).sign(nonce)

        for auth in (JWT(user.jwt, sign=sign), lambda _: JWT(user.jwt, sign=sign)):
            async with open_nats(server.url, auth=auth) as nc:
                await nc.flush()

    async with NatsServer(config=operator.config) as server:
        await run(backend, main)


# --- the look of it -------------------------------------------------------------------------------


def test_signatures_match_the_trio_version() -> None:
    ours = inspect.signature(open_nats).parameters
    assert ours == inspect.signature(trio_nats.open_nats).parameters


def test_a_connection_has_what_the_original_has() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    # What is made for Trio alone is left out on purpose.
    for_trio = {"add_service", "jetstream", "publish_nowait", "services"}
    assert public(trio_nats.Connection) - public(Connection) == for_trio
    assert public(Connection) - public(trio_nats.Connection) == {"publisher"}
    for name in public(trio_nats.Connection) & public(Connection):
        theirs, ours = getattr(trio_nats.Connection, name), getattr(Connection, name)
        if callable(ours):
            parameters = inspect.signature(theirs).parameters
            assert [*inspect.signature(ours).parameters] == [*parameters], name


def test_outside_of_any_event_loop() -> None:
    coroutine = open_nats().__aenter__()
    with pytest.raises(RuntimeError, match="asyncio and of Trio"):
        coroutine.send(None)
