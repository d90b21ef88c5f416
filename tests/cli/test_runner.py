"""How commands end: exit codes, errors, signals, and readers that go away."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys

import pytest
import trio
import typer

from tests.cli.helpers import clean_environment, cli, observed, running
from trio_nats import (
    ConfigurationError,
    ConnectionLostError,
    ConnectionState,
    CredentialsError,
    InvalidSubjectError,
    NatsError,
    open_nats,
)
from trio_nats._nursery import open_nursery
from trio_nats.cli.connection_options import leave_if_lost
from trio_nats.cli.runner import GRACE, Program, plain_errors, run
from trio_nats.testing import NatsServer

SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigurationError("bad"), 2, "trio-nats: bad"),
        (CredentialsError("bad"), 2, "trio-nats: bad"),
        (InvalidSubjectError("bad"), 2, "trio-nats: bad"),
        (NatsError("no\x1b[m"), 1, "trio-nats: no\\x1b[m"),
        (ConnectionLostError("gone"), 1, "trio-nats: gone"),
        (OSError(2, "No such file", "x"), 1, "trio-nats: [Errno 2] No such file: 'x'"),
        (trio.ClosedResourceError("x"), 1, "trio-nats: the connection is closed: x"),
        (KeyError("x"), 1, "trio-nats: unexpected KeyError: 'x' (--debug shows where)"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Exit(7), 7, ""),
    ],
)
def test_errors_become_a_line_and_a_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, plain_errors():
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err.strip() == words


@pytest.mark.parametrize(
    ("error", "code", "words"), [(NatsError("in"), 1, "trio-nats: in"), (typer.Exit(7), 7, "")]
)
def test_an_error_in_a_background_task_of_a_command(
    error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail() -> None:
        raise error

    async def main(_: Program) -> None:
        async with open_nursery() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(typer.Exit) as caught:
        run(main)
    assert caught.value.exit_code == code
    assert capsys.readouterr().err.strip() == words


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), plain_errors(debug=True):
        raise NatsError("here")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_failures_are_reported_although_other_tasks_were_cancelled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def main(program: Program) -> None:
        async with open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise NatsError("the reason")

    with pytest.raises(typer.Exit):
        run(main)
    assert capsys.readouterr().err == "trio-nats: the reason\n"


# --- signals -------------------------------------------------------------------------------------


async def test_the_first_signal_ends_what_asks_for_it_and_leaves_time(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        program = Program(nursery)
        with program.body:
            with program.until_stopped():
                program.interrupt(signal.SIGINT)
                await trio.sleep_forever()
            await trio.sleep(GRACE - 1)
            with program.until_stopped() as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            await trio.sleep_forever()
        assert program.body.cancelled_caught
        assert trio.current_time() == pytest.approx(GRACE, abs=0.01)
    assert program.signal == signal.SIGINT


async def test_the_second_signal_does_not_wait(autojump_clock: trio.abc.Clock) -> None:
    async with trio.open_nursery() as nursery:
        program = Program(nursery)
        with program.body:
            with program.until_stopped():
                program.interrupt(signal.SIGTERM)
                await trio.sleep_forever()
            program.interrupt(signal.SIGINT)
            await trio.sleep(1)
        assert trio.current_time() < 1
    assert program.signal == signal.SIGTERM


async def test_a_signal_during_cleanup_allows_the_grace_period(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        program = Program(nursery)
        with program.body:
            with program.until_stopped():
                await trio.sleep(1)
            program.interrupt(signal.SIGINT)
            await trio.sleep(GRACE - 1)
            program.interrupt(signal.SIGINT)
            await trio.sleep_forever()
        assert trio.current_time() == pytest.approx(GRACE, abs=0.01)


async def test_a_signal_without_until_stopped_ends_everything(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with trio.open_nursery() as nursery:
        program = Program(nursery)
        with program.body:
            program.interrupt(signal.SIGINT)
            await trio.sleep_forever()
        assert trio.current_time() < 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_quiet(url: str, number: signal.Signals) -> None:
    # What an interpreter might say of Ctrl-C as it ends is not there to be seen in a fork.
    interpreter = number == signal.SIGINT
    with running("sub", "quiet", "-s", url, interpreter=interpreter) as sub:
        sub.said("Subscribed")
        sub.kill(number)
        assert sub.finish() == 128 + number
        assert sub.errors == b'Subscribed to "quiet"\n'


@pytest.mark.slow
def test_a_signal_while_connecting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        with running("sub", "x", "--timeout", "1h", "-s", where) as sub:
            with silent.accept()[0]:
                sub.kill(signal.SIGINT)
                assert sub.finish() == 130
            assert sub.errors == b""


@pytest.mark.slow
def test_a_signal_while_reading_stdin(url: str) -> None:
    with running("pub", "x", "-s", url, "--read-stdin", "--send-on", "newline") as pub:
        with observed(url, "x", 2):
            pub.feed(b"one\ntwo\n")
        # There is no more input now, so it waits.
        pub.kill(signal.SIGINT)
        assert pub.finish() == 130
        assert b"Published 2 messages" in pub.errors


@pytest.mark.slow
def test_a_closed_output_pipe(url: str) -> None:
    head = subprocess.Popen(
        ["head", "-n", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert head.stdin is not None
    words = ("sub", "pipe", "--raw", "-s", url)
    with head, running(*words, stdout=head.stdin.fileno(), interpreter=True) as sub:
        head.stdin.close()
        sub.said("Subscribed")
        assert cli("pub", "pipe", "first", "-s", url).exit_code == 0
        assert head.stdout is not None
        assert head.stdout.read() == "first\n"
        assert cli("pub", "pipe", "second", "-s", url).exit_code == 0
        assert sub.finish() == 141
        assert sub.errors == b'Subscribed to "pipe"\n'


@pytest.mark.slow
@pytest.mark.parametrize("args", [["rtt", "1"], ["rtt", "1", "--json"]])
def test_an_output_pipe_without_a_reader(url: str, args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    with running(*args, stdout=write, interpreter=True, NATS_URL=url) as process:
        os.close(write)
        assert process.finish() == 141
        assert process.errors == b""


@pytest.mark.slow
@pytest.mark.parametrize("args", [["sub", "x", "--wait", "1ms"], ["pub", "x"]])
def test_without_stdin_and_stdout(url: str, args: list[str]) -> None:
    line = shlex.join([sys.executable, "-m", "trio_nats", *args])
    environment = clean_environment(NATS_URL=url)
    done = subprocess.run(
        ["sh", "-c", f"exec {line} <&- >&-"], env=environment, stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, b"unexpected" in done.stderr) == (0, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "args", [["sub", "x"], ["reply", "x", "y"], ["pub", "x", "--send-on", "newline"]]
)
async def test_a_signal_while_there_is_no_server(nats_server: NatsServer, args: list[str]) -> None:
    def go_on() -> None:
        process.said("disconnected from")
        process.kill(signal.SIGINT)
        # Or `pub` might see the end of stdin first, and wait for its server as long as it may.
        assert process.finish(close_stdin=False) == 130

    with running(*args, "-s", nats_server.url) as process:
        if args[0] == "pub":
            async with open_nats(nats_server.url) as nc, nc.subscribe("x") as sub:
                await nc.flush()
                process.feed(b"one\n")
                await sub.receive()
        else:
            await trio.to_thread.run_sync(process.said, '"x"')
        await nats_server.stop()
        await trio.to_thread.run_sync(go_on)


async def test_operations_that_need_a_lost_server_do_not_wait(
    nats_server: NatsServer,
) -> None:
    async with open_nats(nats_server.url) as nc, trio.open_nursery() as nursery:
        program = Program(nursery)
        with program.body:
            await leave_if_lost(program, nc)
            program.interrupt(signal.SIGINT)
        program = Program(nursery)
        program.signal = signal.SIGINT
        with program.body:
            await leave_if_lost(program, nc)
            await nats_server.stop()
            await nc.wait_for_state(ConnectionState.RECONNECTING)
            await leave_if_lost(program, nc)
            pytest.fail("goes on without a server")
        assert program.body.cancelled_caught


# --- the connection ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_connection_events_are_printed(nats_server: NatsServer) -> None:
    with running("sub", "x", "-s", nats_server.url) as sub:
        await trio.to_thread.run_sync(sub.said, '"x"')
        await nats_server.restart()
        await trio.to_thread.run_sync(sub.said, "reconnected to")
        assert b"disconnected from" in sub.errors


def test_no_server() -> None:
    done = cli("pub", "x", "y", "-s", "nats://127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stderr.startswith("trio-nats: cannot connect to nats://127.0.0.1:1 [dial]")
    assert "Traceback" not in done.stderr


def test_debug_by_its_variable() -> None:
    done = cli("pub", "x", "y", "-s", "nats://127.0.0.1:1", TRIO_NATS_DEBUG="1")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "debug: " in done.stderr


@pytest.mark.slow
def test_tracebacks_show_no_values() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trio_nats", "pub", "x", "y", "-s", "nats://127.0.0.1:1"],
        env=clean_environment(NATS_TOKEN=SECRET, TRIO_NATS_DEBUG="1"),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert "Traceback" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("args", [[], ["context"]])
def test_help_without_a_command(args: list[str]) -> None:
    done = cli(*args)
    assert done.exit_code == 0
    assert "Commands" in done.stdout


@pytest.mark.parametrize("args", [["nonsense"], ["context", "nonsense"], ["pub"]])
def test_an_invalid_command_line(args: list[str]) -> None:
    done = cli(*args)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("trio-nats")
