"""Starting, stopping and restarting a server, and cleaning up after it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.testing.raw import HANG_TIMEOUT, answers, dial
from trio_nats.testing import (
    NatsCluster,
    NatsServer,
    ServerStartError,
    ServerWebSocket,
    _ports,
)
from trio_nats.testing._system import poll

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="scripts and signals")


def directory_of(server: NatsServer) -> Path:
    return directory_in(server.log)


def directory_in(log: str) -> Path:
    found = re.search(r"Using configuration file: (\S+)", log)
    assert found
    return Path(found[1]).parent


def exists(pid: int) -> bool:
    # All servers are children of this process, so one that was not reaped would be found.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def program(tmp_path):
    """Create fake nats-server programs, which write their PID into ``tmp_path``."""

    def make(code: str) -> Path:
        path = tmp_path / "stand-in"
        pid_file = str(tmp_path / "pid")
        path.write_text(
            f"#!{sys.executable} -ES\n"
            f"import os, sys, time\n"
            f"open({pid_file!r} + '~', 'w').write(str(os.getpid()))\n"
            f"os.rename({pid_file!r} + '~', {pid_file!r})\n"
            f"{code}\n"
        )
        path.chmod(0o755)
        return path

    return make


# --- the block -----------------------------------------------------------------------------------


async def test_the_server_runs_during_the_block() -> None:
    async with NatsServer(jetstream=True) as server:
        async with dial(server) as client:
            info = await client.info()
            assert (info["host"], info["port"]) == ("127.0.0.1", server.port)
            assert info["jetstream"]
            assert await client.login() == "PONG"
        assert server.is_running
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert (await server.monitor("varz"))["server_id"] == info["server_id"]
        pid, directory = server.pid, directory_of(server)
        assert exists(pid)
        assert (directory / "store" / "jetstream").is_dir()
        assert repr(server) == f"<NatsServer {server.url} running>"
    assert not server.is_running
    assert not exists(pid)
    assert not await answers(server)
    assert not directory.exists()
    assert "Server is ready" in server.log
    assert repr(server) == f"<NatsServer {server.url} not running>"
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.pid


async def test_an_exception_leaves_the_block_as_itself() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with NatsServer() as server:
            pid = server.pid
            raise error
    assert caught.value is error
    assert not exists(pid)


async def test_a_cancelled_block_ends_the_server() -> None:
    with trio.CancelScope() as scope:
        async with NatsServer() as server:
            pid = server.pid
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not exists(pid)
    assert not directory_of(server).exists()


async def test_leaving_the_block_after_the_server_has_exited() -> None:
    async with NatsServer() as server:
        await server.kill()
        assert not server.is_running
    assert not directory_of(server).exists()


async def test_it_is_entered_once() -> None:
    server = NatsServer()
    with pytest.raises(RuntimeError, match="inside its `async with` block"):
        await server.start()
    with pytest.raises(RuntimeError, match="before it is entered"):
        _ = server.port
    assert server.log == ""
    assert repr(server) == "<NatsServer 127.0.0.1 not running>"
    async with server:
        with pytest.raises(RuntimeError, match="entered once"):
            await server.__aenter__()
        assert server.is_running
    with pytest.raises(RuntimeError, match="entered once"):
        await server.__aenter__()
    with pytest.raises(RuntimeError, match="inside its `async with` block"):
        await server.start()


async def test_the_clock_of_the_test_does_not_matter(autojump_clock) -> None:
    async with NatsServer() as server:
        await server.restart()
        assert "Server Exiting" in server.log
        assert server.is_running


async def test_servers_side_by_side_have_nothing_in_common() -> None:
    async with NatsServer() as one, NatsServer() as two:
        assert one.port != two.port
        assert directory_of(one) != directory_of(two)
        await one.kill()
        assert await answers(two)


@pytest.mark.slow
def test_a_block_that_is_never_left_ends_with_the_interpreter() -> None:
    code = """
import trio
from trio_nats.testing import NatsServer

server = NatsServer()
trio.run(server.__aenter__)
print(server.port, server.log)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    port, _, log = run.stdout.partition(" ")

    def is_gone() -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
        except OSError:
            return True
        return False

    assert trio.run(poll, is_gone, HANG_TIMEOUT)
    assert not directory_in(log).exists()


# --- failing to start ----------------------------------------------------------------------------


@posix_only
async def test_cancelling_the_start_ends_the_process(program, tmp_path) -> None:
    server = NatsServer(binary=program("time.sleep(60)"), start_timeout=60)
    entered = False

    async def enter() -> None:
        nonlocal entered
        async with server:
            entered = True

    with trio.fail_after(HANG_TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            assert await poll((tmp_path / "pid").exists, HANG_TIMEOUT)
            assert server.is_running
            nursery.cancel_scope.cancel()
    assert not entered
    assert not server.is_running
    assert not exists(int((tmp_path / "pid").read_text()))


@pytest.mark.slow
@posix_only
async def test_a_server_that_is_never_ready(program, tmp_path) -> None:
    stand_in = program("print('half-way', flush=True); time.sleep(60)")
    server = NatsServer(binary=stand_in, start_timeout=2)
    with pytest.raises(ServerStartError, match="not ready within 2 s") as caught:
        await server.__aenter__()
    assert caught.value.returncode is None
    assert "half-way" in caught.value.log
    assert "half-way" in str(caught.value)
    assert not exists(int((tmp_path / "pid").read_text()))


@posix_only
async def test_a_server_that_ends_at_once(program) -> None:
    with pytest.raises(ServerStartError, match="exited with code 3") as caught:
        await NatsServer(binary=program("sys.exit(3)")).__aenter__()
    assert caught.value.returncode == 3
    assert "(nothing)" in str(caught.value)


async def test_a_program_that_cannot_be_run(tmp_path) -> None:
    with pytest.raises(ServerStartError, match=r"cannot run .*no-such-program"):
        await NatsServer(binary=tmp_path / "no-such-program").__aenter__()


@pytest.mark.parametrize(
    ("config", "line"),
    [
        pytest.param("max_control_line: oops", "max_control_line: oops", id="value"),
        pytest.param("\n\n  no_such_option: 1\n", "no_such_option: 1", id="name"),
        pytest.param("accounts {\n  A: ]\n}", "A: ]", id="syntax"),
    ],
)
async def test_an_invalid_line_of_the_configuration_is_quoted(config, line) -> None:
    with pytest.raises(ServerStartError) as caught:
        await NatsServer(config=config).__aenter__()
    assert f"of its configuration: {line!r}" in str(caught.value)
    assert caught.value.returncode == 1
    assert caught.value.log.startswith("nats-server: ")


async def test_an_address_of_another_machine() -> None:
    # An address of TEST-NET-1, which no machine has.
    with pytest.raises(ServerStartError, match=r"cannot listen on 192\.0\.2\.1"):
        await NatsServer(host="192.0.2.1").__aenter__()
    with pytest.raises(ServerStartError, match=r"cannot listen on 192\.0\.2\.1"):
        await NatsCluster(host="192.0.2.1").__aenter__()


# --- ports ---------------------------------------------------------------------------------------


@pytest.fixture
def occupied():
    """Return a port that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_given_port() -> None:
    port = _ports.free_port("127.0.0.1")
    async with NatsServer(port=port) as server:
        assert server.port == port
        assert await answers(server)


async def test_a_requested_port_that_is_taken(occupied) -> None:
    with pytest.raises(ServerStartError, match=r"address already in use|Only one usage"):
        with trio.fail_after(HANG_TIMEOUT):
            await NatsServer(port=occupied).__aenter__()


@pytest.mark.parametrize("nth", range(3))
async def test_a_chosen_port_that_is_taken_before_it_is_used(occupied, monkeypatch, nth) -> None:
    free_port, calls = _ports.free_port, iter(range(100))
    monkeypatch.setattr(
        _ports, "free_port", lambda host: occupied if next(calls) == nth else free_port(host)
    )
    async with NatsServer(websocket=ServerWebSocket()) as server:
        assert next(calls) == 6
        assert occupied not in {int(url.rpartition(":")[2]) for url in (server.url, server.ws_url)}
        assert await answers(server)


def test_chosen_ports_are_not_those_the_system_hands_out() -> None:
    assert all(12_000 <= _ports.free_port("127.0.0.1") < 32_000 for _ in range(50))


def test_the_system_chooses_a_port_as_a_last_resort(occupied) -> None:
    assert _ports.free_port("127.0.0.1", [occupied]) not in (0, occupied)


async def test_a_restart_waits_for_its_port_to_come_free() -> None:
    async with NatsServer() as server:
        port = server.port
        await server.stop()
        with socket.socket() as thief:
            # The server has just closed the port, so it is free only with this option.
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", port))
            thief.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.start)
                await server.wait_for_log("address already in use", timeout=HANG_TIMEOUT)
                thief.close()
        assert server.port == port
        assert await answers(server)


# --- ending and starting again -------------------------------------------------------------------


async def test_stop_is_orderly_and_start_brings_it_back() -> None:
    async with NatsServer() as server:
        port, pid = server.port, server.pid
        async with dial(server) as client:
            await client.info()
            await server.stop()
            assert await client.line() == ""
        assert not server.is_running
        assert not exists(pid)
        assert "Server Exiting" in server.log
        assert not await answers(server)
        await server.stop()

        await server.start()
        assert server.port == port
        assert server.pid != pid
        assert await answers(server)
        assert server.log.count("Server is ready") == 2

        pid = server.pid
        await server.start()
        assert server.pid == pid


async def test_kill_is_not_orderly() -> None:
    async with NatsServer() as server:
        pid = server.pid
        await server.kill()
        assert not exists(pid)
        assert "Server Exiting" not in server.log
        await server.start()
        assert await answers(server)


@posix_only
async def test_stop_has_an_end(program) -> None:
    # Becomes ready like a real server, but ignores SIGTERM.
    stand_in = program(
        "import signal; signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n"
        "directory = sys.argv[sys.argv.index('--ports_file_dir') + 1]\n"
        "open(directory + '/x.ports', 'w').close()\n"
        "while True: time.sleep(60)"
    )
    async with NatsServer(binary=stand_in) as server:
        pid = server.pid
        with trio.fail_after(HANG_TIMEOUT):
            await server.stop(timeout=0.2)
        assert not exists(pid)
        assert server.log == "no\n"


async def test_what_jetstream_stored_survives_a_crash_but_not_the_block() -> None:
    async with NatsServer(jetstream=True) as server:
        async with dial(server) as client:
            await client.info()
            await client.login()
            stream = {"name": "S", "subjects": ["s"]}
            created = await client.request("$JS.API.STREAM.CREATE.S", stream)
            assert created["config"]["name"] == "S"
        await server.kill()
        await server.start()
        jsz = await server.monitor("jsz")
        assert jsz["streams"] == 1
    async with NatsServer(jetstream=True) as server:
        assert (await server.monitor("jsz"))["streams"] == 0


async def test_restart_with_changes() -> None:
    async with NatsServer() as server:
        port = server.port
        await server.restart(user="ann", password="secret", websocket=ServerWebSocket())
        assert server.port == port
        assert server.settings.user == "ann"
        assert server.ws_url.startswith("ws://127.0.0.1:")
        async with dial(server) as client:
            assert (await client.info())["auth_required"]
            assert (await client.login()).startswith("-ERR")
        await server.restart(user=None, password=None)
        async with dial(server) as client:
            assert "auth_required" not in await client.info()


async def test_a_failed_restart_can_be_repeated() -> None:
    async with NatsServer() as server:
        with pytest.raises(ServerStartError):
            await server.restart(config="nonsense {")
        assert not server.is_running
        await server.restart(config=None)
        assert await answers(server)


async def test_operations_that_do_nothing_are_checkpoints() -> None:
    async with NatsServer() as server:
        with trio.testing.assert_checkpoints():
            await server.start()
        with trio.testing.assert_checkpoints():
            await server.kill()
        with trio.testing.assert_checkpoints():
            await server.kill()
        with trio.testing.assert_checkpoints():
            await server.stop()
