"""Classes that users are given and do not make, as in Trio."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """The metaclass of a class that only :func:`construct` makes an object of.

    The class says with ``use=`` what users call to have one; its subclasses need not repeat it.
    """

    _use_instead: str

    def __new__(
        mcs,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, object],
        /,
        *,
        use: str | None = None,
    ) -> NoPublicConstructor:
        cls = super().__new__(mcs, name, bases, namespace)
        if use is not None:
            cls._use_instead = use
        return cls

    # Type checkers see the constructor itself, with which they check what construct() is given.
    if not TYPE_CHECKING:

        def __call__(cls, *args: object, **kwargs: object) -> NoReturn:
            raise TypeError(f"{cls.__name__} has no public constructor; use {cls._use_instead}")


if TYPE_CHECKING:

    def construct(cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make an object of a class without a public constructor."""
        ...

else:
    construct = type.__call__
