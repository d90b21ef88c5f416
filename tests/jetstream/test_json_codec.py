"""Between JSON and structs: seconds, times, what is left out and what is left alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jetstream.helpers import REQUIRED
from trio_nats import ConfigurationError
from trio_nats.jetstream import (
    AckPolicy,
    ClusterInfo,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DesiredClusterInfo,
    DesiredClusterOrigin,
    DesiredClusterStatus,
    ExternalStream,
    PeerInfo,
    Placement,
    RetentionPolicy,
    SourceError,
    SourceInfo,
    StreamConfig,
    StreamInfo,
    StreamSource,
    SubjectTransform,
    json_codec,
)

# --- seconds -------------------------------------------------------------------------------------


@given(st.integers(0, 10**15))
def test_nanoseconds_survive(ns: int) -> None:
    """Up to eleven days to the last one."""
    seconds = json_codec.seconds(ns)
    assert isinstance(seconds, float)
    assert json_codec.nanoseconds("x", seconds) == ns


@given(st.integers(0, json_codec.MAX_NANOSECONDS // 10**6))
def test_milliseconds_survive_however_long_the_time(ms: int) -> None:
    seconds = json_codec.seconds(ms * 10**6)
    assert isinstance(seconds, float)
    assert round(json_codec.nanoseconds("x", seconds), -6) == ms * 10**6


@given(st.decimals(0, 10**6, places=9))
def test_seconds_are_what_is_written(value) -> None:
    """No error of binary fractions: what is written in decimals is what is sent."""
    as_float = float(value)
    if repr(as_float) == str(value.normalize()):
        assert json_codec.nanoseconds("x", as_float) == value * 10**9


def test_whole_seconds_may_be_integers() -> None:
    assert json_codec.nanoseconds("x", 365 * 86400) == 365 * 86400 * 10**9


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, 1e11, "1", True, None])
def test_values_that_are_not_seconds(value) -> None:
    kind = TypeError if value in ("1", None) or value is True else ConfigurationError
    with pytest.raises(kind, match="age"):
        json_codec.nanoseconds("age", value)


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_times_survive_in_utc(naive: datetime, minutes: int) -> None:
    time = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    text = json_codec.time_to_wire("x", time)
    assert text.endswith("Z")
    back = json_codec.time_from_wire(text)
    assert back == time
    assert back is not None
    assert back.tzinfo is UTC


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="opt_start_time must have a time zone"):
        json_codec.time_to_wire("opt_start_time", datetime(2030, 1, 1))


def test_less_than_a_microsecond_is_cut_off() -> None:
    """Rounded up, it would be later than what happened."""
    assert json_codec.time_from_wire("2030-01-01T00:00:00.123456999Z") == datetime(
        2030, 1, 1, 0, 0, 0, 123456, UTC
    )
    assert json_codec.time_from_wire("2030-01-01T00:00:00.9999999+02:00") == datetime(
        2029, 12, 31, 22, 0, 0, 999999, UTC
    )


def test_the_zero_time_is_none() -> None:
    assert json_codec.time_from_wire("0001-01-01T00:00:00Z") is None
    assert json_codec.time_from_wire("0001-01-01T00:00:00+14:00") is None


# --- structs -------------------------------------------------------------------------------------


def test_what_is_sent_for_a_stream() -> None:
    config = StreamConfig(
        name="S",
        subjects=["s.>"],
        max_age=1.5,
        max_msgs=10,
        sources=[
            StreamSource(
                name="O",
                opt_start_time=datetime(2030, 1, 1, tzinfo=UTC),
                subject_transforms=[SubjectTransform(src="a.*", dest="b.{{wildcard(1)}}")],
            )
        ],
        metadata={"a": "b"},
        placement=Placement(cluster="c", tags=["ssd"]),
        discard_new_per_subject=True,
    )
    assert msgspec.json.decode(json_codec.encode(config)) == {
        **REQUIRED,
        "name": "S",
        "subjects": ["s.>"],
        "max_age": 1_500_000_000,
        "max_msgs": 10,
        "sources": [
            {
                "name": "O",
                "opt_start_time": "2030-01-01T00:00:00Z",
                "subject_transforms": [{"src": "a.*", "dest": "b.{{wildcard(1)}}"}],
            }
        ],
        "metadata": {"a": "b"},
        "placement": {"cluster": "c", "tags": ["ssd"]},
        "discard_new_per_subject": True,
    }


def test_what_is_sent_for_a_consumer() -> None:
    """The acknowledging is always said: the server's own default is not ours."""
    assert msgspec.json.decode(json_codec.encode(ConsumerConfig())) == {
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
    }
    config = ConsumerConfig(
        durable_name="c",
        ack_policy=AckPolicy.ALL,
        deliver_policy=DeliverPolicy.LAST,
        backoff=[1, 2.5],
        max_waiting=0,
    )
    assert msgspec.json.decode(json_codec.encode(config)) == {
        "durable_name": "c",
        "ack_policy": "all",
        "deliver_policy": "last",
        "replay_policy": "instant",
        "backoff": [1_000_000_000, 2_500_000_000],
        "max_waiting": 0,
    }


def test_what_a_newer_server_says() -> None:
    """Unknown fields of configurations and unknown words of an enumeration are kept."""
    raw = {
        "config": {"name": "S", "retention": "forever", "storage": "memory", "fancy": {"a": [1]}},
        "state": {"messages": 3, "weight": 1.5},
        "news": True,
    }
    info = json_codec.from_wire(raw, StreamInfo)
    assert info.state.messages == 3
    assert info.config.retention == "forever"
    assert isinstance(info.config.retention, RetentionPolicy)
    assert list(RetentionPolicy) == ["limits", "interest", "workqueue"]
    assert msgspec.json.decode(json_codec.encode(info.config)) == {
        **REQUIRED,
        "name": "S",
        "retention": "forever",
        "storage": "memory",
        "fancy": {"a": [1]},
    }


def test_null_fields_have_their_defaults() -> None:
    raw = {
        "config": {"name": "S", "subjects": None, "mirror": None, "metadata": None, "max_age": 0},
        "sources": None,
        "state": None,
        "created": "0001-01-01T00:00:00Z",
    }
    info = json_codec.from_wire(raw, StreamInfo)
    assert info == StreamInfo(config=StreamConfig(name="S"))


def test_what_goes_wrong_and_what_never_happened() -> None:
    raw = {
        "config": {"name": "S"},
        "mirror": {
            "name": "NO",
            "lag": 0,
            "active": -1,
            "error": {"code": 404, "err_code": 10059, "description": "stream not found"},
        },
        "sources": [{"name": "A", "active": 250_000_000}],
        "cluster": {
            "replicas": [{"name": "n", "active": -1, "pending": True}],
            "desired": {
                "name": "C",
                "replicas": [{"name": "m"}],
                "origin": {"replicas": 3, "placement": {"cluster": "D"}, "retention": "interest"},
                "status": {"description": "waiting", "type": "quorum", "err": "no"},
            },
        },
    }
    info = json_codec.from_wire(raw, StreamInfo)
    error = SourceError(code=404, err_code=10059, description="stream not found")
    assert info.mirror == SourceInfo(name="NO", active=None, error=error)
    assert info.sources[0].active == 0.25
    assert info.cluster == ClusterInfo(
        replicas=[PeerInfo(name="n", active=None, pending=True)],
        desired=DesiredClusterInfo(
            name="C",
            replicas=[PeerInfo(name="m")],
            origin=DesiredClusterOrigin(
                replicas=3, placement=Placement(cluster="D"), retention=RetentionPolicy.INTEREST
            ),
            status=DesiredClusterStatus(description="waiting", type="quorum", err="no"),
        ),
    )


def test_seconds_everywhere() -> None:
    raw = {
        "stream_name": "S",
        "name": "c",
        "config": {"backoff": [10**9, 5 * 10**8], "ack_wait": 3 * 10**10},
        "pause_remaining": 1_500_000_000,
        "cluster": {"replicas": [{"name": "n", "active": 250_000_000}]},
        "delivered": {"last_active": "2030-01-01T00:00:00.5Z"},
    }
    info = json_codec.from_wire(raw, ConsumerInfo)
    assert list(info.config.backoff) == [1.0, 0.5]
    assert info.config.ack_wait == 30.0
    assert info.pause_remaining == 1.5
    assert info.cluster is not None
    assert info.cluster.replicas[0].active == 0.25
    assert info.delivered.last_active == datetime(2030, 1, 1, 0, 0, 0, 500_000, UTC)


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"config": 5},
        {"config": {"name": 5}},
        {"config": {"name": "S"}, "state": {"messages": "many"}},
        {"config": {"name": "S", "max_age": "long"}},
        {"config": {"name": "S"}, "created": "yesterday"},
        {"config": {"name": "S"}, "created": 5},
        {"config": {"name": "S", "subjects": "s"}},
        {"config": {"name": "S", "retention": 5}},
    ],
)
def test_nonsense_is_a_value_error(raw) -> None:
    with pytest.raises(ValueError):
        json_codec.from_wire(raw, StreamInfo)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["config", "name", "subjects", "state", "created", "sources", "max_age", "mirror"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(json)
def test_any_nonsense_is_a_value_error_or_an_info(raw) -> None:
    try:
        json_codec.from_wire(raw, StreamInfo)
    except (ValueError, OverflowError):
        pass


@pytest.mark.parametrize(
    ("config", "kind", "text"),
    [
        ({"max_msgs": "5"}, TypeError, "max_msgs"),
        ({"subjects": "s"}, TypeError, "subjects"),
        (
            {"retention": "limit"},
            ConfigurationError,
            "retention must be one of 'limits', 'interest', 'workqueue', not",
        ),
        ({"max_age": math.inf}, ConfigurationError, "max_age"),
        ({"description": "\ud800"}, ConfigurationError, "StreamConfig"),
        ({"metadata": {"a": object()}}, TypeError, "StreamConfig"),
        ({"mirror": {"name": "x"}}, TypeError, "mirror must be a StreamSource, not dict"),
        ({"sources": [{"name": "x"}]}, TypeError, "sources must be a StreamSource, not dict"),
        ({"sources": [StreamSource(name=5)]}, TypeError, "sources"),  # type: ignore[arg-type]
    ],
)
def test_values_that_cannot_be_sent(config, kind, text) -> None:
    """A clear error, and no other."""
    with pytest.raises(kind, match=text):
        json_codec.encode(StreamConfig(name="S", **config))


def test_lists_cannot_be_none() -> None:
    """Also not one whose type is equal to that of another field."""
    for name in ("backoff", "filter_subjects", "priority_groups"):
        with pytest.raises(TypeError, match=name):
            json_codec.check_types(ConsumerConfig(**{name: None}))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tags"):
        json_codec.check_types(Placement(tags=None))  # type: ignore[arg-type]


def test_enums_may_be_given_as_text() -> None:
    sent = json_codec.encode(StreamConfig(name="S", retention="interest"))  # type: ignore[arg-type]
    assert msgspec.json.decode(sent) == {
        **REQUIRED,
        "name": "S",
        "retention": "interest",
    }


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    for_long: json_codec.Seconds = 0.0


class Outer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    each_of: Mapping[str, Inner] = {}
    some_of: Sequence[Inner] = ()


def test_seconds_inside_of_mappings_and_names_that_differ() -> None:
    raw = {"eachOf": {"a": {"forLong": 1}, "b": {"for_long": 10**9}}, "someOf": [{}]}
    assert json_codec.from_wire(raw, Outer) == Outer(
        each_of={"a": Inner(), "b": Inner(for_long=1.0)}, some_of=[Inner()]
    )


def test_fields_of_newer_servers_are_no_difference() -> None:
    """Wherever they are in a configuration."""
    asked = StreamConfig(
        name="S",
        placement=Placement(cluster="c", tags=("t",)),
        sources=[StreamSource(name="A", external=ExternalStream(api="a.b"))],
    )
    told = StreamConfig(
        name="S",
        placement=Placement(cluster="c", tags=["t"], extra={"new": 1}),
        sources=[
            StreamSource(
                name="A", external=ExternalStream(api="a.b", extra={"new": 1}), extra={"new": 1}
            )
        ],
    )
    assert json_codec.differences(asked, told) == ""
    other = StreamConfig(
        name="S",
        placement=Placement(cluster="c", tags=("t",)),
        sources=[StreamSource(name="A", external=ExternalStream(api="a.c"))],
    )
    assert json_codec.differences(asked, other).startswith("sources is ")


# --- how much work it is -------------------------------------------------------------------------


def test_only_fields_that_were_given_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[object] = []
    convert = msgspec.convert

    def count(value: object, kind: type) -> object:
        converted.append(value)
        return convert(value, kind)

    config = ConsumerConfig(name="c", ack_wait=5.0, description="")
    monkeypatch.setattr(msgspec, "convert", count)
    json_codec.check_types(config)
    assert converted == ["c", 5.0, {}]  # the default of `extra` is made anew each time


@pytest.mark.parametrize(
    "wrong",
    [{"ack_wait": "5"}, {"filter_subjects": "a"}, {"max_deliver": None}, {"headers_only": 0}],
)
def test_what_only_looks_like_a_default_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"ConsumerConfig: {next(iter(wrong))} must be"):
        json_codec.check_types(msgspec.structs.replace(ConsumerConfig(), **wrong))
