"""How connections, and the Trio run inside an asyncio loop, begin and end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import sys
import textwrap
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
import sniffio
import trio

from tests.anyio.helpers import BACKENDS, Home, on_asyncio, receive_n, run
from tests.support.forked import forked, run_code
from tests.support.leaks import open_sockets
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConnectionState, Msg, ReconnectPolicy, Server
from trio_nats.anyio import open_nats
from trio_nats.testing import NatsServer

ON_ASYNCIO = BACKENDS[1:]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


# --- endings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_the_bodys_exception_comes_out_as_itself(
    backend: str, kind: type[BaseException], nats_server: NatsServer
) -> None:
    async def main(_: Home) -> None:
        error = kind("mine")
        with pytest.raises(kind) as caught:
            async with open_nats(nats_server.url) as nc, nc.subscribe("a") as sub:
                await nc.flush()
                async with anyio.create_task_group() as group:
                    group.start_soon(sub.receive)
                    await anyio.lowlevel.checkpoint()
                    group.cancel_scope.cancel()
                raise error
        assert caught.value is error
        assert nc.state is ConnectionState.CLOSED

    await run(backend, main)


async def test_an_exception_group_propagates_unchanged(
    backend: str, nats_server: NatsServer
) -> None:
    async def main(_: Home) -> None:
        async def fail() -> None:
            raise KeyError("mine")

        with pytest.raises(ExceptionGroup) as caught:
            async with open_nats(nats_server.url) as nc, anyio.create_task_group() as group:
                group.start_soon(nc.flush)
                group.start_soon(fail)
        [error] = caught.value.exceptions
        assert isinstance(error, KeyError)

    await run(backend, main)


@pytest.mark.parametrize("leaves", ["failing", "cancelled"])
async def test_a_failure_of_the_connections_tasks_comes_out_as_itself(
    backend: str, leaves: str, nats_server: NatsServer
) -> None:
    """Whatever the block is being left by."""

    async def main(home: Home) -> None:
        def delay(number: int) -> float:
            failed.set()
            raise SystemExit("ours")

        failed = anyio.Event()
        policy = ReconnectPolicy(delay=delay)
        with pytest.raises(SystemExit, match="ours"), anyio.CancelScope() as scope:
            async with open_nats(nats_server.url, reconnect=policy) as nc, nc.subscribe("a") as sub:
                await home.do(nats_server.kill)
                if leaves == "failing":
                    await sub.receive()
                with anyio.CancelScope(shield=True):
                    await failed.wait()
                scope.cancel()
                await anyio.sleep_forever()

    await run(backend, main)


async def test_leaving_by_cancellation_closes_at_once(
    backend: str, nats_server: NatsServer
) -> None:
    async def main(home: Home) -> None:
        with anyio.CancelScope() as scope:
            async with open_nats(nats_server.url, close_timeout=1000) as nc:
                nats_server.pause()
                await nc.publish("a", b"x")
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert nc.state is ConnectionState.CLOSED
        nats_server.resume()

    await run(backend, main)


async def test_closing_can_be_cancelled(backend: str, nats_server: NatsServer) -> None:
    """Leaving normally waits for the server, until it is cancelled."""

    async def main(home: Home) -> None:
        with anyio.CancelScope() as scope:
            async with open_nats(nats_server.url, close_timeout=1000) as nc:
                nats_server.pause()
                await nc.publish("a", b"x")
                scope.deadline = anyio.current_time() + 0.05
        assert scope.cancelled_caught
        assert nc.state is ConnectionState.CLOSED
        nats_server.resume()

    await run(backend, main)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_several_connections(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        first, second, third = (open_nats(nats_server.url) for _ in range(3))
        a = await first.__aenter__()
        b = await second.__aenter__()
        async with a.subscribe("x") as sub:
            await a.flush()
            await b.publish("x", b"1")
            assert await receive_n(sub, 1) == [b"1"]
        # Trio's blocks end in the reverse order of their beginning.
        await second.__aexit__(None, None, None)
        async with third as c:
            await a.flush()
            await c.flush()
        await first.__aexit__(None, None, None)

    await run(backend, main)


# --- native asyncio -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ON_ASYNCIO)
async def test_native_cancellation(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async def work() -> None:
            async with open_nats(nats_server.url) as nc, nc.subscribe("a") as sub:
                opened.set_result(None)
                await sub.receive()

        opened = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(work())
        await opened
        task.cancel("stop")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    await run(backend, main)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ON_ASYNCIO)
async def test_native_timeouts(backend: str, nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe("a") as sub:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await sub.receive()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sub.receive(), 0.01)
            await nc.publish("a", b"1")
            assert (await asyncio.wait_for(sub.receive(), 10)).data == b"1"
            replies = await asyncio.gather(*(nc.rtt() for _ in range(10)))
            assert len(replies) == 10

    await run(backend, main)


@pytest.mark.parametrize("backend", ON_ASYNCIO)
async def test_connections_end_in_any_order(backend: str, nats_server: NatsServer) -> None:
    """Tasks of asyncio open and close as they like: the Trio run ends with the last."""

    async def main(_: Home) -> None:
        async def work(rounds: int) -> None:
            for _ in range(rounds):
                async with open_nats(nats_server.url) as nc:
                    await nc.flush()
                    assert trio.lowlevel.in_trio_run()

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(work, number)
        assert not trio.lowlevel.in_trio_run()

    await run(backend, main)


@pytest.mark.parametrize("backend", ON_ASYNCIO)
async def test_loops_one_after_another_and_side_by_side(
    backend: str, nats_server: NatsServer
) -> None:
    async def main(subject: str) -> None:
        async with open_nats(nats_server.url) as nc, nc.subscribe(subject) as sub:
            for number in range(200):
                await nc.publish(subject, b"%d" % number)
            await receive_n(sub, 200)
        assert not trio.lowlevel.in_trio_run()

    def thrice(subject: str) -> None:
        for _ in range(3):
            options = {"use_uvloop": backend == "uvloop"}
            anyio.run(main, subject, backend="asyncio", backend_options=options)

    async with trio.open_nursery() as nursery:
        for subject in "abc":
            nursery.start_soon(trio.to_thread.run_sync, thrice, subject)


@pytest.mark.parametrize("backend", ON_ASYNCIO)
async def test_callbacks_see_the_callers_context(backend: str, nats_server: NatsServer) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    async def main(_: Home) -> None:
        def sentinel(_: Msg) -> bool:
            seen.append(var.get())
            return True

        seen: list[str] = []
        async with open_nats(nats_server.url) as nc, nc.subscribe("svc") as sub:
            var.set("mine")
            async with nc.request_many("svc", sentinel=sentinel) as replies:
                await (await sub.receive()).respond(b"")
                with pytest.raises(anyio.EndOfStream):
                    await replies.receive()
        assert seen == ["mine"]

    await run(backend, main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="has no eager tasks")
async def test_eager_tasks(nats_server: NatsServer) -> None:
    async def main(_: Home) -> None:
        async def no_auth(_: Server) -> None:
            assert sniffio.current_async_library() == "asyncio"
            await anyio.sleep(0.001)

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with open_nats(nats_server.url, auth=no_auth) as nc, nc.subscribe("a") as sub:

            async def receive() -> bytes:
                return (await sub.receive()).data

            tasks = [asyncio.create_task(receive()) for _ in range(3)]
            for number in range(3):
                await nc.publish("a", b"%d" % number)
            assert await asyncio.gather(*tasks) == [b"0", b"1", b"2"]

    await run("asyncio", main)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ON_ASYNCIO)
async def test_async_generators_stay_the_loops(backend: str, nats_server: NatsServer) -> None:
    """One that began before the Trio run is not finalised by Trio when it is dropped."""

    async def main(_: Home) -> None:
        async def generator() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                finalised.append(asyncio.current_task() is not None)

        finalised: list[bool] = []
        early = generator()
        await anext(early)
        hooks = sys.get_asyncgen_hooks()
        async with open_nats(nats_server.url) as nc:
            assert sys.get_asyncgen_hooks() == hooks
            late = generator()
            await anext(late)
            del early, late
            gc.collect()
            while len(finalised) < 2:
                await nc.flush()
            assert finalised == [True, True]
        assert sys.get_asyncgen_hooks() == hooks

    await run(backend, main)


# --- loops that end badly, and others that are there already --------------------------------------


async def test_a_loop_that_is_closed_early(nats_server: NatsServer) -> None:
    def work() -> None:
        sockets = open_sockets()
        manager = open_nats(nats_server.url)
        loop = asyncio.new_event_loop()

        async def enter() -> None:
            nc = await manager.__aenter__()
            await nc.flush()

        loop.run_until_complete(enter())
        other = asyncio.new_event_loop()
        with pytest.raises(RuntimeError, match="another asyncio loop of this thread"):
            other.run_until_complete(open_nats(nats_server.url).__aenter__())
        other.close()
        loop.close()
        # The next one in this thread cleans up.
        asyncio.run(on_asyncio(use))
        assert open_sockets() - sockets == set()

    async def use() -> None:
        async with open_nats(nats_server.url) as nc:
            await nc.flush()

    async def twice() -> None:
        await use()
        await use()

    await trio.to_thread.run_sync(work)
    # A loop that is only paused between two uses is no problem.
    loop = asyncio.new_event_loop()
    await trio.to_thread.run_sync(loop.run_until_complete, twice())
    await trio.to_thread.run_sync(loop.run_until_complete, twice())
    loop.close()


async def test_another_trio_run_in_the_thread(nats_server: NatsServer) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        stop = trio.Event()
        over = loop.create_future()
        trio.lowlevel.start_guest_run(
            stop.wait,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=over.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        with pytest.raises(RuntimeError, match=r"use trio_nats\.open_nats in that one"):
            async with open_nats(nats_server.url):
                raise AssertionError
        stop.set()
        await over
        async with open_nats(nats_server.url) as nc:
            await nc.flush()

    await trio.to_thread.run_sync(asyncio.run, main())


async def test_a_trio_internal_error(nats_server: NatsServer) -> None:
    """What Trio takes for a crash of its own ends the waiting, and the loop is told."""

    async def main() -> None:
        async def crash() -> None:
            raise KeyError("crash")

        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        ended: list[str] = []

        async def wait(what: str, operation: Callable[[], Awaitable[object]]) -> None:
            # The connection's own end may be the first thing it hears of.
            with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
                await operation()
            ended.append(what)

        with pytest.raises(anyio.BrokenResourceError, match="crashed"):
            async with (
                open_nats(nats_server.url) as nc,
                nc.subscribe("a") as silent,
                nc.subscribe("b") as sub,
            ):
                async with anyio.create_task_group() as group:
                    group.start_soon(wait, "receive", silent.receive)
                    group.start_soon(wait, "request", lambda: nc.request("b", timeout=1000))
                    await sub.receive()
                    trio.lowlevel.spawn_system_task(crash)
                assert sorted(ended) == ["receive", "request"]
                with pytest.raises(anyio.BrokenResourceError, match="crashed"):
                    await nc.flush()
                with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
                    await nc.publish("a")
        assert len(told) == 1
        assert isinstance(told[0]["exception"], trio.TrioInternalError)

    def work() -> None:
        # What is left of the crashed run is abandoned.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asyncio.run(main())
            gc.collect()

    await trio.to_thread.run_sync(work)


# --- Ctrl-C ---------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, signal, sys, threading
import anyio, trio
from trio_nats.anyio import open_nats

async def main():
    async with open_nats(sys.argv[1]) as nc, nc.subscribe("a") as sub:
        try:
            await nc.flush()
            print("waiting", flush=True)
            await sub.receive()
        finally:
            print("leaving", flush=True)
            if {impatient}:
                with anyio.CancelScope(shield=True):
                    await sub.receive()

try:
    {how}
except KeyboardInterrupt:
    print("interrupted", flush=True)
print(threading.active_count() <= 2, signal.getsignal(signal.SIGINT), flush=True)
"""

WAYS = {
    "trio": 'anyio.run(main, backend="trio")',
    "asyncio": 'anyio.run(main, backend="asyncio")',
    "uvloop": 'anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})',
    # Nobody but Trio has a handler for SIGINT here, and the loop is not run to its end.
    "loop": textwrap.indent(
        """
loop = asyncio.new_event_loop()
task = loop.create_task(main())
try:
    loop.run_until_complete(task)
finally:
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
""".strip(),
        "    ",
    ).strip(),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals another process")
@pytest.mark.parametrize(
    ("way", "impatient"),
    [*((way, False) for way in WAYS), ("asyncio", True), ("uvloop", True)],
)
async def test_keyboard_interrupt(way: str, impatient: bool, nats_server: NatsServer) -> None:
    program = PROGRAM.format(how=WAYS[way], impatient=impatient)
    env = os.environ | {"PYTHONWARNINGS": "error"}
    with trio.fail_after(HANG_TIMEOUT):
        async with forked(run_code, program, nats_server.url, env=env) as process:
            output = b""
            async for chunk in process.stdout:
                before, output = output, output + chunk
                for line in [b"waiting\n", b"leaving\n"][: 1 + impatient]:
                    if line in output and line not in before:
                        process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    assert output.decode().splitlines() == [
        "waiting",
        "leaving",
        "interrupted",
        f"True {signal.default_int_handler}",
    ]


STUCK = """
import asyncio, os, signal, sys, time
from trio_nats.anyio import open_nats

async def main():
    async with open_nats(sys.argv[1]) as nc:
        os.kill(os.getpid(), signal.SIGINT)
        print("put off")
        time.sleep(0.6)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            print("the way out")
        await nc.flush()
        await nc.flush()

loop = asyncio.new_event_loop()
task = loop.create_task(main())
try:
    loop.run_until_complete(task)
except KeyboardInterrupt:
    print("delivered")
loop.run_until_complete(task)
loop.close()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals itself")
async def test_interrupting_an_infinite_loop(nats_server: NatsServer) -> None:
    said = await printed(STUCK, nats_server.url)
    assert said.splitlines() == ["put off", "the way out", "delivered", "True"]


BURST = """
import asyncio, signal, sys, threading
import anyio, trio
from trio_nats.anyio import open_nats

url, step = sys.argv[1], int(sys.argv[2])
OURS = ("/trio/", "/trio_nats/", "/asyncio/", "/anyio/")
struck = left = 0

def profile(frame, event, _):
    global left, struck
    # Once Trio has ended, asyncio is on its own.
    if event == "call" and any(part in frame.f_code.co_filename for part in OURS) and (
        trio.lowlevel.in_trio_run()
    ):
        left -= 1
        if left == 0:
            struck = True
            signal.raise_signal(signal.SIGINT)

def interrupt_twice_and_once_more():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    sys.setprofile(profile)

async def interrupted():
    async with open_nats(url) as nc, nc.subscribe("a") as sub:
        await nc.flush()
        asyncio.get_running_loop().call_soon(interrupt_twice_and_once_more)
        await sub.receive()

async def undisturbed():
    async with open_nats(url) as nc:
        await nc.flush()

number = step
while True:
    left, struck = number, False
    try:
        asyncio.run(interrupted())
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    if not struck:
        break
    asyncio.run(undisturbed())
    trio.run(trio.lowlevel.checkpoint)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, number
    number += step
print(number > 10 * step, threading.active_count() <= 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals itself")
async def test_three_interrupts_at_once(nats_server: NatsServer) -> None:
    """The third one at every moment of the cleaning up, or at some of them, for there are many."""
    with trio.fail_after(2 * HANG_TIMEOUT):
        said = await printed(BURST, nats_server.url, "29")
    assert said.split() == ["True", "True"]


# --- imports --------------------------------------------------------------------------------------


async def python(code: str, *args: str) -> str:
    """What an interpreter of its own prints."""
    done = await trio.run_process(
        [sys.executable, "-W", "error", "-c", code, *args],
        capture_stdout=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout.decode()


async def printed(code: str, *args: str) -> str:
    """What a process prints."""
    env = os.environ | {"PYTHONWARNINGS": "error"}
    async with forked(run_code, code, *args, env=env) as process:
        said = await process.rest()
        assert await process.wait() == 0, said
    return said


@pytest.mark.slow
async def test_without_anyio() -> None:
    code = """
        import sys
        sys.modules["anyio"] = None
        import trio_nats
        try:
            import trio_nats.anyio
        except ImportError as error:
            print(error, error.name)
    """
    said = await python(textwrap.dedent(code))
    assert "run: pip install 'trio-nats[anyio]' anyio\n" in said


@pytest.mark.slow
async def test_trio_nats_itself_does_without() -> None:
    assert await python("import sys, trio_nats; print('anyio' in sys.modules)") == "False\n"
