"""An ordered consumer: every message once and in order, whatever is lost on the way."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected, filled
from tests.jetstream.scripted_server import QUICK, Pulled, Puller
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks
from tests.support.peer import Peer, ScriptedServer
from trio_nats import ConfigurationError, ReconnectPolicy, RequestTimeoutError, open_nats
from trio_nats.events import ConnectionState
from trio_nats.jetstream import (
    AckError,
    DeliverPolicy,
    Messages,
    OrderedConsumer,
    StreamNotFoundError,
)
from trio_nats.jetstream.api import API
from trio_nats.jetstream.stream import StreamConsumers
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


# A server says nothing of a pull that reaches a consumer which is about to be deleted.
QUIET: dict[str, Any] = {"expires": 1, "heartbeat": 0.05}


async def numbers(messages: Messages, count: int) -> list[int]:
    return [int((await messages.receive()).data) for _ in range(count)]


async def test_an_ordered_consumer_from_beginning_to_end(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 20)
        ordered = stream.ordered_consumer()
        assert (ordered.name, ordered.next_seq, ordered.stream_name) == (None, None, "S")
        assert ordered.info is None
        assert int((await ordered.next()).data) == 0
        assert ordered.info is not None
        assert ordered.info.num_pending == 20
        assert ordered.next_seq == 2
        assert [int(msg.data) for msg in await ordered.fetch(4)] == [1, 2, 3, 4]
        name = ordered.name
        assert [int(msg.data) for msg in await ordered.fetch(2)] == [5, 6]
        assert ordered.name == name  # one for all of them
        async with ordered.consume(max_messages=4) as messages:
            assert await numbers(messages, 5) == [7, 8, 9, 10, 11]
            with pytest.raises(AckError):
                await (await messages.receive()).ack()
        assert int((await ordered.next()).data) == 13
        async with ordered.consume(stop_after=4) as messages:
            assert [int(msg.data) async for msg in messages] == [14, 15, 16, 17]
        assert len(await ordered.fetch(5, no_wait=True)) == 2
        assert await ordered.fetch(5, no_wait=True) == []
        with pytest.raises(RequestTimeoutError, match="no further message within"):
            await ordered.next(timeout=0.02)
        assert "OrderedConsumer" in repr(ordered)
        await nc.flush()
        names = [name async for name in stream.consumer_names()]
        assert len(names) <= 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"filter_subjects": ["s.1"]}, [1, 4]),
        ({"filter_subjects": ["s.1", "s.2"]}, [1, 2, 4, 5]),
        ({"deliver_policy": DeliverPolicy.LAST}, [5]),
        ({"deliver_policy": DeliverPolicy.LAST_PER_SUBJECT}, [3, 4, 5]),
        (
            {"deliver_policy": DeliverPolicy.LAST_PER_SUBJECT, "filter_subjects": ["s.*"]},
            [3, 4, 5],
        ),
        ({"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": 4}, [3, 4, 5]),
        ({"deliver_policy": DeliverPolicy.NEW}, []),
    ],
)
async def test_the_start_of_an_ordered_consumer(
    nats_server: NatsServer, options: dict[str, Any], expected: list[int]
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        ordered = stream.ordered_consumer(name_prefix="reader", **options)
        found = await ordered.fetch(10, no_wait=True)
        assert [int(msg.data) for msg in found] == expected
        assert ordered.name is None or ordered.name.startswith("reader_")


async def test_by_time_and_with_headers_only(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        ordered = stream.ordered_consumer(
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=datetime.now(UTC) - timedelta(hours=1),
            headers_only=True,
            metadata={"who": "me"},
        )
        msg = await ordered.next()
        assert (msg.data, msg.headers["Nats-Msg-Size"]) == (b"", "1")


async def test_nothing_new_is_missed_even_before_the_first_message(
    nats_server: NatsServer,
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        ordered = stream.ordered_consumer(deliver_policy=DeliverPolicy.NEW)
        async with ordered.consume(**QUIET) as messages:
            assert ordered.name is not None
            gone = ordered.name
            await stream.delete_consumer(gone)
            await js.publish("s.1", "6")
            assert await numbers(messages, 1) == [6]
            assert ordered.name != gone


async def test_a_consumer_that_is_deleted_repeatedly(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 30)
        ordered = stream.ordered_consumer()
        found: list[int] = []
        async with ordered.consume(max_messages=4, **QUIET) as messages:
            while len(found) < 30:
                found += await numbers(messages, 1)
                if len(found) % 10 == 0:
                    assert ordered.name is not None
                    await stream.delete_consumer(ordered.name)
        assert found == list(range(30))
        for number in range(30, 32):
            await js.publish("s.0", str(number))
            msg = await ordered.next()
            assert int(msg.data) == number
            assert ordered.name is not None
            await stream.delete_consumer(ordered.name)


async def test_the_first_consumer_is_deleted_before_a_message_arrives(
    nats_server: NatsServer,
) -> None:
    """In a cluster, the first pull request may also come before the consumer is known."""
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 2)
        ordered = stream.ordered_consumer(
            filter_subjects=["s.2"], deliver_policy=DeliverPolicy.LAST_PER_SUBJECT
        )
        async with ordered.consume(**QUIET) as messages:
            assert ordered.name is not None
            await stream.delete_consumer(ordered.name)
            for number in range(2, 5):
                await js.publish("s.2", str(number))
            assert await numbers(messages, 3) == [2, 3, 4]


async def test_receiving_continues_after_a_restart() -> None:
    async with (
        NatsServer(jetstream=True) as server,
        connected(server, reconnect=QUICK) as (js, nc),
    ):
        stream = await js.create_stream("S", subjects=["s"])
        for number in range(10):
            await js.publish("s", str(number))
        ordered = stream.ordered_consumer()
        async with ordered.consume(max_messages=4) as messages:
            assert await numbers(messages, 3) == [0, 1, 2]
            await server.restart()
            assert await numbers(messages, 3) == [3, 4, 5]
            await nc.reconnect()
            assert await numbers(messages, 3) == [6, 7, 8]
        await server.restart()
        await nc.flush()
        assert int((await ordered.next()).data) == 9


async def test_the_stream_is_gone(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 1)
        ordered = stream.ordered_consumer()
        async with ordered.consume() as messages:
            await numbers(messages, 1)
            await js.delete_stream("S")
            with pytest.raises(StreamNotFoundError):
                await messages.receive()
        with pytest.raises(StreamNotFoundError):
            await ordered.next()
        with pytest.raises(StreamNotFoundError):
            await ordered.consume().__aenter__()


async def test_stopping(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 6)
        ordered = stream.ordered_consumer()
        async with ordered.consume(max_messages=6) as messages:
            assert await numbers(messages, 1) == [0]
            while messages.waiting < 5:
                await nc.flush()
            await messages.drain()
            assert [int(msg.data) async for msg in messages] == [1, 2, 3, 4, 5]


async def test_one_task_at_a_time(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        ordered = stream.ordered_consumer()
        async with ordered.consume() as messages, trio.open_nursery() as nursery:
            nursery.start_soon(messages.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await messages.receive()
            for use in (ordered.next, ordered.fetch, ordered.consume().__aenter__):
                with pytest.raises(trio.BusyResourceError):
                    await use()
            nursery.cancel_scope.cancel()
        await js.publish("s.0", "0")
        assert int((await ordered.next()).data) == 0


async def test_a_cancelled_receive_skips_and_repeats_nothing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await js.create_stream("S", subjects=["s"], storage=MEMORY)
        for number in range(500):
            await nc.publish("s", str(number))
        ordered = stream.ordered_consumer()
        found: list[int] = []

        async def fetching() -> Operation:
            async def operation() -> None:
                found.extend([int(msg.data) for msg in await ordered.fetch(3)])

            return operation

        async def consuming() -> Operation:
            async def operation() -> None:
                async with ordered.consume(max_messages=3) as messages:
                    for _ in range(3):
                        found.extend(await numbers(messages, 1))

            return operation

        before = all_tasks()

        async def check() -> None:
            assert found == list(range(len(found)))
            assert all_tasks() == before
            assert nc.stats.subscriptions <= 1

        await cancel_at_each_checkpoint(fetching, check)
        await cancel_at_each_checkpoint(consuming, check)
        assert len(found) > 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"filter_subjects": ["a..b"]}, "filter_subjects: "),
        ({"opt_start_seq": 5}, "opt_start_seq"),
        ({"deliver_policy": DeliverPolicy.BY_START_TIME}, "opt_start_time"),
        ({"name_prefix": "a.b"}, "consumer name"),
        ({"inactive_threshold": -1.0}, "inactive_threshold"),
        ({"metadata": {"": "x"}}, "metadata"),
    ],
)
async def test_invalid_ordered_consumer_options(
    nats_server: NatsServer, options: dict[str, Any], match: str
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 0)
        with pytest.raises(ValueError, match=match):
            await stream.ordered_consumer(**options).next()
        with pytest.raises(ConfigurationError):
            await stream.ordered_consumer().fetch(0)
        with pytest.raises(ConfigurationError):
            stream.ordered_consumer().consume(max_messages=0)


# --- what is lost on the way ---------------------------------------------------------------------


class Keeper(Puller):
    """A stream of endless messages, and consumers as they are created."""

    def __init__(self) -> None:
        super().__init__(api={"CONSUMER.CREATE.S.": self.create})
        self.created: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []

    def create(self, subject: str, data: bytes) -> dict[str, Any]:
        if self.failures:
            return {"error": self.failures.pop()}
        config = msgspec.json.decode(data)["config"]
        self.created.append(config)
        self.consumer = config["name"]
        self.consumer_sequence = 0
        self.sequence = config.get("opt_start_seq", 1) - 1
        return {
            "stream_name": "S",
            "name": self.consumer,
            "config": config,
            "delivered": {"consumer_seq": 0, "stream_seq": self.sequence},
        }


async def sequences(messages: Messages, count: int) -> list[int]:
    return [(await messages.receive()).metadata.stream_seq for _ in range(count)]


class Reader:
    """What an ordered consumer brings, in the background."""

    def __init__(self, nursery: trio.Nursery, ordered: OrderedConsumer, **options: Any) -> None:
        self.found: list[int] = []
        nursery.start_soon(self._run, ordered, options)

    async def _run(self, ordered: OrderedConsumer, options: dict[str, Any]) -> None:
        async with ordered.consume(**options) as messages:
            async for msg in messages:
                self.found.append(msg.metadata.stream_seq)


async def lossy(keeper: Keeper, lose: Any, **options: Any) -> list[int]:
    """Three messages, then ``lose``, then three more of the next consumer."""
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(keeper) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", reconnect=QUICK) as nc,
            trio.open_nursery() as nursery,
        ):
            ordered = StreamConsumers(API(nc), "S").ordered_consumer(name_prefix="p")
            reader = Reader(nursery, ordered, stop_after=6, **options)
            pull = await keeper.pull()
            assert pull.batch == 6
            await keeper.deliver(pull, 3)
            while len(reader.found) < 3:
                await nc.flush()
            await lose(pull)
            pull = await keeper.pull()
            while not pull.reply or keeper.consumer.endswith("_1"):
                pull = await keeper.pull()
            assert pull.batch == 3
            await keeper.deliver(pull, 3)
        return reader.found


def check_recreated(keeper: Keeper) -> None:
    first, second = (config["name"] for config in keeper.created)
    assert re.fullmatch("p_[0-9a-f]{12}_1", first)
    assert second == first[:-1] + "2"
    assert keeper.created[0] == {
        "name": first,
        "deliver_policy": "all",
        "ack_policy": "none",
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 300 * 10**9,
    }
    assert keeper.created[1]["deliver_policy"] == "by_start_sequence"
    assert keeper.created[1]["opt_start_seq"] == 4


async def test_a_message_is_lost() -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        await keeper.deliver(pull, 2, skip=1)

    assert await lossy(keeper, lose) == [1, 2, 3, 4, 5, 6]
    check_recreated(keeper)
    deleted = [subject for subject, _ in keeper.answers if "DELETE" in subject]
    assert deleted[0] == f"$JS.API.CONSUMER.DELETE.S.{keeper.created[0]['name']}"


async def test_a_batch_ends_before_a_message_that_is_lost() -> None:
    keeper = Keeper()
    came: list[list[int]] = []

    async def receive(messages: Messages) -> None:
        for _ in range(2):
            batch = await messages.receive_batch()
            came.append([msg.metadata.stream_seq for msg in batch])

    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(keeper) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", reconnect=QUICK) as nc,
            StreamConsumers(API(nc), "S").ordered_consumer().consume() as messages,
        ):
            pull = await keeper.pull()
            await keeper.deliver(pull, 3)
            await keeper.deliver(pull, 2, skip=1)
            while messages.waiting < 5:
                await nc.flush()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, messages)
                await keeper.deliver(await keeper.pull(), 2)
    assert came[0] == [1, 2, 3]
    assert came[1][0] == 4


async def test_the_last_message_is_lost_and_a_heartbeat_tells() -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        await keeper.say(pull, "100 Idle Heartbeat", last_consumer=3, last_stream=3)
        await keeper.say(pull, "100 Idle Heartbeat", last_consumer=4, last_stream=4)

    assert await lossy(keeper, lose) == [1, 2, 3, 4, 5, 6]
    check_recreated(keeper)


async def test_the_consumer_is_created_again_after_silence() -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        pass

    found = await lossy(keeper, lose, expires=1, heartbeat=0.1)
    assert found == [1, 2, 3, 4, 5, 6]
    assert keeper.created[1]["opt_start_seq"] == 4


@pytest.mark.parametrize("line", ["409 Consumer Deleted", "409 Leadership Change", "503"])
async def test_the_consumer_is_gone(line: str) -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        await keeper.say(pull, line)

    assert await lossy(keeper, lose) == [1, 2, 3, 4, 5, 6]
    check_recreated(keeper)


async def test_the_connection_is_lost() -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        pull.peer.abort()

    assert await lossy(keeper, lose) == [1, 2, 3, 4, 5, 6]
    check_recreated(keeper)


async def test_there_is_no_leader_for_a_while() -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        unavailable = {"code": 503, "err_code": 10008, "description": "temporarily unavailable"}
        keeper.failures = [unavailable]
        await keeper.say(pull, "409 Consumer Deleted")

    assert await lossy(keeper, lose) == [1, 2, 3, 4, 5, 6]


async def test_a_late_message_of_another_consumer_is_left_out() -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        sid = keeper.sid_of(pull.reply)
        keeper.consumer = "other"
        keeper.sequence, keeper.consumer_sequence = 14, 4
        await pull.peer.send(keeper.frame(sid, b"x"))
        keeper.consumer = "p_1"
        keeper.sequence, keeper.consumer_sequence = 3, 3
        await keeper.deliver(pull, 2, skip=1)

    assert await lossy(keeper, lose, **QUIET) == [1, 2, 3, 4, 5, 6]
    check_recreated(keeper)


async def test_a_message_is_lost_while_fetching() -> None:
    keeper = Keeper()
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(keeper) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", reconnect=QUICK) as nc,
            trio.open_nursery() as nursery,
        ):
            ordered = StreamConsumers(API(nc), "S").ordered_consumer(name_prefix="p")
            found: list[int] = []

            @nursery.start_soon
            async def read() -> None:
                while len(found) < 4:
                    came = await ordered.fetch(2)
                    found.extend([msg.metadata.stream_seq for msg in came])

            pull = await keeper.pull()
            await keeper.deliver(pull)
            await keeper.deliver(pull, skip=1)  # the second of two is lost, the third comes
            for _ in range(2):
                await keeper.deliver(await keeper.pull(), 2)
        assert found[:4] == [1, 2, 3, 4]
        assert found == sorted(set(found))


async def test_consumers_that_vanish_at_once_are_not_created_forever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    keeper = Keeper()

    async def lose(pull: Pulled) -> None:
        await keeper.say(pull, "503")
        for _ in range(2):
            await keeper.say(await keeper.pull(), "503")

    assert await lossy(keeper, lose) == [1, 2, 3, 4, 5, 6]
    assert len(keeper.created) == 4
    assert caplog.text.count("trying again in 0.25 s") == 1


async def test_closing_while_a_consumer_is_created() -> None:
    keeper = Keeper()
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(keeper) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", reconnect=QUICK) as nc,
        ):
            ordered = StreamConsumers(API(nc), "S").ordered_consumer(name_prefix="p")
            async with ordered.consume() as messages, trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await messages.receive()

                pull = await keeper.pull()
                await keeper.say(pull, "409 Consumer Deleted")
                while len(keeper.created) < 2:
                    await trio.lowlevel.checkpoint()
                await messages.aclose()
            await nc.flush()
            assert ordered.name is None
            assert nc.stats.subscriptions == 0


class Holding(Keeper):
    """Answers a request to create a consumer later, if the test wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.api["CONSUMER.DELETE.S."] = {"success": True}
        self.hold = False
        self.held: list[Callable[[], Awaitable[None]]] = []

    async def _published(self, peer: Peer, subject: str, reply: str, data: bytes) -> None:
        if self.hold and "CONSUMER.CREATE" in subject:
            self.hold = False
            self.held.append(partial(super()._published, peer, subject, reply, data))
        else:
            await super()._published(peer, subject, reply, data)


async def test_a_channel_closed_while_it_creates_a_consumer_leaves_the_next_alone() -> None:
    keeper = Holding()
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(keeper) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", reconnect=QUICK) as nc,
        ):
            ordered = StreamConsumers(API(nc), "S").ordered_consumer(name_prefix="p")
            async with ordered.consume() as messages, trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await messages.receive()

                pull = await keeper.pull()
                keeper.hold = True
                await keeper.say(pull, "409 Consumer Deleted")
                while not keeper.held:
                    await trio.lowlevel.checkpoint()
                await messages.aclose()
            async with ordered.consume() as messages:
                pull = await keeper.pull()
                present = keeper.consumer
                await keeper.held[0]()
                await nc.flush()
                keeper.consumer, keeper.sequence = present, 0
                await keeper.deliver(pull)
                assert (await messages.receive()).metadata.stream_seq == 1
                deleted = [subject for subject, _ in keeper.answers if "DELETE" in subject]
                assert f"$JS.API.CONSUMER.DELETE.S.{present}" not in deleted


async def test_no_consumer_is_created_once_its_creation_was_cancelled() -> None:
    """Not even if there was no connection, and there is one later."""
    keeper = Keeper()
    away = ReconnectPolicy(wait=HANG_TIMEOUT, max_wait=HANG_TIMEOUT)
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            ScriptedServer(keeper) as server,
            open_nats(f"nats://127.0.0.1:{server.port}", reconnect=away) as nc,
        ):
            ordered = StreamConsumers(API(nc), "S").ordered_consumer(name_prefix="p")
            keeper.peers[0].abort()
            while nc.state is not ConnectionState.RECONNECTING:
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ordered.next)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert nc.stats.outbox_bytes == 0
