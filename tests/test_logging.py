"""Log records hold texts, not what was spoken of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trio_nats

_PACKAGE = Path(trio_nats.__file__).parent
_LOGGERS = {"logger", "_logger"}


def _held(source: str) -> list[tuple[int, str]]:
    """Exceptions that are caught, or ``self``, where a log record would refer to them."""
    if not any(f"{name}." in source for name in _LOGGERS):
        return []
    nodes = list(ast.walk(ast.parse(source)))
    caught = {node.name for node in nodes if isinstance(node, ast.ExceptHandler)}
    return [
        (call.lineno, argument.id)
        for call in nodes
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in _LOGGERS
        and "exc_info" not in {keyword.arg for keyword in call.keywords}  # holds it on purpose
        for argument in call.args
        if isinstance(argument, ast.Name) and argument.id in caught | {"self"}
    ]


@pytest.mark.parametrize(
    "module", sorted(_PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(_PACKAGE))
)
def test_no_log_record_refers_to_an_exception_or_a_connection(module: Path) -> None:
    """Handlers may keep records for long. An exception has a traceback, whose frames hold the
    connection, and with it all that it still has to deliver.
    """
    assert _held(module.read_text(encoding="utf-8")) == []


def test_the_rule_finds_violations() -> None:
    source = (
        "try:\n    pass\nexcept E as error:\n    _logger.info('%s %r %s', error, self, str(error))"
    )
    assert _held(source) == [(4, "error"), (4, "self")]
