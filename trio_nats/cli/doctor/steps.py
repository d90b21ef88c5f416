"""How far a connection comes, step by step: a pure function from facts to sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

from ..._transport.tls_info import CertificateInfo
from ...options import TLSMode
from ...server_info import ServerInfo
from .cautions import outcome, stays_here
from .facts import Facts
from .modes import reason
from .wording import duration, ends, ends_soon, given_material, listing, size

__all__ = ["Status", "Step", "walk"]

Status: TypeAlias = Literal["ok", "warning", "failed", "not reached"]

_SLOW_GREETING = 0.04


@dataclass(frozen=True, slots=True)
class Step:
    """One step on the way to a connection."""

    key: str
    """Its name for machines."""
    title: str
    status: Status
    text: str
    details: tuple[str, ...] = ()


def walk(facts: Facts) -> tuple[Step, ...]:
    """All steps, in the order in which a connection takes them."""
    return tuple(step(facts) for step in _STEPS)


def _not_reached(key: str, title: str, text: str = "Not reached.") -> Step:
    return Step(key, title, "not reached", text)


# --- network -------------------------------------------------------------------------------------


def _address(facts: Facts) -> Step:
    asked, lookup = facts.asked, facts.lookup
    if lookup.error:
        return Step("address", "Address", "failed", f"No address for {asked.host}: {lookup.error}.")
    if lookup.addresses == (asked.host,):
        return Step("address", "Address", "ok", f"{asked.host} is an address already.")
    found = listing(list(lookup.addresses))
    text = f"{asked.host} is {found}, found in {duration(lookup.seconds)}."
    return Step("address", "Address", "ok", text)


def _tcp(facts: Facts) -> Step:
    port = facts.asked.port
    if not facts.dials:
        return _not_reached("tcp", "TCP")
    words = [
        f"{dial.address} did not answer: {dial.error}"
        if dial.error
        else f"{dial.address} answered in {duration(dial.seconds)}"
        for dial in facts.dials
    ]
    failed = any(dial.error for dial in facts.dials)
    status: Status = "ok" if not failed else "warning" if facts.reached else "failed"
    return Step("tcp", "TCP", status, f"On port {port} {'; '.join(words)}.")


# --- the server's words --------------------------------------------------------------------------


def _greeting(facts: Facts) -> Step:
    key, title = "greeting", "First words"
    greeting, look = facts.greeting, facts.look
    if greeting is None:
        return _not_reached(key, title)
    if facts.asked.is_websocket and greeting.kind in ("silence", "closed"):
        if facts.told is not None:
            return Step(
                key, title, "ok", "A NATS server, behind an upgrade from HTTP to WebSocket."
            )
        return Step(key, title, "failed", f"{_capital(_own_reason(facts))}.")
    inside = look is not None and look.info_inside is not None
    took = duration(greeting.seconds)
    match greeting.kind:
        case "info" if inside and greeting.seconds > _SLOW_GREETING:
            text = (
                f"A NATS server. It gives clients {took} to begin the TLS handshake, and then "
                "introduces itself in plaintext (handshake_first: auto)."
            )
            return Step(key, title, "ok", text)
        case "info":
            text = f"A NATS server: it introduced itself in plaintext after {took}."
            return Step(key, title, "ok", text)
        case "silence" | "closed" if inside:
            text = (
                "A NATS server that says nothing in plaintext. It waits for the TLS handshake and "
                "introduces itself inside."
            )
            return Step(key, title, "ok", text)
        case "closed":
            return Step(key, title, "failed", f"It closed the connection after {took}, silently.")
        case "silence":
            return Step(key, title, "failed", f"It said nothing for {took}.")
        case "error":
            return Step(key, title, "failed", f'It turned us away: "{greeting.text}".')
        case "nonsense":
            return Step(key, title, "failed", f"It began like NATS, but {greeting.text}.")
        case _:
            return Step(key, title, "failed", f"It is not NATS. It began with {greeting.text}.")


def _offer(facts: Facts) -> Step:
    info = facts.info
    if info is None:
        return _not_reached("offer", "Server")
    name = "" if info.server_name in ("", info.server_id) else f' "{info.server_name}"'
    text = f"nats-server {info.version or 'of unknown version'}{name}."
    details = [
        f"TLS: {_tls_words(facts, info)}",
        f"login: {'required' if info.auth_required else 'not required'}"
        + (", takes NKeys and JWTs (sent a nonce)" if info.nonce else ""),
        f"largest message: {size(info.max_payload)}",
        f"headers: {'yes' if info.headers else 'no'}",
        f"JetStream: {'yes' if info.jetstream else 'no'}"
        + (f", domain {info.domain}" if info.domain else ""),
    ]
    if info.cluster:
        count = len(info.connect_urls or ())
        others = f", {count} address{'es' if count > 1 else ''} known" if count else ""
        details.append(f"cluster: {info.cluster}{others}")
    status: Status = "ok"
    if info.ldm:
        status, text = "warning", f"{text} It is about to shut down (lame duck mode)."
    return Step("offer", "Server", status, text, tuple(details))


def _tls_words(facts: Facts, info: ServerInfo) -> str:
    if info.tls_required:
        words = "required"
    elif info.tls_available:
        words = "available, not required"
    elif facts.ends_tls_before_server:
        words = "none of its own (a proxy does it)"
    else:
        words = "none"
    return words + (", checks client certificates" if info.tls_verify else "")


# --- encryption ----------------------------------------------------------------------------------

_MEANING = {
    TLSMode.PREFER: "encrypted if the server offers it, otherwise not",
    TLSMode.REQUIRE: "encrypted or not connected",
    TLSMode.IMPLICIT: "encrypted before anybody says a word, or not connected",
    TLSMode.DISABLE: "never encrypted",
}


def _mode(facts: Facts) -> Step:
    key, title = "mode", "TLS mode"
    asked = facts.asked
    if asked.contradiction:
        return Step(key, title, "failed", f"{_capital(asked.contradiction)}.")
    if facts.live.kind == "TLSConfigurationError":
        return Step(key, title, "failed", f"{_capital(facts.live.text)}.")
    mode, acts_as = asked.tls.mode, asked.acts_as
    if asked.scheme in ("ws", "wss"):
        what = "encrypted" if asked.scheme == "wss" else "not encrypted"
        return Step(key, title, "ok", f"The URL decides: {asked.scheme}:// is {what}.")
    meaning = _MEANING[acts_as]
    if mode is acts_as:
        return Step(key, title, "ok", f"{mode}, as asked for: {meaning}.")
    material = given_material(asked.tls)
    if asked.scheme == "tls":
        why = "because the URL begins with tls://"
    elif material:
        why = f"because {listing(material)} {'is' if len(material) == 1 else 'are'} given"
    else:
        why = "because neither the URL nor the options ask for TLS"
    return Step(key, title, "ok", f"{mode} acts as {acts_as}, {why}: {meaning}.")


def _encryption(facts: Facts) -> Step:
    key, title = "encryption", "Encryption"
    if facts.asked.contradiction or not facts.reached or (facts.info is None and not _tried(facts)):
        return _not_reached(key, title)
    live, look = facts.live, facts.look
    match outcome(facts):
        case "tls":
            version = live.tls_version or (look.version if look else "")
            cipher = live.cipher or (look.cipher if look else "")
            text = f"{version} with {cipher}."
            if look is not None and look.info_inside is not None:
                text += " Even the server's first words come encrypted."
            return Step(key, title, "ok", text)
        case "plaintext" if stays_here(facts):
            text = "None. That is all right here: nothing leaves this machine."
            return Step(key, title, "ok", text)
        case "plaintext":
            return Step(key, title, "warning", "None: others on the way can read everything.")
        case "unknown":
            return _not_reached(key, title)
        case _ if live.kind == "TLSConfigurationError":
            return _not_reached(key, title)
        case _ if _handshake_worked(facts) and look is not None:
            text = f"{look.version} with {look.cipher} is possible."
            return Step(key, title, "ok", text)
        case _:
            return Step(key, title, "failed", f"{_capital(_own_reason(facts))}.")


def _tried(facts: Facts) -> bool:
    return facts.look is not None and bool(facts.look.version)


_BEHIND_THE_HANDSHAKE = ("TLSCertificateError", "ClientCertificateError")


def _handshake_worked(facts: Facts) -> bool:
    return _tried(facts) and _own_kind(facts) in _BEHIND_THE_HANDSHAKE


def _own_kind(facts: Facts) -> str:
    own = [trial for trial in facts.trials if trial.mode is facts.asked.tls.mode]
    return own[0].kind if own else ""


def _own_reason(facts: Facts) -> str:
    own = [trial for trial in facts.trials if trial.mode is facts.asked.tls.mode]
    return reason(own[0], facts) if own else facts.live.text.removesuffix(".")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _certificate(facts: Facts) -> Step:
    key, title = "certificate", "Certificate"
    found = facts.certificates
    if outcome(facts) == "plaintext" or facts.asked.acts_as is TLSMode.DISABLE:
        return _not_reached(key, title, "Not looked at: without encryption it says nothing.")
    if found is None or not found.chain or found.trust == "unknown":
        return _not_reached(key, title)
    details = tuple(_certificate_words(one, facts) for one in found.chain)
    leaf = found.chain[0]
    names = listing(list(leaf.subject_alt_names))
    name = facts.asked.name
    if facts.asked.tls.insecure_skip_verify:
        would = "would" if found.trust == "ok" else "would not"
        text = f"Not checked (insecure_skip_verify). If it were, it {would} be accepted."
        return Step(key, title, "warning", text, details)
    match found.trust:
        case "ok":
            status: Status = "warning" if ends_soon(leaf.not_after, facts.examined_at) else "ok"
            return Step(key, title, status, f"Trusted, and for {name} as it should be.", details)
        case "untrusted":
            faults = ["it comes from an authority that is not trusted here"]
        case "self-signed":
            faults = ["it vouches for itself (self-signed)"]
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
    if found.trust in ("untrusted", "self-signed", "name") and _expired(leaf, facts):
        faults.append("it has expired")
    return Step(key, title, "failed", f"Not accepted: {listing(faults)}.", details)


def _expired(certificate: CertificateInfo, facts: Facts) -> bool:
    return certificate.not_after is not None and certificate.not_after < facts.examined_at


def _certificate_words(certificate: CertificateInfo, facts: Facts) -> str:
    if not certificate.subject and certificate.not_after is None:
        return f"SHA-256 {certificate.sha256} (to see more, install trio-nats[pkcs12])"
    words = certificate.subject or "(no subject)"
    if certificate.subject_alt_names:
        words += f", for {listing(list(certificate.subject_alt_names))}"
    if certificate.issuer == certificate.subject:
        words += ", self-signed"
    else:
        words += f", by {certificate.issuer}"
    if certificate.not_before is not None and certificate.not_before > facts.examined_at:
        words += f", valid from {certificate.not_before:%Y-%m-%d} on"
    elif certificate.not_after is not None:
        words += f", {ends(certificate.not_after, facts.examined_at)}"
    return words


def _client_certificate(facts: Facts) -> Step:
    key, title = "client_certificate", "Our certificate"
    look, live, asked = facts.look, facts.live, facts.asked
    if outcome(facts) == "plaintext" or asked.acts_as is TLSMode.DISABLE:
        return _not_reached(key, title, "Not asked for: that happens under encryption only.")
    if look is None or not look.version:
        return _not_reached(key, title)
    if "ClientCertificateError" in (live.kind, _own_kind(facts)):
        given = asked.tls.cert_file or asked.tls.bundle_file or asked.tls.context
        what = "does not accept ours" if given else "got none"
        return Step(key, title, "failed", f"The server wants a client certificate, and {what}.")
    if look.asks_for_certificate is None:
        return Step(key, title, "ok", "Whether the server asked for one cannot be seen here.")
    if not look.asks_for_certificate:
        return Step(key, title, "ok", "The server asked for none.")
    if not live.connected:
        return _not_reached(key, title, "The server asks for one.")
    if asked.tls.cert_file is None and asked.tls.bundle_file is None:
        return Step(key, title, "ok", "The server asked for one, and did without.")
    text = "The server asked for one, and accepted ours."
    if live.certificate_expires is None:
        return Step(key, title, "ok", text)
    soon = ends_soon(live.certificate_expires, facts.examined_at)
    text += f" It {ends(live.certificate_expires, facts.examined_at)}."
    return Step(key, title, "warning" if soon else "ok", text)


# --- behind the handshake ------------------------------------------------------------------------


def _login(facts: Facts) -> Step:
    key, title = "login", "Login"
    live, login, info = facts.live, facts.asked.login, facts.info
    who = login.method if login.method != "none" else "nothing"
    if login.user:
        who += f" of {login.user}"
    details: list[str] = []
    if login.account:
        details.append(f"account {login.account}")
    if login.expires is not None:
        details.append(ends(login.expires, facts.examined_at))
    about = tuple(details)
    if login.error:
        return Step(key, title, "failed", f"Our credentials cannot be used: {login.error}.")
    if live.connected:
        if login.method == "none":
            required = info is not None and info.auth_required
            extra = " (a default user, or the client certificate)" if required else ""
            return Step(key, title, "ok", f"No credentials were needed{extra}.")
        if info is not None and not info.auth_required:
            return Step(key, title, "ok", f"Sent {who}, which the server did not ask for.", about)
        return Step(key, title, "ok", f"The server accepted the {who}.", about)
    match live.kind:
        case "AuthorizationError" | "AuthenticationExpiredError" if login.method == "none":
            return Step(key, title, "failed", "The server wants credentials, and got none.")
        case "AuthorizationError" | "AuthenticationExpiredError":
            return Step(key, title, "failed", f"The server refused the {who}.", about)
        case "PlaintextAuthError":
            return Step(key, title, "failed", f"{_capital(who)} not sent: no encryption.", about)
        case "ServerReportedError":
            return Step(key, title, "failed", f'The server answered "{live.said}".', about)
        case "CredentialsError" | "ServerClosedError" if info is not None:
            return Step(key, title, "failed", f"{_capital(live.text)}.", about)
        case _:
            words = "Not reached. "
            words += "Nothing would be sent." if who == "nothing" else f"It would be {who}."
            return Step(key, title, "not reached", words, about)


def _round_trip(facts: Facts) -> Step:
    trips = facts.live.round_trips
    if facts.live.lost:
        return Step("round_trip", "Round trip", "failed", f"{_capital(facts.live.lost)}.")
    if not trips:
        return _not_reached("round_trip", "Round trip")
    text = f"{duration(median(trips))}, the median of {len(trips)}."
    return Step("round_trip", "Round trip", "ok", text)


def _jetstream(facts: Facts) -> Step:
    key, title, live = "jetstream", "JetStream", facts.live
    if not live.connected or live.lost:
        return _not_reached(key, title)
    match live.jetstream:
        case "on":
            return Step(key, title, "ok", "Yes, this account can use it.")
        case "off":
            why = f" ({live.jetstream_text})" if live.jetstream_text else ""
            text = f"No{why}. Streams, key-value and object stores do not work here."
            return Step(key, title, "ok", text)
        case "forbidden":
            text = f"Unknown: this user is not allowed to {live.jetstream_text}."
            return Step(key, title, "warning", text)
        case _:
            return Step(key, title, "warning", f"Unknown: {live.jetstream_text or 'not asked'}.")


def _path(facts: Facts) -> Step:
    key, title, info = "path", "Path", facts.info
    if info is None:
        return _not_reached(key, title)
    if facts.ends_tls_before_server:
        text = (
            "TLS ends before the server: a proxy in front of it does it, for the server itself "
            "knows of none. Between the two others may listen."
        )
        return Step(key, title, "ok", text)
    look = facts.look
    if info.offers_tls and look is not None and not look.version:
        text = (
            "The server offers TLS, but it cannot be reached with it: perhaps something in between "
            "passes plaintext only."
        )
        return Step(key, title, "warning", text)
    ours = {dial.local for dial in facts.dials if dial.local}
    theirs = info.client_ip
    if theirs and ours and theirs not in ours:
        text = (
            f"The server sees us as {theirs}, and not as {listing(sorted(ours))}: a proxy or an "
            "address translation stands in between."
        )
        return Step(key, title, "ok", text)
    return Step(key, title, "ok", "No sign of a proxy in between.")


_STEPS: tuple[Callable[[Facts], Step], ...] = (
    _address,
    _tcp,
    _greeting,
    _offer,
    _mode,
    _encryption,
    _certificate,
    _client_certificate,
    _login,
    _round_trip,
    _jetstream,
    _path,
)
