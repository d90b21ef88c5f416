"""Objects that become files."""

from __future__ import annotations

import os

import trio

from ..errors import ConfigurationError
from ..jetstream.creating import new_name
from .info import ObjectInfo
from .reader import ObjectReader

__all__ = ["check_path", "write_file"]


def check_path(path: str | os.PathLike[str]) -> trio.Path:
    """``path`` if it can be the one of a file."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"path is the path of a file, not {type(path).__name__}")
    checked = trio.Path(path)
    if not checked.name:
        raise ConfigurationError(f"path {str(path)!r} has no file name")
    return checked


async def write_file(reader: ObjectReader, path: trio.Path) -> ObjectInfo:
    """Have the object in the file once all of it has come, and be right; else leave it alone."""
    part = path.with_name(f".{new_name()}.part")
    async with reader:
        try:
            async with await part.open("xb") as file:
                async for chunk in reader:
                    await file.write(chunk)
            await part.replace(path)
        except BaseException:
            with trio.CancelScope(shield=True):
                await part.unlink(missing_ok=True)
            raise
    return reader.info
