"""The ``trio-nats`` command. Needs the ``cli`` extra."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script and ``python -m trio_nats`` come in here."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        explain_missing(error)
        raise
    app()


def explain_missing(error: ModuleNotFoundError) -> None:
    """End the program with what to install, if it is one of the extras that is missing."""
    missing = (error.name or "").partition(".")[0]
    extra = {"typer": "cli", "rich": "cli", "trustme": "demo"}.get(missing)
    if extra is not None:
        sys.exit(
            f"this command needs {missing}, which is not installed; "
            f"run: pip install 'trio-nats[{extra}]'"
        )
