"""Decide from the options, before dialling, whether and how to use TLS.

The decision is a pure function of four values. ``docs/security.md`` has a table of its results.
"""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import Sequence

from ..errors import ConfigurationError, TLSConfigurationError, TLSRequiredError
from ..options import TLSMode, TLSOptions
from ..server_info import ServerInfo
from ..servers import Scheme, Server, over_tls

__all__ = ["TLSPlan", "check_server", "check_servers", "effective_mode", "plan_tls"]
__all__ += ["should_upgrade_to_tls", "tls_requirement_reason"]


class TLSPlan(enum.Enum):
    """Whether and when an attempt to connect starts TLS."""

    NEVER = "never"
    """Read INFO in plaintext; fail if it requires TLS."""
    IF_OFFERED = "if offered"
    """Read INFO in plaintext; then handshake if it offers TLS."""
    AT_ONCE = "at once"
    """Handshake immediately; one INFO line in plaintext may precede it."""
    FIRST = "first"
    """Handshake immediately; any plaintext ahead of it is an error."""
    BY_SCHEME = "by scheme"
    """WebSocket: use TLS for ``wss`` and none for ``ws``, whatever INFO says."""

    @property
    def promises_tls(self) -> bool:
        """Whether nothing may be sent in plaintext."""
        return self in (TLSPlan.AT_ONCE, TLSPlan.FIRST)


def effective_mode(scheme: Scheme, mode: TLSMode, has_material: bool, sticky: bool) -> TLSMode:
    """Return the mode in effect, which is never AUTO.

    :param sticky: whether the connection was encrypted before and must stay encrypted.
    """
    secure_scheme = scheme in ("tls", "wss")
    if mode is TLSMode.AUTO:
        wants_tls = secure_scheme or has_material
        mode = TLSMode.REQUIRE if wants_tls else TLSMode.PREFER
    if mode is TLSMode.PREFER and (secure_scheme or sticky):
        return TLSMode.REQUIRE
    return mode


def tls_requirement_reason(scheme: Scheme, mode: TLSMode, has_material: bool, sticky: bool) -> str:
    """Return why TLS is required, in brackets, for error texts."""
    effective = effective_mode(scheme, mode, has_material, sticky)
    if mode is effective:
        return f"(mode {mode})"
    if scheme in ("tls", "wss"):
        why = f"with a {scheme}:// URL"
    elif has_material and mode is TLSMode.AUTO:
        why = "when certificates or other TLS options are given"
    else:
        why = "after the connection has been encrypted"
    return f"(mode {effective}, which {mode} becomes {why})"


def plan_tls(
    scheme: Scheme, mode: TLSMode, *, has_material: bool = False, sticky: bool = False
) -> TLSPlan:
    """Decide whether and when to start TLS.

    :raises TLSConfigurationError: if the options contradict each other.
    """
    secure_scheme = scheme in ("tls", "wss")
    if mode is TLSMode.DISABLE and secure_scheme:
        plain = "nats" if scheme == "tls" else "ws"
        raise TLSConfigurationError(
            f"a {scheme}:// URL asks for TLS, but the TLS mode is DISABLE; "
            f"use {plain}:// if plaintext is acceptable, or another mode"
        )
    effective = effective_mode(scheme, mode, has_material, sticky)
    if scheme == "ws" and effective in (TLSMode.REQUIRE, TLSMode.IMPLICIT):
        if mode is effective:
            why = f"TLS mode {mode} asks for TLS"
        elif sticky:
            why = "the connection was encrypted before and must stay encrypted"
        else:
            why = "certificates or other TLS options ask for TLS"
        raise TLSConfigurationError(
            f"a ws:// URL is plaintext, but {why}; use wss:// (its default port is 443, not 80)"
        )
    if scheme in ("ws", "wss"):
        return TLSPlan.BY_SCHEME
    return {
        TLSMode.DISABLE: TLSPlan.NEVER,
        TLSMode.PREFER: TLSPlan.IF_OFFERED,
        TLSMode.REQUIRE: TLSPlan.AT_ONCE,
        TLSMode.IMPLICIT: TLSPlan.FIRST,
    }[effective]


def check_servers(servers: Sequence[Server], tls: TLSOptions) -> tuple[Server, ...]:
    """Return the servers to use. With mode AUTO, one ``tls://`` URL makes all servers use TLS.

    :raises ConfigurationError: if the options do not allow one of the servers.
    """
    secure = next((server for server in servers if server.scheme in ("tls", "wss")), None)
    if secure is not None and tls.mode is TLSMode.AUTO:
        for server in servers:
            if server.scheme == "ws":
                raise TLSConfigurationError(
                    f"{server} is plaintext, but {secure} in the same list asks for TLS; use "
                    "wss:// for all, or pass TLS mode PREFER if plaintext is acceptable"
                )
        servers = tuple(dict.fromkeys(map(over_tls, servers)))
    for server in servers:
        check_server(server, tls)
    return tuple(servers)


def check_server(server: Server, tls: TLSOptions) -> None:
    """Raise :exc:`ConfigurationError` if the options do not allow a server's URL."""
    plan_tls(server.scheme, tls.mode, has_material=tls.has_material)
    if server.is_websocket and importlib.util.find_spec("wsproto") is None:
        raise ConfigurationError(
            f"{server}: WebSocket connections need the 'ws' extra: pip install 'trio-nats[ws]'"
        )


def should_upgrade_to_tls(plan: TLSPlan, info: ServerInfo, server: object) -> bool:
    """Return whether to start a handshake after INFO has arrived in plaintext.

    :param plan: NEVER or IF_OFFERED.
    :raises TLSRequiredError: if the server requires TLS and the plan is NEVER.
    """
    if plan is TLSPlan.IF_OFFERED:
        return info.offers_tls
    if info.tls_required:
        raise TLSRequiredError(
            f"{server} requires TLS, but the TLS mode is DISABLE; nothing was sent. "
            "Use AUTO, PREFER or REQUIRE"
        )
    return False
