"""The recipes of docs/recipes.md, run against real servers.

The code of the page is one module here, cut into its sections by their headings.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.certs import Certificate, certificates, server_context
from tests.support.pages import ROOT, Block, blocks
from tests.support.proxies import TLSTerminatingProxy
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Connection, Msg, NoRespondersError, TLSOptions, open_nats
from trio_nats.jetstream import JetStreamMsg, StorageType
from trio_nats.testing import NatsServer, ServerTLS

CODE = list(blocks(ROOT / "docs" / "recipes.md", "python"))
IMPORTS, *RECIPES = CODE
TESTS = ("Test against a real server", "See what happens when the server goes away")


@pytest.fixture(scope="module")
def recipes() -> Iterator[types.ModuleType]:
    module = types.ModuleType("recipes")
    # Where dataclasses and msgspec look for what annotations mean.
    sys.modules[module.__name__] = module
    for block in CODE:
        exec(compile(block.code, str(block), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with open_nats(nats_server.url) as nc:
        yield nc


def test_every_recipe_is_tested() -> None:
    """By the names that its code defines."""
    here = Path(__file__).read_text("utf-8")
    for block in RECIPES:
        names = defined_in(block)
        assert block.heading in TESTS or any(f"recipes.{name}" in here for name in names), block


def defined_in(block: Block) -> list[str]:
    words = [line.split("(")[0].split() for line in block.code.splitlines()]
    return [line[-1] for line in words if line[:1] == ["def"] or line[:2] == ["async", "def"]]


async def answered(nc: Connection, subject: str, data: bytes) -> bytes:
    """The reply, once somebody is there to give it."""
    while True:
        try:
            return (await nc.request(subject, data)).data
        except NoRespondersError:
            await trio.sleep(0.01)


async def test_worker_pool(recipes: Any, nc: Connection) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recipes.pool, nc, 3)
        assert await answered(nc, "jobs", b"abc") == b"ABC"
        nursery.cancel_scope.cancel()


async def test_tolerant(recipes: Any, nc: Connection, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    async def handle(msg: Msg) -> None:
        seen.append(100 // int(msg.data))

    async with nc.subscribe("numbers", stop_after=3) as sub:
        for number in (5, 0, 2):
            await nc.publish("numbers", str(number))
        await recipes.tolerant(sub, handle)
    assert seen == [20, 50]
    assert "cannot handle a message on numbers" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_listen(
    recipes: Any, nc: Connection, nats_server: NatsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_nats(nats_server.url) as other, trio.open_nursery() as nursery:
        await nursery.start(recipes.listen, nc)
        await other.publish("news", b"it rains")
        await other.flush()
        await nc.flush()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().out == "it rains\n"


async def test_ingest(recipes: Any, nc: Connection) -> None:
    written: list[bytes] = []

    async def write(batch: list[bytes]) -> None:
        assert 0 < len(batch) <= 1000
        written.extend(batch)

    async with nc.subscribe("rows", stop_after=2500) as sub:
        for number in range(2500):
            await nc.publish("rows", str(number))
        await recipes.ingest(sub, write)
    assert written == [str(number).encode() for number in range(2500)]


async def test_latest(recipes: Any, nc: Connection) -> None:
    shown: list[bytes] = []
    first, go_on = trio.Event(), trio.Event()

    async def show(msg: Msg) -> None:
        shown.append(msg.data)
        first.set()
        await go_on.wait()
        if msg.data == b"300":
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recipes.latest, nc, show)
        await trio.testing.wait_all_tasks_blocked()
        await nc.publish("prices.tea", b"0")
        await first.wait()
        for number in range(1, 301):
            await nc.publish("prices.tea", str(number))
        await nc.flush()
        go_on.set()
    assert shown == [b"0", *(str(number).encode() for number in range(201, 301))]
    assert nc.stats.dropped == 200


async def test_ask_all(recipes: Any, nc: Connection) -> None:
    async with nc.subscribe("ask.*") as sub, trio.open_nursery() as nursery:
        nursery.start_soon(recipes.worker, sub)
        subjects = [f"ask.{number}" for number in range(250)]
        assert await recipes.ask_all(nc, subjects) == dict.fromkeys(subjects, b"")
        nursery.cancel_scope.cancel()


async def test_who_is_there(recipes: Any, nc: Connection) -> None:
    with pytest.raises(NoRespondersError):
        await recipes.who_is_there(nc)
    async with nc.subscribe("who") as one, nc.subscribe("who") as two, trio.open_nursery() as n:
        for name, sub in (("joe", one), ("sue", two)):
            n.start_soon(answer_once, sub, name)
        assert sorted(await recipes.who_is_there(nc)) == ["joe", "sue"]


async def answer_once(sub: trio.abc.ReceiveChannel[Msg], text: str) -> None:
    await (await sub.receive()).respond(text)


async def test_ask_again(recipes: Any, nc: Connection) -> None:
    with pytest.raises(NoRespondersError):
        await recipes.ask_again(nc, "late", b"x", attempts=2)
    async with trio.open_nursery() as nursery:
        replies: list[Msg] = []

        async def ask() -> None:
            replies.append(await recipes.ask_again(nc, "late", b"x", attempts=1000))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        async with nc.subscribe("late") as sub:
            await answer_once(sub, "at last")
    assert [reply.data for reply in replies] == [b"at last"]


async def test_typed_json(recipes: Any, nc: Connection, caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recipes.serve_prices, nc)
        await trio.testing.wait_all_tasks_blocked()
        await nc.publish("price", b'{"item": 7}')
        assert await recipes.price(nc, recipes.Order("tea", 3)) == 750
        nursery.cancel_scope.cancel()
    assert "'price'" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="signals a process")
async def test_graceful_stop(
    recipes: Any, nc: Connection, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    with trio.fail_after(HANG_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recipes.main)
            assert await answered(nc, "jobs", b"a") == b"A"
            signal.raise_signal(signal.SIGTERM)
    with pytest.raises(NoRespondersError):
        await nc.request("jobs")


@pytest.mark.nats_server(jetstream=True)
async def test_work_longer_than_ack_wait(
    recipes: Any, nc: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message is delivered once, and the server receives `+WPI` for the slow one."""
    js = nc.jetstream()
    stream = await js.create_stream("S", subjects=["s"], storage=StorageType.MEMORY)
    consumer = await stream.create_consumer("c")
    for data in (b"slow", b"bad", b"last"):
        await js.publish("s", data)
    stop = trio.Event()
    handled: list[bytes] = []

    async def handle(msg: JetStreamMsg) -> None:
        handled.append(msg.data)
        if msg.data == b"slow":
            for _ in range(3):
                assert (await acks.receive()).data == b"+WPI"
        elif msg.data == b"bad":
            raise ValueError("oh no")
        else:
            stop.set()

    async with nc.subscribe("$JS.ACK.S.c.>") as acks:
        await recipes.do_long_work(consumer, handle, stop, every=0)
    assert handled == [b"slow", b"bad", b"last"]
    assert "cannot handle" in caplog.text
    info = await consumer.refresh()
    assert (info.num_ack_pending, info.num_waiting) == (1, 0)  # the bad one comes again later


@pytest.mark.nats_server(jetstream=True)
async def test_dead_letters(recipes: Any, nc: Connection, caplog: pytest.LogCaptureFixture) -> None:
    js = nc.jetstream()
    stream = await js.create_stream("S", subjects=["s.*"], storage=StorageType.MEMORY)
    reports = await recipes.open_dead_letters(js, "S")

    async def publish(*numbers: int) -> None:
        for number in numbers:
            headers = {"Nats-Expected-Last-Sequence": str(number), "Kind": ["a", "b"]}
            await js.publish(f"s.{number}", b"x", headers=headers)

    await publish(0)
    consumer = await stream.create_consumer("c", max_deliver=2)
    for _ in range(2):
        await (await consumer.next()).nak()
    await publish(1, 2, 3)
    for msg in await consumer.fetch(2):
        await msg.term(reason="ugly")
    await (await consumer.next()).ack()
    await stream.delete_msg(3)
    await nc.publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.c", b"garbage")
    dead = await js.stream("DEAD")
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(recipes.collect_dead_letters, js, stream, reports)
        ordered = dead.ordered_consumer()
        async with ordered.consume(stop_after=2) as messages:
            found = {msg.subject: msg async for msg in messages}
        assert set(found) == {"dead.s.0", "dead.s.1"}
        headers = found["dead.s.0"].headers
        assert headers.get_all("Kind") == ["a", "b"]
        assert headers["Dead-Consumer"] == "c"
        while (await reports.refresh()).num_pending or reports.info.num_ack_pending:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert "message 3 is not stored any more" in caplog.text
    assert "malformed advisory" in caplog.text
    assert (await dead.refresh()).state.messages == 2


@pytest.mark.slow
async def test_health(recipes: Any, nc: Connection, nats_server: NatsServer) -> None:
    assert await recipes.healthy(nc)
    await nats_server.kill()
    assert not await recipes.healthy(nc)
    await nats_server.start()
    await nc.flush()
    assert await recipes.healthy(nc)
    await nc.aclose()
    assert not await recipes.healthy(nc)


async def test_watch(
    recipes: Any, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_nats(nats_server.url) as nc, trio.open_nursery() as nursery:
        nursery.start_soon(recipes.watch, nc)
        await trio.testing.wait_all_tasks_blocked()
        await nats_server.restart()
        await nc.flush()
        await nc.aclose()
    said = [record.getMessage() for record in caplog.records if record.name == "recipes"]
    assert said[0].startswith(f"lost {nats_server.url}: ")
    assert said[1] == f"back on {nats_server.url}; lost in flight: 0"


async def test_publish_from_a_thread(recipes: Any, nc: Connection) -> None:
    async with nc.subscribe("readings", stop_after=2) as sub:
        await recipes.measure(nc, lambda: b"21.5")
        assert [msg.data async for msg in sub] == [b"21.5", b"done"]


async def test_several_servers(recipes: Any, nats_server_factory: Any) -> None:
    one, two = await nats_server_factory(), await nats_server_factory()
    async with recipes.cluster([one.url, two.url]) as nc:
        first = nc.connected_url
        await nc.reconnect()
        assert {first, nc.connected_url} == {one.url, two.url}


@pytest.mark.nats_server(token="s3cret")
async def test_as_configured(
    recipes: Any, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "nats" / "context" / "mine.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"url": nats_server.url, "token": "s3cret"}))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("NATS_CONTEXT", "mine")
    async with recipes.as_configured() as nc:
        assert nc.connected_url == nats_server.url


async def test_start_early(recipes: Any, nats_server: NatsServer) -> None:
    await nats_server.stop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recipes.start_early, nats_server.url)
        await trio.testing.wait_all_tasks_blocked()
        await nats_server.start()


@pytest.mark.nats_server(user="joe", password="hunter2")
async def test_vault(recipes: Any, nats_server: NatsServer) -> None:
    asked: list[str] = []

    async def fetch_password(host: str) -> str:
        asked.append(host)
        return "hunter2"

    async with recipes.with_vault(nats_server.url, fetch_password) as nc:
        await nc.reconnect()
    assert asked == ["127.0.0.1"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGHUP there")
async def test_rotation(recipes: Any, tmp_path: Path) -> None:
    certs = certificates()
    own = {name: tmp_path / name for name in ("cert.pem", "key.pem")}

    def install(files: Certificate) -> None:
        own["cert.pem"].write_bytes(Path(files.cert_file).read_bytes())
        own["key.pem"].write_bytes(Path(files.key_file).read_bytes())

    tls = ServerTLS(
        certs.server.cert_file, certs.server.key_file, ca_file=certs.ca_file, verify=True
    )
    options = TLSOptions(ca_file=certs.ca_file, cert_file=own["cert.pem"], key_file=own["key.pem"])
    install(certs.client)
    async with NatsServer(tls=tls) as server:
        async with (
            open_nats(f"tls://localhost:{server.port}", tls=options) as nc,
            trio.open_nursery() as nursery,
        ):
            assert nc.tls_info is not None
            before = nc.tls_info.client_certificate_expires
            nursery.start_soon(recipes.rotate_on_hangup, nc)
            await trio.testing.wait_all_tasks_blocked()
            install(certs.client_near_expiry)
            async with nc.events() as events:
                signal.raise_signal(signal.SIGHUP)
                await events.receive()
            assert nc.tls_info.client_certificate_expires != before
            nursery.cancel_scope.cancel()


async def test_proxy(recipes: Any, nats_server: NatsServer) -> None:
    certs = certificates()
    async with (
        TLSTerminatingProxy(nats_server.port, server_context(certs.server)) as proxy,
        recipes.through_proxy(f"tls://localhost:{proxy.port}", certs.ca_file) as nc,
    ):
        assert nc.tls_info.verified_name == "localhost"


@pytest.mark.slow
async def test_tests(tmp_path: Path) -> None:
    """They are run by a pytest of their own, as a reader would."""
    wanted = [block for block in CODE if block.heading in ("Recipes", *TESTS)]
    wanted += [block for block in RECIPES if "async def pool" in block.code]
    (tmp_path / "test_mine.py").write_text("\n\n".join(block.code for block in wanted))
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nfilterwarnings = error\n")
    done = await trio.run_process(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert b"2 passed" in done.stdout, done.stdout.decode()
