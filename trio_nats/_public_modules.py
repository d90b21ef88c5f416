"""Public classes and functions are of the module that users import them from, as in Trio.

That module is what tracebacks, ``help()`` and pickles name. The private one may change.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ForwardRef

DEFINED_IN: dict[type, str] = {}
"""Where a public class is defined, for tools that read its source."""


def set_public_module(module: str, names: Sequence[str], namespace: Mapping[str, object]) -> None:
    """Set ``__module__`` of these names of a package, as far as it or a part of it defines them."""
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


def _bind_annotations(cls: type) -> None:
    """Let msgspec and typing resolve annotations in the module that has the names in them."""
    annotations = inspect.get_annotations(cls)
    if annotations:
        cls.__annotations__ = {
            name: _forward_ref(text, cls.__module__) if isinstance(text, str) else text
            for name, text in annotations.items()
        }


@cache
def _forward_ref(text: str, module: str) -> ForwardRef:
    return ForwardRef(text, module=module, is_class=True)
