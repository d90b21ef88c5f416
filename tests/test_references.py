"""References in docstrings, comments and developers' documentation name things that exist.

Sphinx checks the references of public docstrings; these tests check all of them. A renamed module,
class or method would otherwise leave readers searching for the old name.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import trio_nats

PACKAGE = Path(trio_nats.__file__).parent
ROOT = PACKAGE.parent
ROLE = re.compile(r":(?:mod|class|func|meth|exc|attr|data):`([^`]+)`")
FILE_NAME = re.compile(r"(?<![\w./-])((?:[a-z_]+/)*[a-z_0-9]+\.py)\b")
OTHER_PACKAGES = frozenset({"anyio", "asyncio", "outcome", "ssl", "tests", "trio"})
# Documents for developers, who are told where things are.
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md", "docs/security.md")


class Names:
    """The names of a package: its modules, and what they define or import."""

    def __init__(self, package: Path) -> None:
        self.names: set[str] = set()
        self.members: dict[str, set[str]] = {}
        """The members of each class, without those of its bases. Classes of one name share them."""
        self.bases: dict[str, set[str]] = {}
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.names.add(module)
            for statement in ast.parse(path.read_text("utf-8")).body:
                self.names |= {f"{module}.{name}" for name in defined(statement)}
                if isinstance(statement, ast.ClassDef):
                    self._add_class(statement)
        self.ends: set[str] = {
            ".".join(parts[i:])
            for parts in (name.split(".") for name in self.names)
            for i in range(len(parts))
        }
        """All names, whole or without some of their first parts."""

    def _add_class(self, node: ast.ClassDef) -> None:
        members = {name for statement in node.body for name in defined(statement)}
        members |= {
            one.attr
            for one in ast.walk(node)
            if isinstance(one, ast.Attribute) and ast.unparse(one.value) == "self"
        }
        self.members.setdefault(node.name, set()).update(members)
        bases = (re.sub(r"\[.*", "", ast.unparse(base)) for base in node.bases)
        self.bases.setdefault(node.name, set()).update(base.rpartition(".")[2] for base in bases)

    def members_of(self, name: str) -> set[str]:
        """The members of a class and of its bases in the package."""
        classes, left = {name}, [name]
        while left:
            new = self.bases.get(left.pop(), set()) - classes
            classes |= new
            left += new
        return set().union(*(self.members.get(one, ()) for one in classes))

    def has(self, name: str) -> bool:
        """Whether a whole name, or the end of one, is known."""
        if name in self.ends:
            return True
        owner, _, member = name.rpartition(".")
        cls = owner.rpartition(".")[2]
        return bool(owner) and self.has(owner) and member in self.members_of(cls)


def defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement defines in its module or class."""
    match statement:
        case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
            yield name
        case ast.AnnAssign(ast.Name(name)):
            yield name
        case ast.Assign(targets):
            yield from (one.id for one in ast.walk(ast.Tuple(targets)) if isinstance(one, ast.Name))
        case ast.Import(names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name for alias in names)
        case ast.If(body=body):
            for one in body:
                yield from defined(one)


def unknown_roles(path: Path, names: Names) -> Iterator[str]:
    text = path.read_text("utf-8")
    classes = re.findall(r"^class (\w+)", text, re.M)
    here = set().union(*map(names.members_of, classes))
    for role in ROLE.finditer(text):
        name = re.sub(r"\s+#?\s*", "", role[1]).lstrip("~.!").removesuffix("()")
        known = name in here or name in dir(builtins) or names.has(name)
        if not known and name.partition(".")[0] not in {*OTHER_PACKAGES, *dir(builtins)}:
            yield f"{path.name}:{text.count(chr(10), 0, role.start()) + 1}: {role[0]}"


@cache
def files() -> frozenset[str]:
    folders = ("trio_nats", "tests", "benchmarks", "examples", "docs")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return frozenset(f"/{path.relative_to(ROOT).as_posix()}" for path in paths)


def unknown_files(path: Path) -> Iterator[str]:
    for name in FILE_NAME.findall(path.read_text("utf-8")):
        if not any(one.endswith(f"/{name}") for one in files()):
            yield f"{path.name}: {name}"


@pytest.mark.slow
def test_roles_name_what_exists() -> None:
    names = Names(PACKAGE)
    found = [one for path in sorted(PACKAGE.rglob("*.py")) for one in unknown_roles(path, names)]
    assert found == []


def test_file_names_are_those_of_files() -> None:
    paths = [*sorted(PACKAGE.rglob("*.py")), *(ROOT / page for page in PAGES)]
    assert [one for path in paths for one in unknown_files(path)] == []


def test_tables_of_the_architecture_name_modules() -> None:
    """Each package with a table has all its modules in it."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for package, section in re.findall(r"^### `(\w+)`(.*?)(?=^##)", text, re.M | re.S):
        found: set[str] = set()
        for row in re.findall(r"^\| (`.*?) \|", section, re.M):
            found |= set(re.findall(r"`(\w+)/?`", row))
        present = {path.stem for path in (PACKAGE / package).iterdir() if path.name[0] != "_"}
        assert found == present, package


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See :mod:`.core`, :class:`~.core.Core` and :meth:`Core.run`.", []),
        (":meth:`Derived.run`, :attr:`Core.size`, :exc:`ValueError`, :func:`trio.run`", []),
        (":mod:`.cores`", [":mod:`.cores`"]),
        (":class:`~.kernel.Core`", [":class:`~.kernel.Core`"]),
        (":meth:`Core.stop`", [":meth:`Core.stop`"]),
        (":meth:`run`", [":meth:`run`"]),  # there is no such class in this file
    ],
)
def test_a_stale_reference_is_found(tmp_path: Path, text: str, expected: list[str]) -> None:
    package = tmp_path / "package"
    package.mkdir()
    core = "class Core:\n    def run(self):\n        self.size = 1\nclass Derived(Core): ..."
    (package / "core.py").write_text(core, "utf-8")
    path = package / "user.py"
    path.write_text(f'"""{text}"""\n', "utf-8")
    assert list(unknown_roles(path, Names(package))) == [f"user.py:1: {one}" for one in expected]
