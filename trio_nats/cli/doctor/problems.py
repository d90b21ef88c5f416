"""Explain why a connection fails, to readers who have not read the specifications."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import login_problems, tls_problems
from .finding import Finding, problem
from .formatting import listing
from .open_nats_call import Call, url_with
from .report import Report
from .tls_problems import certificates
from .wrong_peer import wrong_peer

__all__ = ["problems"]

_REFUSED = "refused"


def problems(report: Report) -> Iterator[Finding]:
    """Report what prevents a client with these options from connecting, if it did not connect."""
    if report.live.connected:
        return
    found = False
    # If there are several findings, each line of code includes the changes of earlier ones.
    call = Call(report.asked)
    for look in (_contradiction, _network, _certificate, _explained, wrong_peer, _anything_else):
        for finding in look(report, call):
            found = True
            yield finding
        if found:
            return


# --- before connecting ---------------------------------------------------------------------------


def _contradiction(report: Report, call: Call) -> Iterator[Finding]:
    asked = report.asked
    if not asked.contradiction:
        return
    if asked.scheme == "tls":
        yield problem(
            "contradiction",
            "The tls:// URL requires encryption, and the mode DISABLE forbids it.",
            "Use one or the other. To encrypt the connection, leave out the mode:",
            call.change(drop=("mode",)),
        )
        yield from certificates(report, call)
    else:
        yield problem(
            "contradiction",
            f"These options cannot be used: {asked.contradiction}.",
            "Change the URL or the options. No connection was attempted.",
        )


# --- the network ---------------------------------------------------------------------------------


def _network(report: Report, call: Call) -> Iterator[Finding]:
    asked = report.asked
    if not report.reached and report.live.kind in ("CredentialsError", "TLSConfigurationError"):
        # A client checks its options before it dials.
        yield from _explained(report, call)
    if report.lookup.error:
        yield problem(
            "unresolved",
            f"The name {asked.host} cannot be resolved: {report.lookup.error}.",
            "Check the spelling. If it is correct, the name may be known only inside another "
            "network, which you may need a VPN to reach.",
            call.change(url_with(asked, host="the.right.name")),
        )
    elif not report.reached:
        yield _unreachable(report, call)


def _unreachable(report: Report, call: Call) -> Finding:
    asked, dials = report.asked, report.dials
    refused = [dial for dial in dials if _REFUSED in dial.error.lower()]
    if refused:
        return problem(
            "port-closed",
            f"{asked.host} is up, but nothing listens on port {asked.port}.",
            "Check that the server is running, and that this is its client port (4222 unless "
            "configured otherwise). If the server runs in a container, publish that port.",
        )
    reasons = listing(list(dict.fromkeys(dial.error for dial in dials)))
    return problem(
        "unreachable",
        f"{asked.host} cannot be reached on port {asked.port}: {reasons}.",
        "Check the address, and whether a firewall blocks this port.",
    )


# --- the error -----------------------------------------------------------------------------------


def _certificate(report: Report, call: Call) -> Iterator[Finding]:
    if report.live.kind == "TLSCertificateError":
        yield from certificates(report, call)


def _explained(report: Report, call: Call) -> Iterator[Finding]:
    explanation = _EXPLANATIONS.get(report.live.kind)
    if explanation is not None:
        yield from explanation(report, call)


def _anything_else(report: Report, call: Call) -> Iterator[Finding]:
    yield problem(
        "other",
        f"The connection failed: {report.live.text}.",
        "The steps above show how far it got.",
    )


_EXPLANATIONS: dict[str, Callable[[Report, Call], Iterator[Finding]]] = {
    "TLSNotOfferedError": tls_problems.no_tls,
    "TLSRequiredError": tls_problems.tls_required,
    "NoInfoError": tls_problems.no_info,
    "TLSHandshakeError": tls_problems.handshake,
    "TLSConfigurationError": tls_problems.material,
    "ClientCertificateError": tls_problems.client_certificate,
    "TLSInjectionError": tls_problems.tampering,
    "AuthorizationError": login_problems.login_refused,
    "AuthenticationExpiredError": login_problems.login_refused,
    "CredentialsError": login_problems.unusable,
    "PlaintextAuthError": login_problems.secret_in_plaintext,
    "WebSocketError": tls_problems.websocket,
    "ServerReportedError": login_problems.server_said,
    "ServerClosedError": login_problems.closed,
}
