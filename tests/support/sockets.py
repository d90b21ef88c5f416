"""Sockets that behave as on another machine or network, for the current run of Trio."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import trio

__all__ = ["change_sockets", "from_afar"]


class _Sockets(trio.abc.SocketFactory):
    def __init__(self, change: Callable[[Any], object]) -> None:
        self._change = change

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> Any:
        made = trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        self._change(made)
        return made


def change_sockets(change: Callable[[Any], object]) -> None:
    """Pass every socket that this run of Trio makes to ``change``, which may replace methods."""
    trio.socket.set_custom_socket_factory(_Sockets(change))


def from_afar() -> None:
    """Make servers look as if they were on another machine, which tests may not talk to."""

    def change(made: Any) -> None:
        made.getpeername = lambda: ("192.0.2.1", 4222)

    change_sockets(change)
