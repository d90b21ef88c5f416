"""Objects written to files: what happens to what is there already, and where they may end up."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio

from tests.objectstore.helpers import connected
from trio_nats.objectstore import InvalidObjectNameError
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)

posix = pytest.mark.skipif(os.name != "posix", reason="modes, owners and links of POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o755])
async def test_a_file_keeps_its_mode(nats_server: NatsServer, tmp_path: Path, bits: int) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(bits)
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"new")
        await store.get_file("n", target)
    assert target.read_bytes() == b"new"
    assert mode(target) == bits


@posix
async def test_a_downloaded_file_is_private_from_the_start(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o600)
    modes: set[int] = set()
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"x" * 3_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.get_file, "n", target)
            while target.stat().st_size < 100:
                for name in os.listdir(tmp_path):
                    try:
                        modes.add(mode(tmp_path / name))
                    except FileNotFoundError:
                        pass
                await trio.lowlevel.checkpoint()
    assert modes == {0o600}


@posix
async def test_a_new_file_has_the_usual_mode(nats_server: NatsServer, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"new")
        await store.get_file("n", tmp_path / "target")
    assert mode(tmp_path / "target") == mode(tmp_path / "other")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
async def test_a_file_keeps_its_owner(nats_server: NatsServer, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    os.chown(target, 1234, 4321)
    target.chmod(0o2640)
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"new")
        await store.get_file("n", target)
    status = target.stat()
    assert (status.st_uid, status.st_gid, mode(target)) == (1234, 4321, 0o2640)
    assert target.read_bytes() == b"new"


@posix
async def test_a_link_is_followed_only_if_asked(nats_server: NatsServer, tmp_path: Path) -> None:
    target, link, loop = tmp_path / "target", tmp_path / "link", tmp_path / "loop"
    link.symlink_to("target")
    loop.symlink_to("loop")
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"new")
        for _ in range(2):
            with pytest.raises(FileExistsError, match="follow_symlinks"):
                await store.get_file("n", link)
            target.touch()
        await store.get_file("n", link, follow_symlinks=True)
        with pytest.raises(OSError, match="loop"):
            await store.get_file("n", loop, follow_symlinks=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert set(os.listdir(tmp_path)) == {"target", "link", "loop"}


async def test_a_folder_that_does_not_exist(nats_server: NatsServer, tmp_path: Path) -> None:
    """The error names it, and not a temporary file."""
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"new")
        with pytest.raises(FileNotFoundError, match="the folder must exist") as caught:
            await store.get_file("n", tmp_path / "no" / "n")
    assert caught.value.filename == str(tmp_path / "no")


@posix
@pytest.mark.parametrize("follow", [False, True])
async def test_a_path_that_is_not_a_file_is_not_replaced(
    nats_server: NatsServer, tmp_path: Path, follow: bool
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with connected(nats_server) as (store, _, _):
        await store.put("n", b"new")
        for path in (pipe, Path(os.devnull)):
            with pytest.raises(FileExistsError, match="not a regular file"):
                await store.get_file("n", path, follow_symlinks=follow)
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


ESCAPES = [
    "..",
    ".",
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "..\\x",
    "C:x",
    "C:\\x",
    "x\0",
    "x\n",
    "\x1bx",
]
ESCAPES += ["x\u202etxt", "x/", "./x"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ESCAPES)
async def test_no_name_escapes_the_directory(
    nats_server: NatsServer, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    async with connected(nats_server) as (store, _, _):
        await store.put(name, b"new")
        with pytest.raises(InvalidObjectNameError, match="plain file name"):
            await store.get_file(name, folder)
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(folder) == []


async def test_into_a_folder(nats_server: NatsServer, tmp_path: Path) -> None:
    async with connected(nats_server) as (store, _, _):
        for name in ("film.mkv", "ünï cödé", ".hidden", "..x"):
            await store.put(name, b"new")
            await store.get_file(name, tmp_path)
            assert (tmp_path / name).read_bytes() == b"new"
