"""Values in payloads: published, received, asked for and answered, and what cannot be read."""

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
    TextCodec,
    TypedMsg,
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
    async with served() as (nc, _), nc.subscribe("a", codec=codec) as sub:
        await nc.publish("a", value, codec=codec, headers={"k": "v"}, reply="b")
        msg = await sub.receive()
        assert msg.value == value
        assert msg.value is msg.value, "decoded once"
        assert (msg.data, msg.subject, msg.reply, msg.headers["k"]) == (wire, "a", "b", "v")
        assert msg.raw.data == wire
        assert repr(codec) in repr(msg)


async def test_what_cannot_be_decoded_is_all_there_and_ends_nothing() -> None:
    orders = JSONCodec(Order)
    async with served() as (nc, _), nc.subscribe("orders", codec=orders, max_msgs=4) as sub:
        for payload in (b'{"number":1}', b'{"number":"secret"}', b"\xff", b'{"number":2}'):
            await nc.publish("orders", payload)
        seen: list[int | bytes] = []
        texts = []
        async for msg in sub:
            try:
                seen.append(msg.value.number)
            except DecodeError as error:
                texts.append(str(error))
                seen.append(msg.data)
                with pytest.raises(DecodeError):
                    _ = msg.value
        assert all(
            "JSONCodec(Order) cannot decode the message on 'orders'" in text for text in texts
        )
        assert not any("secret" in text for text in texts)
        assert seen == [1, b'{"number":"secret"}', b"\xff", 2]


async def test_requests_and_answers_each_with_their_type() -> None:
    orders, receipts = JSONCodec(Order), MessagePackCodec(Receipt)
    async with served() as (nc, _), nc.subscribe("buy", codec=orders) as sub:
        async with trio.open_nursery() as nursery:

            async def sell() -> None:
                async for msg in sub:
                    if msg.value.item == "more":
                        await msg.respond(Order(msg.value.number + 1))
                    else:
                        await msg.respond(Receipt(msg.value.number, True), codec=receipts)

            nursery.start_soon(sell)
            same = await nc.request("buy", Order(1, "more"), codec=orders)
            assert same.value == Order(2)
            other = await nc.request("buy", Order(3), codec=orders, reply_codec=receipts)
            assert other.value == Receipt(3, True)
            raw = await nc.request("buy", b'{"number":4}', reply_codec=receipts)
            assert raw.value == Receipt(4, True)
            async with nc.request_many(
                "buy", Order(5), codec=orders, reply_codec=receipts, max_responses=1
            ) as replies:
                got = [reply.value async for reply in replies]
            assert got == [Receipt(5, True)]
            async with nc.request_many(
                "buy", Order(5, "more"), codec=orders, max_responses=1
            ) as same_type:
                assert [reply.value async for reply in same_type] == [Order(6)]
            assert "JSONCodec(Order)" in repr(same_type)
            nursery.cancel_scope.cancel()


async def test_what_cannot_be_encoded_is_not_sent() -> None:
    async with served() as (nc, _):
        ways: list[Any] = [nc.publish, nc.request]
        for way in ways:
            with pytest.raises(EncodeError, match="cannot encode a value of type object"):
                await way("a", object(), codec=JSONCodec(Order))
            with pytest.raises(EncodeError, match="expected str, got bytes"):
                await way("a", b"x", codec=TextCodec())
            with pytest.raises(EncodeError, match="expected bytes-like, got str"):
                await way("a", "x", codec=BytesCodec())
            with pytest.raises(ConfigurationError, match="no encode method: the class Order"):
                await way("a", Order(1), codec=Order)
        with pytest.raises(EncodeError):
            nc.request_many("a", "\ud800", codec=TextCodec())
        with pytest.raises(MaxPayloadError):
            await nc.publish("a", "x" * (nc.server_info.max_payload + 1), codec=TextCodec())
        assert nc.stats.out_messages == 0


async def test_codecs_that_cannot_be_used_are_refused_at_once() -> None:
    wrong: Any = Order
    async with served() as (nc, _):
        with pytest.raises(ConfigurationError, match="no decode method: the class Order"):
            nc.subscribe("a", codec=wrong)
        with pytest.raises(ConfigurationError, match=r"reply_codec has no decode method: int"):
            await nc.request("a", reply_codec=3)  # type: ignore[call-overload]
        unmade: Any = JSONCodec
        with pytest.raises(ConfigurationError, match=r"the class JSONCodec, not an instance"):
            nc.subscribe("a", codec=unmade)
        with pytest.raises(ConfigurationError, match=r"the class JSONCodec, not an instance"):
            await nc.publish("a", 1, codec=unmade)


async def test_a_class_may_be_a_codec_itself() -> None:
    class Plus:
        @staticmethod
        def encode(value: int) -> bytes:
            return b"+" * value

        @classmethod
        def decode(cls, data: bytes) -> int:
            return len(data)

    async with served() as (nc, _), nc.subscribe("a", codec=Plus) as sub:
        await nc.publish("a", 3, codec=Plus)
        assert (await sub.receive()).value == 3


def test_types_that_cannot_be_decoded_to_are_refused_at_once() -> None:
    for kind in (JSONCodec, MessagePackCodec):
        with pytest.raises(ConfigurationError, match=kind.__name__):
            kind(dict[list[int], int] | set[dict[str, int]] | list[str] | tuple[int])


async def test_a_typed_subscription_is_one_in_every_way() -> None:
    async with served() as (nc, _), nc.subscribe("a", codec=TextCodec()) as sub:
        with pytest.raises(trio.WouldBlock):
            sub.receive_nowait()
        for text in ("1", "2", "3", "4"):
            await nc.publish("a", text)
        await nc.flush()
        assert sub.receive_nowait().value == "1"
        assert [msg.value for msg in await sub.receive_batch(2)] == ["2", "3"]
        assert sub.raw.pending == (1, 1)
        await sub.drain()
        batches = [[msg.value for msg in batch] async for batch in sub.iter_batches(1)]
        assert batches == [["4"]]
        with pytest.raises(trio.EndOfChannel):
            await sub.receive()
        assert repr(sub) == f"<TypedSubscription TextCodec() of {sub.raw!r}>"


def test_a_message_may_hold_none() -> None:
    class Counting:
        calls = 0

        def decode(self, data: bytes) -> None:
            self.calls += 1

    from trio_nats import Msg

    codec = Counting()
    msg = TypedMsg(Msg.new("a"), codec)
    assert msg.value is None
    assert msg.value is None
    assert codec.calls == 1
