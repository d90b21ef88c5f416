"""Classes without a public constructor, as in Trio."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class NoPublicConstructor(ABCMeta):
    """Metaclass of classes that only :func:`construct` can instantiate.

    :param use: what users call instead, for the error's text. Subclasses inherit it.
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

    # Type checkers must see the real constructor, to check the arguments of construct().
    if not TYPE_CHECKING:

        def __call__(cls, *args: object, **kwargs: object) -> NoReturn:
            raise TypeError(f"{cls.__name__} has no public constructor; use {cls._use_instead}")


if TYPE_CHECKING:

    def construct(cls: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Instantiate a class without a public constructor."""
        ...

else:
    construct = type.__call__
