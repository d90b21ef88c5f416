"""``trio-nats server``: run a temporary nats-server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import trio
import typer

from trio_nats import ConfigurationError, NatsError, testing

from .._extras import explain_missing
from ..runner import Program, debug_wanted, note, run

if TYPE_CHECKING:
    from ..throwaway_certificates import Certificates

__all__ = ["server"]

_LOOK_EVERY = 0.25
_LOG_LINES = 20


def server(
    typer_context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 4222,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    jetstream: Annotated[
        bool, typer.Option("--jetstream", "-J", help="Enable JetStream, with a temporary store.")
    ] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="Require TLS, with a new certificate authority.")
    ] = False,
    user: Annotated[str | None, typer.Option(help="Require this user and --password.")] = None,
    password: Annotated[str | None, typer.Option(help="Password of --user.")] = None,
    token: Annotated[str | None, typer.Option(help="Require this token.")] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of JetStream's store.")
    ] = None,
) -> None:
    """Run a nats-server for experiments until Ctrl-C, and print its URL.

    Everything it stores is deleted at the end, unless you pass --store.
    """

    make_certificates = _certificate_maker() if tls else None

    async def main(program: Program) -> None:
        if store is not None and not jetstream:
            raise ConfigurationError("--store needs --jetstream; pass both")
        with ExitStack() as stack:
            certificates = make_certificates(stack, host) if make_certificates else None
            # Imported only here: no other command needs it.
            running = testing.NatsServer(
                host=host,
                port=port or None,
                jetstream=jetstream,
                user=user,
                password=password,
                token=token,
                tls=None if certificates is None else certificates.server(),
                args=[] if store is None else ["--store_dir", str(store)],
            )
            async with running:
                print(running.url, flush=True)
                if certificates is not None:
                    note(f"Clients need --tlsca {certificates.ca_file}")
                note("Press Ctrl-C to stop")
                with program.until_stopped():
                    while running.is_running:  # noqa: ASYNC110  # a process sets no event
                        await trio.sleep(_LOOK_EVERY)
                    raise NatsError(f"the server has exited; its log ends with:\n{_tail(running)}")

    run(main, debug=debug_wanted(typer_context))


def _certificate_maker() -> Callable[[ExitStack, str], Certificates]:
    """Import the class that makes certificates, which needs trustme."""
    try:
        from ..throwaway_certificates import Certificates
    except ModuleNotFoundError as error:
        explain_missing(error)
        raise

    def make(stack: ExitStack, host: str) -> Certificates:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trio-nats-server-"))
        names = [] if host in ("0.0.0.0", "::") else [host]
        return Certificates.make(Path(folder), *names)

    return make


def _tail(running: testing.NatsServer) -> str:
    return "\n".join(f"  {line}" for line in running.log.splitlines()[-_LOG_LINES:])
