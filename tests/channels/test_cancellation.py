"""Whatever is cancelled, at whatever moment: nothing is left behind, lost or half done."""

from __future__ import annotations

import trio

from tests.channels.helpers import PATIENCE, all_of, take
from tests.channels.scene import Scene, scene
from tests.support.certs import certificates
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import (
    Connection,
    Subscription,
    TLSOptions,
    open_nats,
)
from trio_nats.testing import NatsServer, ServerTLS

END = "end"


# --- opening and closing ------------------------------------------------------------------------


async def opened_and_left(server: NatsServer, tls: TLSOptions | None, *, least: int) -> None:
    before = all_tasks()

    async def make() -> Operation:
        async def operation() -> None:
            async with open_nats(server.url, tls=tls) as nc:
                await nc.publish("news", b"x")

        return operation

    async def check() -> None:
        assert all_tasks() == before

    async with no_leaks():
        visited = await cancel_at_each_checkpoint(make, check, background=True)
        assert visited >= least
        async with open_nats(server.url, tls=tls) as nc:
            await nc.flush(PATIENCE)


async def test_opening_and_leaving(nats_server: NatsServer) -> None:
    await opened_and_left(nats_server, None, least=10)


async def test_opening_and_leaving_with_tls() -> None:
    certs = certificates()
    tls = ServerTLS(cert_file=certs.server.cert_file, key_file=certs.server.key_file)
    async with NatsServer(tls=tls) as server:
        await opened_and_left(server, TLSOptions(ca_file=certs.ca_file), least=12)


async def test_aclose(nats_server: NatsServer) -> None:
    async with no_leaks(), open_nats(nats_server.url) as other, other.subscribe("news") as news:
        accepted: list[bytes] = []
        closed: list[Connection] = []

        async def make() -> Operation:
            nc = await stack(nats_server)
            data = b"%d" % len(closed)
            await nc.publish("news", data)

            async def operation() -> None:
                await nc.aclose()
                accepted.append(data)

            closed.append(nc)
            return operation

        async def check() -> None:
            nc = closed[-1]
            assert nc.state == "closed"
            assert nc.failure is None
            await end_of(nc)

        opened: dict[Connection, trio.Event] = {}

        async with trio.open_nursery() as nursery:

            async def stack(server: NatsServer) -> Connection:
                nc, over = await nursery.start(hold_open, server.url)
                opened[nc] = over
                assert isinstance(nc, Connection)
                return nc

            async def end_of(nc: Connection) -> None:
                opened[nc].set()

            assert await cancel_at_each_checkpoint(make, check) >= 1
        await other.publish("news", END)
        arrived = []
        while (data := (await take(news, 1))[0]) != END.encode():
            arrived.append(data)
        # Those whose closing was cancelled may or may not have made it; the others have.
        assert set(accepted) <= set(arrived)
        assert arrived == sorted(arrived, key=int)


async def hold_open(
    url: str,
    task_status: trio.TaskStatus[tuple[Connection, trio.Event]] = trio.TASK_STATUS_IGNORED,
) -> None:
    over = trio.Event()
    async with open_nats(url) as nc:
        task_status.started((nc, over))
        await over.wait()


async def test_drain(nats_server: NatsServer) -> None:
    before = all_tasks()
    async with no_leaks():

        async def make() -> Operation:
            async def operation() -> None:
                async with open_nats(nats_server.url) as nc, nc.subscribe("work") as sub:
                    await nc.publish("work", b"x")
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(all_of, sub)
                        await nc.drain()

            return operation

        async def check() -> None:
            assert all_tasks() == before

        assert await cancel_at_each_checkpoint(make, check, background=True) >= 10


# --- publishing ---------------------------------------------------------------------------------


async def check_published(stage: Scene, news: Subscription) -> None:
    """What was accepted has arrived, in order, and nothing else has."""
    await stage.nc.publish("news", END)
    arrived = []
    while (data := (await take(news, 1))[0]) != END.encode():
        arrived.append(data.rstrip(b"."))
    assert arrived == stage.done


async def test_publish_with_room(nats_server: NatsServer) -> None:
    # Large, so that it yields to the writer now and then, which is the only suspension there is.
    async with scene(nats_server) as stage, stage.other.subscribe("news") as news:
        await stage.other.flush(PATIENCE)

        async def make() -> Operation:
            await stage.nc.publish("filling", bytes(600_000))

            async def operation() -> None:
                data = stage.next()
                await stage.nc.publish("news", data + b"." * 100_000)
                stage.done.append(data)

            return operation

        assert await cancel_at_each_checkpoint(make, stage.check) == 1
        assert 0 < len(stage.done) < stage.begun
        await check_published(stage, news)


async def test_publish_with_a_full_outbox(nats_server: NatsServer) -> None:
    async with scene(nats_server, 1) as stage, stage.other.subscribe("news") as news:
        await stage.other.flush(PATIENCE)

        async def make() -> Operation:
            await stage.nc.publish("filling", b"x")

            async def operation() -> None:
                data = stage.next()
                await stage.nc.publish("news", data)
                stage.done.append(data)

            return operation

        assert await cancel_at_each_checkpoint(make, stage.check) == 1
        assert 0 < len(stage.done) < stage.begun
        await check_published(stage, news)


# --- subscriptions ------------------------------------------------------------------------------


async def test_entering_and_leaving_a_subscription(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage:

        async def make() -> Operation:
            async def operation() -> None:
                async with stage.nc.subscribe("news"):
                    pass

            return operation

        async def check() -> None:
            await stage.check()
            assert stage.nc.stats.subscriptions == 0
            connz = await nats_server.monitor("/connz?subs=1")
            listed = connz["connections"]
            assert isinstance(listed, list)
            assert not any(entry.get("subscriptions_list") for entry in listed)

        assert await cancel_at_each_checkpoint(make, check) == 1


async def test_receive(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage, stage.nc.subscribe("news") as news:
        await stage.nc.flush(PATIENCE)
        received: list[bytes] = []

        for waiting in (False, True):  # whether the message is there before receive() is called

            async def make(waiting: bool = waiting) -> Operation:
                if waiting:
                    await stage.other.flush(PATIENCE)
                    await stage.nc.flush(PATIENCE)
                    while news.pending[0]:
                        received.append(news.receive_nowait().data)
                await stage.other.publish("news", stage.next())
                if not waiting:
                    await stage.other.flush(PATIENCE)
                    await stage.nc.flush(PATIENCE)

                async def operation() -> None:
                    received.append((await news.receive()).data)

                return operation

            visited = await cancel_at_each_checkpoint(make, stage.check)
            assert visited >= waiting
        await stage.other.publish("news", END)
        while (data := (await take(news, 1))[0]) != END.encode():
            received.append(data)
        assert received == [b"%d" % number for number in range(1, stage.begun + 1)]


async def test_receive_yields_without_losing_a_message(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage, stage.nc.subscribe("news") as news:
        await stage.nc.flush(PATIENCE)
        received: list[bytes] = []

        async def make() -> Operation:
            for _ in range(100):
                await stage.other.publish("news", stage.next())
            await stage.other.flush(PATIENCE)
            await stage.nc.flush(PATIENCE)

            async def operation() -> None:
                left = 100
                while left:
                    received.append((await news.receive()).data)
                    left -= 1

            return operation

        assert await cancel_at_each_checkpoint(make, stage.check) >= 1
        while news.pending[0]:
            received.append(news.receive_nowait().data)
        assert received == [b"%d" % number for number in range(1, stage.begun + 1)]


async def test_draining_a_subscription(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage:
        subs: list[Subscription] = []

        async def make() -> Operation:
            subs.append(await stage.nc.subscribe("news").__aenter__())
            await stage.nc.publish("news", b"x")
            return subs[-1].drain

        async def check() -> None:
            await stage.check()
            await subs[-1].aclose()
            assert stage.nc.stats.subscriptions == 0

        assert await cancel_at_each_checkpoint(make, check) == 2


# --- the connection -----------------------------------------------------------------------------


async def test_flush_and_rtt(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage:
        for operation in (stage.nc.flush, stage.nc.rtt):

            async def make(operation: Operation = operation) -> Operation:
                return operation

            assert await cancel_at_each_checkpoint(make, stage.check) == 2


async def test_events(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage:

        async def make() -> Operation:
            async def operation() -> None:
                async with stage.nc.events() as events:
                    stage.nc._core.hub.emit(trio.Event())  # type: ignore[arg-type]
                    await events.receive()

            return operation

        # Receiving what is there, and leaving.
        assert await cancel_at_each_checkpoint(make, stage.check) >= 1
        await stage.nc.flush(PATIENCE)
        stage.nc._core.hub.emit(trio.Event())  # type: ignore[arg-type]
        assert stage.nc._core.hub._listeners == []


async def test_waiting_for_a_state_and_reconnecting(nats_server: NatsServer) -> None:
    async with scene(nats_server) as stage:

        async def make() -> Operation:
            return lambda: stage.nc.wait_for_state(stage.nc.state)

        assert await cancel_at_each_checkpoint(make, stage.check) == 1
