"""Scripted servers that note what was sent, and the callbacks of this room."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from tests.support.jwts import Key
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import Auth, ReconnectPolicy, Server

__all__ = ["HANG_TIMEOUT", "NONCE", "QUICK", "connects_with", "credentials", "drops", "in_turn"]
__all__ += ["refusals", "sessions", "signature"]

QUICK = ReconnectPolicy(wait=0.01, max_wait=0.05, refused_credentials_timeout=0)

NONCE = "PXoWU7zWAMt75FY"


def sessions(**info: Any) -> Script:
    """Let the client in."""

    async def script(peer: Peer) -> None:
        await peer.send_info(nonce=NONCE, **info)
        await peer.accept_connect()
        await peer.serve()

    return script


def refusals(text: str = "Authorization Violation") -> Script:
    """Take CONNECT, and refuse it."""

    async def script(peer: Peer) -> None:
        await peer.send_info(nonce=NONCE, auth_required=True)
        await peer.accept_connect(pong=False)
        await peer.send(f"-ERR '{text}'\r\n".encode())
        await peer.hang_up()

    return script


async def drops(peer: Peer) -> None:
    """Let the client in, and hang up."""
    await peer.send_info(nonce=NONCE)
    await peer.accept_connect()
    await peer.hang_up()


def signature(key: Key) -> str:
    return base64.urlsafe_b64encode(key.sign(NONCE.encode())).decode().rstrip("=")


def credentials(peer: Peer) -> dict[str, Any]:
    """The part of CONNECT that says who is calling."""
    names = ("user", "pass", "auth_token", "jwt", "nkey", "sig")
    return {name: peer.connect[name] for name in names if name in peer.connect}


async def connects_with(server: ScriptedServer, index: int) -> dict[str, Any]:
    """:func:`credentials` of one of the server's connections, once it has CONNECT."""
    peer = await server.peer(index)
    while not peer.connect and not peer.finished.is_set():
        await trio.lowlevel.checkpoint()
    return credentials(peer)


def in_turn(*answers: Auth | Exception | None) -> Callable[[Server], Awaitable[Auth | None]]:
    """A callback that gives one after the other, and the last for ever."""
    remaining = list(answers)

    async def auth(server: Server) -> Auth | None:
        await trio.lowlevel.checkpoint()
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return auth
