"""Values in payloads: published, received, asked for and answered, and undecodable ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import trio

from tests.connection.helpers import served
from trio_nats import (
    BytesCodec,
    Codec,
    ConfigurationError,
    DecodeError,
    EncodeError,
    JSONCodec,
    MaxPayloadError,
    MessagePackCodec,
    Msg,
    TextCodec,
)


class Order(msgspec.Struct):
    number: int
    item: str = ""


@dataclass
class Receipt:
    number: int
    paid: bool


class Reversing:
    """A codec that somebody made for themselves."""

    def encode(self, value: str) -> bytes:
        return value[::-1].encode()

    def decode(self, data: bytes) -> str:
        return data.decode()[::-1]


CASES: list[tuple[Codec[Any], Any, bytes]] = [
    (BytesCodec(), b"\x00\xff", b"\x00\xff"),
    (TextCodec(), "gr\u00fcn", b"gr\xc3\xbcn"),
    (JSONCodec(Order), Order(3, "tea"), b'{"number":3,"item":"tea"}'),
    (JSONCodec(Receipt), Receipt(3, True), b'{"number":3,"paid":true}'),
    (JSONCodec(list[int]), [1, 2], b"[1,2]"),
    (MessagePackCodec(dict[str, int]), {"a": 1}, b"\x81\xa1a\x01"),
    (MessagePackCodec(Order), Order(3), msgspec.msgpack.encode(Order(3))),
    (Reversing(), "abc", b"cba"),
]


@pytest.mark.parametrize(("codec", "value", "wire"), CASES, ids=[repr(c[0])[:30] for c in CASES])
async def test_values_go_through(codec: Codec[Any], value: Any, wire: bytes) -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        await nc.publish("a", value, codec=codec, headers={"k": "v"}, reply="b")
        nc.publish_nowait("a", value, codec=codec)
        msg = await sub.receive()
        assert msg.decode(codec) == value
        assert (msg.data, msg.subject, msg.reply, msg.headers["k"]) == (wire, "a", "b", "v")
        assert (await sub.receive()).decode(codec) == value


async def test_undecodable_messages_are_delivered() -> None:
    orders = JSONCodec(Order)
    async with served() as (nc, _), nc.subscribe("orders", stop_after=4) as sub:
        for payload in (b'{"number":1}', b'{"number":"secret"}', b"\xff", b'{"number":2}'):
            await nc.publish("orders", payload)
        seen: list[int | bytes] = []
        texts = []
        async for msg in sub:
            try:
                seen.append(msg.decode(orders).number)
            except DecodeError as error:
                texts.append(str(error))
                seen.append(msg.data)
        assert all(
            "JSONCodec(Order) cannot decode the message on 'orders'" in text for text in texts
        )
        assert not any("secret" in text for text in texts)
        assert seen == [1, b'{"number":"secret"}', b"\xff", 2]


async def test_requests_and_answers_each_with_their_type() -> None:
    orders, receipts = JSONCodec(Order), MessagePackCodec(Receipt)
    async with served() as (nc, _), nc.subscribe("buy") as sub:
        async with trio.open_nursery() as nursery:

            async def sell() -> None:
                async for msg in sub:
                    order = msg.decode(orders)
                    await msg.respond(
                        Receipt(order.number, True), codec=receipts, headers={"item": order.item}
                    )

            nursery.start_soon(sell)
            reply = await nc.request("buy", Order(3, "tea"), codec=orders)
            assert reply.decode(receipts) == Receipt(3, True)
            assert reply.headers["item"] == "tea"
            raw = await nc.request("buy", b'{"number":4}')
            assert raw.decode(receipts) == Receipt(4, True)
            async with nc.request_many("buy", Order(5), codec=orders, stop_after=1) as replies:
                got = [reply.decode(receipts) async for reply in replies]
            assert got == [Receipt(5, True)]
            nursery.cancel_scope.cancel()


async def test_values_that_cannot_be_encoded_are_not_sent() -> None:
    async with served() as (nc, _):
        ways: list[Any] = [nc.publish, nc.request]
        for way in ways:
            with pytest.raises(EncodeError, match="cannot encode a value of type object"):
                await way("a", object(), codec=JSONCodec(Order))
            with pytest.raises(EncodeError, match="the value must be a str, not bytes"):
                await way("a", b"x", codec=TextCodec())
            with pytest.raises(EncodeError, match="the value must be bytes-like, not str"):
                await way("a", "x", codec=BytesCodec())
            with pytest.raises(TypeError, match="encode, which the class Order lacks"):
                await way("a", Order(1), codec=Order)
        with pytest.raises(EncodeError):
            nc.request_many("a", "\ud800", codec=TextCodec())
        with pytest.raises(MaxPayloadError):
            await nc.publish("a", "x" * (nc.server_info.max_payload + 1), codec=TextCodec())
        assert nc.stats.out_messages == 0


async def test_codecs_that_cannot_be_used_are_refused_at_once() -> None:
    wrong: Any = Order
    async with served() as (nc, _):
        with pytest.raises(TypeError, match="encode, which the class Order lacks"):
            await nc.publish("a", 1, codec=wrong)
        unmade: Any = JSONCodec
        with pytest.raises(TypeError, match="must be an instance, not the class JSONCodec"):
            await nc.publish("a", 1, codec=unmade)
    msg = Msg.new("a", b"1")
    with pytest.raises(TypeError, match="decode, which the class Order lacks"):
        msg.decode(wrong)
    with pytest.raises(TypeError, match="the method decode, which int lacks"):
        msg.decode(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an instance, not the class JSONCodec"):
        msg.decode(unmade)


async def test_a_class_may_be_a_codec_itself() -> None:
    class Plus:
        @staticmethod
        def encode(value: int) -> bytes:
            return b"+" * value

        @classmethod
        def decode(cls, data: bytes) -> int:
            return len(data)

    async with served() as (nc, _), nc.subscribe("a") as sub:
        await nc.publish("a", 3, codec=Plus)
        assert (await sub.receive()).decode(Plus) == 3


def test_types_that_cannot_be_decoded_to_are_refused_at_once() -> None:
    for kind in (JSONCodec, MessagePackCodec):
        with pytest.raises(ConfigurationError, match=kind.__name__):
            kind(dict[list[int], int] | set[dict[str, int]] | list[str] | tuple[int])


async def test_an_answer_that_cannot_be_encoded_is_not_sent() -> None:
    async with served() as (nc, _), nc.subscribe("a") as sub:
        await nc.publish("a", reply="b")
        msg = await sub.receive()
        value: Any = b"x"
        with pytest.raises(EncodeError, match="the value must be a str, not bytes"):
            await msg.respond(value, codec=TextCodec())
        assert nc.stats.out_messages == 1


def test_errors_show_no_more_of_a_payload_than_can_be_printed() -> None:
    class Telling:
        def decode(self, data: bytes) -> str:
            raise ValueError(data.decode())

    msg = Msg.new("a", b"\x1b[2J\r\n" + b"x" * 100_000)
    with pytest.raises(DecodeError) as caught:
        msg.decode(Telling())
    text = str(caught.value)
    assert "message on 'a'" in text
    assert "\x1b" not in text
    assert "\r" not in text
    assert len(text) < 20_000
