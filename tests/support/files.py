"""Files that hang when opened, as on a file server that is down."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

__all__ = ["HangingFile", "busy_threads", "hanging_file"]


class HangingFile(os.PathLike[str]):
    """A path that other threads hang on until :attr:`answer` is set."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._home = threading.get_ident()
        self.answer = threading.Event()
        self.opened = threading.Semaphore(0)
        """Released by each thread that hangs."""
        self.hanging = 0

    def __fspath__(self) -> str:
        if threading.get_ident() != self._home and not self.answer.is_set():
            self.hanging += 1
            self.opened.release()
            self.answer.wait()
        return self._path

    def __str__(self) -> str:
        return self._path


@asynccontextmanager
async def hanging_file(path: Path) -> AsyncIterator[HangingFile]:
    """Yield a path that hangs during the block."""
    file = HangingFile(path)
    try:
        yield file
    finally:
        file.answer.set()


@asynccontextmanager
async def busy_threads() -> AsyncIterator[None]:
    """Occupy all worker threads during the block."""
    limiter = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.available_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        yield
    finally:
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)
