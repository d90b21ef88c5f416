"""Problems with encryption: modes that do not fit the server, and certificates."""

from __future__ import annotations

from collections.abc import Iterator

from ..._transport.tls_errors import client_certificate_fault
from ...options import TLSMode
from ...servers import Scheme
from .certificate_problems import certificate_problems
from .finding import Finding, problem
from .formatting import ends
from .modes import OLD_TLS, version_is_too_old
from .open_nats_call import Call, url_with
from .report import Report

__all__ = [
    "certificates",
    "client_certificate",
    "handshake",
    "material",
    "no_info",
    "no_tls",
    "tampering",
    "tls_required",
    "websocket",
]


EVERYTHING_TLS = (
    "mode",
    "ca_file",
    "ca_data",
    "cert_file",
    "key_file",
    "key_password",
    "bundle_file",
    "bundle_password",
    "server_hostname",
    "insecure_skip_verify",
    "minimum_version",
    "context",
    "configure",
)


def no_tls(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that the options require TLS and the server offers none."""
    asked = report.asked
    yield problem(
        "no-tls",
        "Your options require encryption, but this server offers none. Nothing was sent.",
        "Enable TLS in the server: a tls block in its configuration. Only if everyone on the "
        "network path may read everything, connect without encryption:",
        call.change(url_with(asked, scheme="nats"), drop=EVERYTHING_TLS),
    )


def tls_required(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that the server requires TLS and the options forbid it."""
    asked = report.asked
    yield problem(
        "tls-required",
        "The server requires encryption, and the mode DISABLE forbids it.",
        "Leave out the mode, and require encryption with a tls:// URL:",
        call.change(url_with(asked, scheme="tls"), drop=("mode",)),
    )
    yield from certificates(report, call)


def no_info(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that each side waits for the other to begin."""
    asked = report.asked
    if not report.waits_for_handshake:
        return
    who = (
        "a proxy that terminates TLS for the server"
        if report.ends_tls_before_server
        else "the server (its handshake_first option)"
    )
    if asked.acts_as is TLSMode.DISABLE:
        what = "the mode DISABLE never begins one"
    else:
        what = f"the mode {asked.acts_as} waits for INFO first"
    yield problem(
        "handshake-first",
        f"Both sides wait for each other: {who} waits for a TLS handshake, and {what}.",
        "Use a tls:// URL without a mode, so that the client begins with the handshake:",
        call.change(url_with(asked, scheme="tls"), drop=("mode",)),
    )
    yield from certificates(report, call)


def handshake(report: Report, call: Call) -> Iterator[Finding]:
    """Explain a handshake that failed for other reasons than certificates."""
    asked, info, look = report.asked, report.info, report.look
    spoke_first = report.greeting is not None and report.greeting.info is not None
    if asked.acts_as is TLSMode.IMPLICIT and spoke_first:
        if info is not None and not info.offers_tls:
            yield from no_tls(report, call)
            return
        yield problem(
            "speaks-first",
            "The mode IMPLICIT expects the server to send nothing before the TLS handshake, but "
            "this one sends INFO first, as most do.",
            "Use REQUIRE, which requires encryption too and works with both kinds of server:",
            call.change(mode=TLSMode.REQUIRE),
        )
        yield from certificates(report, call)
    elif look is not None and look.version:
        yield from _version(report, call)
    elif info is not None and info.offers_tls:
        yield from _unfinished(report, call)


def _version(report: Report, call: Call) -> Iterator[Finding]:
    look = report.look
    assert look is not None
    if look.version in OLD_TLS:
        yield problem(
            "old-tls",
            f"The server supports {look.version} at most, which is no longer secure. This client "
            "requires TLSv1.2 or later.",
            "Update the server, or whatever terminates TLS in front of it.",
        )
    elif version_is_too_old(report):
        yield problem(
            "tls-version",
            "Your options require TLSv1.3, and the server supports TLSv1.2 at most.",
            "Update the server. TLSv1.2 is still secure, so you can allow it until then:",
            call.change(drop=("minimum_version",)),
        )
    else:
        yield problem(
            "handshake-failed",
            f"The TLS handshake failed, though one without any checks succeeded: "
            f"{report.live.text}.",
            "Compare your TLS options with the server's: versions, ciphers, certificates.",
        )


def _unfinished(report: Report, call: Call) -> Iterator[Finding]:
    asked, info = report.asked, report.info
    assert info is not None
    text = (
        "The server offers TLS, but the handshake with it fails. Either a proxy or load balancer "
        "in between passes only plaintext, or the server's TLS configuration is incomplete."
    )
    if info.tls_required:
        fix = "Check the server's log and its TLS configuration."
        yield problem("tls-broken", text, fix)
        return
    yield problem(
        "tls-broken",
        text,
        "Bypass the proxy, or fix TLS there. The server accepts plaintext too. Only if everyone "
        "on the network path may read everything, disable encryption:",
        call.change(url_with(asked, scheme="nats"), drop=EVERYTHING_TLS, mode=TLSMode.DISABLE),
    )


def websocket(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that the upgrade to WebSocket failed."""
    asked, greeting = report.asked, report.greeting
    if greeting is not None and greeting.info is not None:
        scheme: Scheme = "tls" if greeting.info.offers_tls else "nats"
        yield problem(
            "not-websocket",
            f"Port {asked.port} speaks plain NATS, not NATS over WebSocket, which a "
            f"{asked.scheme}:// URL requires.",
            f"Use a {scheme}:// URL, or the server's WebSocket port:",
            call.change(url_with(asked, scheme=scheme)),
        )
        return
    yield problem(
        "websocket",
        f"The peer does not accept the upgrade to WebSocket: {report.live.text}.",
        "Check the port and the path in the URL. A NATS server needs a websocket block in its "
        "configuration, and a proxy in front of it must forward upgrades.",
    )


def material(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that TLS options or files cannot be used."""
    yield problem(
        "tls-options",
        f"The TLS options cannot be used: {report.live.text}.",
        "Correct the option, or the file that it names. No connection was attempted with it.",
    )


def tampering(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that plaintext arrived where only encrypted data is allowed."""
    yield problem(
        "tampering",
        f"Plaintext arrived where only encrypted data is allowed: {report.live.text}.",
        "Someone may be tampering with the connection. Do not connect over this network, and "
        "tell its operator.",
    )


def certificates(report: Report, call: Call) -> Iterator[Finding]:
    """Report what would fail next: the certificates."""
    yield from certificate_problems(report, call)
    yield from _client_certificate_too(report, call)


def _client_certificate_too(report: Report, call: Call) -> Iterator[Finding]:
    """Report what would fail once the server's certificate is accepted."""
    info, look = report.info, report.look
    insists = look is not None and look.kind == "ClientCertificateError"
    if not _has_certificate(report) and (insists or (info is not None and info.tls_verify)):
        yield from client_certificate(report, call)


def client_certificate(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that the client certificate is missing, or that the server rejects it."""
    if not _has_certificate(report):
        yield problem(
            "client-certificate-missing",
            "The server requires a client certificate, and your options have none.",
            "Ask the server's operator for a client certificate and its key, and pass both:",
            call.change(cert_file="client.pem", key_file="client.key"),
        )
        return
    expires = report.asked.certificate_expires
    if expires is not None and expires < report.examined_at:
        yield problem(
            "client-certificate-expired",
            f"Your client certificate {ends(expires, report.examined_at)}, and the server rejects "
            "it.",
            "Ask the server's operator for a new one.",
        )
        return
    why = client_certificate_fault(report.live.reason) or "it does not say why"
    yield problem(
        "client-certificate-refused",
        f"The server rejects your client certificate: {why}.",
        "Check that it has not expired, that the server trusts its issuer, and that cert_file "
        "includes its intermediate certificates.",
    )


def _has_certificate(report: Report) -> bool:
    tls = report.asked.tls
    return any(one is not None for one in (tls.cert_file, tls.bundle_file, tls.context))
