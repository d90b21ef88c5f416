"""Keep secrets out of tracebacks, because error reporters print the variables of every frame.

Objects that hold a secret do not show it in their ``repr``. But functions that parse one have it in
their arguments and variables as plain text. So these functions raise their errors without the
frames below them, and without their arguments.
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
    """Remove the traceback and the context of an error, and return it.

    Its cause is kept, because that was raised by other code.
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
            # Any other error is a bug, whose frames are needed to find it.
            expected = isinstance(error, (NatsError, TypeError))
            raised = without_frames(error) if expected else error
        del args, kwargs
        raise raised

    return wrapper


def hides_secrets(cls: type[_T]) -> type[_T]:
    """Decorate a dataclass that may hold secrets and checks them in ``__init__``."""
    setattr(cls, "__init__", takes_secrets(cls.__init__))  # noqa: B010 -- to type checkers as well
    return cls
