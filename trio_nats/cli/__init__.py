"""The ``trio-nats`` command. Needs the ``cli`` extra."""

from __future__ import annotations

from ._extras import explain_missing

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script and ``python -m trio_nats`` come in here."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        explain_missing(error)
        raise
    app(prog_name="trio-nats")
