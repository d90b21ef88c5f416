"""Say in a few words why each TLS mode succeeds or fails."""

from __future__ import annotations

import ssl

from ...options import TLSMode
from .report import Report, Trial

__all__ = ["OLD_TLS", "reason", "summary", "version_is_too_old"]

OLD_TLS = ("SSLv3", "TLSv1", "TLSv1.1")
"""Versions that are no longer secure."""


def summary(trial: Trial, report: Report) -> str:
    """Return a note on ``trial`` without a full stop, or an empty string."""
    parts: list[str] = []
    if trial.acts_as is not trial.mode and not report.asked.is_websocket:
        parts.append(f"as {trial.acts_as}")
    if trial.outcome in ("fails", "unknown"):
        parts.append(reason(trial, report))
    elif trial.kind == "ConfigurationError":
        parts.append(trial.text.removesuffix("."))
    elif trial.outcome == "refused":
        parts.append(f"cannot be combined with a {report.asked.scheme}:// URL")
    return ": ".join(parts)


_WORDS = {
    "TLSNotOfferedError": "the server offers no TLS",
    "TLSRequiredError": "the server requires TLS",
    "TLSCertificateError": "the server's certificate is not accepted",
    "ClientCertificateError": "the server requires a client certificate that it accepts",
    "TLSInjectionError": "plaintext arrives where only encrypted data is allowed",
    "TLSConfigurationError": "the TLS options cannot be used",
    "NoInfoError": "no INFO arrives",
    "ConnectTimeoutError": "it times out",
    "WebSocketError": "the peer does not speak WebSocket",
    "ServerReportedError": "the server rejects clients",
}


def reason(trial: Trial, report: Report) -> str:
    """Return why ``trial`` failed."""
    info = report.info
    match trial.kind:
        case "NoInfoError" if report.waits_for_handshake:
            return "the server waits for a TLS handshake, the client for INFO"
        case "TLSHandshakeError" if trial.acts_as is TLSMode.IMPLICIT and _spoke_first(report):
            if info is not None and not info.offers_tls:
                return "the server offers no TLS"
            return "the server sends INFO before the handshake"
        case "TLSHandshakeError" if version_is_too_old(report) and report.look is not None:
            return f"the server supports {report.look.version} at most"
        case "TLSHandshakeError" if info is None:
            return "the peer does not speak TLS"
        case "TLSHandshakeError":
            return "the TLS handshake fails"
        case kind if kind in _WORDS:
            return _WORDS[kind]
        case _:
            return trial.text.removesuffix(".")


def version_is_too_old(report: Report) -> bool:
    """Whether the server supports TLS, but no version that the options allow."""
    look = report.look
    if look is None:
        return False
    wants_newer = report.asked.tls.minimum_version > ssl.TLSVersion.TLSv1_2
    return look.version in OLD_TLS or (look.version == "TLSv1.2" and wants_newer)


def _spoke_first(report: Report) -> bool:
    return report.greeting is not None and report.greeting.info is not None
