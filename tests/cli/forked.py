"""Commands as processes that need not start an interpreter and import everything first.

They are forked from a process that has done so once: that takes a tenth of the time. What they do
with signals, pipes and terminals is what ``python -m trio_nats`` does. How an interpreter begins
and ends is not shown by them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.reduction import DupFd
from typing import Any

import pydantic  # noqa: F401  # typer imports it when a command has options

from trio_nats.cli import app, main  # noqa: F401
from trio_nats.testing import NatsServer  # noqa: F401

__all__ = ["Forked"]


class Forked:
    """What the tests need of a ``subprocess.Popen``."""

    def __init__(self, args: list[str], stdout: int, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        # __main__, or each process would import that of pytest.
        context.set_forkserver_preload(["__main__", __name__])
        theirs_in, ours_in = os.pipe()
        ours_err, theirs_err = os.pipe()
        descriptors = [_Descriptor(theirs_in), _Descriptor(stdout), _Descriptor(theirs_err)]
        self._process = context.Process(target=_run, args=(args, dict(environment), descriptors))
        self._process.start()
        os.close(theirs_in)
        os.close(theirs_err)
        self.stdin = open(ours_in, "wb")  # noqa: SIM115
        self.stderr = open(ours_err, "rb")  # noqa: SIM115

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

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("trio-nats", timeout)
        return self._process.exitcode

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stderr.close()
        self._process.join()
        self._process.close()


class _Descriptor:
    """A file descriptor that a new process gets."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self._number),)


def _received(descriptor: Any) -> int:
    number: int = descriptor.detach()
    return number


def _run(args: list[str], environment: dict[str, str], descriptors: list[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["trio-nats", *args]
    main()
