"""The tables of ``docs/permissions.md``, so that tests can try each line."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["permissions", "quoted"]

_PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"


def permissions(section: str) -> dict[str, tuple[list[str], list[str]]]:
    """The subjects of each line of a table: to publish to, to subscribe to."""
    found = {}
    text = _PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and "`" in cells[1]:
            publish, subscribe = (re.findall(r"`([^`]+)`", cell) for cell in cells[1:])
            found[re.sub("`", "", cells[0])] = publish, subscribe
    return found


def quoted(subjects: list[str]) -> str:
    """Return the subjects as in the configuration of a server."""
    return ", ".join(f"'{one}'" for one in subjects)
