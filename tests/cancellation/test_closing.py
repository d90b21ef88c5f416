"""Calls end if their connection is closed, and what they leave on the server expires."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

import pytest
import trio

from tests.cancellation.calls import GROUPS
from tests.cancellation.environment import Call, Environment, State, environment
from tests.cancellation.store_calls import no_partial_objects
from tests.cancellation.test_outages import CALLS, EXPIRES, LEFT, LOST
from tests.support.checkpoints import Disturb, Operation, disturb_at_each_checkpoint
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
    env: Environment
    before: State = {}

    async def make() -> tuple[Operation, Disturb]:
        nonlocal env, before
        nursery = await stack.enter_async_context(trio.open_nursery())
        env = await stack.enter_async_context(environment(server, GROUPS[group]))
        env.has_outages, env.ack_wait = True, 1.0
        await call.before(env)
        before = await env.state()
        caplog.clear()
        disturbed = trio.Event()

        async def close_connection() -> None:
            await disturbed.wait()
            await env.nc.aclose()

        nursery.start_soon(close_connection)

        async def operation() -> None:
            try:
                with suppress(*LOST):
                    await call.run(env)
            finally:
                disturbed.set()

        return operation, disturbed.set

    async def check() -> None:
        env.warned = LEFT in caplog.text
        await env.expire(EXPIRES)
        await env.wait_for(before, messages=False)
        if call.check is no_partial_objects:
            env.store = await env.observer.object_store("O")
            await no_partial_objects(env)
        await stack.aclose()

    await disturb_at_each_checkpoint(make, check, first=first, step=step)
