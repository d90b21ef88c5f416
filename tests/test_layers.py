"""Who may import whom: the map in docs/architecture.md, enforced.

Every import counts, wherever it stands: inside a function or under ``TYPE_CHECKING`` it still says
that one component knows about another.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import trio_nats

# The components, lowest layer first. A component is a module or a package directly in trio_nats.
# It may import from its own layer and those below it, except as BUILT_ON_TOP and EDGES say.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {"errors", "_async_with", "_constructors", "_json_depth", "_nats_py_names", "_printable"}
        | {"_public_modules", "_tracebacks"}
    ),
    frozenset(
        {"codecs", "headers", "message", "events", "options", "server_info", "servers", "subjects"}
    ),
    frozenset({"_protocol"}),
    frozenset({"_event_hub", "_nursery", "_subject_tokens"}),
    frozenset({"_blocking", "auth", "contexts", "_transport"}),
    frozenset({"_core"}),
    frozenset({"subscription", "replies", "connection_base", "connection", "connect"}),
    frozenset({"jetstream", "keyvalue", "objectstore", "services"}),
    frozenset({"__init__"}),
    frozenset({"__main__", "anyio", "cli", "testing"}),
)
LAYER_OF = {component: layer for layer, components in enumerate(LAYERS) for component in components}

VALUE_TYPES = LAYERS[0] | LAYERS[1]
SANS_IO = VALUE_TYPES | LAYERS[2]
# Built on what users hold, as a user could have built them.
BUILT_ON_TOP = LAYERS[7]
EDGES = LAYERS[9]
# Private, but for every layer above it.
SHARED = (
    LAYERS[3]
    | {"_async_with", "_constructors", "_json_depth", "_nats_py_names", "_printable"}
    | {"_public_modules"}
)

# What a method of the connection opens, ``nc.add_service()`` say, or one of JetStream: the one way
# up there is, and only inside of the method, or for type checkers, so that a connection works, and
# imports, without.
OFFERED = {
    "connection": frozenset({"jetstream", "services"}),
    "jetstream": frozenset({"keyvalue", "objectstore"}),
}

# An edge, but it has to see what it examines: what happens before there is a connection.
EXAMINES_THE_WIRE = "cli.doctor."

IO_MODULES = frozenset(
    {"anyio", "asyncio", "select", "selectors", "socket", "socketserver", "ssl", "subprocess"}
    | {"threading", "trio", "wsproto"}
)
IO_EXCEPTIONS = {
    # Errors derive from Trio's where Trio already has a word for the situation.
    "errors": {"trio"},
    # TLSOptions speaks of ssl.SSLContext and ssl.TLSVersion; contexts are made in _transport.
    "options": {"ssl"},
}


@dataclass(frozen=True, slots=True)
class Module:
    """A source file, its dotted name below the package ("" for the package itself)."""

    name: str
    path: Path
    package: str

    @property
    def component(self) -> str:
        return self.name.partition(".")[0] or "__init__"

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement, resolved: ``target`` is a module of the package, or a foreign name."""

    source: Module
    target: Module | str
    line: int
    deferred: bool = False
    """Inside a function, or for type checkers only."""

    def __str__(self) -> str:
        return f"{self.source.path.name}:{self.line}"


class Package:
    """A package on disk, parsed."""

    def __init__(self, root: Path) -> None:
        self.package = root.name
        self.modules: dict[str, Module] = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = Module(name, path, self.package)
        self.imports = [i for module in self.modules.values() for i in self._imports(module)]

    def _imports(self, module: Module) -> Iterator[Import]:
        imports = [n for n in nodes(module.path) if isinstance(n, ast.Import | ast.ImportFrom)]
        deferred = set(deferred_nodes(module)) if any(n.col_offset for n in imports) else set()
        for node in imports:
            later = node in deferred
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(module, self._target(alias.name), node.lineno, later)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                for alias in node.names:
                    if base == self.package and alias.name == "__version__":
                        continue  # A constant, set before the front door imports anything.
                    # `from a import b` imports a.b where that is a module, else a.
                    target = self._target(f"{base}.{alias.name}")
                    if not isinstance(target, Module):
                        target = self._target(base)
                    yield Import(module, target, node.lineno, later)

    def _base(self, module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = [self.package, *module.name.split(".")] if module.name else [self.package]
        up = node.level - 1 if module.is_package else node.level
        return ".".join([*here[: len(here) - up], *([node.module] if node.module else [])])

    def _target(self, dotted: str) -> Module | str:
        first, _, rest = dotted.partition(".")
        if first == self.package and rest in self.modules:
            return self.modules[rest]
        return dotted

    def inner_imports(self) -> Iterator[tuple[Import, Module]]:
        for imported in self.imports:
            if isinstance(imported.target, Module):
                yield imported, imported.target


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """The syntax of a file, parsed once for all rules."""
    return tuple(ast.walk(ast.parse(path.read_text("utf-8"), str(path))))


def deferred_nodes(module: Module) -> Iterator[ast.AST]:
    for node in nodes(module.path):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.If(ast.Name("TYPE_CHECKING")):
                for statement in node.body:
                    yield from ast.walk(statement)


def unknown_components(package_tree: Package) -> Iterator[str]:
    for module in package_tree.modules.values():
        if module.component not in LAYER_OF:
            yield (
                f"{module.path.name}: the component {module.component!r} is on no layer; give it a "
                f"place in docs/architecture.md and in LAYERS of tests/test_layers.py"
            )


def unresolved(package_tree: Package) -> Iterator[str]:
    for imported in package_tree.imports:
        if isinstance(imported.target, str) and (
            imported.target.partition(".")[0] == package_tree.package
        ):
            yield f"{imported}: {imported.target!r} is not a module of the package"


def upward_imports(package_tree: Package) -> Iterator[str]:
    for imported, target in package_tree.inner_imports():
        component, other = imported.source.component, target.component
        if component == other or component not in LAYER_OF or other not in LAYER_OF:
            continue
        if imported.deferred and other in OFFERED.get(component, ()):
            continue
        if LAYER_OF[other] > LAYER_OF[component]:
            yield f"{imported}: {component} may not import {other}, which is above it"
        elif component in BUILT_ON_TOP and other.startswith("_") and other not in SHARED:
            yield f"{imported}: {component} is built on the connection and may not use {other}"
        elif (
            component in EDGES
            and other in ("_core", "_transport")
            and not sees_wire(imported, other)
        ):
            yield f"{imported}: {component} is an edge and may not reach into {other}"


def sees_wire(imported: Import, other: str) -> bool:
    return other == "_transport" and f"{imported.source.name}.".startswith(EXAMINES_THE_WIRE)


def io_below(package_tree: Package) -> Iterator[str]:
    for imported in package_tree.imports:
        component = imported.source.component
        if component not in SANS_IO or isinstance(imported.target, Module):
            continue
        foreign = imported.target.partition(".")[0]
        if foreign in IO_MODULES - IO_EXCEPTIONS.get(imported.source.name, set()):
            yield f"{imported}: {component} does no I/O and may not import {foreign}"


def cycles(package_tree: Package) -> Iterator[str]:
    graph: dict[str, list[str]] = {name: [] for name in package_tree.modules}
    for imported, target in package_tree.inner_imports():
        graph[imported.source.name].append(target.name)
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> Iterator[str]:
        if name in path:
            loop = [*path[path.index(name) :], name]
            yield "modules import each other: " + " -> ".join(n or "__init__" for n in loop)
        elif name not in done:
            path.append(name)
            for other in graph[name]:
                yield from visit(other)
            path.pop()
            done.add(name)

    for name in graph:
        yield from visit(name)


def other_nurseries(package_tree: Package) -> Iterator[str]:
    """Trio's own raise exception groups, which no user of ours expects."""
    for module in package_tree.modules.values():
        if module.name == "_nursery":
            continue
        for node in nodes(module.path):
            match node:
                case ast.Call(ast.Attribute(ast.Name("trio"), "open_nursery")):
                    where = f"{module.path.name}:{node.lineno}"
                    yield f"{where}: use open_nursery of trio_nats._nursery"


def private_imports(package_tree: Package) -> Iterator[str]:
    for module in package_tree.modules.values():
        for node in nodes(module.path):
            if isinstance(node, ast.ImportFrom):
                base = package_tree._base(module, node)
                yield from private_names_from(package_tree, module.path, node, base)


def private_names_from(
    package_tree: Package, path: Path, node: ast.ImportFrom, base: str
) -> Iterator[str]:
    """Private names of modules of ours. A module with a private name is no such name."""
    if base.partition(".")[0] == package_tree.package:
        for alias in node.names:
            target = package_tree._target(f"{base}.{alias.name}")
            if is_private(alias.name) and not isinstance(target, Module):
                yield f"{path.name}:{node.lineno}: {alias.name} is private to {base}"


def private_attributes(package_tree: Package) -> Iterator[str]:
    """Edges use what users have. Inside of the package a private attribute is one users do not."""
    for module in package_tree.modules.values():
        if module.component not in EDGES:
            continue
        own = {"self", "cls", "super()"}
        given = {"_name_", "_value_"}  # of an enum's members
        for node in nodes(module.path):
            match node:
                case ast.Import(names=names):
                    own |= {alias.asname or alias.name for alias in names}
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    given.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    given.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    given.add(name)
        for node in nodes(module.path):
            if not isinstance(node, ast.Attribute) or not is_private(node.attr):
                continue
            if node.attr not in given and ast.unparse(node.value) not in own:
                text = ast.unparse(node)
                yield f"{module.path.name}:{node.lineno}: {text} is private to another module"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


RULES = (unknown_components, unresolved, upward_imports, io_below, cycles, other_nurseries)
RULES += (private_imports, private_attributes)


@pytest.fixture(scope="module")
def package_tree() -> Package:
    return Package(Path(trio_nats.__file__).parent)


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_its_layers(package_tree, rule) -> None:
    assert len(package_tree.modules) > 1
    found = list(rule(package_tree))
    assert not found, "\n".join(found)


def test_tests_import_no_private_names(package_tree) -> None:
    found = [
        complaint
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        if may_import_private_names(path.read_text("utf-8"))
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and not node.level
        for complaint in private_names_from(package_tree, path, node, node.module or "")
    ]
    assert not found, "\n".join(found)


def may_import_private_names(text: str) -> bool:
    """A quick look, for it takes long to parse all tests."""
    imported = re.findall(r"from trio_nats[\w.]* import (\([^)]*\)|.*)", text)
    return any(re.search(r"\b_", names) for names in imported)


# What tests have to know beyond the public API they ask this module, so that a change of the
# implementation touches one file of the tests.
KNOWS_INTERNALS = "internals.py"


def test_tests_use_no_private_attributes(package_tree) -> None:
    private = private_definitions(package_tree)
    found = [
        complaint
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        if path.name != KNOWS_INTERNALS and may_use_private(path.read_text("utf-8"), private)
        for complaint in private_uses(path, private)
    ]
    assert not found, "\n".join(found)


def may_use_private(text: str, private: set[str]) -> bool:
    """A quick look, for it takes long to parse all tests."""
    found = set(re.findall(r"""(?<!\bself\.)(?<!\bcls\.)(?<=[."'])_\w+""", text))
    return not private.isdisjoint(found) or re.search(r"""setattr\(\s*["']trio""", text) is not None


def private_definitions(package_tree: Package) -> set[str]:
    """The private names of everything that the package's modules and classes define."""
    return {
        name
        for module in package_tree.modules.values()
        for name in definitions(nodes(module.path))
        if is_private(name)
    }


def definitions(tree: Iterable[ast.AST]) -> Iterator[str]:
    """What a module or class defines: names, methods, and attributes of ``self``."""
    for node in tree:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def private_uses(path: Path, private: set[str]) -> Iterator[str]:
    """Where a test uses an attribute that the package keeps private, or replaces one.

    What the test module's own classes define is no such attribute.
    """
    tree = ast.parse(path.read_text("utf-8"))
    own = [definitions(ast.walk(node)) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    private = private.difference(*own)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                continue
            case ast.Attribute(attr=name) if name in private:
                text = ast.unparse(node)
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr") | ast.Attribute(attr="setattr"),
                args=[_, ast.Constant(value=str(name)), *_],
            ) if name in private:
                text = ast.unparse(node)
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[ast.Constant(value=str(name)), *_]
            ) if name.startswith("trio_nats."):
                text = ast.unparse(node)
            case _:
                continue
        yield f"{path.name}:{node.lineno}: {text}: ask tests/support/{KNOWS_INTERNALS}"


# --- the checker itself ------------------------------------------------------------------------


def build(tmp_path: Path, **files: str) -> Package:
    """A package of the given files; ``__`` in a name stands for a directory."""
    root = tmp_path / "trio_nats"
    for name, text in {"init": "", **files}.items():
        path = root / (("/".join(name.split("__"))).replace("init", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return Package(root)


def complaints(package_tree: Package) -> list[str]:
    return [text for rule in RULES for text in rule(package_tree)]


def test_a_package_that_keeps_the_rules_has_no_violations(tmp_path) -> None:
    package_tree = build(
        tmp_path,
        init="from .connection import Connection\nfrom . import errors",
        errors="import trio",
        message="from .errors import NatsError",
        _protocol__init="from .parser import Parser",
        _protocol__parser="from ..errors import NatsError\nfrom . import commands\nimport json",
        _protocol__commands="",
        _transport__init="import ssl, socket, trio",
        _core__init="",
        _nursery="import trio\ntrio.open_nursery()",
        _core__session="import trio_nats._transport\nfrom trio_nats._protocol import Parser",
        connection="from . import __version__\nfrom ._core.session import Session\n"
        "if TYPE_CHECKING:\n    from .services import Service\n"
        "def add_service():\n    from .services import Service",
        services__init="from ..connection_base import BaseConnection\n"
        "from .._nursery import open_nursery",
        connection_base="",
        jetstream__init="from ..connection import Connection",
        cli__init="from trio_nats import open_nats, testing\nimport trio_nats.errors as errors",
        testing__init="import trio_nats",
    )
    assert complaints(package_tree) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(
            {"errors": "from .message import Msg", "message": ""},
            "errors.py:1: errors may not import message, which is above it",
            id="relative",
        ),
        pytest.param(
            {"_protocol__a": "import os\nimport trio_nats._core.b", "_core__b": ""},
            "a.py:2: _protocol may not import _core, which is above it",
            id="absolute",
        ),
        pytest.param(
            {"auth": "from trio_nats import connection", "connection": ""},
            "auth.py:1: auth may not import connection, which is above it",
            id="from-the-package",
        ),
        pytest.param(
            {"_core__a__b": "from ...connection import C", "connection": ""},
            "b.py:1: _core may not import connection, which is above it",
            id="three-dots",
        ),
        pytest.param(
            {"_core__init": "from .. import connection", "connection": ""},
            "__init__.py:1: _core may not import connection, which is above it",
            id="two-dots-in-a-package",
        ),
        pytest.param(
            {
                "auth": "if TYPE_CHECKING:\n    from .connection import Connection",
                "connection": "",
            },
            "auth.py:2: auth may not import connection, which is above it",
            id="type-checking",
        ),
        pytest.param(
            {"auth": "def f():\n    from .connection import Connection", "connection": ""},
            "auth.py:2: auth may not import connection, which is above it",
            id="inside-a-function",
        ),
        pytest.param(
            {"connection": "from .services import Service", "services": ""},
            "connection.py:1: connection may not import services, which is above it",
            id="offered-but-at-once",
        ),
        pytest.param(
            {
                "connection": "if TYPE_CHECKING:\n    pass\nelse:\n    from . import services",
                "services": "",
            },
            "connection.py:4: connection may not import services, which is above it",
            id="offered-but-not-to-type-checkers",
        ),
        pytest.param(
            {"connection_base": "def f():\n    from .services import Service", "services": ""},
            "connection_base.py:2: connection_base may not import services, which is above it",
            id="not-offered-by-this-component",
        ),
        pytest.param(
            {"connection": "from trio_nats import open_nats"},
            "connection.py:1: connection may not import __init__, which is above it",
            id="front-door",
        ),
        pytest.param(
            {"init": "from . import testing", "testing": ""},
            "__init__.py:1: __init__ may not import testing, which is above it",
            id="edge-from-the-front-door",
        ),
        pytest.param(
            {"cli__init": "from .._core import pool", "_core__init": "", "_core__pool": ""},
            "__init__.py:1: cli is an edge and may not reach into _core",
            id="edge-into-core",
        ),
        pytest.param(
            {
                "cli__doctor__init": "from ..._transport import dial",
                "cli__doctors__init": "from ..._transport import dial",
                "_transport__init": "",
                "_transport__dial": "",
            },
            "__init__.py:1: cli is an edge and may not reach into _transport",
            id="edge-into-the-wire",
        ),
        pytest.param(
            {"keyvalue": "from ._protocol import commands", "_protocol__commands": ""},
            "keyvalue.py:1: keyvalue is built on the connection and may not use _protocol",
            id="built-on-top",
        ),
        pytest.param(
            {"_protocol__parser": "from socket import socket"},
            "parser.py:1: _protocol does no I/O and may not import socket",
            id="socket-in-protocol",
        ),
        pytest.param(
            {"_protocol__errors": "import trio"},
            "errors.py:1: _protocol does no I/O and may not import trio",
            id="only-the-errors-component-may-import-trio",
        ),
        pytest.param(
            {"message": "if TYPE_CHECKING:\n    import trio.abc"},
            "message.py:2: message does no I/O and may not import trio",
            id="trio-in-a-noun",
        ),
        pytest.param(
            {"errors": "import ssl"},
            "errors.py:1: errors does no I/O and may not import ssl",
            id="ssl-in-errors",
        ),
        pytest.param(
            {
                "subscription": "from . import connection",
                "connection": "from . import subscription",
            },
            "modules import each other: connection -> subscription -> connection",
            id="cycle",
        ),
        pytest.param(
            {"_core__init": "from .a import A", "_core__a": "from . import A"},
            "modules import each other: _core -> _core.a -> _core",
            id="cycle-through-a-package",
        ),
        pytest.param(
            {"auth": "import trio\nasync def f():\n    async with trio.open_nursery(): ..."},
            "auth.py:3: use open_nursery of trio_nats._nursery",
            id="another-nursery",
        ),
        pytest.param(
            {"auth": "_key = 1", "connection": "from .auth import _key"},
            "connection.py:1: _key is private to trio_nats.auth",
            id="private-name",
        ),
        pytest.param(
            {
                "auth": "class Auth:\n    def __init__(self):\n        self._key = 1",
                "anyio": "from .auth import Auth\nAuth()._key",
            },
            "anyio.py:2: Auth()._key is private to another module",
            id="private-attribute",
        ),
        pytest.param(
            {"helpers": ""},
            "helpers.py: the component 'helpers' is on no layer; give it a place in "
            "docs/architecture.md and in LAYERS of tests/test_layers.py",
            id="unknown-component",
        ),
        pytest.param(
            {"connection": "from ._core.sesion import Session", "_core__session": ""},
            "connection.py:1: 'trio_nats._core.sesion' is not a module of the package",
            id="unresolved",
        ),
    ],
)
def test_a_layer_violation_is_found(tmp_path, files, expected) -> None:
    assert complaints(build(tmp_path, **files)) == [expected]


def test_a_test_that_uses_a_private_attribute_is_found(tmp_path) -> None:
    core = "_LIMIT = 1\nclass Core:\n    def __init__(self):\n        self._box = []"
    private = private_definitions(build(tmp_path, core=core))
    path = tmp_path / "test_core.py"
    path.write_text(
        "class Own:\n    def __init__(self):\n        self._box = 1\n"
        "def test_own(own):\n    assert own._box == 1\n",
        "utf-8",
    )
    assert list(private_uses(path, private)) == []
    assert not may_use_private("self._box, super().__init__, core._other", private)
    path.write_text(
        "def test_core(core, patch):\n    assert core._box == []\n    core._other\n"
        "    patch.setattr(module, '_LIMIT', 2)\n    patch.setattr('trio_nats.core.Core', 3)\n",
        "utf-8",
    )
    assert may_use_private(path.read_text("utf-8"), private)
    ask = "ask tests/support/internals.py"
    assert sorted(private_uses(path, private)) == [
        f"test_core.py:2: core._box: {ask}",
        f"test_core.py:4: patch.setattr(module, '_LIMIT', 2): {ask}",
        f"test_core.py:5: patch.setattr('trio_nats.core.Core', 3): {ask}",
    ]
