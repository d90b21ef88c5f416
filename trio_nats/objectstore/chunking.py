"""Where the bytes of an object come from, cut into chunks of one size."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol, TypeAlias, cast, runtime_checkable

import trio

__all__ = ["AsyncReadable", "Chunks", "Readable", "Source", "chunks_of"]


@runtime_checkable
class Readable(Protocol):
    """A binary file; it is read in a thread."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


@runtime_checkable
class AsyncReadable(Protocol):
    """A binary file of Trio's."""

    async def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


Source: TypeAlias = (
    bytes
    | bytearray
    | memoryview
    | Readable
    | AsyncReadable
    | os.PathLike[str]
    | AsyncIterable[bytes]
)
"""What can be put: bytes, a binary file, the path of one, or pieces as they come."""


class Chunks:
    """Hands out chunk after chunk; holds one at a time, and what one piece has more."""

    def __init__(self, more: Callable[[], Awaitable[bytes | memoryview]], size: int) -> None:
        """``more`` returns some bytes; none at the end."""
        self._more = more
        self._size = size
        self.count: int = 0
        """How many were handed out."""
        self._rest = memoryview(b"")

    async def next(self) -> bytes:
        """The next one; empty at the end."""
        parts: list[memoryview] = []
        missing = self._size
        while missing:
            if not self._rest:
                self._rest = _view(await self._more())
                if not self._rest:
                    break
            part, self._rest = self._rest[:missing], self._rest[missing:]
            missing -= len(part)
            parts.append(part)
        self.count += bool(parts)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)


def chunks_of(source: Source, size: int) -> AbstractAsyncContextManager[Chunks]:
    """The chunks of ``source``. A file or a channel that is given open stays open.

    A generator is closed: what is left of it is of no use to anybody.

    Raises :exc:`ConfigurationError` for what has no bytes.
    """
    if isinstance(source, os.PathLike):
        return _opened(source, size)
    chunks = Chunks(_reading(source, size), size)
    return _closing(source, chunks) if isinstance(source, AsyncGenerator) else _as_is(chunks)


@asynccontextmanager
async def _closing(
    source: AsyncGenerator[bytes, None], chunks: Chunks
) -> AsyncGenerator[Chunks, None]:
    async with aclosing(source):
        yield chunks


@asynccontextmanager
async def _as_is(chunks: Chunks) -> AsyncGenerator[Chunks, None]:
    yield chunks


@asynccontextmanager
async def _opened(path: os.PathLike[str], size: int) -> AsyncGenerator[Chunks, None]:
    async with await trio.open_file(path, "rb") as file:
        yield Chunks(lambda: file.read(size), size)


def _reading(source: object, size: int) -> Callable[[], Awaitable[bytes | memoryview]]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _once(memoryview(source).cast("B"))
    read = getattr(source, "read", None)
    if callable(read):
        # Before what can be iterated: files can too, by lines.
        if inspect.iscoroutinefunction(read):
            asynchronous = cast("AsyncReadable", source)
            return lambda: asynchronous.read(size)
        file = cast("Readable", source)
        return lambda: trio.to_thread.run_sync(file.read, size)
    if isinstance(source, AsyncIterable):
        return _pieces(cast("AsyncIterable[bytes]", source))
    hint = "; encode it, or for a file give a trio.Path" if isinstance(source, str) else ""
    raise TypeError(
        "an object is put from bytes, a binary file, a path or an async iterable of bytes, "
        f"not {type(source).__name__}{hint}"
    )


def _once(data: memoryview) -> Callable[[], Awaitable[memoryview]]:
    rest = [data]

    async def more() -> memoryview:
        await trio.lowlevel.checkpoint()
        return rest.pop() if rest else memoryview(b"")

    return more


def _pieces(source: AsyncIterable[bytes]) -> Callable[[], Awaitable[bytes]]:
    iterator = aiter(source)

    async def more() -> bytes:
        # An empty piece is not the end.
        async for piece in iterator:
            if len(piece):
                return piece
            await trio.lowlevel.checkpoint()
        return b""

    return more


def _view(data: object) -> memoryview:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return memoryview(data).cast("B")
    hint = "; open the file in binary mode" if isinstance(data, str) else ""
    raise TypeError(f"an object is put from bytes, not {type(data).__name__}{hint}")
