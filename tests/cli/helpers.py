"""Running the command line: in this process, or as the process it is."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import trio
from typer.testing import CliRunner, Result

from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import HeadersLike, Msg, open_nats

__all__ = ["Running", "clean_environment", "cli", "lines", "observed", "repeated", "running"]


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without anything of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    # Which would hide what happens to what is still in a buffer at the end.
    kept.pop("PYTHONUNBUFFERED", None)
    return kept | {"XDG_CONFIG_HOME": "/nonexistent", "COLUMNS": "100"} | more


def cli(*args: object, input: bytes | str = b"", **environment: str) -> Result:
    """Run a command in this process."""
    from trio_nats.cli.app import app

    changes: Mapping[str, str | None] = {
        name: None for name in os.environ if name.startswith("NATS_")
    }
    return CliRunner().invoke(
        app,
        [str(arg) for arg in args],
        input=input,
        env={**changes, **clean_environment(**environment)},
        prog_name="trio-nats",
    )


class Running:
    """A command as a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], output: Any) -> None:
        self._process = process
        self._output = output
        self.errors = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def said(self, text: str) -> None:
        """Wait until it has said so on stderr."""
        deadline = time.monotonic() + HANG_TIMEOUT
        while text.encode() not in self.errors:
            assert self._read(deadline - time.monotonic()), (text, self.errors)

    def feed(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def kill(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def finish(self) -> int:
        """Wait for its end; the exit code."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        deadline = time.monotonic() + HANG_TIMEOUT
        while self._read(deadline - time.monotonic()):
            pass
        return self._process.wait(HANG_TIMEOUT)

    @property
    def output(self) -> str:
        """What it has written to stdout so far."""
        self._output.seek(0)
        return self._output.read().decode()

    def _read(self, seconds: float) -> bool:
        assert self._process.stderr is not None
        ready, _, _ = select.select([self._process.stderr], [], [], max(seconds, 0))
        assert ready, f"nothing more was said: {self.errors!r}"
        data = os.read(self._process.stderr.fileno(), 65536)
        self.errors += data
        return bool(data)


@contextmanager
def running(*args: object, stdout: int | None = None, **environment: str) -> Iterator[Running]:
    """Run a command as a process, killed at the end of the block if need be."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "trio_nats", *(str(arg) for arg in args)],
            stdin=subprocess.PIPE,
            stdout=output if stdout is None else stdout,
            stderr=subprocess.PIPE,
            env=clean_environment(**environment),
        )
        with process:
            try:
                yield Running(process, output)
            finally:
                process.kill()


@contextmanager
def observed(url: str, subject: str, count: int) -> Iterator[list[Msg]]:
    """The messages that come during the block; all there when it ends. Faster than `sub`."""
    messages: list[Msg] = []
    ready = threading.Event()

    async def observe() -> None:
        with trio.fail_after(HANG_TIMEOUT):
            async with open_nats(url) as nc, nc.subscribe(subject) as subscription:
                await nc.flush()
                ready.set()
                while len(messages) < count:
                    messages.append(await subscription.receive())

    with ThreadPoolExecutor(1) as pool:
        observer = pool.submit(trio.run, observe)
        assert ready.wait(HANG_TIMEOUT)
        yield messages
        observer.result()


@contextmanager
def repeated(url: str, subject: str, data: bytes, headers: HeadersLike) -> Iterator[None]:
    """Publish a message again and again, for those that subscribe in that time."""
    stopped = threading.Event()

    async def publish() -> None:
        async with open_nats(url) as nc:
            while not stopped.is_set():
                await nc.publish(subject, data, headers=headers)
                await nc.flush()

    with ThreadPoolExecutor(1) as pool:
        publisher = pool.submit(trio.run, publish)
        try:
            yield
        finally:
            stopped.set()
        publisher.result()


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]
