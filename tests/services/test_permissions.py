"""Users that have exactly the permissions that the documentation lists."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.services.helpers import HANG_TIMEOUT, reverse
from tests.support.permissions import permissions, quoted
from trio_nats import Connection, NoRespondersError, UserPassword, open_nats
from trio_nats.events import ServerError
from trio_nats.testing import NatsServer

STALL = 0.1
ROWS = permissions("Services")


@asynccontextmanager
async def text(nc: Connection) -> AsyncIterator[None]:
    """Run the service of the documentation."""
    async with nc.add_service("text", version="1.0.0") as service:
        await service.add_endpoint("reverse", reverse)
        await nc.flush()
        # The server refuses subscriptions in any case before this.
        await trio.testing.wait_all_tasks_blocked()
        yield


async def call(nc: Connection) -> None:
    for _ in range(3):
        assert (await nc.request("reverse", b"ab")).data == b"ba"


async def find(nc: Connection) -> None:
    services = nc.services(stall=STALL)
    (one,) = await services.ping()
    assert len(await services.info("text")) == len(await services.stats("text", one.id)) == 1
    assert len(await services.ping("text")) == len(await services.stats()) == 1


async def use(name: str, nc: Connection, admin: Connection) -> None:
    match name:
        case "run a service":
            async with text(nc):
                await call(admin)
                await find(admin)
        case "run a service that cannot be discovered":
            async with text(nc):
                await call(admin)
                with pytest.raises(NoRespondersError):
                    await admin.request("$SRV.PING")
        case "call a service":
            async with text(admin):
                await call(nc)
        case "find services":
            async with text(admin):
                await find(nc)
        case _:
            raise AssertionError(f"the line {name!r} of the table is not tried")


@pytest.mark.parametrize(
    ("name", "respond"),
    [
        *((name, False) for name in ROWS),
        # With allow_responses in place of the permission to publish.
        *((name, True) for name in ROWS if name.startswith("run")),
    ],
)
async def test_the_permissions_of_the_table_are_enough(
    name: str, respond: bool, caplog: pytest.LogCaptureFixture
) -> None:
    publish, subscribe = ROWS[name]
    allowed = f"publish: [{quoted(publish)}]"
    if respond:
        allowed = "publish: {deny: '>'}, allow_responses: true"
    config = f"""
    authorization {{ users: [
        {{user: a, password: a}}
        {{user: u, password: u, permissions: {{ {allowed}, subscribe: [{quoted(subscribe)}] }} }}
    ] }}
    """
    forbidden: list[str] = []
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(config=config) as server,
            open_nats(server.url, auth=UserPassword("a", "a")) as admin,
            open_nats(server.url, auth=UserPassword("u", "u")) as nc,
            nc.events() as events,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def note() -> None:
                async for event in events:
                    match event:
                        case ServerError(error):
                            forbidden.append(str(error))

            await use(name, nc, admin)
            await nc.flush()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert forbidden == []
    assert len(caplog.records) == (9 if name == "run a service that cannot be discovered" else 0)
