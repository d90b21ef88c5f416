"""Calls that are cancelled at random times over a slow connection."""

from __future__ import annotations

import random

import pytest
import trio

from tests.cancellation.calls import GROUPS
from tests.cancellation.environment import Call, Environment, environment
from tests.cancellation.test_outages import CALLS
from tests.support.proxies import PlainProxy
from trio_nats.testing import NatsServer

pytestmark = [
    pytest.mark.nats_server(jetstream=True),
    pytest.mark.requires_server("2.14"),
    pytest.mark.slow,
]

DELAY = 0.002
TIMES = 2


@pytest.mark.parametrize("group", [name for name, calls in CALLS.items() if calls])
async def test_cancelled_over_a_slow_connection(
    nats_server: NatsServer, group: str, request: pytest.FixtureRequest
) -> None:
    times = 50 if request.config.getoption("--every-checkpoint") else TIMES
    async with PlainProxy(nats_server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        async with environment(nats_server, GROUPS[group], url=url) as env:
            proxy.delay = DELAY
            for call in CALLS[group]:
                seconds = random.Random(f"{call}").random
                try:
                    for _ in range(times):
                        await cancel(env, call, seconds() * 20 * DELAY)
                except BaseException as error:
                    error.add_note(f"while cancelling {call}")
                    raise
            await env.check_subscriptions()


async def cancel(env: Environment, call: Call, seconds: float) -> None:
    """Cancel a call after some seconds, and repeat it."""
    await call.before(env)
    before = await env.state()
    env.take_snapshot()
    with trio.move_on_after(seconds):
        await call.run(env)
        env.completed = True
    await env.check_client()
    await call.check(env)
    if call.idempotent and not call.changes:
        await env.wait_for(before)
    try:
        await call.run(env)
    except call.repeat_errors:
        pass
    await env.check_client()
    if call.idempotent and not call.changes:
        await env.wait_for(before)
