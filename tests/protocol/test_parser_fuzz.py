"""The parser against an encoder of our own, and against noise.

The one claim behind most of it: how the bytes were cut on their way changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.protocol.helpers import feed
from trio_nats._protocol.parser import ErrorLine, Event, Parser, Signal
from trio_nats.errors import ProtocolError
from trio_nats.message import Msg
from trio_nats.options import ProtocolLimits
from trio_nats.server_info import ServerInfo

pytestmark = pytest.mark.slow

# Small, so that fuzzing finds both sides of each.
LIMITS = ProtocolLimits(payload=300, headers=64, control_line=512, info=700)
LARGEST_FRAME = max(
    LIMITS.control_line + 2 + LIMITS.payload + 2,
    LIMITS.info + 2,
)

Frame = tuple[bytes, tuple[object, ...]]
"""Bytes as a server would send them, and what they mean."""


def meaning(event: Event) -> tuple[object, ...]:
    if isinstance(event, Msg):
        return (
            "message",
            event.raw_subject,
            event.sid,
            event.raw_reply,
            event.raw_headers,
            event.data,
        )
    if isinstance(event, Signal):
        return (event.value,)
    if isinstance(event, ErrorLine):
        return ("error line", event.text)
    if isinstance(event, ServerInfo):
        return ("info", event)
    # Which bytes an error quotes is the subject of a test of its own.
    return ("protocol error", str(event).partition(": ")[0])


def feed_all(chunks: list[bytes]) -> list[Event]:
    """Every event of a parser that is watched all the while."""
    parser = Parser(LIMITS)
    events: list[Event] = []
    for chunk in chunks:
        given = feed(parser, chunk)
        over = any(isinstance(event, ProtocolError) for event in events)
        assert not (over and given), "nothing comes after a ProtocolError"
        assert not any(isinstance(event, ProtocolError) for event in given[:-1])
        events += given
        assert parser.buffered < LARGEST_FRAME + len(chunk)
    return events


def meanings(chunks: list[bytes]) -> list[tuple[object, ...]]:
    return [meaning(event) for event in feed_all(chunks)]


def cut(data: bytes, points: list[int]) -> list[bytes]:
    """``data`` in pieces, empty ones too."""
    edges = [0, *sorted(min(point, len(data)) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


# --- an encoder ----------------------------------------------------------------------------------

words = (
    st.binary(min_size=1, max_size=12)
    .map(lambda word: word.translate(None, b" \t\r\n"))
    .filter(bool)
)
gaps = st.sampled_from([b" ", b"\t", b"  ", b" \t", b"\t\t "])
tails = st.sampled_from([b"", b" ", b"\t", b"  "])
payloads = st.binary(max_size=80) | st.sampled_from(
    [b"\r\n", b"\r", b"\n", b"PING\r\n", b"INFO {}\r\n", b"MSG a 1 0\r\n\r\n", b"x" * 236]
)
header_blocks = st.binary(max_size=64) | st.just(b"NATS/1.0 503\r\n\r\n")


@st.composite
def messages(draw: st.DrawFn) -> Frame:
    subject, sid = draw(words), draw(words)
    reply = draw(st.none() | words)
    headers = draw(st.none() | header_blocks)
    data = draw(payloads)
    said = [b"MSG" if headers is None else b"HMSG", subject, sid]
    if reply is not None:
        said.append(reply)
    if headers is not None:
        said.append(str(len(headers)).encode())
    said.append(str(len(headers or b"") + len(data)).encode())
    line = said[0]
    for word in said[1:]:
        line += draw(gaps) + word
    wire = line + draw(tails) + b"\r\n" + (headers or b"") + data + b"\r\n"
    return wire, ("message", subject, sid, reply, headers or None, data)


@st.composite
def runs(draw: st.DrawFn) -> list[Frame]:
    """Messages that differ in their data only, which may look like what is around it."""
    subject, sid = draw(words), draw(st.sampled_from([b"1", b"2"]))
    head = draw(st.sampled_from([0, 12]))
    length = draw(st.integers(0, 60))
    line = b"MSG %b %b %d" % (subject, sid, length)
    if head:
        line = b"HMSG %b %b %d %d" % (subject, sid, head, head + length)
    lure = (b"\r\n" + line + b"\r\n") * 3
    frames = []
    for _ in range(draw(st.integers(2, 5))):
        body = draw(st.binary(min_size=head + length, max_size=head + length))
        if draw(st.booleans()):
            body = lure[: len(body)].ljust(len(body), b".")
        meant = ("message", subject, sid, None, body[:head] or None, body[head:])
        frames.append((line + b"\r\n" + body + b"\r\n", meant))
    return frames


@st.composite
def signals(draw: st.DrawFn) -> Frame:
    name = draw(st.sampled_from(["PING", "PONG", "+OK"]))
    return name.encode() + draw(tails) + b"\r\n", (name.encode(),)


@st.composite
def error_lines(draw: st.DrawFn) -> Frame:
    letters = st.characters(min_codepoint=0x21, max_codepoint=0x2FF, exclude_characters="'")
    text = draw(st.text(letters, max_size=20).filter(lambda text: text == text.strip()))
    quote = draw(st.sampled_from(["'", ""]))
    expected = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"-ERR {quote}{text}{quote}\r\n".encode(), ("error line", expected)


@st.composite
def infos(draw: st.DrawFn) -> Frame:
    said: dict[str, object] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "server_id": st.text(max_size=8),
                "port": st.integers(0, 65535),
                "headers": st.booleans(),
                "max_payload": st.integers(0, 2**40),
            },
        )
    )
    urls = draw(st.none() | st.lists(st.text(max_size=6), max_size=3))
    unknown = draw(st.dictionaries(st.just("later"), st.none() | st.lists(st.integers(0, 9))))
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 1]))
    text = json.dumps(
        {**unknown, **said, "connect_urls": urls}, ensure_ascii=ascii_only, indent=indent
    )
    expected = ServerInfo(
        **said,  # type: ignore[arg-type]
        connect_urls=None if urls is None else tuple(urls),
    )
    return b"INFO " + text.encode() + draw(tails) + b"\r\n", ("info", expected)


frames = messages() | signals() | error_lines() | infos()
streams = st.lists(frames.map(lambda frame: [frame]) | runs(), max_size=8).map(
    lambda parts: [frame for part in parts for frame in part]
)
cuts = st.lists(st.integers(0, 1500), max_size=20)


@given(streams)
def test_parsing_returns_what_was_encoded(stream: list[Frame]) -> None:
    wire = b"".join(wire for wire, _ in stream)
    expected = [meant for _, meant in stream]
    assert meanings([wire]) == expected
    assert meanings(bytewise(wire)) == expected


@given(streams, cuts)
def test_cutting_a_stream_changes_nothing(stream: list[Frame], points: list[int]) -> None:
    wire = b"".join(wire for wire, _ in stream)
    assert meanings(cut(wire, points)) == [meant for _, meant in stream]


@given(streams, messages(), st.integers(0, 400))
def test_an_unfinished_frame_waits_and_goes_on(
    stream: list[Frame], last: Frame, missing: int
) -> None:
    whole = b"".join(wire for wire, _ in stream)
    wire, meant = last
    begun = wire[: max(1, len(wire) - 1 - missing)]
    parser = Parser(LIMITS)
    assert [meaning(event) for event in feed(parser, whole + begun)] == [m for _, m in stream]
    assert parser.buffered == len(begun)
    assert [meaning(event) for event in feed(parser, wire[len(begun) :])] == [meant]
    assert parser.buffered == 0


# --- what no server sends ------------------------------------------------------------------------


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A well formed stream in which a few bytes were changed, lost, doubled or added."""
    wire = b"".join(wire for wire, _ in draw(streams.filter(bool)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(wire)))
        end = start + draw(st.integers(0, 4))
        new = draw(
            st.binary(max_size=3)
            | st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"9", b"-", b"+5", b"1_0", b"MSG "])
            | st.just(wire[start:end] * 2)
        )
        wire = wire[:start] + new + wire[end:]
    return wire


PIECES = [
    *(b"MSG ", b"HMSG ", b"INFO ", b"-ERR ", b"PING", b"PONG", b"+OK", b"a ", b"1 ", b"12 "),
    *(b"0", b"2", b"+5", b"1_0", b"-1", b"999999999999", b"9999999999999", b"300", b"301"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b"\t", b"hi", b"NATS/1.0\r\n\r\n"),
    *(b"{}", b'{"port":1}', b"{", b'"', b"\x00", b"\xff", b"x" * 300),
]
noise = st.binary(max_size=400) | st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join)
anything = mutated() | noise


@given(anything, cuts)
@example(b"MSG a 1 2\r\nhi\rX", [14])
@example(b"M" * 513 + b"\r\n", [512, 513, 514])
@example(b"M" * 512 + b"\r\n", [512, 513])
@example(b"I" * 701 + b"\r\n", [512, 513, 514, 700, 701, 702])
@example(b"PING\r\n\r\n", [6])
def test_cutting_anything_at_all_changes_nothing(data: bytes, points: list[int]) -> None:
    expected = meanings([data])
    assert meanings(cut(data, points)) == expected
    assert meanings(bytewise(data)) == expected


def final_text(chunks: list[bytes]) -> str | None:
    return next((str(e) for e in feed_all(chunks) if isinstance(e, ProtocolError)), None)


@pytest.mark.parametrize(
    "data",
    [
        b"XYZ and more\r\n",
        b"MSG a 1 x\r\nhi\r\n",
        b"MSG a 1 301\r\nhi\r\n",
        b"HMSG a 1 65 66\r\nNATS/1.0\r\n",
        b"HMSG a 1 9 8\r\nNATS/1.0\r\n",
        b"MSG a 1 2\r\nhi, there\r\n",
        b"HMSG a 1 0 2\r\nhi, there\r\n",
        b"PING x\r\nPONG\r\n",
        b"INFO{}\r\nPING\r\n",
        b"INFO {\r\nPING\r\n",
        b"-OK\r\nPING\r\n",
        b"M" * 600,
        b"I" * 800,
    ],
)
def test_cutting_does_not_change_the_text_of_an_error(data: bytes) -> None:
    whole = final_text([data])
    assert whole is not None
    assert final_text(bytewise(data)) == whole
    for point in range(len(data)):
        assert final_text(cut(data, [point])) == whole


@given(anything, cuts)
def test_cutting_anything_does_not_change_the_text_of_its_error(
    data: bytes, points: list[int]
) -> None:
    whole = final_text([data])
    assert final_text(cut(data, points)) == whole
    assert final_text(bytewise(data)) == whole


@given(anything)
def test_texts_from_hostile_bytes_are_bounded_and_printable(data: bytes) -> None:
    for event in feed_all([data]):
        if isinstance(event, ProtocolError):
            assert len(str(event)) < 400
            assert str(event).isprintable()
        elif isinstance(event, ErrorLine):
            assert len(event.text) <= 20_000
            assert event.text.isprintable()


@given(anything)
def test_hostile_messages_can_be_looked_at(data: bytes) -> None:
    for event in feed_all([data]):
        if isinstance(event, Msg):
            assert isinstance(event.subject, str)
            assert event.reply is None or isinstance(event.reply, str)
            assert event.status is None or 0 <= event.status.code <= 999
            assert all(isinstance(value, str) for _, value in event.headers.pairs())
            assert repr(event).startswith("Msg(")


# --- memory --------------------------------------------------------------------------------------

ENDLESS: dict[str, Callable[[int], bytes]] = {
    "one letter": lambda size: b"P" * size,
    "an INFO line": lambda size: b'INFO {"a":"' + b"x" * size,
    "an INFO line of line feeds": lambda size: b"INFO " + b"\n" * size,
    "an error line": lambda size: b"-ERR " + b"x" * size,
    "a MSG line of spaces": lambda size: b"MSG a 1" + b" " * size,
    "a size": lambda size: b"MSG a 1 " + b"9" * size,
    "a payload": lambda size: b"MSG a 1 300\r\n" + b"x" * size,
    "headers": lambda size: b"HMSG a 1 64 300\r\n" + b"x" * size,
    "messages": lambda size: b"MSG a 1 0\r\n\r\n" * (size // 13),
}


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("step", [1, 7, 100, 5000])
def test_memory_is_bounded_however_long_it_goes_on(make: Callable[[int], bytes], step: int) -> None:
    data = make(5000)
    parser = Parser(LIMITS)
    for start in range(0, len(data), step):
        chunk = data[start : start + step]
        feed(parser, chunk)
        assert parser.buffered < LARGEST_FRAME + len(chunk)
    if make is not ENDLESS["messages"]:
        assert parser.buffered == 0, "it should have been given up by now"
