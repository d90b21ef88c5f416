"""``trio-nats doctor`` as a program: exit codes, JSON, terminals, and no secrets."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.cli.doctor.printing import printed
from tests.cli.doctor.server_kinds import CERTS, KINDS, PASSWORD, USER, creds_file, operator
from tests.cli.helpers import clean_environment, cli, running
from tests.support.jwts import Key
from tests.support.peer import Peer, ScriptedServer
from trio_nats import JWT, Credentials, NKey, TLSOptions, Token, UserPassword
from trio_nats.cli.doctor.as_json import as_json
from trio_nats.cli.doctor.client import Client
from trio_nats.cli.doctor.examine import examine_all
from trio_nats.cli.doctor.report import Report
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.slow


async def run(*args: str) -> tuple[int, str, str]:
    done = await trio.to_thread.run_sync(partial(cli, "doctor", *args, COLUMNS="80"))
    return done.exit_code, done.stdout, done.stderr


# --- the program ---------------------------------------------------------------------------------


async def test_a_client_that_connects() -> None:
    """As a shell starts it, and into a pipe."""
    async with KINDS["verify"].serve() as url:
        certificate = CERTS.client
        done = await trio.run_process(
            [
                *(sys.executable, "-m", "trio_nats", "doctor", url),
                *("--tlsca", str(CERTS.ca_file)),
                *("--tlscert", str(certificate.cert_file), "--tlskey", str(certificate.key_file)),
            ],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=clean_environment(COLUMNS=""),
        )
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode()
    assert out.splitlines()[0] == f"Examining {url}"
    assert "A client with these options connects." in out
    assert "\x1b" not in out
    assert all(len(line) <= 80 for line in out.splitlines())


async def test_a_client_that_does_not_connect() -> None:
    async with NatsServer(**USER) as server:
        code, out, err = await run(f"nats://joe:{PASSWORD}x@localhost:{server.port}")
    assert (code, err) == (1, "")
    assert "A client with these options does not connect." in out
    assert PASSWORD not in out


async def test_options_that_cannot_be_used() -> None:
    code, out, err = await run("http://localhost")
    assert (code, out) == (2, "")
    assert "unknown scheme" in err


async def test_any_of_several_servers_is_used() -> None:
    async with KINDS["closed_port"].serve() as closed, KINDS["none"].serve() as url:
        code, out, _ = await run(f"{closed},{url}")
    assert code == 0
    assert f"Examining {closed}" in out
    assert f"Examining {url}" in out
    assert "1 of 2 servers can be used." in out


KEYS = {
    "": {"version", "connects", "servers"},
    "servers": {
        "url",
        "connects",
        "examined_at",
        "mode",
        "acts_as",
        "name_checked",
        "contradiction",
        "steps",
        "findings",
        "modes",
        "addresses",
        "lookup",
        "greeting",
        "info",
        "tls",
        "certificates",
        "http",
        "login",
        "connection",
        "tls_ends_before_server",
    },
    "servers.steps": {"step", "status", "text", "details"},
    "servers.findings": {"severity", "code", "text", "fix", "line"},
    "servers.addresses": {"address", "seconds", "error", "local"},
    "servers.lookup": {"addresses", "seconds", "error"},
    "servers.greeting": {"kind", "seconds", "text"},
    "servers.tls": {
        "version",
        "cipher",
        "asks_for_certificate",
        "info_inside",
        "error",
        "text",
    },
    "servers.certificates": {"trust", "text", "name_matches", "chain"},
    "servers.certificates.chain": {
        "subject",
        "issuer",
        "subject_alt_names",
        "not_before",
        "not_after",
        "sha256",
    },
    "servers.login": {"method", "source", "user", "account", "expires", "replayable", "error"},
    "servers.connection": {
        "connected",
        "phase",
        "error",
        "text",
        "said",
        "tls_version",
        "cipher",
        "verified_name",
        "client_certificate_expires",
        "round_trips",
        "jetstream",
        "jetstream_text",
        "lost",
    },
    "servers.modes.AUTO": {"acts_as", "outcome", "error", "text"},
}


async def test_json() -> None:
    async with KINDS["certificate_missing"].serve() as url:
        code, out, err = await run(url, "--tlsca", str(CERTS.ca_file), "--json")
    assert (code, err) == (1, "")
    document = json.loads(out)
    for path, keys in KEYS.items():
        assert set(_at(document, path)) == keys, path
    assert document["version"] == 1
    assert document["connects"] is False
    (server,) = document["servers"]
    assert server["url"] == url
    assert [one["code"] for one in server["findings"]] == ["client-certificate-missing"]
    assert server["modes"]["DISABLE"]["outcome"] == "refused"
    assert server["info"]["tls_verify"] is True
    assert server["tls"]["asks_for_certificate"] is True
    assert server["connection"]["error"] == "ClientCertificateError"


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text("utf-8")
    documented = set(re.findall(r"`([\w-]+)`", page))
    assert set().union(*KEYS.values()) <= documented


def _at(document: Any, path: str) -> Mapping[str, Any]:
    for key in path.split(".") if path else []:
        document = document[key]
        if isinstance(document, list):
            document = document[0]
    return document


async def test_json_of_a_server_that_is_not_there() -> None:
    async with KINDS["closed_port"].serve() as url:
        (report,) = await examine_all(url, Client())
    (server,) = json.loads(as_json([report]))["servers"]
    assert [one["code"] for one in server["findings"]] == ["port-closed"]
    nothing = [name for name, value in server.items() if value is None]
    assert nothing == ["greeting", "info", "tls", "certificates", "http"]
    assert {one["outcome"] for one in server["modes"].values()} == {"unknown"}


# --- a terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
async def test_in_a_terminal(width: int) -> None:
    async with KINDS["untrusted"].serve() as url:
        shown = await trio.to_thread.run_sync(_in_a_terminal, width, url)
    assert "\x1b[" in shown  # colours
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").splitlines()
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 25
    assert f'       open_nats("{url}", tls=TLSOptions(ca_file="ca.pem"))' in [
        line.rstrip() for line in lines
    ]


def _in_a_terminal(width: int, url: str) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    with running("doctor", url, stdout=theirs, COLUMNS="", TERM="xterm-256color") as doctor:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:
            pass  # how Linux says that the other side is gone
        os.close(ours)
        assert (doctor.finish(), doctor.errors) == (1, b"")
    return shown.decode()


# --- secrets -------------------------------------------------------------------------------------

SECRET = "s3cret/with+odd@characters"


async def _repeats_everything(peer: Peer) -> None:
    """A hostile server repeats secrets wherever it can."""
    await peer.send_info(auth_required=True, nonce="nonce")
    if not (await peer.peek()).startswith(b"C"):
        return  # a handshake
    line = await peer.expect_line(b"CONNECT ")
    await peer.send(b"-ERR '" + line.replace(b"'", b"") + b"'\r\n")
    await peer.hang_up()


async def test_no_secret_is_ever_shown() -> None:
    seed, user = Key("user").seed, operator().user("joe")
    key_password = "password-of-the-key"
    encrypted = CERTS.client_encrypted
    tls = TLSOptions(
        cert_file=encrypted.cert_file, key_file=encrypted.key_file, key_password=key_password
    )
    secrets = [PASSWORD, SECRET, seed, user.jwt, user.seed, key_password]
    secrets += [creds_file().read_text().splitlines()[1], "s3cret%2Fwith", "odd%40characters"]
    asked: list[tuple[str, Client]] = [
        ("", Client(auth=UserPassword("joe", SECRET))),
        ("", Client(auth=Token(SECRET))),
        ("", Client(auth=NKey(seed=seed))),
        ("", Client(auth=JWT(user.jwt, seed=user.seed))),
        ("", Client(auth=Credentials(file=creds_file()))),
        ("joe:s3cret%2Fwith+odd%40characters@", Client()),
        ("s3cret%2Fwith+odd%40characters@", Client(tls=tls)),
    ]
    async with ScriptedServer(_repeats_everything) as server:
        for userinfo, client in asked:
            url = f"nats://{userinfo}localhost:{server.port}"
            (report,) = await examine_all(url, client)
            assert "CONNECT" in report.live.text or client.tls.has_material
            _check(report, secrets)
    (report,) = await examine_all(
        f"ws://localhost:1/path?token={SECRET}", Client(auth=UserPassword("joe", SECRET))
    )
    _check(report, secrets)


def _check(report: Report, secrets: list[str]) -> None:
    for shown in (printed(report), printed(report, 400), as_json([report]).decode(), repr(report)):
        plain = shown.replace("\n", "").replace(" ", "")
        for secret in secrets:
            assert secret not in plain, secret


async def test_what_a_server_says_does_not_drive_the_terminal() -> None:
    async def script(peer: Peer) -> None:
        await peer.send_info(server_name="\x1b[2J[red]name[/red]\u202e", version="9\x07")
        if (await peer.peek()).startswith(b"C"):
            await peer.accept_connect()
        await peer.hang_up()

    async with ScriptedServer(script) as server:
        (report,) = await examine_all(f"nats://localhost:{server.port}", Client())
    shown = printed(report)
    assert "[red]name[/red]" in shown
    assert all(character.isprintable() for character in shown.replace("\n", ""))
