"""Problems after the handshake: credentials, and servers that reject clients."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, problem
from .formatting import short
from .open_nats_call import Call, url_with
from .report import Report

__all__ = ["closed", "login_refused", "secret_in_plaintext", "server_said", "unusable"]


def login_refused(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that the server refused the credentials, or got none."""
    asked, info = report.asked, report.info
    login = asked.login
    if login.method == "none":
        signs = info is not None and bool(info.nonce)
        example = 'Credentials(file="user.creds")' if signs else 'UserPassword("user", "...")'
        yield problem(
            "login-missing",
            "The server requires a login, and your options have no credentials.",
            "Ask the server's operator for credentials, and pass them as auth:",
            call.change(extra=(f"auth={example}",)),
        )
        return
    who = f" of {short(login.user)}" if login.user else ""
    if login.expires is not None and login.expires < report.examined_at:
        yield problem(
            "login-expired",
            f"The {login.method}{who} expired on {login.expires:%Y-%m-%d}.",
            "Ask the account's operator for new credentials.",
        )
        return
    yield problem(
        "login-refused",
        f'The server refused the {login.method}{who}: "{report.live.said}".',
        "Check that they are correct and meant for this server. If the server's configuration "
        "was changed, it may have to be reloaded.",
    )


def unusable(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that the credentials are invalid, so they were not sent."""
    yield problem(
        "credentials-unusable",
        f"Your credentials cannot be used: {report.asked.login.error or report.live.text}.",
        "Correct them, or use the kind that this server accepts. They were not sent.",
    )


def secret_in_plaintext(report: Report, call: Call) -> Iterator[Finding]:
    """Explain that ``plaintext_auth`` forbids sending the credentials."""
    asked = report.asked
    yield problem(
        "plaintext-secret",
        f"Your {asked.login.method} would be sent over the network unencrypted, and "
        'plaintext_auth is "refuse". Nothing was sent.',
        "Enable TLS in the server and use a tls:// URL:",
        call.change(url_with(asked, scheme="tls")),
    )


def server_said(report: Report, call: Call) -> Iterator[Finding]:
    """Explain the server's ``-ERR``."""
    lowered = report.live.said.lower()
    for kind in ("route", "leaf", "gateway"):
        if "attempted to connect to" in lowered and kind in lowered:
            yield problem(
                "wrong-port",
                f"Port {report.asked.port} is for connections between NATS servers ({kind}), not "
                "for clients.",
                "Use the server's client port, 4222 unless configured otherwise:",
                call.change(url_with(report.asked, port=4222)),
            )
            return
    yield problem(
        "turned-away",
        f'The server rejected the client: "{report.live.said}".',
        "Ask the server's operator to check its log.",
    )


def closed(report: Report, call: Call) -> Iterator[Finding]:
    """Report that the server closed the connection without giving a reason."""
    if report.info is not None:
        yield problem(
            "closed",
            f"The server closed the connection without giving a reason: {report.live.text}.",
            "Check the server's log, and that of any proxy in between.",
        )
