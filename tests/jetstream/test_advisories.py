"""Advisories of streams and consumers, from real servers and forged."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.jetstream.helpers import MEMORY, connected, filled, retried_placement
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks
from trio_nats import (
    ConfigurationError,
    EventChannel,
    InvalidSubjectError,
    PermissionsViolationError,
    UserPassword,
    open_nats,
)
from trio_nats.jetstream import (
    JetStreamError,
    JetStreamNotEnabledError,
    PriorityPolicy,
    StorageType,
    advisories,
)
from trio_nats.jetstream.advisories import (
    Advisory,
    AdvisoryAction,
    ConsumerActionAdvisory,
    ConsumerAdvisory,
    ConsumerGroupPinnedAdvisory,
    ConsumerGroupUnpinnedAdvisory,
    ConsumerLeaderElectedAdvisory,
    ConsumerPauseAdvisory,
    MaxDeliverAdvisory,
    NakAdvisory,
    SnapshotCompleteAdvisory,
    SnapshotCreateAdvisory,
    StreamActionAdvisory,
    StreamBatchAbandonedAdvisory,
    StreamLeaderElectedAdvisory,
    TerminatedAdvisory,
    UnknownAdvisory,
    decode_advisory,
)
from trio_nats.testing import NatsCluster, NatsServer
from trio_nats.testing._ports import free_port

pytestmark = pytest.mark.nats_server(jetstream=True)

KINDS = [
    kind
    for name in advisories.__all__
    if isinstance(kind := getattr(advisories, name), type)
    and issubclass(kind, Advisory)
    and kind.TYPE
]


async def until(channel: EventChannel[Advisory], kind: type[Advisory]) -> Any:
    """Return the next advisory of a kind."""
    async for advisory in channel:
        if isinstance(advisory, kind):
            return advisory
    raise AssertionError("it has ended")


# --- from real servers ---------------------------------------------------------------------------


@pytest.mark.requires_server("2.11")  # pauses consumers
async def test_the_life_of_a_stream_and_its_consumer(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 1)
        began = datetime.now(UTC) - timedelta(seconds=1)
        async with stream.advisories() as channel:
            consumer = await stream.create_consumer("c", durable_name="c", max_deliver=2)
            for _ in range(2):
                await (await consumer.next()).nak()
            await js.publish("s.1", "1")
            await (await consumer.next()).term(reason="not today")
            until_when = datetime.now(UTC) + timedelta(hours=1)
            await consumer.pause(until_when)
            await consumer.resume()
            await js.update_stream(stream.info.config, max_msgs=100)
            await js.create_stream("OTHER", subjects=["other"], storage=MEMORY)
            await consumer.delete()
            await js.delete_stream("S")
            came: list[Advisory] = []
            async for advisory in channel:
                came.append(advisory)
                if isinstance(advisory, StreamActionAdvisory) and advisory.action == "delete":
                    break
        assert channel.dropped == 0
        assert len({one.id for one in came}) == len(came)
        assert all(one.timestamp is not None and one.timestamp >= began for one in came)
        assert {one.stream for one in came} == {"S"}
        assert {one.consumer for one in came if isinstance(one, ConsumerAdvisory)} == {"c"}
        of_messages = [
            (type(one), one.stream_seq, one.deliveries)
            for one in came
            if isinstance(one, (NakAdvisory, MaxDeliverAdvisory, TerminatedAdvisory))
        ]
        # Acknowledgements and pull requests are handled by different tasks of the server.
        assert Counter(of_messages) == {
            (NakAdvisory, 1, 1): 1,
            (NakAdvisory, 1, 2): 1,
            (MaxDeliverAdvisory, 1, 2): 1,
            (TerminatedAdvisory, 2, 1): 1,
        }
        assert [one.reason for one in came if isinstance(one, TerminatedAdvisory)] == ["not today"]
        pauses = [one for one in came if isinstance(one, ConsumerPauseAdvisory)]
        assert [one.paused for one in pauses] == [True, False]
        assert [one.pause_until for one in pauses] == [until_when, None]
        assert [
            (type(one), one.action)
            for one in came
            if isinstance(one, (ConsumerActionAdvisory, StreamActionAdvisory))
        ] == [
            (ConsumerActionAdvisory, AdvisoryAction.CREATE),
            (StreamActionAdvisory, AdvisoryAction.MODIFY),
            (ConsumerActionAdvisory, AdvisoryAction.DELETE),
            (StreamActionAdvisory, AdvisoryAction.DELETE),
        ]


@pytest.mark.requires_server("2.11")
async def test_pins(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 2)
        async with stream.advisories() as channel:
            consumer = await stream.create_consumer(
                "c",
                priority_groups=["g"],
                priority_policy=PriorityPolicy.PINNED_CLIENT,
                priority_timeout=60.0,
            )
            await consumer.next(group="g")
            pinned = await until(channel, ConsumerGroupPinnedAdvisory)
            assert (pinned.group, bool(pinned.pinned_id)) == ("g", True)
            await consumer.unpin("g")
            unpinned = await until(channel, ConsumerGroupUnpinnedAdvisory)
            assert (unpinned.group, unpinned.reason) == ("g", "admin")


@pytest.mark.requires_server("2.12")
async def test_an_abandoned_batch(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0, allow_atomic=True)
        async with stream.advisories() as channel:
            for number in (1, 3):
                headers = {"Nats-Batch-Id": "b1", "Nats-Batch-Sequence": str(number)}
                await nc.publish("s.1", b"x", headers=headers)
            abandoned = await until(channel, StreamBatchAbandonedAdvisory)
            assert (abandoned.batch, abandoned.reason) == ("b1", "incomplete")


async def test_a_backup(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 2, storage=StorageType.FILE)
        async with stream.advisories() as channel:
            inbox = nc.new_inbox()
            async with nc.subscribe(inbox) as sub:
                request = msgspec.json.encode({"deliver_subject": inbox})
                await nc.request("$JS.API.STREAM.SNAPSHOT.S", request)
                begun = await until(channel, SnapshotCreateAdvisory)
                assert begun.state.messages == 2
                while (chunk := await sub.receive()).data:
                    await chunk.respond(b"")
            ended = await until(channel, SnapshotCompleteAdvisory)
            assert ended.start <= ended.end
            assert ended.error == ""


@pytest.mark.slow
@pytest.mark.nats_cluster(3, jetstream=True)
async def test_leaders(nats_cluster: NatsCluster) -> None:
    async with open_nats(nats_cluster.urls) as nc:
        js = nc.jetstream(timeout=10)
        stream = await retried_placement(
            lambda: js.create_stream("S", subjects=["s"], num_replicas=3, storage=MEMORY)
        )
        async with stream.advisories() as channel:
            await nc.flush()
            await stream.create_consumer("c", durable_name="c")
            elected = await until(channel, ConsumerLeaderElectedAdvisory)
            assert (elected.stream, elected.consumer) == ("S", "c")
            await nc.request("$JS.API.STREAM.LEADER.STEPDOWN.S", timeout=10)
            leader = await until(channel, StreamLeaderElectedAdvisory)
            assert len(leader.replicas) == 3
            assert leader.leader in {one.name for one in leader.replicas}


async def test_only_some_kinds(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 3)
        one = await stream.create_consumer("one")
        two = await stream.create_consumer("two")
        async with (
            stream.advisories(NakAdvisory, ConsumerActionAdvisory) as chosen,
            stream.advisories(ConsumerAdvisory, NakAdvisory) as of_consumers,
            one.advisories() as of_one,
            two.advisories(TerminatedAdvisory) as of_two,
        ):
            assert nc.stats.subscriptions == 3 + 1 + 1 + 1
            await (await one.next()).nak()
            assert isinstance(await of_one.receive(), NakAdvisory)
            await (await two.next()).term()
            assert isinstance(await of_two.receive(), TerminatedAdvisory)
            await js.update_stream(stream.info.config, max_msgs=100)
            await one.delete()
            names = {chosen: "one one", of_consumers: "one two one", of_one: "one"}
            for channel, consumers in names.items():
                assert [
                    (await channel.receive()).consumer  # type: ignore[attr-defined]
                    for _ in consumers.split()
                ] == consumers.split()
            await nc.flush()
            for channel in (chosen, of_consumers, of_one, of_two):
                with pytest.raises(trio.WouldBlock):
                    channel.receive_nowait()


async def test_a_queue_group_shares_them(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 20)
        consumer = await stream.create_consumer("c")
        async with (
            stream.advisories(TerminatedAdvisory, queue="q") as one,
            stream.advisories(TerminatedAdvisory, queue="q") as two,
            stream.advisories(TerminatedAdvisory) as every,
        ):
            for msg in await consumer.fetch(20):
                await msg.term()
            assert [(await until(every, TerminatedAdvisory)).stream_seq for _ in range(20)] == list(
                range(1, 21)
            )
            await nc.flush()
            await trio.testing.wait_all_tasks_blocked()
            shared = [one_seq(channel) for channel in (one, two)]
            assert sorted(shared[0] + shared[1]) == list(range(1, 21))


def one_seq(channel: EventChannel[Advisory]) -> list[int]:
    found: list[int] = []
    while True:
        try:
            advisory = channel.receive_nowait()
        except trio.WouldBlock:
            return found
        assert isinstance(advisory, TerminatedAdvisory)
        found.append(advisory.stream_seq)


async def test_the_advisories_of_another_account_are_imported() -> None:
    config = """
    jetstream: enabled
    accounts: {
        A: {
            users: [ {user: a, password: a} ]
            jetstream: enabled
            exports: [ {service: '$JS.API.>'}, {stream: '$JS.EVENT.ADVISORY.>'} ]
        }
        I: {
            users: [ {user: i, password: i} ]
            imports: [
                {service: {account: A, subject: '$JS.API.>'}, to: 'fromA.>'}
                {stream: {account: A, subject: '$JS.EVENT.ADVISORY.>'}, to: 'fromA.E.ADVISORY.>'}
            ]
        }
        J: {
            users: [ {user: j, password: j} ]
            imports: [
                {service: {account: A, subject: '$JS.API.>'}}
                {stream: {account: A, subject: '$JS.EVENT.ADVISORY.>'}}
            ]
        }
    }
    """
    async with (
        NatsServer(config=config) as server,
        open_nats(server.url, auth=UserPassword("a", "a")) as a,
        open_nats(server.url, auth=UserPassword("i", "i")) as i,
        open_nats(server.url, auth=UserPassword("j", "j")) as j,
    ):
        await filled(a.jetstream(), 0)
        js = i.jetstream(prefix="fromA", event_prefix="fromA.E")
        there = await js.stream("S")
        same = await j.jetstream().stream("S")
        async with (
            there.advisories() as channel,
            same.advisories() as unchanged,
        ):
            for nc in (i, j):
                await nc.flush()
            await (await a.jetstream().stream("S")).create_consumer("c")
            for one in (channel, unchanged):
                assert isinstance(await one.receive(), ConsumerActionAdvisory)


async def test_advisories_of_a_leaf_node_arrive_at_its_hub() -> None:
    port = free_port("127.0.0.1")
    hub = {"jetstream": {"domain": "hub"}, "leafnodes": {"host": "127.0.0.1", "port": port}}
    remotes = [{"urls": [f"nats-leaf://127.0.0.1:{port}"]}]
    leaf = {"jetstream": {"domain": "leaf"}, "leafnodes": {"remotes": remotes}}
    async with (
        NatsServer(jetstream=True, config=hub, name="hub") as server,
        NatsServer(jetstream=True, config=leaf, name="leaf") as behind,
        connected(server) as (near, nc),
        connected(behind) as (far, _),
    ):
        for js in (near, far):
            await filled(js, 0)
        while True:
            try:
                stream = await nc.jetstream(domain="leaf").stream("S")
                break
            except JetStreamNotEnabledError:  # the leaf is not connected yet
                await trio.sleep(0.01)
        async with stream.advisories() as channel:
            domains: set[str] = set()
            # The leaf may not know yet that somebody listens.
            while domains != {"hub", "leaf"}:
                for js in (near, far):
                    await (await js.stream("S")).create_consumer()
                with trio.move_on_after(0.05):
                    async for advisory in channel:
                        domains.add(advisory.domain)


# --- what may come from anywhere -----------------------------------------------------------------

GOOD: dict[str, Any] = {
    "type": "io.nats.jetstream.advisory.v1.max_deliver",
    "id": "1",
    "timestamp": "2024-05-01T12:00:00.123456789Z",
    "stream": "S",
    "consumer": "c",
    "stream_seq": 7,
    "deliveries": 3,
}

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[1, 2]",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "no stream": msgspec.json.encode({k: v for k, v in GOOD.items() if k != "stream"}),
    "text for a number": msgspec.json.encode({**GOOD, "stream_seq": "7"}),
    "number for a name": msgspec.json.encode({**GOOD, "consumer": 7}),
    "no time": msgspec.json.encode({**GOOD, "timestamp": "yesterday"}),
    "unknown and wrong": msgspec.json.encode({"type": "new", "stream": 7}),
    "another stream": msgspec.json.encode({**GOOD, "stream": "S2"}),
    "large": msgspec.json.encode({**GOOD, "more": "x" * 300_000}),
    "unknown and nested": b'{"type": "new", "a": %b1%b}' % (b"[" * 32, b"]" * 32),
    "invalid UTF-8": b'{"type": "\xff\xfe"}',
}


async def test_malformed_advisories_are_ignored(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_nats.jetstream")
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        async with stream.advisories() as channel:
            for data in MALFORMED.values():
                await nc.publish("$JS.EVENT.ADVISORY.CONSUMER.\x9b31m\u202ered.S.c", data)
            await nc.publish("$JS.EVENT.ADVISORY.CONSUMER.X.S.c", msgspec.json.encode(GOOD))
            advisory = await channel.receive()
    assert advisory == MaxDeliverAdvisory(
        type=GOOD["type"],
        id="1",
        timestamp=datetime(2024, 5, 1, 12, 0, 0, 123456, UTC),
        stream="S",
        consumer="c",
        stream_seq=7,
        deliveries=3,
    )
    said = [one for one in caplog.records if "ignored" in one.getMessage()]
    assert [one.levelname for one in said] == ["WARNING"] + ["DEBUG"] * (len(MALFORMED) - 1)
    for record in said:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 700
        assert r"\x9b31m\u202ered" in record.getMessage()


async def test_advisories_about_another_consumer_are_ignored(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        consumer = await (await filled(js, 0)).create_consumer("c")
        async with consumer.advisories() as channel:
            subject = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c"
            await nc.publish(subject, msgspec.json.encode({**GOOD, "consumer": "d"}))
            await nc.publish(subject, msgspec.json.encode({**GOOD, "id": "2"}))
            assert (await channel.receive()).id == "2"


def test_an_unknown_advisory() -> None:
    raw = {
        "type": "io.nats.jetstream.advisory.v9.new",
        "id": "1",
        "stream": "S",
        "consumer": "c",
        "more": {"than": ["is", "known"]},
    }
    advisory = decode_advisory(msgspec.json.encode(raw))
    assert isinstance(advisory, UnknownAdvisory)
    assert (advisory.stream, advisory.consumer, advisory.type) == ("S", "c", raw["type"])
    assert advisory.data == raw
    assert decode_advisory(b"{}") == UnknownAdvisory(data={})


@pytest.mark.parametrize("data", list(MALFORMED.values()), ids=list(MALFORMED))
def test_decoding_malformed_advisories(data: bytes) -> None:
    if b'"S2"' in data:
        return
    with pytest.raises(JetStreamError, match=r"malformed advisory|at most 262,144 bytes"):
        decode_advisory(data)


def test_decoding_takes_linear_time() -> None:
    began = time.process_time()
    decode_advisory(msgspec.json.encode({**GOOD, "more": ["x"] * 60_000}))
    decode_advisory(msgspec.json.encode({f"k{number}": "" for number in range(20_000)}))
    assert time.process_time() - began < 5


def test_the_fields_are_those_of_the_published_schemas() -> None:
    folder = Path(os.environ.get("NATS_SCHEMAS", "none")) / "jetstream" / "advisory" / "v1"
    if not folder.exists():
        pytest.skip("there are no schemas of advisories")
    for kind in KINDS:
        schema = msgspec.json.decode((folder / f"{kind.TYPE}.json").read_bytes())
        fields, published = set(kind.__struct_fields__), set(schema["properties"])
        # Not read: which client made a backup.
        assert published - {"client"} <= fields, kind
        # Servers send these, too, and the schemas lack them in places.
        assert fields - published <= {"domain", "account", "error", "reason"}, kind


# --- the channel ---------------------------------------------------------------------------------


async def test_a_slow_listener_loses_the_oldest(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        async with stream.advisories(buffer=2) as channel:
            for number in range(10):
                await nc.publish(
                    "$JS.EVENT.ADVISORY.CONSUMER.X.S.c",
                    msgspec.json.encode({**GOOD, "id": str(number)}),
                )
            await nc.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert channel.dropped == 8
            assert [(await channel.receive()).id for _ in range(2)] == ["8", "9"]


async def test_how_it_ends(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _), open_nats(nats_server.url) as other:
        await filled(js, 0)
        stream = await other.jetstream().stream("S")
        listener = stream.advisories()
        assert repr(listener) == "<AdvisoryListener of stream 'S'>"
        async with listener as channel:
            with pytest.raises(RuntimeError, match="only once"):
                await listener.__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()
        assert other.stats.subscriptions == 0
        async with stream.advisories() as channel, trio.open_nursery() as nursery:
            nursery.start_soon(other.drain)
            assert [one async for one in channel] == []
        with pytest.raises(trio.ClosedResourceError):
            async with stream.advisories():
                raise AssertionError("entered")


async def test_a_closed_connection_ends_it(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        async with stream.advisories() as channel, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await channel.receive()

            await trio.testing.wait_all_tasks_blocked()
            await nc.aclose()


async def test_a_user_that_may_not_listen() -> None:
    config = """
    authorization { users: [ {user: u, password: u, permissions: {
        subscribe: {deny: ["$JS.EVENT.ADVISORY.STREAM.>"]} }} ] }
    """
    async with (
        NatsServer(jetstream=True, config=config) as server,
        open_nats(server.url, auth=UserPassword("u", "u")) as nc,
    ):
        stream = await filled(nc.jetstream(), 0)
        async with stream.advisories() as channel:
            with pytest.raises(PermissionsViolationError):
                await channel.receive()
        async with stream.advisories(ConsumerAdvisory) as channel:
            await stream.create_consumer("c")
            assert isinstance(await channel.receive(), ConsumerActionAdvisory)


async def test_cancelled_it_leaves_nothing_behind(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        before, subscriptions = all_tasks(), nc.stats.subscriptions

        async def make() -> Operation:
            async def operation() -> None:
                async with stream.advisories() as channel:
                    await nc.publish("$JS.EVENT.ADVISORY.CONSUMER.X.S.c", msgspec.json.encode(GOOD))
                    await channel.receive()

            return operation

        async def check() -> None:
            assert all_tasks() == before
            assert nc.stats.subscriptions == subscriptions

        assert await cancel_at_each_checkpoint(make, check) >= 3


WRONG: Sequence[tuple[dict[str, Any], Sequence[Any], type[Exception], str]] = [
    ({}, [str], TypeError, "must be subclasses of Advisory"),
    ({}, [GOOD], TypeError, "must be subclasses of Advisory"),
    ({}, [UnknownAdvisory], ConfigurationError, "not UnknownAdvisory"),
    ({}, [StreamActionAdvisory], ConfigurationError, "must be ConsumerAdvisory or subclasses"),
    ({"buffer": 0}, [], ConfigurationError, "buffer must be"),
    ({"buffer": "1"}, [], TypeError, "buffer"),
    ({"queue": "a b"}, [], InvalidSubjectError, "queue"),
]


@pytest.mark.parametrize(("options", "kinds", "error", "text"), WRONG)
async def test_wrong_arguments(
    nats_server: NatsServer,
    options: dict[str, Any],
    kinds: Sequence[Any],
    error: type[Exception],
    text: str,
) -> None:
    async with connected(nats_server) as (js, _):
        consumer = (await filled(js, 0)).bind_consumer("c")
        with pytest.raises(error, match=text):
            consumer.advisories(*kinds, **options)


async def test_wrong_prefixes(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (_, nc):
        with pytest.raises(InvalidSubjectError, match="event_prefix"):
            nc.jetstream(event_prefix="a.*")
