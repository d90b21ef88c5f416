"""Advice on reports that no server on this machine can cause, as pure functions."""

from __future__ import annotations

import ast
import datetime
from dataclasses import replace
from typing import Any

import pytest

from trio_nats import TLSMode, TLSOptions
from trio_nats._transport.tls_info import CertificateInfo
from trio_nats.cli.doctor.advice import advise
from trio_nats.cli.doctor.finding import Finding
from trio_nats.cli.doctor.formatting import amount, duration, ends, listing, size
from trio_nats.cli.doctor.report import (
    Asked,
    Certificates,
    Dial,
    Greeting,
    Live,
    Login,
    Look,
    Lookup,
    Report,
    Trial,
    Web,
)
from trio_nats.cli.doctor.steps import walk
from trio_nats.server_info import ServerInfo

NOW = datetime.datetime(2026, 6, 15, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
PASSWORD_LOGIN = Login(method="user and password", source="options", user="joe", replayable=True)


def certificate(days: float = 100, since: float = -100, **fields: Any) -> CertificateInfo:
    values: dict[str, Any] = {
        "subject": "CN=nats.example",
        "issuer": "CN=Example CA",
        "subject_alt_names": ("nats.example",),
        "not_before": NOW + since * DAY,
        "not_after": NOW + days * DAY,
        "sha256": "ab" * 32,
    }
    return CertificateInfo(**values | fields)


def report(
    *,
    tls: TLSOptions | None = None,
    acts_as: TLSMode = TLSMode.PREFER,
    login: Login | None = None,
    outcome: Any = "plaintext",
    live: Live | None = None,
    info: ServerInfo | None = None,
    asked: dict[str, Any] | None = None,
    **others: Any,
) -> Report:
    """Return a report on a remote server. The client connects, unless ``live`` says otherwise."""
    info = info or ServerInfo(version="2.99.0", headers=True, auth_required=login is not None)
    version = "TLSv1.3" if outcome == "tls" else ""
    given: dict[str, Any] = {
        "url": "nats://nats.example:4222",
        "scheme": "nats",
        "host": "nats.example",
        "port": 4222,
        "tls": tls or TLSOptions(),
        "acts_as": acts_as,
        "name": "nats.example",
        "login": login or Login(),
        "plaintext_auth": "warn",
        "timeout": 5.0,
    }
    made = Report(
        asked=Asked(**given | (asked or {})),
        examined_at=NOW,
        live=live or Live(connected=True, info=info, tls_version=version, round_trips=(0.1,)),
        lookup=Lookup(addresses=("192.0.2.1",), seconds=0.01),
        dials=(Dial(address="192.0.2.1", seconds=0.01, local="192.0.2.9"),),
        greeting=Greeting(kind="info", seconds=0.01, info=info),
        look=Look(version=version, cipher="TLS_AES_128_GCM_SHA256") if version else None,
        trials=tuple(
            Trial(mode=mode, acts_as=acts_as, outcome=outcome, kind=live.kind if live else "")
            for mode in TLSMode
        ),
    )
    return replace(made, **others)


def failed(kind: str, **fields: Any) -> Live:
    return Live(connected=False, kind=kind, text="the text of the error", **fields)


def codes(found: Report) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in advise(found)]


def step(found: Report, key: str) -> tuple[str, str]:
    (one,) = [one for one in walk(found) if one.key == key]
    return one.status, one.text


# --- warnings ------------------------------------------------------------------------------------


def test_nothing_to_say_about_a_good_connection() -> None:
    found = report(
        acts_as=TLSMode.REQUIRE,
        outcome="tls",
        login=PASSWORD_LOGIN,
        certificates=Certificates(chain=(certificate(),), trust="ok", name_matches=True),
    )
    assert advise(found) == ()
    assert {one.status for one in walk(found)} == {"ok", "warning"}  # JetStream was not asked


def test_plaintext_on_a_network() -> None:
    found = report()
    (finding,) = advise(found)
    assert (finding.severity, finding.code) == ("warning", "plaintext")
    assert finding.line == 'open_nats("tls://nats.example:4222")'
    assert step(found, "encryption")[0] == "warning"


def test_a_password_in_plaintext_on_a_network() -> None:
    (finding,) = advise(report(login=PASSWORD_LOGIN))
    assert (finding.severity, finding.code) == ("warning", "plaintext-secret")
    assert "user and password" in finding.text


def test_a_signature_in_plaintext_is_no_password() -> None:
    assert codes(report(login=Login(method="NKey", user="U..."))) == [("warning", "plaintext")]


def test_plaintext_although_the_server_supports_tls() -> None:
    tls = TLSOptions(mode=TLSMode.DISABLE)
    look = Look(version="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256")
    found = report(tls=tls, acts_as=TLSMode.DISABLE, look=look)
    (finding,) = advise(found)
    assert "supports TLS" in finding.fix
    assert finding.line == 'open_nats("tls://nats.example:4222")'


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.9.9.9"])
def test_plaintext_on_this_machine(address: str) -> None:
    dials = (Dial(address=address, seconds=0.001, local=address),)
    found = report(login=PASSWORD_LOGIN, dials=dials)
    assert advise(found) == ()
    assert step(found, "encryption")[0] == "ok"


def test_encryption_that_an_attacker_can_prevent() -> None:
    assert codes(report(outcome="tls")) == [("warning", "can-be-stripped")]
    assert codes(report(outcome="tls", acts_as=TLSMode.REQUIRE)) == []


@pytest.mark.parametrize(("days", "expected"), [(31, False), (29, True), (0.1, True)])
def test_credentials_and_certificates_that_expire_soon(days: float, expected: bool) -> None:
    chain = (certificate(days), certificate(subject="CN=Example CA"))
    ends_then = NOW + days * DAY
    found = report(
        outcome="tls",
        acts_as=TLSMode.REQUIRE,
        login=Login(method="JWT", user="U...", expires=ends_then),
        certificates=Certificates(chain=chain, trust="ok", name_matches=True),
    )
    found = replace(found, live=replace(found.live, certificate_expires=ends_then))
    all_three = ["login-ends", "client-certificate-ends", "certificate-ends"]
    assert [code for _, code in codes(found)] == (all_three if expected else [])
    assert (step(found, "certificate")[0] == "warning") is expected


def test_an_address_that_does_not_answer() -> None:
    found = report(outcome="tls", acts_as=TLSMode.REQUIRE)
    dead = Dial(address="2001:db8::1", seconds=3, error="no answer within 3 s")
    found = replace(found, dials=(*found.dials, dead))
    assert codes(found) == [("hint", "some-addresses")]
    assert step(found, "tcp")[0] == "warning"


def test_a_server_in_lame_duck_mode() -> None:
    info = ServerInfo(ldm=True)
    found = report(outcome="tls", acts_as=TLSMode.REQUIRE, info=info)
    assert codes(found) == [("warning", "lame-duck")]
    assert step(found, "offer")[0] == "warning"


def test_options_without_effect() -> None:
    tls = TLSOptions(mode=TLSMode.DISABLE, ca_file="ca.pem")
    assert ("hint", "no-effect-tls") in codes(report(tls=tls, acts_as=TLSMode.DISABLE))


def test_a_connection_that_did_not_last() -> None:
    found = report(outcome="tls", acts_as=TLSMode.REQUIRE)
    found = replace(found, live=replace(found.live, lost="it broke", round_trips=()))
    assert codes(found) == [("warning", "did-not-last")]
    assert step(found, "round_trip")[0] == "failed"


def test_a_user_who_may_not_ask_about_jetstream() -> None:
    found = report(outcome="tls", acts_as=TLSMode.REQUIRE)
    live = replace(found.live, jetstream="forbidden", jetstream_text="publish to $JS.API.INFO")
    assert codes(replace(found, live=live)) == [("hint", "jetstream-forbidden")]


# --- problems ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "fields", "code"),
    [
        (failed("TLSInjectionError"), {}, "tampering"),
        (failed("PlaintextAuthError"), {"login": PASSWORD_LOGIN}, "plaintext-secret"),
        (
            failed("CredentialsError"),
            {"info": ServerInfo(auth_required=True)},
            "credentials-unusable",
        ),
        (failed("AuthorizationError", said="Authorization Violation"), {}, "login-missing"),
        (
            failed("AuthorizationError", said="Authorization Violation"),
            {"login": Login(method="JWT", user="U...", expires=NOW - DAY)},
            "login-expired",
        ),
        (failed("ServerReportedError", said="maximum connections exceeded"), {}, "turned-away"),
        (
            failed("ServerReportedError", said="attempted to connect to leaf node port"),
            {},
            "wrong-port",
        ),
        (failed("ServerClosedError"), {}, "closed"),
        (failed("WebSocketError"), {"greeting": None, "asked": {"scheme": "ws"}}, "websocket"),
        (
            failed("TLSHandshakeError"),
            {"look": Look(version="TLSv1.3", cipher="x")},
            "handshake-failed",
        ),
        (failed("TLSHandshakeError"), {"info": ServerInfo(tls_required=True)}, "tls-broken"),
        (
            failed("TLSConfigurationError"),
            {"dials": (Dial(address="192.0.2.1", seconds=1, error="Connection refused"),)},
            "tls-options",
        ),
        (failed("SomethingNew"), {}, "other"),
        (
            failed("NoInfoError"),
            {"greeting": Greeting(kind="error", seconds=0.1, text="too many")},
            "turned-away",
        ),
        (
            failed("ProtocolError"),
            {"greeting": Greeting(kind="nonsense", seconds=0.1, text="no JSON")},
            "nonsense",
        ),
        (
            failed("NoInfoError"),
            {
                "greeting": Greeting(kind="silence", seconds=3),
                "look": Look(version="TLSv1.3", cipher="x"),
            },
            "silent-inside-tls",
        ),
        (
            failed("NoInfoError"),
            {
                "greeting": Greeting(kind="silence", seconds=3),
                "web": Web(over_tls=True, status="HTTP/1.1 101", is_nats=True, is_monitoring=False),
            },
            "websocket-port",
        ),
        (
            failed("ConnectTimeoutError"),
            {"dials": (Dial(address="192.0.2.1", seconds=3, error="no answer within 3 s"),)},
            "unreachable",
        ),
    ],
)
def test_problem(live: Live, fields: dict[str, Any], code: str) -> None:
    found = report(outcome="fails", live=live, **fields)
    first, *_ = advise(found)
    assert (first.severity, first.code) == ("problem", code)
    assert all(one.text and one.key for one in walk(found))


def test_an_authority_that_has_expired() -> None:
    """The server does not always send the certificate of the issuer."""
    broken = Certificates(chain=(certificate(),), trust="expired", name_matches=True)
    found = report(outcome="fails", live=failed("TLSCertificateError"), certificates=broken)
    (finding,) = advise(found)
    assert finding.code == "certificate-expired"
    assert "issuer" in finding.text


def test_all_faults_of_a_certificate_are_reported() -> None:
    chain = (certificate(days=-1),)
    broken = Certificates(chain=chain, trust="untrusted", name_matches=False)
    found = report(outcome="fails", live=failed("TLSCertificateError"), certificates=broken)
    assert [code for _, code in codes(found)] == [
        "certificate-untrusted",
        "certificate-name",
        "certificate-expired",
    ]
    status, text = step(found, "certificate")
    assert status == "failed"
    for fault in ("not trusted here", "is not for nats.example", "has expired"):
        assert fault in text


def test_a_server_hostname_that_the_certificate_lacks() -> None:
    broken = Certificates(chain=(certificate(),), trust="name", name_matches=False)
    found = report(
        tls=TLSOptions(server_hostname="other.example"),
        outcome="fails",
        live=failed("TLSCertificateError"),
        certificates=broken,
    )
    (finding,) = advise(found)
    assert "Leave out server_hostname" in finding.fix
    assert 'server_hostname="nats.example"' in finding.line


def test_options_that_contradict_each_other_otherwise() -> None:
    asked = {"contradiction": "WebSocket connections need the 'ws' extra", "scheme": "ws"}
    refused = failed("ConfigurationError", phase="options")
    (finding,) = advise(report(outcome="refused", live=refused, asked=asked))
    assert finding.code == "contradiction"
    assert "'ws' extra" in finding.text


def test_a_certificate_without_names() -> None:
    broken = Certificates(
        chain=(certificate(subject_alt_names=()),), trust="name", name_matches=False
    )
    found = report(outcome="fails", live=failed("TLSCertificateError"), certificates=broken)
    (finding,) = advise(found)
    assert "no host at all" in finding.text
    assert finding.line == ""


def test_a_certificate_that_could_not_be_decoded() -> None:
    bare = certificate(subject="", issuer="", subject_alt_names=(), not_before=None, not_after=None)
    broken = Certificates(chain=(bare,), trust="untrusted")
    found = report(outcome="fails", live=failed("TLSCertificateError"), certificates=broken)
    (finding,) = advise(found)
    assert "an authority that is not named" in finding.text
    assert any("pkcs12" in detail for one in walk(found) for detail in one.details)


def test_a_proxy_in_between() -> None:
    found = report(info=ServerInfo(client_ip="198.51.100.7"))
    status, text = step(found, "path")
    assert status == "ok"
    assert "198.51.100.7" in text


# --- code ----------------------------------------------------------------------------------------


def everything() -> TLSOptions:
    return TLSOptions(
        mode=TLSMode.DISABLE,
        ca_file='with "quotes"\\.pem',
        cert_file="/a/very/long/path/that/does/not/fit/into/one/line/cert.pem",
        key_file="key.pem",
        key_password="hidden-password",
        server_hostname="other.example",
    )


def lines() -> list[Finding]:
    found: list[Finding] = []
    for kind in ("TLSRequiredError", "ClientCertificateError", "AuthorizationError"):
        for tls in (TLSOptions(), everything()):
            live = failed(kind, said="no")
            found += advise(report(tls=tls, acts_as=TLSMode.DISABLE, outcome="fails", live=live))
    return [finding for finding in found if finding.line]


@pytest.mark.parametrize("finding", lines(), ids=lambda finding: finding.code)
def test_code_is_code(finding: Finding) -> None:
    call = ast.parse(finding.line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert "hidden-password" not in finding.line
    assert max(map(len, finding.line.splitlines())) <= 88


# --- formatting ----------------------------------------------------------------------------------


def test_formatting() -> None:
    assert listing([]) == ""
    assert listing(["a"]) == "a"
    assert listing(["a", "b"]) == "a and b"
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert listing(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
    assert [duration(seconds) for seconds in (0.00025, 0.0123, 0.5, 3)] == [
        "0.25 ms",
        "12 ms",
        "500 ms",
        "3.0 s",
    ]
    assert [amount(number, "day") for number in (0, 1, 2000)] == ["0 days", "1 day", "2,000 days"]
    assert [size(number) for number in (1, 1000, 2048, 1024**2)] == [
        "1 byte",
        "1,000 bytes",
        "2 KiB",
        "1 MiB",
    ]
    assert ends(NOW + 12 * DAY, NOW) == "expires in 12 days (2026-06-27)"
    assert ends(NOW + DAY / 3, NOW) == "expires within 9 hours (2026-06-15)"
    assert ends(NOW - DAY / 24, NOW) == "expired today (2026-06-15)"
    assert ends(NOW - 1.5 * DAY, NOW) == "expired 1 day ago (2026-06-14)"
