"""Set ``__module__`` of public names to the module that users import them from, as in Trio.

Tracebacks, ``help()`` and pickles then name the public module. The private one may change.
"""

from __future__ import annotations

import inspect
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ForwardRef

DEFINED_IN: dict[type, str] = {}
"""The module that defines each public class, for tools that read its source."""


def set_public_module(module: str, names: Sequence[str], namespace: Mapping[str, object]) -> None:
    """Set ``__module__`` of the classes and functions that a package or its submodules define.

    :param module: the name of the package.
    :param names: its public names.
    :param namespace: its ``globals()``.
    """
    classes = [value for name in names if isinstance(value := namespace[name], type)]
    _name_methods(module, classes)
    for name in names:
        value = namespace[name]
        if not isinstance(value, (type, types.FunctionType)):
            continue
        if not value.__module__.startswith(f"{module}."):
            continue
        if isinstance(value, type):
            DEFINED_IN[value] = value.__module__
            _bind_annotations(value)
        value.__module__ = module


def _name_methods(module: str, classes: Sequence[type]) -> None:
    """Name methods of a private base class after the only public class that inherits them.

    Python's error for a missing argument, and its warning about a coroutine that was not awaited,
    then name a class that users know.
    """
    subclasses = Counter(base for cls in classes for base in cls.__mro__[1:])
    for cls in classes:
        for base in cls.__mro__[1:]:
            if (
                subclasses[base] == 1
                and base not in classes
                and base.__module__.startswith(f"{module}.")
            ):
                for name, value in vars(base).items():
                    if isinstance(value, types.FunctionType):
                        value.__qualname__ = f"{cls.__qualname__}.{name}"


def _bind_annotations(cls: type) -> None:
    """Make msgspec and typing resolve the annotations of a class in the module that defines it."""
    annotations = inspect.get_annotations(cls)
    if annotations:
        cls.__annotations__ = {
            name: _forward_ref(text, cls.__module__) if isinstance(text, str) else text
            for name, text in annotations.items()
        }


@cache
def _forward_ref(text: str, module: str) -> ForwardRef:
    return ForwardRef(text, module=module, is_class=True)
