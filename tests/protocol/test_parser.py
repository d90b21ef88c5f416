"""The parser, case by case. What holds for all input at once is in test_parser_fuzz."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocol.helpers import feed
from trio_nats._protocol.parser import (
    ErrorLine,
    Event,
    Parser,
    Signal,
    error_text,
    excerpt,
)
from trio_nats.codecs import Payload
from trio_nats.errors import ProtocolError
from trio_nats.headers import HeadersLike
from trio_nats.message import Msg
from trio_nats.options import ProtocolLimits
from trio_nats.server_info import ServerInfo

LIMITS = ProtocolLimits(payload=4096, headers=1024, control_line=512, info=2048)


def msg(
    subject: bytes,
    sid: bytes,
    data: bytes,
    *,
    reply: bytes | None = None,
    headers: bytes | None = None,
) -> tuple[object, ...]:
    return ("message", subject, sid, reply, headers, data)


def shape(event: Event) -> object:
    """Something that compares equal when the events say the same."""
    if isinstance(event, Msg):
        return msg(
            event.raw_subject,
            event.sid,
            event.data,
            reply=event.raw_reply,
            headers=event.raw_headers,
        )
    if isinstance(event, ProtocolError):
        return ("error", str(event))
    return event


def parse(*chunks: bytes, limits: ProtocolLimits = LIMITS) -> list[object]:
    parser = Parser(limits)
    events = [shape(event) for chunk in chunks for event in feed(parser, chunk)]
    if not any(isinstance(event, tuple) and event[0] == "error" for event in events):
        assert parser.buffered == 0, "the whole input should have been used up"
    return events


def refusal(*chunks: bytes, limits: ProtocolLimits = LIMITS) -> str:
    """The text of the error that is all there is to say about the input."""
    parser = Parser(limits)
    [event] = [event for chunk in chunks for event in feed(parser, chunk)]
    assert isinstance(event, ProtocolError)
    assert parser.buffered == 0
    return str(event)


def one_by_one(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


# --- messages ------------------------------------------------------------------------------------

MESSAGES = {
    "empty": (b"MSG a 1 0\r\n\r\n", msg(b"a", b"1", b"")),
    "payload": (b"MSG a.b 12 5\r\nhello\r\n", msg(b"a.b", b"12", b"hello")),
    "reply": (b"MSG a 1 _INBOX.x.7 2\r\nhi\r\n", msg(b"a", b"1", b"hi", reply=b"_INBOX.x.7")),
    "several spaces": (b"MSG   a  1   2\r\nhi\r\n", msg(b"a", b"1", b"hi")),
    "tabs": (b"MSG\ta\t1\tr\t2\r\nhi\r\n", msg(b"a", b"1", b"hi", reply=b"r")),
    "spaces and tabs at the end": (b"MSG a 1 2 \t \r\nhi\r\n", msg(b"a", b"1", b"hi")),
    "leading zeros": (b"MSG a 1 0002\r\nhi\r\n", msg(b"a", b"1", b"hi")),
    "payload of line ends": (b"MSG a 1 4\r\n\r\n\r\n\r\n", msg(b"a", b"1", b"\r\n\r\n")),
    "payload that looks like a command": (
        b'MSG a 1 18\r\nINFO {"port":1}\r\n.\r\n',
        msg(b"a", b"1", b'INFO {"port":1}\r\n.'),
    ),
    "subject that is not UTF-8": (b"MSG a\xff\xfe 1 0\r\n\r\n", msg(b"a\xff\xfe", b"1", b"")),
    "a subject with what only Python takes for white space": (
        b"MSG a\v7 1 \f 2\r\nhi\r\n",
        msg(b"a\v7", b"1", b"hi", reply=b"\f"),
    ),
    "the same with headers, and tabs between": (
        b"HMSG\t\fa\v 1\t 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        msg(b"\fa\v", b"1", b"hi", headers=b"NATS/1.0\r\n\r\n"),
    ),
    "headers alone": (
        b"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        msg(b"a", b"1", b"", headers=b"NATS/1.0\r\n\r\n"),
    ),
    "headers and payload": (
        b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        msg(b"a", b"1", b"hi", headers=b"NATS/1.0\r\n\r\n"),
    ),
    "headers and reply": (
        b"HMSG a 1 r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        msg(b"a", b"1", b"hi", reply=b"r", headers=b"NATS/1.0\r\n\r\n"),
    ),
    "headers, tabs and spaces": (
        b"HMSG\ta  1 \t12\t14 \r\nNATS/1.0\r\n\r\nhi\r\n",
        msg(b"a", b"1", b"hi", headers=b"NATS/1.0\r\n\r\n"),
    ),
    "a header block that is no header block": (
        b"HMSG a 1 3 3\r\n\x00\xff\n\r\n",
        msg(b"a", b"1", b"", headers=b"\x00\xff\n"),
    ),
    "a header block of nothing": (
        b"HMSG a 1 0 2\r\nhi\r\n",
        msg(b"a", b"1", b"hi"),
    ),
}


@pytest.mark.parametrize(("wire", "expected"), MESSAGES.values(), ids=MESSAGES.keys())
def test_message(wire: bytes, expected: tuple[object, ...]) -> None:
    assert parse(wire) == [expected]
    assert parse(*one_by_one(wire)) == [expected]
    assert parse(wire * 3) == [expected] * 3


@pytest.mark.parametrize("wire", [wire for wire, _ in MESSAGES.values()], ids=MESSAGES.keys())
def test_message_is_not_given_out_before_its_last_byte(wire: bytes) -> None:
    for cut in range(1, len(wire)):
        parser = Parser(LIMITS)
        assert feed(parser, wire[:cut]) == []
        assert parser.buffered == cut
        assert len(feed(parser, wire[cut:])) == 1
        assert parser.buffered == 0


@pytest.mark.parametrize("line", [b"MSG a 1 30", b"HMSG a 1 12 30"])
def test_a_run_of_alike_lines_cut_anywhere(line: bytes) -> None:
    count = 7
    wire = b"".join(line + b"\r\n" + b"%030d" % number + b"\r\n" for number in range(count))
    whole = parse(wire)
    assert len(set(whole)) == count
    for cut in range(len(wire)):
        assert parse(wire[:cut], wire[cut:]) == whole
        with_signal = parse(wire[:cut], wire[cut:] + b"PING\r\n" + wire)
        assert with_signal == [*whole, Signal.PING, *whole]


async def test_messages_answer_through_the_origin_they_were_given() -> None:
    sent: list[tuple[bytes, Payload]] = []

    class Recorder:
        async def _respond(
            self, reply: bytes, payload: Payload, headers: HeadersLike | None
        ) -> None:
            sent.append((reply, payload))

    parser = Parser(LIMITS, Recorder())
    wire = b"MSG a 1 plain 0\r\n\r\nHMSG a 1 rich 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    for event in feed(parser, wire):
        assert isinstance(event, Msg)
        await event.respond(b"yes")
    assert sent == [(b"plain", b"yes"), (b"rich", b"yes")]


def test_a_large_payload_in_many_pieces() -> None:
    payload = bytes(range(256)) * 8192
    wire = b"MSG a 1 %d\r\n%b\r\nPING\r\n" % (len(payload), payload)
    chunks = [wire[start : start + 1400] for start in range(0, len(wire), 1400)]
    assert parse(*chunks, limits=ProtocolLimits()) == [msg(b"a", b"1", payload), Signal.PING]


# --- the short ones ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"PING\r\n", Signal.PING),
        (b"PONG\r\n", Signal.PONG),
        (b"+OK\r\n", Signal.OK),
        (b"PING \t \r\n", Signal.PING),
        (b"PONG\t\r\n", Signal.PONG),
        (b"+OK \r\n", Signal.OK),
    ],
)
def test_signals(wire: bytes, expected: Signal) -> None:
    assert parse(wire) == [expected]
    assert parse(*one_by_one(wire)) == [expected]


@pytest.mark.parametrize(
    "wire",
    [
        b"PIN\r\n",
        b"PINGS\r\n",
        b"PING x\r\n",
        b"P\r\n",
        b"PI NG\r\n",
        b"Pong\r\n",
        b"+\r\n",
        b"+ok\r\n",
        b"+OK!\r\n",
        b"PUB a 0\r\n\r\n",
    ],
)
def test_what_only_resembles_a_signal_is_refused(wire: bytes) -> None:
    assert refusal(wire).startswith("the server sent malformed data: ")


def test_no_frame_begins_with_any_other_byte() -> None:
    for number in range(256):
        first = bytes([number])
        if first not in b"MHPI+-":
            text = refusal(first)
            assert text == f"the server sent malformed data: {excerpt(first)}"
            assert text.isprintable()


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"-ERR 'Authorization Violation'\r\n", "Authorization Violation"),
        (b"-ERR authorization violation\r\n", "authorization violation"),
        (b"-ERR\t'tabbed' \r\n", "tabbed"),
        (b"-ERR\r\n", ""),
        (b"-ERR ''\r\n", ""),
        (b"-ERR '\r\n", ""),
        (b"-ERR 'it's'\r\n", "it's"),
        (b"-ERR 'a\tb\x00c\x1b[31m\x7f'\r\n", "a?b?c?[31m?"),
        (b"-ERR 'line\nfeed'\r\n", "line?feed"),
        ("-ERR 'grün \u202e\u2028'\r\n".encode(), "grün ??"),
        (b"-ERR 'no \xff\xfe text'\r\n", "no \ufffd\ufffd text"),
        (b"-ERR '" + b"x" * 19_900 + b"y" * 200 + b"'\r\n", "x" * 19_900 + "y" * 100),
    ],
)
def test_error_lines_are_unquoted_bounded_and_printable(wire: bytes, text: str) -> None:
    wide = ProtocolLimits()
    assert parse(wire, limits=wide) == [ErrorLine(text)]
    assert parse(*one_by_one(wire), limits=wide) == [ErrorLine(text)]
    assert text.isprintable()


@pytest.mark.parametrize("wire", [b"-\r\n", b"-ER\r\n", b"-err 'x'\r\n", b"-OK\r\n"])
def test_malformed_error_line(wire: bytes) -> None:
    assert refusal(wire).startswith("the server sent malformed data: ")


@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\v", b"\f", b"\x00", b"\x85", b"\xa0"])
def test_only_spaces_and_tabs_separate(byte: bytes) -> None:
    word = b"a%b2" % byte
    assert parse(b"MSG %b 1 1\r\nx\r\n" % word) == [msg(word, b"1", b"x")]
    assert parse(b"MSG\t%b  1\t %b 1 \r\nx\r\n" % (word, word)) == [
        msg(word, b"1", b"x", reply=word)
    ]
    [malformed] = parse(b"PING%b\r\n" % byte)
    assert isinstance(malformed, tuple)
    assert malformed[0] == "error"
    assert parse(b"PING \t\r\n") == [Signal.PING]


def test_error_text_of_anything() -> None:
    text = error_text(bytes(range(256)) * 100)
    assert len(text) == 20_000
    assert text.isprintable()


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"INFO {}\r\n", ServerInfo()),
        (b'INFO {"port":1} \r\n', ServerInfo(port=1)),
        (b'INFO\t{"port":1}\r\n', ServerInfo(port=1)),
        (b'INFO   {"port":1}\r\n', ServerInfo(port=1)),
        (b'INFO {"port":\n1}\r\n', ServerInfo(port=1)),
    ],
)
def test_info(wire: bytes, expected: ServerInfo) -> None:
    assert parse(wire) == [expected]
    assert parse(*one_by_one(wire)) == [expected]


@pytest.mark.parametrize("wire", [b"INFO{}\r\n", b"INF\r\n", b"I\r\n", b"info {}\r\n", b"INFO\r\n"])
def test_malformed_info_line(wire: bytes) -> None:
    assert refusal(wire).startswith("the server sent malformed data: ")


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"null", b"{} x", b'{"port":"x"}', b'{"host":"\xff"}']
)
def test_info_that_is_not_an_object_of_the_right_types(text: bytes) -> None:
    assert refusal(b"INFO %b\r\n" % text).startswith("the server's INFO is malformed")


def test_all_kinds_in_one_read() -> None:
    wire = (
        b'INFO {"port":4222}\r\n+OK\r\nPING\r\nMSG a 1 2\r\nhi\r\nPONG\r\n'
        b"HMSG a 2 12 13\r\nNATS/1.0\r\n\r\n!\r\n-ERR 'no'\r\nMSG b 3 r 0\r\n\r\n"
    )
    assert parse(wire) == [
        ServerInfo(port=4222),
        Signal.OK,
        Signal.PING,
        msg(b"a", b"1", b"hi"),
        Signal.PONG,
        msg(b"a", b"2", b"!", headers=b"NATS/1.0\r\n\r\n"),
        ErrorLine("no"),
        msg(b"b", b"3", b"", reply=b"r"),
    ]


# --- malformed messages --------------------------------------------------------------------------

BAD_SIZES = {
    "negative": b"-1",
    "signed": b"+5",
    "underscore": b"1_0",
    "hexadecimal": b"0x5",
    "decimal point": b"5.0",
    "exponent": b"1e3",
    "letters": b"five",
    "digits of another script": "\u0665".encode(),
    "superscript": "\u00b2".encode(),
    "thirteen digits": b"0" * 12 + b"5",
    "endless digits": b"9" * 400,
}


@pytest.mark.parametrize("size", BAD_SIZES.values(), ids=BAD_SIZES.keys())
def test_an_invalid_size(size: bytes) -> None:
    assert "malformed MSG line: " in refusal(b"MSG a 1 %b\r\nhello\r\n" % size)
    assert "malformed MSG line: " in refusal(b"MSG a 1 r %b\r\nhello\r\n" % size)
    assert "malformed HMSG line: " in refusal(b"HMSG a 1 %b 20\r\n" % size)
    assert "malformed HMSG line: " in refusal(b"HMSG a 1 12 %b\r\n" % size)
    assert "malformed HMSG line: " in refusal(b"HMSG a 1 r 12 %b\r\n" % size)


@pytest.mark.parametrize(
    "line",
    [
        b"M",
        b"MSG",
        b"MSG a",
        b"MSG a 1",
        b"MSG a 1 r x 2",
        b"MSGS a 1 2",
        b"MSGa 1 2 2",
        b"MSG 5",
        b"Msg a 1 2",
        b"MESSAGE a 1 2",
        b"M a 1 2",
    ],
)
def test_malformed_msg_line(line: bytes) -> None:
    assert "malformed MSG line: " in refusal(line + b"\r\nhi\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"H",
        b"HMSG",
        b"HMSG a 1 12",
        b"HMSG a 1 r x 12 12",
        b"HMSGS a 1 12 12",
        b"HTTP/1.1 200 OK",
        b"Hmsg a 1 12 12",
    ],
)
def test_malformed_hmsg_line(line: bytes) -> None:
    assert "malformed HMSG line: " in refusal(line + b"\r\nNATS/1.0\r\n\r\n\r\n")


def test_headers_longer_than_the_whole() -> None:
    text = refusal(b"HMSG a 1 13 12\r\nNATS/1.0\r\n\r\n\r\n")
    assert "headers longer than the whole" in text


@pytest.mark.parametrize(
    "wire",
    [
        b"MSG a 1 2\r\nhiX\r\n",
        b"MSG a 1 2\r\nh\r\n\r\n",
        b"MSG a 1 2\r\nhi\r\r\n",
        b"MSG a 1 2\r\nhi\n\r\n",
        b"MSG a 1 2\r\nhi\rX\r\n",
        b"MSG a 1 2\r\nhiX\n\r\n",
        b"MSG a 1 0\r\nhi\r\n",
        b"HMSG a 1 12 12\r\nNATS/1.0\r\n\r\nX\r\n",
        b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\rX",
        b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhiX\n",
        b"HMSG a 1 12 13\r\nNATS/1.0\r\n\r\n\r\nX",
    ],
)
def test_payload_of_another_length_than_announced(wire: bytes) -> None:
    assert "malformed end of payload: " in refusal(wire)


def test_what_came_before_the_error_is_delivered_and_what_comes_after_is_not() -> None:
    parser = Parser(LIMITS)
    first, second, error = feed(parser, b"PING\r\nMSG a 1 2\r\nhi\r\nBROKEN\r\nPONG\r\n")
    assert first is Signal.PING
    assert shape(second) == msg(b"a", b"1", b"hi")
    assert isinstance(error, ProtocolError)
    for more in (b"PING\r\n", b"x", b"MSG a 1 2\r\nh", b""):
        assert feed(parser, more) == []
        assert parser.buffered == 0


def test_error_texts_are_bounded_and_printable() -> None:
    noise = bytes(range(256)) * 40
    for wire in (
        noise,
        b"M" + noise,
        b"MSG a 1 x" + b"\x00\x1b" * 200 + b"\r\n",
        b"HMSG a 1 1 99999999 " + b"\xff" * 100 + b"\r\n",
        b"MSG a 1 99999999\r\n",
        b"MSG a 1 2\r\n" + noise,
        b"INFO {" + noise.replace(b"\n", b"") + b"\r\n",
        b"INFO " + b"[" * 2000 + b"\r\n",
        b"P" * 600,
    ):
        text = refusal(wire)
        assert len(text) < 400
        assert text.isascii()
        assert text.isprintable()


def test_excerpt() -> None:
    assert excerpt(b"") == "''"
    assert excerpt(b"a\r\n\x00\xff") == r"'a\r\n\x00\xff'"
    assert excerpt(b"x" * 60) == "'" + "x" * 60 + "'"
    assert excerpt(b"x" * 61) == "'" + "x" * 60 + "'..."


# --- limits --------------------------------------------------------------------------------------


def padded(start: bytes, end: bytes, size: int) -> bytes:
    """A line of ``size`` bytes, with white space in the middle."""
    return start + b" " * (size - len(start) - len(end)) + end


@pytest.mark.parametrize(
    ("start", "end", "rest", "expected"),
    [
        (b"MSG a 1 ", b"2", b"hi\r\n", msg(b"a", b"1", b"hi")),
        (b"HMSG a 1 0 ", b"2", b"hi\r\n", msg(b"a", b"1", b"hi")),
        (b"PING", b"", b"", Signal.PING),
        (b"+OK", b"", b"", Signal.OK),
        (b"-ERR ", b"'x'", b"", ErrorLine("x")),
    ],
)
def test_control_line_limit(start: bytes, end: bytes, rest: bytes, expected: object) -> None:
    at_limit = padded(start, end, LIMITS.control_line) + b"\r\n" + rest
    above = padded(start, end, LIMITS.control_line + 1) + b"\r\n" + rest
    assert parse(at_limit) == [expected]
    assert parse(*one_by_one(at_limit)) == [expected]
    for chunks in ([above], one_by_one(above)):
        assert "a line longer than the limit of 512 bytes" in refusal(*chunks)


def test_info_limit() -> None:
    at_limit = padded(b'INFO {"port":1', b"}", LIMITS.info) + b"\r\n"
    above = padded(b'INFO {"port":1', b"}", LIMITS.info + 1) + b"\r\n"
    assert parse(at_limit) == [ServerInfo(port=1)]
    assert parse(*one_by_one(at_limit)) == [ServerInfo(port=1)]
    for chunks in ([above], one_by_one(above)):
        assert "a line longer than the limit of 2,048 bytes" in refusal(*chunks)


def test_payload_limit() -> None:
    at_limit = b"x" * LIMITS.payload
    assert parse(b"MSG a 1 4096\r\n%b\r\n" % at_limit) == [msg(b"a", b"1", at_limit)]
    text = "the server announced 4,097 bytes, more than the limit of 4,096: "
    assert text in refusal(b"MSG a 1 4097\r\n")
    assert "999,999,999,999 bytes" in refusal(b"MSG a 1 999999999999\r\n")


def test_payload_limit_includes_headers() -> None:
    data = b"x" * (LIMITS.payload - 12)
    wire = b"HMSG a 1 12 %d\r\nNATS/1.0\r\n\r\n%b\r\n"
    assert parse(wire % (4096, data)) == [msg(b"a", b"1", data, headers=b"NATS/1.0\r\n\r\n")]
    assert "announced 4,097 bytes, more than the limit of 4,096" in refusal(wire % (4097, data))


def test_header_limit() -> None:
    at_limit = b"h" * LIMITS.headers
    wire = b"HMSG a 1 1024 1026\r\n%bhi\r\n" % at_limit
    assert parse(wire) == [msg(b"a", b"1", b"hi", headers=at_limit)]
    text = "the server announced 1,025 bytes, more than the limit of 1,024: "
    assert text in refusal(b"HMSG a 1 1025 1027\r\n")


def test_a_size_beyond_the_limit_is_refused_before_its_payload_comes() -> None:
    parser = Parser(LIMITS)
    assert feed(parser, b"MSG a 1 4097\r") == []
    [error] = feed(parser, b"\n")
    assert isinstance(error, ProtocolError)


# --- memory and work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "limit"),
    [
        (b"M", LIMITS.control_line),
        (b"H", LIMITS.control_line),
        (b"P", LIMITS.control_line),
        (b"+", LIMITS.control_line),
        (b"-", LIMITS.control_line),
        (b"I", LIMITS.info),
    ],
)
@pytest.mark.parametrize("filler", [b"x", b"\n", b"\r", b" "])
def test_an_endless_line_is_rejected_in_time(first: bytes, limit: int, filler: bytes) -> None:
    parser = Parser(LIMITS)
    line = (first + filler * (limit + 1))[: limit + 2]
    for byte in one_by_one(line[:-1]):
        assert feed(parser, byte) == []
    assert parser.buffered == limit + 1
    [error] = feed(parser, line[-1:])
    assert "a line longer than the limit" in str(error)
    assert parser.buffered == 0


class CountingBuffer(bytearray):
    """Counts the bytes that searching it may look at."""

    searched = 0

    def __contains__(self, key: object, /) -> bool:
        self.searched += len(self)
        return super().__contains__(key)  # type: ignore[operator]

    def find(self, wanted: Any, *where: Any) -> int:
        self.searched += len(self[slice(*(*where, None, None)[:2])])
        return super().find(wanted, *where)


class CountingParser(Parser):
    """Counts the bytes that are looked at, however often the same ones."""

    def __init__(self, limits: ProtocolLimits) -> None:
        super().__init__(limits)
        self._pending = self.buffer = CountingBuffer()
        self.parsed = 0

    def _parse(self, data: bytes, position: int, events: list[Event]) -> int:
        self.parsed += len(data) - position
        return super()._parse(data, position, events)

    @property
    def looked_at(self) -> int:
        return self.parsed + self.buffer.searched


def test_a_long_info_byte_by_byte_is_not_scanned_over_and_over() -> None:
    wire = padded(b'INFO {"port":1', b"}", 64 * 1024) + b"\r\n"
    parser = CountingParser(ProtocolLimits())
    events = [event for byte in one_by_one(wire) for event in feed(parser, byte)]
    assert events == [ServerInfo(port=1)]
    assert parser.looked_at < 4 * len(wire)


def test_a_payload_byte_by_byte_is_not_scanned_over_and_over() -> None:
    payload = b"\r\n" * 16_000
    wire = b"MSG a 1 32000\r\n%b\r\nHMSG a 1 20 32000\r\n%b\r\n" % (payload, payload)
    parser = CountingParser(ProtocolLimits())
    events = [event for byte in one_by_one(wire) for event in feed(parser, byte)]
    assert [shape(event) for event in events] == [
        msg(b"a", b"1", payload),
        msg(b"a", b"1", payload[20:], headers=payload[:20]),
    ]
    assert parser.looked_at < 4 * len(wire)


@pytest.mark.parametrize("filler", [b"\n", b"x\n"])
def test_line_feeds_that_end_no_line_are_not_scanned_over_and_over(filler: bytes) -> None:
    limits = ProtocolLimits(info=16 * 1024)
    wire = (b"INFO " + filler * limits.info)[: limits.info + 2]
    parser = CountingParser(limits)
    [error] = [event for byte in one_by_one(wire) for event in feed(parser, byte)]
    assert "a line longer than the limit" in str(error)
    assert parser.looked_at < 8 * len(wire)
