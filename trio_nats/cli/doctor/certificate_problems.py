"""Explain what is wrong with a server's certificate, and who can fix it."""

from __future__ import annotations

from collections.abc import Iterator

from ..._transport.tls_info import CertificateInfo
from ...servers import is_ip_address
from .finding import Finding, problem
from .formatting import ends, listing
from .open_nats_call import Call
from .report import Certificates, Report

__all__ = ["certificate_problems"]


def certificate_problems(report: Report, call: Call) -> Iterator[Finding]:
    """Report all faults of the certificate, not just the first one."""
    found = report.certificates
    if found is None or not found.chain:
        return
    leaf = found.chain[0]
    if found.trust == "untrusted":
        yield _untrusted(report, call, found, leaf)
    elif found.trust == "self-signed":
        yield _self_signed(report, call, leaf)
    elif found.trust == "other":
        yield problem(
            "certificate-other",
            f"The server's certificate cannot be accepted: {found.text}.",
            "Tell the server's operator. The server needs a certificate without this fault.",
        )
    if found.name_matches is False:
        yield _wrong_name(report, call, leaf)
    yield from _dates(report, found)


def _untrusted(report: Report, call: Call, found: Certificates, leaf: CertificateInfo) -> Finding:
    asked = report.asked
    issuer = (found.chain[-1].issuer or leaf.issuer) or "an authority that is not named"
    given = asked.tls.ca_file is not None or asked.tls.ca_data is not None
    if given:
        fault = "which your ca_file does not include"
        fix = "That file may be outdated, or meant for other servers. "
        if len(found.chain) == 1:
            fix += (
                "If it is correct, the server does not send its intermediate certificates, and its "
                "operator must add them. Otherwise ask "
            )
        else:
            fix += "Ask "
    else:
        fault = "which this machine does not trust"
        fix = "Companies often have their own authority. Ask "
    return problem(
        "certificate-untrusted",
        f"The server's certificate was issued by {issuer}, {fault}. It could be anyone's.",
        f"{fix}the server's operator for the authority's certificate, a .pem file, and pass it as "
        "ca_file:",
        call.change(ca_file="ca.pem"),
    )


def _self_signed(report: Report, call: Call, leaf: CertificateInfo) -> Finding:
    return problem(
        "certificate-self-signed",
        "The server's certificate is self-signed, so it could be anyone's.",
        "Ask the server's operator for that certificate, a .pem file, and pass it as ca_file. "
        f"To be sure that it is the same one, compare the SHA-256 fingerprint {leaf.sha256}:",
        call.change(ca_file="server.pem"),
    )


def _wrong_name(report: Report, call: Call, leaf: CertificateInfo) -> Finding:
    asked = report.asked
    names = [name for name in leaf.subject_alt_names if "*" not in name]
    all_names = listing(list(leaf.subject_alt_names)) or "no host at all"
    text = f"The server's certificate is for {all_names}, not for {asked.name}."
    if asked.tls.server_hostname is not None:
        return problem(
            "certificate-name",
            text,
            "Leave out server_hostname, or pass one of these names.",
            call.change(server_hostname=names[0]) if names else "",
        )
    if not names:
        return problem(
            "certificate-name",
            text,
            "The server needs a certificate with the name in your URL among its subject "
            "alternative names. The common name does not count.",
        )
    hosts = [name for name in names if not is_ip_address(name)] or names
    return problem(
        "certificate-name",
        text,
        f"If {hosts[0]} leads to the same server, use it in the URL. Otherwise, if you are sure "
        "that this is the right server, pass the name to expect:",
        call.change(server_hostname=hosts[0]),
    )


def _dates(report: Report, found: Certificates) -> Iterator[Finding]:
    now = report.examined_at
    for position, one in enumerate(found.chain):
        whose = "The server's certificate" if position == 0 else f"The certificate of {one.subject}"
        if one.not_after is not None and one.not_after < now:
            yield problem(
                "certificate-expired",
                f"{whose} {ends(one.not_after, now)}.",
                "Tell the server's operator, who must renew it. (If today is not "
                f"{now:%Y-%m-%d}, correct this machine's clock.)",
            )
        elif one.not_before is not None and one.not_before > now:
            yield problem(
                "certificate-not-yet-valid",
                f"{whose} is not valid before {one.not_before:%Y-%m-%d}.",
                f"The usual cause is a wrong clock: if today is not {now:%Y-%m-%d}, correct this "
                "machine's. Otherwise the server needs another certificate.",
            )
    if found.trust == "expired" and not any(
        one.not_after is not None and one.not_after < now for one in found.chain
    ):
        yield problem(
            "certificate-expired",
            "The server's certificate, or that of its issuer, has expired.",
            "Tell the server's operator, and check whether your ca_file is out of date.",
        )
