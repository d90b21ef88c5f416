"""Received messages, and made-up ones."""

from __future__ import annotations

import pytest

from trio_nats.codecs import Payload
from trio_nats.errors import InvalidHeaderError, InvalidSubjectError
from trio_nats.headers import Headers, HeadersLike, Status
from trio_nats.message import Msg


class Recorder:
    """Stands in for the connection a message came in on."""

    def __init__(self) -> None:
        self.checkpoints = 0
        self.sent: list[tuple[bytes, Payload, HeadersLike | None]] = []

    async def _respond(self, reply: bytes, payload: Payload, headers: HeadersLike | None) -> None:
        if len(reply) > 4000:
            raise InvalidSubjectError("too long")
        self.sent.append((reply, payload, headers))

    async def _checkpoint(self) -> None:
        self.checkpoints += 1


def received(raw_headers: bytes | None = None, *, reply: bytes | None = None) -> Msg:
    return Msg(b"a.b", b"7", reply, b"data", raw_headers)


def test_fields() -> None:
    msg = Msg(b"a.b", b"7", b"r.1", b"data", b"NATS/1.0\r\nK: v\r\n\r\n")
    assert msg.subject == "a.b"
    assert msg.sid == b"7"
    assert msg.reply == "r.1"
    assert msg.data == b"data"
    assert msg.headers.pairs() == [("K", "v")]
    assert msg.status is None


def test_without_reply_and_headers() -> None:
    msg = received()
    assert msg.reply is None
    assert msg.raw_headers is None
    assert msg.headers == Headers()
    assert msg.status is None


def test_headers_are_decoded_once() -> None:
    for msg in (received(), received(b"NATS/1.0\r\nK: v\r\n\r\n")):
        assert msg.headers is msg.headers
        msg.headers["X"] = "1"
        assert msg.headers["X"] == "1"
    assert received().headers is not received().headers


def test_status() -> None:
    msg = received(b"NATS/1.0 503 No Responders\r\nK: v\r\n\r\n")
    assert msg.status == Status(503, "No Responders")
    assert msg.headers["K"] == "v"
    assert received(b"NATS/1.0 503\r\n\r\n").status == Status(503, "")


def test_text_that_is_not_utf8_is_shown_rather_than_raised() -> None:
    msg = Msg(b"a\xff", b"1", b"r\xfe", b"")
    assert msg.subject == r"a\xff"
    assert msg.reply == r"r\xfe"
    assert Msg("gr\u00fcn".encode(), b"1", None, b"").subject == "gr\u00fcn"


def test_a_message_equals_only_itself() -> None:
    msg, twin = received(), received()
    same = msg
    assert msg == same
    assert msg != twin
    assert len({msg, twin, msg}) == 2


# --- made-up messages ----------------------------------------------------------------------------


def test_new() -> None:
    msg = Msg.new("a.b", b"data", reply="r", headers={"K": ["v", "w"]})
    assert (msg.subject, msg.data, msg.reply) == ("a.b", b"data", "r")
    assert msg.headers.pairs() == [("K", "v"), ("K", "w")]
    assert msg.raw_headers == b"NATS/1.0\r\nK: v\r\nK: w\r\n\r\n"
    assert msg.status is None


def test_new_needs_only_a_subject() -> None:
    msg = Msg.new("gr\u00fcn")
    assert (msg.subject, msg.data, msg.reply) == ("gr\u00fcn", b"", None)
    assert msg.raw_headers is None
    assert msg.headers == Headers()


def test_new_checks_its_headers() -> None:
    with pytest.raises(InvalidHeaderError):
        Msg.new("a", headers={"K": "a\nb"})


# --- answering -----------------------------------------------------------------------------------


async def test_respond_publishes_to_the_reply_subject() -> None:
    origin = Recorder()
    msg = Msg(b"a", b"1", b"r.1", b"", None, origin)
    assert await msg.respond() is True
    assert await msg.respond(b"bytes") is True
    assert await msg.respond("text", headers={"K": "v"}) is True
    assert origin.sent == [
        (b"r.1", b"", None),
        (b"r.1", b"bytes", None),
        (b"r.1", "text", {"K": "v"}),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"",
        b"a.*",
        b">",
        b"a..b",
        b".a",
        b"a.",
        b".",
        b"a b",
        b"a\xe9..b",
        b"a" * 4001,
        b"a\rb",
        b"a\x00",
        b"\xff",
        b"$JS.API.STREAM.PURGE.S",
        b"$JS.hub.API.STREAM.DELETE.S",
        b"$SYS.REQ.SERVER.PING",
    ],
    ids=repr,
)
async def test_responding_without_a_reply_subject_does_nothing(reply: bytes | None) -> None:
    origin = Recorder()
    msg = Msg(b"a", b"1", reply, b"", None, origin)
    assert await msg.respond(b"x") is False
    assert origin.sent == []
    assert origin.checkpoints == 1


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.S.C.1.1.1.1.0",
        "$JS.ACK.API.C.1.1.1.1.0",
        "$JS.FC.API.C.x",
        "$JS.ACK.hub.h.API.C.1",
        "$SYS._INBOX.x",
        "_R_.x",
        "$KV.API.x",
        "$JS.API",
        "a-b_c.9",
        "a~b",
        "a.\xe9\u4e2d.b",
        "JS.API.x",
    ],
)
async def test_subjects_of_the_system_that_can_be_answered(reply: str) -> None:
    origin = Recorder()
    assert await Msg(b"a", b"1", reply.encode(), b"", None, origin).respond() is True
    assert origin.sent == [(reply.encode(), b"", None)]


async def test_respond_to_a_message_that_was_never_received() -> None:
    with pytest.raises(ValueError, match="this message was not received from a connection"):
        await Msg.new("a", reply="r").respond(b"x")
    assert await Msg.new("a").respond(b"x") is False


# --- repr ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("msg", "shown"),
    [
        (Msg.new("a"), "Msg('a', b'', reply=None, size=0)"),
        (Msg.new("a", b"hi", reply="r"), "Msg('a', b'hi', reply='r', size=2)"),
        (
            Msg.new("a", b"hi", headers={"K": "v"}),
            "Msg('a', b'hi', reply=None, size=2, headers=[('K', 'v')])",
        ),
        (
            Msg.new("a", headers={}),
            "Msg('a', b'', reply=None, size=0, headers=[])",
        ),
        (Msg.new("a", b"x" * 64), f"Msg('a', b'{'x' * 64}', reply=None, size=64)"),
        (Msg.new("a", b"x" * 65), f"Msg('a', b'{'x' * 61}...', reply=None, size=65)"),
    ],
)
def test_repr(msg: Msg, shown: str) -> None:
    assert repr(msg) == shown


def test_repr_of_large_data_is_short() -> None:
    shown = repr(Msg.new("a", b"\xff" * 1_000_000))
    assert len(shown) < 400
    assert "size=1000000" in shown


@pytest.mark.parametrize(
    "headers", [{"K": "v" * 100_000}, {"K": ["v"] * 10_000}, {"K" * 100_000: "v"}]
)
def test_repr_of_large_headers_is_short(headers: HeadersLike) -> None:
    assert len(repr(Msg.new("a", headers=headers))) < 2000


def test_repr_says_that_headers_were_left_out() -> None:
    eight = repr(Msg.new("a", headers={"K": ["v"] * 8}))
    assert eight.endswith(f"headers={[('K', 'v')] * 8!r})")
    nine = repr(Msg.new("a", headers={"K": ["v"] * 9}))
    assert nine.endswith(f"headers={[('K', 'v')] * 8!r}... (9))")
    length = 500 - len("[('K', '')]")
    assert repr(Msg.new("a", headers={"K": "v" * length})).endswith("v')])")
    assert repr(Msg.new("a", headers={"K": "v" * (length + 1)})).endswith("v')... (1))")


def test_repr_of_hostile_bytes() -> None:
    msg = Msg(b"a\xff\x00", b"1", b"\xfe\x1b", b"\x00", b"NATS/1.0\r\nK: \xff\r\n\r\n")
    assert repr(msg).isprintable()
    assert repr(msg).isascii()
