"""``trio-nats demo`` prints correct results."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.helpers import cli
from trio_nats import __version__

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output() -> str:
    done = cli("demo", COLUMNS="120")
    assert done.exit_code == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        # the columns are AUTO, PREFER, REQUIRE, IMPLICIT, DISABLE
        ("no TLS", ["error", "plaintext", "error", "error", "plaintext"]),
        ("TLS required", ["TLSv1.3", "TLSv1.3", "TLSv1.3", "error", "error"]),
        ("TLS available", ["TLSv1.3", "TLSv1.3", "TLSv1.3", "error", "plaintext"]),
        ("TLS first", ["TLSv1.3", "error", "TLSv1.3", "TLSv1.3", "error"]),
        ("TLS first: 1 s", ["TLSv1.3", "TLSv1.3", "TLSv1.3", "TLSv1.3", "error"]),
    ],
)
def test_table(output: str, server: str, expected: list[str]) -> None:
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines()]
    (row,) = [row for row in rows if row[:1] == [server]]
    assert [cell.partition(" ")[0] for cell in row[1:]] == expected


def test_every_error_is_explained(output: str) -> None:
    for number in range(1, 6):
        assert f"({number})" in output
        assert f"\n  {number}. the " in output


def test_messages(output: str) -> None:
    assert "subscription got greet.joe b'hello' [('Lang', 'en')]" in output
    assert "request got b'IS ANYBODY THERE?'" in output
    assert "nobody is subscribed to 'nobody'" in output
    assert "to localhost, certified by " in output


def test_version() -> None:
    command = [sys.executable, "-m", "trio_nats", "--version"]
    assert subprocess.check_output(command, text=True).strip() == __version__


def test_help_names_the_commands() -> None:
    assert "demo" in cli().stdout


@pytest.mark.parametrize(
    ("missing", "extra"), [("rich.console", "cli"), ("trustme", "demo")], ids=["rich", "trustme"]
)
def test_without_the_extra_it_says_what_to_install(
    missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("commands.demo", "throwaway_certificates"):
        monkeypatch.delitem(sys.modules, f"trio_nats.cli.{name}", raising=False)
    done = cli("demo")
    assert done.exit_code == 1
    assert f"pip install 'trio-nats[{extra}]'" in done.stderr


def test_without_typer_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['typer'] = None; from trio_nats.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'trio-nats[cli]'" in done.stderr
