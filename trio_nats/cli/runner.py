"""How a command runs: signals, exit codes, and errors in one line.

=====  ==========================================================================================
0      done
1      it did not work: no connection, no reply
2      it cannot work: flags, a context or credentials that are wrong
130    Ctrl-C (143 after SIGTERM)
141    the reader of the output has gone (``| head``)
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
# Not click's own, for newer typer brings a click along.
_UsageError: Any = typer.BadParameter.__bases__[0]


def note(text: str, *, style: str | None = None) -> None:
    """Say something on stderr, where it does not mix with data."""
    text = printable_lines(text, MAX_TEXT)
    if sys.stderr is not None and not sys.stderr.isatty():
        # Without Rich, which takes a tenth of the time in which a command starts.
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
    """Whether ``--debug``, or its variable, was given to the program itself."""
    return bool(typer_context.find_root().params.get("debug"))


@contextmanager
def plain_errors(debug: bool = False) -> Generator[None, None, None]:
    """Turn what is raised into one line on stderr and an exit code; ``debug``: a traceback too."""
    try:
        try:
            yield
        finally:
            # Here, where it can still be dealt with that nobody is reading any more.
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
            # Not by the interpreter: on its way there typer might add the values of variables.
            traceback.print_exc(file=sys.stderr)
        note(f"trio-nats: {_words(error)}", style="red")
        raise typer.Exit(2 if isinstance(error, _BAD_INPUT) else 1) from None


class Commands(TyperGroup):
    """A group of commands that reports mistakes in the command line as all others: in one line."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the command line; see click."""
        if not more.get("standalone_mode", True):
            return super().main(*args, **more)
        try:
            # Commands return nothing: what comes back is the code of a typer.Exit.
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
    """Nobody reads stdout any more, so that what is left in it must not be written at the end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass


# --- running -------------------------------------------------------------------------------------


class Program:
    """A running command, which signals end."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.signal: int | None = None
        self.body: trio.CancelScope = trio.CancelScope()
        self._endings: list[trio.CancelScope] = []
        self._tidy = False

    @contextmanager
    def until_stopped(self) -> Generator[trio.CancelScope, None, None]:
        """The first signal ends this block only, so that what follows it can tidy up.

        From here on it does so, be it in this block or after it.
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
        """A signal came. The first asks politely, where that is of use, and waits ``GRACE``."""
        if self.signal is None and self._tidy:
            self.body.deadline = trio.current_time() + GRACE
            for scope in self._endings:
                scope.cancel()
        else:
            self.body.cancel()
        self.signal = self.signal or number


def run(main: Callable[[Program], Awaitable[None]], *, debug: bool = False) -> None:
    """Run a command to its end, or until a signal; raises ``typer.Exit`` for all but success."""
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
        # Nothing arrives here, and nothing may be asked for.
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            program.interrupt(number)


# --- logging -------------------------------------------------------------------------------------


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        # --insecure has been warned of already, and this would come with every attempt.
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
