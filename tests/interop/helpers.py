"""Other NATS clients: programs that carry out the operations that tests request.

Each runs for a whole module, because it takes long to start. It reads requests from its standard
input, one JSON object per line, and writes one line in reply to each. All programs have the same
operations and the same form of replies, so the tests can compare the replies.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import trio
from _pytest.mark import ParameterSet

from trio_nats.jetstream import StreamConfig
from trio_nats.testing import NatsServer

__all__ = [
    "CLIENTS",
    "KEY_VALUE_CLIENTS",
    "Client",
    "Clients",
    "RemoteError",
    "differing",
    "missing",
    "pairs",
    "running_server",
]

HERE = Path(__file__).parent
PACKAGES = HERE / "node"
CLIENTS = ("trio_nats", "nats_py", "node")
KEY_VALUE_CLIENTS = (*CLIENTS, "nats_key_value")


def pairs(*more: str) -> list[ParameterSet]:
    """Parameters for two clients: each with each, itself included, and ``more`` with this one."""
    found = [*itertools.product(CLIENTS, repeat=2)]
    for name in more:
        found += [(CLIENTS[0], name), (name, CLIENTS[0])]
    return [pytest.param(*pair, id="-".join(pair)) for pair in found]


class RemoteError(Exception):
    """An operation of a client has failed."""


class Client:
    """A running program."""

    def __init__(self, name: str, argv: list[str | Path], url: str) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*argv, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )

    def send(self, operation: str, *args: Any, **options: Any) -> None:
        """Request an operation; :meth:`result` waits for it."""
        assert self._process.stdin is not None
        request = {"op": operation, "args": args, "options": options}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """Wait for the oldest operation that was requested."""
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except BaseException:  # It hangs, so the next test starts another one.
            self._process.kill()
            raise
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.name} has ended:\n{self._log.read()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RemoteError(f"{self.name}: {reply['error']}")
        return reply["result"]

    def __call__(self, operation: str, *args: Any, **options: Any) -> Any:
        """Carry out an operation, and return its result."""
        self.send(operation, *args, **options)
        return self.result()

    def watched(self, name: str, last: str, **fields: Any) -> list[dict[str, Any]]:
        """Return what a watcher has seen up to the key or object ``last``, and stop it."""
        wanted = {"key": last, **fields}
        found = self("watched_until", name, wanted)
        ends = [number for number, one in enumerate(found) if wanted.items() <= one.items()]
        return found[: ends[0] + 1]

    @property
    def is_running(self) -> bool:
        """Whether the program has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the program."""
        with self._process, self._log:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()


class Clients:
    """The clients that a module uses, each started when it is first needed.

    A test that needs a missing client is skipped.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._running: dict[str, Client] = {}

    def __getitem__(self, name: str) -> Client:
        if name not in self._running or not self._running[name].is_running:
            fault = missing(name)
            if fault:
                pytest.skip(fault)
            self._running[name] = Client(name, program(name), self.url)
        return self._running[name]

    def present(self, names: Sequence[str] = CLIENTS) -> list[Client]:
        """Return the installed clients of ``names``, for tests that can do without the others."""
        return [self[name] for name in names if not missing(name)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for client in self._running.values():
            client.close()


def program(name: str) -> list[str | Path]:
    """Return how to run a client."""
    if name == "node":
        return [shutil.which("node") or "node", PACKAGES / "client.mjs"]
    return [sys.executable, HERE / f"{name}_client.py"]


@functools.cache
def missing(name: str) -> str:
    """Return why a client cannot be used; empty if it can."""
    if name == "node":
        npm = shutil.which("npm")
        if shutil.which("node") is None or npm is None:
            return "interoperability with Node is not tested: there is no node or npm"
        if fault := install_packages(npm):
            return f"interoperability with Node is not tested: npm cannot install: {fault}"
    if name == "nats_key_value" and find_spec("nats.key_value") is None:
        return "interoperability with nats-key-value is not tested: it needs Python 3.13"
    return ""


def install_packages(npm: str) -> str:
    """Install the packages of the Node client, once for each checkout; return what went wrong."""
    wanted = (PACKAGES / "package.json").read_bytes()
    target = PACKAGES / "node_modules"
    stamp = target / "package.json"  # as it was when they were installed
    if stamp.exists() and stamp.read_bytes() == wanted:
        return ""
    # Several processes may do this at the same time; the first is as good as the last.
    with tempfile.TemporaryDirectory(dir=PACKAGES, prefix=".installing-") as folder:
        Path(folder, "package.json").write_bytes(wanted)
        options = "package-lock=false audit=false fund=false ignore-scripts fetch-retries=0"
        argv = [npm, "install", *(f"--{option}" for option in options.split())]
        try:
            done = subprocess.run(
                argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            lines = done.stderr.splitlines()
            return next((line for line in lines if line.startswith("npm error")), str(lines[-1:]))
        Path(folder, "node_modules", "package.json").write_bytes(wanted)
        if target.exists() and not (stamp.exists() and stamp.read_bytes() == wanted):
            shutil.rmtree(target)
        try:
            os.rename(Path(folder, "node_modules"), target)
        except OSError:
            if not stamp.exists():
                raise
    return ""


@contextmanager
def running_server() -> Iterator[NatsServer]:
    """A server for many tests, which outlives their Trio runs. A thread runs it."""
    started, stop = threading.Event(), threading.Event()
    server = NatsServer(jetstream=True)
    failed: list[BaseException] = []

    async def serve() -> None:
        async with server:
            started.set()
            await trio.to_thread.run_sync(stop.wait)

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        if not failed:
            yield server
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


def differing(before: StreamConfig, after: StreamConfig) -> dict[str, Any]:
    """Return the settings of ``after`` that are not those of ``before``."""
    old, new = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    for config in (old, new):  # the server notes there which version it needs
        config["metadata"] = {
            name: value
            for name, value in (config["metadata"] or {}).items()
            if not name.startswith("_nats.")
        }
    return {name: value for name, value in new.items() if value != old[name]}
