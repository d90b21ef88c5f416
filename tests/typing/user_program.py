"""What a user's program looks like to a type checker: checked strictly, never run.

It is also checked where trio-typing is installed, so it names nothing of Trio's that those stubs,
which end with Trio 0.22, do not have: no ``trio.TaskStatus``.
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import assert_type

import msgspec
import trio

import trio_nats.services
from trio_nats import (
    ConnectError,
    Connection,
    JSONCodec,
    Msg,
    NatsError,
    NoRespondersError,
    RequestTimeoutError,
    TextCodec,
    TLSError,
    TLSMode,
    TLSOptions,
    UserPassword,
    WebSocketError,
    WebSocketOptions,
    open_nats,
)
from trio_nats.jetstream import (
    Consumer,
    ConsumerInfo,
    JetStream,
    JetStreamAPIError,
    JetStreamMsg,
    Messages,
    MsgMetadata,
    OrderedConsumer,
    PendingAck,
    PubAck,
    StorageType,
    StoredMsg,
    Stream,
    StreamInfo,
)
from trio_nats.keyvalue import (
    Entry,
    KeyValue,
    KeyValueConfig,
    KeyValueStatus,
    KeyWatcher,
    Operation,
)
from trio_nats.objectstore import (
    ObjectInfo,
    ObjectMeta,
    ObjectReader,
    ObjectStore,
    ObjectStoreStatus,
    ObjectWatcher,
)
from trio_nats.services import (
    Endpoint,
    ServiceError,
    ServicePing,
    ServiceRequest,
    check_reply,
    service_error,
)


async def serve(nc: Connection) -> None:
    async with nc.subscribe("double", queue="workers") as sub:
        async for msg in sub:
            assert_type(msg, Msg)
            assert_type(msg.data, bytes)
            assert_type(msg.subject, str)
            assert_type(msg.reply, str | None)
            await msg.respond(msg.data * 2)


async def ask(nc: Connection) -> bytes:
    try:
        reply = await nc.request("double", b"x", timeout=2)
    except NoRespondersError as error:
        assert_type(error.subject, str)
        return b""
    except (RequestTimeoutError, trio.Cancelled):
        raise
    assert_type(reply, Msg)
    return reply.data


async def values(nc: Connection) -> None:
    prices = JSONCodec(dict[str, float])
    await nc.publish("prices", {"tea": 2.5}, codec=prices)
    nc.publish_nowait("prices", {"tea": 2.5}, codec=prices)
    async with nc.subscribe("prices") as sub:
        async for msg in sub:
            assert_type(msg.decode(prices), dict[str, float])
            await msg.respond({}, codec=prices)
            await msg.respond("thanks")
            await msg.respond("thanks", codec=TextCodec())
            await msg.respond({})  # type: ignore[call-overload]
            await msg.respond(1, codec=TextCodec())  # type: ignore[misc]
    reply = await nc.request("price", "tea", codec=TextCodec())
    assert_type(reply.decode(prices), dict[str, float])
    async with nc.request_many("price", "tea", codec=TextCodec()) as replies:
        assert_type([one.decode(prices) async for one in replies], list[dict[str, float]])


async def offer(nc: Connection) -> None:
    service = nc.add_service(
        "text", version="1.0.0", stats_handler=lambda endpoint: {"name": endpoint.name}
    )
    words = JSONCodec(list[str])

    @service.endpoint("reverse", queue=None)
    async def reverse(request: ServiceRequest) -> bytes:
        assert_type(request.data, bytes)
        return request.data[::-1]

    @service.group("words").endpoint("split")
    async def split(request: ServiceRequest) -> None:
        text = request.decode(TextCodec())
        assert_type(text, str)
        await request.respond(text.split(), codec=words)

    async def shout(request: ServiceRequest) -> str | None:
        raise ServiceError(501, request.decode(TextCodec()))

    async with service:
        endpoint = await service.add_endpoint("shout", shout)
        assert_type(endpoint, Endpoint)
        await service.add_endpoint("again", reverse)
        assert_type(check_reply(await nc.request("reverse", b"x")), Msg)
        reply = await nc.request("words.split", b"a b")
        assert_type(check_reply(reply).decode(words), list[str])
        assert_type(service_error(reply), ServiceError | None)
        await endpoint.aclose()
        assert_type(service.group("words").endpoints, tuple[Endpoint, ...])
        for stats in await nc.services().stats("text"):
            assert_type(stats.endpoints, list[trio_nats.services.EndpointStats])
        assert_type(await nc.services(prefix="x").ping(), list[ServicePing])
        await service.wait_stopped()


async def serve_once(nc: Connection) -> str:
    async with nc.add_service("text", version="1.0.0", queue=None) as service:
        return service.id


async def drain(channel: trio.abc.ReceiveChannel[Msg]) -> int:
    count = 0
    async for _ in channel:
        count += 1
    return count


async def token(server: trio_nats.Server) -> dict[str, str]:
    return {"Authorization": f"Bearer for {server.host}"}


async def through_http() -> None:
    for options in (
        WebSocketOptions(headers={"Cookie": "a=b"}, compression=True),
        WebSocketOptions(headers=token),
        WebSocketOptions(headers=lambda server: {"X-Host": server.host}),
    ):
        try:
            async with open_nats("wss://a/path", websocket=options) as nc:
                await nc.flush()
        except ConnectError as failure:
            for refused in failure.errors(WebSocketError):
                assert_type(refused.status, int | None)


async def main() -> None:
    tls = TLSOptions(mode=TLSMode.REQUIRE, ca_file="ca.pem")
    try:
        async with open_nats(
            ["tls://a:4222", "tls://b:4222"], tls=tls, auth=UserPassword("joe", "secret")
        ) as nc:
            assert_type(nc, Connection)
            await nc.publish("greet.joe", b"hello", headers={"lang": "en"})
            await nc.publish("greet.joe", "text")
            await nc.flush()
            assert_type(await nc.rtt(), float)
            async with nc.subscribe("greet.*") as sub, trio.open_nursery() as nursery:
                nursery.start_soon(serve, nc)
                nursery.start_soon(drain, sub)
                with trio.move_on_after(1):
                    msg = await sub.receive()
                    assert_type(msg, trio_nats.Msg)
                await ask(nc)
    except ConnectError as failure:
        for attempt in failure.attempts:
            print(attempt.server, attempt.phase, attempt.error)
        for refused in failure.errors(TLSError):
            assert_type(refused, TLSError)
    except NatsError as error:
        print(error)


async def in_a_context() -> None:
    assert_type(trio_nats.list_contexts(), list[str])
    context = trio_nats.load_context("production")
    assert_type(context, trio_nats.Context)
    async with open_nats(context=context) as nc, open_nats(context="staging") as other:
        assert_type(nc, Connection)
        await other.flush()


async def not_entered(nc: Connection) -> None:
    await open_nats()  # type: ignore[misc]
    await nc.subscribe("a")  # type: ignore[misc]
    await nc.jetstream().publisher()  # type: ignore[misc]
    with nc.events():  # type: ignore[attr-defined]
        pass


async def streams(nc: Connection) -> None:
    js = nc.jetstream(domain="hub", timeout=2)
    assert_type(js, JetStream)
    stream = await js.create_stream("S", subjects=["s.>"], max_age=60, storage=StorageType.MEMORY)
    assert_type(stream, Stream)
    await js.update_stream(stream.info.config, max_msgs=5)
    assert_type(stream.info.state.last_ts, datetime | None)
    ack = await js.publish("s.a", {"a": 1}, codec=JSONCodec(dict[str, int]), msg_id="1")
    assert_type(ack, PubAck)
    async for msg in stream.get_msgs(next_for="s.*", stop_after=5):
        assert_type(msg, StoredMsg)
        assert_type(msg.decode(JSONCodec(int)), int)
    async for info in js.streams(subject="s.a"):
        assert_type(info, StreamInfo)
    async for subject, count in stream.subjects():
        assert_type(subject, str)
        assert_type(count, int)
    async with js.publisher(max_pending=5) as publisher:
        pending = await publisher.publish("s.a", b"x", expect_last_subject_seq=0)
        assert_type(pending, PendingAck)
        assert_type(await pending, PubAck)
    batch = js.atomic_batch()
    await batch.add("s.a", 5, codec=JSONCodec(int))
    assert_type(await batch.commit(), PubAck)
    async with js.fast_batch(allow_gaps=True, ack_every=50) as fast:
        assert_type(await fast.add("s.a", 5, codec=JSONCodec(int)), int)
    assert_type(fast.ack, PubAck | None)
    try:
        await js.stream("T")
    except JetStreamAPIError as error:
        assert_type(error.err_code, int)


async def consumers(stream: Stream) -> None:
    consumer = await stream.create_consumer("c", ack_wait=5, filter_subjects=["a", "b"])
    assert_type(consumer, Consumer)
    assert_type(consumer.info, ConsumerInfo | None)
    msg = await consumer.next(timeout=5)
    assert_type(msg, JetStreamMsg)
    assert_type(msg.metadata, MsgMetadata)
    assert_type(msg.metadata.timestamp, datetime)
    await msg.nak(delay=1)
    assert_type(await consumer.fetch(5), list[JetStreamMsg])
    assert_type((await consumer.next()).decode(JSONCodec(int)), int)
    async with consumer.consume(max_messages=5) as messages:
        assert_type(messages, Messages)
        async for one in messages:
            assert_type(one, JetStreamMsg)
            assert_type(one.decode(JSONCodec(int)), int)
            await one.double_ack()
    ordered = stream.ordered_consumer(filter_subjects=["a"])
    assert_type(ordered, OrderedConsumer)
    assert_type(await ordered.next(), JetStreamMsg)
    async for name in stream.consumer_names():
        assert_type(name, str)


async def objects(js: JetStream) -> None:
    store = await js.create_object_store("films", ttl=60, compression=True)
    assert_type(store, ObjectStore)
    assert_type(await js.object_store("films"), ObjectStore)
    meta = ObjectMeta("a", headers={"b": "c"}, metadata={"d": "e"}, chunk_size=1024)
    for source in (b"x", bytearray(b"x"), trio.Path("x"), io.BytesIO(b"x")):
        assert_type(await store.put(meta, source), ObjectInfo)
    async with await trio.open_file("x", "rb") as file:
        await store.put("a", file)
    with open("x", "rb") as plain:  # noqa: ASYNC230 -- whatever has bytes
        await store.put("a", plain)
    async with store.get("a") as reader:
        assert_type(reader, ObjectReader)
        async for chunk in reader:
            assert_type(chunk, bytes)
    assert_type(await store.get_bytes("a", max_size=5), bytes)
    assert_type(await store.list(show_deleted=True), list[ObjectInfo])
    async with store.watch(updates_only=True) as watcher:
        assert_type(watcher, ObjectWatcher)
        async for info in watcher:
            assert_type(info.timestamp, datetime | None)
    async for status in js.object_stores():
        assert_type(status, ObjectStoreStatus)


if __name__ == "__main__":
    trio.run(main)


class Setting(msgspec.Struct):
    name: str


async def buckets(nc: Connection) -> None:
    js = nc.jetstream()
    kv = await js.create_key_value("settings", history=5, ttl=60, mirror=None)
    assert_type(kv, KeyValue[bytes])
    assert_type(await js.create_key_value(KeyValueConfig(bucket="b")), KeyValue[bytes])
    assert_type(await kv.put("a", "text"), int)
    entry = await kv.get("a")
    assert_type(entry, Entry[bytes])
    assert_type(entry.value, bytes)
    assert_type(entry.timestamp, datetime)
    assert_type(await kv.keys(["a.*"]), list[str])
    typed = await js.key_value("settings", codec=JSONCodec(Setting))
    assert_type(typed, KeyValue[Setting])
    assert_type(await js.update_key_value("b", codec=JSONCodec(int), history=2), KeyValue[int])
    revision = await typed.create("a", Setting("a"), ttl=5)
    await typed.update("a", Setting("b"), revision)
    assert_type((await typed.get("a")).value, Setting)
    assert_type(await typed.history("a"), list[Entry[Setting]])
    async with typed.watch("a.>", meta_only=True) as watch:
        assert_type(watch, KeyWatcher[Setting])
        async for change in watch.initial():
            assert_type(change, Entry[Setting])
        async for change in watch:
            assert_type(change.operation, Operation)
    async for status in js.key_value_stores():
        assert_type(status, KeyValueStatus)
    async for name in js.key_value_store_names():
        assert_type(name, str)
