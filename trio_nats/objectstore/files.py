"""Objects that become files."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

import trio

from ..errors import ConfigurationError
from ..jetstream.creating import new_name
from .errors import InvalidObjectNameError
from .info import ObjectInfo
from .reader import ObjectReader

__all__ = ["check_path", "write_file"]


def check_path(path: str | os.PathLike[str]) -> trio.Path:
    """``path`` if it can be the one of a file."""
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"path is the path of a file, not {type(path).__name__}")
    if not os.fspath(path):
        raise ConfigurationError("path is empty")
    return trio.Path(path)


async def write_file(
    reader: ObjectReader, name: str, path: trio.Path, *, follow_symlinks: bool
) -> ObjectInfo:
    """Have the object in the file once all of it has come, and be right; else leave it alone.

    :param name: the object's, for a ``path`` that is a folder.
    """
    if await path.is_dir():
        path = path / _file_name(name)
    if follow_symlinks:
        path = trio.Path(await trio.to_thread.run_sync(os.path.realpath, path))
    replaced = await _replaced(path)
    part = path.with_name(f".{new_name()}.part")
    # As secret as what it replaces, which may be more than the rest of the folder.
    opener = None if replaced is None else partial(os.open, mode=0o600)
    async with reader:
        try:
            async with await trio.open_file(part, "xb", opener=opener) as file:
                async for chunk in reader:
                    await file.write(chunk)
            if replaced is not None:
                await trio.to_thread.run_sync(_take_after, part, replaced, path)
            await part.replace(path)
        except BaseException:
            with trio.CancelScope(shield=True):
                await part.unlink(missing_ok=True)
            raise
    return reader.info


def _file_name(name: str) -> str:
    """An object's name, if a file in a folder can have it: who stored the object chose it."""
    plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
    if not plain or name == ".." or not name.isprintable() or (os.name == "nt" and ":" in name):
        raise InvalidObjectNameError(
            f"object name {name[:80]!r} is not the plain name of a file; "
            "give the path of a file instead of a folder"
        )
    return name


async def _replaced(path: trio.Path) -> os.stat_result | None:
    """What there is to know about the file that is in this place already."""
    try:
        found = await path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise FileExistsError(
            errno.EEXIST,
            "it is a symbolic link; follow_symlinks=True writes the file that it leads to",
            str(path),
        )
    if not stat.S_ISREG(found.st_mode):
        raise FileExistsError(errno.EEXIST, "it is not a regular file", str(path))
    return found


def _take_after(part: trio.Path, replaced: os.stat_result, path: trio.Path) -> None:
    """Give the new file the mode and the owner of the one that it replaces."""
    made = os.stat(part)
    if (made.st_uid, made.st_gid) != (replaced.st_uid, replaced.st_gid):
        try:
            os.chown(part, replaced.st_uid, replaced.st_gid)
        except PermissionError as error:
            raise PermissionError(
                error.errno, "it belongs to somebody else; delete it, or write another", str(path)
            ) from None
    # After chown, which takes some bits away.
    os.chmod(part, stat.S_IMODE(replaced.st_mode))
