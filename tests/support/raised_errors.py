"""Which errors a function raises, as far as its source tells.

These are the errors of its ``raise`` statements, and those of the functions and methods that it
calls to check its arguments: their names begin with "check".
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import trio

from trio_nats.errors import NatsError

# A wrong type, and a use at the wrong time, are mistakes in the program that all callables share.
DOCUMENTED = (NatsError, trio.ClosedResourceError, trio.BusyResourceError, trio.WouldBlock)


def raised_errors(function: Callable[..., object], owner: type | None) -> frozenset[type]:
    """The errors that a function, or a method of the class ``owner``, raises itself."""
    found = _raised(inspect.unwrap(function), owner, frozenset())
    return frozenset(error for error in found if issubclass(error, DOCUMENTED))


@cache
def _raised(
    function: Callable[..., object], owner: type | None, callers: frozenset[object]
) -> frozenset[type]:
    names = getattr(function, "__globals__", {})
    found: set[type] = set()
    for node in _own_nodes(_tree(function)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            found |= _errors_of(node.exc, names, owner)
        elif isinstance(node, ast.Call) and _is_check(node.func):
            check = inspect.unwrap(_resolve(node.func, names, owner))
            if inspect.isfunction(check) and check not in callers:
                found |= _raised(check, owner, callers | {function})
    return frozenset(found)


def _tree(function: Callable[..., object]) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError):  # of a function that was generated, such as a constructor
        return ast.Module([], [])


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of functions inside, and what is below ``try`` with an ``except``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        caught = node.body if isinstance(node, ast.Try) and node.handlers else []
        for inner in _own_nodes(node):
            if inner not in caught and not any(inner in ast.walk(one) for one in caught):
                yield inner


def _is_check(name: ast.expr) -> bool:
    return ast.unparse(name).rpartition(".")[2].lstrip("_").startswith("check")


def _errors_of(raised: ast.expr, names: Mapping[str, Any], owner: type | None) -> set[type]:
    """The class of what is raised: named, or what the function that makes it is annotated with."""
    if isinstance(raised, ast.Call):
        raised = raised.func
    value = _resolve(raised, names, owner)
    if inspect.isfunction(value):
        made_by = inspect.unwrap(value)
        annotation = ast.parse(str(made_by.__annotations__.get("return", "None")), mode="eval")
        parts = [node for node in ast.walk(annotation) if isinstance(node, ast.Name)]
        values = [_resolve(part, made_by.__globals__, owner) for part in parts]
    else:
        values = [value]
    return {one for one in values if inspect.isclass(one) and issubclass(one, Exception)}


def _resolve(name: ast.expr, names: Mapping[str, Any], owner: type | None) -> Any:
    match name:
        case ast.Name(id=text):
            return names.get(text)
        case ast.Attribute(value=ast.Name(id="self"), attr=text):
            return inspect.getattr_static(owner, text, None)
        case ast.Attribute(value=inner, attr=text):
            return getattr(_resolve(inner, names, owner), text, None)
        case _:
            return None
