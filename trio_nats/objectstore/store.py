"""An object store, as users hold it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

import trio

from .._constructors import NoPublicConstructor, construct
from ..errors import ConfigurationError
from ..headers import Headers
from ..jetstream.consumer.config import DeliverPolicy
from ..jetstream.consumer.consumer import new_name
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import WrongLastSequenceError
from ..jetstream.stream import Stream
from ..options import check_flag
from .backend import ObjectBackend, store_errors
from .chunking import Source
from .config import ObjectStoreStatus, status_of
from .errors import (
    InvalidObjectNameError,
    ObjectExistsError,
    ObjectLinkError,
    ObjectNotFoundError,
)
from .info import ObjectInfo, ObjectLink, ObjectMeta, check_meta
from .names import check_object_name, chunk_subject, meta_subject
from .reader import DEFAULT_MAX_SIZE, ObjectReader
from .upload import put
from .watch import ObjectWatcher, list_objects

__all__ = ["ObjectStore", "check_path", "write_file"]


def check_path(path: str | os.PathLike[str]) -> trio.Path:
    """``path`` if it can be the one of a file."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or path-like object, not {type(path).__name__}")
    if not os.fspath(path):
        raise ConfigurationError("path must not be empty")
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


class ObjectStore(
    metaclass=NoPublicConstructor, use="js.object_store() or js.create_object_store()"
):
    """An object store, as :meth:`JetStream.object_store` and its likes make it.

    It holds nothing open, and may be used from any number of tasks. Unless said otherwise its
    methods raise :exc:`InvalidObjectNameError`, or :exc:`ConfigurationError`, for what cannot be
    asked for; :exc:`ObjectNotFoundError` if there is no such object; :exc:`InvalidObjectMetaError`
    if what is stored about it cannot be understood; :exc:`ObjectStoreNotFoundError` if the store is
    gone; and what the methods of :class:`JetStream` raise else.

    What changes something is done wholly or not at all: a cancellation that comes when it is being
    settled waits for that, a few answers of the server at most.
    """

    def __init__(self, js: BaseJetStream, stream: Stream) -> None:
        self._backend = ObjectBackend(js, stream)

    @property
    def name(self) -> str:
        """The name of the bucket."""
        return self._backend.bucket

    async def status(self) -> ObjectStoreStatus:
        """How it is configured, and what is in it, as of now."""
        with store_errors(self.name):
            return status_of(await self._backend.stream.refresh())

    async def seal(self) -> ObjectStoreStatus:
        """Let nothing in it be changed ever after. This cannot be undone."""
        with store_errors(self.name):
            info = await self._backend.stream.refresh()
            stream = await self._backend.js.update_stream(info.config, sealed=True)
            return status_of(stream.info)

    # --- whole objects ---------------------------------------------------------------------------

    async def put(self, meta: ObjectMeta | str, source: Source) -> ObjectInfo:
        """Store an object: ``await store.put("film", trio.Path("film.mkv"))``.

        ``meta`` is its name, or an :class:`ObjectMeta` that says more about it. ``source`` is
        bytes-like, a binary file (Trio's, or any other, which is read in a thread), the path of
        one, or an async iterable of bytes. It is read chunk by chunk; some 4 MiB are on their way
        at most. An object of that name is replaced once all of the new one is stored, and its
        chunks are deleted.

        Raises what reading ``source`` raises, and :exc:`JetStreamAPIError` if the store is full or
        sealed. Then, and when it is cancelled, the chunks that were stored are deleted first, which
        may take as long as an answer may (``nc.jetstream(timeout=...)``); the object is what it
        was.
        """
        return await put(self._backend, check_meta(meta), source)

    async def put_file(
        self, path: str | os.PathLike[str], meta: ObjectMeta | str | None = None
    ) -> ObjectInfo:
        """Store a file, under its own name without the directories unless ``meta`` names it.

        Raises :exc:`OSError` if it cannot be read, and what :meth:`put` raises.
        """
        checked = check_path(path)
        if not checked.name:
            raise ConfigurationError(f"path {str(path)!r} has no file name")
        return await self.put(checked.name if meta is None else meta, checked)

    def get(self, name: str) -> ObjectReader:
        """Read an object as it comes: ``async with store.get("film") as reader:``.

        Links to other objects are followed. Nothing is sent by this; see :class:`ObjectReader`.
        """
        return construct(ObjectReader, self._backend, check_object_name(name))

    async def get_bytes(self, name: str, *, max_size: int = DEFAULT_MAX_SIZE) -> bytes:
        """All of an object.

        Raises :exc:`ObjectTooLargeError` if it has more than ``max_size`` bytes, 256 MiB unless
        given, and what an :class:`ObjectReader` raises.
        """
        async with self.get(name) as reader:
            return await reader.read_all(max_size=max_size)

    async def get_file(
        self, name: str, path: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> ObjectInfo:
        """Write an object to a file, and return what is known about it.

        A file that is there already is replaced when all of the object has come, and keeps its mode
        and owner. If this fails or is cancelled, it is what it was.

        :param path: of the file, or of the folder in which the file gets the object's name.
        :param follow_symlinks: write the file that a symbolic link at ``path`` leads to.
        :raises OSError: if it cannot be written, if there is something at ``path`` that is not a
            regular file, or if its owner cannot be kept.
        :raises InvalidObjectNameError: if ``path`` is a folder and the object's name is not just
            the name of a file, such as ``../x``. The client that stored the object chose the name.

        Raises what an :class:`ObjectReader` raises, too.
        """
        check_flag("follow_symlinks", follow_symlinks)
        checked = check_path(path)
        return await write_file(self.get(name), name, checked, follow_symlinks=follow_symlinks)

    # --- what is known about them ----------------------------------------------------------------

    async def info(self, name: str, *, show_deleted: bool = False) -> ObjectInfo:
        """What is known about an object; of a link, about itself.

        With ``show_deleted`` about one that has been deleted, too.
        """
        check_flag("show_deleted", show_deleted)
        info = await self._backend.info(name)
        if info.deleted and not show_deleted:
            raise self._deleted(name)
        return info

    def _deleted(self, name: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(
            f"object store {self.name!r} has no object {name[:80]!r} any more"
        )

    async def list(self, *, show_deleted: bool = False) -> list[ObjectInfo]:
        """What is known about all objects and links, in the order it was stored in.

        With ``show_deleted`` about those that have been deleted, too. What cannot be understood is
        left out.
        """
        check_flag("show_deleted", show_deleted)
        return await list_objects(self._backend, show_deleted=show_deleted)

    def watch(
        self,
        *,
        include_history: bool = False,
        updates_only: bool = False,
        ignore_deletes: bool = False,
    ) -> ObjectWatcher:
        """What is put, changed and deleted: ``async with store.watch() as watcher:``.

        What is there already comes first, but not with ``updates_only``; with ``include_history``
        all that the stream has of it, and without ``ignore_deletes`` what has been deleted. Nothing
        is sent by this; see :class:`ObjectWatcher`.
        """
        check_flag("include_history", include_history)
        check_flag("updates_only", updates_only)
        check_flag("ignore_deletes", ignore_deletes)
        if include_history and updates_only:
            raise ConfigurationError("give include_history or updates_only, not both")
        policy = DeliverPolicy.LAST_PER_SUBJECT
        if updates_only:
            policy = DeliverPolicy.NEW
        elif include_history:
            policy = DeliverPolicy.ALL
        return construct(ObjectWatcher, self._backend, policy, ignore_deletes=ignore_deletes)

    # --- changes ---------------------------------------------------------------------------------

    async def update_meta(self, name: str, meta: ObjectMeta) -> ObjectInfo:
        """Change what is said about an object or a link; ``meta.chunk_size`` is of no account.

        ``meta`` replaces all there was: keep what is to stay. With another name the object is
        renamed; links to it lead nowhere then. Raises :exc:`ObjectExistsError` if there is
        one of that name.
        """
        checked = check_meta(meta)
        info = await self._present(name)
        with trio.CancelScope(shield=True):
            info = await self._change(info, checked)
        return info

    async def _change(self, old: ObjectInfo, meta: ObjectMeta) -> ObjectInfo:
        name = old.name
        while True:
            new = replace(
                old,
                name=meta.name,
                description=meta.description,
                headers=Headers(meta.headers),
                metadata=meta.metadata,
            )
            expected = old.seq if new.name == name else await self._free(new.name)
            try:
                new = await self._backend.store(new, expected)
            except WrongLastSequenceError:
                old = await self._present(name)
            else:
                break
        if new.name != name:
            await self._backend.purge(meta_subject(self.name, name), up_to=old.seq)
        return new

    async def _present(self, name: str) -> ObjectInfo:
        info = await self._backend.info(name, leader=True)
        if info.deleted:
            raise self._deleted(name)
        return info

    async def _free(self, name: str, *, links: bool = False) -> int:
        """What to expect when something is stored under a name; ``links`` may be replaced."""
        before, seq = await self._backend.before(name)
        if seq and (before is None or not (before.deleted or (links and before.link is not None))):
            raise ObjectExistsError(
                f"object store {self.name!r} has an object {name[:80]!r} already"
            )
        return seq

    async def delete(self, name: str) -> None:
        """Delete an object or a link. One that has been deleted already is left alone.

        That it was there stays known: see ``show_deleted``.
        """
        old = await self._backend.info(name, leader=True)
        if old.deleted:
            return
        with trio.CancelScope(shield=True):
            while not old.deleted:
                gone = replace(old, deleted=True, size=0, chunks=0, digest="")
                try:
                    await self._backend.store(gone, old.seq)
                except WrongLastSequenceError:
                    old = await self._backend.info(name, leader=True)
                    continue
                if old.link is None:
                    await self._backend.purge(chunk_subject(self.name, old.nuid))
                return

    # --- links -----------------------------------------------------------------------------------

    async def add_link(self, name: str, target: ObjectInfo) -> ObjectInfo:
        """Have ``name`` lead to another object, of this store or another: ``store.info()`` of it.

        A link of that name is replaced. Raises :exc:`ObjectLinkError` if ``target`` has been
        deleted or is a link itself, and :exc:`ObjectExistsError` if there is an object of
        that name.
        """
        check_object_name(name)
        if not isinstance(target, ObjectInfo):
            raise TypeError(
                f"a link leads to the ObjectInfo of an object, not {type(target).__name__}"
            )
        if target.deleted:
            raise ObjectLinkError(f"object {target.name!r} has been deleted")
        if target.link is not None:
            raise ObjectLinkError(f"{target.name!r} is a link itself; link to what it leads to")
        return await self._link(name, ObjectLink(target.bucket, target.name))

    async def add_bucket_link(self, name: str, store: ObjectStore) -> ObjectInfo:
        """Have ``name`` lead to the whole of an object store.

        A link of that name is replaced. It cannot be got, but :meth:`info` tells where it leads.
        Raises :exc:`ObjectExistsError` if there is an object of that name.
        """
        check_object_name(name)
        if not isinstance(store, ObjectStore):
            raise TypeError(
                f"a link leads to an ObjectStore or an object, not {type(store).__name__}"
            )
        return await self._link(name, ObjectLink(store.name))

    async def _link(self, name: str, link: ObjectLink) -> ObjectInfo:
        info = ObjectInfo(bucket=self.name, name=name, nuid=new_name(), link=link)
        while True:
            expected = await self._free(name, links=True)
            try:
                return await self._backend.store(info, expected)
            except WrongLastSequenceError:
                continue

    def __repr__(self) -> str:
        return f"<ObjectStore {self.name!r}>"
