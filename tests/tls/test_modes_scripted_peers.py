"""The truth table of the TLS modes by scheme and material, against a peer that records bytes.

The columns are the kinds of server as measured on a real one; ``test_modes_real_servers`` connects
to these. What is asserted beyond the outcome is what the peer saw: in a mode that promises TLS,
nothing of ours but TLS records, ever.
"""

from __future__ import annotations

import pytest
import trio

from tests.support.certs import certificates, server_context
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.scripts import SERVER_KINDS, tls_auto
from tests.support.timeouts import HANG_TIMEOUT
from tests.support.tls_records import is_only_tls_records
from trio_nats import (
    ConnectError,
    NatsError,
    NoInfoError,
    TLSConfigurationError,
    TLSHandshakeError,
    TLSMode,
    TLSNotOfferedError,
    TLSOptions,
    TLSRequiredError,
    UserPassword,
    open_nats,
)

KINDS = ["none", "tls_available", "tls_required", "first", "auto"]
PLAIN, TLS = "plaintext", "TLS"
NOTLS, REFUSE, NOINFO = TLSNotOfferedError, TLSRequiredError, NoInfoError
SPOKE = TLSHandshakeError
CFG = TLSConfigurationError
Outcome = str | type[NatsError]

PREFERS: list[Outcome] = [PLAIN, TLS, TLS, NOINFO, TLS]
REQUIRES: list[Outcome] = [NOTLS, TLS, TLS, TLS, TLS]
IMPLIES: list[Outcome] = [SPOKE, SPOKE, SPOKE, TLS, TLS]
DISABLES: list[Outcome] = [PLAIN, PLAIN, REFUSE, NOINFO, REFUSE]
REFUSED: list[Outcome] = [CFG] * 5

# (mode, scheme, material given): the outcome with each kind of server
ROWS: dict[tuple[str, str, bool], list[Outcome]] = {
    ("auto", "nats", False): PREFERS,
    ("auto", "nats", True): REQUIRES,
    ("auto", "tls", False): REQUIRES,
    ("auto", "tls", True): REQUIRES,
    ("prefer", "nats", False): PREFERS,
    ("prefer", "nats", True): PREFERS,
    ("prefer", "tls", False): REQUIRES,
    ("prefer", "tls", True): REQUIRES,
    ("require", "nats", False): REQUIRES,
    ("require", "nats", True): REQUIRES,
    ("require", "tls", False): REQUIRES,
    ("require", "tls", True): REQUIRES,
    ("implicit", "nats", False): IMPLIES,
    ("implicit", "nats", True): IMPLIES,
    ("implicit", "tls", False): IMPLIES,
    ("implicit", "tls", True): IMPLIES,
    ("disable", "nats", False): DISABLES,
    ("disable", "nats", True): DISABLES,
    ("disable", "tls", False): REFUSED,
    ("disable", "tls", True): REFUSED,
}
CELLS = [
    pytest.param(
        *row, kind, outcome, id=f"{row[0]}-{row[1]}-{'material' if row[2] else 'bare'}-{kind}"
    )
    for row, outcomes in ROWS.items()
    for kind, outcome in zip(KINDS, outcomes, strict=True)
]
# What the error has to say: what the server did, what the mode wants, what to change.
WORDS: dict[type[NatsError], list[str]] = {
    NOTLS: ["offers no TLS", "mode REQUIRE", "PREFER or DISABLE"],
    REFUSE: ["requires TLS", "mode is DISABLE", "PREFER or REQUIRE"],
    NOINFO: ["INFO", "TLS mode", "use REQUIRE or IMPLICIT"],
    SPOKE: ["spoke first, in plaintext", "mode IMPLICIT", "use REQUIRE"],
}


def test_the_matrix_has_a_hundred_cells() -> None:
    assert len(CELLS) == 100


def options(mode: str, material: bool) -> TLSOptions:
    # Without material there is nothing to trust the peer by, so verification is off in those rows;
    # that is no material, and verification has tests of its own.
    if material:
        return TLSOptions(mode=TLSMode(mode), ca_file=certificates().ca_file)
    return TLSOptions(mode=TLSMode(mode), insecure_skip_verify=True)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "scheme", "material", "kind", "outcome"), CELLS)
async def test_mode_and_server(
    mode: str, scheme: str, material: bool, kind: str, outcome: Outcome
) -> None:
    async with ScriptedServer(script_of(kind, mode)) as server:
        url = f"{scheme}://localhost:{server.port}"
        if outcome is CFG:
            with pytest.raises(TLSConfigurationError, match="DISABLE"):
                open_nats(url, tls=options(mode, material))
            assert server.peers == []
            return
        seen = await attempt(url, options(mode, material), patient=outcome is not NOINFO)
        peer = await server.peer()
        if isinstance(outcome, str):
            assert seen == outcome
        else:
            assert isinstance(seen, outcome), repr(seen)
            for words in WORDS[outcome]:
                assert words in str(seen)
        check_bytes(peer, mode, scheme, material, outcome)


def script_of(kind: str, mode: str) -> Script:
    context = server_context(certificates().server)
    if (kind, mode) == ("auto", "implicit"):
        # The client begins at once, but on a busy machine that may take longer than 50 ms.
        return tls_auto(context, silence=5)
    return SERVER_KINDS[kind](context)


async def attempt(url: str, tls: TLSOptions, patient: bool) -> str | Exception:
    auth = UserPassword("joe", "verysecret")
    timeout = 5 if patient else 0.3  # how long to wait for an INFO that never comes
    try:
        async with open_nats(url, tls=tls, auth=auth, connect_timeout=timeout) as nc:
            return PLAIN if nc.tls_info is None else TLS
    except ConnectError as error:
        return error.attempts[0].error


def check_bytes(peer: Peer, mode: str, scheme: str, material: bool, outcome: Outcome) -> None:
    promised = scheme == "tls" or mode in ("require", "implicit") or (mode == "auto" and material)
    if promised:
        assert is_only_tls_records(peer.raw_bytes)
    if outcome is TLS:
        assert peer.plain_bytes == b""
        assert peer.connect["user"] == "joe"
    elif outcome is PLAIN:
        assert peer.plain_bytes.startswith(b"CONNECT {")
    else:
        assert b"verysecret" not in peer.raw_bytes
        assert b"CONNECT" not in peer.raw_bytes


@pytest.mark.parametrize("mode", ["prefer", "disable"])
async def test_silence_is_explained_when_the_server_closes(mode: str) -> None:
    """As a real ``handshake_first`` server does after two seconds."""

    async def silent(peer: Peer) -> None:
        await peer.hang_up()

    async with ScriptedServer(silent) as server:
        seen = await attempt(f"nats://localhost:{server.port}", options(mode, False), patient=True)
    assert isinstance(seen, NoInfoError)
    assert "use REQUIRE or IMPLICIT" in str(seen)


async def test_info_first_is_not_waited_for_by_auto() -> None:
    """With ``handshake_first: auto`` a client that requires TLS does not sit out the silence."""
    async with ScriptedServer(script_of("auto", "implicit")) as server:
        tls = options("require", True)
        async with open_nats(f"nats://localhost:{server.port}", tls=tls) as nc:
            assert nc.tls_info is not None
            assert nc.tls_info.info_inside_tls
        with trio.fail_after(HANG_TIMEOUT):
            await (await server.peer()).finished.wait()
