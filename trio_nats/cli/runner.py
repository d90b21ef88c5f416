"""Run commands: signals, exit codes, and errors in one line.

=====  ==========================================================================================
0      success
1      failure: no connection, no reply
2      wrong use: invalid flags, context or credentials
130    Ctrl-C (143 after SIGTERM)
141    the reader of the output is gone (``| head``)
=====  ==========================================================================================
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any

import trio
import typer
from typer.core import TyperGroup

from trio_nats import (
    ConfigurationError,
    CredentialsError,
    InvalidHeaderError,
    InvalidSubjectError,
    NatsError,
)
from trio_nats._nursery import open_nursery
from trio_nats._printable import MAX_TEXT, printable_lines

__all__ = ["Commands", "Program", "debug_wanted", "note", "plain_errors", "run"]

GRACE = 5.0
"""Seconds that a command may take to finish after the first signal."""

_BAD_INPUT = (ConfigurationError, CredentialsError, InvalidHeaderError, InvalidSubjectError)
# Not imported from click, because newer versions of typer have their own copy of click.
_UsageError: Any = typer.BadParameter.__bases__[0]


def note(text: str, *, style: str | None = None) -> None:
    """Print on stderr, where it does not mix with data."""
    text = printable_lines(text, MAX_TEXT)
    if sys.stderr is not None and not sys.stderr.isatty():
        # Without Rich, whose import takes a tenth of a command's start-up time.
        try:
            print(text, file=sys.stderr, flush=True)
        except BrokenPipeError:
            raise SystemExit(1) from None
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style=style or ""))


# --- errors --------------------------------------------------------------------------------------


def debug_wanted(typer_context: typer.Context) -> bool:
    """Whether ``--debug`` or its variable was given before the command."""
    return bool(typer_context.find_root().params.get("debug"))


@contextmanager
def plain_errors(debug: bool = False) -> Generator[None, None, None]:
    """Turn exceptions into one line on stderr and an exit code. ``debug`` adds the traceback."""
    try:
        try:
            yield
        finally:
            # Here, because a broken pipe can still be handled here.
            if sys.stdout is not None:
                sys.stdout.flush()
    except (typer.Exit, typer.Abort, typer.BadParameter, SystemExit):
        raise
    except BrokenPipeError:
        _forget_stdout()
        raise typer.Exit(128 + 13) from None
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except Exception as error:
        if debug:
            # Print it here, because typer would add the values of variables.
            traceback.print_exc(file=sys.stderr)
        note(f"trio-nats: {_words(error)}", style="red")
        raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from None


class Commands(TyperGroup):
    """A group of commands that reports usage errors in one line, like all other errors."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the command line; see click."""
        if not more.get("standalone_mode", True):
            return super().main(*args, **more)
        try:
            # Commands return None, so the result is the code of a typer.Exit.
            code = super().main(*args, **{**more, "standalone_mode": False})
        except typer.Abort:
            code = 128 + signal.SIGINT
        except _UsageError as error:
            command = error.ctx.command_path if error.ctx else "trio-nats"
            note(f"{command}: {error.format_message()} (see {command} --help)", style="red")
            code = 2
        sys.exit(code)


def _words(error: Exception) -> str:
    if isinstance(error, NatsError | OSError):
        return str(error) or type(error).__name__
    if isinstance(error, trio.ClosedResourceError | trio.BrokenResourceError):
        return f"the connection is closed: {error}"
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _forget_stdout() -> None:
    """Discard what is left in stdout, because its reader is gone."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass


# --- running -------------------------------------------------------------------------------------


class Program:
    """A running command, which signals can stop."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.signal: int | None = None
        self.body: trio.CancelScope = trio.CancelScope()
        self._endings: list[trio.CancelScope] = []
        self._tidy = False

    @contextmanager
    def until_stopped(self) -> Generator[trio.CancelScope, None, None]:
        """Let the first signal end only this block, so that the code after it can clean up.

        Once the block has been entered, the first signal does not cancel the code after it either.
        """
        self._tidy = True
        with trio.CancelScope() as scope:
            if self.signal is not None:
                scope.cancel()
            self._endings.append(scope)
            try:
                yield scope
            finally:
                self._endings.remove(scope)

    def interrupt(self, number: int) -> None:
        """Handle a signal. The first ends ``until_stopped`` blocks and allows ``GRACE``."""
        if self.signal is None and self._tidy:
            self.body.deadline = trio.current_time() + GRACE
            for scope in self._endings:
                scope.cancel()
        else:
            self.body.cancel()
        self.signal = self.signal or number


def run(main: Callable[[Program], Awaitable[None]], *, debug: bool = False) -> None:
    """Run a command to its end or until a signal. Raises ``typer.Exit`` unless it succeeds."""
    with plain_errors(debug), _logging(debug):
        trio.run(_supervised, main)


async def _supervised(main: Callable[[Program], Awaitable[None]]) -> None:
    failure: Exception | None = None
    async with open_nursery() as nursery:
        program = Program(nursery)
        await nursery.start(_listen_to_signals, program)
        with program.body:
            try:
                await main(program)
            except Exception as error:
                failure = error
        nursery.cancel_scope.cancel()
    if program.signal is not None:
        raise typer.Exit(128 + program.signal)
    if failure is not None:
        raise failure


async def _listen_to_signals(
    program: Program, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may receive signals.
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            program.interrupt(number)


# --- logging -------------------------------------------------------------------------------------


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # --insecure has printed a warning already; this one would follow at every attempt.
        if not str(record.msg).startswith("insecure_skip_verify"):
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            note(f"{record.levelname.lower()}: {record.getMessage()}", style=style)


@contextmanager
def _logging(debug: bool) -> Generator[None, None, None]:
    logger, handler = logging.getLogger("trio_nats"), _Handler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
