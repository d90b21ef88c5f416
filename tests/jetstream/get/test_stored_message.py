"""Getting messages out of a stream: from the leader, by direct gets, and in batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import trio

from tests.jetstream.helpers import MEMORY, connected, fake_api, filled
from tests.support.raw import raw_connection
from tests.support.server_versions import server_version
from trio_nats import (
    ConfigurationError,
    DecodeError,
    InvalidSubjectError,
    JSONCodec,
    RequestTimeoutError,
)
from trio_nats._constructors import construct
from trio_nats.jetstream import (
    JetStreamAPIError,
    JetStreamError,
    MessageNotFoundError,
    Stream,
    StreamConfig,
    StreamInfo,
)
from trio_nats.jetstream.api import API
from trio_nats.jetstream.get import stored_message
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


@pytest.mark.parametrize("direct", [True, False, None])
async def test_getting_a_message_by_sequence_or_subject(
    nats_server: NatsServer, direct: bool | None
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)

        async def get(*args, **options):
            msg = await stream.get_msg(*args, direct=direct, **options)
            assert (msg.stream, msg.data) == ("S", str(msg.seq - 1).encode())
            assert msg.subject == f"s.{(msg.seq - 1) % 3}"
            return msg

        second = await get(2)
        assert (second.seq, second.decode(JSONCodec(int))) == (2, 1)
        with pytest.raises(DecodeError, match=r"JSONCodec\(str\) .* the message on 's\.1'"):
            second.decode(JSONCodec(str))
        assert (await get(last_for="s.1")).seq == 5
        assert (await get(last_for="s.*")).seq == 6
        assert (await get(next_for="s.1")).seq == 2
        assert (await get(3, next_for="s.1")).seq == 5
        third = await get(3)
        assert third.timestamp is not None
        assert third.timestamp.tzinfo is UTC
        assert timedelta() <= datetime.now(UTC) - third.timestamp < timedelta(minutes=1)
        missing = [{"seq": 99}, {"last_for": "s.9"}, {"seq": 6, "next_for": "s.1"}]
        if server_version() >= (2, 11):
            assert (await get(start_time=third.timestamp)).seq == 3
            assert (await get(start_time=third.timestamp, next_for="s.0")).seq == 4
            missing.append({"start_time": datetime.now(UTC) + timedelta(hours=1)})
        for which in missing:
            with pytest.raises(MessageNotFoundError):
                await stream.get_msg(**which, direct=direct)


@pytest.mark.parametrize("direct", [True, False])
async def test_the_headers_are_those_it_was_published_with(
    nats_server: NatsServer, direct: bool
) -> None:
    """Whatever they are: they cannot pass for what the server tells about the message."""
    given = [("A", "1"), ("A", "2"), ("Nats-Sequence", "77"), ("Nats-Subject", "evil")]
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        await js.publish("s.x", b"", headers=given)
        msg = await stream.get_msg(7, direct=direct)
        assert msg.headers.pairs() == given
        assert (msg.seq, msg.subject, msg.data) == (7, "s.x", b"")
        assert (await stream.get_msg(1, direct=direct)).headers.pairs() == []


@pytest.mark.parametrize(
    ("args", "options", "kind", "text"),
    [
        ((), {}, ConfigurationError, "give at least one of"),
        ((0,), {}, ConfigurationError, "seq must be at least 1"),
        ((1,), {"last_for": "s"}, ConfigurationError, "last_for cannot be combined"),
        ((1,), {"start_time": datetime.now(UTC)}, ConfigurationError, "seq or start_time"),
        ((), {"next_for": "a b"}, InvalidSubjectError, "next_for: "),
        ((), {"last_for": ""}, InvalidSubjectError, "last_for: "),
        (
            (),
            {"start_time": datetime(2030, 1, 1)},
            ConfigurationError,
            "start_time must have a time zone",
        ),
        ((1,), {"timeout": 0}, ConfigurationError, "timeout"),
    ],
)
async def test_invalid_get_msg_options(nats_server: NatsServer, args, options, kind, text) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        with pytest.raises(kind, match=text):
            await stream.get_msg(*args, **options)


async def test_direct_gets_that_are_not_allowed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, allow_direct=False)
        with pytest.raises(JetStreamError, match="without allow_direct"):
            await stream.get_msg(1, direct=True)
        with pytest.raises(JetStreamError, match="without allow_direct"):
            await anext(stream.get_msgs())
        assert (await stream.get_msg(1)).seq == 1


async def test_direct_gets_that_are_not_allowed_any_more(nats_server: NatsServer) -> None:
    """The leader can always be asked."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        await js.update_stream(stream.info.config, allow_direct=False)
        assert stream.info.config.allow_direct
        assert (await stream.get_msg(1)).seq == 1


async def test_permissions_for_single_subjects(nats_server: NatsServer) -> None:
    """The last message of a subject is asked for where its subject can be seen."""
    async with connected(nats_server) as (_, nc):
        async with nc.subscribe("fake.>") as sub, trio.open_nursery() as nursery:
            config = StreamConfig(name="S", allow_direct=True)
            stream = construct(Stream, API(nc, prefix="fake", timeout=1), StreamInfo(config=config))
            for which in ({"last_for": "s.1"}, {"last_for": "s.*"}, {"seq": 5}):
                nursery.start_soon(lambda which=which: stream.get_msg(**which))
            asked = sorted([(m.subject, m.data) for m in [await sub.receive() for _ in range(3)]])
            nursery.cancel_scope.cancel()
        assert asked == [
            ("fake.DIRECT.GET.S", b'{"last_by_subj":"s.*"}'),
            ("fake.DIRECT.GET.S", b'{"seq":5}'),
            ("fake.DIRECT.GET.S.s.1", b""),
        ]


# --- batches -------------------------------------------------------------------------------------


async def seqs(paged) -> list[int]:
    return [msg.seq async for msg in paged]


@pytest.mark.requires_server("2.11")
async def test_the_headers_of_each_answer_are_split_once(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = stored_message.split_block
    blocks: list[bytes] = []

    def counted(block: bytes) -> tuple[dict[str, str], bytes]:
        blocks.append(block)
        return split(block)

    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        monkeypatch.setattr(stored_message, "split_block", counted)
        assert await seqs(stream.get_msgs()) == [1, 2, 3, 4, 5, 6]
        assert len(blocks) == 7  # and the status that ends the batch


@pytest.mark.requires_server("2.11")
@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 3, 6, 7, 256])
async def test_many(nats_server: NatsServer, batch: int) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        fourth = await stream.get_msg(4)
        assert await seqs(stream.get_msgs(max_messages=batch)) == [1, 2, 3, 4, 5, 6]
        assert await seqs(stream.get_msgs(3, max_messages=batch)) == [3, 4, 5, 6]
        assert await seqs(stream.get_msgs(3, max_messages=batch, stop_after=2)) == [3, 4]
        assert await seqs(stream.get_msgs(next_for="s.1", max_messages=batch)) == [2, 5]
        assert await seqs(stream.get_msgs(start_time=fourth.timestamp, max_messages=batch)) == [
            4,
            5,
            6,
        ]
        assert await seqs(stream.get_msgs(7, max_messages=batch)) == []
        assert await seqs(stream.get_msgs(next_for="t", max_messages=batch)) == []
        assert await seqs(stream.get_msgs(max_messages=batch, max_bytes=1)) == [1, 2, 3, 4, 5, 6]
        msg = await anext(stream.get_msgs(2, max_messages=batch))
        assert (msg.seq, msg.data, msg.subject, msg.headers.pairs()) == (2, b"1", "s.1", [])


@pytest.mark.requires_server("2.11")
@pytest.mark.parametrize("batch", [1, 2, 256])
async def test_the_last_ones(nats_server: NatsServer, batch: int) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        third = await stream.get_msg(4)
        assert await seqs(stream.get_last_msgs(["s.*"], max_messages=batch)) == [4, 5, 6]
        assert await seqs(stream.get_last_msgs(["s.2", "s.0"], max_messages=batch)) == [4, 6]
        assert await seqs(stream.get_last_msgs(["s.*"], up_to_seq=4, max_messages=batch)) == [
            2,
            3,
            4,
        ]
        assert third.timestamp is not None
        moment = third.timestamp - timedelta(days=1)
        with pytest.raises((MessageNotFoundError, StopAsyncIteration)):
            await anext(stream.get_last_msgs(["s.*"], up_to_time=moment, max_messages=batch))
        assert await seqs(stream.get_last_msgs(["t"], max_messages=batch)) == []


@pytest.mark.requires_server("2.11")
async def test_the_last_ones_are_of_one_moment(nats_server: NatsServer) -> None:
    """What is stored after the first batch does not come in a later one."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        paged = stream.get_last_msgs(["s.*"], max_messages=1)
        assert (await anext(paged)).seq == 4
        for number in range(3):
            await js.publish(f"s.{number}", b"new")
        assert await seqs(paged) == [5, 6]


@pytest.mark.requires_server("2.11")
@pytest.mark.slow
@pytest.mark.parametrize("count", [255, 256, 257, 512, 513])
async def test_the_last_ones_at_the_end_of_a_batch(nats_server: NatsServer, count: int) -> None:
    """Servers 2.11 count one too few in the status that ends a batch."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        async with js.publisher() as publisher:
            for number in range(count):
                await publisher.publish(f"s.{number}")
        wanted = list(range(1, count + 1))
        assert await seqs(stream.get_last_msgs(["s.*"])) == wanted
        assert await seqs(stream.get_last_msgs(["s.*"], max_messages=255)) == wanted
        assert await seqs(stream.get_msgs()) == wanted
        assert await seqs(stream.get_msgs(next_for="s.*", stop_after=256)) == wanted[:256]


EOB = "204 EOB\r\nNats-Num-Pending: {0}\r\nNats-UpTo-Sequence: 9"
REMOVED = "404 Message Not Found"


@pytest.mark.parametrize(
    ("answers", "expected", "requests"),
    [
        # The first batch breaks off: it is requested again, as of a later moment.
        ([([1], REMOVED), ([2, 3], EOB)], [2, 3], [(None, None)] * 2),
        ([([], REMOVED), ([1, 3], EOB)], [1, 3], [(None, None)] * 2),
        # A later one breaks off: it is continued.
        (
            [([1, 2], EOB), ([3], REMOVED), ([5, 6], EOB)],
            [1, 2, 3, 5, 6],
            [(None, None), (3, 9), (4, 9)],
        ),
        (
            [([1, 2], EOB), ([], REMOVED), ([5, 6], EOB)],
            [1, 2, 5, 6],
            [(None, None), (3, 9), (3, 9)],
        ),
        # There is nothing.
        ([([], "404 No Results")], [], [(None, None)]),
        (
            [([1, 2], EOB), ([], REMOVED), ([], "404 No Results")],
            [1, 2],
            [(None, None), (3, 9), (3, 9)],
        ),
    ],
)
async def test_the_last_ones_while_messages_are_removed(
    nats_server: NatsServer, answers, expected, requests
) -> None:
    """The server ends a batch early if a message goes after it was looked up."""
    asked = []
    async with connected(nats_server) as (_, nc), raw_connection(nats_server) as raw:
        info = StreamInfo(config=StreamConfig(name="S"))
        stream = construct(Stream, API(nc, prefix="fake", timeout=5), info)
        async with nc.subscribe("fake.>") as sub, trio.open_nursery() as nursery:

            async def answer() -> None:
                for at, (found, end) in enumerate(answers):
                    msg = await sub.receive()
                    request = msgspec.json.decode(msg.data)
                    asked.append((request.get("seq"), request.get("up_to_seq")))
                    more = int(at + 1 < len(answers))
                    blocks = [
                        f"NATS/1.0\r\nNats-Stream: S\r\nNats-Subject: s.{seq}\r\n"
                        f"Nats-Sequence: {seq}\r\nNats-Time-Stamp: 2030-01-01T00:00:00Z\r\n"
                        f"Nats-Num-Pending: {more}"
                        for seq in found
                    ]
                    blocks.append("NATS/1.0 " + end.format(more))
                    for block in blocks:
                        head = f"{block}\r\n\r\n".encode()
                        line = f"HPUB {msg.reply} {len(head)} {len(head)}\r\n"
                        await raw.send(line.encode() + head + b"\r\n")

            nursery.start_soon(answer)
            assert await seqs(stream.get_last_msgs(["s.*"], max_messages=2)) == expected
        assert asked == requests


async def test_the_last_ones_while_all_is_removed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (_, nc), raw_connection(nats_server) as raw:
        info = StreamInfo(config=StreamConfig(name="S"))
        stream = construct(Stream, API(nc, prefix="fake", timeout=5), info)
        async with nc.subscribe("fake.>") as sub, trio.open_nursery() as nursery:

            async def answer() -> None:
                head = f"NATS/1.0 {REMOVED}\r\n\r\n".encode()
                async for msg in sub:
                    line = f"HPUB {msg.reply} {len(head)} {len(head)}\r\n"
                    await raw.send(line.encode() + head + b"\r\n")

            nursery.start_soon(answer)
            with pytest.raises(JetStreamError, match="messages were removed during each of 100"):
                await anext(stream.get_last_msgs(["s.*"]))
            nursery.cancel_scope.cancel()


@pytest.mark.requires_server("2.11")
async def test_too_many_subjects(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], allow_direct=True, storage=MEMORY)
        async with js.publisher() as publisher:
            for number in range(1025):
                await publisher.publish(f"s.{number}")
        with pytest.raises(JetStreamAPIError, match="Too Many Results") as caught:
            await anext(stream.get_last_msgs([">"]))
        assert caught.value.code == 413


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"max_messages": 0}, ConfigurationError, "max_messages must be at least 1"),
        ({"max_messages": 1001}, ConfigurationError, "max_messages must be at most 1,000"),
        ({"stop_after": 0}, ConfigurationError, "stop_after must be"),
        ({"max_bytes": 0}, ConfigurationError, "max_bytes must be"),
        ({"seq": 1, "start_time": datetime.now(UTC)}, ConfigurationError, "seq or start_time"),
        ({"next_for": "a b"}, InvalidSubjectError, "next_for: "),
    ],
)
async def test_batches_that_cannot_be(nats_server: NatsServer, options, kind, text) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        with pytest.raises(kind, match=text):
            stream.get_msgs(**options)
        for subjects, expected in (([], ConfigurationError), ("s", TypeError)):
            with pytest.raises(expected, match="subjects must"):
                stream.get_last_msgs(subjects)


async def test_a_batch_that_is_interrupted(nats_server: NatsServer) -> None:
    """Nothing of it is handed out, and it can be asked for again."""
    good = {"Nats-Stream": "S", "Nats-Subject": "s", "Nats-Time-Stamp": "2030-01-01T00:00:00Z"}
    async with connected(nats_server) as (_, nc):
        stream = construct(
            Stream, API(nc, prefix="fake", timeout=0.05), StreamInfo(config=StreamConfig(name="S"))
        )
        async with nc.subscribe("fake.>") as sub:
            paged = stream.get_msgs(max_messages=2)
            async with trio.open_nursery() as nursery:

                async def answer() -> None:
                    msg = await sub.receive()
                    headers = {**good, "Nats-Sequence": "1", "Nats-Num-Pending": "5"}
                    await msg.respond(b"x", headers=headers)

                nursery.start_soon(answer)
                with pytest.raises(RequestTimeoutError, match="the next message of a batch"):
                    await anext(paged)


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "malformed answer"),
        ({"Nats-Sequence": "x"}, "malformed answer"),
        ({"Nats-Time-Stamp": "now"}, "malformed answer"),
        ({"Nats-Num-Pending": None}, r"must be 2\.11 or later for get_msgs\(\)"),
        ({"Nats-Num-Pending": "5"}, "sent more messages than requested"),
    ],
)
async def test_batches_of_nonsense(nats_server: NatsServer, headers, text) -> None:
    good = {
        "Nats-Stream": "S",
        "Nats-Subject": "s",
        "Nats-Sequence": "1",
        "Nats-Time-Stamp": "2030-01-01 00:00:00.123456789 +0000 UTC",
        "Nats-Num-Pending": "1",
    }
    all_headers = {k: v for k, v in (good | headers).items() if v is not None} if headers else {}
    async with connected(nats_server) as (_, nc):
        info = StreamInfo(config=StreamConfig(name="S"))
        stream = construct(Stream, API(nc, prefix="fake", timeout=5), info)
        async with nc.subscribe("fake.>") as sub, trio.open_nursery() as nursery:

            async def answer() -> None:
                msg = await sub.receive()
                for _ in range(4):
                    await msg.respond(b"x", headers=all_headers)

            nursery.start_soon(answer)
            with pytest.raises(JetStreamError, match=text):
                await anext(stream.get_msgs(max_messages=2))


async def test_a_batch_has_no_more_bytes_than_were_asked_for(nats_server: NatsServer) -> None:
    headers = {
        "Nats-Stream": "S",
        "Nats-Subject": "s",
        "Nats-Sequence": "1",
        "Nats-Time-Stamp": "2030-01-01T00:00:00Z",
        "Nats-Num-Pending": "1",
    }
    async with connected(nats_server) as (_, nc):
        info = StreamInfo(config=StreamConfig(name="S"))
        stream = construct(Stream, API(nc, prefix="fake", timeout=5), info)
        async with nc.subscribe("fake.>") as sub, trio.open_nursery() as nursery:
            asked: list[int] = []

            async def answer() -> None:
                async for msg in sub:
                    asked.append(msgspec.json.decode(msg.data)["max_bytes"])
                    for _ in range(100):
                        await msg.respond(bytes(20_000), headers=headers)

            nursery.start_soon(answer)
            with pytest.raises(JetStreamError, match="sent more messages than requested"):
                await anext(stream.get_msgs(max_messages=1000, max_bytes=50_000))
            with pytest.raises(JetStreamError, match="sent more messages than requested"):
                await anext(stream.get_last_msgs(["s"], max_messages=1000, max_bytes=50_000))
            nursery.cancel_scope.cancel()
        assert asked == [50_000, 50_000]


@pytest.mark.requires_server("2.11")
async def test_large_messages_come_in_batches_of_some_megabytes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        for _ in range(12):
            await js.publish("s.1", bytes(1_000_000))
        async with nc.subscribe("$JS.API.DIRECT.GET.S") as requests:
            assert await seqs(stream.get_msgs()) == list(range(1, 13))
            assert requests.pending[0] == 2


async def test_nonsense_from_the_leader(nats_server: NatsServer) -> None:
    answers = [
        {"message": {"subject": "s", "seq": 1, "data": "not base 64!"}},
        {"message": None},
        {"message": {"subject": "s", "seq": 1, "hdrs": "AAAA", "time": None}},
    ]
    async with connected(nats_server) as (_, nc):
        async with fake_api(nc, lambda msg: answers.pop(0)):
            api = API(nc, prefix="fake", timeout=5)
            stream = construct(Stream, api, StreamInfo(config=StreamConfig(name="S")))
            for _ in range(2):
                with pytest.raises(JetStreamError):
                    await stream.get_msg(1)
            msg = await stream.get_msg(1)
            assert (msg.headers.pairs(), msg.timestamp, msg.data) == ([], None, b"")
            assert msgspec.structs.asdict(msg)["seq"] == 1
