"""A task of ours fails behind a block of the user's: the failure leaves the block, as itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
import trio

from tests.support.internals import nursery_of
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Server, UserPassword, open_nats
from trio_nats._constructors import construct
from trio_nats.jetstream.consumer.message import JetStreamMsg
from trio_nats.jetstream.consumer.message_channel import Messages
from trio_nats.testing import NatsServer


@contextmanager
def leaving(kind: type[BaseException]) -> Generator[None]:
    """Expects it, and nothing else: pytest-trio takes a test that raises Cancelled for passed."""
    with pytest.raises(BaseException, match="ours") as caught:
        yield
    assert type(caught.value) is kind


KINDS = [SystemExit, KeyboardInterrupt]


def failing_later(kind: type[BaseException]) -> Callable[[Server], UserPassword]:
    """Credentials that are there for the first connection only."""
    asked = 0

    def credentials(_: Server) -> UserPassword:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise kind("ours")
        return UserPassword("joe", "secret")

    return credentials


@pytest.mark.parametrize("kind", KINDS)
async def test_of_the_connection(kind: type[BaseException], nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT), leaving(kind):
        async with open_nats(nats_server.url, auth=failing_later(kind)) as nc:
            await nc.reconnect()
            await trio.sleep_forever()


@pytest.mark.parametrize("kind", KINDS)
async def test_while_opening(kind: type[BaseException], nats_server: NatsServer) -> None:
    def credentials(_: Server) -> UserPassword:
        raise kind("ours")

    with trio.fail_after(HANG_TIMEOUT), leaving(kind):
        async with open_nats(nats_server.url, auth=credentials):
            raise AssertionError("entered")


class FailingMessages(Messages):
    """What ``consume`` makes, with a task that fails when the test says so."""

    def __init__(self, error: BaseException, now: trio.Event) -> None:
        super().__init__("test", lambda: None)
        self._error = error
        self._now = now
        self.closed = 0

    @property
    def waiting(self) -> int:
        return 0

    async def receive(self) -> JetStreamMsg:
        await trio.sleep_forever()
        raise AssertionError

    async def _open(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._fail)

    async def _fail(self) -> None:
        await self._now.wait()
        raise self._error

    async def _close(self) -> None:
        self.closed += 1

    def _stop_asking(self) -> None:
        raise AssertionError

    async def _drain(self) -> None:
        raise AssertionError

    async def _take_waiting(self, most: int) -> list[JetStreamMsg]:
        raise AssertionError


@pytest.mark.parametrize("kind", [KeyError, *KINDS])
def test_of_a_channel_of_messages(kind: type[BaseException]) -> None:
    """It used to be lost, and the cancellation that it causes came out of ``trio.run``."""
    error, now = kind("ours"), trio.Event()
    messages = construct(FailingMessages, error, now)

    async def main() -> None:
        with trio.fail_after(HANG_TIMEOUT):
            async with messages:
                now.set()
                await messages.receive()

    with pytest.raises(kind) as caught:
        trio.run(main)
    assert caught.value is error
    assert messages.closed


async def test_of_a_channel_of_messages_whose_block_has_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = trio.Event()
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(KeyError, match="mine"):
        async with construct(FailingMessages, OSError("ours"), now):
            await trio.testing.wait_all_tasks_blocked()
            now.set()
            raise KeyError("mine")
    assert "ours" in caplog.text


async def test_of_a_publisher(nats_server: NatsServer) -> None:
    async def fail() -> None:
        raise KeyError("ours")

    with trio.fail_after(HANG_TIMEOUT), leaving(KeyError):
        async with open_nats(nats_server.url) as nc, nc.jetstream().publisher() as publisher:
            nursery_of(publisher).start_soon(fail)
            await trio.sleep_forever()


@pytest.mark.parametrize("kind", KINDS)
async def test_of_a_service(kind: type[BaseException], nats_server: NatsServer) -> None:
    def stats(_: object) -> object:
        raise kind("ours")

    with trio.fail_after(HANG_TIMEOUT), leaving(kind):
        async with (
            open_nats(nats_server.url) as nc,
            nc.add_service("s", version="1.0.0", stats_handler=stats) as service,
        ):

            @service.endpoint("e")
            async def _(_: object) -> None:
                pass

            with trio.move_on_after(30):
                await nc.request("$SRV.STATS.s")
            await trio.sleep_forever()
