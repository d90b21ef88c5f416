"""Every call, cancelled at each checkpoint, leaves nothing behind, and can be repeated."""

from __future__ import annotations

import pytest

from tests.cancellation.calls import GROUPS
from tests.cancellation.stage import Call, Stage, staged
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from trio_nats.testing import NatsServer

pytestmark = [
    pytest.mark.nats_server(jetstream=True),
    pytest.mark.requires_server("2.14"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("group", GROUPS)
async def test_cancelled_at_each_checkpoint(nats_server: NatsServer, group: str) -> None:
    async with staged(nats_server, GROUPS[group]) as stage:
        visited = 0
        for call in GROUPS[group].calls:
            try:
                visited += await cancel(stage, call)
            except BaseException as error:
                error.add_note(f"while cancelling {call}")
                raise
        await stage.check_subscriptions()
        assert visited > len(GROUPS[group].calls)


async def cancel(stage: Stage, call: Call) -> int:
    """Cancel a call at each checkpoint. Return at how many."""
    await call.before(stage)
    before = await stage.state()
    stage.note()
    await call.run(stage)
    await stage.nc.flush()
    after = await stage.state() if call.idempotent and call.changes else before

    async def make() -> Operation:
        await call.before(stage)
        await stage.wait_for(before)
        stage.note()

        async def operation() -> None:
            await call.run(stage)
            stage.completed = True

        return operation

    async def check() -> None:
        await stage.check_client()
        await call.check(stage)
        if call.idempotent and call.whole:
            await stage.wait_for(before, after)
        try:
            await call.run(stage)
        except call.done:
            pass
        await stage.check_client()
        if call.idempotent:
            await stage.wait_for(after)

    return await cancel_at_each_checkpoint(make, check, background=call.background)
