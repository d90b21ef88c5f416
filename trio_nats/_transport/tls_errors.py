"""Turn failed TLS handshakes into errors that say what to do."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import trio

from .._printable import printable
from ..errors import (
    ClientCertificateError,
    NatsError,
    ServerClosedError,
    TLSCertificateError,
    TLSHandshakeError,
)
from ..options import TLSMode
from ..server_info import ServerInfo
from .tls_info import CertificateNames

__all__ = [
    "Handshake",
    "client_certificate_fault",
    "explain_alert",
    "explain_closing",
    "explain_failed_handshake",
    "reason_of",
]

# Alerts with which a server refuses the client certificate. OpenSSL names an alert after the
# protocol version that introduced it, whichever version is in use.
_CLIENT_CERTIFICATE_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires one, and got none",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority that issued it",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it found it unacceptable, or requires one and got none",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not support its kind",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it has been revoked",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it could not be checked",
    "TLSV1_ALERT_ACCESS_DENIED": "it is valid but not authorized",
}


_VERSION_MISMATCH = (
    "UNSUPPORTED_PROTOCOL",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "NO_PROTOCOLS_AVAILABLE",
)
_MAX_NAMES, _MAX_NAME = 8, 80
_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


@dataclass(frozen=True, slots=True)
class Handshake:
    """The circumstances of a handshake, for the text of its error."""

    server: str
    mode: TLSMode
    has_client_certificate: bool
    info: ServerInfo | None
    """INFO, if it arrived in plaintext before the handshake."""
    names: CertificateNames | None = None
    """The names in a server's certificate that was refused, if available."""


def explain_failed_handshake(error: BaseException, handshake: Handshake) -> TLSHandshakeError:
    """Return the error for a handshake that Trio reported as broken."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TLSCertificateError(_certificate_text(cause, handshake) + _proxy_hint(handshake))
    reason = getattr(cause, "reason", None) or ""
    if refused := _client_certificate_refusal(reason, handshake):
        return refused
    hint = _proxy_hint(handshake)
    if reason in _VERSION_MISMATCH:
        what = "there is no TLS version that both sides allow; see minimum_version"
    elif reason in _NOT_TLS:
        what = "the peer answered with something that is not TLS"
    elif reason == "SSLV3_ALERT_HANDSHAKE_FAILURE":
        what = "the server refused it: no common cipher, or no acceptable client certificate"
    elif isinstance(cause, ssl.SSLEOFError) or not isinstance(cause, ssl.SSLError):
        what = "the peer closed the connection in the middle of it"
    elif reason == "TLSV1_UNRECOGNIZED_NAME":
        what = f"the server has no certificate for that name, or none at all ({reason})"
    elif "ALERT" in reason:
        what = f"the server refused it ({reason})"
    else:
        what = reason or str(cause) or "the connection broke"
    return TLSHandshakeError(f"TLS handshake with {handshake.server} failed: {what}.{hint}")


def explain_alert(error: ssl.SSLError, handshake: Handshake) -> ClientCertificateError | None:
    """Return the error for an alert right after the handshake, if it is about our certificate.

    Under TLS 1.3 a server checks the client certificate only after the client has completed the
    handshake, so a refusal arrives here.
    """
    return _client_certificate_refusal(error.reason or "", handshake)


def explain_closing(handshake: Handshake) -> NatsError:
    """Return the error for a connection that ends right after the handshake.

    Some TLS-terminating proxies refuse a client certificate in this way.
    """
    sent = "the one sent" if handshake.has_client_certificate else "none was sent"
    if handshake.info is not None and not handshake.info.tls_verify:
        return ServerClosedError(
            f"{handshake.server} closed the connection after the TLS handshake without giving a "
            "reason"
        )
    return ClientCertificateError(
        f"{handshake.server} closed the connection right after the TLS handshake. Servers and "
        "TLS-terminating proxies do that if they did not get an acceptable client certificate "
        f"({sent}); check cert_file and key_file, what the server or proxy requires, and whether "
        "the server behind a proxy is running"
    )


def client_certificate_fault(reason: str) -> str | None:
    """Return why a server has refused the client certificate.

    :param reason: OpenSSL's name of the alert.
    :returns: the reason in words, or ``None`` if the alert is not about the client certificate.
    """
    return _CLIENT_CERTIFICATE_ALERTS.get(reason)


def _client_certificate_refusal(reason: str, handshake: Handshake) -> ClientCertificateError | None:
    why = client_certificate_fault(reason)
    if why is None and reason == "SSLV3_ALERT_HANDSHAKE_FAILURE":
        # This alert is sent for a missing certificate and for a cipher mismatch alike.
        verifies = handshake.info is not None and handshake.info.tls_verify
        if verifies or (handshake.info is None and not handshake.has_client_certificate):
            why = "it most likely requires one that it accepts"
    if why is None:
        return None
    if handshake.has_client_certificate:
        what = "refused our client certificate"
        todo = "check cert_file (leaf first, then its intermediates) and the server's ca_file"
    else:
        what = "refused the connection over the client certificate"
        todo = "pass cert_file and key_file"
    return ClientCertificateError(
        f"{handshake.server} {what}: {why} ({reason.removeprefix('SSLV3_')}); {todo}"
    )


def _certificate_text(cause: ssl.SSLCertVerificationError, handshake: Handshake) -> str:
    fault = (cause.verify_message or str(cause)).rstrip(".")
    lowered = fault.lower()
    if "hostname mismatch" in lowered or "ip address mismatch" in lowered:
        if handshake.names is not None:
            fault += f"; {_names_text(handshake.names)}"
        todo = "connect by a name that is in it, or set server_hostname to one"
        if handshake.names is not None and not handshake.names.hosts:
            todo = "the server needs a certificate with subject alternative names"
    elif "expired" in lowered:
        todo = "the server needs a new one (or this machine's clock is wrong)"
    elif "not yet valid" in lowered:
        todo = "check this machine's clock"
    elif "issuer" in lowered or "self-signed" in lowered or "self signed" in lowered:
        todo = (
            "its issuer is not trusted here; if you trust it, pass the issuer's certificate as "
            "ca_file"
        )
    else:
        todo = "the server needs another one"
    return f"the certificate of {handshake.server} is not acceptable: {fault}; {todo}"


def _names_text(names: CertificateNames) -> str:
    if names.hosts:
        shown = [_quoted(name) for name in names.hosts[:_MAX_NAMES]]
        if more := len(names.hosts) - len(shown):
            shown.append(f"{more} more")
        *first, last = shown
        return "it is valid for " + (f"{', '.join(first)} and {last}" if first else last)
    without = "it has no subject alternative names for hosts"
    if not names.common_name:
        return without
    common = _quoted(names.common_name)
    return f"{without}, only the common name {common}, which is ignored (RFC 9525)"


def _quoted(name: str) -> str:
    """Quote a name that the peer has chosen, escaped and shortened."""
    return f"'{printable(name, _MAX_NAME)}'"


def _proxy_hint(handshake: Handshake) -> str:
    info = handshake.info
    if info is None or info.tls_required or handshake.mode is TLSMode.DISABLE:
        return ""
    return (
        " The server's INFO offers TLS without requiring it. If a proxy in front of it cannot "
        "forward TLS, and plaintext is acceptable, use TLS mode DISABLE."
    )


def reason_of(error: trio.BrokenResourceError) -> str:
    """Return in a few words why a stream broke."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return f"TLS error: {cause.reason or cause}"
    if isinstance(cause, OSError):
        return cause.strerror or str(cause)
    return (str(cause) if cause else "") or "connection broken"
