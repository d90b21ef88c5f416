"""Describe the steps that concern encryption."""

from __future__ import annotations

from ..._transport.tls_info import CertificateInfo
from ...options import TLSMode
from .formatting import ends, ends_soon, listing
from .modes import reason
from .open_nats_call import given_material
from .report import Report
from .step import Status, Step, capital, not_reached
from .warnings import outcome, stays_here

__all__ = ["certificate", "client_certificate", "encryption", "mode", "own_reason"]

_MEANING = {
    TLSMode.PREFER: "encrypted if the server offers it, otherwise not",
    TLSMode.REQUIRE: "encrypted or not connected",
    TLSMode.IMPLICIT: "encrypted from the first byte, or not connected",
    TLSMode.DISABLE: "never encrypted",
}


def mode(report: Report) -> Step:
    """Describe the mode in effect, and whether the options can be used."""
    key, title = "mode", "TLS mode"
    asked = report.asked
    if asked.contradiction:
        return Step(key, title, "failed", f"{capital(asked.contradiction)}.")
    if report.live.kind == "TLSConfigurationError":
        return Step(key, title, "failed", f"{capital(report.live.text)}.")
    mode, acts_as = asked.tls.mode, asked.acts_as
    if asked.scheme in ("ws", "wss"):
        what = "encrypted" if asked.scheme == "wss" else "not encrypted"
        return Step(key, title, "ok", f"The URL decides: {asked.scheme}:// is {what}.")
    meaning = _MEANING[acts_as]
    if mode is acts_as:
        return Step(key, title, "ok", f"{mode}, as requested: {meaning}.")
    material = given_material(asked.tls)
    if asked.scheme == "tls":
        why = "because the URL begins with tls://"
    elif material:
        why = f"because {listing(material)} {'is' if len(material) == 1 else 'are'} given"
    else:
        why = "because neither the URL nor the options ask for TLS"
    return Step(key, title, "ok", f"{mode} acts as {acts_as}, {why}: {meaning}.")


def encryption(report: Report) -> Step:
    """Describe whether the connection is encrypted, or could be."""
    key, title = "encryption", "Encryption"
    if (
        report.asked.contradiction
        or not report.reached
        or (report.info is None and not _tried(report))
    ):
        return not_reached(key, title)
    live, look = report.live, report.look
    match outcome(report):
        case "tls":
            version = live.tls_version or (look.version if look else "")
            cipher = live.cipher or (look.cipher if look else "")
            text = f"{version} with {cipher}."
            if report.info_inside is not None:
                text += " INFO is encrypted too."
            return Step(key, title, "ok", text)
        case "plaintext" if stays_here(report):
            text = "None, which is fine here: no data leaves this machine."
            return Step(key, title, "ok", text)
        case "plaintext":
            text = "None: anyone on the network path can read everything."
            return Step(key, title, "warning", text)
        case "unknown":
            return not_reached(key, title)
        case _ if live.kind == "TLSConfigurationError":
            return not_reached(key, title)
        case _ if _handshake_worked(report) and look is not None:
            text = f"{look.version} with {look.cipher} is possible."
            return Step(key, title, "ok", text)
        case _:
            return Step(key, title, "failed", f"{capital(own_reason(report))}.")


def _tried(report: Report) -> bool:
    return report.look is not None and bool(report.look.version)


_AFTER_THE_HANDSHAKE = ("TLSCertificateError", "ClientCertificateError")


def _handshake_worked(report: Report) -> bool:
    return _tried(report) and _own_kind(report) in _AFTER_THE_HANDSHAKE


def _own_kind(report: Report) -> str:
    own = [trial for trial in report.trials if trial.mode is report.asked.tls.mode]
    return own[0].kind if own else ""


def own_reason(report: Report) -> str:
    """Return why the user's own mode failed."""
    own = [trial for trial in report.trials if trial.mode is report.asked.tls.mode]
    return reason(own[0], report) if own else report.live.text.removesuffix(".")


def certificate(report: Report) -> Step:
    """Describe the server's certificate."""
    key, title = "certificate", "Certificate"
    found = report.certificates
    if outcome(report) == "plaintext" or report.asked.acts_as is TLSMode.DISABLE:
        return not_reached(key, title, "Not checked, because the connection is not encrypted.")
    if found is None or not found.chain or found.trust == "unknown":
        return not_reached(key, title)
    details = tuple(_certificate_words(one, report) for one in found.chain)
    leaf = found.chain[0]
    names = listing(list(leaf.subject_alt_names))
    name = report.asked.name
    if report.asked.tls.insecure_skip_verify:
        would = "would" if found.trust == "ok" else "would not"
        text = f"Not checked (insecure_skip_verify). If it were, it {would} be accepted."
        return Step(key, title, "warning", text, details)
    match found.trust:
        case "ok":
            status: Status = "warning" if ends_soon(leaf.not_after, report.examined_at) else "ok"
            return Step(key, title, status, f"Trusted, and valid for {name}.", details)
        case "untrusted":
            faults = ["its issuer is not trusted here"]
        case "self-signed":
            faults = ["it is self-signed"]
        case "name":
            faults = []
        case "expired":
            faults = ["it has expired"]
        case "early":
            faults = ["it is not valid yet"]
        case _:
            faults = [found.text or "it could not be checked"]
    if found.name_matches is False:
        faults.append(f"it is not for {name}" + (f", but for {names}" if names else ""))
    if found.trust in ("untrusted", "self-signed", "name") and _expired(leaf, report):
        faults.append("it has expired")
    return Step(key, title, "failed", f"Not accepted: {listing(faults)}.", details)


def _expired(certificate: CertificateInfo, report: Report) -> bool:
    return certificate.not_after is not None and certificate.not_after < report.examined_at


def _certificate_words(certificate: CertificateInfo, report: Report) -> str:
    if not certificate.subject and certificate.not_after is None:
        return f"SHA-256 {certificate.sha256} (to see more, install trio-nats[pkcs12])"
    words = certificate.subject or "(no subject)"
    if certificate.subject_alt_names:
        words += f", for {listing(list(certificate.subject_alt_names))}"
    if certificate.issuer == certificate.subject:
        words += ", self-signed"
    else:
        words += f", by {certificate.issuer}"
    if certificate.not_before is not None and certificate.not_before > report.examined_at:
        words += f", valid from {certificate.not_before:%Y-%m-%d} on"
    elif certificate.not_after is not None:
        words += f", {ends(certificate.not_after, report.examined_at)}"
    return words


def client_certificate(report: Report) -> Step:
    """Describe whether the server asks for a client certificate."""
    key, title = "client_certificate", "Client cert"
    look, live, asked = report.look, report.live, report.asked
    if outcome(report) == "plaintext" or asked.acts_as is TLSMode.DISABLE:
        return not_reached(key, title, "Not requested, because the connection is not encrypted.")
    if look is None or not look.version:
        return not_reached(key, title)
    if "ClientCertificateError" in (live.kind, _own_kind(report)):
        given = asked.tls.cert_file or asked.tls.bundle_file or asked.tls.context
        what = "rejects yours" if given else "none was given"
        text = f"The server requires a client certificate, and {what}."
        if asked.certificate_expires is not None:
            text += f" It {ends(asked.certificate_expires, report.examined_at)}."
        return Step(key, title, "failed", text)
    if look.asks_for_certificate is None:
        return Step(key, title, "ok", "Whether the server requested one is unknown.")
    if not look.asks_for_certificate:
        return Step(key, title, "ok", "The server did not request one.")
    if not live.connected:
        return not_reached(key, title, "The server requests one.")
    if asked.tls.cert_file is None and asked.tls.bundle_file is None:
        return Step(key, title, "ok", "The server requested one, but did not require it.")
    text = "The server requested one, and accepted yours."
    if live.certificate_expires is None:
        return Step(key, title, "ok", text)
    soon = ends_soon(live.certificate_expires, report.examined_at)
    text += f" It {ends(live.certificate_expires, report.examined_at)}."
    return Step(key, title, "warning" if soon else "ok", text)
