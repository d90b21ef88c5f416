"""What the server says while it is consumed from, and what it does not say."""

from __future__ import annotations

import re
from functools import partial

import pytest
import trio

from tests.jetstream.scripted_server import Puller, pulled_from
from tests.support.leaks import all_tasks
from trio_nats import ConfigurationError, PermissionsViolationError
from trio_nats.jetstream import (
    AckPolicy,
    ConsumerConfig,
    ConsumerDeletedError,
    Messages,
    PriorityPolicy,
    PullError,
)


async def receive_n(messages: Messages, count: int) -> list[int]:
    return [(await messages.receive()).metadata.stream_seq for _ in range(count)]


async def test_the_contents_of_a_pull_request() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        assert pull.request == {
            "batch": 500,
            "expires": 30 * 10**9,
            "idle_heartbeat": 15 * 10**9,
        }
        assert "not entered" in repr(consumer.consume())
        assert "open, 0 waiting" in repr(messages)


async def test_the_next_pull_is_sent_below_the_threshold() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc), consumer.consume(max_messages=4) as messages:
        pull = await puller.pull()
        await puller.deliver(pull, 4)
        assert await receive_n(messages, 2) == [1, 2]
        await nc.flush()
        assert puller.no_pull()  # two are left: not below the threshold
        assert await receive_n(messages, 1) == [3]
        assert (await puller.pull()).batch == 3


async def test_a_slow_receiver_only_delays_the_next_pull() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_messages=2) as slow,
        consumer.consume(max_messages=2, threshold=1) as quick,
    ):
        for_slow, for_quick = await puller.pull(), await puller.pull()
        await puller.deliver(for_slow, 2)
        for _ in range(5):
            await puller.deliver(for_quick, 2)
            await receive_n(quick, 2)
            for_quick = await puller.pull()
        await nc.flush()
        assert slow.waiting == 2
        assert nc.stats.dropped == 0


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("408 Request Timeout", 4),
        ("404 No Messages", None),
        ("409 Batch Completed", 4),
        ("408 Interest Expired", 4),
    ],
)
async def test_a_finished_pull_is_followed_by_another(line: str, left: int | None) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=5) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 2)
        pull = await puller.pull()
        await puller.deliver(pull)
        headers = {} if left is None else {"pending_messages": left, "pending_bytes": 0}
        await puller.say(pull, line, **headers)
        pull = await puller.pull()
        assert pull.batch == 5
        await puller.deliver(pull)


async def test_heartbeats_are_not_messages() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        await puller.say(pull, "100 Idle Heartbeat")
        await puller.deliver(pull)
        assert await receive_n(messages, 1) == [1]
        assert puller.no_pull()


async def test_silence_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=5, expires=1, heartbeat=0.01) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 2)
        first = await puller.pull()
        second = await puller.pull()
        assert second.batch == 5
        assert second.reply != first.reply
        # The old pull was not dead after all. Its end is not that of the new one.
        await puller.deliver(first)
        await puller.say(first, "408 Request Timeout", pending_messages=4, pending_bytes=0)
        third = await puller.pull()
        await puller.deliver(third)
    assert "no heartbeat for 0.0" in caplog.text


async def test_a_slow_receiver_does_not_count_as_silence() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_messages=5, expires=1, heartbeat=0.01) as messages,
    ):
        pull = await puller.pull()
        await puller.deliver(pull, 2)
        while messages.waiting < 2:
            await nc.flush()
        for _ in range(10):
            await trio.sleep(0.01)  # it looks at what there is several times
        assert puller.no_pull()
        assert await receive_n(messages, 2) == [1, 2]


@pytest.mark.parametrize("line", ["409 Leadership Change", "409 Server Shutdown"])
async def test_another_leader_is_asked(line: str) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=5) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 2)
        pull = await puller.pull()
        await puller.deliver(pull)
        await puller.say(pull, line)
        pull = await puller.pull()
        assert pull.batch == 5
        await puller.deliver(pull)


@pytest.mark.parametrize(
    "line",
    [
        "409 Exceeded MaxWaiting",
        "409 Exceeded MaxRequestBatch of 3",
        "409 Exceeded MaxAckPending",
        "503",
        "599 What is that",
    ],
)
async def test_a_rejected_pull_is_retried_later(
    line: str, caplog: pytest.LogCaptureFixture
) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=5) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 1)
        await puller.say(await puller.pull(), line)
        pull = await puller.pull()
        assert pull.batch == 5
        await puller.deliver(pull)
    assert f"{line}" in caplog.text
    assert "requesting again in 0.25 s" in caplog.text


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("409 Consumer Deleted", ConsumerDeletedError),
        ("409 Consumer is push based", PullError),
        ("400 Bad Request", PullError),
    ],
)
async def test_errors_that_end_the_channel(line: str, kind: type[PullError]) -> None:
    puller = Puller()
    ended = []
    tasks = all_tasks()

    async def wait(messages: Messages) -> None:
        with pytest.raises(kind, match=line[4:]) as caught:
            await messages.receive()
        ended.append(caught.value)

    async with pulled_from(puller) as (consumer, nc):
        async with consumer.consume() as messages, trio.open_nursery() as nursery:
            pull = await puller.pull()
            await puller.deliver(pull)
            assert await receive_n(messages, 1) == [1]
            for _ in range(3):
                nursery.start_soon(wait, messages)
            await puller.say(pull, line)
        assert len({id(error) for error in ended}) == 3
        assert ended[0].code == int(line[:3])
        assert ended[0].consumer == "C"
        with pytest.raises(kind):
            await messages.receive()
        await nc.flush()
        assert not puller.is_subscribed(pull)
    assert all_tasks() == tasks


async def test_a_consumer_that_does_not_answer_is_looked_up() -> None:
    gone = {"error": {"code": 404, "err_code": 10014, "description": "consumer not found"}}
    puller = Puller(api={"CONSUMER.INFO.S.C": gone})
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume() as messages,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def wait() -> None:
            with pytest.raises(ConsumerDeletedError, match=r"consumer .* not found"):
                await messages.receive()

        await puller.say(await puller.pull(), "503")


async def test_publishing_pulls_is_forbidden() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        await pull.peer.send(
            b"-ERR 'Permissions Violation for Publish to \"$JS.API.CONSUMER.MSG.NEXT.S.C\"'\r\n"
        )
        with pytest.raises(PermissionsViolationError):
            await messages.receive()


async def test_bytes() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_bytes=1000) as messages,
        trio.open_nursery() as nursery,
    ):
        pull = await puller.pull()
        assert pull.request["max_bytes"] == 1000
        assert pull.batch == 1_000_000
        await puller.deliver(pull, size=600)
        await puller.say(
            pull,
            "409 Message Size Exceeds MaxBytes",
            pending_messages=999_999,
            pending_bytes=358,
        )
        assert await receive_n(messages, 1) == [1]
        nursery.start_soon(receive_n, messages, 1)
        again = await puller.pull()
        assert again.request["max_bytes"] == 642
        await puller.deliver(again)
        await nc.flush()


async def test_a_message_that_never_fits_is_not_pulled_forever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_bytes=1000) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 1)
        pull = await puller.pull()
        too_large = {"pending_messages": 1_000_000, "pending_bytes": 1000}
        await puller.say(pull, "409 Message Size Exceeds MaxBytes", **too_large)
        pull = await puller.pull()
        await puller.deliver(pull)
    assert "requesting again in 0.25 s" in caplog.text


@pytest.mark.slow
async def test_a_message_larger_than_any_request_is_an_error() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_bytes=1000) as messages,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def wait() -> None:
            text = r"larger than max_bytes of 1,000 bytes; .* payloads of up to 1,048,576 bytes"
            with pytest.raises(PullError, match=text):
                await messages.receive()

        for _ in range(4):
            too_large = {"pending_messages": 1_000_000, "pending_bytes": 1000}
            await puller.say(await puller.pull(), "409 Message Size Exceeds MaxBytes", **too_large)


@pytest.mark.slow
async def test_other_refusals_do_not_count_as_a_message_that_is_too_large() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_bytes=1000) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 1)
        for _ in range(3):
            await puller.say(await puller.pull(), "503")
        too_large = {"pending_messages": 1_000_000, "pending_bytes": 1000}
        await puller.say(await puller.pull(), "409 Message Size Exceeds MaxBytes", **too_large)
        await puller.deliver(await puller.pull())


@pytest.mark.slow
async def test_delays_begin_anew_after_messages(caplog: pytest.LogCaptureFixture) -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=1) as messages,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive_n, messages, 2)
        for _ in range(2):
            await puller.say(await puller.pull(), "503")
        await puller.deliver(await puller.pull())
        await puller.say(await puller.pull(), "503")
        await puller.deliver(await puller.pull())
    waits = re.findall("requesting again in (.*) s", caplog.text)
    assert waits == ["0.25", "0.5", "0.25"]


async def test_no_more_than_the_requested_number_are_received() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc):
        async with consumer.consume(stop_after=2) as messages:
            pull = await puller.pull()
            assert pull.batch == 2
            await puller.deliver(pull, 4)
            assert [msg.metadata.stream_seq async for msg in messages] == [1, 2]
            with pytest.raises(trio.EndOfChannel):
                await messages.receive()
            await messages.drain()
        await nc.flush()
        # What came beyond that goes back.
        assert [data for _, data in puller.answers] == [b"-NAK", b"-NAK"]


async def test_many_receivers_and_few_messages() -> None:
    puller = Puller()
    ended = []

    async def worker(messages: Messages) -> None:
        async for _ in messages:
            await trio.lowlevel.checkpoint()
        ended.append(1)

    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(stop_after=2) as messages,
        trio.open_nursery() as nursery,
    ):
        for _ in range(5):
            nursery.start_soon(worker, messages)
        await puller.deliver(await puller.pull(), 2)
    assert len(ended) == 5


async def test_leaving_early_returns_unreceived_messages() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, nc):
        async with consumer.consume(max_messages=5) as messages:
            pull = await puller.pull()
            await puller.deliver(pull, 5)
            await receive_n(messages, 2)
            while messages.waiting < 3:
                await nc.flush()
        await nc.flush()
        assert [(subject.split(".")[5], data) for subject, data in puller.answers] == [
            ("3", b"-NAK"),
            ("4", b"-NAK"),
            ("5", b"-NAK"),
        ]
        assert not puller.is_subscribed(pull)
        assert "closed" in repr(messages)


async def test_messages_without_acks_are_kept_for_the_next_call() -> None:
    puller = Puller()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    async with pulled_from(puller, config) as (consumer, nc):
        async with consumer.consume(max_messages=5) as messages:
            await puller.deliver(await puller.pull(), 5)
            await receive_n(messages, 1)
            while messages.waiting < 4:
                await nc.flush()
        await nc.flush()
        assert puller.answers == []
        assert (await consumer.next()).metadata.stream_seq == 2
        async with consumer.consume(stop_after=2) as messages:
            assert [msg.metadata.stream_seq async for msg in messages] == [3, 4]
        assert [msg.metadata.stream_seq for msg in await consumer.fetch(1)] == [5]


async def test_stopping_lets_what_has_come_be_received() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(max_messages=5) as messages,
        trio.open_nursery() as nursery,
    ):
        pull = await puller.pull()
        await puller.deliver(pull, 5)
        assert await receive_n(messages, 1) == [1]
        await messages.drain()
        await messages.drain()
        assert [msg.metadata.stream_seq async for msg in messages] == [2, 3, 4, 5]
        assert puller.no_pull()
        nursery.cancel_scope.cancel()


async def test_a_new_connection_asks_again() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_messages=5) as messages,
    ):
        pull = await puller.pull()
        await puller.deliver(pull, 2)
        assert await receive_n(messages, 1) == [1]
        while messages.waiting < 1:
            await nc.flush()
        pull.peer.abort()
        again = await puller.pull()
        assert again.batch == 4  # for one waits
        await puller.deliver(again)
        assert await receive_n(messages, 2) == [2, 3]


async def test_nothing_is_asked_without_a_connection() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_messages=2, expires=1, heartbeat=0.01) as messages,
    ):
        pull = await puller.pull()
        await puller.deliver(pull, 2)
        while messages.waiting < 2:
            await nc.flush()
        pull.peer.abort()
        await nc.wait_for_state("reconnecting")
        assert len(await receive_n(messages, 2)) == 2
        again = await puller.pull()
        assert again.batch == 2
        assert puller.no_pull()


async def test_replies_that_are_not_messages_are_skipped() -> None:
    puller = Puller()
    async with pulled_from(puller) as (consumer, _), consumer.consume() as messages:
        pull = await puller.pull()
        sid = next(iter(puller.subscriptions))
        await pull.peer.send(b"MSG %b %b 5\r\nhello\r\n" % (pull.reply.encode(), sid))
        await puller.deliver(pull)
        assert await receive_n(messages, 1) == [1]


# --- priority groups -----------------------------------------------------------------------------

GROUPS = ConsumerConfig(priority_groups=("jobs",), priority_policy=PriorityPolicy.PINNED_CLIENT)


async def test_an_unknown_priority_group() -> None:
    async with pulled_from(Puller(), GROUPS) as (consumer, _):
        with pytest.raises(ConfigurationError, match="group must be given, one of 'jobs'"):
            consumer.consume()
        with pytest.raises(ConfigurationError, match="no priority group 'x'; it has 'jobs'"):
            await consumer.next(group="x")
    async with pulled_from(Puller(), ConsumerConfig()) as (consumer, _):
        with pytest.raises(ConfigurationError, match="need group as well"):
            consumer.consume(min_pending=5)
        with pytest.raises(ConfigurationError, match="no priority group 'jobs' at all"):
            await consumer.fetch(group="jobs")


async def test_the_options_are_sent_with_each_pull() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, _),
        consumer.consume(
            group="jobs", min_pending=5, min_ack_pending=6, priority=7, max_messages=1
        ) as messages,
    ):
        pull = await puller.pull()
        terms = {"group": "jobs", "min_pending": 5, "min_ack_pending": 6, "priority": 7}
        assert pull.request.items() >= terms.items()
        await puller.deliver(pull)
        await receive_n(messages, 1)
        assert (await puller.pull()).request.items() >= terms.items()


async def test_the_pin_is_sent_until_it_is_lost() -> None:
    puller = Puller()
    async with (
        pulled_from(puller, GROUPS) as (consumer, _),
        consumer.consume(group="jobs", max_messages=1) as messages,
        trio.open_nursery() as nursery,
    ):
        pull = await puller.pull()
        assert "id" not in pull.request
        block = b"NATS/1.0\r\nNats-Pin-Id: abc\r\n\r\n"
        await pull.peer.send(
            b"HMSG s.1 %b $JS.ACK.S.C.1.1.1.1.0 %d %d\r\n%b\r\n"
            % (next(iter(puller.subscriptions)), len(block), len(block), block)
        )
        await messages.receive()
        pull = await puller.pull()
        assert pull.request["id"] == "abc"
        nursery.start_soon(partial(receive_n, messages, 1))
        await puller.say(pull, "423 Nats-Wrong-Pin-Id", pending_messages=1, pending_bytes=0)
        pull = await puller.pull()
        assert "id" not in pull.request
        await puller.deliver(pull)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_messages": 0}, "max_messages must be at least 1"),
        ({"max_messages": 5, "max_bytes": 5}, "not both"),
        ({"max_bytes": True}, "max_bytes must be a whole number"),
        ({"max_messages": 5, "threshold": 6}, "threshold must be at most 5"),
        ({"stop_after": 0}, "stop_after must be at least 1"),
        ({"expires": 0.5}, "expires must be at least 1 s"),
        ({"expires": float("inf")}, "at most 292 years"),
        ({"heartbeat": 20}, "at most half of the 30 s"),
        ({"heartbeat": -1}, "heartbeat must be more than zero"),
        ({"group": ""}, "group must not be empty"),
        ({"group": "g", "priority": 10}, "between 0 and 9"),
        ({"group": "g", "min_pending": 0}, "min_pending must be at least 1"),
    ],
)
async def test_invalid_consume_options(options: dict[str, object], match: str) -> None:
    async with pulled_from(Puller()) as (consumer, _):
        kind = TypeError if options.get("max_bytes") is True else ConfigurationError
        with pytest.raises(kind, match=match):
            consumer.consume(**options)


async def test_limits_of_the_consumer_are_kept() -> None:
    puller = Puller()
    config = ConsumerConfig(max_batch=2, max_expires=4.0, max_bytes=100)
    async with pulled_from(puller, config) as (consumer, _):
        async with consumer.consume(max_messages=5):
            pull = await puller.pull()
            assert (pull.batch, pull.request["expires"]) == (2, 4 * 10**9)
            assert (await puller.pull()).batch == 2
        async with consumer.consume(max_bytes=1000):
            pull = await puller.pull()
            assert (pull.batch, pull.request["max_bytes"]) == (2, 100)
        with pytest.raises(ConfigurationError, match="max_expires of 4 s"):
            consumer.consume(expires=5)


async def test_it_must_be_entered_exactly_once() -> None:
    async with pulled_from(Puller()) as (consumer, _):
        messages = consumer.consume()
        for use in (messages.receive, messages.aclose, messages.drain):
            with pytest.raises(RuntimeError, match="has not been entered"):
                await use()
        async with messages:
            pass
        with pytest.raises(RuntimeError, match="only once"):
            await messages.__aenter__()
        await messages.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await messages.receive()


async def test_the_bodys_exception_leaves_as_itself() -> None:
    async with pulled_from(Puller()) as (consumer, _):
        with pytest.raises(KeyError):
            async with consumer.consume():
                raise KeyError
        with trio.CancelScope() as scope:
            async with consumer.consume() as messages:
                scope.cancel()
                await messages.receive()
        assert scope.cancelled_caught


async def test_a_server_that_never_stops_sending_is_given_up() -> None:
    puller = Puller()
    async with (
        pulled_from(puller) as (consumer, nc),
        consumer.consume(max_messages=5) as messages,
    ):
        pull = await puller.pull()
        for _ in range(30):
            await puller.deliver(pull, 100)
        await nc.flush()
        assert messages.waiting == 1010
        assert nc.stats.dropped == 1990
