"""Keeping secrets out of tracebacks: error reporters print the variables of every frame.

``repr`` of what holds a secret never shows it, but what a function is called with, and takes apart,
is plain text. So the functions that take secrets as such raise their errors without the frames
below them, and without their own arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from .errors import NatsError

__all__ = ["hides_secrets", "takes_secrets", "without_frames"]

_E = TypeVar("_E", bound=BaseException)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


def without_frames(error: _E) -> _E:
    """The error, freed of the frames that it came through and of the error it was raised after.

    What is its cause stays: that was raised by somebody else's code.
    """
    error.__traceback__ = error.__context__ = None
    return error


def takes_secrets(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function whose arguments may hold secrets."""

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # The frames of a fault in this package are wanted.
            ours = isinstance(error, (NatsError, TypeError))
            raised = without_frames(error) if ours else error
        del args, kwargs
        raise raised

    return wrapper


def hides_secrets(cls: type[_T]) -> type[_T]:
    """Decorate a dataclass whose fields may hold secrets: it checks them when it is made."""
    setattr(cls, "__init__", takes_secrets(cls.__init__))  # noqa: B010 -- to type checkers as well
    return cls
