"""``trio-nats reply``: answer requests."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, TypeAlias

import trio
import typer

from trio_nats import ConfigurationError, Connection, Headers, Msg, NatsError, Subscription
from trio_nats._nursery import open_nursery

from ..connection_options import ConnectionOptions, connected, connects, leave_if_lost
from ..output import Output, message_text
from ..payloads import HeaderOption, TemplatesOption
from ..reply_templates import Template, header_templates, headers_of
from ..runner import Program, note, run

__all__ = ["reply"]

_MAX_VARIABLE = 100_000
"""Maximum size of a request passed in a command's environment; Linux allows 128 KiB."""
_SUBJECT_TOKENS = [str(number) for number in range(100)]

Reply: TypeAlias = tuple[bytes, Headers]
Answer: TypeAlias = Callable[[int, Msg, int], Awaitable[Reply]]
"""Returns the reply for the number of a request, the request and the server's max_payload."""


@connects
def reply(
    options: ConnectionOptions,
    subject: Annotated[str, typer.Argument(help="The subject to answer on.")],
    body: Annotated[str | None, typer.Argument(help="The reply.")] = None,
    echo: Annotated[bool, typer.Option("--echo", help="Reply with the request.")] = False,
    command: Annotated[
        str | None, typer.Option(help="Reply with the output of this command.", metavar="CMD")
    ] = None,
    queue: Annotated[str, typer.Option("--queue", "-q", help="Queue group.")] = "NATS-RPLY-22",
    header: HeaderOption = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N messages.")
    ] = None,
    templates: TemplatesOption = True,
) -> None:
    """Answer requests until Ctrl-C. Requests that have arrived by then are still answered.

    The body may contain the templates of `pub`, and {{Request}}, the body of the request. A
    --command is split into words like in a shell, but runs without one. In its words, {{0}}, {{1}}
    and so on are the tokens of the subject, and {{Request}} is the body. A template never becomes
    several words or the program, and an option only after the word --. The command also gets the
    body on stdin and in NATS_REQUEST_BODY, and the subject in NATS_REQUEST_SUBJECT, but no other
    variable that begins with NATS_. If it fails, prints more than a message can hold or takes
    longer than --timeout, the reply is an error in the headers, as from a NATS service.
    """

    async def main(program: Program) -> None:
        answer = _choose(body, echo, command, options, templates)
        headers = header_templates(header or (), enabled=templates)
        output = Output()
        async with (
            connected(program, options) as nc,
            nc.subscribe(subject, queue=queue or None, stop_after=count) as requests,
        ):
            await nc.flush()
            note(f'Listening on "{subject}" in group "{queue}"')
            number = 0
            async with open_nursery() as nursery:
                nursery.start_soon(_drain_when_stopped, program, nc, requests)
                async for msg in requests:
                    number += 1
                    await output.write(message_text(output, msg, f"[#{number}] Received"))
                    if msg.reply is None:
                        continue
                    data, answered = await answer(number, msg, nc.server_info.max_payload)
                    all_headers = [*answered.pairs(), *headers_of(headers, number).pairs()]
                    try:
                        await msg.respond(data, headers=all_headers or None)
                    except NatsError as error:
                        note(f"reply to [#{number}]: {error}", style="red")
                nursery.cancel_scope.cancel()

    run(main, debug=options.debug)


async def _drain_when_stopped(program: Program, nc: Connection, requests: Subscription) -> None:
    with program.until_stopped():
        await trio.sleep_forever()
    await leave_if_lost(program, nc)
    await requests.drain()


def _choose(
    body: str | None,
    echo: bool,
    command: str | None,
    options: ConnectionOptions,
    templates: bool,
) -> Answer:
    if sum((body is not None, echo, command is not None)) > 1:
        raise ConfigurationError("a body, --echo and --command cannot be combined; pass one")
    if command is not None:
        return _Command(command, options).answer
    if body is not None:
        return _FromTemplate(Template(body, enabled=templates, more=["Request"])).answer
    if not echo:
        note("No body or command given: echoing requests")
    return _echo


async def _echo(number: int, msg: Msg, max_payload: int) -> Reply:
    headers = msg.headers.copy()
    headers.add("NATS-Reply-Counter", str(number))
    return msg.data, headers


class _FromTemplate:
    def __init__(self, template: Template) -> None:
        self._template = template

    async def answer(self, number: int, msg: Msg, max_payload: int) -> Reply:
        return self._template.fill(number, Request=msg.data), Headers()


class _Command:
    def __init__(self, command: str, options: ConnectionOptions) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigurationError(f"--command {command!r}: {error}") from None
        if not words:
            raise ConfigurationError("--command must not be empty")
        # Split before templates are filled in, so that a request cannot add words.
        self._words = [Template(word, more=["Request", *_SUBJECT_TOKENS]) for word in words]
        if not self._words[0].is_fixed:
            raise ConfigurationError("--command must name the program to run without a template")
        self._options_end = words.index("--") if "--" in words else len(words)
        self._environment = _harmless_environment(options)
        self._timeout = options.timeout

    async def answer(self, number: int, msg: Msg, max_payload: int) -> Reply:
        tokens = dict.fromkeys(_SUBJECT_TOKENS, b"")
        tokens |= {str(place): token for place, token in enumerate(msg.raw_subject.split(b"."))}
        filled = [word.fill(number, **tokens, Request=msg.data) for word in self._words]
        for word, text in zip(self._words[: self._options_end], filled, strict=False):
            if text.startswith(b"-") and word.begins_with_place:
                return self._failed(number, "part of the request would become an option")
        words = [os.fsdecode(word) for word in filled]
        output = b""
        with trio.move_on_after(self._timeout) as scope:
            try:
                output = await _output_of(words, self._environment, msg, max_payload)
            except _CommandError as error:
                return self._failed(number, str(error))
        if scope.cancelled_caught:
            return self._failed(number, f"it took longer than {self._timeout:g} s (--timeout)")
        return output, Headers()

    def _failed(self, number: int, reason: str) -> Reply:
        note(f"command for [#{number}] failed: {reason}", style="red")
        # Do not send the reason, which may reveal something about this machine.
        error = {"Nats-Service-Error": "command failed", "Nats-Service-Error-Code": "500"}
        return b"", Headers(error)


class _CommandError(Exception):
    """The command failed, so there is no output to reply with."""


def _harmless_environment(options: ConnectionOptions) -> dict[str, str]:
    """Return the environment without credentials, because requests come from others."""
    context = {} if options.context is None else vars(options.context)
    secrets = {str(value).removeprefix("env://") for value in context.values()}
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("NATS_") and name not in secrets
    }


async def _output_of(words: list[str], environment: dict[str, str], msg: Msg, limit: int) -> bytes:
    """Return the command's output. It is killed if it prints too much or this is cancelled."""
    environment = environment | {"NATS_REQUEST_SUBJECT": os.fsdecode(msg.raw_subject)}
    if b"\0" not in msg.data and len(msg.data) <= _MAX_VARIABLE:
        environment |= {"NATS_REQUEST_BODY": os.fsdecode(msg.data)}
    output = bytearray()
    failure = ""
    async with open_nursery() as nursery:
        start = partial(
            trio.run_process,
            words,
            stdin=msg.data,
            stdout=subprocess.PIPE,
            check=False,
            env=environment,
            # Ctrl-C ends this program, but lets a command that has started finish.
            start_new_session=True,
            deliver_cancel=_kill,
        )
        try:
            process: trio.Process = await nursery.start(start)
        except (OSError, ValueError) as error:
            failure = str(error)
        else:
            assert process.stdout is not None
            async for chunk in process.stdout:
                output += chunk
                if len(output) > limit:
                    failure = f"it printed more than {limit:,} bytes, the maximum payload"
                    nursery.cancel_scope.cancel()
                    break
            else:
                if await process.wait():
                    failure = f"exit code {process.returncode}"
    if failure:
        raise _CommandError(failure)
    return bytes(output)


async def _kill(process: trio.Process) -> None:
    """Kill the command and the processes it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    await trio.lowlevel.checkpoint()
