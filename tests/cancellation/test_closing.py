"""Calls whose connection is closed while they run end, and what they leave behind expires."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import pytest
import trio

from tests.cancellation.calls import GROUPS
from tests.cancellation.stage import Call, Stage, State, staged
from tests.cancellation.store_calls import nothing_is_half
from tests.cancellation.test_outages import CALLS, EXPIRES, LEFT, LOST
from tests.support.checkpoints import Operation, Strike, strike_at_each_checkpoint
from tests.support.leaks import no_leaks
from trio_nats.testing import NatsServer

pytestmark = [
    pytest.mark.nats_server(jetstream=True),
    pytest.mark.requires_server("2.14"),
    pytest.mark.slow,
]

STEP = 6


@pytest.mark.parametrize("group", [name for name, calls in CALLS.items() if calls])
async def test_closed_at_checkpoints(
    nats_server: NatsServer,
    group: str,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    step = 1 if request.config.getoption("--every-checkpoint") else STEP
    for number, call in enumerate(CALLS[group]):
        try:
            async with no_leaks():
                await close(nats_server, group, call, caplog, number % step + 1, step)
        except BaseException as error:
            error.add_note(f"while closing the connection of {call}")
            raise


async def close(
    server: NatsServer,
    group: str,
    call: Call,
    caplog: pytest.LogCaptureFixture,
    first: int,
    step: int,
) -> None:
    """Close the connection at suspensions of a call."""
    stack = AsyncExitStack()
    stage: Stage
    before: State = {}

    async def make() -> tuple[Operation, Strike]:
        nonlocal stage, before
        nursery = await stack.enter_async_context(trio.open_nursery())
        stage = await stack.enter_async_context(staged(server, GROUPS[group]))
        stage.has_outages, stage.ack_wait = True, 1.0
        await call.before(stage)
        before = await stage.state()
        caplog.clear()
        struck = trio.Event()

        async def close_connection() -> None:
            await struck.wait()
            await stage.nc.aclose()

        nursery.start_soon(close_connection)

        async def operation() -> None:
            try:
                with suppress(*LOST):
                    await call.run(stage)
            finally:
                struck.set()

        return operation, struck.set

    async def check() -> None:
        stage.warned = LEFT in caplog.text
        await stage.expire(EXPIRES)
        await stage.wait_for(before, messages=False)
        if call.check is nothing_is_half:
            stage.store = await stage.witness.object_store("O")
            await nothing_is_half(stage)
        await stack.aclose()

    await strike_at_each_checkpoint(make, check, first=first, step=step)
