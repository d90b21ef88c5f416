"""The ``trio-nats`` command. Needs the ``cli`` extra."""

from __future__ import annotations

import sys

from ._extras import explain_missing

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script and ``python -m trio_nats`` come in here."""
    try:
        _main()
    except KeyboardInterrupt:
        # Before or after a command ran; while one does, it sees to that itself.
        sys.exit(130)


def _main() -> None:
    try:
        from .app import app
    except ModuleNotFoundError as error:
        explain_missing(error)
        raise
    app(prog_name="trio-nats")
