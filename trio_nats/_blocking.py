"""Run blocking functions in threads, and read small files.

Trio limits the number of worker threads of the whole program. A program that keeps all of them
busy must not prevent a reconnect, and reading a file that hangs must not block one more thread at
every attempt. So this module has its own limits: one for each file, and one for everything else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple
from weakref import WeakValueDictionary

import trio

from .options import StrPath

__all__ = ["check_regular_file", "read_small_file", "run_in_thread"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_MAX_THREADS = 40
# Do not block when opening a named pipe or a terminal. Windows lacks these flags, but needs
# O_BINARY to leave line ends unchanged.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)

_threads: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("trio_nats threads")
_by_files: trio.lowlevel.RunVar[WeakValueDictionary[tuple[str, ...], trio.CapacityLimiter]] = (
    trio.lowlevel.RunVar("trio_nats threads by files")
)


async def run_in_thread(
    function: Callable[[*_Ts], _T], *args: *_Ts, files: tuple[StrPath, ...] = ()
) -> _T:
    """Call a function in a thread that does not count towards the program's limit.

    If cancelled, the thread finishes in the background. Until then, no other call with the same
    ``files`` starts.

    :param files: the files that the function reads.
    """
    return await trio.to_thread.run_sync(
        function, *args, abandon_on_cancel=True, limiter=_limiter(tuple(map(str, files)))
    )


def _limiter(files: tuple[str, ...]) -> trio.CapacityLimiter:
    if not files:
        try:
            return _threads.get()
        except LookupError:
            limiter = trio.CapacityLimiter(_MAX_THREADS)
            _threads.set(limiter)
            return limiter
    try:
        by_files = _by_files.get()
    except LookupError:
        by_files = WeakValueDictionary()
        _by_files.set(by_files)
    # Held weakly: it lives as long as a call waits for it, or a thread holds it.
    return by_files.setdefault(files, trio.CapacityLimiter(1))


def read_small_file(path: StrPath, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes. Blocks if the file system does.

    :raises OSError: if the file cannot be read, is not a regular file, or is larger.
    :raises ValueError: if no file can have the name.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), limit)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:  # It has grown, or the file system reports no sizes.
        del data  # It may be a secret, and error reporters print variables.
        raise OSError(_too_large(limit))
    return data


def check_regular_file(path: StrPath, limit: int) -> None:
    """Check a file that other code will read. Raises the errors of :func:`read_small_file`."""
    descriptor = os.open(path, _FLAGS)
    try:
        _check(os.fstat(descriptor), limit)
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if status.st_size > limit:
        raise OSError(_too_large(limit))


def _too_large(limit: int) -> str:
    return f"it is larger than {limit:,} bytes"
