"""The local variables that an error reporter prints with a traceback."""

from __future__ import annotations

import traceback

__all__ = ["variables_of"]


def variables_of(error: BaseException) -> str:
    """Return the local variables in the tracebacks of an exception, its causes and its group.

    Variables of the tests themselves are left out.
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
