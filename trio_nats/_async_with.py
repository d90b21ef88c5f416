"""Objects that explain wrong ways of using them.

Of ``await nc.subscribe("a")``, Python itself says only that a Subscription cannot be awaited. The
methods that explain it are hidden from type checkers, which report the wrong uses themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

__all__ = ["NeedsAsyncFor", "NeedsAsyncWith"]


class NeedsAsyncWith:
    """The last base of a class whose objects are used with ``async with``."""

    __slots__ = ()

    _async_with: str
    """What follows ``async with``, such as ``nc.subscribe(...) as sub``."""

    def _not_entered_error(self, what: str) -> RuntimeError:
        use = f"use it as 'async with {self._async_with}:'"
        return RuntimeError(f"{what} has not been entered; {use}")

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise self._wrong_use("cannot be awaited")

        def __aiter__(self) -> NoReturn:
            raise self._wrong_use("cannot be used in 'async for'")

        def __enter__(self) -> NoReturn:
            raise self._wrong_use("cannot be used with 'with'")

        def __exit__(self, *_: object) -> None:
            """Never called, but without it Python does not call ``__enter__``."""

        def _wrong_use(self, what: str) -> TypeError:
            call = self._async_with.partition("(")[0]
            return TypeError(f"{call}() {what}; use 'async with {self._async_with}:'")


class NeedsAsyncFor:
    """The last base of an asynchronous iterator that a function returns, such as a listing."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            raise TypeError("an iterator cannot be awaited; use 'async for item in ...:'")

        def __iter__(self) -> NoReturn:
            raise TypeError("use 'async for item in ...:', not 'for'")
