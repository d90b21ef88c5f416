"""Every call, cancelled at each checkpoint, leaves nothing behind, and can be repeated."""

from __future__ import annotations

import pytest

from tests.cancellation.calls import GROUPS
from tests.cancellation.environment import Call, Environment, environment
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from trio_nats.testing import NatsServer

pytestmark = [
    pytest.mark.nats_server(jetstream=True),
    pytest.mark.requires_server("2.14"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("group", GROUPS)
async def test_cancelled_at_each_checkpoint(nats_server: NatsServer, group: str) -> None:
    async with environment(nats_server, GROUPS[group]) as env:
        visited = 0
        for call in GROUPS[group].calls:
            try:
                visited += await cancel(env, call)
            except BaseException as error:
                error.add_note(f"while cancelling {call}")
                raise
        await env.check_subscriptions()
        assert visited > len(GROUPS[group].calls)


async def cancel(env: Environment, call: Call) -> int:
    """Cancel a call at each checkpoint. Return the number of checkpoints."""
    await call.before(env)
    before = await env.state()
    env.take_snapshot()
    await call.run(env)
    await env.nc.flush()
    after = await env.state() if call.idempotent and call.changes else before

    async def make() -> Operation:
        await call.before(env)
        await env.wait_for(before)
        env.take_snapshot()

        async def operation() -> None:
            await call.run(env)
            env.completed = True

        return operation

    async def check() -> None:
        await env.check_client()
        await call.check(env)
        if call.idempotent and call.atomic:
            await env.wait_for(before, after)
        try:
            await call.run(env)
        except call.repeat_errors:
            pass
        await env.check_client()
        if call.idempotent:
            await env.wait_for(after)

    return await cancel_at_each_checkpoint(make, check, background=call.background)
