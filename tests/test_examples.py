"""Every example, and the README's, run as programs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from tests.support.certs import certificates
from tests.support.forked import Program, forked, run_file
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    Connection,
    Subscription,
    open_nats,
)
from trio_nats.services import service_error
from trio_nats.testing import NatsServer, ServerTLS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


async def run(*command: str | Path, url: str) -> str:
    """What the program printed, if it ended well."""
    async with example(*command, url=url) as process:
        output = await process.rest()
        assert await process.wait() == 0, output
    return output


def example(
    file: str | Path, *args: str | Path, url: str, stderr: bool = True, **variables: str
) -> AbstractAsyncContextManager[Program]:
    env = environment(url) | variables
    return forked(run_file, str(file), *map(str, args), env=env, stderr=stderr)


async def run_as_users_do(*command: str | Path, url: str) -> str:
    """The same by an interpreter of its own."""
    done = await trio.run_process(
        [sys.executable, *command],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
        env=environment(url),
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


def environment(url: str) -> dict[str, str]:
    return os.environ | {"NATS_URL": url, "PYTHONWARNINGS": "error"}


async def line(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        data = await stream.receive_some()
        assert data, f"ended after {received!r}"
        received += data
    return received


def test_every_example_is_tested() -> None:
    here = Path(__file__).read_text()
    untested = [file.name for file in EXAMPLES.glob("*.py") if f'"{file.name}"' not in here]
    assert untested == []


async def test_quickstart(nats_server: NatsServer) -> None:
    output = await run_as_users_do(EXAMPLES / "quickstart.py", url=nats_server.url)
    assert output.splitlines() == [
        "greet.joe hello quickstart",
        "greet.sue hello quickstart",
        "greet.bob hello quickstart",
    ]


async def test_queue_group(nats_server: NatsServer) -> None:
    output = await run(EXAMPLES / "queue_group.py", url=nats_server.url)
    jobs = sorted(re.findall(r"worker \d did job (\d+)", output), key=int)
    assert jobs == [str(number) for number in range(12)]


async def test_request_reply(nats_server: NatsServer) -> None:
    output = await run(EXAMPLES / "request_reply.py", url=nats_server.url)
    assert output.count("some clock says: it is ") == 2
    assert "nobody is subscribed to 'sundial'" in output
    assert "no reply from 'sphinx' within 0.1 s" in output


@pytest.mark.nats_server(jetstream=True)
async def test_work_queue(nats_server: NatsServer) -> None:
    output = await run(EXAMPLES / "work_queue.py", url=nats_server.url)
    done = sorted(re.findall(r"worker \d: job (\d+) done", output), key=int)
    assert done == [str(number) for number in range(12) if number != 7]
    assert len(re.findall(r"job (\d+) again later: out of paper", output)) == 3
    assert "job 7 given up: nobody can do that" in output
    assert output.endswith("all done\n")


async def test_tls_modes(nats_server: NatsServer) -> None:
    output = await run(EXAMPLES / "tls_modes.py", nats_server.url, url=nats_server.url)
    assert re.search(r"^AUTO +plaintext$", output, re.M)
    assert re.search(r"^PREFER +plaintext$", output, re.M)
    assert re.search(r"^REQUIRE +.*offers no TLS", output, re.M)
    assert re.search(r"^DISABLE +plaintext$", output, re.M)


async def test_mutual_tls() -> None:
    certs = certificates()
    tls = ServerTLS(
        certs.server.cert_file, certs.server.key_file, ca_file=certs.ca_file, verify=True
    )
    async with NatsServer(tls=tls) as server:
        output = await run(
            EXAMPLES / "mutual_tls.py",
            f"tls://localhost:{server.port}",
            certs.ca_file,
            certs.client.cert_file,
            certs.client.key_file,
            url=server.url,
        )
    assert "encrypted by TLSv1.3" in output
    assert "server is localhost" in output
    assert "round trip: 0." in output


@pytest.mark.skipif(sys.platform == "win32", reason="signals another process")
async def test_service_stops_when_told_to(nats_server: NatsServer) -> None:
    running = example(EXAMPLES / "service.py", url=nats_server.url, stderr=False)
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc, running as service:
            assert await line(service.stdout) == b"serving\n"
            reply = await nc.request("reverse", b"abc")
            assert reply.data == b"cba"
            service.send_signal(signal.SIGTERM)
            assert await line(service.stdout) == b"stopped\n"
            assert await service.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals another process")
async def test_inventory_service(nats_server: NatsServer) -> None:
    running = example(EXAMPLES / "inventory_service.py", url=nats_server.url, stderr=False)
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc, running as service:
            assert await line(service.stdout) == b"serving\n"
            assert (await nc.request("inventory.count", b"apples")).data == b"3"
            error = service_error(await nc.request("inventory.count", b"plums"))
            assert str(error) == "404: there are no plums"
            order = b'{"item": "apples", "count": 2}'
            reply = await nc.request("inventory.take", order)
            assert reply.data == b'{"item":"apples","left":1}'
            error = service_error(await nc.request("inventory.take", order))
            assert str(error) == "409: not enough apples"
            error = service_error(await nc.request("inventory.take", b"apples"))
            assert str(error) == "400: the request cannot be decoded"
            (stats,) = await nc.services(stall=0.1).stats("inventory")
            assert [one.num_errors for one in stats.endpoints] == [1, 2]
            assert stats.endpoints[0].data == {"apples": 1, "pears": 0}
            service.send_signal(signal.SIGTERM)
            assert await line(service.stdout) == b"stopped\n"
            assert await service.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals another process")
async def test_graceful_worker_loses_no_job(nats_server: NatsServer) -> None:
    """It is stopped while jobs come in, and another one of its group takes over."""
    count = 200
    running = example(EXAMPLES / "graceful_worker.py", url=nats_server.url)
    answers: list[bytes] = []
    elsewhere: list[bytes] = []
    begun = trio.Event()

    async def ask(number: int) -> None:
        answers.append((await nc.request("jobs", b"%d" % number, timeout=20)).data)
        begun.set()

    async def take_over(jobs: Subscription) -> None:
        async for msg in jobs:
            elsewhere.append(msg.data)
            await msg.respond(b"done: " + msg.data)

    with trio.fail_after(HANG_TIMEOUT):
        async with (
            open_nats(nats_server.url) as nc,
            running as worker,
            trio.open_nursery() as others,
        ):
            assert await line(worker.stdout) == b"ready\n"
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(ask, number)
                # All of them are with the worker, most of them waiting.
                await begun.wait()
                jobs = await others.start(subscribed, nc, take_over)
                worker.send_signal(signal.SIGTERM)
                # The jobs that come while it stops.
                for number in range(count, 2 * count):
                    nursery.start_soon(ask, number)
            output = b""
            while chunk := await worker.stdout.receive_some():
                output += chunk
            assert await worker.wait() == 0
            await jobs.aclose()
            others.cancel_scope.cancel()
    assert re.fullmatch(rb"stopping, with \d+ jobs waiting\nstopped\n", output)
    assert sorted(answers) == sorted(b"done: %d" % number for number in range(2 * count))
    assert 0 < len(elsewhere) < 2 * count


async def subscribed(
    nc: Connection,
    handle: Callable[[Subscription], Awaitable[None]],
    task_status: trio.TaskStatus[Subscription],
) -> None:
    async with nc.subscribe("jobs", queue="workers") as jobs:
        await nc.flush()
        task_status.started(jobs)
        try:
            await handle(jobs)
        except trio.ClosedResourceError:
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="signals another process")
async def test_hypercorn_lifespan(nats_server: NatsServer) -> None:
    file = EXAMPLES / "hypercorn_lifespan.py"
    with trio.fail_after(HANG_TIMEOUT):
        async with example(file, url=nats_server.url, BIND="127.0.0.1:0") as web:
            running = (await line(web.stdout)).decode()
            port = re.search(r"Running on http://127\.0\.0\.1:(\d+)", running)
            assert port is not None, running
            url = f"http://127.0.0.1:{port[1]}"
            assert await post(f"{url}/greet", b"sue") == (200, b"hello, sue")
            assert await post(f"{url}/nobody/here", b"") == (404, b"nobody is listening there")
            assert (await post(f"{url}/a..b", b""))[0] == 400
            web.send_signal(signal.SIGTERM)
            rest = b""
            while chunk := await web.stdout.receive_some():
                rest += chunk
            assert rest.endswith(b"stopped\n"), rest
            assert await web.wait() == 0
    assert "nats" not in rest.decode(), rest


async def post(url: str, body: bytes) -> tuple[int, bytes]:
    def run() -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(url, body, timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    return await trio.to_thread.run_sync(run)


async def test_anyio_both_backends(nats_server: NatsServer) -> None:
    output = await run(EXAMPLES / "anyio_both_backends.py", url=nats_server.url)
    said = ["log.first one", "log.second two", "reply: HELLO", "gave up: True"]
    assert output.splitlines() == ["on trio:", *said, "on asyncio:", *said]


async def test_readme_example(nats_server: NatsServer, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None
    program = tmp_path / "example.py"
    program.write_text(found[1].replace("nats://localhost:4222", nats_server.url))
    assert await run_as_users_do(program, url=nats_server.url) == "greet.joe b'hello'\n"
