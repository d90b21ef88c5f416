"""Pausing, reloading, lame duck mode, logs and monitoring of a running server."""

from __future__ import annotations

import shutil
import sys

import pytest
import trio
import trio.testing

from tests.support.certs import certificates, client_context
from tests.testing.raw import HANG_TIMEOUT, answers, dial
from trio_nats.errors import ConfigurationError, NatsError
from trio_nats.testing import (
    NatsServer,
    ServerCluster,
    ServerReloadError,
    ServerSignalError,
    ServerTLS,
    ServerWaitError,
    ServerWebSocket,
)

signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


# --- pause and resume ----------------------------------------------------------------------------


@signals
async def test_a_paused_server_is_silent_until_resumed() -> None:
    async with NatsServer() as server:
        async with dial(server) as client:
            await client.info()
            assert await client.login() == "PONG"
            server.pause()
            assert server.is_running
            assert server.is_paused
            await client.send("PING")
            with trio.move_on_after(0.2) as scope:
                await client.line()
            assert scope.cancelled_caught
            # The kernel accepts connections, but no INFO arrives.
            async with dial(server) as other:
                with trio.move_on_after(0.1) as scope:
                    await other.line()
                assert scope.cancelled_caught
                server.resume()
                assert not server.is_paused
                await other.info()
            assert await client.line() == "PONG"


@signals
async def test_a_paused_server_is_killed_at_the_end_of_the_block() -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with NatsServer() as server:
            server.pause()
    assert not server.is_running
    assert not server.is_paused


@signals
async def test_a_paused_server_can_be_stopped_in_order_and_restarted() -> None:
    async with NatsServer() as server:
        server.pause()
        await server.restart()
        assert "Server Exiting" in server.log
        assert not server.is_paused
        assert await answers(server)


async def test_operations_that_need_a_running_server_say_so() -> None:
    async with NatsServer() as server:
        await server.stop()
        with pytest.raises(RuntimeError, match="not running"):
            server.pause()
        with pytest.raises(RuntimeError, match="not running"):
            server.resume()
        with pytest.raises(RuntimeError, match="not running"):
            await server.lame_duck()
        with pytest.raises(RuntimeError, match="not running"):
            await server.reload()
        with pytest.raises(NatsError, match="did not answer"):
            await server.monitor("varz")


async def test_windows_has_no_signals(monkeypatch) -> None:
    async with NatsServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "win32")
            with pytest.raises(ServerSignalError, match="pausing a server needs SIGSTOP"):
                server.pause()
            with pytest.raises(ServerSignalError, match="reloading a server needs SIGHUP"):
                await server.reload(user="ann", password="secret")
            with pytest.raises(ServerSignalError, match="lame duck mode needs SIGUSR2"):
                await server.lame_duck()
        assert not server.is_paused
        assert server.settings.user is None
        assert server.is_running


# --- lame duck -----------------------------------------------------------------------------------


@signals
async def test_lame_duck_tells_clients_and_takes_no_more() -> None:
    async with NatsServer(config={"lame_duck_grace_period": "9s"}) as server:
        async with dial(server) as client:
            await client.info()
            assert await client.login(protocol=1) == "PONG"
            await server.lame_duck()
            info = await client.info()
            while not info.get("ldm"):
                info = await client.info()
            assert not await answers(server)
            assert server.is_running
            await client.send("PING")
            assert await client.line() == "PONG"


# --- reload --------------------------------------------------------------------------------------


@signals
async def test_reload_changes_credentials() -> None:
    async with NatsServer(user="ann", password="old") as server:
        pid = server.pid
        await server.reload(password="new")
        assert server.pid == pid
        for password, verdict in (("old", "-ERR 'Authorization Violation'"), ("new", "PONG")):
            async with dial(server) as client:
                await client.info()
                assert await client.login(user="ann", **{"pass": password}) == verdict


@signals
async def test_reload_keeps_the_port_even_when_the_configuration_names_another() -> None:
    async with NatsServer() as server:
        await server.reload(config="port: 4999\nping_max: 7")
        assert await answers(server)
        assert (await server.monitor("varz"))["ping_max"] == 7


@signals
async def test_reload_reads_certificates_again(tmp_path) -> None:
    certs = certificates()
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(certificate) -> None:
        shutil.copy(certificate.cert_file, cert_file)
        shutil.copy(certificate.key_file, key_file)

    async def serial(server: NatsServer) -> int:
        async with dial(server) as client:
            await client.info()
            secure = await client.tls(client_context(certs.ca_file))
            assert isinstance(secure.stream, trio.SSLStream)
            return int(secure.stream.getpeercert()["serialNumber"], 16)

    install(certs.server)
    async with NatsServer(tls=ServerTLS(cert_file, key_file)) as server:
        assert await serial(server) == certs.server.leaf.serial_number
        install(certs.server_renewed)
        await server.reload()
        assert await serial(server) == certs.server_renewed.leaf.serial_number


@signals
async def test_a_refused_reload_changes_nothing() -> None:
    async with NatsServer(user="ann", password="old") as server:
        with pytest.raises(ServerReloadError, match="no_such_option"):
            await server.reload(user="bob", config={"no_such_option": 1})
        assert server.settings.user == "ann"
        assert server.settings.config is None
        async with dial(server) as client:
            await client.info()
            assert await client.login(user="ann", **{"pass": "old"}) == "PONG"
        # An old rejection in the log does not count for the next reload.
        await server.reload(debug=True)
        await server.restart()
        assert "[DBG]" in server.log


@signals
async def test_a_reload_without_an_answer() -> None:
    async with NatsServer() as server:
        server.pause()
        with pytest.raises(ServerWaitError, match=r"did not log .*Reloaded.* within 0\.1 s"):
            await server.reload(name="other", timeout=0.1)
        assert server.settings.name is None
        server.resume()


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 4999},
        {"websocket": ServerWebSocket()},
        {"cluster": ServerCluster("c")},
        {"host": "::1"},
        {"args": ["-V"]},
    ],
)
async def test_what_needs_a_restart(changes) -> None:
    async with NatsServer() as server:
        with pytest.raises(ConfigurationError, match=r"cannot be changed by a reload"):
            await server.reload(**changes)
        with pytest.raises(ConfigurationError, match="must be passed together"):
            await server.reload(user="ann")
        with pytest.raises(ConfigurationError, match="must be passed together"):
            await server.restart(user="ann")
        assert server.is_running


# --- log and monitoring --------------------------------------------------------------------------


async def test_waiting_for_the_log() -> None:
    async with NatsServer(args=["-D"], name="wren") as server:
        assert (await server.wait_for_log("Name:", timeout=0)).endswith("Name:     wren")
        mark = len(server.log)
        async with trio.open_nursery() as nursery:
            lines = []

            async def wait() -> None:
                lines.append(await server.wait_for_log("Client connection", after=mark))

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not lines
            async with dial(server) as client:
                await client.info()
        assert "Client connection created" in lines[0]

        with pytest.raises(ServerWaitError, match=r"did not log 'Name:' within 0\.05 s") as caught:
            await server.wait_for_log("Name:", timeout=0.05, after=mark)
        assert isinstance(caught.value, TimeoutError)
        assert "Client connection created" in caught.value.log
        assert "Name:" not in caught.value.log


async def test_waiting_for_the_log_can_be_cancelled() -> None:
    async with NatsServer() as server:
        with trio.move_on_after(0.05) as scope:
            await server.wait_for_log("never", timeout=60)
        assert scope.cancelled_caught


async def test_monitoring() -> None:
    async with NatsServer() as server:
        async with dial(server) as client:
            await client.info()
            await client.login(name="robin")
            connz = await server.monitor("/connz?subs=1")
            assert [one["name"] for one in connz["connections"]] == ["robin"]
            assert server.monitor_url.startswith("http://127.0.0.1:")
        with pytest.raises(NatsError, match=r"no JSON object for 'nowhere', but .* 404 Not Found"):
            await server.monitor("nowhere")
