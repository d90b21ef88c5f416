"""The ``trio-nats`` command. Needs the ``cli`` extra."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script and ``python -m trio_nats`` come in here."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        sys.exit(
            f"the trio-nats command needs {missing}, which is not installed; "
            "run: pip install 'trio-nats[cli]'"
        )
    app()
