"""Creating again, and changing single settings: alike for streams, consumers and stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.jetstream.helpers import MEMORY, connected, error, fake_api
from trio_nats import ConfigurationError
from trio_nats.jetstream import (
    AckPolicy,
    Consumer,
    ConsumerConfig,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    PriorityPolicy,
    Stream,
    StreamConfig,
)
from trio_nats.keyvalue import KeyValueConfig
from trio_nats.objectstore import ObjectStoreConfig
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

LATER = datetime(2200, 1, 1, tzinfo=UTC)


def config_of(consumer: Consumer) -> ConsumerConfig:
    assert consumer.info is not None
    return consumer.info.config


# --- creating again -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ack_wait": 60},
        {"max_deliver": 3, "backoff": [1.0, 2.0]},
        {"filter_subject": "s.x"},
        {"inactive_threshold": 20},
        {"ack_policy": AckPolicy.NONE},
        {"deliver_subject": "a.b", "flow_control": True, "idle_heartbeat": 5.0},
        pytest.param({"pause_until": LATER}, marks=pytest.mark.requires_server("2.11")),
        pytest.param(
            {"priority_groups": ["g"], "priority_policy": PriorityPolicy.PINNED_CLIENT},
            marks=pytest.mark.requires_server("2.11"),
        ),
        {"max_ack_pending": -1, "metadata": {"a": "b"}},
    ],
    ids=str,
)
async def test_a_consumer_is_created_again(nats_server: NatsServer, options: Any) -> None:
    """Durable or not: what the server fills in for itself is no difference."""
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        for given in ({"durable_name": "c"}, {"name": "d"}):
            first = await stream.create_consumer(**given, **options)
            again = await stream.create_consumer(**given, **options)
            assert config_of(again) == config_of(first)
            different = {"ack_wait": 7, "backoff": ()}
            with pytest.raises(ConsumerNameInUseError, match=r"ack_wait is .*, not 7") as caught:
                await stream.create_consumer(**given, **{**options, **different})
            assert "max_waiting" not in str(caught.value)
            assert "inactive_threshold is 5" not in str(caught.value)


async def test_a_consumer_with_another_threshold(nats_server: NatsServer) -> None:
    """A threshold that is not the server's default was chosen by somebody."""
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        await stream.create_consumer(name="d", inactive_threshold=60)
        with pytest.raises(ConsumerNameInUseError, match=r"inactive_threshold is 60.0, not None"):
            await stream.create_consumer(name="d")
        with pytest.raises(ConsumerNameInUseError, match=r"durable_name is '', not 'd'"):
            await stream.create_consumer("d", inactive_threshold=60)


async def test_a_name_makes_a_durable_consumer(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        durable = config_of(await stream.create_consumer("workers", ack_wait=60))
        assert (durable.durable_name, durable.ack_wait) == ("workers", 60)
        assert durable.inactive_threshold in (None, 0)
        assert config_of(await stream.create_consumer(durable_name="workers", ack_wait=60))
        await stream.create_or_update_consumer("others")
        assert config_of(await stream.consumer("others")).durable_name == "others"
        for named in (ConsumerConfig(name="a"), ConsumerConfig()):
            ephemeral = config_of(await stream.create_consumer(named))
            assert (ephemeral.durable_name, ephemeral.inactive_threshold) == ("", 5.0)
        assert config_of(await stream.create_consumer(name="b")).durable_name == ""


# --- changing single settings ---------------------------------------------------------------------


async def test_a_stream_is_changed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        first = await js.create_stream(
            name="S", subjects=["s.>"], storage=MEMORY, max_msgs=5, allow_direct=True
        )
        changes: list[Callable[[], Awaitable[Stream]]] = [
            lambda: js.update_stream("S", max_bytes=7),
            lambda: js.update_stream(name="S", description="d"),
            lambda: js.create_or_update_stream("S", max_msgs_per_subject=3),
            lambda: js.update_stream("S", max_age=60),
        ]
        for change in changes:
            changed = (await change()).info.config
        assert changed == msgspec.structs.replace(
            first.info.config,
            max_bytes=7,
            description="d",
            max_msgs_per_subject=3,
            max_age=60.0,
            duplicate_window=60.0,  # which would be longer than max_age
        )
        whole = await js.update_stream(StreamConfig(name="S", subjects=["s.>"], storage=MEMORY))
        assert (whole.info.config.max_msgs, whole.info.config.description) == (-1, "")
        with pytest.raises(ConfigurationError, match="one name, not both 'S' and name='T'"):
            await js.update_stream("S", name="T")


async def test_a_consumer_is_changed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        first = config_of(await stream.create_consumer("c", filter_subject="s.a", ack_wait=9))
        await stream.update_consumer("c", max_ack_pending=7)
        await stream.update_consumer(durable_name="c", description="d")
        await stream.update_consumer(name="c", max_deliver=4)
        changed = await stream.create_or_update_consumer("c", filter_subjects=["s.b", "s.c"])
        assert config_of(changed) == msgspec.structs.replace(
            first,
            max_ack_pending=7,
            description="d",
            max_deliver=4,
            filter_subject="",
            filter_subjects=["s.b", "s.c"],
        )
        await stream.update_consumer("c", filter_subject="s.d")
        whole = config_of(await stream.update_consumer(ConsumerConfig(durable_name="c")))
        assert (whole.filter_subject, whole.description, whole.ack_wait) == ("", "", 30.0)
        await stream.create_consumer(name="e")
        ephemeral = config_of(await stream.create_or_update_consumer("e", description="d"))
        assert (ephemeral.durable_name, ephemeral.description) == ("", "d")
        with pytest.raises(ConsumerNotFoundError):
            await stream.update_consumer("nobody", ack_wait=1)


async def test_another_client_creates_the_consumer_first(nats_server: NatsServer) -> None:
    there = {"stream_name": "S", "name": "c", "config": {"durable_name": "c", "max_deliver": 5}}
    stream_info = {"config": {"name": "S"}}
    missing, used = error(10014, 404), error(10148)
    answers = [stream_info, missing, used, missing, there, there]
    async with connected(nats_server) as (_, nc):
        async with fake_api(nc, lambda msg: answers.pop(0)) as asked:
            stream = await nc.jetstream(prefix="fake").stream("S")
            await stream.create_or_update_consumer("c", ack_wait=1)
    assert [(what, sent and sent.get("action")) for what, sent in asked[1:]] == [
        ("CONSUMER.INFO.S.c", None),
        ("CONSUMER.CREATE.S.c", "create"),
        ("CONSUMER.INFO.S.c", None),  # for what differs
        ("CONSUMER.INFO.S.c", None),
        ("CONSUMER.CREATE.S.c", "update"),
    ]
    assert asked[-1][1]["config"]["max_deliver"] == 5


async def test_stores_are_changed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await js.create_key_value(bucket="b", history=3, storage=MEMORY)
        await js.update_key_value(bucket="b", description="d")
        kv = (await (await js.create_or_update_key_value(bucket="b", max_bytes=9)).status()).config
        assert (kv.history, kv.description, kv.max_bytes) == (3, "d", 9)
        await js.create_object_store(bucket="b", max_bytes=10**6, storage=MEMORY)
        await js.update_object_store(bucket="b", description="d")
        store = await js.create_or_update_object_store(bucket="b", ttl=60)
        status = await store.status()
        assert (status.max_bytes, status.description, status.ttl) == (10**6, "d", 60)


# --- mistakes -------------------------------------------------------------------------------------


async def test_names_are_needed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", subjects=["s.>"], storage=MEMORY)
        calls: dict[Callable[..., Awaitable[object]], tuple[type, str]] = {
            js.create_stream: (StreamConfig, "name"),
            js.update_stream: (StreamConfig, "name"),
            js.create_or_update_stream: (StreamConfig, "name"),
            stream.update_consumer: (ConsumerConfig, "durable_name"),
            stream.create_or_update_consumer: (ConsumerConfig, "durable_name"),
            js.create_key_value: (KeyValueConfig, "bucket"),
            js.update_key_value: (KeyValueConfig, "bucket"),
            js.create_or_update_key_value: (KeyValueConfig, "bucket"),
            js.create_object_store: (ObjectStoreConfig, "bucket"),
            js.update_object_store: (ObjectStoreConfig, "bucket"),
            js.create_or_update_object_store: (ObjectStoreConfig, "bucket"),
        }
        for call, (kind, named) in calls.items():
            text = rf"^config must be a {kind.__name__} or a name, not None; .* as {named}=$"
            with pytest.raises(TypeError, match=text):
                await call(description="d")
            text = rf"^{kind.__name__} has no field 'descriptions'; did you mean 'description'\?$"
            with pytest.raises(TypeError, match=text):
                await call("S", descriptions="d")
        with pytest.raises(TypeError, match=r"no field 'max_age'; did you mean 'ttl'\?$"):
            await js.create_key_value("S", max_age=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"no field 'ttl'; did you mean 'max_age'\?$"):
            await js.create_stream("S", ttl=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match=r"^StreamConfig has no field 'colour'$"):
            await js.create_stream("S", colour="red")  # type: ignore[call-arg]
