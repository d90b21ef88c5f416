"""Consumers send and accept what the ADRs 9, 15, 37 and 60 say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.jetstream.helpers import MEMORY, connected, filled, recorded_requests
from tests.jetstream.scripted_server import Pulled, Puller, pulled_from
from trio_nats import ConfigurationError
from trio_nats.jetstream import (
    AckPolicy,
    Consumer,
    ConsumerConfig,
    ConsumerDeletedError,
    JetStreamMsg,
    PullError,
)
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

SECOND = 10**9


# --- ADR-15: reply subjects and acknowledgements -------------------------------------------------

TOKENS = "S.C.3.1017.42.1700000000123456789.7"


@pytest.mark.parametrize(
    ("reply", "domain"),
    [
        (f"$JS.ACK.{TOKENS}", None),
        (f"$JS.ACK._.Xa1bcD.{TOKENS}", None),
        (f"$JS.ACK.hub.Xa1bcD.{TOKENS}", "hub"),
        (f"$JS.ACK.hub.Xa1bcD.{TOKENS}.k7Qzx2", "hub"),
        (f"$JS.ACK._.Xa1bcD.{TOKENS}.k7Qzx2.more.to.come", None),
    ],
)
async def test_adr_15_reply_subjects(reply: str, domain: str | None) -> None:
    """Of 9 tokens, or of 11 and more; the subject is used for the acknowledgement as it is."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume() as messages:
        pull = await puller.pull()
        await pull.peer.send(
            b"MSG s.1 %b %b 1\r\nx\r\n" % (puller.sid_of(pull.reply), reply.encode())
        )
        msg = await messages.receive()
        metadata = msg.metadata
        assert (metadata.stream, metadata.consumer) == ("S", "C")
        assert (metadata.delivered, metadata.stream_seq, metadata.consumer_seq) == (3, 1017, 42)
        assert (metadata.timestamp_ns, metadata.pending) == (1700000000123456789, 7)
        assert metadata.domain == domain
        await msg.ack()
        await nc.flush()
        assert puller.answers == [(reply, b"+ACK")]


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.S.C.3.1017.42.1700000000123456789",
        f"$JS.ACK._.{TOKENS}",
        f"$JS.OTHER.{TOKENS}",
        f"$JS.ACK.{TOKENS}".replace("1017", "x"),
        f"$JS.ACK._.Xa1bcD.{TOKENS}".replace("1700000000123456789", "now"),
    ],
    ids=["8 tokens", "10 tokens", "another beginning", "a word", "a word in the long form"],
)
async def test_adr_15_other_reply_subjects(reply: str) -> None:
    """What has one is not taken for a message with metadata."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        sid = puller.sid_of(pull.reply)
        await pull.peer.send(b"MSG s.1 %b %b 1\r\nx\r\n" % (sid, reply.encode()))
        await puller.deliver(pull)
        msg = await messages.receive()
        if msg.reply == reply:
            with pytest.raises(ValueError, match="JetStream"):
                _ = msg.metadata
            msg = await messages.receive()
        assert msg.metadata.stream_seq == 1


ACKS: dict[str, tuple[Callable[[JetStreamMsg], Awaitable[object]], bytes]] = {
    "ack": (lambda msg: msg.ack(), b"+ACK"),
    "nak": (lambda msg: msg.nak(), b"-NAK"),
    "term": (lambda msg: msg.term(), b"+TERM"),
    "in progress": (lambda msg: msg.in_progress(), b"+WPI"),
}


@pytest.mark.parametrize("name", ACKS)
async def test_adr_15_types_of_acknowledgements(name: str) -> None:
    """Three end it; progress may be told any number of times before."""
    call, payload = ACKS[name]
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume() as messages:
        await puller.deliver(await puller.pull())
        msg = await messages.receive()
        await msg.in_progress()
        await call(msg)
        assert msg.answered == (payload != b"+WPI")
        await nc.flush()
        assert [data for _, data in puller.answers] == [b"+WPI", payload]
        assert {subject for subject, _ in puller.answers} == {msg.reply}


# --- ADR-9, ADR-15: heartbeats and flow control of push consumers --------------------------------


async def test_adr_9_15_the_configuration_of_a_push_consumer(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        async with recorded_requests(nats_server) as found:
            await stream.create_consumer(
                "c", deliver_subject="my.messages", idle_heartbeat=10, flow_control=True
            )
            await nc.flush()
    (create,) = [one.msg for one in found.values() if ".CONSUMER.CREATE." in one.msg.subject]
    request = msgspec.json.decode(create.data)
    assert request["stream_name"] == "S"
    config = request["config"]
    assert config["ack_policy"] == "explicit"
    assert config["deliver_subject"] == "my.messages"
    assert config["idle_heartbeat"] == 10 * SECOND
    assert config["flow_control"] is True


async def test_adr_9_15_heartbeats_and_flow_control() -> None:
    """They are not messages; flow control is answered at its place, a stall once."""
    puller = Puller()
    config = ConsumerConfig(deliver_subject="my.messages", flow_control=True, idle_heartbeat=10.0)
    async with (
        pulled_from(puller, config) as (consumer, nc),
        consumer.consume() as messages,
        trio.open_nursery() as nursery,
    ):
        await nc.flush()
        (peer,) = puller.peers
        sid = next(iter(puller.subscriptions))

        async def say(line: str, reply: str = "", **headers: object) -> None:
            block = f"NATS/1.0 100 {line}\r\n"
            for name, value in headers.items():
                block += f"Nats-{name.title().replace('_', '-')}: {value}\r\n"
            raw = (block + "\r\n").encode()
            head = f"HMSG my.messages {sid.decode()} {reply} {len(raw)} {len(raw)}\r\n"
            await peer.send(head.replace("  ", " ").encode() + raw + b"\r\n")

        await say("Idle Heartbeat", last_consumer=0, last_stream=0)
        for number in (1, 2):
            await peer.send(
                b"MSG s.1 %b $JS.ACK.S.C.1.%d.%d.1.0 1\r\nx\r\n" % (sid, number, number)
            )
            await say("FlowControl Request", f"$JS.FC.S.C.x{number}")
            await say(
                "Idle Heartbeat",
                last_consumer=number,
                last_stream=number,
                consumer_stalled=f"$JS.FC.S.C.x{number}",
            )
        await say("Idle Heartbeat", consumer_stalled="$JS.FC.S.C.late")
        assert (await messages.receive()).metadata.consumer_seq == 1
        assert (await messages.receive()).metadata.consumer_seq == 2
        nursery.start_soon(messages.receive)  # takes out what follows the last message
        assert await puller.until(3) == [
            ("$JS.FC.S.C.x1", b""),
            ("$JS.FC.S.C.x2", b""),
            ("$JS.FC.S.C.late", b""),
        ]
        nursery.cancel_scope.cancel()


# --- ADR-37: pull requests -----------------------------------------------------------------------

Call = Callable[[Consumer], Awaitable[object]]


async def first_request(call: Call, config: ConsumerConfig | None = None) -> dict[str, Any]:
    """Return the first pull request of ``call``."""
    puller = Puller()
    async with pulled_from(puller, config) as (consumer, nc), trio.open_nursery() as nursery:
        await nc.flush()
        assert puller.no_pull()
        nursery.start_soon(call, consumer)
        pull = await puller.pull()
        nursery.cancel_scope.cancel()
        return pull.request


@pytest.mark.parametrize("timeout", [5, 31, 60])
@pytest.mark.parametrize("name", ["next", "fetch"])
async def test_adr_37_next_and_fetch(name: str, timeout: float) -> None:
    """What is longer than 30 s has heartbeats; a request lasts no longer than the client waits."""

    async def call(consumer: Consumer) -> None:
        if name == "next":
            await consumer.next(timeout=timeout)
        else:
            await consumer.fetch(7, timeout=timeout)

    request = await first_request(call)
    assert request.pop("batch") == (1 if name == "next" else 7)
    expires = request.pop("expires")
    assert (timeout - 2) * SECOND < expires <= timeout * SECOND
    if timeout > 30:
        assert 0 < request.pop("idle_heartbeat") <= expires // 2
    assert request == {}


async def test_adr_37_fetching_bytes() -> None:
    request = await first_request(lambda consumer: consumer.fetch(max_bytes=1000))
    assert request["max_bytes"] == 1000
    assert request["batch"] >= 1000  # 0 or nothing would be 1 to the server


async def consume(consumer: Consumer, **options: Any) -> None:
    async with consumer.consume(**options):
        await trio.sleep_forever()


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ({}, {"batch": 500, "expires": 30, "idle_heartbeat": 15}),
        ({"max_messages": 100}, {"batch": 100, "expires": 30, "idle_heartbeat": 15}),
        ({"expires": 1}, {"batch": 500, "expires": 1, "idle_heartbeat": 0.5}),
        ({"expires": 60}, {"batch": 500, "expires": 60, "idle_heartbeat": 30}),
        ({"expires": 100}, {"batch": 500, "expires": 100, "idle_heartbeat": 30}),
        ({"heartbeat": 5}, {"batch": 500, "expires": 30, "idle_heartbeat": 5}),
        (
            {"max_bytes": 1000},
            {"batch": 1_000_000, "max_bytes": 1000, "expires": 30, "idle_heartbeat": 15},
        ),
    ],
    ids=str,
)
async def test_adr_37_options_of_consume(
    options: dict[str, Any], request_: dict[str, float]
) -> None:
    for key in ("expires", "idle_heartbeat"):
        request_ = {**request_, key: int(request_[key] * SECOND)}
    assert await first_request(lambda consumer: consume(consumer, **options)) == request_


@pytest.mark.parametrize(
    "options",
    [
        {"max_messages": 10, "max_bytes": 1000},
        {"max_messages": 10, "threshold": 11},
        {"max_bytes": 1000, "threshold": 1001},
        {"expires": 0.99},
    ],
    ids=str,
)
async def test_adr_37_options_that_are_refused(options: dict[str, Any]) -> None:
    async with pulled_from(Puller()) as (consumer, _):
        with pytest.raises(ConfigurationError):
            consumer.consume(**options)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"max_messages": 10}, 6),
        ({"max_messages": 10, "threshold": 8}, 3),
        ({"max_messages": 1}, 1),
    ],
    ids=str,
)
async def test_adr_37_the_threshold_of_messages(options: dict[str, Any], received: int) -> None:
    """Half of the messages by default; the next request fills the buffer. One alone goes on."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume(**options) as messages:
        pull = await puller.pull()
        await puller.deliver(pull, options["max_messages"])
        while messages.waiting < options["max_messages"]:
            await nc.flush()
        for _ in range(received - 1):
            await messages.receive()
        await nc.flush()
        assert puller.no_pull()
        await messages.receive()
        again = await puller.pull()
        assert again.batch == received
        assert "max_bytes" not in again.request
        # All of them use one subscription.
        assert puller.sid_of(again.reply) == puller.sid_of(pull.reply)
        assert len(puller.subscriptions) == 1


@pytest.mark.parametrize("headers", [b"", b"NATS/1.0\r\nA: b\r\n\r\n"])
@pytest.mark.parametrize(("options", "least"), [({}, 500), ({"threshold": 900}, 100)])
async def test_adr_37_the_threshold_of_bytes(
    options: dict[str, Any], least: int, headers: bytes
) -> None:
    """A message counts with its subject, its reply subject, its headers and its payload."""
    reply = b"$JS.ACK.S.C.1.1.1.1700000000000000000.0"
    puller = Puller()

    async def deliver(pull: Pulled, size: int) -> None:
        data = headers + b"x" * (size - len(b"s.1" + reply + headers))
        sid = puller.sid_of(pull.reply)
        if headers:
            head = b"HMSG s.1 %b %b %d %d\r\n" % (sid, reply, len(headers), len(data))
        else:
            head = b"MSG s.1 %b %b %d\r\n" % (sid, reply, len(data))
        await pull.peer.send(head + data + b"\r\n")

    for size, goes_on in ((least, False), (least + 1, True)):
        async with (
            pulled_from(puller) as (consumer, nc),
            consumer.consume(max_bytes=1000, **options) as messages,
        ):
            await deliver(await puller.pull(), size)
            await messages.receive()
            await nc.flush()
            if goes_on:
                assert (await puller.pull()).request["max_bytes"] == size
            else:
                assert puller.no_pull()


PENDING = [
    "404 No Messages",
    "408 Request Timeout",
    "408 Interest Expired",
    "409 Batch Completed",
    "409 Exceeded MaxRequestBatch of 4",
    "499 Something New",
]


@pytest.mark.parametrize("line", PENDING)
async def test_adr_37_counts_of_statuses(line: str) -> None:
    """What a request has left is no longer pending; only that is requested again."""
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_messages=10, threshold=7) as messages,
        trio.open_nursery() as nursery,
    ):
        pull = await puller.pull()
        await puller.deliver(pull, 4)
        while messages.waiting < 4:
            await nc.flush()
        for _ in range(4):
            await messages.receive()
        again = await puller.pull()
        assert again.batch == 4
        nursery.start_soon(messages.receive)
        await puller.say(pull, line, pending_messages=6, pending_bytes=0)
        assert (await puller.pull()).batch == 6
        nursery.cancel_scope.cancel()


async def test_adr_37_a_message_that_is_too_large() -> None:
    """The request has ended; the next one is for all bytes, once none are in use."""
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_bytes=1000) as messages,
        trio.open_nursery() as nursery,
    ):
        pull = await puller.pull()
        await puller.deliver(pull, size=300)
        msg = await messages.receive()
        left = 1000 - len(msg.subject + msg.reply) - 300
        nursery.start_soon(messages.receive)
        headers = {"pending_messages": 999_999, "pending_bytes": left}
        await puller.say(pull, "409 Message Size Exceeds MaxBytes", **headers)
        again = await puller.pull()
        assert (again.batch, again.request["max_bytes"]) == (1_000_000, 1000)
        nursery.cancel_scope.cancel()


async def test_adr_37_another_client_is_pinned() -> None:
    """All requests with the old pin have ended."""
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=10) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(messages.receive)
        pull = await puller.pull()
        await puller.say(pull, "423 Nats-Wrong-Pin-Id", pending_messages=10, pending_bytes=0)
        assert (await puller.pull()).batch == 10
        nursery.cancel_scope.cancel()


FATAL = [
    ("400 Bad Request", PullError),
    ("409 Consumer Deleted", ConsumerDeletedError),
    ("409 Consumer is push based", PullError),
]
WARNINGS = [
    "409 Exceeded MaxRequestBatch of 5",
    "409 Exceeded MaxRequestExpires of 5s",
    "409 Exceeded MaxRequestMaxBytes of 5",
    "409 Exceeded MaxWaiting",
]
SILENT = ["404 No Messages", "408 Request Timeout", "408 Interest Expired"]


@pytest.mark.parametrize(("line", "kind"), FATAL)
async def test_adr_37_errors(line: str, kind: type[PullError]) -> None:
    """They end all three."""
    for name in ("next", "fetch", "consume"):
        puller = Puller()
        async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive(name: str = name, consumer: Consumer = consumer) -> None:
                with pytest.raises(kind, match=line[4:]) as caught:
                    await once(consumer, name)
                assert caught.value.code == int(line[:3])

            await puller.say(await puller.pull(), line)


async def once(consumer: Consumer, name: str) -> object:
    match name:
        case "next":
            return await consumer.next(timeout=20)
        case "fetch":
            return await consumer.fetch(5, timeout=20)
    async with consumer.consume() as messages:
        return await messages.receive()


@pytest.mark.parametrize("line", WARNINGS + SILENT)
async def test_adr_37_what_does_not_end_consume(
    line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It requests again; a warning is told, a request that ended as it should is not."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:
        nursery.start_soon(once, consumer, "consume")
        await puller.say(await puller.pull(), line)
        again = await puller.pull()
        assert again.batch == 500
        await puller.deliver(again)
    told = [record.getMessage() for record in caplog.records]
    assert any(line in text for text in told) == (line in WARNINGS)


@pytest.mark.parametrize("line", WARNINGS)
async def test_adr_37_warnings_end_next_and_fetch(line: str) -> None:
    for name in ("next", "fetch"):
        puller = Puller()
        async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive(name: str = name, consumer: Consumer = consumer) -> None:
                with pytest.raises(PullError, match=line[4:]):
                    await once(consumer, name)

            await puller.say(await puller.pull(), line)


@pytest.mark.parametrize("line", SILENT)
async def test_adr_37_fetch_ends_with_its_request(line: str) -> None:
    """With the messages that have come until then, and long before its time is over."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def fetch() -> None:
            assert len(await consumer.fetch(5, timeout=1000)) == 2

        pull = await puller.pull()
        await puller.deliver(pull, 2)
        await puller.say(pull, line, pending_messages=3, pending_bytes=0)


# --- ADR-37: heartbeats and reconnects -----------------------------------------------------------


async def test_adr_37_missing_heartbeats(caplog: pytest.LogCaptureFixture) -> None:
    """They are told and followed by another request, and are not the end."""
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(expires=1, heartbeat=0.02) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(messages.receive)
        await puller.pull()
        await puller.deliver(await puller.pull())
    assert "no heartbeat for 0.0" in caplog.text


async def test_adr_37_reconnecting() -> None:
    """A new request is sent, and nothing else: not whether the consumer is still there."""
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume() as messages,
        trio.open_nursery() as nursery,
    ):
        pull = await puller.pull()
        await puller.deliver(pull)
        await messages.receive()
        nursery.start_soon(messages.receive)
        pull.peer.abort()
        again = await puller.pull()
        assert again.peer is not pull.peer
        assert again.batch == 500
        await nc.flush()
        assert puller.answers == []
        await puller.deliver(again)


# --- ADR-60: resets, and consumers for sources ---------------------------------------------------


@pytest.mark.requires_server("2.14")
async def test_adr_60_reset(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js)
        consumer = await stream.create_consumer("c")
        await (await consumer.next()).double_ack()
        async with recorded_requests(nats_server) as found:
            assert await consumer.reset() == 2
            assert await consumer.reset(4) == 4
            await nc.flush()
        resets = [one for one in found.values() if ".CONSUMER.RESET." in one.msg.subject]
        assert [one.msg.subject for one in resets] == ["$JS.API.CONSUMER.RESET.S.c"] * 2
        assert [one.msg.data for one in resets] == [b"", b'{"seq":4}']
        answers = [one.answer for one in resets]
        assert [msgspec.json.decode(one.data)["reset_seq"] for one in answers if one] == [2, 4]


@pytest.mark.requires_server("2.14")
async def test_adr_60_acknowledging_by_flow_control(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        consumer = await stream.create_consumer(
            "c",
            durable_name="c",
            ack_policy=AckPolicy.FLOW_CONTROL,
            deliver_subject="here",
            flow_control=True,
            idle_heartbeat=1,
            max_deliver=-1,
        )
        assert consumer.info is not None
        assert consumer.info.config.ack_policy == "flow_control"
