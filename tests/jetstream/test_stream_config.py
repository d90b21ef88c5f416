"""What is refused before it is sent, and what level of the API it needs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_type_hints

import msgspec
import pytest

from tests.jetstream.helpers import connected, fake_api
from trio_nats import ConfigurationError, InvalidSubjectError, Msg
from trio_nats.jetstream import (
    APILevelError,
    ConsumerConfig,
    ConsumerOptions,
    DeliverPolicy,
    ExternalStream,
    PersistMode,
    RePublish,
    StreamConfig,
    StreamConsumerSource,
    StreamOptions,
    StreamSource,
)
from trio_nats.jetstream.consumer.config import check_consumer
from trio_nats.jetstream.features import level_of
from trio_nats.jetstream.stream_config import check_stream, features_of
from trio_nats.testing import NatsServer


@pytest.mark.parametrize(
    ("config", "options"), [(StreamConfig, StreamOptions), (ConsumerConfig, ConsumerOptions)]
)
def test_the_keywords_are_the_fields(config: type[msgspec.Struct], options: type) -> None:
    fields = get_type_hints(config)
    del fields["extra"]
    fields.pop("ALWAYS", None)
    assert get_type_hints(options) == fields


NOW = datetime(2030, 1, 1, tzinfo=UTC)
SOURCE = StreamSource(name="O")


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"name": "a.b"}, ConfigurationError, "stream name 'a.b' is not allowed"),
        ({"name": ""}, ConfigurationError, "stream name '' is not allowed"),
        ({"name": "x" * 256}, ConfigurationError, "must be 1 to 255 characters"),
        ({"name": "\ud800"}, ConfigurationError, "stream name|StreamConfig"),
        ({"name": 5}, TypeError, "StreamConfig: name must be a str, not 5"),
        ({"max_msgs": "1"}, TypeError, "StreamConfig: max_msgs must be a whole number, not '1'"),
        ({"max_msgs": None}, TypeError, "max_msgs must be a whole number, not None"),
        (
            {"max_age": timedelta(days=1)},
            TypeError,
            r"max_age must be a number of seconds, not datetime.timedelta\(.*total_seconds\(\)",
        ),
        ({"no_ack": 1}, TypeError, "no_ack must be True or False, not 1"),
        (
            {"metadata": {"a": 1}},
            TypeError,
            "metadata must be a mapping of str to str, not {'a': 1}",
        ),
        ({"retention": 5}, TypeError, "retention must be one of 'limits', .*, not 5"),
        ({"subjects": 5}, TypeError, "subjects must be a list, not 5"),
        ({"subjects": [5]}, TypeError, "subjects must be a str, not 5"),
        (
            {"mirror": "O"},
            TypeError,
            r"mirror must be a StreamSource, not str 'O'; use StreamSource\(name='O'\)",
        ),
        ({"sources": ["O"]}, TypeError, r"sources must be .*; use StreamSource\(name='O'\)"),
        (
            {"mirror": StreamSource(name="O", opt_start_seq="1")},  # type: ignore[arg-type]
            TypeError,
            "StreamConfig: mirror.opt_start_seq must be a whole number, not '1'",
        ),
        ({"subjects": "s"}, TypeError, "subjects"),
        ({"subjects": ["a b"]}, InvalidSubjectError, "subjects: subject 'a b' is not allowed"),
        ({"subjects": [">.a"]}, InvalidSubjectError, "subjects: subject '>.a' is not allowed"),
        ({"metadata": {"": "x"}}, ConfigurationError, "keys of metadata must not be empty"),
        (
            {"metadata": {"x": "y" * 128 * 1024}},
            ConfigurationError,
            "metadata must be at most 131,072 bytes",
        ),
        ({"republish": RePublish(src="a b", dest="c")}, InvalidSubjectError, "republish.src"),
        (
            {"mirror": SOURCE, "subjects": ["a"]},
            ConfigurationError,
            "a mirror must not have subjects",
        ),
        ({"mirror": SOURCE, "sources": [SOURCE]}, ConfigurationError, "a mirror or sources"),
        ({"mirror": StreamSource(name="a b")}, ConfigurationError, "mirror: stream name 'a b'"),
        (
            {"sources": [StreamSource(name="O", filter_subject="..")]},
            InvalidSubjectError,
            "sources: filter_subject",
        ),
        (
            {"mirror": StreamSource(name="O", opt_start_seq=1, opt_start_time=NOW)},
            ConfigurationError,
            "mirror: give opt_start_seq or opt_start_time",
        ),
        (
            {"mirror": StreamSource(name="O", external=ExternalStream(api="a.>"))},
            InvalidSubjectError,
            "mirror: external.api: subject 'a.>' is not allowed: .* are wildcards",
        ),
    ],
)
def test_streams_that_cannot_be(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        check_stream(StreamConfig(**{"name": "S", **options}))


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"name": "a.b"}, ConfigurationError, "consumer name 'a.b' is not allowed"),
        (
            {"name": "a", "durable_name": "b"},
            ConfigurationError,
            "name and durable_name must be the same, not 'a'",
        ),
        ({"filter_subject": "a", "filter_subjects": ["b"]}, ConfigurationError, "not both"),
        ({"filter_subject": "a b"}, InvalidSubjectError, "filter_subject: subject 'a b'"),
        ({"filter_subjects": [""]}, InvalidSubjectError, "filter_subjects: subject ''"),
        (
            {"deliver_subject": "a.*"},
            InvalidSubjectError,
            "deliver_subject: subject 'a.\\*' .* are wildcards",
        ),
        (
            {"opt_start_seq": 5},
            ConfigurationError,
            "opt_start_seq and DeliverPolicy.BY_START_SEQUENCE go together",
        ),
        (
            {"deliver_policy": DeliverPolicy.BY_START_TIME},
            ConfigurationError,
            "opt_start_time and .* go together",
        ),
        ({"max_deliver": "x"}, TypeError, "ConsumerConfig: max_deliver must be a whole number"),
        ({"ack_wait": timedelta(seconds=5)}, TypeError, "ack_wait must be a number of seconds"),
        (
            {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": datetime(2030, 1, 1)},
            ConfigurationError,
            "^ConsumerConfig: opt_start_time must have a time zone",
        ),
        ({"ack_wait": 1e12}, ConfigurationError, "^ConsumerConfig: ack_wait must be at most 292 y"),
        ({"ack_wait": -1}, ConfigurationError, "^ConsumerConfig: ack_wait must be zero or more"),
        ({"backoff": 1}, TypeError, "backoff must be a list, not 1"),
        ({"backoff": [timedelta(1)]}, TypeError, "backoff must be a number of seconds"),
        ({"metadata": {"": ""}}, ConfigurationError, "must not be empty"),
    ],
)
def test_consumers_that_cannot_be(options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        check_consumer(ConsumerConfig(**options))


@pytest.mark.requires_server("2.14")
@pytest.mark.slow
@pytest.mark.nats_server(jetstream=True)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subject_delete_marker_ttl": 2.0},
        {"allow_msg_ttl": True},
        {"allow_atomic": True},
        {"allow_msg_counter": True},
        {"allow_msg_schedules": True},
        {"persist_mode": PersistMode.ASYNC},
        {"persist_mode": PersistMode.DEFAULT},
        {"allow_batched": True},
    ],
    ids=str,
)
async def test_the_required_api_level_matches_the_server(
    nats_server: NatsServer, options: Any
) -> None:
    async with connected(nats_server) as (js, _):
        stream = await js.create_stream("S", **options)
        assert stream.info.config.metadata is not None
        needed = int(stream.info.config.metadata["_nats.req.level"])
        assert level_of(features_of(StreamConfig(name="S", **options))) == needed


def test_the_level_of_durable_sourcing() -> None:
    source = StreamSource(name="O", consumer=StreamConsumerSource(name="c"))
    for config in (
        StreamConfig(name="S", mirror=source),
        StreamConfig(name="S", sources=[SOURCE, source]),
    ):
        assert level_of(features_of(config)) == 4


def test_a_stream_of_another_domain() -> None:
    assert ExternalStream.in_domain("hub").api == "$JS.hub.API"
    with pytest.raises(ConfigurationError, match=r"domain name 'a\.b'"):
        ExternalStream.in_domain("a.b")


@pytest.mark.parametrize(
    "options",
    [
        {"allow_msg_ttl": True},
        {"subject_delete_marker_ttl": 1.0},
        {"allow_atomic": True},
        {"persist_mode": PersistMode.ASYNC},
        {"mirror": StreamSource(name="O", consumer=StreamConsumerSource(name="c"))},
    ],
    ids=str,
)
async def test_a_setting_is_left_out_without_an_error(
    nats_server: NatsServer, options: Any
) -> None:
    """By a server that is older than the one that has sent its API level."""
    (feature,) = features_of(StreamConfig(name="S", **options))

    def answer(msg: Msg) -> dict[str, Any]:
        told = {"api": {"level": 4}} if msg.subject == "fake.INFO" else {"config": {"name": "S"}}
        return cast("dict[str, Any]", told)

    async with connected(nats_server) as (_, nc):
        async with fake_api(nc, answer):
            js = nc.jetstream(prefix="fake")
            text = rf"for {re.escape(feature)}; stream 'S' exists now without it"
            with pytest.raises(APILevelError, match=text):
                await js.create_stream("S", **options)
            assert (await js.create_stream("S", persist_mode=PersistMode.DEFAULT)).name == "S"
