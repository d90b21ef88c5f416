"""The size of chunks, and reading the source of an object in chunks of that size."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Protocol, TypeAlias, cast, runtime_checkable

import trio

from ..errors import ConfigurationError

__all__ = ["AsyncReadable", "Chunks", "ObjectSource", "Readable", "chunk_size", "chunks_of"]

DEFAULT_CHUNK_SIZE = 128 * 1024


def chunk_size(wanted: int | None, max_payload: int) -> int:
    """Return the size of chunks in bytes.

    :param wanted: the size that the user wants; ``None`` for the default.
    :param max_payload: the largest message that the server accepts.
    :raises ConfigurationError: if ``wanted`` is larger.
    """
    if wanted is None:
        return min(DEFAULT_CHUNK_SIZE, max_payload)
    if wanted > max_payload:
        raise ConfigurationError(
            f"chunk_size must be at most {max_payload:,} bytes, the server's max_payload, not "
            f"{wanted:,}"
        )
    return wanted


@runtime_checkable
class Readable(Protocol):
    """A binary file, such as ``open(path, "rb")`` returns; it is read in a worker thread."""

    def read(self, size: int, /) -> bytes:
        """Read from the file.

        :param size: maximum number of bytes.
        :returns: the bytes; empty at the end of the file.
        """
        ...


@runtime_checkable
class AsyncReadable(Protocol):
    """An asynchronous binary file, such as ``trio.open_file()`` returns."""

    async def read(self, size: int, /) -> bytes:
        """Read from the file. If cancelled, the upload is cancelled.

        :param size: maximum number of bytes.
        :returns: the bytes; empty at the end of the file.
        """
        ...


ObjectSource: TypeAlias = (
    bytes
    | bytearray
    | memoryview
    | Readable
    | AsyncReadable
    | os.PathLike[str]
    | AsyncIterable[bytes]
)
"""The content of an object: bytes, a binary file, a path, or an async iterable of bytes."""


class Chunks:
    """Cut a source into chunks. Holds one chunk and the rest of one piece in memory."""

    def __init__(self, more: Callable[[], Awaitable[bytes | memoryview]], size: int) -> None:
        """:param more: returns some bytes; empty at the end."""
        self._more = more
        self._size = size
        self.count: int = 0
        """Number of chunks returned so far."""
        self._rest = memoryview(b"")

    async def next(self) -> bytes:
        """Return the next chunk; empty at the end."""
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


def chunks_of(source: ObjectSource, size: int) -> AbstractAsyncContextManager[Chunks]:
    """Return the chunks of a source. Open files and channels stay open; a generator is closed.

    :raises TypeError: if ``source`` has another type.
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
        # Check this before AsyncIterable: iterating over a file would split it into lines.
        if inspect.iscoroutinefunction(read):
            asynchronous = cast("AsyncReadable", source)
            return lambda: asynchronous.read(size)
        file = cast("Readable", source)
        return lambda: trio.to_thread.run_sync(file.read, size)
    if isinstance(source, AsyncIterable):
        return _pieces(cast("AsyncIterable[bytes]", source))
    hint = "; encode text, or pass trio.Path(...) for a file" if isinstance(source, str) else ""
    raise TypeError(
        "source must be bytes-like, a binary file, a path-like object or an async iterable of "
        f"bytes, not {type(source).__name__}{hint}"
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
        # Skip empty pieces, which would mean the end.
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
    raise TypeError(f"source must deliver bytes, not {type(data).__name__}{hint}")
