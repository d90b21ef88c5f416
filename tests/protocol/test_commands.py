"""Commands, byte for byte, and read back by a small server-side parser of our own."""

from __future__ import annotations

import enum
import json
import re
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_nats._protocol import commands
from trio_nats.errors import InvalidHeaderError, InvalidSubjectError, MaxPayloadError
from trio_nats.headers import Headers, encode_headers
from trio_nats.subjects import check_filter, check_inbox_prefix, check_queue, check_subject


def pub(subject: bytes, reply: bytes | None, payload: bytes) -> bytes:
    return b"".join(commands.pub(subject, reply, payload))


def hpub(subject: bytes, reply: bytes | None, headers: bytes, payload: bytes) -> bytes:
    return b"".join(commands.hpub(subject, reply, headers, payload))


# --- exact bytes ---------------------------------------------------------------------------------


def test_ping_and_pong() -> None:
    assert commands.PING == b"PING\r\n"
    assert commands.PONG == b"PONG\r\n"


def test_connect_takes_any_kind_of_str() -> None:
    class Scalar(str):
        """As parsers give it that remember how a text was quoted."""

    class Names(str, enum.Enum):  # noqa: UP042  # unlike a StrEnum it is formatted as its name
        ONE = "one"

    fields = {"user": Scalar("grün"), "name": Names.ONE, "protocol": 1, "echo": True}
    wire = commands.connect(fields)
    expected = {"user": "grün", "name": "one", "protocol": 1, "echo": True}
    assert json.loads(wire.removeprefix(b"CONNECT ")) == expected
    assert f"{check_inbox_prefix(Names.ONE)}.x" == "one.x"


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (pub(b"a.b", None, b""), b"PUB a.b 0\r\n\r\n"),
        (pub(b"a.b", None, b"hello"), b"PUB a.b 5\r\nhello\r\n"),
        (pub(b"a.b", b"r.1", b"hello"), b"PUB a.b r.1 5\r\nhello\r\n"),
        (pub(b"a", None, b"\r\n"), b"PUB a 2\r\n\r\n\r\n"),
        (pub(b"a", None, b"%d%s"), b"PUB a 4\r\n%d%s\r\n"),
        (
            hpub(b"a", None, b"NATS/1.0\r\n\r\n", b""),
            b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        ),
        (
            hpub(b"a", b"r", b"NATS/1.0\r\nK: v\r\n\r\n", b"hello"),
            b"HPUB a r 18 23\r\nNATS/1.0\r\nK: v\r\n\r\nhello\r\n",
        ),
        (commands.sub(b"a.*", None, b"1"), b"SUB a.* 1\r\n"),
        (commands.sub(b"a.>", b"workers", b"22"), b"SUB a.> workers 22\r\n"),
        (commands.unsub(b"1"), b"UNSUB 1\r\n"),
        (commands.unsub(b"1", 5), b"UNSUB 1 5\r\n"),
        (commands.unsub(b"1", 0), b"UNSUB 1 0\r\n"),
        (commands.connect({}), b"CONNECT {}\r\n"),
        (
            commands.connect({"verbose": False, "protocol": 1, "lang": "python"}),
            b'CONNECT {"verbose":false,"protocol":1,"lang":"python"}\r\n',
        ),
    ],
)
def test_exact_bytes(frame: bytes, wire: bytes) -> None:
    assert frame == wire


def test_hpub_sizes_are_of_the_headers_and_of_both() -> None:
    headers = encode_headers({"Name": "gr\u00fcn \u20ac"})
    frame = hpub(b"a", None, headers, b"\xff" * 1000)
    assert frame.startswith(b"HPUB a %d %d\r\n" % (len(headers), len(headers) + 1000))
    assert serve(frame) == [("HPUB", b"a", None, headers, b"\xff" * 1000)]


# --- a server ------------------------------------------------------------------------------------

Command = tuple[object, ...]


def serve(wire: bytes) -> list[Command]:
    """What a server reads.

    As trusting as real ones are: a line ends at its first line feed, whatever comes before it, and
    arguments are parted by any run of white space. Anything that is left over or does not fit is
    an error.
    """
    said: list[Command] = []
    while wire:
        line, feed, wire = wire.partition(b"\n")
        assert feed, "an unfinished line"
        assert line.endswith(b"\r")
        name, _, rest = line[:-1].partition(b" ")
        if name in (b"PING", b"PONG"):
            assert not rest
            said.append((name.decode(),))
        elif name == b"CONNECT":
            said.append(("CONNECT", json.loads(rest)))
        elif name == b"SUB":
            subject, *queue, sid = _arguments(rest, 2)
            said.append(("SUB", subject, queue[0] if queue else None, sid))
        elif name == b"UNSUB":
            sid, *most = _arguments(rest, 1)
            said.append(("UNSUB", sid, _number(most[0]) if most else None))
        elif name == b"PUB":
            subject, *reply, size = _arguments(rest, 2)
            data, wire = _payload(wire, _number(size))
            said.append(("PUB", subject, reply[0] if reply else None, data))
        else:
            assert name == b"HPUB"
            subject, *reply, head, size = _arguments(rest, 3)
            data, wire = _payload(wire, _number(size))
            split = _number(head)
            assert split <= len(data)
            said.append(("HPUB", subject, reply[0] if reply else None, data[:split], data[split:]))
    return said


def _arguments(rest: bytes, least: int) -> list[bytes]:
    found = re.split(rb"[ \t\r]+", rest)
    assert least <= len(found) <= least + 1
    assert b"" not in found
    return found


def _number(text: bytes) -> int:
    assert re.fullmatch(rb"0|[1-9][0-9]*", text)
    return int(text)


def _payload(wire: bytes, size: int) -> tuple[bytes, bytes]:
    assert wire[size : size + 2] == b"\r\n"
    return wire[:size], wire[size + 2 :]


@pytest.mark.parametrize(
    "wire",
    [
        b"PUB a 1\r\nxy\r\n",
        b"PUB a b c 1\r\nx\r\n",
        b"SUB a\r\n",
        b"SUB a q 1 2\r\n",
        b"SUB a 1",
        b"SUB a\nb 1\r\n",
        b"HPUB a 3 2\r\nhi\r\n",
        b"NOISE\r\n",
    ],
)
def test_the_server_notices_what_is_wrong(wire: bytes) -> None:
    with pytest.raises(AssertionError):
        serve(wire)


# --- whatever users say --------------------------------------------------------------------------

letters = st.characters(exclude_categories=["Cs"], exclude_characters=".*>\x7f", min_codepoint=0x21)
tokens = st.text(letters, min_size=1, max_size=6)
literals = st.lists(tokens, min_size=1, max_size=4).map(".".join)
filters = st.tuples(
    st.lists(tokens | st.just("*"), min_size=1, max_size=4).map(".".join),
    st.sampled_from(["", ".>"]),
).map("".join) | st.just(">")
sids = st.integers(1, 10**9).map(lambda number: b"%d" % number)
values = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\x00"), max_size=8
)
names = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":"),
    min_size=1,
    max_size=8,
)
headers = st.lists(st.tuples(names, values), max_size=4)
payloads = st.binary(max_size=60) | st.sampled_from([b"\r\n", b"\r\nPING\r\n", b"0\r\nSUB > 1\r\n"])
fields = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans(),
    max_size=5,
)


@st.composite
def said(draw: st.DrawFn) -> tuple[bytes, Command]:
    """A command with arguments that pass their checks, and what a server should make of it."""
    kind = draw(st.sampled_from(["pub", "hpub", "sub", "unsub", "connect", "ping", "pong"]))
    if kind in ("pub", "hpub"):
        subject = check_subject(draw(literals))
        reply = draw(st.none() | literals.map(check_subject))
        data = draw(payloads)
        if kind == "pub":
            return pub(subject, reply, data), ("PUB", subject, reply, data)
        block = encode_headers(draw(headers))
        return hpub(subject, reply, block, data), ("HPUB", subject, reply, block, data)
    if kind == "sub":
        subject, sid = check_filter(draw(filters)), draw(sids)
        queue = draw(st.none() | literals.map(check_queue))
        return commands.sub(subject, queue, sid), ("SUB", subject, queue, sid)
    if kind == "unsub":
        sid, most = draw(sids), draw(st.none() | st.integers(0, 10**9))
        return commands.unsub(sid, most), ("UNSUB", sid, most)
    if kind == "connect":
        given = draw(fields)
        return commands.connect(given), ("CONNECT", given)
    return (commands.PING, ("PING",)) if kind == "ping" else (commands.PONG, ("PONG",))


@pytest.mark.slow
@given(st.lists(said(), max_size=6))
def test_a_server_reads_what_was_said(everything: list[tuple[bytes, Command]]) -> None:
    assert serve(b"".join(frame for frame, _ in everything)) == [meant for _, meant in everything]


PIECES = [
    *("a", ".", "*", ">", "1", "-1", "PUB x 0", "\u010a"),
    *(" ", "\t", "\r", "\n", "\r\n", "\x00", "\x0b", "\x0c", "\x7f"),
    *("\x85", "\xa0", "\u2028", "\u3000", "\ud800", "\udc0a", "\udc0d"),
]
hostile = st.text(st.characters(exclude_categories=[]), max_size=12) | st.lists(
    st.sampled_from(PIECES), max_size=10
).map("".join)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_subject, check_filter, check_queue])
@given(text=hostile)
def test_no_subject_adds_protocol_lines(check: Callable[[str], bytes], text: str) -> None:
    try:
        wire = check(text)
    except InvalidSubjectError:
        return
    assert wire == text.encode()
    assert serve(commands.sub(wire, None, b"1")) == [("SUB", wire, None, b"1")]
    assert serve(commands.sub(b"a", wire, b"1")) == [("SUB", b"a", wire, b"1")]
    assert serve(pub(wire, wire, b"hi")) == [("PUB", wire, wire, b"hi")]
    assert serve(hpub(wire, None, b"", b"hi")) == [("HPUB", wire, None, b"", b"hi")]


@pytest.mark.slow
@given(name=hostile, value=hostile)
def test_no_header_adds_protocol_lines(name: str, value: str) -> None:
    try:
        block = encode_headers(Headers([(name, value)]))
    except InvalidHeaderError:
        return
    # Some peers end a header line at a bare line feed, some stop at NUL.
    assert block.count(b"\n") == block.count(b"\r") == block.count(b"\r\n") == 3
    assert b"\x00" not in block
    kept = value.strip(" \t").encode("utf-8", "surrogateescape")
    assert block == b"NATS/1.0\r\n%b: %b\r\n\r\n" % (name.encode(), kept)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_in_connect_ends_its_line(text: str) -> None:
    frame = commands.connect({text: text})
    assert frame.endswith(b"\r\n")
    assert not re.search(rb"[\x00-\x1f]", frame[:-2])
    assert serve(frame) == [("CONNECT", {text: text})]


# --- what is remembered of subjects and sizes -----------------------------------------------------


def remembered(heads: commands.PubLineCache) -> int:
    return sum(map(len, heads.known.values()))


def test_a_line_is_remembered_by_subject_and_size() -> None:
    heads = commands.PubLineCache(100, 4096)
    assert heads.learn("a.b", 5) == (b"PUB a.b 5\r\n", 18)
    assert heads.learn("a.b", 100) == (b"PUB a.b 100\r\n", 115)
    assert heads.known == {"a.b": {5: (b"PUB a.b 5\r\n", 18), 100: (b"PUB a.b 100\r\n", 115)}}


def test_invalid_messages_are_not_cached() -> None:
    heads = commands.PubLineCache(100, 4096)
    with pytest.raises(MaxPayloadError):
        heads.learn("a", 101)
    for subject in ("", "a b", "a.*", "a\r\nPING"):
        with pytest.raises(InvalidSubjectError):
            heads.learn(subject, 5)
    assert heads.known == {}


def test_a_new_limit_clears_the_cache() -> None:
    heads = commands.PubLineCache(100, 4096)
    heads.learn("a", 100)
    heads.max_payload = 100
    assert remembered(heads) == 1
    heads.max_payload = 50
    assert remembered(heads) == 0
    with pytest.raises(MaxPayloadError):
        heads.learn("a", 51)
    assert heads.max_payload == 50


@pytest.mark.slow
def test_memory_is_bounded_however_many_subjects_and_sizes_there_are() -> None:
    heads = commands.PubLineCache(1_000_000, 4096)
    for number in range(4_000):
        heads.learn(f"inbox.{number}", 5)
        heads.learn("a", number)
        assert remembered(heads) <= 4096


@pytest.mark.slow
def test_memory_is_bounded_however_long_the_subjects_are() -> None:
    """What the answers of a responder go to is for its requesters to choose."""
    heads = commands.PubLineCache(1_000_000, 4096)
    tracemalloc.start()
    for number in range(2_500):
        for length in (256, 257, 4000):
            subject = f"{number}".rjust(length, "x")
            heads.learn(subject, 5)
            heads.subject(subject)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert remembered(heads) <= 4096
    assert size < 8_000_000
