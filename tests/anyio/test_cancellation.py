"""Every operation, cancelled at every moment that the backend knows, by scopes and natively.

Whatever was cancelled, the same connection works as before, nothing is left behind, and each
message was handled once or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest
import trio

from tests.anyio.helpers import BACKENDS, Home, cancel_everywhere, receive_n, run
from tests.support.certs import certificates
from tests.support.checkpoints import Operation
from tests.support.leaks import open_sockets
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import NoRespondersError, TLSOptions
from trio_nats.anyio import Connection, Subscription, open_nats
from trio_nats.testing import NatsServer, ServerTLS

pytestmark = pytest.mark.slow


# uvloop is no different from asyncio here: what it does otherwise is in the other tests.
@pytest.fixture(params=BACKENDS[:2])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@dataclass
class Stage:
    """A connection whose operations are cancelled, and what it has published as others see it."""

    nc: Connection
    ledger: Subscription
    number: int = 0
    done: list[bytes] = field(default_factory=list)
    """What was published according to the publishers."""
    got: list[bytes] = field(default_factory=list)
    before: tuple[int, int, Set[str]] = (0, 0, frozenset())

    def next(self) -> bytes:
        self.number += 1
        return b"%d" % self.number

    async def check(self) -> None:
        """After every run: nothing is left, and the connection works."""
        await self.nc.flush()
        async with self.nc.subscribe("check") as sub:
            await self.nc.publish("check", b"x")
            assert await receive_n(sub, 1) == [b"x"]
        await self.nc.flush()
        # The PONG can be here before the writer has had its next turn.
        with anyio.fail_after(HANG_TIMEOUT):
            while self.nc.stats.outbox_bytes:
                await anyio.lowlevel.checkpoint()
        stats = self.nc.stats
        assert (stats.lost_in_flight, stats.reconnects) == (0, 0)
        assert left_over() == self.before

    async def look(self) -> None:
        """Remember what is there at the best of times."""
        with pytest.raises(NoRespondersError):
            await self.nc.request("nobody")
        await self.nc.flush()
        self.before = left_over()

    async def check_ledger(self) -> None:
        """What was said to be published was, in order, and nothing twice."""
        await self.check()
        await self.nc.publish("ledger", b"mark")
        while (data := (await self.ledger.receive()).data) != b"mark":
            self.got.append(data)
        assert len(set(self.got)) == len(self.got)
        assert sorted(self.got, key=int) == self.got
        assert set(self.done) <= set(self.got)


def left_over() -> tuple[int, int, Set[str]]:
    """How many tasks there are in Trio and in asyncio, and the sockets that are open."""
    in_asyncio = 0
    if not trio.lowlevel.in_trio_task():
        in_asyncio = len(asyncio.all_tasks())
    return trio.lowlevel.current_statistics().tasks_living, in_asyncio, open_sockets()


async def on_stage(
    backend: str, server: NatsServer, main: Callable[[Stage], Awaitable[None]], **options: object
) -> None:
    async def run_it(_: Home) -> None:
        async with (
            open_nats(server.url) as witness,
            witness.subscribe("ledger") as ledger,
            open_nats(server.url, **options) as nc,  # type: ignore[arg-type]  # options of a test
        ):
            await witness.flush()
            stage = Stage(nc, ledger)
            await stage.look()
            await main(stage)

    # The other tests of this directory use asyncio's debug mode.
    await run(backend, run_it, debug=False)


async def test_publishing(backend: str, nats_server: NatsServer) -> None:
    async def main(stage: Stage) -> None:
        async def publish() -> None:
            for _ in range(3):
                data = stage.next()
                await stage.nc.publish("ledger", data)
                stage.done.append(data)

        await cancel_everywhere(lambda: ready(publish), stage.check_ledger)
        assert len(stage.done) >= 3

    await on_stage(backend, nats_server, main)


async def test_publishing_with_waiting(backend: str, nats_server: NatsServer) -> None:
    async def main(stage: Stage) -> None:
        async def publish() -> None:
            for _ in range(4):
                data = stage.next()
                await stage.nc.publish("ledger", data)
                stage.done.append(data)

        assert await cancel_everywhere(lambda: ready(publish), stage.check_ledger) >= 3

    await on_stage(backend, nats_server, main, outbox_size=1)


@pytest.mark.parametrize("count", [1, 3])
async def test_receiving_loses_nothing(backend: str, count: int, nats_server: NatsServer) -> None:
    async def main(stage: Stage) -> None:
        async with stage.nc.subscribe("in") as sub:
            await stage.look()
            received: list[bytes] = []

            async def receive() -> None:
                for _ in range(count):
                    received.append((await sub.receive()).data)  # noqa: PERF401  # at once

            async def prepare() -> Operation:
                received.clear()
                for number in range(count):
                    await stage.nc.publish("in", b"%d" % number)
                return receive

            async def check() -> None:
                received.extend(await receive_n(sub, count - len(received)))
                assert received == [b"%d" % number for number in range(count)]
                await stage.check()

            assert await cancel_everywhere(prepare, check) >= 1

    await on_stage(backend, nats_server, main)


async def test_receiving_what_is_there(backend: str, nats_server: NatsServer) -> None:
    """Without a wait: the message is in the queue already."""

    async def main(stage: Stage) -> None:
        async with stage.nc.subscribe("in") as sub:
            await stage.look()
            received: list[bytes] = []

            async def receive() -> None:
                received.append((await sub.receive()).data)
                await anyio.lowlevel.checkpoint()
                received.append((await sub.receive()).data)

            async def prepare() -> Operation:
                received.clear()
                for number in range(2):
                    await stage.nc.publish("in", b"%d" % number)
                await stage.nc.flush()
                return receive

            async def check() -> None:
                received.extend(await receive_n(sub, 2 - len(received)))
                assert received == [b"0", b"1"]
                await stage.check()

            await cancel_everywhere(prepare, check)

    await on_stage(backend, nats_server, main)


async def test_requests(backend: str, nats_server: NatsServer) -> None:
    async def main(stage: Stage) -> None:
        async def request() -> None:
            assert (await stage.nc.request("svc", b"x")).data == b"x"
            async with stage.nc.request_many("svc", b"y", stop_after=1) as replies:
                assert [msg.data async for msg in replies] == [b"y"]

        async def serve() -> None:
            async for msg in sub:
                await msg.respond(msg.data)

        async with stage.nc.subscribe("svc") as sub, anyio.create_task_group() as group:
            group.start_soon(serve)
            await stage.look()
            assert await cancel_everywhere(lambda: ready(request), stage.check) >= 4
            group.cancel_scope.cancel()

    await on_stage(backend, nats_server, main)


async def test_subscribing(backend: str, nats_server: NatsServer) -> None:
    async def main(stage: Stage) -> None:
        before = stage.nc.stats.subscriptions

        async def subscribe() -> None:
            async with stage.nc.subscribe("a") as a, stage.nc.events() as events:
                await a.drain()
                async with stage.nc.subscribe("b"):
                    await events.aclose()

        async def check() -> None:
            assert stage.nc.stats.subscriptions == before
            await stage.check()

        assert await cancel_everywhere(lambda: ready(subscribe), check) >= 4

    await on_stage(backend, nats_server, main)


async def test_round_trips(backend: str, nats_server: NatsServer) -> None:
    async def main(stage: Stage) -> None:
        async def flush() -> None:
            await stage.nc.flush(timeout=5)
            await stage.nc.rtt()
            await stage.nc.wait_for_state(stage.nc.state)

        assert await cancel_everywhere(lambda: ready(flush), stage.check) >= 3

    await on_stage(backend, nats_server, main)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("ending", ["leaving", "draining", "raising"])
async def test_connecting_and_closing(backend: str, encrypted: bool, ending: str) -> None:
    certs = certificates()
    tls = ServerTLS(certs.server.cert_file, certs.server.key_file) if encrypted else None
    options = TLSOptions(ca_file=certs.ca_file) if encrypted else TLSOptions()

    async def main(_: Home) -> None:
        sockets = open_sockets()
        in_asyncio = 0 if backend == "trio" else len(asyncio.all_tasks())

        async def connect() -> None:
            url = f"nats://localhost:{server.port}"
            try:
                async with open_nats(url, tls=options) as nc, nc.subscribe("a"):
                    await nc.publish("a", b"x")
                    if ending == "draining":
                        with anyio.move_on_after(10):
                            await nc.drain(timeout=0.001)
                    elif ending == "raising":
                        raise KeyError(ending)
            except (KeyError, TimeoutError):
                pass

        async def check() -> None:
            assert open_sockets() == sockets
            if backend != "trio":
                assert len(asyncio.all_tasks()) == in_asyncio
                assert not trio.lowlevel.in_trio_run()

        assert await cancel_everywhere(lambda: ready(connect), check) >= 2

    async with NatsServer(tls=tls) as server:
        await run(backend, main, debug=False)


async def test_workers_that_come_and_go(backend: str, nats_server: NatsServer) -> None:
    """Receivers whose time runs out all the while miss nothing between them, and keep the order."""
    count = 400

    async def main(stage: Stage) -> None:
        async with stage.nc.subscribe("in") as sub:
            received: list[int] = []

            async def receive() -> None:
                while len(received) < count:
                    with anyio.move_on_after(0.0005):
                        while True:
                            received.append(int((await sub.receive()).data))

            async def publish() -> None:
                for number in range(count):
                    await stage.nc.publish("in", b"%d" % number)
                    if number % 7 == 0:
                        await anyio.sleep(0.0005)

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                group.start_soon(publish)
            assert received == list(range(count))

    await on_stage(backend, nats_server, main)


async def ready(operation: Operation) -> Operation:
    return operation
