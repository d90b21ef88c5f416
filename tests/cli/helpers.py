"""Run commands in this process or in a process of their own."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO
from unittest.mock import patch

import trio
from typer.main import get_command

from tests.support.forked import Forked, run_command
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import HeadersLike, Msg, open_nats

__all__ = ["Running", "clean_environment", "cli", "lines", "observed", "repeated", "running"]


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without settings of the user who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    for name in ("FORCE_COLOR", "NO_COLOR"):
        kept.pop(name, None)
    # It would hide what happens to buffered output at the end.
    kept.pop("PYTHONUNBUFFERED", None)
    return kept | {"XDG_CONFIG_HOME": "/nonexistent", "COLUMNS": "100"} | more


@dataclass(frozen=True)
class Result:
    """The result of a command in this process."""

    exit_code: int
    stdout: str
    stderr: str


@cache
def _command() -> Any:
    # Creating this takes longer than most commands run.
    from trio_nats.cli.app import app

    return get_command(app)


def cli(*args: object, input: bytes | str = b"", **environment: str) -> Result:
    """Run a command in this process."""
    data = input.encode() if isinstance(input, str) else input
    stdout, stderr = io.BytesIO(), io.BytesIO()
    with (
        patch.dict(os.environ, clean_environment(**environment), clear=True),
        patch("sys.stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8")),
        patch("sys.stdout", io.TextIOWrapper(stdout, "utf-8")),
        patch("sys.stderr", io.TextIOWrapper(stderr, "utf-8", "backslashreplace")),
    ):
        try:
            _command().main([str(arg) for arg in args], prog_name="trio-nats")
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        if isinstance(code, str):  # which the interpreter prints
            print(code, file=sys.stderr)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return Result(code or 0, stdout.getvalue().decode(), stderr.getvalue().decode())


class Running:
    """A command that runs in a process of its own."""

    def __init__(
        self,
        process: subprocess.Popen[bytes] | Forked,
        stdin: BinaryIO,
        stderr: BinaryIO,
        output: BinaryIO,
    ) -> None:
        self.process = process
        self._stdin = stdin
        self._stderr = stderr
        self.output_file = output
        self.errors = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, text: str) -> None:
        """Wait until it has said so on stderr."""
        deadline = time.monotonic() + HANG_TIMEOUT
        while text.encode() not in self.errors:
            assert self._read(deadline - time.monotonic()), (text, self.errors)

    def feed(self, data: bytes) -> None:
        self._stdin.write(data)
        self._stdin.flush()

    def kill(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self, *, close_stdin: bool = True) -> int:
        """Wait for its end; the exit code."""
        if close_stdin:
            self._stdin.close()
        deadline = time.monotonic() + HANG_TIMEOUT
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(HANG_TIMEOUT)

    @property
    def output(self) -> str:
        """What it has written to stdout so far."""
        self.output_file.seek(0)
        return self.output_file.read().decode()

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._stderr], [], [], max(seconds, 0))
        assert ready, f"nothing more was said: {self.errors!r}"
        data = os.read(self._stderr.fileno(), 65536)
        self.errors += data
        return bool(data)


@contextmanager
def running(
    *args: object, stdout: int | None = None, interpreter: bool = False, **environment: str
) -> Iterator[Running]:
    """Run a command in a process, which is killed at the end of the block if it is still running.

    :param interpreter: start an interpreter for it, as a shell does. Else it is a fork of one.
    """
    words = [str(arg) for arg in args]
    variables = clean_environment(**environment)
    with tempfile.TemporaryFile() as output:
        out = output.fileno() if stdout is None else stdout
        theirs_in, ours_in = os.pipe()
        ours_err, theirs_err = os.pipe()
        process: subprocess.Popen[bytes] | Forked
        if interpreter:
            process = subprocess.Popen(
                [sys.executable, "-m", "trio_nats", *words],
                stdin=theirs_in,
                stdout=out,
                stderr=theirs_err,
                env=variables,
            )
        else:
            descriptors = (theirs_in, out, theirs_err)
            process = Forked(run_command, *words, descriptors=descriptors, env=variables)
        os.close(theirs_in)
        os.close(theirs_err)
        with open(ours_in, "wb") as stdin, open(ours_err, "rb") as stderr:
            try:
                yield Running(process, stdin, stderr, output)
            finally:
                process.kill()
                process.wait()


@contextmanager
def observed(url: str, subject: str, count: int) -> Iterator[list[Msg]]:
    """Collect the messages that arrive during the block. Faster than `sub`."""
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
    """Publish a message repeatedly during the block, for subscribers that start during it."""
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
