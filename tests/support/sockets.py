"""Sockets that behave as on another machine or network, for the current run of Trio."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import trio

__all__ = ["change_sockets", "from_afar", "reach"]


class _Sockets(trio.abc.SocketFactory):
    def __init__(self, make: Callable[[int, int, int], Any]) -> None:
        self._make = make

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> Any:
        return self._make(family, type, proto)


def change_sockets(change: Callable[[Any], object]) -> None:
    """Pass every socket that this run of Trio makes to ``change``, which may replace methods."""

    def make(*args: int) -> Any:
        made = trio.socket.from_stdlib_socket(socket.socket(*args))
        change(made)
        return made

    trio.socket.set_custom_socket_factory(_Sockets(make))


def reach(stream: trio.SocketStream) -> None:
    """Connect to the other end of ``stream``, whatever the address is."""

    async def connect(_: object) -> None:
        await trio.lowlevel.checkpoint()

    made: Any = stream.socket
    made.connect = connect
    made.getpeername = lambda: ("127.0.0.1", 4222)
    trio.socket.set_custom_socket_factory(_Sockets(lambda *_: made))


def from_afar() -> None:
    """Make servers look as if they were on another machine, which tests may not talk to."""

    def change(made: Any) -> None:
        made.getpeername = lambda: ("192.0.2.1", 4222)

    change_sockets(change)
