"""Which TLS has to happen, decided from what the user said, before anything is dialled.

A pure function of four values; the table in ``docs/security.md`` is this function written out.
"""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import Sequence

from ..errors import ConfigurationError, TLSConfigurationError, TLSRequiredError
from ..options import TLSMode, TLSOptions
from ..server_info import ServerInfo
from ..servers import Scheme, Server, over_tls

__all__ = ["TLSPlan", "check_server", "check_servers", "demand", "effective_mode", "plan_tls"]
__all__ += ["upgrades"]


class TLSPlan(enum.Enum):
    """What an attempt to connect does about TLS."""

    NEVER = "never"
    """Read INFO in plaintext; fail if it insists on TLS."""
    IF_OFFERED = "if offered"
    """Read INFO in plaintext; then handshake if it offers TLS."""
    AT_ONCE = "at once"
    """Handshake at once, tolerating one plaintext INFO line ahead of it."""
    FIRST = "first"
    """Handshake at once; a plaintext byte ahead of it is an error."""
    BY_SCHEME = "by scheme"
    """A WebSocket: ``wss`` means TLS below HTTP, ``ws`` means none, and INFO has no say."""

    @property
    def promises_tls(self) -> bool:
        """Whether nothing may ever be sent in plaintext."""
        return self in (TLSPlan.AT_ONCE, TLSPlan.FIRST)


def effective_mode(scheme: Scheme, mode: TLSMode, has_material: bool, sticky: bool) -> TLSMode:
    """The mode after AUTO, floors and stickiness: never AUTO itself.

    ``sticky`` says that this connection was encrypted before, and so must stay.
    """
    secure_scheme = scheme in ("tls", "wss")
    if mode is TLSMode.AUTO:
        wants_tls = secure_scheme or has_material
        mode = TLSMode.REQUIRE if wants_tls else TLSMode.PREFER
    if mode is TLSMode.PREFER and (secure_scheme or sticky):
        return TLSMode.REQUIRE
    return mode


def demand(scheme: Scheme, mode: TLSMode, has_material: bool, sticky: bool) -> str:
    """Where a demand for TLS comes from, in brackets, for error texts."""
    effective = effective_mode(scheme, mode, has_material, sticky)
    if mode is effective:
        return f"(mode {mode})"
    if scheme in ("tls", "wss"):
        why = f"with a {scheme}:// URL"
    elif has_material and mode is TLSMode.AUTO:
        why = "when certificates or other TLS options are given"
    else:
        why = "once the connection was encrypted"
    return f"(mode {effective}, which {mode} becomes {why})"


def plan_tls(
    scheme: Scheme, mode: TLSMode, *, has_material: bool = False, sticky: bool = False
) -> TLSPlan:
    """Decide about TLS. Raises :exc:`TLSConfigurationError` for a contradiction."""
    secure_scheme = scheme in ("tls", "wss")
    if mode is TLSMode.DISABLE and secure_scheme:
        plain = "nats" if scheme == "tls" else "ws"
        raise TLSConfigurationError(
            f"a {scheme}:// URL asks for TLS, but the TLS mode is DISABLE; "
            f"use {plain}:// if plaintext is meant, or another mode"
        )
    effective = effective_mode(scheme, mode, has_material, sticky)
    if scheme == "ws" and effective in (TLSMode.REQUIRE, TLSMode.IMPLICIT):
        if mode is effective:
            why = f"TLS mode {mode} asks for TLS"
        elif sticky:
            why = "the connection was encrypted before, and so stays"
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
    """``servers`` as they are to be used: where one asks for TLS by its scheme, all do.

    Unless there is a mode in words. Complains about those that these options cannot be used with.
    """
    secure = next((server for server in servers if server.scheme in ("tls", "wss")), None)
    if secure is not None and tls.mode is TLSMode.AUTO:
        for server in servers:
            if server.scheme == "ws":
                raise TLSConfigurationError(
                    f"{server} is plaintext, but {secure} in the same list asks for TLS; use "
                    "wss:// for all, or give TLS mode PREFER if plaintext is acceptable"
                )
        servers = tuple(dict.fromkeys(map(over_tls, servers)))
    for server in servers:
        check_server(server, tls)
    return tuple(servers)


def check_server(server: Server, tls: TLSOptions) -> None:
    """Complain about an address that these options cannot be used with."""
    plan_tls(server.scheme, tls.mode, has_material=tls.has_material)
    if server.is_websocket and importlib.util.find_spec("wsproto") is None:
        raise ConfigurationError(
            f"{server}: WebSocket connections need the 'ws' extra: pip install 'trio-nats[ws]'"
        )


def upgrades(plan: TLSPlan, info: ServerInfo, server: object) -> bool:
    """After a plaintext INFO under NEVER or IF_OFFERED: is it time for a TLS handshake?

    Raises :exc:`TLSRequiredError` when the server insists on what the plan forbids.
    """
    if plan is TLSPlan.IF_OFFERED:
        return info.offers_tls
    if info.tls_required:
        raise TLSRequiredError(
            f"{server} requires TLS, but the TLS mode is DISABLE; nothing was sent. "
            "Use AUTO, PREFER or REQUIRE"
        )
    return False
