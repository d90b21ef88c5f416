"""``trio-nats doctor``: find out why a connection fails, and how to fix it.

``examine`` gathers facts, ``steps`` and ``advice`` turn them into words, ``render`` and ``as_json``
into output. The texts of findings are in the ``*problems`` modules, ``wrong_peer`` and
``warnings``.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..connection_options import ConnectionOptions, connects
from ..runner import Program, run

__all__ = ["doctor"]


@connects
def doctor(
    options: ConnectionOptions,
    url: Annotated[
        str | None, typer.Argument(help="Server URLs, comma-separated.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out why a connection fails, and how to fix it.

    Checks the name, TCP, TLS, certificates and login step by step, tries every
    TLS mode, and says what to change. The exit code is 0 only if a client connects.
    """

    async def main(program: Program) -> None:
        from .command import examine_and_print

        connects = await examine_and_print(url or options.servers, options, json=json)
        if not connects:
            raise typer.Exit(1)

    run(main, debug=options.debug)
