"""Generate ``docs/configuration.md``, the tables of all settings with their defaults.

They are made from the source, so that they can be read without an editor and are never outdated:
``tests/test_configuration_page.py`` checks the page. To write it again::

    python -m tests.configuration_page
"""

from __future__ import annotations

import ast
import enum
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from trio_nats import jetstream, keyvalue, objectstore
from trio_nats._public_modules import DEFINED_IN

__all__ = ["PAGE", "configuration_page"]

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

Look up the settings of streams, consumers, buckets and object stores, and their defaults. Pass
them as keyword arguments or in a configuration object: `create_stream("ORDERS", max_age=3600)` and
`create_stream(StreamConfig(name="ORDERS", max_age=3600))` do the same. Durations are in seconds and
sizes in bytes. Where the default is `None`, the server decides.
"""
END = """
Next: [JetStream](jetstream.md), [keys and values](keyvalue.md), [the object store](objectstore.md).
"""

STRUCTS: tuple[type, ...] = (
    jetstream.StreamConfig,
    jetstream.ConsumerConfig,
    keyvalue.KeyValueConfig,
    objectstore.ObjectStoreConfig,
    jetstream.StreamSource,
    jetstream.ExternalStream,
    jetstream.StreamConsumerSource,
    jetstream.SubjectTransform,
    jetstream.RePublish,
    jetstream.Placement,
    jetstream.ConsumerLimits,
)
ENUMS: tuple[type[enum.Enum], ...] = (
    jetstream.RetentionPolicy,
    jetstream.DiscardPolicy,
    jetstream.StorageType,
    jetstream.Compression,
    jetstream.PersistMode,
    jetstream.DeliverPolicy,
    jetstream.AckPolicy,
    jetstream.ReplayPolicy,
    jetstream.PriorityPolicy,
)
LEFT_OUT = {"ALWAYS", "extra"}


def configuration_page() -> str:
    """The text of the page."""
    return HEAD + "".join(map(_table, (*STRUCTS, *ENUMS))) + END


def _table(cls: type) -> str:
    node = _class(cls)
    is_enum = issubclass(cls, enum.Enum)
    columns = "value | meaning" if is_enum else "field | type | default | meaning"
    rules = "|".join("---" for _ in columns.split("|"))
    rows = [f"| {' | '.join(row)} |" for row in (_members(node) if is_enum else _fields(node))]
    summary = _text(ast.get_docstring(node) or "")
    return "\n".join(
        [f"\n## {cls.__name__}\n", f"{summary}\n", f"| {columns} |", f"|{rules}|", *rows, ""]
    )


def _class(cls: type) -> ast.ClassDef:
    path = importlib.import_module(DEFINED_IN[cls]).__file__
    assert path is not None
    tree = ast.parse(Path(path).read_text("utf-8"))
    (found,) = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    ]
    return found


def _documented(node: ast.ClassDef) -> Iterator[tuple[ast.stmt, str]]:
    """The statements that a docstring follows."""
    for statement, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            yield statement, _text(str(after.value.value))


def _fields(node: ast.ClassDef) -> Iterator[list[str]]:
    for statement, meaning in _documented(node):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            if name not in LEFT_OUT:
                default = "" if statement.value is None else f"`{ast.unparse(statement.value)}`"
                kind = ast.unparse(statement.annotation).replace("Seconds", "float")
                yield [f"`{name}`", f"`{kind}`".replace("|", "\\|"), default or "required", meaning]


def _members(node: ast.ClassDef) -> Iterator[list[str]]:
    for statement, meaning in _documented(node):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield [f"`{node.name}.{statement.targets[0].id}`", meaning]


def _text(docstring: str) -> str:
    """Markdown in one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?([\w.]+)`", r"`\1`", " ".join(docstring.split()))
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(configuration_page(), "utf-8")
