"""A progress bar on stderr, if that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

__all__ = ["Advance", "progress_bar"]

Advance: TypeAlias = Callable[[int], None]

_REFRESH = 0.1


@contextmanager
def progress_bar(
    total: int, what: str, quiet: bool = False, clock: Callable[[], float] = time.perf_counter
) -> Generator[Advance, None, None]:
    """Yield a function to call with the number of steps just done, of ``total`` in all."""
    if quiet or total < 2:
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda steps: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} msg/s"),
        console=console,
        # No refresh thread, because it would disturb the measurement.
        auto_refresh=False,
        transient=True,
        expand=True,
    )
    task = bar.add_task(what, total=total, rate=0.0)
    begun = clock()
    done, refresh_at = 0, begun + _REFRESH

    def advance(steps: int) -> None:
        nonlocal done, refresh_at
        done += steps
        now = clock()
        if now < refresh_at:
            return
        refresh_at = now + _REFRESH
        bar.update(task, completed=done, rate=done / (now - begun))
        bar.refresh()

    with bar:
        yield advance
