"""The precedence of flags, environment and contexts, and invalid values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.cli.helpers import clean_environment, cli
from trio_nats import Credentials, NKey, TLSMode, TLSOptions, Token, UserPassword
from trio_nats.cli.connection_options import ConnectionOptions, connects, root_connects
from trio_nats.cli.runner import Commands, note

SECRET = "s3cr3t-w0rd"


class Probe:
    """A program with one command, which records its options."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.seen: list[ConnectionOptions] = []
        self.app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

        @self.app.callback()
        @root_connects
        def root(own: bool = typer.Option(False, "--own")) -> None:
            pass

        @self.app.command()
        @connects
        def probe(options: ConnectionOptions, number: int = 5) -> None:
            assert number == 5
            self.seen.append(options)

    def run(self, *args: str, **environment: str) -> Result:
        full = clean_environment(XDG_CONFIG_HOME=str(self.config), **environment)
        if "probe" not in args:
            args = ("probe", *args)
        return CliRunner().invoke(self.app, args, env=full, prog_name="probe")

    def options(self, *args: str, **environment: str) -> ConnectionOptions:
        done = self.run(*args, **environment)
        assert done.exit_code == 0, done.stderr
        return self.seen[-1]

    def context(self, name: str, **content: Any) -> Path:
        path = self.config / "nats" / "context" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probe:
    for name in ("NATS_URL", "NATS_CONTEXT", "NATS_USER"):
        monkeypatch.delenv(name, raising=False)
    return Probe(tmp_path)


@pytest.mark.slow
def test_defaults(probe: Probe) -> None:
    options = probe.options()
    assert options.servers is None
    assert (options.auth, options.tls, options.inbox_prefix) == (None, None, None)
    assert options.timeout == 5.0
    assert options.name.startswith("trio-nats ")
    assert not options.debug


@pytest.mark.parametrize(
    ("flags", "environment", "auth"),
    [
        (["--user", "u", "--password", "p"], {}, UserPassword("u", "p")),
        (["--user", "t"], {}, Token("t")),
        (["--token", "t"], {}, Token("t")),
        (["--creds", "/c"], {}, Credentials(file=Path("/c"))),
        (["--nkey", "/n"], {}, NKey(file=Path("/n"))),
        ([], {"NATS_USER": "u", "NATS_PASSWORD": "p"}, UserPassword("u", "p")),
        ([], {"NATS_TOKEN": "t"}, Token("t")),
        ([], {"NATS_CREDS": "/c"}, Credentials(file=Path("/c"))),
        ([], {"NATS_NKEY": "/n"}, NKey(file=Path("/n"))),
    ],
)
def test_credentials(
    probe: Probe, flags: list[str], environment: dict[str, str], auth: object
) -> None:
    assert probe.options(*flags, **environment).auth == auth


def test_tls(probe: Probe) -> None:
    options = probe.options("--tlsca", "/ca", "--tls-mode", "Require", "--tls-server-name", "n")
    assert options.tls == TLSOptions(ca_file=Path("/ca"), mode=TLSMode.REQUIRE, server_hostname="n")
    options = probe.options(NATS_CA="/ca", NATS_CERT="/cert", NATS_KEY="/key")
    assert options.tls == TLSOptions(
        ca_file=Path("/ca"), cert_file=Path("/cert"), key_file=Path("/key")
    )
    assert probe.options("--tlsfirst").tls == TLSOptions(mode=TLSMode.IMPLICIT)
    assert probe.options("--tls-first").tls == TLSOptions(mode=TLSMode.IMPLICIT)


def test_insecure_prints_a_warning(probe: Probe) -> None:
    done = probe.run("--insecure")
    assert "certificates are not verified" in done.stderr
    assert probe.seen[-1].tls == TLSOptions(insecure_skip_verify=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("300ms", 0.3), ("1m30s", 90), ("2", 2), ("1.5", 1.5), ("1h", 3600), (".5s", 0.5)],
)
def test_durations(probe: Probe, text: str, seconds: float) -> None:
    assert probe.options("--timeout", text).timeout == pytest.approx(seconds)
    assert probe.options(NATS_TIMEOUT=text).timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "x", "5 s", "5sx", "-5s", "0", "0s", "nan", "inf", "٣s", "1.2.3"]
)
def test_an_invalid_duration(probe: Probe, text: str) -> None:
    done = probe.run("--timeout", text)
    assert done.exit_code == 2
    assert "--timeout" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_flags_may_stand_before_the_command(probe: Probe) -> None:
    options = probe.options("-s", "a", "--timeout", "2s", "probe", NATS_URL="b", NATS_TIMEOUT="3s")
    assert (options.servers, options.timeout) == ("a", 2)
    options = probe.options("-s", "a", "probe", "-s", "c", "--number", "5", NATS_URL="b")
    assert options.servers == "c"
    assert probe.options("probe", NATS_URL="b").servers == "b"


def test_a_context(probe: Probe) -> None:
    probe.context("one", url="nats://one", token="t", ca="/ca", cert="/c", inbox_prefix="in")
    probe.context("two", url="nats://two")
    options = probe.options("--context", "one", NATS_CONTEXT="two")
    assert options.servers == "nats://one"
    assert options.auth == Token("t")
    assert options.tls == TLSOptions(ca_file=Path("/ca"), cert_file=Path("/c"))
    assert options.inbox_prefix == "in"
    assert probe.options(NATS_CONTEXT="two").servers == "nats://two"


def test_each_flag_overrides_the_context(probe: Probe) -> None:
    probe.context("one", url="nats://one", user="u", password="p", ca="/ca", cert="/c", key="/k")
    options = probe.options("--context", "one", "-s", "nats://x", "--tlsca", "/other")
    assert options.servers == "nats://x"
    assert options.auth == UserPassword("u", "p")
    assert options.tls == TLSOptions(
        ca_file=Path("/other"), cert_file=Path("/c"), key_file=Path("/k")
    )
    assert probe.options("--context", "one", "--token", "t").auth == Token("t")
    assert probe.options("--context", "one", "--password", "q").auth == UserPassword("u", "q")
    options = probe.options("--context", "one", NATS_URL="nats://env")
    assert options.servers == "nats://env"


def test_the_selected_context(probe: Probe) -> None:
    probe.context("one", url="nats://one")
    (probe.config / "nats" / "context.txt").write_text("one")
    assert probe.options().servers == "nats://one"
    assert probe.options("--no-context").servers is None


def test_a_context_by_file_name(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    path = probe.context("one", url="nats://one")
    assert probe.options("--context", str(path)).servers == "nats://one"
    monkeypatch.chdir(path.parent)
    assert probe.options("--context", "one.json").servers == "nats://one"
    assert probe.options("--context", "./one.json").servers == "nats://one"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--creds", "c", "--nkey", "k"], "more than one kind of credentials: creds, nkey"),
        (["--user", "u", "--token", "t"], "--user without --password means a token"),
        (["-s", f"ftp://u:{SECRET}@h"], "unknown scheme"),
        (["--context", "nowhere"], "there is no context 'nowhere'"),
        (["--context", "x", "--no-context"], "contradict"),
        (["--tlsfirst", "--tls-mode", "prefer"], "contradicts --tls-mode prefer"),
        (["--tlskey", "/k"], "key_file"),
        (["--inbox-prefix", "a b"], "inbox prefix"),
        (["--tls-mode", "sometimes"], "--tls-mode"),
        (["--nonsense"], "No such option: --nonsense"),
        (["--creds", f"S{'A' * 57}"], "this is the content of a file"),
        (["--jwt", "x", "--seed", SECRET], "58 characters"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    probe: Probe, flags: list[str], complaint: str
) -> None:
    done = probe.run(*flags)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stderr
    assert not probe.seen


def test_options_show_no_secret(probe: Probe) -> None:
    options = probe.options("-s", f"nats://u:{SECRET}@h", "--token", SECRET)
    assert SECRET not in repr(options)
    assert options.arguments()["servers"] == f"nats://u:{SECRET}@h"


@pytest.mark.slow
def test_help_names_flags_and_variables() -> None:
    text = cli("pub", "--help", COLUMNS="160").stdout
    for expected in ("--server", "-s", "NATS_URL", "NATS_CONTEXT", "--tlsca", "NATS_TIMEOUT"):
        assert expected in text


def test_notes_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    note("a\x1b[31mb\x07\u202e")
    assert capsys.readouterr().err == "a\\x1b[31mb\\x07\\u202e\n"
