"""The version of the server that the tests use, which ``nox -s servers`` changes."""

from __future__ import annotations

import subprocess
from functools import cache

from trio_nats.testing import find_server_binary

__all__ = ["server_version", "version_tuple"]


@cache
def server_version() -> tuple[int, ...]:
    """The version of the binary that :class:`~trio_nats.testing.NatsServer` runs."""
    command = [find_server_binary(), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return version_tuple(said.rpartition("v")[2].strip().partition("-")[0])


def version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
