"""What needs a newer server works there, and is refused with a clear error on an older one.

``nox -s servers`` runs this with servers of several versions.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.jetstream.helpers import MEMORY, connected, error, fake_api, filled
from trio_nats import Msg, open_nats
from trio_nats.jetstream import (
    AckPolicy,
    APILevelError,
    JetStream,
    JetStreamAPIError,
    JetStreamNotEnabledError,
    PersistMode,
    Placement,
    PriorityPolicy,
    StorageType,
    Stream,
    StreamConsumerSource,
    StreamSource,
)
from trio_nats.jetstream.features import FEATURES, api_level_error, level_of, version_of
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

TABLE = Path(__file__).parents[2] / "docs" / "compatibility.md"
SOON = datetime.now(UTC) + timedelta(hours=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def uses(js: JetStream, stream: Stream) -> dict[str, Callable[[], Awaitable[object]]]:
    """How each feature is used, with a stream that has messages and a consumer ``c``."""
    consumer = stream.bind_consumer("c")

    def creating(**options: Any) -> Callable[[], Awaitable[object]]:
        return lambda: js.create_stream("NEW", **options)

    def consuming(**options: Any) -> Callable[[], Awaitable[object]]:
        return lambda: stream.create_consumer("new", **options)

    async def batch() -> None:
        await js.create_stream("NEW", subjects=["n.*"], storage=MEMORY, allow_atomic=True)
        batch = js.atomic_batch()
        await batch.add("n.1")
        assert (await batch.commit()).count == 1

    async def fast_batch() -> None:
        subject = "s.1"
        if (await js.account_info()).api.level >= FEATURES["allow_batched"]:
            await js.create_stream("NEW", subjects=["n.*"], storage=MEMORY, allow_batched=True)
            subject = "n.1"
        async with js.fast_batch() as batch:
            await batch.add(subject)

    async def unpin() -> None:
        options: dict[str, Any] = {
            "priority_groups": ["g"],
            "priority_policy": PriorityPolicy.PINNED_CLIENT,
        }
        await (await stream.create_consumer("new", **options)).unpin("g")

    async def publish_with_ttl() -> None:
        await js.create_stream("NEW", subjects=["n.*"], storage=MEMORY, allow_msg_ttl=True)
        await js.publish("n.1", ttl=100)

    async def expect() -> None:
        # The last message of s.0 is the fourth one, and that of s.1 the fifth one.
        await js.publish("s.1", expect_last_subject="s.0", expect_last_subject_seq=4)

    async def start() -> None:
        assert (await stream.get_msg(start_time=LONG_AGO, next_for="s.1")).seq == 2

    async def get() -> None:
        assert [msg.seq async for msg in stream.get_msgs(next_for="s.2")] == [3, 6]

    async def get_last() -> None:
        assert 6 in [msg.seq async for msg in stream.get_last_msgs(["s.*"])]

    async def limit_marker() -> None:
        await js.create_key_value("NEW", limit_marker_ttl=5, storage=MEMORY)

    def in_a_cluster(use: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        async def refused() -> None:
            with pytest.raises(JetStreamAPIError) as caught:
                await use()
            if "cluster" not in caught.value.description:
                raise caught.value

        return refused

    source = StreamSource(name="S", consumer=StreamConsumerSource(name="c", deliver_subject="d"))
    flow = {"deliver_subject": "d", "flow_control": True, "idle_heartbeat": 1.0}
    groups = {"priority_groups": ["g"]}
    return {
        "allow_msg_ttl": creating(allow_msg_ttl=True),
        "subject_delete_marker_ttl": creating(subject_delete_marker_ttl=5.0),
        "limit_marker_ttl": limit_marker,
        "ttl of a message": publish_with_ttl,
        "expect_last_subject": expect,
        "get_msg(start_time=)": start,
        "get_msgs()": get,
        "get_last_msgs()": get_last,
        "pause_until": consuming(pause_until=SOON),
        "pause()": lambda: consumer.pause(SOON),
        "priority_groups": consuming(**groups, priority_policy=PriorityPolicy.OVERFLOW),
        "unpin()": unpin,
        "step_down(placement=)": in_a_cluster(
            lambda: stream.step_down(placement=Placement(preferred="n1"))
        ),
        "allow_atomic": creating(allow_atomic=True),
        "atomic_batch()": batch,
        "allow_msg_counter": creating(allow_msg_counter=True),
        "allow_msg_schedules": creating(allow_msg_schedules=True),
        "PersistMode.ASYNC": creating(persist_mode=PersistMode.ASYNC),
        "PriorityPolicy.PRIORITIZED": consuming(
            **groups, priority_policy=PriorityPolicy.PRIORITIZED
        ),
        "allow_batched": creating(allow_batched=True),
        "fast_batch()": fast_batch,
        "StreamSource(consumer=)": creating(sources=[source]),
        "AckPolicy.FLOW_CONTROL": consuming(ack_policy=AckPolicy.FLOW_CONTROL, **flow),
        "reset()": consumer.reset,
        "evacuate_peer()": in_a_cluster(lambda: stream.evacuate_peer("n1")),
        "cancel_move()": in_a_cluster(stream.cancel_move),
    }


async def test_each_feature_works_or_the_server_is_said_to_be_too_old(
    nats_server: NatsServer,
) -> None:
    """A refused feature leaves nothing on the server."""
    async with connected(nats_server) as (js, _):
        level = (await js.account_info()).api.level
        # Without any stream in a file, the server removes the directory, perhaps a moment after
        # another stream was created there.
        stream = await filled(js, storage=StorageType.FILE)
        await stream.create_consumer("c")
        assert set(uses(js, stream)) == set(FEATURES)
        for feature, use in uses(js, stream).items():
            if FEATURES[feature] <= level:
                await use()
                if feature == "pause()":
                    await stream.resume_consumer("c")
            else:
                messages = (await stream.refresh()).state.messages
                with pytest.raises(APILevelError) as caught:
                    await use()
                assert f"must be {version_of(FEATURES[feature])} or later for" in str(caught.value)
                assert [name async for name in js.stream_names()] == ["S"], feature
                assert [name async for name in stream.consumer_names()] == ["c"], feature
                assert (await stream.refresh()).state.messages == messages, feature
            for name in [name async for name in js.stream_names() if name != "S"]:
                await js.delete_stream(name)
            for name in [name async for name in stream.consumer_names() if name != "c"]:
                await stream.delete_consumer(name)
        if level < 1:
            with pytest.raises(APILevelError, match=r"must be 2\.11 or later for pause\(\)"):
                await stream.resume_consumer("c")


async def test_publishers_and_batches_check_the_server_too(nats_server: NatsServer) -> None:
    """As :meth:`JetStream.publish` does, where an older server would ignore the header."""
    async with connected(nats_server) as (_, nc):
        async with fake_api(nc, lambda msg: {"api": {"level": 0}}) as asked:
            js = nc.jetstream(prefix="fake")
            async with js.publisher() as publisher, nc.subscribe("s") as sub:
                with pytest.raises(APILevelError, match="for ttl of a message, but this one is"):
                    await publisher.publish("s", ttl=5)
                batch = js.atomic_batch()
                with pytest.raises(APILevelError, match=r"for atomic_batch\(\), but this one is"):
                    await batch.add("s")
                assert len(batch) == 0
                kv_ttl = js.publish("s", expect_last_subject="a", expect_last_subject_seq=1)
                with pytest.raises(APILevelError, match="for expect_last_subject, but"):
                    await kv_ttl
                await nc.publish("s", b"nothing before")
                assert (await sub.receive()).data == b"nothing before"
        assert [suffix for suffix, _ in asked] == ["INFO"] * 3


@pytest.mark.requires_server("2.12")
async def test_a_server_that_sends_its_level_is_not_asked(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        before = (await js.account_info()).api.total
        await js.create_stream("S", subjects=["s"], allow_msg_ttl=True, storage=MEMORY)
        await js.publish("s", ttl=5)
        assert (await js.account_info()).api.total == before + 2  # account_info() and the stream
        assert nc.server_info.api_lvl >= 2


async def test_a_level_that_cannot_be_requested() -> None:
    """If asking is not permitted, it is tried only once, and the request is sent anyway."""
    config = {
        "authorization": {
            "users": [
                {"user": "a", "password": "a", "permissions": {"publish": {"deny": "fake.INFO"}}},
                {"user": "b", "password": "b"},
            ]
        }
    }

    def answer(msg: Msg) -> dict[str, Any]:
        return error(10185)

    async with NatsServer(config=config) as server:
        host = server.url.removeprefix("nats://")
        async with (
            open_nats(f"nats://b:b@{host}") as other,
            open_nats(f"nats://a:a@{host}") as nc,
            fake_api(other, answer, prefix="fake") as asked,
        ):
            await other.flush()
            js = nc.jetstream(prefix="fake")
            for _ in range(2):
                with pytest.raises(JetStreamAPIError, match=r"must be 2\.12 or later for allow_at"):
                    await js.create_stream("S", allow_atomic=True)
            assert [suffix for suffix, _ in asked] == ["STREAM.CREATE.S"] * 2
            # Only what is asked is imported.
            async with fake_api(other, answer, prefix="part.STREAM") as asked:
                await other.flush()
                with pytest.raises(APILevelError, match=r"must be 2\.12 or later for allow_atomic"):
                    await nc.jetstream(prefix="part").create_stream("S", allow_atomic=True)
                assert [suffix for suffix, _ in asked] == ["CREATE.S"]
            with pytest.raises(JetStreamNotEnabledError):
                await nc.jetstream(prefix="none").create_stream("S", allow_atomic=True)


async def test_a_consumer_is_created_without_a_setting(nats_server: NatsServer) -> None:
    """By a server that is older than the one that has sent its API level."""

    def answer(msg: Msg) -> dict[str, Any]:
        if msg.subject == "fake.INFO":
            return {"api": {"level": 1}}
        if msg.subject.startswith("fake.STREAM."):
            return {"config": {"name": "S"}}
        return {"stream_name": "S", "name": "c", "config": {"name": "c"}}

    async with connected(nats_server) as (_, nc), fake_api(nc, answer):
        stream = await nc.jetstream(prefix="fake").stream("S")
        with pytest.raises(
            APILevelError, match="for pause_until; consumer 'c' exists now without it"
        ):
            await stream.create_consumer("c", pause_until=SOON)


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (0, "2.12 or later for allow_atomic, allow_msg_ttl, but this one is older than 2.11 (API"),
        (
            -(10**30),
            "2.12 or later for allow_atomic, allow_msg_ttl, but this one is older than 2.11",
        ),
        (1, "2.12 or later for allow_atomic, but this one is older than 2.12 (API level 1); up"),
        (None, "2.12 or later for allow_atomic, allow_msg_ttl; upgrade it, or do without (code"),
    ],
)
def test_the_text_of_the_error(level: int | None, text: str) -> None:
    error = api_level_error(["allow_atomic", "allow_msg_ttl"], level)
    assert str(error).startswith(f"nats-server must be {text}")


def test_the_documentation_has_the_same_versions() -> None:
    rows = re.findall(r"^\| (.+?) \| (2\.\d+) \| .* \|$", TABLE.read_text("utf-8"), re.MULTILINE)
    documented = {feature.replace("`", ""): version for feature, version in rows}
    assert documented == {name: version_of(level) for name, level in FEATURES.items()}
    assert level_of([]) == 0
