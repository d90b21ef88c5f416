"""Tests of ``rtt``, ``bench``, ``server`` and ``context``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.cli.helpers import cli, lines, observed, running
from trio_nats import RequestTimeoutError, UserPassword, open_nats
from trio_nats._printable import has_unprintable
from trio_nats.cli.bench_scenarios import Load, publish_and_subscribe
from trio_nats.cli.progress import progress_bar
from trio_nats.testing.plugin import NatsServerFactory

SECRET = "s3cr3t-w0rd"


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table."""
    split = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines()]
    return [row for row in split if row]


# --- rtt -----------------------------------------------------------------------------------------


def test_rtt(url: str) -> None:
    done = cli("rtt", 3, "-s", f"{url},nats://127.0.0.1:1")
    assert done.exit_code == 1
    measured, failed = rows(done.stdout)
    assert measured[:2] == [url, "127.0.0.1"]
    assert all(re.fullmatch(r"\d+\.\d\d", cell) for cell in measured[2:])
    assert failed[:3] == ["nats://127.0.0.1:1", "127.0.0.1", "failed"]
    assert "127.0.0.1: cannot connect" in done.stderr


def test_rtt_json(url: str) -> None:
    done = cli("rtt", 3, "--json", "-s", url.replace("127.0.0.1", f"u:{SECRET}@127.0.0.1"))
    assert done.exit_code == 0
    (measured,) = json.loads(done.stdout)
    assert measured["url"] == url
    assert len(measured["rtt_seconds"]) == 3
    assert SECRET not in done.stdout


def test_rtt_at_each_address_of_a_name(url: str) -> None:
    done = cli("rtt", 1, "-s", url.replace("127.0.0.1", "localhost"))
    # It may fail at ::1, but one address is enough.
    assert done.exit_code == 0
    assert "127.0.0.1" in [row[1] for row in rows(done.stdout)]


# --- bench ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bench(url: str) -> None:
    done = cli("bench", "--msgs", 501, "--clients", 2, "--size", "1KB", "-s", url)
    assert done.exit_code == 0, done.stderr
    assert "Bodies of 1,024 bytes" in done.stdout
    assert [row[:3] for row in rows(done.stdout)] == [
        ["pub", "2", "501"],
        ["pub, with sub", "1", "501"],
        ["sub, with pub", "2", "1,002"],
        ["request", "2", "501"],
    ]
    assert re.search(r"request: p50 \d+\.\d+ ms, p99 \d+\.\d+ ms, max \d+\.\d+ ms", done.stdout)


def test_bench_fits_80_columns(url: str) -> None:
    done = cli("bench", "--msgs", 100, "--size", "0", "-s", url, COLUMNS="80")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "…" not in done.stdout


@pytest.mark.slow
def test_bench_pub_and_sub_apart(url: str) -> None:
    with running("bench", "sub", "--msgs", 1000, "--json", "-s", url) as sub:
        # It has subscribed once it receives messages, so publish until then.
        with observed(url, "bench", 1000):
            done = cli("bench", "pub", "--msgs", 1000, "--json", "-s", url)
            assert done.exit_code == 0
        while sub.process.poll() is None:
            cli("bench", "pub", "--msgs", 1000, "-s", url)
        assert sub.finish() == 0
        (result,) = json.loads(sub.output)
        assert (result["what"], result["messages"]) == ("sub", 1000)


def test_bench_requests_in_flight(url: str) -> None:
    args = ["bench", "request", "--msgs", 100, "--in-flight", 10, "--json", "-s", url]
    (result,) = json.loads(cli(*args).stdout)
    assert 0 < result["p50_seconds"] <= result["p99_seconds"] <= result["max_seconds"]
    done = cli(*args, "--no-responder", "--subject", "nobody")
    assert done.exit_code == 1
    assert "nobody is subscribed" in done.stderr


@pytest.mark.parametrize(
    "args", [["--size", "x"], ["--size", "1GB"], ["--msgs", "0"], ["nonsense"], ["--no-responder"]]
)
def test_bench_mistakes(args: list[str], url: str) -> None:
    done = cli("bench", *args, "-s", url)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


async def test_bench_does_not_wait_for_ever(nats_server_factory: NatsServerFactory) -> None:
    permissions = {"publish": {"deny": "mute"}}
    users = [{"user": "u", "password": "p", "permissions": permissions}]
    server = await nats_server_factory(config={"authorization": {"users": users}})
    load = Load(
        connect=partial(open_nats, server.url, auth=UserPassword("u", "p")),
        subject="mute",
        messages=5,
        payload=b"",
        clients=1,
        timeout=0.1,
        quiet=True,
    )
    with pytest.raises(RequestTimeoutError, match="about 0 of 5 messages"):
        await publish_and_subscribe(load)


# --- server --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_server_with_tls_and_jetstream(tmp_path: Path) -> None:
    store = tmp_path / "store"
    flags = ["--tls", "--jetstream", "--store", store, "--user", "u", "--password", "p"]
    with running("server", "--port", 0, *flags) as server:
        server.said("Press Ctrl-C to stop")
        where = server.output.strip()
        assert where.startswith("tls://127.0.0.1:")
        flag, ca_file = server.errors.decode().split("Clients need ")[1].split("\n")[0].split()
        login = ("-s", where, "--user", "u", "--password", "p")
        assert cli("pub", "x", "y", flag, ca_file, *login).exit_code == 0
        assert cli("rtt", 1, flag, ca_file, *login).exit_code == 0
        assert cli("pub", "x", "y", *login).exit_code == 1
        assert store.exists()
        server.kill(signal.SIGINT)
        assert server.finish() == 130
    assert not Path(ca_file).exists()
    assert store.exists()


def test_server_on_a_port_that_is_taken(url: str) -> None:
    done = cli("server", "--port", url.rpartition(":")[2])
    assert done.exit_code == 1
    assert "address already in use" in done.stderr


@pytest.mark.slow
def test_server_that_ends_by_itself() -> None:
    with running("server", "--port", 0) as server:
        server.said("Press Ctrl-C to stop")
        children = subprocess.run(
            ["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True
        )
        os.kill(int(children.stdout), signal.SIGKILL)
        assert server.finish() == 1
        assert b"the server has exited" in server.errors


@pytest.mark.slow
def test_server_without_trustme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    monkeypatch.delitem(sys.modules, "trio_nats.cli.throwaway_certificates", raising=False)
    done = cli("server", "--tls")
    assert done.exit_code == 1
    assert "pip install 'trio-nats[demo]'" in done.stderr


def test_server_mistakes() -> None:
    assert cli("server", "--store", "/x").exit_code == 2
    assert cli("server", "--user", "u").exit_code == 2


def test_server_that_is_not_installed(tmp_path: Path) -> None:
    done = cli("server", NATS_SERVER=str(tmp_path / "nowhere"))
    assert done.exit_code == 1
    assert len(lines(done.stderr)) >= 1
    assert "Traceback" not in done.stderr


# --- context -------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    content = {
        "url": f"nats://u:{SECRET}@h,nats://i",
        "description": "The [bold]one",
        "password": SECRET,
        "token": SECRET,
        "user_jwt": SECRET,
        "user_seed": SECRET,
        "nkey": f"data:;base64,{SECRET}",
        "creds": "~/x.creds",
        "tls_first": True,
    }
    (folder / "one.json").write_text(json.dumps(content))
    (folder / "two.json").write_text('{"nsc": "nsc://o/a/u"}')
    (folder / "bad.json").write_text('{"url": 5}')
    (tmp_path / "nats" / "context.txt").write_text("one")
    return tmp_path


@pytest.mark.slow
def test_context_ls(config: Path) -> None:
    done = cli("context", "ls", XDG_CONFIG_HOME=str(config))
    assert rows(done.stdout)[1:] == [
        ["*", "one", "nats://h:4222, nats://i:4222", "The [bold]one"],
        ["", "two", "", ""],
    ]
    assert rows(done.stdout)[0][:2] == ["", "bad"]
    assert "'url' must be text" in done.stdout
    assert SECRET not in done.stdout
    done = cli("context", "ls", "--names", XDG_CONFIG_HOME=str(config))
    assert done.stdout == "bad\none\ntwo\n"
    shutil.rmtree(config / "nats")
    done = cli("context", "ls", XDG_CONFIG_HOME=str(config))
    assert (done.stdout, done.exit_code) == ("", 0)
    assert "nats context add" in done.stderr


def test_context_show(config: Path) -> None:
    done = cli("context", "show", XDG_CONFIG_HOME=str(config))
    assert done.exit_code == 0
    shown = dict(line.strip().split(": ", 1) for line in done.stdout.splitlines())
    assert shown["name"] == "one"
    assert shown["url"] == "nats://*****@h:4222,nats://i:4222"
    assert shown["password"] == shown["token"] == shown["nkey"] == "*****"
    assert shown["creds"] == "~/x.creds"
    assert SECRET not in done.stdout + done.stderr
    assert "cannot be used: context 'one': more than one kind" in done.stderr


@pytest.mark.slow
def test_context_show_by_name_as_json(config: Path) -> None:
    done = cli("context", "show", "two", "--json", XDG_CONFIG_HOME=str(config))
    assert json.loads(done.stdout) == {
        "name": "two",
        "path": str(config / "nats/context/two.json"),
        "nsc": "nsc://o/a/u",
    }
    done = cli("context", "show", XDG_CONFIG_HOME=str(config), NATS_CONTEXT="two")
    assert "nsc generate creds" in done.stderr
    assert cli("context", "show", "bad", XDG_CONFIG_HOME=str(config)).exit_code == 2


def test_a_command_with_a_context(url: str, config: Path) -> None:
    (config / "nats/context/here.json").write_text(json.dumps({"url": url}))
    done = cli("request", "x", "", XDG_CONFIG_HOME=str(config), NATS_CONTEXT="here")
    assert done.exit_code == 1
    assert "nobody is subscribed" in done.stderr


# --- progress ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", [["bench", "pub", "--msgs"], ["pub", "x", "y", "--count"]])
def test_a_progress_bar_on_a_terminal(url: str, command: list[str]) -> None:
    # Makes rich assume a terminal.
    done = cli(*command, 20_000, "-s", url, FORCE_COLOR="1")
    assert done.exit_code == 0
    assert "publishing" in done.stderr
    assert "/20000" in done.stderr
    assert "publishing" not in done.stdout
    done = cli(*command, 20_000, "-s", url, "--quiet", FORCE_COLOR="1")
    assert "publishing" not in done.stderr
    assert "publishing" not in cli(*command, 20_000, "-s", url).stderr


def test_a_progress_bar_moves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    clock = map(float, range(100))
    with progress_bar(10, "working", clock=lambda: next(clock)) as advance:
        advance(4)
        advance(6)
    shown = capsys.readouterr().err
    assert " 4/10" in shown
    assert "10/10" in shown


@pytest.mark.slow
@pytest.mark.parametrize("command", [["doctor"], ["doctor", "--json"], ["rtt"], ["rtt", "--json"]])
@pytest.mark.parametrize("host", ["a\u0085b", "a\u202eb", "a\x1b[2Jb", "a..b", "\xe9" * 300])
def test_an_invalid_host_does_not_control_the_terminal(command: list[str], host: str) -> None:
    done = cli(*command, "-s", f"nats://{host}:1")
    assert done.exit_code in (1, 2)
    shown = done.stdout + done.stderr
    assert "unexpected" not in shown
    assert "codec" not in shown
    assert not has_unprintable(shown.replace("\n", ""))
