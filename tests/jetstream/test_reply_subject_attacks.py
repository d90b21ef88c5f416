"""Nothing that comes to where a consumer delivers has this client publish to other subjects."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected, filled
from tests.jetstream.scripted_server import Puller, bound, pulled_from
from trio_nats import Subscription
from trio_nats.jetstream import AckPolicy
from trio_nats.jetstream.consumer.message import ReplySubjects, is_ack_subject, read_metadata
from trio_nats.services import ServiceRequest
from trio_nats.testing import NatsServer

NUMBERS = "1.22.3.1700000000123456789.0"

FLOW_CONTROL = b"NATS/1.0 100 FlowControl Request\r\n\r\n"
STALLED = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: secret.1\r\n\r\n"


class Raw:
    """A client that says what it likes, headers with a status too."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def publish(
        self, subject: str, block: bytes = b"NATS/1.0\r\n\r\n", data: bytes = b"", reply: str = ""
    ) -> None:
        sizes = len(block), len(block) + len(data)
        line = f"HPUB {subject} {reply} {sizes[0]} {sizes[1]}\r\nPING\r\n"
        head, ping = line.encode().split(b"PING")
        await self._stream.send_all(head + block + data + b"\r\nPING" + ping)
        got = b""
        while b"PONG\r\n" not in got:
            got += await self._stream.receive_some()


@asynccontextmanager
async def raw_client(server: NatsServer) -> AsyncIterator[Raw]:
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        await stream.receive_some()
        await stream.send_all(b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n')
        yield Raw(stream)


def taken_in(sub: Subscription) -> int:
    """How many messages wait; they do not any more."""
    count = 0
    with contextlib.suppress(trio.WouldBlock):
        while sub.receive_nowait():
            count += 1
    return count


# --- over the wire --------------------------------------------------------------------------------


@pytest.mark.nats_server(jetstream=True)
@pytest.mark.parametrize(
    ("block", "reply"),
    [(FLOW_CONTROL, "secret.1"), (FLOW_CONTROL, "$JS.FC.S.other.abcd"), (STALLED, "")],
)
async def test_flow_control_is_answered_only_on_the_consumers_subject(
    nats_server: NatsServer, block: bytes, reply: str
) -> None:
    async with connected(nats_server) as (js, nc), raw_client(nats_server) as raw:
        stream = await filled(js, 1)
        consumer = await stream.create_consumer(
            "c", deliver_subject="here", flow_control=True, idle_heartbeat=5.0
        )
        async with (
            nc.subscribe("secret.>") as secret,
            nc.subscribe("$JS.FC.S.other.>") as other,
            consumer.consume() as messages,
        ):
            assert (await messages.receive()).data == b"0"
            await raw.publish("here", block, reply=reply)
            await js.publish("s.1", b"next")
            assert (await messages.receive()).data == b"next"
            await nc.flush()
            assert secret.pending == other.pending == (0, 0)


@pytest.mark.nats_server(jetstream=True)
async def test_what_the_consumer_did_not_deliver_is_not_handed_out(
    nats_server: NatsServer,
) -> None:
    """Its acknowledgement would be published to where a stranger has it."""
    async with connected(nats_server) as (js, nc), raw_client(nats_server) as raw:
        stream = await filled(js, 1)
        pushed = await stream.create_consumer("p", deliver_subject="here")
        pulled = await stream.create_consumer("c")
        async with nc.subscribe("secret.>") as secret, nc.subscribe("$JS.API.>") as pulls:
            async with pushed.consume() as messages:
                for reply in ("secret.1", ""):
                    await raw.publish("here", data=b"forged", reply=reply)
                msg = await messages.receive()
                assert msg.data == b"0"
                # It is not handed back on leaving the block either.
                await raw.publish("here", data=b"forged", reply="secret.2")
            async with pulled.consume() as messages:
                assert (await messages.receive()).data == b"0"
                async for pull in pulls:
                    if pull.subject.startswith("$JS.API.CONSUMER.MSG.NEXT"):
                        break
                assert pull.reply is not None
                await raw.publish(pull.reply, data=b"forged", reply="secret.3")
                await js.publish("s.1", b"next")
                assert (await messages.receive()).data == b"next"

            async def fetch() -> None:
                # The one that was not acknowledged is still with the other call.
                assert [msg.data for msg in await pulled.fetch(1, timeout=HANG_TIMEOUT)] == [
                    b"last"
                ]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch)
                async for pull in pulls:
                    if pull.subject.startswith("$JS.API.CONSUMER.MSG.NEXT"):
                        break
                assert pull.reply is not None
                await raw.publish(pull.reply, data=b"forged", reply="secret.4")
                await js.publish("s.1", b"last")
            await nc.flush()
            assert secret.pending == (0, 0)


@pytest.mark.nats_server(jetstream=True)
async def test_answers_are_no_commands(nats_server: NatsServer) -> None:
    """The client chooses where the answer goes, and may not be allowed to purge the stream."""
    purge = "$JS.API.STREAM.PURGE.S"
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 3)
        service = nc.add_service("text", version="1.0.0")
        done = trio.Event()

        @service.endpoint("text")
        async def answer(request: ServiceRequest) -> bytes:
            if request.data:
                done.set()
            return b""

        async with service, nc.subscribe("plain") as plain:
            await nc.publish("text", b"", reply=purge)
            await nc.publish("plain", b"", reply=purge)
            assert await (await plain.receive()).respond() is False
            await nc.publish("text", b"last", reply=purge)
            await done.wait()
        await nc.flush()
        assert (await stream.refresh()).state.messages == 3


@pytest.mark.nats_server(jetstream=True)
async def test_a_seen_reply_subject_does_not_help_to_forge_answers(
    nats_server: NatsServer,
) -> None:
    deleted = b"NATS/1.0 409 Consumer Deleted\r\n\r\n"
    async with connected(nats_server) as (js, nc), raw_client(nats_server) as raw:
        stream = await filled(js, 1)
        consumer = await stream.create_consumer("c", ack_policy=AckPolicy.NONE)
        async with (
            nc.subscribe("s.1") as published,
            nc.subscribe("$JS.API.CONSUMER.MSG.NEXT.>") as pulls,
        ):
            async with js.publisher() as publisher:
                acks = [await publisher.publish("s.1", b"x") for _ in range(3)]
                inbox = ((await published.receive()).reply or "").rpartition(".")[0]
                await nc.flush()
                for number in range(1, 20):
                    await raw.publish(f"{inbox}.{number:x}", data=b'{"stream":"S","seq":99}')
                acks += [await publisher.publish("s.1", b"x") for _ in range(10)]
                assert [(await ack).seq for ack in acks] == list(range(2, 15))
            async with consumer.consume(max_messages=2) as messages:
                await messages.receive()
                inbox = ((await pulls.receive()).reply or "").rpartition(".")[0]
                for number in range(1, 20):
                    await raw.publish(f"{inbox}.{number}", deleted)
                for _ in range(12):
                    await messages.receive()
            assert len(await consumer.fetch(1)) == 1
            await nc.flush()
            taken_in(pulls)
            async with trio.open_nursery() as nursery:

                async def fetch() -> None:
                    assert len(await consumer.fetch(1, timeout=HANG_TIMEOUT)) == 1

                nursery.start_soon(fetch)
                inbox = ((await pulls.receive()).reply or "").rpartition(".")[0]
                for number in range(1, 20):
                    await raw.publish(f"{inbox}.{number}", deleted)
                await js.publish("s.1", b"x")


@pytest.mark.requires_server("2.14")
@pytest.mark.slow
@pytest.mark.parametrize("form", ["two", "one"])
async def test_both_forms_of_the_server(form: str) -> None:
    flags = {"feature_flags": {"js_ack_fc_v2": form == "two"}}
    async with (
        NatsServer(jetstream=True, config=flags) as server,
        connected(server) as (js, _),
    ):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY)
        async with js.publisher() as publisher:
            for _ in range(1500):
                await publisher.publish("s", b"x" * 4000)
        pulled = await stream.create_consumer("c")
        ordered = stream.ordered_consumer()
        (msg,) = await pulled.fetch(1)
        assert msg.reply.startswith("$JS.ACK.S.c." if form == "one" else "$JS.ACK._.")
        await msg.double_ack()
        async with pulled.consume(stop_after=100) as messages:
            async for msg in messages:
                await msg.double_ack()
        assert (await pulled.refresh()).ack_floor.stream_seq == 101
        assert (await ordered.next()).metadata.stream_seq == 1
        async with ordered.consume(stop_after=100) as messages:
            assert len([msg async for msg in messages]) == 100
        pushed = await stream.create_consumer(
            "p",
            deliver_subject="here",
            flow_control=True,
            idle_heartbeat=0.5,
            ack_policy=AckPolicy.NONE,
        )
        async with pushed.consume() as messages:
            # The server waits until it hears that this much was dealt with.
            for number in range(1, 1501):
                assert (await messages.receive()).metadata.stream_seq == number


async def test_messages_of_another_consumer_are_not_believed() -> None:
    """What a server sends that confuses them, or one at the other end of a leaf node."""
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        sid = puller.sid_of(pull.reply)
        for reply in (
            "$JS.ACK.S.D.1.1.1.1.0",
            "$JS.ACK.T.C.1.1.1.1.0",
            "$JS.ACK.S.C.1.1.1.1",
            "$JS.API.STREAM.DELETE.S",
        ):
            await pull.peer.send(b"MSG s.1 %b %b 6\r\nforged\r\n" % (sid, reply.encode()))
        await puller.deliver(pull, 1)
        msg = await messages.receive()
        assert msg.data == b"x"
        await msg.ack()
        assert await puller.until(1) == [(msg.reply, b"+ACK")]


async def test_an_acknowledgement_that_cannot_be_published_ends_nothing() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        sid = puller.sid_of(pull.reply)
        for reply in ("$JS.ACK.S.C.1.1.1.1.>", "$JS.ACK.S.C.1..1.1.1"):
            await pull.peer.send(b"MSG s.1 %b %b 1\r\nx\r\n" % (sid, reply.encode()))
            msg = await messages.receive()
            await msg.in_progress()
            await msg.ack()
            assert msg.answered
            with pytest.raises(ValueError, match=r"not a number|reply subject"):
                _ = msg.metadata
        await puller.deliver(pull, 1)
        msg = await messages.receive()
        await msg.ack()
        assert await puller.until(1) == [(msg.reply, b"+ACK")]


async def test_publishers_cannot_choose_the_pin() -> None:
    puller = Puller()
    async with pulled_from(puller) as (_, nc):
        group = bound(nc)
        async with group.consume(group="g", max_messages=1) as messages:
            pull = await puller.pull()
            sid = puller.sid_of(pull.reply)
            puller.sequence = 1
            for block, expected in (
                (b"Nats-Pin-Id: forged\r\nNats-Pin-Id: right\r\n", "right"),
                (b"Nats-Pin-Id: " + b"x" * 10_000 + b"\r\n", "right"),
            ):
                raw = b"NATS/1.0\r\n" + block + b"\r\n"
                reply = f"$JS.ACK.S.C.{NUMBERS}".encode()
                await pull.peer.send(
                    b"HMSG s.1 %b %b %d %d\r\n%b\r\n" % (sid, reply, len(raw), len(raw), raw)
                )
                await messages.receive()
                assert (await puller.pull()).request["id"] == expected


# --- what is recognised ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        f"$JS.ACK.S.C.{NUMBERS}",
        f"$JS.ACK._.hash.S.C.{NUMBERS}",
        f"$JS.ACK.hub.hash.S.C.{NUMBERS}",
        f"$JS.ACK.hub.hash.S.C.{NUMBERS}.more.and.more",
        f"_GR_.abcdef.ghijkl.$JS.ACK.S.C.{NUMBERS}",
        f"_GR_.abcdef.ghijkl.$JS.ACK.hub.hash.S.C.{NUMBERS}",
    ],
)
def test_acknowledgements(reply: str) -> None:
    own, other = ReplySubjects("S", "C"), ReplySubjects("S", "D")
    for _ in range(2):
        assert own.is_ack(reply.encode())
        assert not other.is_ack(reply.encode())
    # Servers of a cluster may be of different versions.
    assert own.is_ack(f"$JS.ACK.S.C.{NUMBERS}".encode())
    assert own.is_ack(reply.encode())
    assert is_ack_subject(reply.encode())
    assert read_metadata(reply).stream_seq == 22
    assert read_metadata(reply).consumer == "C"


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "",
        "secret",
        "$JS.ACK.S.C",
        f"$JS.ACK.S.C.{NUMBERS}.1",
        f"$JS.ACK.S.D.{NUMBERS}",
        f"$JS.ACK.T.C.{NUMBERS}",
        f"$JS.ACK.S.CC.{NUMBERS}",
        f"$JS.ACK.S.C.C.{NUMBERS}",
        f"$JS.ACK.hub.hash.S.D.{NUMBERS}",
        f"$JS.ACK.S.C.S.D.{NUMBERS}",
        f"$JS.ACK.*.hash.S.C.{NUMBERS}",
        f"$JS.ACK.hub.hash.S.C.{NUMBERS}.>",
        f"$JS.ACK.hub.ha\tsh.S.C.{NUMBERS}",
        f"$JS.API.$JS.ACK.S.C.{NUMBERS}",
        "$JS.ACK.S.C.1.2.3.4",
        "_GR_.abcdef.$JS.ACK.S.C.1.2.3.4.5",
        "$JS.FC.S.C.abcd",
    ],
)
def test_a_reply_that_is_not_an_acknowledgement(reply: str | None) -> None:
    subjects = ReplySubjects("S", "C")
    raw = None if reply is None else reply.encode()
    for _ in range(2):
        assert not subjects.is_ack(raw)
        assert subjects.is_ack(f"$JS.ACK.hub.hash.S.C.{NUMBERS}".encode())


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("$JS.FC.S.C.abcd", True),
        ("$JS.FC._.hash.S.C.abcd", True),
        ("_GR_.abcdef.ghijkl.$JS.FC.S.C.abcd", True),
        ("$JS.FC.S.D.abcd", False),
        ("$JS.FC.T.C.abcd", False),
        ("$JS.FC.S.C", False),
        ("$JS.FC.S.C.", False),
        ("$JS.FC.S.C.*", False),
        ("$JS.FC.S.C.>", False),
        ("$JS.FC.S.C.a.b", False),
        ("$JS.FC.S.C.a b", False),
        ("$JS.FC._.hash.S.D.abcd", False),
        ("$JS.ACK.S.C.abcd", False),
        ("$JS.API.STREAM.DELETE.S", False),
        ("", False),
    ],
)
def test_flow_control(subject: str, expected: bool) -> None:
    assert ReplySubjects("S", "C").is_flow_control(subject) is expected
