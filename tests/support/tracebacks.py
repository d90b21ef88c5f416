"""What an error reporter prints of an exception beside its text."""

from __future__ import annotations

import traceback

__all__ = ["variables_of"]


def variables_of(error: BaseException) -> str:
    """The variables along the tracebacks of an exception and of those behind and in it.

    Without those of the tests themselves.
    """
    found: list[str] = []
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        shown = traceback.TracebackException.from_exception(one, capture_locals=True)
        for frame in shown.stack:
            if "/tests/" not in frame.filename:
                found += [f"{name}={value}" for name, value in (frame.locals or {}).items()]
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return "\n".join(found)
