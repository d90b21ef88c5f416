"""What peers say reaches errors and logs, but never as it is."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import trio

from tests.reliability.helpers import QUICK
from tests.support.peer import Peer, ScriptedServer
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import NatsError, open_nats
from trio_nats._printable import has_unprintable, printable
from trio_nats.events import ServerError
from trio_nats.jetstream import JetStreamError
from trio_nats.services import ServiceError, check_reply
from trio_nats.testing import NatsServer

HOSTILE = "\x1b[2J\x9b31m\u202egnp.exe\x07\u2028x"


def assert_harmless(texts: list[str]) -> None:
    assert texts
    for text in texts:
        assert not has_unprintable(text.replace("\n", "")), ascii(text)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_a_hostile_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def script(peer: Peer) -> None:
        info: dict[str, Any] = dict.fromkeys(
            ("server_id", "server_name", "version", "cluster", "domain", "client_ip"), HOSTILE
        )
        hosts = [f"{character}:4222" for character in HOSTILE]
        await peer.send_info(**info, connect_urls=[f"{HOSTILE}:4222", *hosts], ldm=True)
        await peer.accept_connect()
        await peer.send(f"-ERR '{HOSTILE}'\r\n".encode())
        await peer.serve()

    async with (
        ScriptedServer(script) as server,
        open_nats(server.url, reconnect=QUICK) as nc,
        nc.events() as events,
    ):
        with trio.fail_after(HANG_TIMEOUT):
            async for event in events:
                assert not has_unprintable(repr(event))
                if isinstance(event, ServerError):
                    assert_harmless([str(event.error)])
                    break
        assert_harmless([repr(nc), *map(str, nc.servers), *map(repr, nc.servers)])
    assert_harmless(logged(caplog))


async def test_a_hostile_jetstream(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    description = HOSTILE.encode("unicode_escape").replace(b"\\x", b"\\u00")
    # One that errors are told by, and one that only the description explains.
    not_found, unknown = (
        b'{"error": {"code": 404, "err_code": %d, "description": "%b"}}' % (number, description)
        for number in (10059, 19999)
    )
    async with open_nats(nats_server.url) as nc, trio.open_nursery() as nursery:

        async def answers(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with nc.subscribe("$JS.API.>") as sub:
                await nc.flush()
                task_status.started()
                async for msg in sub:
                    await msg.respond(not_found if "STREAM" in msg.subject else unknown)

        await nursery.start(answers)
        js = nc.jetstream()
        for ask, text in ((partial(js.stream, "x"), "'x' not found"), (js.account_info, "gnp")):
            with pytest.raises(JetStreamError) as caught:
                await ask()
            assert text in str(caught.value)
            assert_harmless([str(caught.value), repr(caught.value)])
        nursery.cancel_scope.cancel()
    assert_harmless(logged(caplog) or ["-"])


async def test_a_service_that_is_hostile(nats_server: NatsServer) -> None:
    async with (
        open_nats(nats_server.url) as nc,
        nc.subscribe("svc") as sub,
        trio.open_nursery() as nursery,
    ):

        async def answer() -> None:
            msg = await sub.receive()
            headers = {"Nats-Service-Error": HOSTILE, "Nats-Service-Error-Code": HOSTILE}
            await msg.respond(b"", headers=headers)

        nursery.start_soon(answer)
        with pytest.raises(ServiceError) as caught:
            check_reply(await nc.request("svc", b""))
        assert_harmless([str(caught.value), repr(caught.value)])


def test_these_checks_find_violations() -> None:
    with pytest.raises(AssertionError):
        assert_harmless([HOSTILE])
    assert_harmless([printable(HOSTILE), str(NatsError(HOSTILE))])
