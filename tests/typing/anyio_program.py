"""What a user's program for anyio looks like to a type checker: checked strictly, never run."""

from __future__ import annotations

from typing import assert_type

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream

import trio_nats
from trio_nats import JSONCodec, Msg, Payload, TextCodec, TLSOptions
from trio_nats.anyio import Connection, ConnectionLostError, Publisher, Subscription, open_nats
from trio_nats.events import Event


async def serve(requests: ObjectReceiveStream[Msg]) -> None:
    async for msg in requests:
        await msg.respond(msg.data)


async def produce(out: ObjectSendStream[bytes]) -> None:
    await out.send(b"x")


async def everything(out: ObjectSendStream[Payload]) -> None:
    await out.send("x")


async def main() -> None:
    async with open_nats("nats://localhost", tls=TLSOptions(), request_timeout=2) as nc:
        assert_type(nc, Connection)
        async with nc.subscribe("a") as sub, nc.publisher("a") as out:
            assert_type(sub, Subscription)
            assert_type(out, Publisher[Payload])
            await produce(out)
            await everything(out)
            await serve(sub)
            assert_type(await sub.receive(), Msg)
        assert_type(await nc.request("a", timeout=1), Msg)
        assert_type(await nc.rtt(), float)
        prices = JSONCodec(dict[str, float])
        async with nc.subscribe("a") as sub, nc.publisher("a", codec=prices) as to:
            assert_type(to, Publisher[dict[str, float]])
            await to.send({"tea": 2.5})
            assert_type((await sub.receive()).decode(prices), dict[str, float])
        answer = await nc.request("a", "tea", codec=TextCodec())
        assert_type(answer.decode(prices), dict[str, float])
        async with nc.request_many("a") as replies:
            assert_type([msg async for msg in replies], list[Msg])
        async with nc.events() as events:
            assert_type(await events.receive(), Event)
        try:
            await nc.publish("a", "text", headers={"k": "v"})
        except anyio.BrokenResourceError as error:
            if isinstance(error, ConnectionLostError):
                lost: trio_nats.ConnectionLostError = error
                print(lost)


anyio.run(main)
