"""Getting connected: every server is tried, every failure is named, nothing is left behind."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn, cast

import pytest
import trio

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer, ScriptedServer
from tests.support.scripts import (
    no_tls,
    refuse_connect,
    says,
    stall_after_info,
    stall_at_once,
    tls_required,
)
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    AuthorizationError,
    ConfigurationError,
    ConnectError,
    ConnectionState,
    InvalidSubjectError,
    NoInfoError,
    TLSConfigurationError,
    TLSMode,
    TLSNotOfferedError,
    TLSOptions,
    open_nats,
)
from trio_nats.testing import NatsServer

CERTS = certificates()
FDS = Path("/proc/self/fd")
PLAINTEXT_TOO = TLSOptions(mode=TLSMode.PREFER)
"""For lists with tls:// URLs, one of which otherwise speaks for all."""


@contextmanager
def closed_ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody listens on, nor can, for they are taken."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        yield [int(taken.getsockname()[1]) for taken in sockets]


async def test_every_server_is_tried_to_the_end() -> None:
    """TLS, INFO and authentication failures move on to the next one, as a refused dial does."""
    with closed_ports(1) as [refused]:
        await _every_server_is_tried(refused)


async def _every_server_is_tried(refused: int) -> None:
    async with (
        ScriptedServer(says(b"SSH-2.0\r\n")) as other_protocol,
        ScriptedServer(refuse_connect("Authorization Violation")) as unauthorized,
        ScriptedServer(no_tls()) as without_tls,
    ):
        urls = [
            "nats://host.invalid:4222",
            f"nats://127.0.0.1:{refused}",
            other_protocol.url,
            f"tls://127.0.0.1:{without_tls.port}",
            unauthorized.url,
        ]
        with pytest.raises(ConnectError) as caught:
            async with open_nats(urls, randomize=False, tls=PLAINTEXT_TOO):
                pass
    attempts = caught.value.attempts
    assert [attempt.server for attempt in attempts] == urls
    assert [attempt.phase for attempt in attempts] == ["resolve", "dial", "info", "tls", "auth"]
    kinds = [type(attempt.error).__name__ for attempt in attempts]
    assert kinds[2:] == ["NoInfoError", "TLSNotOfferedError", "AuthorizationError"]
    assert "cannot resolve 'host.invalid'" in str(attempts[0].error)
    assert str(attempts[1].error) == f"Connection refused ({attempts[1].server.split('//')[1]})"
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert list(cause.exceptions) == [attempt.error for attempt in attempts]
    for kind in (NoInfoError, TLSNotOfferedError, AuthorizationError):
        assert len(list(caught.value.errors(kind))) == 1
    for attempt in attempts:
        assert f"\n  - {attempt.server} [{attempt.phase}]: {attempt.error}" in str(caught.value)


async def test_the_last_server_of_many_is_used(nats_server: NatsServer) -> None:
    with closed_ports(1) as [refused]:
        async with ScriptedServer(says(b"no\r\n")) as bad:
            urls = [f"127.0.0.1:{refused}", f"tls://127.0.0.1:{nats_server.port}", bad.url]
            urls.append(nats_server.url)
            async with open_nats(",".join(urls), randomize=False, tls=PLAINTEXT_TOO) as nc:
                assert nc.connected_url == nats_server.url
                assert nc.state is ConnectionState.OPEN


async def test_randomised_unless_told_not_to() -> None:
    orders = set()
    with closed_ports(6) as ports:
        urls = [f"nats://127.0.0.1:{port}" for port in ports]
        for _ in range(8):
            with pytest.raises(ConnectError) as caught:
                async with open_nats(urls):
                    pass
            orders.add(tuple(attempt.server for attempt in caught.value.attempts))
    assert len(orders) > 1


async def test_nats_url(nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", f" {nats_server.url} , ")
    async with open_nats() as nc:
        assert nc.connected_url == nats_server.url
    monkeypatch.setenv("NATS_URL", "gopher://x")
    with pytest.raises(ConfigurationError, match="unknown scheme"):
        open_nats()


class KnowsNothing(trio.abc.HostnameResolver):
    def __init__(self) -> None:
        self.asked: list[tuple[object, object]] = []

    async def getaddrinfo(self, host: object, port: object, *_: object) -> NoReturn:
        self.asked.append((host, port))
        raise socket.gaierror(socket.EAI_AGAIN, "not today")

    async def getnameinfo(self, *args: object) -> NoReturn:
        raise NotImplementedError


async def test_the_default_is_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    resolver = KnowsNothing()
    trio.socket.set_custom_hostname_resolver(resolver)  # for this run of Trio
    with pytest.raises(ConnectError, match="cannot resolve 'localhost': not today"):
        async with open_nats():
            pass
    assert resolver.asked == [(b"localhost", 4222)]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
async def test_ipv6() -> None:
    async with NatsServer(host="::1") as server:
        async with open_nats(f"nats://[::1]:{server.port}") as nc:
            await nc.flush()
            assert nc.connected_url == f"nats://[::1]:{server.port}"


async def test_errors_are_not_groups() -> None:
    with closed_ports(1) as [refused], pytest.raises(ConnectError) as caught:
        async with open_nats(f"127.0.0.1:{refused}"):
            pass
    (attempt,) = caught.value.attempts
    assert caught.value.__cause__ is attempt.error
    assert str(caught.value) == f"cannot connect to {attempt.server} [dial]: {attempt.error}"


BAD_OPTIONS: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "scheme": ({"servers": "http://h"}, ConfigurationError, "unknown scheme"),
    "port": ({"servers": "h:0"}, ConfigurationError, "1 to 65535"),
    "host": ({"servers": "nats://:4222"}, ConfigurationError, "host is missing"),
    "mixed": ({"servers": "nats://a,ws://b"}, ConfigurationError, "cannot be mixed"),
    "websocket": ({"websocket": {}}, TypeError, "websocket must be a WebSocketOptions, not dict"),
    "timeout": (
        {"connect_timeout": -1},
        ConfigurationError,
        "connect_timeout must be more than zero",
    ),
    "ping": ({"ping_interval": 0}, ConfigurationError, "ping_interval must be more than zero"),
    "closing": (
        {"close_timeout": float("nan")},
        ConfigurationError,
        "close_timeout must be a number of seconds",
    ),
    "prefix": ({"inbox_prefix": "a b"}, InvalidSubjectError, "inbox prefix 'a b' is not allowed"),
    "prefix wildcard": ({"inbox_prefix": "a.*"}, InvalidSubjectError, "wildcards"),
    "name": ({"name": 5}, TypeError, "name must be a str"),
    "unprintable name": ({"name": "a\r\nb"}, ConfigurationError, "printable characters only"),
    "auth": ({"auth": "password"}, TypeError, "auth must be an Auth"),
    "plaintext": ({"plaintext_auth": "maybe"}, ConfigurationError, "plaintext_auth must be one of"),
    "pending": ({"outbox_size": 0}, ConfigurationError, "outbox_size must be at least 1"),
    "full": ({"when_outbox_full": "panic"}, ConfigurationError, "when_outbox_full must be one of"),
    "tls": ({"tls": "require"}, TypeError, "tls must be a TLSOptions, not str"),
    "limits": ({"limits": {}}, TypeError, "limits must be a ProtocolLimits, not dict"),
    "echo": ({"echo": "no"}, TypeError, "echo must be True or False"),
    "floor": (
        {"servers": "tls://h", "tls": TLSOptions(mode=TLSMode.DISABLE)},
        TLSConfigurationError,
        "a tls:// URL asks for TLS",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused_at_the_call(case: str) -> None:
    options, kind, words = BAD_OPTIONS[case]
    with pytest.raises(kind) as caught:
        open_nats(**options)  # type: ignore[arg-type]  # that is the point
    assert words in str(caught.value)


def test_unknown_mode() -> None:
    with pytest.raises(TLSConfigurationError, match=r"unknown TLS mode 'maybe'; use .*'require'"):
        TLSOptions(mode="maybe")  # type: ignore[arg-type]  # that is the point


def test_certificates_beside_disable_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trio_nats"):
        open_nats("h", tls=TLSOptions(mode=TLSMode.DISABLE, ca_file="ca.pem"))
    assert "have no effect" in caplog.text


async def test_awaiting_open_nats_explains_what_to_do() -> None:
    with pytest.raises(TypeError, match="async with open_nats"):
        await cast("Awaitable[object]", open_nats())


async def test_entered_once(nats_server: NatsServer) -> None:
    opening = open_nats(nats_server.url)
    async with opening:
        pass
    with pytest.raises(RuntimeError, match="only once"):
        async with opening:
            pass


# --- nothing is left ----------------------------------------------------------------------------


def sockets() -> int:
    return sum(
        os.readlink(FDS / name).startswith("socket:")
        for name in os.listdir(FDS)
        if (FDS / name).is_symlink()
    )


needs_proc = pytest.mark.skipif(not FDS.exists(), reason="looks into /proc")


def tls() -> TLSOptions:
    return TLSOptions(ca_file=CERTS.ca_file)


@needs_proc
@pytest.mark.parametrize(
    ("script", "scheme"),
    [
        (stall_at_once(), "nats"),
        (stall_at_once(), "tls"),
        (stall_after_info(), "nats"),
        (stall_after_info(tls_required=True), "nats"),
        (says(b"no\r\n"), "nats"),
        (says(b"no\r\n"), "tls"),
        (refuse_connect("Authorization Violation"), "nats"),
        (tls_required(server_context(CERTS.server_expired)), "tls"),
    ],
)
async def test_a_failed_attempt_leaves_no_socket(script: object, scheme: str) -> None:
    async with ScriptedServer(script) as server:  # type: ignore[arg-type]  # a script
        url = f"{scheme}://127.0.0.1:{server.port}"
        before = sockets()
        with pytest.raises(ConnectError):
            async with open_nats(url, tls=tls() if scheme == "tls" else None, connect_timeout=0.2):
                pass
        with trio.fail_after(HANG_TIMEOUT):
            await (await server.peer()).finished.wait()
        # The server's own end may take a moment longer to be closed; ours is closed by now.
        assert sockets() <= before + 1


async def in_info(peer: Peer) -> None:
    await peer.stall()


async def in_handshake(peer: Peer) -> None:
    await peer.send_info(tls_required=True)
    await peer.receive_client_hello()
    await peer.stall()


async def in_login(peer: Peer) -> None:
    await peer.send_info()
    await peer.accept_connect(pong=False)
    await peer.stall()


@pytest.mark.parametrize("script", [in_info, in_handshake, in_login])
async def test_cancelled_in_each_phase(script: object, autojump_clock: trio.abc.Clock) -> None:
    """The peer sees the connection end, and the block is left by the cancellation alone."""
    async with ScriptedServer(script) as server:  # type: ignore[arg-type]  # a script
        with trio.move_on_after(1) as scope:
            async with open_nats(server.url, tls=TLSOptions(insecure_skip_verify=True)):
                raise AssertionError("connected")
        assert scope.cancelled_caught
        await (await server.peer()).finished.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
async def test_no_descriptor_left_is_a_connect_error() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with ScriptedServer(no_tls()) as server:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            with pytest.raises(ConnectError, match="Too many open files"):
                async with open_nats(f"127.0.0.1:{server.port}"):
                    pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with open_nats(server.url) as nc:
            await nc.flush()
