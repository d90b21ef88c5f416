"""Explain which extra to install."""

from __future__ import annotations

import sys

__all__ = ["explain_missing"]


def explain_missing(error: ModuleNotFoundError) -> None:
    """Exit with a hint on what to install, if the missing module belongs to an extra."""
    missing = (error.name or "").partition(".")[0]
    extra = {"typer": "cli", "rich": "cli", "trustme": "demo"}.get(missing)
    if extra is not None:
        sys.exit(
            f"this command needs {missing}, which is not installed; "
            f"run: pip install 'trio-nats[{extra}]'"
        )
