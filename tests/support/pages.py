"""The pages of the documentation, and their code blocks."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "blocks"]

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "benchmarks/*.md")
    for page in ROOT.glob(pattern)
)

_PARTS = re.compile(
    r"^#+ (?P<heading>.*?)$|^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block and the heading above it."""

    page: Path
    line: int
    heading: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    """Yield the blocks in ``language`` on a page, in order."""
    text, heading = page.read_text("utf-8"), ""
    for part in _PARTS.finditer(text):
        if part["language"] is None:
            heading = part["heading"]
        elif part["language"] == language:
            line = text.count("\n", 0, part.start()) + 1
            yield Block(page, line, heading, language, textwrap.dedent(part["code"]))
