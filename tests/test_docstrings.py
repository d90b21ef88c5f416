"""Docstrings of everything public: complete, in one convention.

A public name, and each of its methods and properties, has a docstring. That of a function or method
has a ``:param x:`` for each parameter, or "The parameters are those of" another one. That of a
class documents the arguments of its constructor so, or below each field. That of an asynchronous
method says what happens if it is cancelled.

What a function or method returns is documented with ``:returns:``, and what it raises with
``:raises X:``, for X or a base of it; see :mod:`tests.support.raised_errors`. It may also say that
it "raises what :meth:`x` raises", and the docstring of its class may name an error that all methods
share.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

import trio_nats
from tests.support.public_objects import has_public_constructor, public_objects
from tests.support.raised_errors import raised_errors

# Modules whose docstrings do not hold yet.
EXEMPT = frozenset({})

PUBLIC = public_objects()
# What the public classes have from private bases is public as well.
BASES = {
    id(base)
    for cls in PUBLIC.values()
    if inspect.isclass(cls)
    for base in cls.__mro__
    if str(base.__module__).startswith("trio_nats")
}


def modules() -> Iterator[ModuleType]:
    yield trio_nats
    for info in pkgutil.walk_packages(trio_nats.__path__, "trio_nats."):
        if not info.name.startswith("trio_nats.cli") and not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def of_ours(value: object) -> bool:
    return str(getattr(value, "__module__", "")).startswith("trio_nats")


def own_doc(cls: type, name: str) -> str | None:
    """The docstring of a method, its own or that of the method of ours that it overrides."""
    for base in cls.__mro__:
        if of_ours(base) and name in vars(base):
            member = vars(base)[name]
            member = getattr(member, "__func__", member)
            doc = getattr(member, "__doc__", None)
            if doc:
                return str(doc)
    return None


def class_docs(cls: type) -> str:
    """The docstrings of the public classes that have the methods of a class.

    With those of the classes that they refer to, as in "raise those of :class:`JetStream`".
    """
    classes = {one.__name__: one for one in PUBLIC.values() if inspect.isclass(one)}
    docs = " ".join(str(one.__doc__) for one in classes.values() if cls in one.__mro__)
    others = re.findall(r"(?:those|methods)\s+of\s+:class:`(\w+)`", docs)
    return docs + " ".join(str(classes[name].__doc__) for name in others)


def parameters(function: object) -> list[str]:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    return [name for name in signature.parameters if not name.startswith("_")]


def names_parameter(doc: str, name: str) -> bool:
    return re.search(rf":param (\\?\*){{0,2}}{name}:", doc) is not None


def is_async(function: object) -> bool:
    function = inspect.unwrap(function)  # type: ignore[arg-type]
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def missing_in_function(label: str, function: object, doc: str | None) -> Iterator[str]:
    if not doc:
        yield f"{label} has no docstring"
        return
    elsewhere = "The parameters are those of " in " ".join(doc.split())
    for name in [] if elsewhere else parameters(function):
        if name not in ("self", "cls") and not names_parameter(doc, name):
            yield f"{label} has no :param {name}:"
    if is_async(function) and "cancelled" not in doc:
        yield f"{label} does not say what happens if it is cancelled"
    if returns_value(function) and ":returns:" not in doc and not elsewhere:
        yield f"{label} has no :returns:"


def returns_value(function: object) -> bool:
    function = inspect.unwrap(function)  # type: ignore[arg-type]
    annotation = inspect.signature(function).return_annotation
    return annotation not in ("None", "NoReturn")


def missing_errors(label: str, raised: Iterable[type], doc: str, shared: str) -> Iterator[str]:
    """Errors that are neither in a docstring nor in those of the classes that share a method."""
    documented = set(re.findall(r":raises ~?(?:\w+\.)*(\w+):", doc))
    documented |= set(re.findall(r":exc:`~?(?:\w+\.)*(\w+)`", shared))
    text = " ".join(doc.split())
    elsewhere = re.search(r"[Rr]aises? (also )?(what|the (errors|exceptions) of)", text)
    for error in raised:
        names = {base.__name__ for base in error.__mro__} - {"Exception", "BaseException"}
        if not elsewhere and not names & documented:
            yield f"{label} has no :raises {error.__name__}:"


def documented_fields(cls: type, tree: ast.Module) -> set[str]:
    """Fields of a class that are followed by a docstring of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            return {
                field.target.id
                for field, doc in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(doc, ast.Expr)
                and isinstance(doc.value, ast.Constant)
            }
    return set()


def missing_in_constructor(cls: type, tree: ast.Module) -> Iterator[str]:
    doc = cls.__doc__ or ""
    is_record = dataclasses.is_dataclass(cls) or issubclass(cls, msgspec.Struct)
    if is_record:
        fields = vars(cls).get("__annotations__", {})
        documented = documented_fields(cls, tree)
        names = [name for name in fields if name not in documented and not name.startswith("_")]
        texts = {name: getattr(text, "__forward_arg__", text) for name, text in fields.items()}
        names = [name for name in names if not texts[name].startswith(("ClassVar", "Final"))]
        if "__init__" in vars(cls) and not dataclasses.is_dataclass(cls):
            names = []
    elif "__init__" in vars(cls) and has_public_constructor(cls) and not issubclass(cls, Exception):
        names = [name for name in parameters(vars(cls)["__init__"]) if name != "self"]
    else:
        names = []
    for name in names:
        if not names_parameter(doc, name):
            yield f"{cls.__name__} has no :param {name}:"


def missing(module: ModuleType) -> Iterator[str]:
    tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        value = getattr(module, node.name, None)
        if id(value) not in PUBLIC and id(value) not in BASES:
            continue
        if not inspect.isclass(value):
            yield from missing_in_function(node.name, value, value.__doc__)
            raised = raised_errors(value, None)
            yield from missing_errors(node.name, raised, value.__doc__ or "", "")
            continue
        if not value.__doc__ or "__doc__" not in vars(value):
            yield f"{node.name} has no docstring"
            continue
        if id(value) in PUBLIC:
            yield from missing_in_constructor(value, tree)
            if has_public_constructor(value) and not issubclass(value, Exception):
                for name in vars(value).keys() & {"__init__", "__post_init__"}:
                    raised = raised_errors(vars(value)[name], value)
                    yield from missing_errors(node.name, raised, value.__doc__, "")
        shared = class_docs(value)
        for name, member in vars(value).items():
            if name.startswith("_"):
                continue
            label = f"{node.name}.{name}"
            member = getattr(member, "__func__", member)
            if inspect.isfunction(member):
                doc = own_doc(value, name)
                yield from missing_in_function(label, member, doc)
                raised = raised_errors(member, value)
                yield from missing_errors(label, raised, doc or "", shared)
            elif isinstance(member, property) and not own_doc(value, name):
                yield f"{label} has no docstring"


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.__name__)
def test_docstrings_are_complete(module: ModuleType) -> None:
    if module.__name__ not in EXEMPT:
        found = list(missing(module))
        assert not found, "\n".join(found)
