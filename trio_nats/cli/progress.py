"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["progress_bar"]

_REFRESH = 0.1


@contextmanager
def progress_bar(
    total: int, what: str, quiet: bool = False
) -> Generator[Callable[[], None], None, None]:
    """Gives what has to be called ``total`` times, once for each step. It costs next to nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if quiet or total < 2 or not console.is_terminal:
        yield lambda: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} msg/s"),
        console=console,
        # Not in a thread of its own, which would take the interpreter from what is measured.
        auto_refresh=False,
        transient=True,
        expand=True,
    )
    task = bar.add_task(what, total=total, rate=0.0)
    begun = time.perf_counter()
    done, refresh_at = 0, begun + _REFRESH

    def advance() -> None:
        nonlocal done, refresh_at
        done += 1
        # The clock is not asked about every step either.
        if (done & 255 and done < total) or time.perf_counter() < refresh_at:
            return
        refresh_at = time.perf_counter() + _REFRESH
        bar.update(task, completed=done, rate=done / (time.perf_counter() - begun))
        bar.refresh()

    with bar:
        yield advance
