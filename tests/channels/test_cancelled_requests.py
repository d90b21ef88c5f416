"""Requests, cancelled at every moment: no reply slot is left, and no reply goes astray."""

from __future__ import annotations

import trio

from tests.channels.helpers import PATIENCE, all_of
from tests.channels.scene import scene
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from trio_nats import (
    NoRespondersError,
    Replies,
    RequestTimeoutError,
    Subscription,
)
from trio_nats.testing import NatsServer


async def echo(sub: Subscription) -> None:
    async for msg in sub:
        await msg.respond(msg.data)


async def test_request(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage, trio.open_nursery() as nursery:
        async with stage.other.subscribe("echo") as service:
            nursery.start_soon(echo, service)
            await stage.other.flush(PATIENCE)
            for subject in ("echo", "nobody"):

                async def make(subject: str = subject) -> Operation:
                    async def operation() -> None:
                        data = stage.next()
                        try:
                            assert (await stage.nc.request(subject, data)).data == data
                        except NoRespondersError:
                            assert subject == "nobody"

                    return operation

                assert await cancel_at_each_checkpoint(make, stage.check) >= 1
            nursery.cancel_scope.cancel()


async def test_request_that_times_out(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage, stage.other.subscribe("silence"):
        await stage.other.flush(PATIENCE)

        async def make() -> Operation:
            async def operation() -> None:
                try:
                    await stage.nc.request("silence", timeout=0.01)
                except RequestTimeoutError:
                    pass

            return operation

        assert await cancel_at_each_checkpoint(make, stage.check) == 1


async def test_request_with_a_full_outbox(nats_server: NatsServer) -> None:
    async with scene(nats_server, 1) as stage:

        async def make() -> Operation:
            await stage.nc.publish("filling", b"x")

            async def operation() -> None:
                try:
                    await stage.nc.request("nobody")
                except NoRespondersError:
                    pass

            return operation

        assert await cancel_at_each_checkpoint(make, stage.check) == 2


async def test_request_many(nats_server: NatsServer) -> None:
    async with scene(nats_server, 1) as stage, trio.open_nursery() as nursery:
        async with stage.other.subscribe("echo") as service:
            nursery.start_soon(echo, service)
            await stage.other.flush(PATIENCE)

            async def make() -> Operation:
                await stage.nc.publish("filling", b"x")

                async def operation() -> None:
                    data = stage.next()
                    many = stage.nc.request_many("echo", data, max_responses=1)
                    async with many as replies:
                        assert await all_of(replies) == [data]

                return operation

            # Entering, receiving, receiving the end, and leaving.
            assert await cancel_at_each_checkpoint(make, stage.check) >= 4
            nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_leaves_the_reply(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage, trio.open_nursery() as nursery:
        async with stage.other.subscribe("echo") as service:
            nursery.start_soon(echo, service)
            await stage.other.flush(PATIENCE)
            received: list[bytes] = []
            latest: list[Replies] = []

            async def make() -> Operation:
                many = stage.nc.request_many("echo", stage.next(), max_responses=1)
                latest[:] = [await many.__aenter__()]

                async def operation() -> None:
                    received.append((await latest[0].receive()).data)

                return operation

            async def check() -> None:
                if len(received) < stage.begun:
                    received.append((await latest[0].receive()).data)
                await latest[0].aclose()
                await stage.check()

            assert await cancel_at_each_checkpoint(make, check) >= 1
            assert received == [b"%d" % number for number in range(1, stage.begun + 1)]
            nursery.cancel_scope.cancel()
