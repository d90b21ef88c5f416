"""Calls that are cancelled while there is no connection.

The cleanup has nobody to clean up with, so it must end nevertheless. What it could not do is done
after the reconnect, or the server lets it expire.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from tests.cancellation.calls import GROUPS
from tests.cancellation.stage import Call, Stage, staged
from tests.cancellation.store_calls import nothing_is_half
from tests.support.checkpoints import Operation, Strike, strike_at_each_checkpoint
from tests.support.proxies import PlainProxy
from trio_nats import ReconnectPolicy
from trio_nats.errors import NatsError
from trio_nats.events import ConnectionState
from trio_nats.testing import NatsServer

pytestmark = [
    pytest.mark.nats_server(jetstream=True),
    pytest.mark.requires_server("2.14"),
    pytest.mark.slow,
]

QUICK = ReconnectPolicy(wait=0.001, max_wait=0.01)
TIMEOUT = 0.5
LOST = (NatsError, trio.ClosedResourceError, trio.BrokenResourceError)
EXPIRES = 300.0
"""Seconds after which the server deletes a consumer whose deletion was lost with the connection."""
STEP = {"cut": 4, "frozen": 6}
"""Cleaning up over a frozen connection takes time, so not every suspension is visited each time."""
LEFT = "may be left behind"

CALLS = {
    name: [one for one in group.calls if one.needs_cleanup and one.survives_outages]
    for name, group in GROUPS.items()
}


@pytest.mark.parametrize("fault", ["cut", "frozen"])
@pytest.mark.parametrize("group", [name for name, calls in CALLS.items() if calls])
async def test_cancelled_without_a_connection(
    nats_server: NatsServer,
    group: str,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    step = 1 if request.config.getoption("--every-checkpoint") else STEP[fault]
    async with (
        PlainProxy(nats_server.port) as proxy,
        trio.open_nursery() as nursery,
        staged(
            nats_server,
            GROUPS[group],
            url=f"nats://127.0.0.1:{proxy.port}",
            reconnect=QUICK,
            api_timeout=TIMEOUT,
        ) as stage,
    ):
        stage.has_outages, stage.ack_wait = True, 1.0
        for number, call in enumerate(CALLS[group]):
            first = number % step + 1
            try:
                await cancel(stage, call, proxy, nursery, fault, caplog, first, step)
            except BaseException as error:
                error.add_note(f"while cancelling {call}")
                raise
        await stage.check_subscriptions()


async def cancel(
    stage: Stage,
    call: Call,
    proxy: PlainProxy,
    nursery: trio.Nursery,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    first: int,
    step: int,
) -> None:
    """Break the connection at each suspension of a call, and cancel it then."""
    await call.before(stage)
    before = await stage.state()
    stage.note()
    await call.run(stage)
    await stage.nc.flush()
    after = await stage.state() if call.idempotent and call.changes else before
    scope, struck, done = trio.CancelScope(), trio.Event(), trio.Event()

    async def break_and_cancel() -> None:
        await struck.wait()
        if fault == "frozen":
            proxy.swallow = True
        else:
            proxy.refuse()
            proxy.cut()
            await stage.nc.wait_for_state(ConnectionState.RECONNECTING)
        scope.cancel()
        done.set()

    async def make() -> tuple[Operation, Strike]:
        nonlocal scope, struck, done
        await call.before(stage)
        await stage.wait_for(before)
        caplog.clear()
        scope, struck, done = trio.CancelScope(), trio.Event(), trio.Event()
        nursery.start_soon(break_and_cancel)
        stage.note()

        async def operation() -> None:
            with scope, suppress(*LOST):
                await call.run(stage)
                stage.completed = True

        return operation, struck.set

    async def check() -> None:
        struck.set()  # if there were fewer suspensions, after the end
        await done.wait()
        proxy.swallow = False
        proxy.accept()
        await stage.nc.wait_for_state(ConnectionState.OPEN)
        await stage.nc.flush()
        stage.warned = LEFT in caplog.text
        await call.check(stage)
        with suppress(*call.done):
            await call.run(stage)
        await stage.check_client()
        if call.idempotent and call.whole:
            await stage.expire(EXPIRES)
            await stage.wait_for(after, messages=call.check is not nothing_is_half)

    await strike_at_each_checkpoint(make, check, first=first, step=step)
