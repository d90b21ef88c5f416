"""Creating, configuring, finding, pausing and deleting consumers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.jetstream.helpers import connected, error, fake_api, filled
from trio_nats import ConfigurationError, InvalidSubjectError, Msg, RequestTimeoutError
from trio_nats.jetstream import (
    AckPolicy,
    APILevelError,
    ConsumerConfig,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    DeliverPolicy,
    JetStreamAPIError,
    PriorityPolicy,
    PullError,
)
from trio_nats.jetstream.api import API
from trio_nats.jetstream.stream import StreamConsumers
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def test_create_update_get_delete(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer(
            "workers", durable_name="workers", ack_wait=12.5, max_ack_pending=7
        )
        assert (consumer.name, consumer.stream_name) == ("workers", "S")
        assert consumer.info is not None
        assert consumer.info.config.ack_wait == 12.5
        assert consumer.info.num_pending == 6
        assert repr(consumer) == "<Consumer 'workers' of stream 'S'>"

        # The same again is as good as new; something else is not.
        await stream.create_consumer(consumer.info.config)
        with pytest.raises(ConsumerNameInUseError):
            await stream.create_consumer(consumer.info.config, ack_wait=1)

        updated = await stream.update_consumer(consumer.info.config, max_ack_pending=9)
        assert updated.info is not None
        assert (updated.info.config.max_ack_pending, updated.info.config.ack_wait) == (9, 12.5)
        await stream.create_or_update_consumer("other", description="new")
        await stream.create_or_update_consumer("other", description="changed")

        other = await stream.consumer("other")
        assert other.info is not None
        assert other.info.config.description == "changed"
        assert sorted([name async for name in stream.consumer_names()]) == ["other", "workers"]
        assert sorted([info.name async for info in stream.consumers()]) == ["other", "workers"]

        await other.delete()
        await stream.delete_consumer("workers")
        for call in (other.refresh, other.delete, lambda: stream.consumer("workers")):
            with pytest.raises(ConsumerNotFoundError):
                await call()
        with pytest.raises(ConsumerNotFoundError):
            await stream.update_consumer("workers")
        assert [name async for name in stream.consumer_names()] == []


async def test_a_name_is_generated(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        one, other = await stream.create_consumer(), await stream.create_consumer()
        assert one.name != other.name
        assert len(one.name) == 22


async def test_requests_for_consumers() -> None:
    async with NatsServer() as server, connected(server) as (_, nc):
        info = {"stream_name": "S", "name": "c", "config": {"ack_policy": "explicit"}}

        def answer(msg: object) -> dict[str, object]:
            return info

        async with fake_api(nc, answer) as asked:
            stream = StreamConsumers(API(nc, prefix="fake"), "S")
            await stream.create_consumer("c", filter_subject="a.b")
            await stream.create_consumer("c", filter_subject="a.*")
            await stream.update_consumer(ConsumerConfig(durable_name="c"), ack_wait=1)
            await stream.create_or_update_consumer(
                ConsumerConfig(name="c"), filter_subjects=["a", "b"]
            )
            subjects = [subject for subject, _ in asked]
            assert subjects == [
                "CONSUMER.CREATE.S.c.a.b",
                "CONSUMER.CREATE.S.c.a.*",
                "CONSUMER.CREATE.S.c",
                "CONSUMER.CREATE.S.c",
            ]
            assert asked[0][1] == {
                "stream_name": "S",
                "config": {
                    "durable_name": "c",
                    "deliver_policy": "all",
                    "ack_policy": "explicit",
                    "replay_policy": "instant",
                    "filter_subject": "a.b",
                },
                "action": "create",
            }
            assert asked[2][1]["action"] == "update"
            assert asked[2][1]["config"]["ack_wait"] == 10**9
            assert "action" not in asked[3][1]


@pytest.mark.requires_server("2.11")
async def test_pausing(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("c")
        until = datetime.now(UTC) + timedelta(hours=1)
        paused = await consumer.pause(until)
        assert paused.paused
        assert paused.pause_until is not None
        assert abs(paused.pause_until - until) < timedelta(seconds=1)
        assert (await consumer.refresh()).paused
        with pytest.raises(RequestTimeoutError):
            await consumer.next(timeout=0.05)
        assert not (await consumer.resume()).paused
        assert (await consumer.next()).data == b"0"

        await stream.pause_consumer("c", until)
        assert (await consumer.refresh()).paused
        await stream.resume_consumer("c")
        assert not (await consumer.refresh()).paused

        for wrong, kind in ((datetime(2030, 1, 1), ConfigurationError), ("tomorrow", TypeError)):
            with pytest.raises(kind, match="until"):
                await consumer.pause(wrong)


@pytest.mark.requires_server("2.11")
async def test_pinned_and_unpinned(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer(
            "c",
            priority_groups=["jobs"],
            priority_policy=PriorityPolicy.PINNED_CLIENT,
            priority_timeout=60,
        )
        second = await stream.consumer("c")
        assert (await consumer.next(group="jobs")).data == b"0"
        assert [msg.data for msg in await consumer.fetch(2, group="jobs")] == [b"1", b"2"]
        # The other one is not the pinned one, until the first one is not any more.
        assert await second.fetch(1, group="jobs", timeout=0.05) == []
        await consumer.unpin("jobs")
        assert (await second.next(group="jobs")).data == b"3"
        assert await consumer.fetch(1, group="jobs", timeout=0.3) == []
        await stream.unpin_consumer("c", "jobs")
        assert (await consumer.next(group="jobs")).data == b"4"
        with pytest.raises(ConfigurationError, match="group must not be empty"):
            await consumer.unpin("")


@pytest.mark.requires_server("2.12")
async def test_overflow_and_priorities(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js, 3)
        overflow = await stream.create_consumer(
            "over", priority_groups=["jobs"], priority_policy=PriorityPolicy.OVERFLOW
        )
        assert await overflow.fetch(1, group="jobs", min_pending=5, timeout=0.05) == []
        for number in range(3, 6):
            await js.publish("s.0", str(number))
        assert len(await overflow.fetch(1, group="jobs", min_pending=5)) == 1

        sorted_ = await stream.create_consumer(
            "sorted", priority_groups=["jobs"], priority_policy=PriorityPolicy.PRIORITIZED
        )
        async with sorted_.consume(group="jobs", priority=3, max_messages=1) as messages:
            assert (await messages.receive()).data == b"0"


async def test_bind_consumer_sends_no_request(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        await stream.create_consumer("c")
        consumer = stream.bind_consumer("c")
        assert consumer.info is None
        msg = await consumer.next()
        await msg.double_ack()
        with pytest.raises(PullError, match="nobody answers"):
            await stream.bind_consumer("nobody").next()


async def test_a_push_consumer_cannot_be_pulled(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        consumer = await stream.create_consumer("c", deliver_subject="here")
        with pytest.raises(ConfigurationError, match=r"use consume\(\)"):
            await consumer.next()
        with pytest.raises(PullError, match=r"(?i)push based"):
            await stream.bind_consumer("c").next()


@pytest.mark.parametrize(
    ("config", "options", "kind", "match"),
    [
        (5, {}, TypeError, "config must be a ConsumerConfig or a name, not int"),
        ("a.b", {}, ConfigurationError, "consumer name"),
        ("c", {"ack_wait": -1}, ConfigurationError, "ack_wait"),
        ("c", {"nonsense": 1}, TypeError, "nonsense"),
        ("c", {"durable_name": "d"}, ConfigurationError, "one name, not both 'c' and durable_n"),
        (None, {"name": "c", "durable_name": "d"}, ConfigurationError, "must be the same"),
        ("c", {"filter_subject": "a..b"}, InvalidSubjectError, "filter_subject"),
        (
            "c",
            {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE},
            ConfigurationError,
            "opt_start_seq",
        ),
        (
            "c",
            {"filter_subjects": ["a.>", "a.b"]},
            ConfigurationError,
            r"'a\.b' is covered by 'a\.>'; leave one",
        ),
        ("c", {"filter_subjects": ["a.b", "c", "a.b"]}, ConfigurationError, "must not overlap"),
    ],
)
async def test_invalid_consumer_options(
    nats_server: NatsServer,
    config: object,
    options: dict[str, object],
    kind: type[Exception],
    match: str,
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        with pytest.raises(kind, match=match):
            await stream.create_consumer(config, **options)
        assert [name async for name in stream.consumer_names()] == []


@pytest.mark.parametrize("err_code", [10025, 10185])
async def test_acknowledging_by_flow_control_needs_a_newer_server(err_code: int) -> None:
    """They check the level, or cannot read the policy."""
    levels: list[str | None] = []

    def answer(msg: Msg) -> dict[str, object]:
        if msg.subject == "fake.INFO":  # as another server of the cluster says
            return {"api": {"level": 4}}
        levels.append(msg.headers.get("Nats-Required-Api-Level"))
        return error(err_code, description="invalid JSON: can not unmarshal")

    async with NatsServer() as server, connected(server) as (_, nc), fake_api(nc, answer):
        stream = StreamConsumers(API(nc, prefix="fake"), "S")
        with pytest.raises(APILevelError, match=r"must be 2\.14 or later for AckPolicy"):
            await stream.create_consumer("c", ack_policy=AckPolicy.FLOW_CONTROL)
        if err_code == 10025:
            with pytest.raises(JetStreamAPIError, match="invalid JSON") as caught:
                await stream.create_consumer("c")
            assert not isinstance(caught.value, APILevelError)
        assert levels[0] == "4"


async def test_what_the_server_refuses(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await filled(js)
        with pytest.raises(JetStreamAPIError, match=r"heartbeat|push|deliver"):
            await stream.create_consumer("c", idle_heartbeat=5, ack_policy=AckPolicy.NONE)
