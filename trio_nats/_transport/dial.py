"""Opening a TCP connection (happy eyeballs), with errors that say what went wrong."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from socket import SOCK_STREAM, AddressFamily
from typing import TypeAlias, cast

import trio

from .._blocking import run_in_thread
from .._nursery import open_nursery
from ..servers import Server

__all__ = ["Address", "AddressHistory", "DialError", "Peer", "dial", "peer_address"]
__all__ += ["peer_of", "resolve"]

Address: TypeAlias = tuple[AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""A family, and what the socket module calls an address of it."""

Peer: TypeAlias = tuple[str, int]
"""The IP address and port at the other end."""

_Found: TypeAlias = tuple[AddressFamily, object, object, object, object]

_LONGEST_NAME = 254
"""Characters of a host name, the dot that may end it included."""
_HEAD_START = 0.25
"""Seconds that an address has before the next one is tried as well (RFC 8305)."""


class DialError(OSError):
    """The server could not be reached; ``resolving`` if already its name could not be resolved."""

    def __init__(self, text: str, *, resolving: bool = False) -> None:
        super().__init__(text)
        self.resolving = resolving


class AddressHistory:
    """The order in which to try the addresses of a name: those that failed last.

    Those that did not are tried in random order if wanted (ADR-11), the family first that the
    system prefers. Holds only what the names' addresses were at the last look-up.
    """

    def __init__(self, *, randomize: bool) -> None:
        self._randomize = randomize
        self._failed: dict[tuple[str, int], dict[Peer, int]] = {}
        """By name: when each address failed, in failures so far, or 0."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._failed)

    def in_order(self, server: Server, addresses: Sequence[Address]) -> list[Address]:
        """The addresses that the server's name turned out to have, in the order to try them."""
        before = self._failed.pop((server.host, server.port), {})
        failed = {address[:2]: before.get(address[:2], 0) for _, address in addresses}
        if len(failed) > 1:
            self._failed[server.host, server.port] = failed
        found = _alternating(_shuffled(addresses) if self._randomize else list(addresses))
        return sorted(found, key=lambda address: failed[address[1][:2]])

    def failed(self, server: Server, peer: Peer) -> bool:
        """An address was connected to in vain, or was lost. Whether another one did not."""
        self._count += 1
        failed = self._failed.setdefault((server.host, server.port), {})
        failed[peer] = self._count
        return not all(failed.values())

    def has_others(self, server: Server) -> bool:
        """Whether the server's name had several addresses at the last look-up."""
        return len(self._failed.get((server.host, server.port), ())) > 1

    def forgive(self) -> None:
        """Forget all failures: there is a connection."""
        self._failed.clear()


def _shuffled(addresses: Sequence[Address]) -> list[Address]:
    families = list(dict.fromkeys(family for family, _ in addresses))
    mixed = random.sample(addresses, len(addresses))
    return sorted(mixed, key=lambda address: families.index(address[0]))


async def dial(server: Server, history: AddressHistory | None = None) -> trio.SocketStream:
    """Connect to the server's host and port. Raises :exc:`DialError`."""
    try:
        addresses = await resolve(server.host, server.port)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid host name"
        raise DialError(f"cannot resolve {server.host!r}: {reason}", resolving=True) from error
    if history is None:
        history = AddressHistory(randomize=False)
    return await _connect_to_one(history.in_order(server, addresses))


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a host, in the order that the system prefers.

    Trio's own ``getaddrinfo`` would wait until the program leaves it one of its worker threads.

    :raises socket.gaierror: if there are none.
    :raises UnicodeError: for what can be no host name.
    """
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    await trio.lowlevel.checkpoint()
    found: Sequence[_Found]
    try:
        found = socket.getaddrinfo(host, port, type=SOCK_STREAM, flags=numeric)
    except socket.gaierror as error:
        if error.errno != socket.EAI_NONAME:
            raise
        found = await _look_up(_encoded(host), port)
    entries = [(family, address) for family, _, _, _, address in found]
    return cast("list[Address]", list(dict.fromkeys(entries)))


async def _look_up(host: bytes, port: int) -> Sequence[_Found]:
    # There is no other way to ask whether the program has Trio resolve names differently.
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(resolver)
    if resolver is not None:
        return await resolver.getaddrinfo(host, port, 0, SOCK_STREAM)
    return await run_in_thread(socket.getaddrinfo, host, port, 0, SOCK_STREAM)


def _encoded(host: str) -> bytes:
    if len(host) > _LONGEST_NAME:
        raise UnicodeError("too long for a host name")
    if host.isascii():
        return host.encode()
    # IDNA 2008, as Trio and browsers do: the standard library would find other hosts.
    import idna

    return idna.encode(host, uts46=True)


def _alternating(addresses: list[Address]) -> list[Address]:
    """The first address of the other family second (RFC 8305), should all of the first be dead."""
    for position, address in enumerate(addresses):
        if address[0] != addresses[0][0]:
            return [addresses[0], address, *addresses[1:position], *addresses[position + 1 :]]
    return addresses


async def _connect_to_one(addresses: Sequence[Address]) -> trio.SocketStream:
    """Connect to the address that answers first, each with a head start before the next."""
    connected: list[trio.SocketStream] = []
    failures: list[str] = []

    async def connect(family: AddressFamily, address: object, failed: trio.Event) -> None:
        try:
            stream = await _connect(family, address)
        except OSError as error:
            failures.append(_reason(error, address))
            failed.set()
        else:
            connected.append(stream)
            nursery.cancel_scope.cancel()

    try:
        async with open_nursery() as nursery:
            for family, address in addresses:
                failed = trio.Event()
                nursery.start_soon(connect, family, address, failed)
                with trio.move_on_after(_HEAD_START):
                    await failed.wait()
    except BaseException:
        for stream in connected:
            stream.socket.close()
        raise
    if not connected:
        raise DialError(", ".join(dict.fromkeys(failures)))
    for stream in connected[1:]:  # They answered at the same moment.
        stream.socket.close()
    return connected[0]


async def _connect(family: AddressFamily, address: object) -> trio.SocketStream:
    sock = trio.socket.socket(family, SOCK_STREAM)
    try:
        await sock.connect(address)
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def _reason(error: OSError, address: object) -> str:
    host, port = cast("tuple[str, int]", address)[:2]
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Trio's own text repeats the address in Python's spelling.
    text = (error.strerror or str(error)).removeprefix(f"Error connecting to {address!r}: ")
    return f"{text} ({shown})"


def peer_address(stream: trio.SocketStream) -> str:
    """The IP address at the other end."""
    peer = peer_of(stream)
    return peer[0] if peer is not None else ""


def peer_of(stream: trio.SocketStream) -> Peer | None:
    """IP address and port at the other end, or ``None`` if it is gone."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return None
    return str(host), int(port)
