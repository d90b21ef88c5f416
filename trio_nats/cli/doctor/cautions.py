"""What does not keep anybody from connecting, but may do harm, or soon will."""

from __future__ import annotations

from collections.abc import Iterator

from ...options import TLSMode
from ...servers import is_loopback
from .facts import Facts, Outcome
from .finding import Finding, Severity
from .wording import Call, ends, ends_soon, given_material, listing, url_with

__all__ = ["cautions"]


def cautions(facts: Facts) -> Iterator[Finding]:
    """Warnings, then hints."""
    found = [
        *_plaintext(facts),
        *_weak(facts),
        *_ending(facts),
        *_network(facts),
        *_server(facts),
        *_permissions(facts),
        *_no_effect(facts),
    ]
    yield from sorted(found, key=lambda finding: finding.severity == "hint")


def _finding(severity: Severity, code: str, text: str, fix: str, line: str = "") -> Finding:
    return Finding(severity, code, text, fix, line)


def outcome(facts: Facts) -> Outcome:
    """What the user's own mode comes to."""
    if facts.live.connected:
        return "tls" if facts.live.tls_version else "plaintext"
    own = [trial for trial in facts.trials if trial.mode is facts.asked.tls.mode]
    return own[0].outcome if own else "unknown"


def stays_here(facts: Facts) -> bool:
    """Whether nothing that is sent leaves this machine."""
    reached = [dial.address for dial in facts.dials if not dial.error]
    return bool(reached) and all(map(is_loopback, reached))


def _plaintext(facts: Facts) -> Iterator[Finding]:
    if outcome(facts) != "plaintext" or stays_here(facts):
        return
    asked = facts.asked
    if facts.speaks_tls:
        fix = "The server can do better. Use a tls:// URL:"
        line = Call(asked).change(url_with(asked, scheme="tls"), drop=("mode",))
    else:
        fix = (
            "Switch TLS on in the server: a tls block in its configuration. Then use a tls:// URL, "
            "which never goes without:"
        )
        line = Call(asked).change(url_with(asked, scheme="tls"), drop=("mode",))
    if asked.login.replayable and asked.plaintext_auth != "refuse":
        yield _finding(
            "warning",
            "plaintext-secret",
            f"Your {asked.login.method} crosses the network unencrypted. Whoever listens can log "
            "in with it.",
            fix,
            line,
        )
    else:
        yield _finding(
            "warning",
            "plaintext",
            "The connection is not encrypted. Whoever listens on the way can read every message, "
            "and change it.",
            fix,
            line,
        )


def _weak(facts: Facts) -> Iterator[Finding]:
    asked = facts.asked
    if asked.tls.insecure_skip_verify and outcome(facts) == "tls":
        yield _finding(
            "warning",
            "skip-verify",
            "insecure_skip_verify accepts any certificate, so anybody between you and the server "
            "can pretend to be it.",
            "Leave it out, and say whom to trust instead:",
            Call(asked).change(
                drop=("insecure_skip_verify",), ca_file=asked.tls.ca_file or "ca.pem"
            ),
        )
    if asked.acts_as is TLSMode.PREFER and outcome(facts) == "tls" and not stays_here(facts):
        yield _finding(
            "warning",
            "can-be-stripped",
            f"The connection is encrypted because the server says it wants to be, in plaintext. "
            f"Somebody on the way can take those words out, and the mode {asked.acts_as} goes on "
            "unencrypted.",
            "Insist on encryption with a tls:// URL:",
            Call(asked).change(url_with(asked, scheme="tls"), drop=("mode",)),
        )


def _ending(facts: Facts) -> Iterator[Finding]:
    now = facts.examined_at
    moments = [
        ("login-ends", f"Your {facts.asked.login.method}", facts.asked.login.expires),
        ("client-certificate-ends", "Your client certificate", facts.live.certificate_expires),
    ]
    if facts.certificates is not None and outcome(facts) == "tls":
        for position, one in enumerate(facts.certificates.chain):
            whose = "The server's certificate" if position == 0 else f"The one of {one.subject}"
            moments.append(("certificate-ends", whose, one.not_after))
    for code, what, moment in moments:
        if moment is not None and ends_soon(moment, now):
            yield _finding(
                "warning",
                code,
                f"{what} {ends(moment, now)}.",
                "See to it in time that a new one takes its place; connections read it again "
                "whenever they connect."
                if code != "certificate-ends"
                else "Remind whoever runs the server. From then on nobody can connect any more.",
            )


def _network(facts: Facts) -> Iterator[Finding]:
    failed = [dial for dial in facts.dials if dial.error]
    if not facts.reached or not failed:
        return
    which = listing([f"{dial.address} ({dial.error})" for dial in failed])
    yield _finding(
        "hint",
        "some-addresses",
        f"{facts.asked.host} has addresses that do not answer: {which}.",
        "Connecting works, but may take longer. Have them removed from the name, or the server "
        "listen on them too.",
    )


def _server(facts: Facts) -> Iterator[Finding]:
    info = facts.info
    if info is not None and info.ldm:
        yield _finding(
            "warning",
            "lame-duck",
            "The server is about to shut down (lame duck mode).",
            "Name more servers of the cluster, so that there is one to go to.",
        )
    if facts.live.lost:
        yield _finding(
            "warning",
            "did-not-last",
            f"The connection came about, and then did not work: {facts.live.lost}.",
            "Look into the server's log.",
        )


def _permissions(facts: Facts) -> Iterator[Finding]:
    if facts.live.jetstream != "forbidden":
        return
    what = facts.live.jetstream_text
    if what.startswith("subscribe"):
        yield _finding(
            "warning",
            "inbox-forbidden",
            f"This user is not allowed to {what}. That is where replies arrive, so no request "
            "will get any.",
            "Have that permission added, or use a prefix that this user may subscribe to:",
            Call(facts.asked).change(extra=('inbox_prefix="_INBOX_joe"',)),
        )
    else:
        yield _finding(
            "hint",
            "jetstream-forbidden",
            f"This user is not allowed to {what}, so JetStream could not be asked about.",
            "That is all right, unless streams are needed: then have the permission to publish to "
            "$JS.API.> added.",
        )


def _no_effect(facts: Facts) -> Iterator[Finding]:
    asked, info = facts.asked, facts.info
    tls = asked.tls
    if asked.acts_as is TLSMode.DISABLE and given_material(tls) and not asked.contradiction:
        yield _finding(
            "hint",
            "no-effect-tls",
            f"Without encryption {listing(given_material(tls))} has no effect.",
            "Leave the mode DISABLE out, or these options.",
        )
    has_certificate = tls.cert_file is not None or tls.bundle_file is not None
    look = facts.look
    was_asked = look is None or look.asks_for_certificate is not False
    if has_certificate and outcome(facts) == "tls" and not was_asked:
        yield _finding(
            "hint",
            "no-effect-certificate",
            "The server did not ask for a client certificate, so yours was not shown.",
            "That is all right, unless you meant to log in with it: then the server needs "
            "verify, or verify_and_map, in its tls block.",
        )
    if (
        facts.live.connected
        and asked.login.method != "none"
        and info is not None
        and not info.auth_required
    ):
        yield _finding(
            "hint",
            "no-effect-login",
            "The server asks nobody to log in, so your credentials were not needed.",
            "That is all right for a server of your own. Anybody who can reach it can use it.",
        )
