"""An object store: store, read, list, watch and link objects (ADR-20)."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath, PureWindowsPath

import trio

from .._constructors import NoPublicConstructor, construct
from ..errors import ConfigurationError, RequestTimeoutError
from ..headers import Headers
from ..jetstream.consumer.config import DeliverPolicy
from ..jetstream.consumer.consumer import new_name
from ..jetstream.context_base import BaseJetStream
from ..jetstream.errors import WrongLastSequenceError
from ..jetstream.stream import Stream
from ..options import check_flag, check_instance
from .backend import ObjectBackend, store_errors
from .chunking import ObjectSource
from .config import ObjectStoreStatus, status_of
from .errors import (
    InvalidObjectNameError,
    ObjectExistsError,
    ObjectLinkError,
    ObjectNotFoundError,
)
from .info import ObjectInfo, ObjectLink, ObjectMeta, check_meta
from .names import check_object_name, chunk_subject
from .reader import DEFAULT_MAX_SIZE, ObjectReader
from .upload import put
from .watch import ObjectWatcher, list_objects

__all__ = ["ObjectStore", "check_path", "write_file"]


def check_path(path: str | os.PathLike[str]) -> trio.Path:
    """Return ``path`` as a :class:`trio.Path`."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a str or path-like object, not {type(path).__name__}")
    if not os.fspath(path):
        raise ConfigurationError("path must not be empty")
    return trio.Path(path)


async def write_file(
    reader: ObjectReader, name: str, path: trio.Path, *, follow_symlinks: bool
) -> ObjectInfo:
    """Write an object to a temporary file, and move that to ``path`` once it is verified.

    :param name: name of the object, used as the name of the file if ``path`` is a folder.
    """
    if await path.is_dir():
        path = path / _file_name(name)
    if follow_symlinks:
        path = trio.Path(await trio.to_thread.run_sync(os.path.realpath, path))
    replaced = await _replaced(path)
    if not await path.parent.exists():  # opening the temporary file would name that one
        raise FileNotFoundError(errno.ENOENT, "the folder must exist; make it", str(path.parent))
    part = path.with_name(f".{new_name()}.part")
    # The replaced file may be less accessible than new files in the folder are.
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
    """Return an object's name if it is a plain file name: another client may have chosen it."""
    plain = PurePosixPath(name).name == name == PureWindowsPath(name).name
    if not plain or name == ".." or not name.isprintable() or (os.name == "nt" and ":" in name):
        raise InvalidObjectNameError(
            f"object name {name[:80]!r} is not a plain file name; pass the path of a file instead "
            "of a folder"
        )
    return name


async def _replaced(path: trio.Path) -> os.stat_result | None:
    """Return the status of the file to be replaced; ``None`` if there is none."""
    try:
        found = await path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise FileExistsError(
            errno.EEXIST,
            "it is a symbolic link; pass follow_symlinks=True to write to its target",
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
                error.errno,
                "it belongs to another user; delete it, or choose another path",
                str(path),
            ) from None
    # chown clears some mode bits, so chmod comes second.
    os.chmod(part, stat.S_IMODE(replaced.st_mode))


class ObjectStore(
    metaclass=NoPublicConstructor, use="js.object_store() or js.create_object_store()"
):
    """An object store, returned by :meth:`JetStream.object_store` and its siblings (ADR-20).

    It holds no resources and need not be closed. Any number of tasks may use it.

    All methods raise :exc:`InvalidObjectNameError` if a name is invalid,
    :exc:`InvalidObjectMetaError` if the stored metadata of the object is invalid,
    :exc:`ObjectStoreNotFoundError` if the store was deleted, and what the methods of
    :class:`JetStream` raise.

    Changes are made completely or not at all. To that end a method that is cancelled in the middle
    of a change waits for a few more answers from the server.
    """

    def __init__(self, js: BaseJetStream, stream: Stream) -> None:
        self._backend = ObjectBackend(js, stream)

    @property
    def name(self) -> str:
        """Name of the store."""
        return self._backend.bucket

    async def status(self) -> ObjectStoreStatus:
        """Request the configuration and state of the store.

        If cancelled, nothing has changed.

        :returns: the current status.
        """
        with store_errors(self.name):
            return status_of(await self._backend.stream.refresh())

    async def seal(self) -> ObjectStoreStatus:
        """Make the store read-only for good. If cancelled, it may have been sealed or not.

        :returns: the new status.
        """
        with store_errors(self.name):
            await self._backend.stream.seal()
            return status_of(self._backend.stream.info)

    # --- whole objects ---------------------------------------------------------------------------

    async def put(self, meta: ObjectMeta | str, source: ObjectSource) -> ObjectInfo:
        """Store an object: ``await store.put("film", trio.Path("film.mkv"))``.

        The source is read chunk by chunk, with at most about 4 MiB sent and not yet acknowledged.
        An existing object with this name is replaced when the new one is stored completely.

        It also raises what reading ``source`` raises. If cancelled or on an error, the uploaded
        chunks are deleted first, and an existing object stays as it was. The deletion takes at most
        the timeout of the :class:`JetStream` object; if there is no connection for so long, the
        server is asked for it after the reconnect.

        :param meta: the name of the object, or more metadata.
        :param source: bytes-like, a binary file, the path of one, or an async iterable of bytes. A
            file that is not Trio's is read in a worker thread. Open files stay open; an async
            generator is closed.
        :returns: the metadata of the stored object.
        :raises ConfigurationError: if ``chunk_size`` exceeds the server's ``max_payload``.
        :raises JetStreamAPIError: if the server refuses a chunk, such as when the store is full or
            sealed.
        """
        return await put(self._backend, check_meta(meta), source)

    async def put_file(
        self, path: str | os.PathLike[str], meta: ObjectMeta | str | None = None
    ) -> ObjectInfo:
        """Store a file. It also raises what :meth:`put` raises.

        If cancelled or on an error, the store is as it was, as for :meth:`put`.

        :param path: path of the file.
        :param meta: the name of the object, or more metadata. Default: the name of the file,
            without its folder.
        :returns: the metadata of the stored object.
        :raises OSError: if the file cannot be read.
        :raises ConfigurationError: if ``path`` has no file name.
        """
        checked = check_path(path)
        if not checked.name:
            raise ConfigurationError(f"path must end with a file name, not be {str(path)!r}")
        return await self.put(checked.name if meta is None else meta, checked)

    def get(self, name: str) -> ObjectReader:
        """Read an object chunk by chunk: ``async with store.get("film") as reader:``.

        Links to other objects are followed. Reading starts when you enter the ``async with`` block.

        :param name: name of the object.
        :returns: the reader, to be entered with ``async with``.
        :raises InvalidObjectNameError: if the name is invalid.
        """
        return construct(ObjectReader, self._backend, check_object_name(name))

    async def get_bytes(self, name: str, *, max_size: int = DEFAULT_MAX_SIZE) -> bytes:
        """Read a whole object into memory. If cancelled, nothing has changed.

        It also raises what entering and receiving from an :class:`ObjectReader` raise.

        :param name: name of the object.
        :param max_size: maximum size of the object in bytes. Default: 256 MiB.
        :returns: the bytes of the object.
        :raises ObjectTooLargeError: at once, if the object is larger than ``max_size``.
        """
        async with self.get(name) as reader:
            return await reader.read_all(max_size=max_size)

    async def get_file(
        self, name: str, path: str | os.PathLike[str], *, follow_symlinks: bool = False
    ) -> ObjectInfo:
        """Write an object to a file.

        An existing file is replaced when the object has been received completely and verified; it
        keeps its mode and owner. If cancelled or on an error, it stays as it was. It also raises
        what entering and receiving from an :class:`ObjectReader` raise.

        :param name: name of the object.
        :param path: path of the file, or of a folder; then the file has the name of the object.
        :param follow_symlinks: if ``path`` is a symbolic link, write to its target. Default: no.
        :returns: the metadata of the object.
        :raises OSError: if the file cannot be written, if ``path`` exists and is not a regular
            file, or if the owner of the file cannot be kept.
        :raises InvalidObjectNameError: if ``path`` is a folder and the name of the object is not a
            plain file name, such as ``../x``.
        """
        check_flag("follow_symlinks", follow_symlinks)
        checked = check_path(path)
        return await write_file(self.get(name), name, checked, follow_symlinks=follow_symlinks)

    # --- metadata --------------------------------------------------------------------------------

    async def info(self, name: str, *, show_deleted: bool = False) -> ObjectInfo:
        """Read the metadata of an object or link. If cancelled, nothing has changed.

        :param name: name of the object.
        :param show_deleted: return the metadata of a deleted object, too. Default: no.
        :returns: the metadata; for a link that of the link itself.
        :raises ObjectNotFoundError: if the store has no object with this name.
        """
        check_flag("show_deleted", show_deleted)
        info = await self._backend.info(name)
        if info.deleted and not show_deleted:
            raise self._deleted(name)
        return info

    def _deleted(self, name: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(
            f"object {name[:80]!r} in object store {self.name!r} was deleted"
        )

    async def list(self, *, show_deleted: bool = False) -> list[ObjectInfo]:
        """Read the metadata of all objects and links. If cancelled, nothing has changed.

        An object that exists during the whole call is always included, even if others replace it.
        Objects with invalid metadata are left out and logged.

        :param show_deleted: include deleted objects. Default: no.
        :returns: the metadata, in the order in which it was stored.
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
        """Watch the objects of the store: ``async with store.watch() as watcher:``.

        The watcher delivers the metadata of each object first, then every change. Watching starts
        when you enter the ``async with`` block. ``include_history`` and ``updates_only`` cannot be
        combined.

        :param include_history: start with all metadata that the stream keeps. Default: no.
        :param updates_only: deliver only changes made from now on. Default: no.
        :param ignore_deletes: leave out deleted objects. Default: no.
        :returns: the watcher, to be entered with ``async with``.
        :raises ConfigurationError: if the options cannot be combined.
        """
        check_flag("include_history", include_history)
        check_flag("updates_only", updates_only)
        check_flag("ignore_deletes", ignore_deletes)
        if include_history and updates_only:
            raise ConfigurationError(
                "include_history and updates_only cannot be combined; give one"
            )
        policy = DeliverPolicy.LAST_PER_SUBJECT
        if updates_only:
            policy = DeliverPolicy.NEW
        elif include_history:
            policy = DeliverPolicy.ALL
        return construct(ObjectWatcher, self._backend, policy, ignore_deletes=ignore_deletes)

    # --- changes ---------------------------------------------------------------------------------

    async def update_meta(self, name: str, meta: ObjectMeta) -> ObjectInfo:
        """Replace the name, description, headers and metadata of an object or link.

        If cancelled, the metadata was replaced completely or not at all. After an error, an object
        that was to be renamed may have both names: call it again, and do not delete either.

        :param name: name of the object.
        :param meta: the new metadata, which replaces all of the old; ``chunk_size`` is ignored. A
            new name renames the object; links to the old name are not updated.
        :returns: the stored metadata.
        :raises ObjectNotFoundError: if the store has no object with this name.
        :raises ObjectExistsError: if the store has an object with the new name.
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
            expected = old.seq if new.name == name else await self._free(new.name, nuid=old.nuid)
            try:
                new = await self._backend.store(new, expected)
            except WrongLastSequenceError:
                old = await self._present(name)
            else:
                break
        if new.name != name:
            await self._backend.purge(self._backend.meta_subject(name), up_to=old.seq)
        return new

    async def _present(self, name: str) -> ObjectInfo:
        info = await self._backend.info(name, leader=True)
        if info.deleted:
            raise self._deleted(name)
        return info

    async def _free(self, name: str, *, links: bool = False, nuid: str = "") -> int:
        """Return the sequence number to expect when storing under a name that must be free.

        :param links: allow replacing a link.
        :param nuid: allow replacing the object with this NUID, whose renaming was interrupted.
        """
        before, seq = await self._backend.before(name)
        if not seq or (before is not None and before.deleted):
            return seq
        is_link = before is not None and before.link is not None
        if (links and is_link) or (nuid and before is not None and before.nuid == nuid):
            return seq
        raise ObjectExistsError(
            f"object {name[:80]!r} already exists in object store {self.name!r}"
        )

    async def delete(self, name: str) -> None:
        """Delete an object or link, unless it was deleted before.

        The metadata is kept as that of a deleted object; see ``show_deleted`` of :meth:`info`. If
        cancelled, the object was deleted completely or not at all. After an error, call it again:
        that also deletes what is left of an object that was deleted incompletely.

        :param name: name of the object.
        :raises ObjectNotFoundError: if the store never had an object with this name.
        """
        old = await self._backend.info(name, leader=True)
        with trio.CancelScope(shield=True):
            while not old.deleted:
                gone = replace(old, deleted=True, size=0, chunks=0, digest="")
                try:
                    await self._backend.store(gone, old.seq)
                except WrongLastSequenceError:
                    old = await self._backend.info(name, leader=True)
                except RequestTimeoutError:
                    # It may have been stored, and only the acknowledgement lost.
                    old = await self._backend.info(name, leader=True)
                    if not old.deleted:
                        raise
                else:
                    break
            # An earlier call may have ended before this.
            if old.link is None and old.nuid:
                await self._backend.purge(chunk_subject(self.name, old.nuid))

    # --- links -----------------------------------------------------------------------------------

    async def add_link(self, name: str, target: ObjectInfo) -> ObjectInfo:
        """Create or replace a link to an object. If cancelled, it may have been stored or not.

        :param name: name of the link.
        :param target: metadata of the object, as :meth:`info` returns it; the object may be in
            another store.
        :returns: the metadata of the link.
        :raises ObjectLinkError: if the target was deleted or is a link.
        :raises ObjectExistsError: if the store has an object with this name.
        """
        check_object_name(name)
        check_instance("target", target, ObjectInfo, "the ObjectInfo of an object")
        if target.deleted:
            raise ObjectLinkError(f"target {target.name!r} was deleted")
        if target.link is not None:
            raise ObjectLinkError(f"target {target.name!r} is a link itself; link to its target")
        return await self._link(name, ObjectLink(target.bucket, target.name))

    async def add_bucket_link(self, name: str, store: ObjectStore) -> ObjectInfo:
        """Create or replace a link to a whole object store.

        You cannot get such a link; :meth:`info` returns its target. If cancelled, the link may have
        been stored or not.

        :param name: name of the link.
        :param store: the object store.
        :returns: the metadata of the link.
        :raises ObjectExistsError: if the store has an object with this name.
        """
        check_object_name(name)
        check_instance("store", store, ObjectStore)
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
