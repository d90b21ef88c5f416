"""Processes that need not start an interpreter and import everything first.

They are forked from a process that has done so once, which takes a tenth of the time. With signals,
pipes and terminals they do what a program does that a shell has started. How an interpreter begins
and ends is for tests that start one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import trio

__all__ = ["Forked", "Program", "forked", "run_code", "run_command", "run_file"]

# What programs of the tests import. "__main__": or else each process would import that of pytest.
# Typer imports pydantic when a command has options.
PRELOADED = ["__main__", __name__, "trio_nats.cli.app", "pydantic", "trio_nats.testing.server"]
PRELOADED += ["trio_nats.anyio", "anyio._backends._trio", "anyio._backends._asyncio"]


# --- what such a process runs ---------------------------------------------------------------------


def run_command(*args: str) -> None:
    """``trio-nats`` with these arguments."""
    from trio_nats.cli import main

    sys.argv = ["trio-nats", *args]
    main()


def run_file(path: str, *args: str) -> None:
    """``python path args``."""
    sys.argv = [path, *args]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def run_code(code: str, *args: str) -> None:
    """``python -c code args``."""
    sys.argv = ["-c", *args]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


# --- the process ----------------------------------------------------------------------------------


class Forked:
    """A process that runs ``function(*args)``, with what tests need of a ``subprocess.Popen``.

    :param descriptors: its stdin, stdout and stderr, which stay open here.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *args: str,
        descriptors: Sequence[int],
        env: Mapping[str, str],
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        theirs = [_Descriptor(number) for number in descriptors]
        self._process = context.Process(target=_run, args=(theirs, dict(env), function, args))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self._process.exitcode


class _Descriptor:
    """A file descriptor that a new process gets."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._number),)


def _received(descriptor: Any) -> int:
    number: int = descriptor.detach()
    return number


def _run(
    descriptors: list[int], env: dict[str, str], function: Callable[..., None], args: list[str]
) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    if env.get("PYTHONWARNINGS") == "error":
        warnings.simplefilter("error")
    function(*args)


# --- for tests that are async ---------------------------------------------------------------------


class Program:
    """A running program."""

    def __init__(self, process: Forked, stdout: trio.abc.ReceiveStream) -> None:
        self._process = process
        self.stdout = stdout
        """What it writes."""

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; the exit code."""
        return await trio.to_thread.run_sync(self._process.wait)

    async def rest(self) -> str:
        """All that it writes until its end."""
        output = b"".join([chunk async for chunk in self.stdout])
        return output.decode()


@asynccontextmanager
async def forked(
    function: Callable[..., None], *args: str, env: Mapping[str, str], stderr: bool = True
) -> AsyncIterator[Program]:
    """Run :func:`run_file`, say, in a process, killed at the end of the block if need be.

    :param stderr: whether what it writes to stderr comes with its output, or goes to ours.
    """
    ours, theirs = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    descriptors = [nothing, theirs, theirs if stderr else 2]
    process = Forked(function, *args, descriptors=descriptors, env=env)
    os.close(nothing)
    os.close(theirs)
    async with trio.lowlevel.FdStream(ours) as stdout:
        running = Program(process, stdout)
        try:
            yield running
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await running.wait()
