"""Calls that are cancelled while there is no connection.

Their cleanup cannot reach the server, and must end nevertheless. What is left over is deleted after
the reconnect, or expires on the server.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from tests.cancellation.calls import GROUPS
from tests.cancellation.environment import Call, Environment, environment
from tests.cancellation.store_calls import no_partial_objects
from tests.support.checkpoints import Disturb, Operation, disturb_at_each_checkpoint
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
        environment(
            nats_server,
            GROUPS[group],
            url=f"nats://127.0.0.1:{proxy.port}",
            reconnect=QUICK,
            api_timeout=TIMEOUT,
        ) as env,
    ):
        env.has_outages, env.ack_wait = True, 1.0
        for number, call in enumerate(CALLS[group]):
            first = number % step + 1
            try:
                await cancel(env, call, proxy, nursery, fault, caplog, first, step)
            except BaseException as error:
                error.add_note(f"while cancelling {call}")
                raise
        await env.check_subscriptions()


async def cancel(
    env: Environment,
    call: Call,
    proxy: PlainProxy,
    nursery: trio.Nursery,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    first: int,
    step: int,
) -> None:
    """Break the connection at each suspension of a call, and cancel it then."""
    await call.before(env)
    before = await env.state()
    env.take_snapshot()
    await call.run(env)
    await env.nc.flush()
    after = await env.state() if call.idempotent and call.changes else before
    scope, disturbed, done = trio.CancelScope(), trio.Event(), trio.Event()

    async def break_and_cancel() -> None:
        await disturbed.wait()
        if fault == "frozen":
            proxy.swallow = True
        else:
            proxy.refuse()
            proxy.cut()
            await env.nc.wait_for_state(ConnectionState.RECONNECTING)
        scope.cancel()
        done.set()

    async def make() -> tuple[Operation, Disturb]:
        nonlocal scope, disturbed, done
        await call.before(env)
        await env.wait_for(before)
        caplog.clear()
        scope, disturbed, done = trio.CancelScope(), trio.Event(), trio.Event()
        nursery.start_soon(break_and_cancel)
        env.take_snapshot()

        async def operation() -> None:
            with scope, suppress(*LOST):
                await call.run(env)
                env.completed = True

        return operation, disturbed.set

    async def check() -> None:
        disturbed.set()  # if there were fewer suspensions, after the end
        await done.wait()
        proxy.swallow = False
        proxy.accept()
        await env.nc.wait_for_state(ConnectionState.OPEN)
        await env.nc.flush()
        env.warned = LEFT in caplog.text
        await call.check(env)
        with suppress(*call.repeat_errors):
            await call.run(env)
        await env.check_client()
        if call.idempotent and call.atomic:
            await env.expire(EXPIRES)
            await env.wait_for(after, messages=call.check is not no_partial_objects)

    await disturb_at_each_checkpoint(make, check, first=first, step=step)
