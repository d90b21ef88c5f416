"""The ``trio-nats`` command. Needs the ``cli`` extra."""

from __future__ import annotations

import sys

from ._extras import explain_missing

__all__ = ["main"]


def main() -> None:
    """Run the command line. The console script and ``python -m trio_nats`` call this."""
    try:
        _main()
    except KeyboardInterrupt:
        # Before or after a command. A running command handles Ctrl-C itself.
        sys.exit(130)


def _main() -> None:
    try:
        from .app import app
    except ModuleNotFoundError as error:
        explain_missing(error)
        raise
    app(prog_name="trio-nats")
