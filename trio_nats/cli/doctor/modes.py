"""What each TLS mode comes to, in half a line."""

from __future__ import annotations

import ssl

from ...options import TLSMode
from .report import Report, Trial

__all__ = ["OLD_TLS", "reason", "summary", "version_is_too_old"]

OLD_TLS = ("SSLv3", "TLSv1", "TLSv1.1")
"""Versions that are broken."""


def summary(trial: Trial, report: Report) -> str:
    """Why ``trial`` went as it did, without a full stop; empty if there is nothing to say."""
    parts: list[str] = []
    if trial.acts_as is not trial.mode and not report.asked.is_websocket:
        parts.append(f"as {trial.acts_as}")
    if trial.outcome in ("fails", "unknown"):
        parts.append(reason(trial, report))
    elif trial.kind == "ConfigurationError":
        parts.append(trial.text.removesuffix("."))
    elif trial.outcome == "refused":
        parts.append(f"a {report.asked.scheme}:// URL does not go with it; nothing is dialled")
    return ": ".join(parts)


_WORDS = {
    "TLSNotOfferedError": "the server offers no TLS",
    "TLSRequiredError": "the server insists on TLS",
    "TLSCertificateError": "the server's certificate is not accepted",
    "ClientCertificateError": "the server wants a client certificate that it accepts",
    "TLSInjectionError": "something speaks where only encrypted bytes may be",
    "TLSConfigurationError": "the TLS options cannot be used",
    "NoInfoError": "no NATS server introduces itself",
    "ConnectTimeoutError": "there is no answer in time",
    "WebSocketError": "it does not speak WebSocket",
    "ServerReportedError": "the server turns clients away",
}


def reason(trial: Trial, report: Report) -> str:
    """Why ``trial`` failed."""
    info = report.info
    match trial.kind:
        case "NoInfoError" if report.waits_for_handshake:
            return "the server waits for the handshake, and the client for INFO"
        case "TLSHandshakeError" if trial.acts_as is TLSMode.IMPLICIT and _spoke_first(report):
            if info is not None and not info.offers_tls:
                return "the server offers no TLS"
            return "the server speaks before the handshake"
        case "TLSHandshakeError" if version_is_too_old(report) and report.look is not None:
            return f"the server speaks {report.look.version} at best"
        case "TLSHandshakeError" if info is None:
            return "it does not speak TLS"
        case "TLSHandshakeError":
            return "the TLS handshake cannot be finished"
        case kind if kind in _WORDS:
            return _WORDS[kind]
        case _:
            return trial.text.removesuffix(".")


def version_is_too_old(report: Report) -> bool:
    """Whether the server can do TLS, but in no version that the options allow."""
    look = report.look
    if look is None:
        return False
    wants_newer = report.asked.tls.minimum_version > ssl.TLSVersion.TLSv1_2
    return look.version in OLD_TLS or (look.version == "TLSv1.2" and wants_newer)


def _spoke_first(report: Report) -> bool:
    return report.greeting is not None and report.greeting.info is not None
