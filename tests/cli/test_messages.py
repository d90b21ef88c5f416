"""Tests of ``pub``, ``sub``, ``request`` and ``reply`` with a real server."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.cli.helpers import Running, cli, lines, observed, repeated, running
from tests.support.timeouts import HANG_TIMEOUT
from trio_nats import open_nats
from trio_nats.testing import NatsServer
from trio_nats.testing.plugin import NatsServerFactory

pytestmark = pytest.mark.slow


@contextmanager
def subscribed(url: str, *args: object) -> Iterator[Running]:
    with running("sub", *args, "-s", url) as sub:
        sub.said("Subscribed")
        yield sub


@contextmanager
def replying(url: str, *args: object, **environment: str) -> Iterator[Running]:
    with running("reply", *args, "-s", url, **environment) as reply:
        reply.said("Listening")
        yield reply


def received(
    url: str, *pub: object, input: bytes | str = b"", count: int = 1
) -> list[tuple[str, bytes, list[tuple[str, str]]]]:
    """What a subscriber got of a ``pub``."""
    with observed(url, ">", count) as messages:
        done = cli("pub", *pub, "-s", url, input=input)
        assert done.exit_code == 0, done.stderr
    return [(msg.subject, msg.data, msg.headers.pairs()) for msg in messages]


# --- pub -----------------------------------------------------------------------------------------


def test_pub(url: str) -> None:
    with observed(url, ">", 1) as messages:
        cli("pub", "a.b", "héllo", "-H", "K: v:w", "--header", "k:2", "--reply", "r", "-s", url)
    (msg,) = messages
    assert (msg.subject, msg.reply, msg.data.decode()) == ("a.b", "r", "héllo")
    assert msg.headers.pairs() == [("K", "v:w"), ("k", "2")]


def test_pub_reports_on_stderr(url: str) -> None:
    done = cli("pub", "a", "hello", "-s", url)
    assert (done.stdout, done.stderr) == ("", 'Published 5 bytes to "a"\n')
    done = cli("pub", "a", "hello", "-s", url, "--count", "3")
    assert done.stderr == 'Published 3 messages, 15 bytes in all to "a"\n'
    assert cli("pub", "a", "hello", "-s", url, "-q").stderr == ""


def test_pub_templates(url: str) -> None:
    messages = received(
        url, "n.{{Count}}", "no {{ Count }} {{.Count}}", "-H", "N:{{Count}}", "--count", 2, count=2
    )
    assert messages == [
        ("n.1", b"no 1 1", [("N", "1")]),
        ("n.2", b"no 2 2", [("N", "2")]),
    ]
    body = "{{Count}} {{Nonsense}}"
    assert received(url, "n", body, "--no-templates") == [("n", body.encode(), [])]


@pytest.mark.parametrize("flags", [["-"], ["--read-stdin"], []])
def test_pub_from_stdin_as_it_is(url: str, flags: list[str]) -> None:
    body = b"{{Count}}\n\xff\x00"
    assert received(url, "a", *flags, input=body) == [("a", body, [])]


def test_pub_line_by_line(url: str) -> None:
    messages = received(url, "a", "--send-on", "newline", input=b"1\r\n\n{{3}}", count=3)
    assert [data for _, data, _ in messages] == [b"1", b"", b"{{3}}"]


def test_pub_with_a_pause(url: str) -> None:
    assert len(received(url, "a", "x", "--count", 2, "--sleep", "1ms", count=2)) == 2


def test_pub_of_more_than_max_payload(url: str) -> None:
    done = cli("pub", "a", "-s", url, input=b"x" * 2_000_000)
    assert done.exit_code == 1
    assert "max_payload" in done.stderr


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["a b", "x"], "subject 'a b' is not allowed"),
        (["a", "{{Nonsense}}"], "'{{Nonsense}}' is not a known template"),
        (["a", "{{Random 5}}"], "{{Random}} needs a minimum and a maximum"),
        (["a", "{{Random 5 1}}"], "{{Random}} needs a minimum and a maximum"),
        (["a", "{{Count 5}}"], "Count takes no numbers"),
        (["a", "x", "-H", "novalue"], "a header must have the form name:value, not 'novalue'"),
        (["a", "x", "-H", "a b:c"], "header"),
        (["a", "x", "--read-stdin"], "--read-stdin cannot be combined with a body"),
        (["a", "x", "--count", "0"], "--count"),
    ],
)
def test_pub_mistakes(url: str, args: list[str], complaint: str) -> None:
    done = cli("pub", *args, "-s", url)
    assert done.exit_code == 2
    assert complaint in done.stderr


async def test_pub_without_permission(nats_server_factory: NatsServerFactory) -> None:
    permissions = {"publish": {"deny": "mute"}}
    users = [{"user": "u", "password": "p", "permissions": permissions}]
    server = await nats_server_factory(config={"authorization": {"users": users}})
    with running("pub", "mute", "x", "-s", server.url, "--user", "u", "--password", "p") as pub:
        assert await trio.to_thread.run_sync(pub.finish) == 1
        assert pub.errors.endswith(b'Permissions Violation for Publish to "mute"\'\n')


# --- sub -----------------------------------------------------------------------------------------


def test_sub_shows_messages(url: str) -> None:
    with subscribed(url, "s.*", "--count", 3) as sub:
        cli("pub", "s.a", "one", "-s", url)
        cli("pub", "s.b", "two", "-H", "K:v", "--reply", "r", "-s", url)
        cli("pub", "s.c", "-s", url, input=b"\x1b[31m\xff")
        assert sub.finish() == 0
        assert sub.output_file.seek(0) == 0
        # Bodies are written to a file unchanged.
        assert sub.output_file.read() == (
            b'[#1] Received on "s.a"\none\n\n'
            b'[#2] Received on "s.b" with reply "r"\nK: v\n\ntwo\n\n'
            b'[#3] Received on "s.c"\n\x1b[31m\xff\n\n'
        )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--raw"], ["body"]),
        (["--headers-only"], ['[#1] Received on "s"', "K: v"]),
        (["--subjects-only"], ["s"]),
        (["--json", "--headers-only"], ['{"subject": "s", "headers": {"K": ["v"]}}']),
    ],
)
def test_sub_shows_parts(url: str, flags: list[str], expected: list[str]) -> None:
    with repeated(url, "s", b"body", {"K": "v"}):
        done = cli("sub", "s", "--count", 1, *flags, "-s", url)
    assert done.exit_code == 0
    assert lines(done.stdout) == expected


def test_sub_into_files(url: str, tmp_path: Path) -> None:
    with repeated(url, "s", b"body", {"K": "v"}):
        done = cli("sub", "s", "--count", 2, "--dump", tmp_path / "new", "-s", url)
    assert (done.exit_code, done.stdout) == (0, "")
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "new").iterdir()}
    assert written.keys() == {"1.json", "2.json"}
    assert written["1.json"] == {"subject": "s", "headers": {"K": ["v"]}, "data": "body"}


def test_sub_of_several_subjects_counts_them_together(url: str) -> None:
    with subscribed(url, "one", "two", "--raw", "--count", 3) as sub:
        for subject in ("one", "two", "one", "two"):
            cli("pub", subject, subject, "-s", url)
        assert sub.finish() == 0
        # Messages are in order within a subject only.
        assert sorted(lines(sub.output)) in (["one", "one", "two"], ["one", "two", "two"])


def test_sub_in_a_queue_group(url: str) -> None:
    with (
        subscribed(url, "q", "--raw", "--queue", "g") as one,
        subscribed(url, "q", "--raw", "--queue", "g") as two,
    ):
        assert b'in group "g"' in one.errors
        cli("pub", "q", "x", "--count", 20, "-s", url)
        for sub in (one, two):
            sub.kill(signal.SIGINT)
            assert sub.finish() == 130
        assert len(lines(one.output)) + len(lines(two.output)) == 20


def test_sub_ends_when_idle(url: str) -> None:
    done = cli("sub", "idle", "--wait", "50ms", "-s", url)
    assert (done.exit_code, done.stdout) == (0, "")


def test_sub_shows_what_has_arrived_before_ctrl_c(url: str) -> None:
    with subscribed(url, "many", "--raw") as sub:
        assert cli("pub", "many", "x", "--count", 20_000, "-s", url).exit_code == 0
        # The server has all messages, so they are in flight.
        sub.kill(signal.SIGINT)
        assert sub.finish() == 130
        assert len(lines(sub.output)) == 20_000


def test_sub_mistakes(url: str) -> None:
    assert cli("sub", "a..b", "-s", url).exit_code == 2
    done = cli("sub", "a", "--raw", "--json", "-s", url)
    assert done.exit_code == 2
    assert "cannot be combined" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_messages_cannot_control_the_terminal_of_sub(url: str, no_color: str) -> None:
    ours, theirs = pty.openpty()
    variables = {"TERM": "xterm"} | ({"NO_COLOR": no_color} if no_color else {})
    with running("sub", "tty", "--count", 1, "-s", url, stdout=theirs, **variables) as sub:
        sub.said("Subscribed")
        body = b"\x1b[31mred\x1b]0;title\x07\r\nnext\r\x9b\xc2\x9b caf\xc3\xa9"
        cli("pub", "tty", "-H", "K:v", "-s", url, input=body)
        os.close(theirs)
        shown = b""
        while chunk := _read_terminal(ours):
            shown += chunk
        assert sub.finish() == 0
    os.close(ours)
    text = shown.decode().replace("\r\n", "\n")
    assert "\\x1b[31mred\\x1b]0;title\\x07\nnext\\x0d\\x9b\\x9b café\n" in text
    if no_color:
        assert "\x1b" not in text
    else:
        assert '\x1b[36m"tty"\x1b[0m' in text


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""


# --- request and reply ---------------------------------------------------------------------------


def test_request_and_reply(url: str) -> None:
    with replying(url, "svc", "you said {{Request}}, number {{Count}}", "-H", "N:{{Count}}") as svc:
        done = cli("request", "svc", "hi", "-H", "K:v", "-s", url)
        assert done.exit_code == 0
        first, *rest = lines(done.stdout)
        assert first.startswith("[#1] Received after ")
        assert rest == ["N: 1", "you said hi, number 1"]
        done = cli("request", "svc", "--raw", "-s", url, "--count", 2, input=b"x")
        assert lines(done.stdout) == ["you said x, number 2", "you said x, number 3"]
        svc.kill(signal.SIGTERM)
        assert svc.finish() == 128 + signal.SIGTERM
        shown = svc.output
        assert shown.startswith('[#1] Received on "svc" with reply "_INBOX.')
        assert "K: v\n\nhi\n" in shown


def test_echo_with_headers(url: str) -> None:
    with replying(url, "svc", "--echo", "--count", 1, "-H", "k:own") as svc:
        done = cli("request", "svc", "hi", "--json", "-H", "K:v", "-s", url)
        msg = json.loads(done.stdout)
        assert msg["headers"] == {
            "K": ["v"],
            "NATS-Reply-Counter": ["1"],
            "k": ["own"],
        }
        assert msg["data"] == "hi"
        assert svc.finish() == 0


def test_several_replies(url: str) -> None:
    with replying(url, "svc", "one", "-q", "a"), replying(url, "svc", "two", "-q", "b"):
        done = cli("request", "svc", "", "--raw", "--replies", 2, "-s", url)
        assert sorted(lines(done.stdout)) == ["one", "two"]
        done = cli("request", "svc", "", "--raw", "--replies", 0, "--timeout", "1s", "-s", url)
        assert sorted(lines(done.stdout)) == ["one", "two"]


def test_request_until_an_empty_reply(url: str) -> None:
    with replying(url, "svc", ""):
        done = cli("request", "svc", "", "--wait-for-empty", "-s", url)
        assert (done.exit_code, done.stdout) == (0, "")


def test_request_nobody_answers(url: str) -> None:
    done = cli("request", "nobody", "", "-s", url)
    assert done.exit_code == 1
    assert "nobody is subscribed" in done.stderr
    with subscribed(url, "silent"):
        done = cli("request", "silent", "", "--timeout", "1s", "-s", url)
        assert done.exit_code == 1
        assert "no reply from 'silent' within 1 s" in done.stderr


def test_a_command_replies(url: str) -> None:
    program = (
        "import os, sys; print(sys.argv[1:], os.environ['NATS_REQUEST_SUBJECT'], "
        "os.environ['NATS_REQUEST_BODY'] == sys.stdin.read())"
    )
    words = f'{sys.executable} -c "{program}" {{{{1}}}} --to={{{{Request}}}} {{{{9}}}}'
    with replying(url, "run.*", "--command", words):
        done = cli("request", "run.it", "a; 'b' $(c)", "--raw", "-s", url)
        assert done.stdout.strip() == """['it', "--to=a; 'b' $(c)", ''] run.it True"""


def test_a_failing_command_sends_an_error_reply(url: str) -> None:
    sleep = f"sleep {600_000 + os.getpid()}"  # other runs of the tests have other numbers
    reasons = {
        "exit 1": "exit code 1",
        "yes": "more than 1,048,576 bytes",
        f"{sleep} & {sleep}": "longer than 1 s",
    }
    command = ["--command", "sh -c {{Request}}", "--timeout", "1s"]
    with replying(url, "run", *command) as svc:
        for number, (program, reason) in enumerate(reasons.items(), 1):
            msg = json.loads(cli("request", "run", program, "--json", "-s", url).stdout)
            assert msg["headers"]["Nats-Service-Error-Code"] == ["500"]
            assert msg["data"] == ""
            svc.said(f"command for [#{number}] failed:")
            assert reason.encode() in svc.errors.splitlines()[-1]
        svc.kill(signal.SIGINT)
        assert svc.finish() == 130
    left = subprocess.run(["pgrep", "-f", f"^{sleep}$"], capture_output=True, check=False)
    assert left.stdout == b""


def test_a_request_cannot_become_an_option_of_the_command(url: str) -> None:
    program = f'{sys.executable} -c "import sys; print(sys.argv[1:])"'
    with replying(url, "run.*", "--command", f"{program} {{{{Request}}}} {{{{1}}}}") as svc:
        for number, (subject, body) in enumerate([("run.x", "-rf"), ("run.--force", "x")], 1):
            msg = json.loads(cli("request", subject, "--json", "-s", url, "--", body).stdout)
            assert msg["headers"]["Nats-Service-Error-Code"] == ["500"]
            svc.said(f"command for [#{number}] failed: part of the request would become an option")
    with replying(url, "run.*", "--command", f"{program} -- {{{{Request}}}}"):
        done = cli("request", "run.x", "--raw", "-s", url, "--", "-rf")
        assert done.stdout.strip() == "['--', '-rf']"


def test_a_command_gets_no_credentials(url: str, tmp_path: Path) -> None:
    context = tmp_path / "one.json"
    context.write_text(json.dumps({"user": "u", "password": "env://VAULT"}))
    environment = {
        "NATS_PASSWORD": "s3cret",
        "NATS_TOKEN": "s3cret",
        "NATS_CONTEXT": str(context),
        "VAULT": "s3cret",
        "HARMLESS": "yes",
    }
    program = f'{sys.executable} -c "import os; print(dict(os.environ))"'
    with replying(url, "run", "--command", program, **environment):
        done = cli("request", "run", "--raw", "-s", url)
    assert "'HARMLESS': 'yes'" in done.stdout
    assert "NATS_REQUEST_SUBJECT" in done.stdout
    assert "s3cret" not in done.stdout


def test_a_missing_command(url: str) -> None:
    with replying(url, "run", "--command", "/not/there {{Request}}") as svc:
        msg = json.loads(cli("request", "run", "there", "--json", "-s", url).stdout)
        assert msg["headers"]["Nats-Service-Error-Code"] == ["500"]
        svc.said("No such file or directory: '/not/there'")


async def test_what_has_been_asked_before_ctrl_c_is_answered(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    os.mkfifo(begun)
    os.mkfifo(go)
    in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
    command = f"sh -c 'echo > {begun}; cat {go}'"
    with (
        trio.fail_after(HANG_TIMEOUT),
        replying(nats_server.url, "run", "--command", command) as svc,
    ):
        async with open_nats(nats_server.url) as nc, nc.subscribe("replies") as replies:
            await nc.publish("run", b"1", reply="replies")
            await nc.publish("run", b"2", reply="replies")
            await nc.flush()
            await in_thread(begun.read_text)
            # The server has both: one is being answered, the other waits.
            svc.kill(signal.SIGINT)
            await in_thread(go.write_text, "first")
            assert (await replies.receive()).data == b"first"
            await in_thread(begun.read_text)
            await in_thread(go.write_text, "second")
            assert (await replies.receive()).data == b"second"
        assert await in_thread(svc.finish) == 130


def test_reply_mistakes(url: str) -> None:
    for word in ("{{Request}}", "/bin/{{1}}", "{{ID}}"):
        done = cli("reply", "svc", "--command", f"{word} x", "-s", url)
        assert (done.exit_code, "without a template" in done.stderr) == (2, True)
    for args in (["x", "--echo"], ["x", "--command", "y"], ["--command", "'x"], ["--command", ""]):
        assert cli("reply", "svc", *args, "-s", url).exit_code == 2
