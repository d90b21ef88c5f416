"""Generate ``tests/public_names.txt``, the list of all public names with kind and signature.

The list is in the repository, so that a review shows every change to the public interface.
``tests/test_public_names.py`` checks that it is up to date. To update it::

    python -m tests.public_names

Annotations are shown as they stand in the source, so every Python version gives the same list.
"""

from __future__ import annotations

import ast
import enum
import importlib.util
import inspect
import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import get_overloads

import msgspec

from tests.support.public_objects import has_public_constructor

PACKAGES = (
    "trio_nats",
    "trio_nats.errors",
    "trio_nats.events",
    "trio_nats.jetstream",
    "trio_nats.jetstream.advisories",
    "trio_nats.jetstream.events",
    "trio_nats.keyvalue",
    "trio_nats.objectstore",
    "trio_nats.services",
    "trio_nats.anyio",
    "trio_nats.testing",
)
FILE = Path(__file__).with_suffix(".txt")

# Methods that Python calls, as far as users write what makes it call them.
OPERATORS = {
    *("__aenter__", "__aexit__", "__aiter__", "__anext__", "__await__", "__call__"),
    *("__contains__", "__delitem__", "__getitem__", "__iter__", "__len__", "__setitem__"),
}


def public_names() -> list[str]:
    """The lines of the list, sorted."""
    seen: dict[int, str] = {}
    lines: list[str] = []
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            lines += _lines(package, name, seen)
    return sorted(lines)


def _lines(package: types.ModuleType, name: str, seen: dict[int, str]) -> Iterator[str]:
    value = getattr(package, name)
    path = f"{package.__name__}.{name}"
    if isinstance(value, types.ModuleType):
        yield f"{path} module"
    elif not isinstance(value, type) and not inspect.isfunction(value):
        definition = _definition(package.__name__, name)
        assert isinstance(definition, (ast.AnnAssign, ast.Assign))
        assert definition.value is not None
        yield f"{path} alias {ast.unparse(definition.value)}"
    elif (known := seen.setdefault(id(value), path)) != path:
        yield f"{path} is {known}"
    elif isinstance(value, type):
        yield from _class(path, value)
    else:
        yield from _function(path, value)


def _definition(module: str, name: str) -> ast.stmt:
    """The statement that defines a name of a module, or of another that it is imported from."""
    path, nodes = _statements(module)
    for node in nodes:
        match node:
            case ast.ImportFrom() if name in {alias.asname or alias.name for alias in node.names}:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                relative = "." * node.level + (node.module or "")
                return _definition(importlib.util.resolve_name(relative, package), name)
            case ast.ClassDef() if node.name == name:
                return node
            case ast.AnnAssign(target=ast.Name(id=target)) if target == name:
                return node
            case ast.Assign(targets=[ast.Name(id=target)]) if target == name:
                return node
    raise LookupError(f"{module} does not define {name}")


@cache
def _statements(module: str) -> tuple[Path, list[ast.stmt]]:
    path = Path(str(importlib.import_module(module).__file__))
    tree = ast.parse(path.read_text("utf-8"))
    return path, [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def _class(path: str, cls: type) -> Iterator[str]:
    hidden = ("object", "Generic", "NeedsAsyncFor", "NeedsAsyncWith")
    bases = [_name(base) for base in cls.__bases__ if base.__name__ not in hidden]
    made = f" made with {_fields(cls)}" if is_dataclass(cls) or _is_struct(cls) else ""
    yield f"{path} class({', '.join(bases)}){made}"
    members: dict[str, object] = {}
    for kind in reversed(cls.__mro__):
        if kind.__module__.partition(".")[0] == "trio_nats":
            members |= _Attributes(kind).found
            members |= {name: value for name, value in vars(kind).items() if _is_member(value)}
            if made or not has_public_constructor(cls):
                members.pop("__init__", None)
    for name, member in members.items():
        if not name.startswith("_") or name == "__init__" or _is_operator(name, member):
            yield from _member(f"{path}.{name}", member)


def _is_operator(name: str, member: object) -> bool:
    refuses = getattr(member, "__annotations__", {}).get("return") == "NoReturn"
    return name in OPERATORS and not refuses


def _is_struct(cls: type) -> bool:
    return issubclass(cls, msgspec.Struct)


def _is_member(value: object) -> bool:
    kinds = (types.FunctionType, property, cached_property, classmethod, staticmethod, enum.Enum)
    return isinstance(value, kinds)


def _member(path: str, member: object) -> Iterator[str]:
    if isinstance(member, enum.Enum):
        yield f"{path} = {member.value!r}"
    elif isinstance(member, str):
        yield f"{path} {member}"
    elif isinstance(member, (property, cached_property)):
        getter = member.fget if isinstance(member, property) else member.func
        yield f"{path} property -> {inspect.get_annotations(inspect.unwrap(getter))['return']}"
    elif isinstance(member, classmethod):
        yield from _function(path, member.__func__, "class ")
    elif isinstance(member, staticmethod):
        yield from _function(path, member.__func__, "static ")
    elif inspect.isfunction(member):
        yield from _function(path, member)


def _function(path: str, function: types.FunctionType, prefix: str = "") -> Iterator[str]:
    inner = inspect.unwrap(function)
    kind = "async def" if inspect.iscoroutinefunction(inner) else "def"
    # They are registered under the name in the source, which may be that of a private base class.
    source = types.SimpleNamespace(
        __module__=inner.__module__, __qualname__=inner.__code__.co_qualname
    )
    for one in get_overloads(source) or [function]:  # type: ignore[arg-type]
        yield f"{path} {prefix}{kind} {_signature(inspect.signature(one))}"


def _fields(cls: type) -> str:
    parameters = inspect.signature(cls).parameters.values()
    named = [one.replace(annotation=one.empty, default=one.empty) for one in parameters]
    shown = [one for one in named if not one.name.startswith("_")]
    return _signature(inspect.Signature(shown))


def _signature(signature: inspect.Signature) -> str:
    """The same as its ``str``, with annotations that are not quoted."""
    parts: list[str] = []
    star = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or parameter.kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        part = stars.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            part += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            part += f" = {_default(parameter.default)}"
        parts.append(part)
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty else f" -> {returns}"
    return f"({', '.join(parts)}){arrow}"


def _default(value: object) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return value.__name__ if inspect.isroutine(value) else repr(value)


def _name(cls: type) -> str:
    module = cls.__module__.partition("._")[0]
    if module.partition(".")[0] in ("builtins", "trio_nats"):
        return cls.__name__
    return f"{module}.{cls.__name__}"


class _Attributes(ast.NodeVisitor):
    """What a class annotates, and what its methods give ``self``."""

    def __init__(self, cls: type) -> None:
        self.found: dict[str, str] = {}
        self._inside = 0
        self.generic_visit(_definition(cls.__module__, cls.__name__))

    def visit(self, node: ast.AST) -> None:
        # Expressions assign nothing, and most of the syntax is in them.
        if not isinstance(node, ast.expr):
            super().visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        pass

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._inside += 1
        self.generic_visit(node)
        self._inside -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        default = "" if self._inside or node.value is None else f" = {ast.unparse(node.value)}"
        for name in self._names(node.target):
            self.found[name] = f"attribute: {ast.unparse(node.annotation)}{default}"

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._inside:
            for target in node.targets:
                for name in self._names(target):
                    self.found.setdefault(name, "attribute")

    def _names(self, target: ast.expr) -> Iterator[str]:
        match target:
            case ast.Name(id=name) if not self._inside:
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if self._inside:
                yield name
            case ast.Tuple(elts=parts):
                for part in parts:
                    yield from self._names(part)


if __name__ == "__main__":
    FILE.write_text("\n".join(public_names()) + "\n", "utf-8")
