"""Common mistakes of new users, and the errors that explain them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

import trio_nats
import trio_nats.anyio
from tests.support.jwts import Key
from trio_nats import (
    Combined,
    ConnectError,
    Connection,
    Credentials,
    CredentialsError,
    EncodeError,
    Msg,
    NKey,
    PendingLimits,
    ReconnectPolicy,
    TextCodec,
    TLSMode,
    TLSOptions,
    UserPassword,
    open_nats,
)
from trio_nats._constructors import construct
from trio_nats.events import MessagesDiscarded, ReconnectFailed
from trio_nats.jetstream import ConsumerConfig, JetStream, OrderedConsumer, Placement, StreamConfig
from trio_nats.keyvalue import KeyValue, KeyValueConfig
from trio_nats.objectstore import ObjectInfo, ObjectMeta, ObjectStore, ObjectStoreConfig
from trio_nats.services import ServiceError, ServiceRequest
from trio_nats.testing import NatsCluster, NatsServer

FOR_EVER = ReconnectPolicy(retry_on_initial_connect=True, delay=lambda _: 0.01)


def test_asyncio_without_the_adapter() -> None:
    async def main() -> None:
        async with open_nats("nats://127.0.0.1:1"):
            raise AssertionError("entered")

    with pytest.raises(RuntimeError, match=r"trio\.run\(main\).*trio_nats\.anyio\.open_nats\(\)"):
        asyncio.run(main())


@pytest.mark.parametrize("opener", [trio_nats.open_nats, trio_nats.anyio.open_nats])
async def test_a_connection_that_was_not_entered(opener: Callable[..., Any]) -> None:
    nc = opener("nats://127.0.0.1:1")
    with pytest.raises(AttributeError, match=r"'publish' .*async with open_nats\(\.\.\.\) as nc:"):
        await nc.publish("a", b"")
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = nc.nonsense
    with pytest.raises(TypeError, match="cannot be awaited"):
        await nc
    with pytest.raises(TypeError, match="cannot be used with 'with'"), nc:
        raise AssertionError("entered")
    assert not hasattr(nc, "__wrapped__")


class Opened(NamedTuple):
    nc: Connection
    js: JetStream
    consumer: OrderedConsumer
    kv: KeyValue[bytes]
    store: ObjectStore


USED_WITH_ASYNC_WITH: dict[str, Callable[[Opened], object]] = {
    "nc.subscribe(...) as sub": lambda opened: opened.nc.subscribe("a"),
    "nc.request_many(...) as replies": lambda opened: opened.nc.request_many("a"),
    "nc.events() as events": lambda opened: opened.nc.events(),
    "nc.add_service(...) as service": lambda opened: opened.nc.add_service("a", version="1.0.0"),
    "js.publisher() as publisher": lambda opened: opened.js.publisher(),
    "consumer.consume(...) as messages": lambda opened: opened.consumer.consume(),
    "kv.watch(...) as watcher": lambda opened: opened.kv.watch(),
    "store.watch() as watcher": lambda opened: opened.store.watch(),
    "store.get(name) as reader": lambda opened: opened.store.get("a"),
    "NatsServer(...) as server": lambda _: NatsServer(),
    "NatsCluster(...) as cluster": lambda _: NatsCluster(),
    "open_nats(...) as nc": lambda _: open_nats("nats://127.0.0.1:1"),
}


async def test_what_is_used_with_async_with() -> None:
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as nc:
        js = nc.jetstream()
        kv = await js.create_key_value("a")
        store = await js.create_object_store("a")
        consumer = (await js.create_stream("a")).ordered_consumer()
        opened = Opened(nc, js, consumer, kv, store)
        for use, make in USED_WITH_ASYNC_WITH.items():
            await check_wrong_uses(use, make(opened))


async def check_wrong_uses(use: str, made: Any) -> None:
    call, hint = re.escape(use.partition("(")[0]), re.escape(f"'async with {use}:'")
    with pytest.raises(TypeError, match=rf"^{call}\(\) cannot be awaited; use {hint}$"):
        await made
    text = rf"^{call}\(\) cannot be used with 'with'; use {hint}$"
    with pytest.raises(TypeError, match=text), made:
        raise AssertionError("entered")
    if use.startswith("nc.events"):  # which needs not be entered
        return
    error: type[Exception] = TypeError
    text = rf"^{call}\(\) cannot be used in 'async for'; use {hint}$"
    if isinstance(made, trio.abc.ReceiveChannel):
        error, text = RuntimeError, rf"has not been entered; use it as {hint}$"
    with pytest.raises(error, match=text):
        async for _ in made:
            raise AssertionError("received")


async def test_what_is_used_with_async_for() -> None:
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as nc:
        js = nc.jetstream()
        kv = await js.create_key_value("a")
        stream = await js.create_stream("a")
        consumer = await stream.create_consumer("a")
        async with (
            kv.watch() as watcher,
            nc.subscribe("a") as sub,
            consumer.consume() as messages,
        ):
            iterators: list[Any] = [
                js.streams(),
                js.key_value_store_names(),
                stream.consumers(),
                stream.get_msgs(),
                watcher.initial(),
                sub.iter_batches(),
                messages.iter_batches(),
            ]
            for iterator in iterators:
                with pytest.raises(TypeError, match="cannot be awaited; use 'async for"):
                    await iterator
                with pytest.raises(TypeError, match=r"use 'async for .*, not 'for'"):
                    list(iterator)


@pytest.mark.parametrize(
    ("call", "make"),
    [
        ("nc.subscribe", lambda nc: nc.subscribe("a")),
        ("nc.request_many", lambda nc: nc.request_many("a")),
        ("nc.events", lambda nc: nc.events()),
        ("nc.publisher", lambda nc: nc.publisher("a")),
    ],
)
async def test_what_is_used_with_async_with_in_anyio(
    call: str, make: Callable[[trio_nats.anyio.Connection], Any], nats_server: NatsServer
) -> None:
    async with trio_nats.anyio.open_nats(nats_server.url) as nc:
        with pytest.raises(TypeError, match=rf"^{call}\(\) .*; use 'async with {call}\("):
            await make(nc)


async def test_names_of_nats_py() -> None:
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as opened:
        nc: Any = opened
        js: Any = nc.jetstream()
        calls: list[tuple[Any, str, str]] = [
            (nc, "close", r"use the end of the 'async with' block, or nc\.aclose\(\)"),
            (nc, "is_connected", r"use nc\.state"),
            (js, "pull_subscribe", r"use stream\.create_consumer\(\) and consumer\.fetch\(\)"),
            (js, "add_stream", r"use js\.create_stream\(\)"),
            (js, "create_consumer", r"use stream\.create_consumer\(\)"),
            (await js.create_key_value("a"), "watchall", r"use kv\.watch\(\)"),
            (nc.add_service("a", version="1.0.0"), "add_group", r"use service\.group\(\)"),
        ]
        for owner, name, instead in calls:
            text = rf"has no attribute '{name}'; {instead}.* \(see 'Coming from nats-py'"
            with pytest.raises(AttributeError, match=text):
                getattr(owner, name)
            with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
                owner.nonsense  # noqa: B018


async def test_a_missing_argument() -> None:
    """The error names the class that the user knows, not the one that has the method."""
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as opened:
        nc: Any = opened
        js: Any = nc.jetstream()
        stream: Any = await js.create_stream("a")
        calls: dict[str, Callable[[], object]] = {
            "Connection.publish": nc.publish,
            "JetStream.publish": js.publish,
            "JetStream.stream": js.stream,
            "JetStream.key_value": js.key_value,
            "JetStream.delete_object_store": js.delete_object_store,
            "Stream.consumer": stream.consumer,
        }
        for name, call in calls.items():
            with pytest.raises(TypeError, match=rf"^{name}\(\) missing 1 required positional argu"):
                call()


@pytest.mark.parametrize("payload", [{"a": 1}, [1], 5, None])
async def test_a_payload_of_another_type(payload: Any, nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: nc.publish("a", payload),
            lambda: nc.request("a", payload),
            lambda: nc.jetstream().publish("a", payload),
        ]
        for call in calls:
            with pytest.raises(TypeError, match=r"not \w+; .* codec=JSONCodec\(YourType\)"):
                await call()


@pytest.mark.parametrize("value", [{"a": 1}, 5, None])
async def test_a_payload_by_another_name(value: Any) -> None:
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as nc:
        js = nc.jetstream()
        kv = await js.create_key_value("a")
        texts = await js.key_value("a", codec=TextCodec())
        request = construct(ServiceRequest, Msg.new("a", b""))
        batch = js.atomic_batch()
        text = rf"^value must be bytes-like or str, not {type(value).__name__}; .*codec="
        for call in (kv.put("a", value), kv.create("a", value), kv.update("a", value, 1)):
            with pytest.raises(TypeError, match=text):
                await call
        with pytest.raises(EncodeError, match=r"^TextCodec\(\) cannot encode"):
            await texts.put("a", value)
        with pytest.raises(TypeError, match=r"^data must be bytes-like or str, not"):
            await request.respond_error(400, "no", value)
        with pytest.raises(TypeError, match=r"^the data of a ServiceError must be bytes-like"):
            ServiceError(400, "no", value)
        with pytest.raises(TypeError, match=r"^payload must be bytes-like or str, not .*codec="):
            await batch.add("a", value)
    async with NatsServer() as server, trio_nats.anyio.open_nats(server.url) as other:
        publisher: Any = other.publisher("a")
        with pytest.raises(TypeError, match=r"^item must be bytes-like or str, not .*codec="):
            await publisher.send(value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls": True}, "tls must be a TLSOptions, not bool; .*tls:// URL"),
        ({"reconnect": False}, r"reconnect must be a .*ReconnectPolicy\(max_attempts=0\)"),
        ({"pending_limits": 5}, "pending_limits must be a PendingLimits, not int$"),
        ({"reconnect": PendingLimits}, "a ReconnectPolicy, not the class PendingLimits$"),
    ],
)
def test_options_of_another_type(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        open_nats("nats://a", **options)


AN_INSTANCE = r"{} must be an instance of {}, not the class itself; use {}\(\.\.\.\)$"


@pytest.mark.parametrize("opener", [trio_nats.open_nats, trio_nats.anyio.open_nats])
@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("tls", TLSOptions),
        ("auth", UserPassword),
        ("context", trio_nats.Context),
        ("reconnect", ReconnectPolicy),
        ("pending_limits", PendingLimits),
        ("limits", trio_nats.ProtocolLimits),
        ("websocket", trio_nats.WebSocketOptions),
    ],
)
def test_a_class_in_place_of_an_instance(
    opener: Callable[..., Any], option: str, kind: type
) -> None:
    text = AN_INSTANCE.format(option, kind.__name__, kind.__name__)
    with pytest.raises(TypeError, match=f"^{text}"):
        opener("nats://a", **{option: kind})


def test_a_class_of_credentials_in_place_of_an_instance() -> None:
    with pytest.raises(TypeError, match=AN_INSTANCE.format("Combined", "NKey", "NKey")):
        Combined(UserPassword("a", "b"), NKey)  # type: ignore[arg-type]


async def test_a_class_in_place_of_an_instance_in_a_method() -> None:
    async with NatsServer(jetstream=True) as server, open_nats(server.url) as nc:
        js: Any = nc.jetstream()
        stream: Any = await js.create_stream("a")
        store: Any = await js.create_object_store("a")
        calls: dict[tuple[str, type], Callable[[Any], Any]] = {
            ("config", StreamConfig): js.create_stream,
            ("config", ConsumerConfig): stream.create_consumer,
            ("config", KeyValueConfig): js.create_key_value,
            ("config", ObjectStoreConfig): js.create_object_store,
            ("meta", ObjectMeta): lambda kind: store.put(kind, b""),
            ("target", ObjectInfo): lambda kind: store.add_link("a", kind),
            ("store", ObjectStore): lambda kind: store.add_bucket_link("a", kind),
        }
        for (name, kind), call in calls.items():
            text = AN_INSTANCE.format(name, kind.__name__, kind.__name__)
            with pytest.raises(TypeError, match=text):
                await call(kind)
        with pytest.raises(TypeError, match=AN_INSTANCE.format(*["PendingLimits"] * 3)[14:]):
            nc.subscribe("a", pending_limits=PendingLimits)  # type: ignore[arg-type]
        for placement in (Placement, [Placement]):
            with pytest.raises(TypeError, match=r"placement must have .* the class Placement; use"):
                await js.create_stream("b", placement=placement)


# --- a peer that does not begin with INFO ---------------------------------------------------------


async def opening_error(
    handler: Callable[[trio.SocketStream], Awaitable[object]], tls: TLSOptions, timeout: float
) -> str:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(ConnectError) as caught:
            async with open_nats(f"nats://127.0.0.1:{port}", tls=tls, connect_timeout=timeout):
                pass
        nursery.cancel_scope.cancel()
    return str(caught.value)


async def say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def speak_http(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await trio.sleep_forever()


@pytest.mark.parametrize("handler", [say_nothing, hang_up, speak_http])
async def test_no_info(handler: Callable[[trio.SocketStream], Awaitable[object]]) -> None:
    timeout = 0.2 if handler is say_nothing else 30
    text = await opening_error(handler, TLSOptions(), timeout)
    assert re.search(r"Is this the port of a NATS server\?", text)
    assert re.search(r"trio-nats doctor nats://127\.0\.0\.1:\d+$", text)
    # PREFER was never written by the user.
    assert ("TLS mode AUTO, which acts as PREFER here, waits" in text) == (
        handler is not speak_http
    )


async def test_the_error_names_the_requested_mode() -> None:
    text = await opening_error(hang_up, TLSOptions(mode=TLSMode.PREFER), 30)
    assert "TLS mode PREFER waits" in text


# --- before the first connection ------------------------------------------------------------------


async def test_no_server_has_named_a_max_payload_yet() -> None:
    large = b"x" * 2_000_000
    async with NatsServer(config={"max_payload": 4_000_000}) as server:
        await server.stop()
        async with (
            open_nats(server.url, reconnect=FOR_EVER) as nc,
            nc.subscribe("a") as sub,
        ):
            await nc.publish("a", large)
            await server.start()
            assert (await sub.receive()).data == large


async def test_the_first_server_does_not_take_it(nats_server: NatsServer) -> None:
    url = nats_server.url
    await nats_server.stop()
    async with open_nats(url, reconnect=FOR_EVER) as nc, nc.events() as events:
        await nc.publish("a", b"x" * 2_000_000)
        await nats_server.start()
        async for event in events:
            if isinstance(event, MessagesDiscarded):
                break
        await nc.flush()


async def test_a_credentials_file_that_appears_later(tmp_path: Path) -> None:
    key, file = Key(), tmp_path / "late.nk"
    auth = NKey(file=file)
    users = {"authorization": {"users": [{"nkey": key.public}]}}
    async with NatsServer(config=users) as server:
        with pytest.raises(CredentialsError, match="No such file"):
            async with open_nats(server.url, auth=auth):
                pass
        async with (
            open_nats(server.url, auth=auth, reconnect=FOR_EVER) as nc,
            nc.events() as events,
        ):
            failed = await events.receive()
            assert isinstance(failed, ReconnectFailed)
            assert "No such file" in str(failed.error)
            file.write_text(key.seed)
            await nc.flush()


async def test_credentials_that_are_wrong_are_not_waited_for(nats_server: NatsServer) -> None:
    with pytest.raises(CredentialsError):
        async with open_nats(
            nats_server.url, auth=Credentials(text="nonsense"), reconnect=FOR_EVER
        ):
            pass
