"""The ports of a server, and what to do if another process takes one first."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Mapping, Sequence
from itertools import chain

from .errors import ServerStartError
from .settings import ServerSettings

__all__ = ["assign_ports", "fixed_ports", "free_port", "taken_ports"]

_TAKEN = re.compile(
    r"listen tcp \S*:(\d+): bind: (?:address already in use|Only one usage of each socket address)"
)

# Below the ephemeral ports (from 32768 on Linux, 49152 elsewhere). While a server is down, the
# system may use an ephemeral port as the local end of any connection, even of the one that tries to
# reach the server, which is then connected to itself.
_PORTS = range(12_000, 32_000)


def free_port(host: str, ports: Sequence[int] = _PORTS) -> int:
    """Return a free port on ``host``. Another process may take it before it is used.

    :raises ServerStartError: if ``host`` is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    refused: OSError | None = None
    # Random, so that concurrent test processes rarely choose the same port. SystemRandom, because
    # test suites often seed the random module.
    chance = random.SystemRandom()
    for port in chain((chance.choice(ports) for _ in range(100)), (0,)):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            try:
                sock.bind((host, port))
            except OSError as exc:
                refused = exc
                continue
            bound: int = sock.getsockname()[1]
            return bound
    raise ServerStartError(f"cannot listen on {host}: {refused}", "") from refused


def fixed_ports(settings: ServerSettings) -> dict[str, int | None]:
    """Return every listener of a server, with its port if the settings fix one."""
    ports = {"client": settings.port, "monitor": None}
    if settings.websocket is not None:
        ports["websocket"] = settings.websocket.port
    if settings.cluster is not None:
        ports["cluster"] = settings.cluster.port
    return ports


def assign_ports(settings: ServerSettings, known: Mapping[str, int]) -> dict[str, int]:
    """Return a port for every listener: that of the settings, else the known one, else a free one.

    :raises ServerStartError: if the host of the settings is not an address of this machine.
    """
    return {
        what: fixed or known.get(what) or free_port(settings.host)
        for what, fixed in fixed_ports(settings).items()
    }


def taken_ports(log: str) -> set[int]:
    """Return the ports that the server could not listen on, according to its log."""
    return {int(port) for port in _TAKEN.findall(log)}
