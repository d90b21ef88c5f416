"""Messages in streams: published by one client, consumed by the others."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.helpers import Client, Clients, pairs
from trio_nats import open_nats
from trio_nats.jetstream import AckPolicy, ErrorCode

pytestmark = pytest.mark.slow


async def make_stream(clients: Clients, name: str) -> None:
    async with open_nats(clients.url) as nc:
        await nc.jetstream().create_stream(name, subjects=[f"{name}.>"])


@pytest.mark.parametrize(("writer", "reader"), pairs())
async def test_ids_and_expectations(
    clients: Clients, bucket: str, writer: str, reader: str
) -> None:
    """A client that publishes knows what the other has published."""
    await make_stream(clients, bucket)
    write, read, subject = clients[writer], clients[reader], f"{bucket}.a"
    stored = {"stream": bucket, "seq": 1, "duplicate": False}
    assert write("js_publish", subject, "one", msg_id="id 1") == stored
    again = read("js_publish", subject, "one", msg_id="id 1")
    assert again == {**stored, "duplicate": True}
    assert read(
        "js_publish",
        subject,
        "two",
        msg_id="2",
        expect_stream=bucket,
        expect_last_seq=1,
        expect_last_subject_seq=1,
        expect_last_msg_id="id 1",
    ) == {**stored, "seq": 2}
    for refused, code in {
        ("expect_stream", "x"): ErrorCode.STREAM_MISMATCH,
        ("expect_last_seq", 1): ErrorCode.WRONG_LAST_SEQUENCE,
        ("expect_last_subject_seq", 1): ErrorCode.WRONG_LAST_SEQUENCE,
        ("expect_last_msg_id", "x"): ErrorCode.WRONG_LAST_MSG_ID,
    }.items():
        for client in (write, read):
            answer = client("js_publish", subject, "three", **dict([refused]))
            assert answer == {"err_code": code}
    assert write("js_publish", subject, "three", expect_last_seq=2)["seq"] == 3


@pytest.mark.parametrize(("writer", "reader"), pairs())
async def test_headers_and_acknowledgements(
    clients: Clients, bucket: str, writer: str, reader: str
) -> None:
    """Two clients take turns at one durable consumer."""
    await make_stream(clients, bucket)
    write, read = clients[writer], clients[reader]
    sent: dict[str, Any] = {"X": "zwölf €", "Content-Type": "text/plain; a=b"}
    write("js_publish", f"{bucket}.a", "eins €", headers=sent, msg_id="one")
    for number in range(2, 7):
        write("js_publish", f"{bucket}.{number}", str(number))

    def consume(client: Client, *numbers: int, reply: str = "ack") -> list[Any]:
        found = client("js_consume", bucket, "worker", len(numbers), reply)
        assert [one["seq"] for one in found] == list(numbers)
        assert [one["pending"] for one in found] == [6 - number for number in numbers]
        return found

    (first,) = consume(read, 1)
    assert first == {
        "subject": f"{bucket}.a",
        "data": "eins €",
        "headers": {**sent, "Nats-Msg-Id": "one"},
        "seq": 1,
        "consumer_seq": 1,
        "delivered": 1,
        "pending": 5,
    }
    consume(write, 2)
    (refused,) = consume(read, 3, reply="nak")
    assert (refused["headers"], refused["delivered"]) == ({}, 1)
    # The server may handle the next requests before the negative acknowledgement.
    found = write("js_consume", bucket, "worker", 4)
    delivered = sorted((one["seq"], one["delivered"]) for one in found)
    assert delivered == [(3, 2), (4, 1), (5, 1), (6, 1)]
    async with open_nats(clients.url) as nc:
        consumer = await (await nc.jetstream().stream(bucket)).consumer("worker")
        info = consumer.info
        assert (info.num_pending, info.num_ack_pending, info.ack_floor.stream_seq) == (0, 0, 6)
        assert info.config.ack_policy is AckPolicy.EXPLICIT
