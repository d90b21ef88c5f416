"""The effects of an examination on servers, and of cancelling it."""

from __future__ import annotations

import ssl
from dataclasses import replace
from urllib.parse import quote

import pytest
import trio

from tests.cli.doctor.server_kinds import MINE, PASSWORD, TRUST
from tests.support.certs import Certificate, certificates, server_context
from tests.support.leaks import no_leaks
from tests.support.peer import Peer, Script, ScriptedServer
from tests.support.scripts import stall_at_once, tls_first
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import ConfigurationError, TLSMode, TLSOptions, UserPassword
from trio_nats.cli.doctor.client import Client
from trio_nats.cli.doctor.examine import examine_all
from trio_nats.cli.doctor.probes import read_answer
from trio_nats.testing import NatsServer, ServerTLS
from trio_nats.testing.settings import ConfigValue

CERTS = certificates()
JOE = UserPassword("joe", PASSWORD)


def asking(certificate: Certificate) -> ssl.SSLContext:
    """Return a context that requests a client certificate, but does not require it."""
    context = server_context(certificate, client_ca_file=CERTS.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def visits(
    client: Client, certificate: Certificate | None = None, **info: bool
) -> list[tuple[bool, bytes]]:
    """Each visit of an examination: whether our certificate was shown, and all that was said.

    Of what was said inside TLS only CONNECT.
    """
    shown: dict[Peer, bool] = {}

    async def script(peer: Peer) -> None:
        await peer.send_info(tls_available=certificate is not None, **info)
        if certificate is not None and (await peer.peek())[:1] == b"\x16":
            await peer.start_tls(asking(certificate))
            assert peer.tls is not None
            shown[peer] = peer.tls.getpeercert(True) is not None
            # Trio keeps the ticket that says so of itself until it has something to send.
            await peer.send(b"+OK\r\n")
        await peer.accept_connect()
        await peer.hang_up()

    async with ScriptedServer(_tolerant(script)) as server:
        await examine_all(f"nats://localhost:{server.port}", client)
        for peer in server.peers:
            with trio.fail_after(HANG_TIMEOUT):
                await peer.finished.wait()
        return [
            (shown.get(peer, False), bytes(peer.raw_bytes) + repr(peer.connect).encode())
            for peer in server.peers
        ]


def _tolerant(script: Script) -> Script:
    """A script that a client which wants something else does not follow."""

    async def tolerating(peer: Peer) -> None:
        try:
            await script(peer)
        except AssertionError:
            await peer.hang_up()

    return tolerating


async def test_the_client_certificate_is_sent_to_verified_servers() -> None:
    seen = await visits(Client(tls=MINE), CERTS.server)
    # The real connection, and the modes that end up encrypted.
    assert sum(shown for shown, _ in seen) == 3


async def test_the_client_certificate_is_not_sent_to_unverified_servers() -> None:
    seen = await visits(Client(tls=MINE), CERTS.server_other_ca)
    assert sum(shown for shown, _ in seen) == 0


async def test_the_client_certificate_is_not_sent_when_tls_is_off() -> None:
    """Other modes are tried, but not with a certificate that the user's mode would not send."""
    tls = replace(MINE, mode=TLSMode.DISABLE)
    seen = await visits(Client(tls=tls), CERTS.server)
    assert sum(shown for shown, _ in seen) == 0


async def test_results_that_depend_on_an_unsent_certificate() -> None:
    server = CERTS.server
    block = ServerTLS(server.cert_file, server.key_file, ca_file=CERTS.ca_file, verify=True)
    async with NatsServer(tls=block) as real:
        tls = replace(MINE, mode=TLSMode.DISABLE)
        (report,) = await examine_all(f"nats://localhost:{real.port}", Client(tls=tls))
    outcomes = {trial.mode: trial.outcome for trial in report.trials}
    assert outcomes[TLSMode.REQUIRE] == "unknown"
    assert outcomes[TLSMode.DISABLE] == "fails"


@pytest.mark.slow
async def test_the_query_of_a_url_is_not_sent_to_unverified_peers() -> None:
    """The path of the URL may be a secret."""
    heard: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.start_tls(server_context(CERTS.server_other_ca))
        heard.append(bytes(await peer.peek()))
        await peer.hang_up()

    async with ScriptedServer(_tolerant(script)) as server:
        url = f"wss://localhost:{server.port}/nats?token=verysecret"
        await examine_all(url, Client(tls=TLSOptions(ca_file=CERTS.ca_file)))
        for peer in server.peers:
            with trio.fail_after(HANG_TIMEOUT):
                await peer.finished.wait()
            assert b"verysecret" not in peer.raw_bytes
    assert any(words.startswith(b"GET / HTTP/1.1") for words in heard)
    assert not any(b"verysecret" in words for words in heard)


@pytest.mark.slow
async def test_credentials_go_out_once() -> None:
    """Only the real connection sends credentials, whatever the mode of the others."""
    client = Client(tls=TLSOptions(mode=TLSMode.DISABLE), auth=JOE)
    seen = await visits(client, CERTS.server, auth_required=True)
    assert sum(PASSWORD.encode() in said for _, said in seen) == 1
    seen = await visits(Client(tls=TRUST, auth=JOE), CERTS.server, auth_required=True)
    assert sum(PASSWORD.encode() in said for _, said in seen) == 1


async def test_credentials_are_not_sent_in_plaintext_where_tls_is_required() -> None:
    client = Client(tls=TLSOptions(ca_file=CERTS.ca_file), auth=JOE)
    seen = await visits(client, auth_required=True)
    assert not any(b"CONNECT" in said for _, said in seen)


@pytest.mark.slow
async def test_credentials_in_a_first_url_are_for_all() -> None:
    async with NatsServer(user="joe", password=PASSWORD) as server:
        urls = f"nats://joe:{PASSWORD}@localhost:{server.port},nats://127.0.0.1:{server.port}"
        first, second = await examine_all(urls, Client())
    assert first.live.connected
    assert second.live.connected
    assert second.asked.login.user == "joe"


async def test_an_invalid_address() -> None:
    with pytest.raises(ConfigurationError):
        await examine_all("http://localhost", Client())


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("kind", ["first", "silent"])
async def test_cancelled_it_leaves_nothing(kind: str, seconds: float) -> None:
    script = stall_at_once() if kind == "silent" else tls_first(server_context(CERTS.server))
    async with ScriptedServer(script) as server:
        async with no_leaks():
            with trio.move_on_after(seconds) as scope:
                await examine_all(f"nats://localhost:{server.port}", Client())
            assert scope.cancelled_caught
            with trio.fail_after(HANG_TIMEOUT):
                for peer in server.peers:
                    await peer.finished.wait()


@pytest.mark.slow
async def test_odd_passwords_survive() -> None:
    passwords = ["pass:word/@?#%", "ünïcode", " "]
    users: list[ConfigValue] = [
        {"user": f"user{number}", "password": password} for number, password in enumerate(passwords)
    ]
    async with NatsServer(config={"authorization": {"users": users}}) as server:
        for number, password in enumerate(passwords):
            userinfo = f"user{number}:{quote(password, safe='')}"
            (report,) = await examine_all(f"nats://{userinfo}@localhost:{server.port}", Client())
            assert report.live.connected


# --- HTTP ----------------------------------------------------------------------------------------


def test_answers_that_are_not_http() -> None:
    assert read_answer(b"", over_tls=False) is None
    assert read_answer(b"SSH-2.0", over_tls=False) is None


def test_answers_in_http() -> None:
    answer = read_answer(b"HTTP/1.1 101 Switching\r\n\r\n\x82\x7eINFO {", over_tls=True)
    assert answer is not None
    assert answer.is_nats
    assert answer.over_tls
    answer = read_answer(b"HTTP/1.1 200 OK\r\n\r\nINFO {", over_tls=False)
    assert answer is not None
    assert not answer.is_nats
    answer = read_answer(b"HTTP/1.1 " + b"9" * 500, over_tls=False)
    assert answer is not None
    assert len(answer.status) == 80
