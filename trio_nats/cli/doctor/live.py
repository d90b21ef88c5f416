"""Open a real connection with the user's own options, and check what works on it."""

from __future__ import annotations

import ssl
from dataclasses import replace
from urllib.parse import quote

import msgspec
import trio

from ... import open_nats
from ...connection import Connection
from ...errors import (
    ConfigurationError,
    ConnectError,
    CredentialsError,
    NatsError,
    NoRespondersError,
    PermissionsViolationError,
    RequestTimeoutError,
)
from ...options import ReconnectPolicy
from ...servers import Server
from .client import Client
from .redaction import Redaction
from .report import JetStream, Live

__all__ = ["connect"]

_PINGS = 3
_SECONDS = 2.0
_JETSTREAM_INFO = "$JS.API.INFO"


async def connect(server: Server, client: Client, redaction: Redaction) -> Live:
    """Connect as a program with these options would, run some checks, and close the connection."""
    try:
        async with open_nats(
            full_url(server),
            tls=client.tls,
            auth=client.auth,
            name=client.name,
            connect_timeout=client.connect_timeout,
            inbox_prefix=client.inbox_prefix,
            # Warnings are among the findings.
            plaintext_auth="refuse" if client.plaintext_auth == "refuse" else "allow",
            reconnect=ReconnectPolicy(max_attempts=0),
            ignore_discovered=True,
        ) as nc:
            return await _check(nc, client.inbox_prefix, redaction)
    except ConnectError as error:
        failed = error.attempts[-1]
        return Live(
            connected=False,
            phase=failed.phase,
            kind=type(failed.error).__name__,
            text=redaction.about(server, failed.error),
            reason=_reason(failed.error),
            said=redaction(getattr(failed.error, "message", "")),
        )
    except (ConfigurationError, CredentialsError) as error:
        phase = "auth" if isinstance(error, CredentialsError) else "options"
        return Live(
            connected=False,
            phase=phase,
            kind=type(error).__name__,
            text=redaction.about(server, error),
        )


def full_url(server: Server) -> str:
    """Return the URL with its credentials. Pass it to ``open_nats`` only."""
    userinfo = ""
    if server.token is not None:
        userinfo = f"{quote(server.token, safe='')}@"
    elif server.user is not None:
        userinfo = f"{quote(server.user, safe='')}:{quote(server.password or '', safe='')}@"
    return f"{server.scheme}://{userinfo}{server.address}{server.path}"


def _reason(error: BaseException | None) -> str:
    """Return OpenSSL's name for the error, or an empty string."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error.reason or ""
        error = error.__cause__
    return ""


async def _check(nc: Connection, inbox_prefix: str, redaction: Redaction) -> Live:
    tls = nc.tls_info
    live = Live(
        connected=True,
        info=redaction.info(nc.server_info),
        tls_version=tls.version if tls else "",
        cipher=tls.cipher if tls else "",
        verified_name=redaction(tls.verified_name or "") if tls else "",
        certificate_expires=tls.client_certificate_expires if tls else None,
    )
    try:
        trips = [await nc.rtt(timeout=_SECONDS) for _ in range(_PINGS)]
        live = replace(live, round_trips=tuple(trips))
        jetstream, text = await _jetstream(nc, inbox_prefix)
        live = replace(live, jetstream=jetstream, jetstream_text=redaction(text))
    except (NatsError, trio.ClosedResourceError) as error:
        live = replace(live, lost=redaction(error))
    return live


class _Problem(msgspec.Struct):
    description: str = ""


class _AccountInfo(msgspec.Struct):
    error: _Problem | None = None


async def _jetstream(nc: Connection, inbox_prefix: str) -> tuple[JetStream, str]:
    """Request the account's JetStream information, as every JetStream client does first."""
    try:
        reply = await nc.request(_JETSTREAM_INFO, timeout=_SECONDS)
        answer = msgspec.json.decode(reply.data, type=_AccountInfo)
    except NoRespondersError:
        return "off", ""
    except PermissionsViolationError as error:
        if error.operation == "subscription":
            return "forbidden", f"subscribe to {inbox_prefix}.>"
        return "forbidden", f"publish to {error.subject}"
    except RequestTimeoutError as error:
        return "unknown", str(error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "unknown", "the response is not from JetStream"
    return ("on", "") if answer.error is None else ("off", answer.error.description)
