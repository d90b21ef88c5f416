"""Describe how far a connection gets, step by step: a pure function from a report to text."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from ...server_info import ServerInfo
from .formatting import duration, ends, listing, short, size
from .report import Report
from .step import Status, Step, capital, not_reached
from .tls_steps import certificate, client_certificate, encryption, mode, own_reason

__all__ = ["Status", "Step", "walk"]

_SLOW_GREETING = 0.04


def walk(report: Report) -> tuple[Step, ...]:
    """Return all steps in the order of a connection."""
    return tuple(step(report) for step in _STEPS)


# --- network -------------------------------------------------------------------------------------


def _address(report: Report) -> Step:
    asked, lookup = report.asked, report.lookup
    if lookup.error:
        return Step("address", "Address", "failed", f"No address for {asked.host}: {lookup.error}.")
    if lookup.addresses == (asked.host,):
        return Step("address", "Address", "ok", f"{asked.host} is an IP address.")
    found = listing(list(lookup.addresses))
    text = f"{asked.host} resolves to {found} (in {duration(lookup.seconds)})."
    return Step("address", "Address", "ok", text)


def _tcp(report: Report) -> Step:
    port = report.asked.port
    if not report.dials:
        return not_reached("tcp", "TCP")
    words = [
        f"{dial.address} failed: {dial.error}"
        if dial.error
        else f"connected to {dial.address} in {duration(dial.seconds)}"
        for dial in report.dials
    ]
    failed = any(dial.error for dial in report.dials)
    status: Status = "ok" if not failed else "warning" if report.reached else "failed"
    return Step("tcp", "TCP", status, f"Port {port}: {'; '.join(words)}.")


# --- what the server sends -----------------------------------------------------------------------


def _greeting(report: Report) -> Step:
    key, title = "greeting", "Greeting"
    greeting = report.greeting
    if greeting is None:
        return not_reached(key, title)
    if report.asked.is_websocket and greeting.kind in ("silence", "closed"):
        if report.probed_info is not None:
            return Step(key, title, "ok", "A NATS server, reached over WebSocket.")
        if report.live.kind in ("TLSCertificateError", "ClientCertificateError"):
            return not_reached(key, title)
        return Step(key, title, "failed", f"{capital(own_reason(report))}.")
    inside = report.info_inside is not None
    took = duration(greeting.seconds)
    match greeting.kind:
        case "info" if inside and greeting.seconds > _SLOW_GREETING:
            text = (
                f"A NATS server. It waits {took} for a TLS handshake, then sends INFO in plaintext "
                "(handshake_first: auto)."
            )
            return Step(key, title, "ok", text)
        case "info":
            text = f"A NATS server: it sent INFO in plaintext after {took}."
            return Step(key, title, "ok", text)
        case "silence" | "closed" if inside:
            text = (
                "A NATS server that sends nothing in plaintext. It sends INFO after the TLS "
                "handshake."
            )
            return Step(key, title, "ok", text)
        case "silence" | "closed" if report.wants_certificate:
            text = (
                "It sends nothing in plaintext, and inside TLS only to clients that present a "
                "certificate."
            )
            return Step(key, title, "ok", text)
        case "closed":
            text = f"It closed the connection after {took} without sending anything."
            return Step(key, title, "failed", text)
        case "silence":
            return Step(key, title, "failed", f"It sent nothing for {took}.")
        case "error":
            return Step(key, title, "failed", f'It rejected the connection: "{greeting.text}".')
        case "nonsense":
            return Step(key, title, "failed", f"It sent an invalid INFO: {greeting.text}.")
        case _:
            return Step(key, title, "failed", f"Not a NATS server. It sent {greeting.text}.")


def _offer(report: Report) -> Step:
    info = report.info
    if info is None:
        return not_reached("offer", "Server")
    name = "" if info.server_name in ("", info.server_id) else f' "{info.server_name}"'
    text = f"nats-server {info.version or 'of unknown version'}{name}."
    details = [
        f"TLS: {_tls_words(report, info)}",
        f"login: {'required' if info.auth_required else 'not required'}"
        + (", accepts NKeys and JWTs (it sent a nonce)" if info.nonce else ""),
        f"maximum payload: {size(info.max_payload)}",
        f"headers: {'yes' if info.headers else 'no'}",
        f"JetStream: {'yes' if info.jetstream else 'no'}"
        + (f", domain {info.domain}" if info.domain else ""),
    ]
    if info.cluster:
        count = len(info.connect_urls or ())
        others = f", advertises {count} address{'es' if count > 1 else ''}" if count else ""
        details.append(f"cluster: {info.cluster}{others}")
    status: Status = "ok"
    if info.ldm:
        status, text = "warning", f"{text} It is shutting down (lame duck mode)."
    return Step("offer", "Server", status, text, tuple(details))


def _tls_words(report: Report, info: ServerInfo) -> str:
    if info.tls_required:
        words = "required"
    elif info.tls_available:
        words = "available, not required"
    elif report.ends_tls_before_server:
        words = "none of its own (a proxy terminates TLS)"
    else:
        words = "none"
    return words + (", verifies client certificates" if info.tls_verify else "")


# --- after the handshake -------------------------------------------------------------------------


def _login(report: Report) -> Step:
    key, title = "login", "Login"
    live, login, info = report.live, report.asked.login, report.info
    who = login.method if login.method != "none" else "nothing"
    if login.user:
        who += f" of {short(login.user)}"
    details: list[str] = []
    if login.account:
        details.append(f"account {short(login.account)}")
    if login.expires is not None:
        details.append(ends(login.expires, report.examined_at))
    about = tuple(details)
    if login.error:
        return Step(key, title, "failed", f"Your credentials cannot be used: {login.error}.")
    if live.connected:
        if login.method == "none":
            required = info is not None and info.auth_required
            extra = " (a default user, or the client certificate)" if required else ""
            return Step(key, title, "ok", f"No credentials were needed{extra}.")
        if info is not None and not info.auth_required:
            return Step(key, title, "ok", f"Sent the {who}, which was not required.", about)
        return Step(key, title, "ok", f"The server accepted the {who}.", about)
    match live.kind:
        case "AuthorizationError" | "AuthenticationExpiredError" if login.method == "none":
            text = "The server requires credentials, and none were given."
            return Step(key, title, "failed", text)
        case "AuthorizationError" | "AuthenticationExpiredError":
            return Step(key, title, "failed", f"The server refused the {who}.", about)
        case "PlaintextAuthError":
            text = f"{capital(who)} not sent, because the connection is not encrypted."
            return Step(key, title, "failed", text, about)
        case "ServerReportedError":
            return Step(key, title, "failed", f'The server answered "{live.said}".', about)
        case "CredentialsError" | "ServerClosedError" if info is not None:
            return Step(key, title, "failed", f"{capital(live.text)}.", about)
        case _:
            words = "Not reached. "
            words += "No credentials to send." if who == "nothing" else f"Would send the {who}."
            return Step(key, title, "not reached", words, about)


def _round_trip(report: Report) -> Step:
    trips = report.live.round_trips
    if report.live.lost:
        return Step("round_trip", "Round trip", "failed", f"{capital(report.live.lost)}.")
    if not trips:
        return not_reached("round_trip", "Round trip")
    text = f"{duration(median(trips))} (median of {len(trips)})."
    return Step("round_trip", "Round trip", "ok", text)


def _jetstream(report: Report) -> Step:
    key, title, live = "jetstream", "JetStream", report.live
    if not live.connected or live.lost:
        return not_reached(key, title)
    match live.jetstream:
        case "on":
            return Step(key, title, "ok", "This account can use it.")
        case "off":
            why = f" ({live.jetstream_text})" if live.jetstream_text else ""
            text = f"Not available{why}. Streams, key-value and object stores need it."
            return Step(key, title, "ok", text)
        case "forbidden":
            text = f"Unknown: this user is not allowed to {live.jetstream_text}."
            return Step(key, title, "warning", text)
        case _:
            return Step(key, title, "warning", f"Unknown: {live.jetstream_text or 'not asked'}.")


def _path(report: Report) -> Step:
    key, title, info = "path", "Path", report.info
    if info is None:
        return not_reached(key, title)
    if report.ends_tls_before_server:
        text = (
            "A proxy terminates TLS in front of the server, which has no TLS itself. Others may be "
            "able to read the traffic between the two."
        )
        return Step(key, title, "ok", text)
    look = report.look
    if info.offers_tls and look is not None and not look.version:
        text = (
            "The server offers TLS, but no TLS handshake succeeds. A proxy in between may pass "
            "only plaintext."
        )
        return Step(key, title, "warning", text)
    ours = {dial.local for dial in report.dials if dial.local}
    theirs = info.client_ip
    if theirs and ours and theirs not in ours:
        text = (
            f"The server sees this client as {theirs}, not as {listing(sorted(ours))}: there is a "
            "proxy or NAT in between."
        )
        return Step(key, title, "ok", text)
    return Step(key, title, "ok", "No sign of a proxy in between.")


_STEPS: tuple[Callable[[Report], Step], ...] = (
    _address,
    _tcp,
    _greeting,
    _offer,
    mode,
    encryption,
    certificate,
    client_certificate,
    _login,
    _round_trip,
    _jetstream,
    _path,
)
