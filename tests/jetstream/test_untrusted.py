"""Whatever a server, or an impostor, says: an answer, or an error of ours."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats import Msg
from trio_nats.jetstream import JetStreamError, PubAck, StreamInfo
from trio_nats.jetstream.api import read_answer
from trio_nats.jetstream.get.stored_message import DirectAnswer
from trio_nats.jetstream.publish.ack import read_ack

values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=2)
)
keys = st.sampled_from(
    ["stream", "seq", "duplicate", "domain", "val", "error", "code", "err_code", "description"]
)
documents = st.dictionaries(keys, values | st.dictionaries(keys, values, max_size=3), max_size=5)
payloads = st.binary(max_size=20) | documents.map(msgspec.json.encode)

names = st.sampled_from(
    ["Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "A"]
)
texts = st.sampled_from(
    [
        "",
        "S",
        "7",
        "-7",
        "\u0667",
        "2030-01-01T00:00:00Z",
        "9999-12-31T23:59:59-14:00",
        "2030-01-01 00:00:00 +0000 UTC",
        " UTC",
        "x UTC",
    ]
)


def raw(data: bytes, block: bytes | None = None) -> Msg:
    return Msg(b"subject", b"1", None, data, block)


@pytest.mark.slow
@given(payloads, st.none() | st.binary(max_size=20) | st.just(b"NATS/1.0 503\r\n\r\n"))
def test_acknowledgements(data: bytes, block: bytes | None) -> None:
    try:
        ack = read_ack(raw(data, block), "s")
    except JetStreamError:
        return
    assert isinstance(ack, PubAck)
    assert ack.seq > 0


@pytest.mark.slow
@given(payloads)
def test_answers(data: bytes) -> None:
    try:
        read_answer(data, StreamInfo, "s")
    except JetStreamError:
        return
    raise AssertionError("none of them has a configuration")


@pytest.mark.slow
@given(
    st.lists(st.tuples(names, texts), max_size=8),
    st.sampled_from(["NATS/1.0", "NATS/1.0 404", "NATS/1.0 408 Bad Request", "NATS/1.0 204 EOB"]),
)
def test_direct_gets(pairs: list[tuple[str, str]], first: str) -> None:
    block = "".join(f"{line}\r\n" for line in [first, *(f"{n}: {v}" for n, v in pairs), ""])
    msg = raw(b"x", block.encode())
    for name in ("Nats-Num-Pending", "Nats-Sequence"):
        number = DirectAnswer(msg).number(name)
        assert number is None or number >= 0
    try:
        stored = DirectAnswer(msg).stored()
    except JetStreamError:
        return
    assert stored.data == b"x"
    assert first == "NATS/1.0" or any(name == "Nats-Sequence" for name, _ in pairs)
