"""What blocks takes no worker thread from the program, and the program none from a connection."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.reliability.helpers import QUICK, until
from tests.support.certs import certificates
from tests.support.files import busy_threads, hanging_file
from tests.support.jwts import Operator
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import (
    ConfigurationError,
    Context,
    Credentials,
    CredentialsError,
    NKey,
    TLSConfigurationError,
    TLSOptions,
    load_context,
    open_nats,
)
from trio_nats._blocking import run_in_thread
from trio_nats._transport.dial import resolve
from trio_nats._transport.ssl_context import load_client_tls
from trio_nats.auth import prepare
from trio_nats.contexts import selected_context
from trio_nats.events import Reconnected
from trio_nats.testing import NatsServer, ServerTLS

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


# --- no thread left ------------------------------------------------------------------------------


async def test_a_reconnect_succeeds_with_all_worker_threads_busy(tmp_path: Path) -> None:
    operator, certs = Operator(), certificates()
    file = tmp_path / "user.creds"
    file.write_text(operator.user("alice").creds)
    tls = ServerTLS(certs.server.cert_file, certs.server.key_file)
    async with NatsServer(config=operator.config, tls=tls) as server:
        url = f"tls://localhost:{server.port}"
        options = {"auth": Credentials(file=file), "tls": TLSOptions(ca_file=certs.ca_file)}
        async with open_nats(url, reconnect=QUICK, **options) as nc, nc.events() as events:
            async with busy_threads():
                await server.restart()
                await until(events, Reconnected)
                await nc.flush()


async def test_an_address_needs_no_thread() -> None:
    async with busy_threads():
        with trio.fail_after(HANG_TIMEOUT):
            for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
                ((found, address),) = await resolve(host, 4222)
                assert (found, address[:2]) == (family, (host, 4222))


@pytest.mark.slow
async def test_names_that_are_too_long_are_not_resolved() -> None:
    async with busy_threads():
        for host in ("\u0660" * 100_000, "a" * 255, "\xe9" * 255):
            with pytest.raises(UnicodeError):
                await resolve(host, 4222)


# --- files that hang -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [NKey, Credentials])
async def test_a_hanging_file_uses_one_thread_for_all_attempts(make: Any, tmp_path: Path) -> None:
    operator = Operator()
    path = tmp_path / "user.creds"
    path.write_text(operator.user("alice").creds)
    async with hanging_file(path) as file:
        auth = make(file=file)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(prepare, auth)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        file.opened.acquire()
        assert file.hanging == 1
        limiter = trio.to_thread.current_default_thread_limiter()
        assert limiter.borrowed_tokens == 0
        file.answer.set()
        # Once it answers, the file is read again: what the first read has found may be old.
        with trio.fail_after(HANG_TIMEOUT):
            assert (await prepare(auth)).sign is not None


async def test_files_hang_each_for_themselves(tmp_path: Path) -> None:
    operator = Operator()
    for name in ("one.creds", "two.creds"):
        (tmp_path / name).write_text(operator.user("alice").creds)
    async with hanging_file(tmp_path / "one.creds") as file, trio.open_nursery() as nursery:
        nursery.start_soon(prepare, Credentials(file=file))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(HANG_TIMEOUT):
            await prepare(Credentials(file=tmp_path / "two.creds"))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("option", ["ca_file", "cert_file", "bundle_file"])
async def test_hanging_certificate_files_use_one_thread(option: str, tmp_path: Path) -> None:
    async with hanging_file(tmp_path / "file.pem") as file:
        options: Any = TLSOptions(**{option: file})
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load_client_tls, options)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        file.opened.acquire()
        assert file.hanging == 1
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0


async def test_a_run_of_trio_has_threads_of_its_own() -> None:
    for _ in range(2):
        assert await trio.to_thread.run_sync(trio.run, run_in_thread, abs, -1) == 1


# --- files that are none -------------------------------------------------------------------------


@needs_pipes
@pytest.mark.parametrize("make", [NKey, Credentials])
async def test_a_pipe_is_not_accepted_as_a_credentials_file(make: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with trio.fail_after(HANG_TIMEOUT), pytest.raises(CredentialsError, match="not a regular file"):
        await prepare(make(file=pipe))


@needs_pipes
@pytest.mark.parametrize("option", ["ca_file", "cert_file", "key_file", "bundle_file"])
async def test_a_pipe_is_not_accepted_as_a_certificate_file(option: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    options: dict[str, Any] = {option: pipe}
    if option == "key_file":
        options["cert_file"] = certificates().client.cert_file
    with (
        trio.fail_after(HANG_TIMEOUT),
        pytest.raises(TLSConfigurationError, match="not a regular file"),
    ):
        await load_client_tls(TLSOptions(**options))


async def test_files_of_certificates_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "huge.pem"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)
    for option in ("ca_file", "cert_file", "bundle_file"):
        options: Any = TLSOptions(**{option: file})
        with pytest.raises(TLSConfigurationError, match="larger than"):
            await load_client_tls(options)


@needs_pipes
def test_a_pipe_is_not_accepted_as_a_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "one.json")
    os.mkfifo(folder.parent / "context.txt")
    for context in ("one", folder / "one.json"):
        with pytest.raises(ConfigurationError, match="not a regular file"):
            load_context(context)
    assert selected_context() is None
    context = Context(user="u", password=f"file://{folder}/one.json")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        context.auth()
