"""What the reply subject of a message says, and what statuses mean."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_nats import Msg
from trio_nats.jetstream import JetStreamMsg, MsgMetadata
from trio_nats.jetstream.consumer.message import AckContext, read_metadata
from trio_nats.jetstream.consumer.pull_status import PullOutcome, read_status

SHORT = "$JS.ACK.ORDERS.workers.3.1017.42.1700000000123456789.7"
LONG = "$JS.ACK.hub.Xa1bcD.ORDERS.workers.3.1017.42.1700000000123456789.7"

TOKEN = st.text(
    st.characters(codec="utf-8", exclude_characters=". ", exclude_categories=("Cs",)), min_size=1
)
NUMBER = st.integers(0, 2**64 - 1)


def test_the_form_of_nine_tokens() -> None:
    metadata = read_metadata(SHORT)
    assert metadata == MsgMetadata(
        stream="ORDERS",
        consumer="workers",
        delivered=3,
        stream_seq=1017,
        consumer_seq=42,
        timestamp_ns=1700000000123456789,
        pending=7,
        domain=None,
    )
    assert metadata.timestamp == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)


def test_the_form_of_eleven_tokens() -> None:
    metadata = read_metadata(LONG)
    assert metadata.domain == "hub"
    assert (metadata.stream, metadata.consumer, metadata.pending) == ("ORDERS", "workers", 7)
    assert read_metadata(LONG + ".more.and.more") == metadata
    assert read_metadata(LONG.replace("hub", "_")).domain is None


@pytest.mark.slow
@given(TOKEN, TOKEN, st.none() | TOKEN, st.lists(NUMBER, min_size=5, max_size=5))
def test_a_written_reply_subject_can_be_read(
    stream: str, consumer: str, domain: str | None, numbers: list[int]
) -> None:
    front = "" if domain is None else f"{domain}.hash."
    metadata = read_metadata(f"$JS.ACK.{front}{stream}.{consumer}.{'.'.join(map(str, numbers))}")
    assert metadata.stream == stream
    assert metadata.consumer == consumer
    assert metadata.domain == (None if domain == "_" else domain)
    assert [
        metadata.delivered,
        metadata.stream_seq,
        metadata.consumer_seq,
        metadata.timestamp_ns,
        metadata.pending,
    ] == numbers
    assert metadata.timestamp.tzinfo is UTC


@pytest.mark.slow
@given(st.text() | st.from_regex(r"\$JS\.ACK(\.[^.]{0,3}){6,12}", fullmatch=True))
@example("")
@example("$JS.ACK")
@example("_INBOX.x")
@example(SHORT + ".x")
@example(SHORT.replace(".3.", ".-3."))
@example(SHORT.replace(".3.", ".+3."))
@example(SHORT.replace(".3.", ". 3."))
@example(SHORT.replace(".3.", ".³."))
@example(SHORT.replace(".3.", ".9_9."))
@example(SHORT.replace(".3.", f".{2**64}."))
@example(SHORT.replace(".3.", f".{'9' * 10000}."))
def test_anything_else_is_a_value_error(reply: str) -> None:
    try:
        metadata = read_metadata(reply)
    except ValueError as error:
        assert "JetStream" in str(error)  # noqa: PT017 -- it may also be right
    else:
        assert reply.startswith("$JS.ACK.")
        assert metadata.timestamp.year >= 1970


def test_a_message_without_metadata_says_so() -> None:
    msg = JetStreamMsg(
        Msg.new("s.1", b"x", reply="_INBOX.1"), AckContext(None, "s", "c", acks=True)
    )
    with pytest.raises(ValueError, match="not the reply subject of a JetStream message"):
        _ = msg.metadata


# --- statuses ------------------------------------------------------------------------------------


def status(line: str, headers: str = "", data: bytes = b"", reply: str | None = None) -> Msg:
    msg = Msg.new("_INBOX.a.7", data, reply=reply)
    msg.raw_headers = f"NATS/1.0 {line}\r\n{headers}\r\n".encode()
    return msg


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("100 Idle Heartbeat", PullOutcome.ALIVE),
        ("400 Bad Request", PullOutcome.FATAL),
        ("404 No Messages", PullOutcome.DONE),
        ("408 Request Timeout", PullOutcome.DONE),
        ("408 Interest Expired", PullOutcome.DONE),
        ("409 Batch Completed", PullOutcome.DONE),
        ("409 Message Size Exceeds MaxBytes", PullOutcome.TOO_LARGE),
        ("409 Consumer Deleted", PullOutcome.FATAL),
        ("409 Consumer is push based", PullOutcome.FATAL),
        ("409 Leadership Change", PullOutcome.LOST),
        ("409 Server Shutdown", PullOutcome.LOST),
        ("409 Exceeded MaxWaiting", PullOutcome.REFUSED),
        ("409 Exceeded MaxRequestBatch of 5", PullOutcome.REFUSED),
        ("409 Exceeded MaxAckPending", PullOutcome.REFUSED),
        ("423 Nats-Wrong-Pin-Id", PullOutcome.UNPINNED),
        ("503", PullOutcome.ABSENT),
        ("599 Something New", PullOutcome.REFUSED),
    ],
)
def test_outcomes(line: str, outcome: PullOutcome) -> None:
    found = read_status(status(line))
    assert found is not None
    assert found.outcome is outcome
    assert found.code == int(line[:3])
    assert found.description == line[4:]
    assert found.subject == b"_INBOX.a.7"


def test_what_was_not_delivered_is_told() -> None:
    found = read_status(
        status("408 Request Timeout", "Nats-Pending-Messages: 12\r\nNats-Pending-Bytes: 345\r\n")
    )
    assert found is not None
    assert (found.pending_messages, found.pending_bytes) == (12, 345)
    nonsense = read_status(
        status("408 x", f"Nats-Pending-Messages: -1\r\nNats-Pending-Bytes: {'9' * 5000}\r\n")
    )
    assert nonsense is not None
    assert (nonsense.pending_messages, nonsense.pending_bytes) == (None, None)


@pytest.mark.parametrize(
    "msg",
    [
        Msg.new("s.1", b"data"),
        Msg.new("s.1"),
        Msg.new("s.1", headers={"a": "b"}),
        status("409 Consumer Deleted", data=b"x"),
        # Published like that by somebody: what is in a stream has a reply subject of JetStream's.
        status("409 Consumer Deleted", reply=SHORT),
        status("not a status"),
    ],
    ids=repr,
)
def test_messages_are_not_statuses(msg: Msg) -> None:
    assert read_status(msg) is None
