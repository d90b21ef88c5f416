"""Why no connection comes about, in words for somebody who has not read the specifications."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..._transport.tls_errors import client_certificate_fault
from ...options import TLSMode
from ...servers import Scheme
from .certificate_problems import certificate_problems
from .facts import Facts
from .finding import Finding
from .modes import OLD_TLS, version_is_too_old
from .wording import Call, listing, url_with

__all__ = ["problems"]

_REFUSED = "refused"


def problems(facts: Facts) -> Iterator[Finding]:
    """What keeps a client with these options from connecting. Nothing, if it connected."""
    if facts.live.connected:
        return
    found = False
    # Where there are several, each line of code holds the changes of those before it too.
    call = Call(facts.asked)
    for look in (_contradiction, _network, _certificate, _by_error, _peer, _anything_else):
        for finding in look(facts, call):
            found = True
            yield finding
        if found:
            return


def _problem(code: str, text: str, fix: str, line: str = "") -> Finding:
    return Finding("problem", code, text, fix, line)


# --- before anything is dialled ------------------------------------------------------------------


def _contradiction(facts: Facts, call: Call) -> Iterator[Finding]:
    asked = facts.asked
    if not asked.contradiction:
        return
    if asked.scheme == "tls":
        yield _problem(
            "contradiction",
            "The tls:// in the URL insists on encryption, and the mode DISABLE forbids it.",
            "Decide for one of them. To connect encrypted, leave the mode out:",
            call.change(drop=("mode",)),
        )
        yield from _and_then(facts, call)
    else:
        yield _problem(
            "contradiction",
            f"The options contradict each other: {asked.contradiction}.",
            "Nothing was dialled. Change the URL or the options so that they agree.",
        )


# --- the network ---------------------------------------------------------------------------------


def _network(facts: Facts, call: Call) -> Iterator[Finding]:
    asked = facts.asked
    if facts.lookup.error:
        yield _problem(
            "unresolved",
            f"No address is known for the name {asked.host}: {facts.lookup.error}.",
            "Check how the name is spelled. If it is right, this machine cannot look it up: "
            "perhaps it is known only inside another network, or a VPN is needed.",
            call.change(url_with(asked, host="the.right.name")),
        )
    elif not facts.reached:
        yield _unreachable(facts, call)


def _unreachable(facts: Facts, call: Call) -> Finding:
    asked, dials = facts.asked, facts.dials
    refused = [dial for dial in dials if _REFUSED in dial.error.lower()]
    if refused:
        return _problem(
            "port-closed",
            f"{asked.host} is there, but nothing listens on its port {asked.port}.",
            "Check that the server is running, and that this is its port for clients (4222 unless "
            "configured otherwise). A server in a container must publish that port.",
        )
    reasons = listing(list(dict.fromkeys(dial.error for dial in dials)))
    return _problem(
        "unreachable",
        f"{asked.host} cannot be reached on port {asked.port}: {reasons}.",
        "Check the address, and whether a firewall between here and there lets this port pass.",
    )


# --- certificates and the errors of an opening ---------------------------------------------------


def _certificate(facts: Facts, call: Call) -> Iterator[Finding]:
    if facts.live.kind == "TLSCertificateError":
        yield from certificate_problems(facts, call)
        yield from _client_certificate_too(facts, call)


def _client_certificate_too(facts: Facts, call: Call) -> Iterator[Finding]:
    """What comes next if the server's certificate is accepted."""
    info, look = facts.info, facts.look
    insists = look is not None and look.kind == "ClientCertificateError"
    if not _has_certificate(facts) and (insists or (info is not None and info.tls_verify)):
        yield from _client_certificate(facts, call)


def _and_then(facts: Facts, call: Call) -> Iterator[Finding]:
    """What a client runs into next, once it gets as far as the certificates."""
    yield from certificate_problems(facts, call)
    yield from _client_certificate_too(facts, call)


def _has_certificate(facts: Facts) -> bool:
    tls = facts.asked.tls
    return any(one is not None for one in (tls.cert_file, tls.bundle_file, tls.context))


def _by_error(facts: Facts, call: Call) -> Iterator[Finding]:
    explain = _EXPLANATIONS.get(facts.live.kind)
    if explain is not None:
        yield from explain(facts, call)


def _no_tls(facts: Facts, call: Call) -> Iterator[Finding]:
    asked = facts.asked
    yield _problem(
        "no-tls",
        "Your options insist on encryption, but this server offers none. Nothing was sent.",
        "Switch TLS on in the server: a tls block in its configuration. Only if it is all right "
        "that others can read everything on the way, connect without encryption:",
        call.change(url_with(asked, scheme="nats"), drop=_EVERYTHING_TLS),
    )


def _tls_required(facts: Facts, call: Call) -> Iterator[Finding]:
    asked = facts.asked
    yield _problem(
        "tls-required",
        "The server insists on encryption, and the mode DISABLE forbids it.",
        "Leave the mode out, and insist on encryption yourself with a tls:// URL:",
        call.change(url_with(asked, scheme="tls"), drop=("mode",)),
    )
    yield from _and_then(facts, call)


def _no_info(facts: Facts, call: Call) -> Iterator[Finding]:
    asked = facts.asked
    if not facts.waits_for_handshake:
        return
    who = (
        "a proxy that does the encryption for the server"
        if facts.ends_tls_before_server
        else "the server (its handshake_first option)"
    )
    if asked.acts_as is TLSMode.DISABLE:
        what = "the mode DISABLE never begins one"
    else:
        what = f"the mode {asked.acts_as} waits for the server to speak first"
    yield _problem(
        "handshake-first",
        f"Both sides wait for each other: {who} wants the TLS handshake first, and {what}.",
        "Use a tls:// URL, without a mode: then the client begins with the handshake.",
        call.change(url_with(asked, scheme="tls"), drop=("mode",)),
    )
    yield from _and_then(facts, call)


def _handshake(facts: Facts, call: Call) -> Iterator[Finding]:
    asked, info, look = facts.asked, facts.info, facts.look
    spoke_first = facts.greeting is not None and facts.greeting.info is not None
    if asked.acts_as is TLSMode.IMPLICIT and spoke_first:
        if info is not None and not info.offers_tls:
            yield from _no_tls(facts, call)
            return
        yield _problem(
            "speaks-first",
            "The mode IMPLICIT wants the server to be silent until the TLS handshake, but this "
            "one introduces itself first, as most do.",
            "Use REQUIRE. It insists on encryption just as much, and takes both kinds of server:",
            call.change(mode=TLSMode.REQUIRE),
        )
        yield from _and_then(facts, call)
    elif look is not None and look.version:
        yield from _version(facts, call)
    elif info is not None and info.offers_tls:
        yield from _unfinished(facts, call)


def _version(facts: Facts, call: Call) -> Iterator[Finding]:
    look = facts.look
    assert look is not None
    if look.version in OLD_TLS:
        yield _problem(
            "old-tls",
            f"The server speaks {look.version} at best, which has been broken for years. "
            "TLSv1.2 is the least that this client speaks.",
            "Update the server, or whatever ends TLS in front of it.",
        )
    elif version_is_too_old(facts):
        yield _problem(
            "tls-version",
            "Your options demand TLSv1.3, and the server speaks TLSv1.2 at best.",
            "Update the server. TLSv1.2 is still considered safe, so until then you can allow it:",
            call.change(drop=("minimum_version",)),
        )
    else:
        yield _problem(
            "handshake-failed",
            f"The TLS handshake failed, though another one, which checked nothing, worked: "
            f"{facts.live.text}.",
            "Compare the TLS options here with the server's: versions, ciphers, certificates.",
        )


def _unfinished(facts: Facts, call: Call) -> Iterator[Finding]:
    asked, info = facts.asked, facts.info
    assert info is not None
    begins = "The server says that it can do TLS, but a handshake with it cannot be finished. "
    cause = (
        "Either something between here and there passes plaintext only (a proxy or load balancer), "
        "or the server's TLS is not set up in full."
    )
    if info.tls_required:
        yield _problem("tls-broken", begins + cause, "Look into the server's log and mend its TLS.")
        return
    yield _problem(
        "tls-broken",
        begins + cause,
        "Connect past the proxy, or mend TLS there. The server would take plaintext too. Only if "
        "it is all right that others can read everything on the way, switch encryption off:",
        call.change(url_with(asked, scheme="nats"), drop=_EVERYTHING_TLS, mode=TLSMode.DISABLE),
    )


def _websocket(facts: Facts, call: Call) -> Iterator[Finding]:
    asked, greeting = facts.asked, facts.greeting
    if greeting is not None and greeting.info is not None:
        scheme: Scheme = "tls" if greeting.info.offers_tls else "nats"
        yield _problem(
            "not-websocket",
            f"Port {asked.port} speaks NATS itself, without the WebSocket around it that a "
            f"{asked.scheme}:// URL asks for.",
            f"Use a {scheme}:// URL, or the server's port for WebSockets:",
            call.change(url_with(asked, scheme=scheme)),
        )
        return
    yield _problem(
        "websocket",
        f"The peer does not agree to speak WebSocket: {facts.live.text}.",
        "Check the port and the path in the URL. A NATS server needs a websocket block in its "
        "configuration, and a proxy in front of it has to pass upgrades on.",
    )


def _material(facts: Facts, call: Call) -> Iterator[Finding]:
    yield _problem(
        "tls-options",
        f"The TLS options cannot be used: {facts.live.text}.",
        "Correct the option, or the file that it names. Nothing was dialled with it.",
    )


def _client_certificate(facts: Facts, call: Call) -> Iterator[Finding]:
    if not _has_certificate(facts):
        yield _problem(
            "client-certificate-missing",
            "The server lets in only those who show a certificate of their own, and your options "
            "have none.",
            "Ask whoever runs the server for a client certificate and its key, and give both:",
            call.change(cert_file="client.pem", key_file="client.key"),
        )
        return
    why = client_certificate_fault(facts.live.reason) or "it does not say why"
    yield _problem(
        "client-certificate-refused",
        f"The server does not accept your client certificate: {why}.",
        "Check that it has not expired, that it was issued by an authority that this server "
        "accepts, and that cert_file holds its intermediate certificates too.",
    )


def _tampering(facts: Facts, call: Call) -> Iterator[Finding]:
    yield _problem(
        "tampering",
        f"Something spoke where only encrypted bytes may be: {facts.live.text}.",
        "Somebody may be between you and the server. Do not connect over this network, and tell "
        "whoever runs it.",
    )


def _login_refused(facts: Facts, call: Call) -> Iterator[Finding]:
    asked, info = facts.asked, facts.info
    login = asked.login
    if login.method == "none":
        signs = info is not None and bool(info.nonce)
        example = 'Credentials(file="user.creds")' if signs else 'UserPassword("user", "...")'
        yield _problem(
            "login-missing",
            "The server lets in only those who log in, and your options have no credentials.",
            "Ask whoever runs the server for some, and give them as auth:",
            call.change(extra=(f"auth={example}",)),
        )
        return
    who = f" of {login.user}" if login.user else ""
    if login.expires is not None and login.expires < facts.examined_at:
        yield _problem(
            "login-expired",
            f"The {login.method}{who} expired on {login.expires:%Y-%m-%d}.",
            "Ask whoever runs the account for new credentials.",
        )
        return
    yield _problem(
        "login-refused",
        f'The server refused the {login.method}{who}: "{facts.live.said}".',
        "Check them, and that they are for this server: other servers have other users. If the "
        "server's configuration was changed, it may have to be reloaded.",
    )


def _unusable(facts: Facts, call: Call) -> Iterator[Finding]:
    yield _problem(
        "credentials-unusable",
        f"Your credentials cannot be used: {facts.asked.login.error or facts.live.text}.",
        "Correct them. Nothing of them was sent.",
    )


def _secret_in_plaintext(facts: Facts, call: Call) -> Iterator[Finding]:
    asked = facts.asked
    yield _problem(
        "plaintext-secret",
        f"Your {asked.login.method} would cross the network unencrypted, and plaintext_auth "
        'is "refuse". Nothing was sent.',
        "Switch TLS on in the server and use a tls:// URL:",
        call.change(url_with(asked, scheme="tls")),
    )


def _server_said(facts: Facts, call: Call) -> Iterator[Finding]:
    lowered = facts.live.said.lower()
    for kind in ("route", "leaf", "gateway"):
        if "attempted to connect to" in lowered and kind in lowered:
            yield _problem(
                "wrong-port",
                f"Port {facts.asked.port} is where NATS servers talk to each other ({kind}), not "
                "where clients connect.",
                "Use the server's port for clients, 4222 unless configured otherwise:",
                call.change(url_with(facts.asked, port=4222)),
            )
            return
    yield _problem(
        "turned-away",
        f'The server turned the client away: "{facts.live.said}".',
        "Ask whoever runs the server; its log says more.",
    )


def _closed(facts: Facts, call: Call) -> Iterator[Finding]:
    if facts.info is not None:
        yield _problem(
            "closed",
            f"The server closed the connection without saying why: {facts.live.text}.",
            "Look into the server's log. If there is a proxy in between, into the proxy's too.",
        )


# --- who is it? ----------------------------------------------------------------------------------


def _peer(facts: Facts, call: Call) -> Iterator[Finding]:
    if facts.info is not None or not facts.reached:
        return
    asked, web, greeting = facts.asked, facts.web, facts.greeting
    if web is not None and web.is_nats:
        scheme: Scheme = "wss" if web.over_tls else "ws"
        yield _problem(
            "websocket-port",
            f"Port {asked.port} is the server's port for WebSockets, as browsers use it.",
            f"Use a {scheme}:// URL, or the server's port for ordinary clients:",
            call.change(url_with(asked, scheme=scheme)),
        )
    elif web is not None:
        what = (
            "It looks like the monitoring port of a NATS server."
            if web.is_monitoring
            else "It is a web server, or a proxy for web servers."
        )
        yield _problem(
            "http",
            f'Port {asked.port} speaks HTTP, not NATS: it answered "{web.status}". {what}',
            "Use the NATS server's port for clients, 4222 unless configured otherwise:",
            call.change(url_with(asked, port=4222)),
        )
    elif greeting is not None and greeting.kind == "error":
        yield _problem(
            "turned-away",
            f'The server turns clients away at once: "{greeting.text}".',
            "Ask whoever runs the server; its log says more.",
        )
    elif greeting is not None and greeting.kind == "nonsense":
        yield _problem(
            "nonsense",
            f"The server introduces itself in a way no NATS server does: {greeting.text}.",
            "Check the address. If this is a NATS server, something between here and there "
            "changes what it says.",
        )
    elif greeting is not None and greeting.kind == "foreign":
        yield _problem(
            "not-nats",
            f"Something else than NATS answers on port {asked.port}. It begins with "
            f"{greeting.text}.",
            "Check address and port. A NATS server begins with INFO.",
        )
    else:
        yield _silent(facts, call)


def _silent(facts: Facts, call: Call) -> Finding:
    asked, greeting = facts.asked, facts.greeting
    if facts.speaks_tls:
        return _problem(
            "silent-inside-tls",
            f"Port {asked.port} speaks TLS, but says nothing inside it, as a NATS server would.",
            "Check address and port. If a proxy ends TLS here, check that the NATS server behind "
            "it is up.",
        )
    if greeting is not None and greeting.kind == "closed":
        return _problem(
            "closed-at-once",
            f"Port {asked.port} takes the connection and closes it without a word.",
            "If a proxy or load balancer listens there, check that the NATS server behind it is "
            "up. Otherwise check address and port.",
        )
    return _problem(
        "silent",
        f"Port {asked.port} takes the connection and then says nothing: no NATS, no TLS, no HTTP.",
        "Check address and port. If they are right, the server, or the proxy in front of it, "
        "hangs and may need a restart.",
    )


def _anything_else(facts: Facts, call: Call) -> Iterator[Finding]:
    yield _problem(
        "other",
        f"The connection failed: {facts.live.text}.",
        "The steps above show how far it came.",
    )


# --- parts ---------------------------------------------------------------------------------------

_EVERYTHING_TLS = (
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


_EXPLANATIONS: dict[str, Callable[[Facts, Call], Iterator[Finding]]] = {
    "TLSNotOfferedError": _no_tls,
    "TLSRequiredError": _tls_required,
    "NoInfoError": _no_info,
    "TLSHandshakeError": _handshake,
    "TLSConfigurationError": _material,
    "ClientCertificateError": _client_certificate,
    "TLSInjectionError": _tampering,
    "AuthorizationError": _login_refused,
    "AuthenticationExpiredError": _login_refused,
    "CredentialsError": _unusable,
    "PlaintextAuthError": _secret_in_plaintext,
    "WebSocketError": _websocket,
    "ServerReportedError": _server_said,
    "ServerClosedError": _closed,
}
