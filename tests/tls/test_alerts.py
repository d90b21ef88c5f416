"""What each alert of a server is taken to mean, read from the wire."""

from __future__ import annotations

import pytest

from tests.support.certs import certificates
from tests.support.peer import Peer, ScriptedServer
from trio_nats import (
    ClientCertificateError,
    ConnectError,
    TLSHandshakeError,
    TLSOptions,
    open_nats,
)

CERTS = certificates()

# RFC 8446, section 6.2: the alerts about certificates, and what we say of them.
ABOUT_OURS: dict[int, str] = {
    42: "it found it unacceptable, or requires one and got none (ALERT_BAD_CERTIFICATE)",
    43: "it does not support its kind (ALERT_UNSUPPORTED_CERTIFICATE)",
    44: "it has been revoked (ALERT_CERTIFICATE_REVOKED)",
    45: "it has expired (ALERT_CERTIFICATE_EXPIRED)",
    46: "it could not be checked (ALERT_CERTIFICATE_UNKNOWN)",
    48: "it does not know the authority that issued it (TLSV1_ALERT_UNKNOWN_CA)",
    49: "it is valid but not authorized (TLSV1_ALERT_ACCESS_DENIED)",
    116: "it requires one, and got none (TLSV13_ALERT_CERTIFICATE_REQUIRED)",
}
ABOUT_OTHER_THINGS: dict[int, str] = {
    40: "no common cipher, or no acceptable client certificate",
    70: "no TLS version that both sides allow; see minimum_version",
    80: "the server refused it (TLSV1_ALERT_INTERNAL_ERROR)",
    112: "the server has no certificate for that name, or none at all (TLSV1_UNRECOGNIZED_NAME)",
}
OPTIONS = {
    True: TLSOptions(
        ca_file=CERTS.ca_file, cert_file=CERTS.client.cert_file, key_file=CERTS.client.key_file
    ),
    False: TLSOptions(ca_file=CERTS.ca_file),
}


async def refused(alert: bytes, *, shown: bool, **info: object) -> Exception:
    """What becomes of an attempt whose ClientHello is answered by ``alert``."""

    async def script(peer: Peer) -> None:
        if info:
            await peer.send_info(**info)
        await peer.receive_client_hello()
        await peer.send(alert)
        await peer.stall()

    async with ScriptedServer(script) as server:
        with pytest.raises(ConnectError) as caught:
            async with open_nats(f"tls://localhost:{server.port}", tls=OPTIONS[shown]):
                pass
        (attempt,) = caught.value.attempts
        assert attempt.phase == "tls"
        assert f"tls://localhost:{server.port}" in str(attempt.error)
    return attempt.error


def fatal(code: int) -> bytes:
    return b"\x15\x03\x03\x00\x02\x02" + bytes([code])


@pytest.mark.parametrize("shown", [True, False], ids=["shown", "none"])
@pytest.mark.parametrize("code", ABOUT_OURS)
async def test_alerts_about_our_certificate(code: int, shown: bool) -> None:
    error = await refused(fatal(code), shown=shown, tls_required=True)
    assert type(error) is ClientCertificateError
    assert ABOUT_OURS[code] in str(error)
    if shown:
        assert "refused our client certificate" in str(error)
        assert "check cert_file (leaf first, then its intermediates)" in str(error)
    else:
        assert "refused the connection over the client certificate" in str(error)
        assert "pass cert_file and key_file" in str(error)


@pytest.mark.parametrize("code", ABOUT_OTHER_THINGS)
async def test_alerts_about_other_things(code: int) -> None:
    error = await refused(fatal(code), shown=True, tls_required=True)
    assert type(error) is TLSHandshakeError
    assert ABOUT_OTHER_THINGS[code] in str(error)


@pytest.mark.parametrize(
    ("shown", "info", "about_ours"),
    [
        (True, {"tls_required": True, "tls_verify": True}, True),
        (False, {"tls_required": True, "tls_verify": True}, True),
        (False, {"tls_required": True}, False),
        (False, {}, True),
        (True, {}, False),
    ],
)
async def test_a_plain_handshake_failure(
    shown: bool, info: dict[str, object], about_ours: bool
) -> None:
    """It alone does not say what failed; whether the server verifies, and what we gave, does."""
    error = await refused(fatal(40), shown=shown, **info)
    assert type(error) is (ClientCertificateError if about_ours else TLSHandshakeError)
    assert ("it most likely requires one that it accepts" in str(error)) is about_ours


@pytest.mark.parametrize("code", [40, 80])
async def test_errors_with_optional_tls_name_the_alternative(code: int) -> None:
    error = await refused(fatal(code), shown=True, tls_available=True)
    assert type(error) is TLSHandshakeError
    assert "The server's INFO offers TLS without requiring it" in str(error)
    assert "use TLS mode DISABLE" in str(error)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"\x16\x13\x37\x00\x05hello", "the peer answered with something that is not TLS"),
        (b"\x16\x03\x03\xff\xff", "the peer answered with something that is not TLS"),
        (b"\x16\x03\x03\x00\x04abcd", "failed: "),
    ],
)
async def test_data_that_begins_like_tls(answer: bytes, words: str) -> None:
    error = await refused(answer, shown=False, tls_required=True)
    assert type(error) is TLSHandshakeError
    assert words in str(error)
