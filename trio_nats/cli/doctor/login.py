"""Describe the credentials that would be sent, without secrets."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import msgspec
import trio

from ...auth import Answer, AuthLike, prepare_auth
from ...errors import CredentialsError
from ...servers import Server
from .redaction import Redaction
from .report import Login, Source

__all__ = ["read_login"]


class _Nats(msgspec.Struct):
    issuer_account: str = ""


class _Claims(msgspec.Struct):
    sub: str = ""
    iss: str = ""
    name: str = ""
    exp: int = 0
    nats: _Nats = msgspec.field(default_factory=_Nats)


async def read_login(
    server: Server, auth: AuthLike | None, redaction: Redaction, seconds: float
) -> Login:
    """Return the credentials for ``server``, and make ``redaction`` hide their secrets."""
    redaction.add_server(server)
    source: Source = "options" if auth is not None else "url" if server.has_userinfo else "none"
    answer = None
    error = f"they were not ready within {seconds:g} s"
    with trio.move_on_after(seconds):
        try:
            answer = await prepare_auth(auth, server)
        except CredentialsError as raised:
            error = redaction(raised)
    if answer is None:
        return Login(source=source, error=error)
    redaction.add_answer(answer)
    claims = _claims(answer)
    return Login(
        method=answer.method,
        source=source,
        user=redaction(answer.user or answer.nkey or claims.sub),
        account=redaction(claims.nats.issuer_account or claims.iss),
        expires=_moment(claims.exp),
        replayable=answer.replayable,
    )


def _claims(answer: Answer) -> _Claims:
    if answer.jwt is None:
        return _Claims()
    try:
        part = answer.jwt.split(".")[1]
        body = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        return msgspec.json.decode(body, type=_Claims)
    except (IndexError, ValueError, msgspec.DecodeError, RecursionError):
        return _Claims()


def _moment(seconds: int) -> datetime | None:
    """Convert the time of a JWT claim. ``None`` for 0, which means never, and for invalid times."""
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(max(seconds, 0), UTC)
    except (OverflowError, ValueError, OSError):
        return None
