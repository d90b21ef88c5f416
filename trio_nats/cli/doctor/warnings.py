"""Warnings and hints about what does not prevent a connection, but may do harm now or soon."""

from __future__ import annotations

from collections.abc import Iterator

from ...options import TLSMode
from ...servers import is_loopback
from .finding import Finding, Severity
from .formatting import ends, ends_soon, listing
from .open_nats_call import Call, given_material, url_with
from .report import Outcome, Report

__all__ = ["warnings"]


def warnings(report: Report) -> Iterator[Finding]:
    """Return warnings, then hints."""
    found = [
        *_plaintext(report),
        *_weak(report),
        *_ending(report),
        *_network(report),
        *_server(report),
        *_permissions(report),
        *_no_effect(report),
    ]
    yield from sorted(found, key=lambda finding: finding.severity == "hint")


def _finding(severity: Severity, code: str, text: str, fix: str, line: str = "") -> Finding:
    return Finding(severity, code, text, fix, line)


def outcome(report: Report) -> Outcome:
    """Return the result of the user's own mode."""
    if report.live.connected:
        return "tls" if report.live.tls_version else "plaintext"
    own = [trial for trial in report.trials if trial.mode is report.asked.tls.mode]
    return own[0].outcome if own else "unknown"


def stays_here(report: Report) -> bool:
    """Whether all data stays on this machine."""
    reached = [dial.address for dial in report.dials if not dial.error]
    return bool(reached) and all(map(is_loopback, reached))


def _plaintext(report: Report) -> Iterator[Finding]:
    if outcome(report) != "plaintext" or stays_here(report):
        return
    asked = report.asked
    if report.speaks_tls:
        fix = "The server supports TLS. Use a tls:// URL:"
        line = Call(asked).change(url_with(asked, scheme="tls"), drop=("mode",))
    else:
        fix = (
            "Enable TLS in the server: a tls block in its configuration. Then use a tls:// URL, "
            "which never connects without it:"
        )
        line = Call(asked).change(url_with(asked, scheme="tls"), drop=("mode",))
    if asked.login.replayable and asked.plaintext_auth != "refuse":
        yield _finding(
            "warning",
            "plaintext-secret",
            f"Your {asked.login.method} is sent over the network unencrypted. An eavesdropper can "
            "log in with it.",
            fix,
            line,
        )
    else:
        yield _finding(
            "warning",
            "plaintext",
            "The connection is not encrypted. Anyone on the network path can read and change "
            "every message.",
            fix,
            line,
        )


def _weak(report: Report) -> Iterator[Finding]:
    asked = report.asked
    if asked.tls.insecure_skip_verify and outcome(report) == "tls":
        yield _finding(
            "warning",
            "skip-verify",
            "insecure_skip_verify accepts any certificate, so anyone on the network path can "
            "impersonate the server.",
            "Leave it out, and pass the authority to trust as ca_file:",
            Call(asked).change(
                drop=("insecure_skip_verify",), ca_file=asked.tls.ca_file or "ca.pem"
            ),
        )
    if asked.acts_as is TLSMode.PREFER and outcome(report) == "tls" and not stays_here(report):
        yield _finding(
            "warning",
            "can-be-stripped",
            f"The connection is encrypted because the server offers TLS, in plaintext. Anyone on "
            f"the network path can remove that offer, and the mode {asked.acts_as} then connects "
            "unencrypted.",
            "Require encryption with a tls:// URL:",
            Call(asked).change(url_with(asked, scheme="tls"), drop=("mode",)),
        )


def _ending(report: Report) -> Iterator[Finding]:
    now = report.examined_at
    moments = [
        ("login-ends", f"Your {report.asked.login.method}", report.asked.login.expires),
        ("client-certificate-ends", "Your client certificate", report.live.certificate_expires),
    ]
    if report.certificates is not None and outcome(report) == "tls":
        for position, one in enumerate(report.certificates.chain):
            whose = (
                "The server's certificate" if position == 0 else f"The certificate of {one.subject}"
            )
            moments.append(("certificate-ends", whose, one.not_after))
    for code, what, moment in moments:
        if moment is not None and ends_soon(moment, now):
            yield _finding(
                "warning",
                code,
                f"{what} {ends(moment, now)}.",
                "Replace it in time; connections read it again whenever they connect."
                if code != "certificate-ends"
                else "Remind the server's operator. Clients cannot connect after that date.",
            )


def _network(report: Report) -> Iterator[Finding]:
    failed = [dial for dial in report.dials if dial.error]
    if not report.reached or not failed:
        return
    which = listing([f"{dial.address} ({dial.error})" for dial in failed])
    yield _finding(
        "hint",
        "some-addresses",
        f"{report.asked.host} has addresses that do not answer: {which}.",
        "Connecting works, but may take longer. Remove these addresses from the name, or make "
        "the server listen on them too.",
    )


def _server(report: Report) -> Iterator[Finding]:
    info = report.info
    if info is not None and info.ldm:
        yield _finding(
            "warning",
            "lame-duck",
            "The server is shutting down (lame duck mode).",
            "List more servers of the cluster, so that clients can connect to another one.",
        )
    if report.live.lost:
        yield _finding(
            "warning",
            "did-not-last",
            f"The connection was opened, but then it failed: {report.live.lost}.",
            "Check the server's log.",
        )


def _permissions(report: Report) -> Iterator[Finding]:
    if report.live.jetstream != "forbidden":
        return
    what = report.live.jetstream_text
    if what.startswith("subscribe"):
        yield _finding(
            "warning",
            "inbox-forbidden",
            f"This user is not allowed to {what}. Replies arrive there, so no request gets one.",
            "Add that permission, or use a prefix that this user may subscribe to:",
            Call(report.asked).change(extra=('inbox_prefix="_INBOX_joe"',)),
        )
    else:
        yield _finding(
            "hint",
            "jetstream-forbidden",
            f"This user is not allowed to {what}, so JetStream could not be checked.",
            "If you need streams, add the permission to publish to $JS.API.>.",
        )


def _no_effect(report: Report) -> Iterator[Finding]:
    asked, info = report.asked, report.info
    tls = asked.tls
    if asked.acts_as is TLSMode.DISABLE and given_material(tls) and not asked.contradiction:
        yield _finding(
            "hint",
            "no-effect-tls",
            f"Without encryption {listing(given_material(tls))} has no effect.",
            "Leave out either the mode DISABLE or these options.",
        )
    has_certificate = tls.cert_file is not None or tls.bundle_file is not None
    look = report.look
    was_asked = look is None or look.asks_for_certificate is not False
    if has_certificate and outcome(report) == "tls" and not was_asked:
        yield _finding(
            "hint",
            "no-effect-certificate",
            "The server did not request a client certificate, so yours was not sent.",
            "If you want to log in with it, the server needs verify or verify_and_map in its "
            "tls block.",
        )
    if (
        report.live.connected
        and asked.login.method != "none"
        and info is not None
        and not info.auth_required
    ):
        yield _finding(
            "hint",
            "no-effect-login",
            "The server does not require a login, so your credentials were not needed.",
            "Anyone who can reach this server can use it.",
        )
