"""What to say when an extra is not installed."""

from __future__ import annotations

import sys

__all__ = ["explain_missing"]


def explain_missing(error: ModuleNotFoundError) -> None:
    """End the program with what to install, if it is one of the extras that is missing."""
    missing = (error.name or "").partition(".")[0]
    extra = {"typer": "cli", "rich": "cli", "trustme": "demo"}.get(missing)
    if extra is not None:
        sys.exit(
            f"this command needs {missing}, which is not installed; "
            f"run: pip install 'trio-nats[{extra}]'"
        )
