"""Resolve a host name and open a TCP connection (happy eyeballs, RFC 8305)."""

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
"""An address family, and an address as the socket module represents it."""

Peer: TypeAlias = tuple[str, int]
"""The peer's IP address and port."""

_Found: TypeAlias = tuple[AddressFamily, object, object, object, object]

_MAX_NAME_LENGTH = 254
"""Maximum length of a host name in characters, including a trailing dot."""
_ATTEMPT_DELAY = 0.25
"""Seconds after which the next address is tried as well, while an attempt is not answered."""


class DialError(OSError):
    """The server could not be reached.

    :param resolving: whether its host name could not be resolved.
    """

    def __init__(self, text: str, *, resolving: bool = False) -> None:
        super().__init__(text)
        self.resolving = resolving


class AddressHistory:
    """Sorts the addresses of a host name so that those that have failed are tried last.

    With ``randomize``, the others are tried in random order (ADR-11), beginning with the address
    family that the system prefers. Only the addresses of the last look-up are kept.
    """

    def __init__(self, *, randomize: bool) -> None:
        self._randomize = randomize
        self._failed: dict[tuple[str, int], dict[Peer, int]] = {}
        """For each host name, the sequence number of the last failure of each address, or 0."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._failed)

    def in_order(self, server: Server, addresses: Sequence[Address]) -> list[Address]:
        """Return the addresses of the server's host name in the order to try them."""
        before = self._failed.pop((server.host, server.port), {})
        failed = {address[:2]: before.get(address[:2], 0) for _, address in addresses}
        if len(failed) > 1:
            self._failed[server.host, server.port] = failed
        found = _alternating(_shuffled(addresses) if self._randomize else list(addresses))
        return sorted(found, key=lambda address: failed[address[1][:2]])

    def failed(self, server: Server, peer: Peer) -> bool:
        """Record that an address failed. Returns whether there is one that has not."""
        self._count += 1
        failed = self._failed.setdefault((server.host, server.port), {})
        failed[peer] = self._count
        return not all(failed.values())

    def has_others(self, server: Server) -> bool:
        """Return whether the server's host name had several addresses at the last look-up."""
        return len(self._failed.get((server.host, server.port), ())) > 1

    def clear(self) -> None:
        """Forget all failures, because a server is connected."""
        self._failed.clear()


def _shuffled(addresses: Sequence[Address]) -> list[Address]:
    families = list(dict.fromkeys(family for family, _ in addresses))
    mixed = random.sample(addresses, len(addresses))
    return sorted(mixed, key=lambda address: families.index(address[0]))


async def dial(server: Server, history: AddressHistory | None = None) -> trio.SocketStream:
    """Connect to the server's host and port.

    :raises DialError: if no address can be connected to.
    """
    try:
        addresses = await resolve(server.host, server.port)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid host name"
        raise DialError(f"cannot resolve {server.host!r}: {reason}", resolving=True) from error
    if history is None:
        history = AddressHistory(randomize=False)
    return await _connect_to_one(history.in_order(server, addresses))


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of a host in the order that the system prefers.

    Trio's own ``getaddrinfo`` would wait while the program keeps all of Trio's worker threads busy.

    :raises socket.gaierror: if the host has no address.
    :raises UnicodeError: if ``host`` is not a valid host name.
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
    # Trio has no other way to get the program's custom resolver.
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(resolver)
    if resolver is not None:
        return await resolver.getaddrinfo(host, port, 0, SOCK_STREAM)
    return await run_in_thread(socket.getaddrinfo, host, port, 0, SOCK_STREAM)


def _encoded(host: str) -> bytes:
    if len(host) > _MAX_NAME_LENGTH:
        raise UnicodeError("too long for a host name")
    if host.isascii():
        return host.encode()
    # IDNA 2008, as in Trio and browsers. The standard library encodes some names differently.
    import idna

    return idna.encode(host, uts46=True)


def _alternating(addresses: list[Address]) -> list[Address]:
    """Move the first address of the other family to second place (RFC 8305)."""
    for position, address in enumerate(addresses):
        if address[0] != addresses[0][0]:
            return [addresses[0], address, *addresses[1:position], *addresses[position + 1 :]]
    return addresses


async def _connect_to_one(addresses: Sequence[Address]) -> trio.SocketStream:
    """Try addresses in order, without waiting long for each, and return the first connection."""
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
                with trio.move_on_after(_ATTEMPT_DELAY):
                    await failed.wait()
    except BaseException:
        for stream in connected:
            stream.socket.close()
        raise
    if not connected:
        raise DialError(", ".join(dict.fromkeys(failures)))
    for stream in connected[1:]:  # They connected in the same scheduler step.
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
    # Trio's text repeats the address as a Python tuple.
    text = (error.strerror or str(error)).removeprefix(f"Error connecting to {address!r}: ")
    return f"{text} ({shown})"


def peer_address(stream: trio.SocketStream) -> str:
    """Return the peer's IP address, or an empty string if the connection is gone."""
    peer = peer_of(stream)
    return peer[0] if peer is not None else ""


def peer_of(stream: trio.SocketStream) -> Peer | None:
    """Return the peer's IP address and port, or ``None`` if the connection is gone."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:
        return None
    return str(host), int(port)
