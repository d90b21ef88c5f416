"""The fragments of docs/quickstart.md, run one by one against a real server."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.pages import ROOT, blocks
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, DecodeError, NoRespondersError, Subscription, open_nats
from trio_nats.events import Disconnected
from trio_nats.testing import NatsServer

FRAGMENTS = [
    block
    for block in blocks(ROOT / "docs" / "quickstart.md", "python")
    if "trio.run(" not in block.code
]


class Page:
    """Runs fragments, with ``nc`` and what else they take for granted as their variables."""

    def __init__(self, **given: object) -> None:
        self.module = types.ModuleType("quickstart")
        self.module.__dict__.update(given, print=self._print)
        self._said, self._heard = trio.open_memory_channel[tuple[Any, ...]](100)

    def _print(self, *args: object) -> None:
        self._said.send_nowait(args)

    async def said(self) -> tuple[Any, ...]:
        """What was printed next."""
        with trio.fail_after(HANG_TIMEOUT):
            return await self._heard.receive()

    def __getitem__(self, name: str) -> Any:
        return self.module.__dict__[name]

    async def run(self, beginning: str) -> None:
        (block,) = (block for block in FRAGMENTS if block.code.startswith(beginning))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        running = eval(compile(block.code, str(block), "exec", flags), self.module.__dict__)
        if inspect.iscoroutine(running):
            await running


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with open_nats(nats_server.url) as nc:
        yield nc


@pytest.fixture
def page(nc: Connection, monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page(nc=nc)
    # Where dataclasses and msgspec look for what annotations mean.
    monkeypatch.setitem(sys.modules, "quickstart", page.module)
    return page


async def test_publish_and_subscribe(page: Page) -> None:
    await page.run('async with nc.subscribe("greet.*"')  # it ends by itself
    subject, data, headers = await page.said()
    assert (subject, data, dict(headers)) == ("greet.joe", b"hello", {"lang": "en"})


async def test_request_and_reply(page: Page) -> None:
    with pytest.raises(NoRespondersError):
        await page.run('reply = await nc.request("double"')
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.run, 'async with nc.subscribe("double"')
        await trio.testing.wait_all_tasks_blocked()
        await page.run('reply = await nc.request("double"')
        assert page["reply"].data == b"abcabc"
        nursery.cancel_scope.cancel()


async def test_many_replies(page: Page, nc: Connection) -> None:
    async with nc.subscribe("who") as sub, trio.open_nursery() as nursery:
        nursery.start_soon(page.run, "async with nc.request_many")
        question = await sub.receive()
        for number in range(10):
            await question.respond(str(number))
    assert [await page.said() for _ in range(10)] == [(b"%d" % n,) for n in range(10)]


async def test_values(page: Page, nc: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.run, "from dataclasses import")
        await trio.testing.wait_all_tasks_blocked()
        await nc.publish("orders", b"nonsense")
        error, data = await page.said()
        assert isinstance(error, DecodeError)
        assert data == b"nonsense"
        assert page["order"] == page["Order"](1, "tea")
        nursery.cancel_scope.cancel()


async def test_events(page: Page, nats_server: NatsServer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.run, "async with nc.events()")
        await trio.testing.wait_all_tasks_blocked()
        await nats_server.kill()
        (event,) = await page.said()
        assert isinstance(event, Disconnected)
        nursery.cancel_scope.cancel()


async def test_leaving(
    page: Page, nc: Connection, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    stop, done = trio.Event(), []

    async def work(jobs: Subscription) -> None:
        async for job in jobs:
            stop.set()
            await trio.lowlevel.checkpoint()
            done.append(job.data)

    page.module.__dict__.update(trio=trio, open_nats=open_nats, work=work)
    page.module.__dict__["stop_was_asked_for"] = stop.wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.run, "async with open_nats() as nc")
        while not stop.is_set():
            await nc.publish("jobs", b"one")
            await trio.sleep(0.01)
    assert set(done) == {b"one"}


def test_every_fragment_is_run() -> None:
    here = Path(__file__).read_text("utf-8")
    beginnings = [found[1] for found in re.findall(r"""page\.run[,(] ?(['"])(.+?)\1""", here)]
    for block in FRAGMENTS:
        assert block.code.startswith(tuple(beginnings)), block
