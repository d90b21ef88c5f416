"""The comparison with JSON schemas finds violations and unknown fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.schemas import (
    check_schema,
    schema_fields,
    schema_names,
    unknown_fields,
    violations,
)

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "allOf": [{"properties": {"sizes": {"type": "array", "items": {"type": "integer"}}}}],
    "properties": {
        "name": {"type": "string"},
        "any": {"type": "object"},
        "parts": {"items": {"properties": {"of": {"type": "string"}}}},
    },
}


@pytest.mark.parametrize(
    ("value", "violated", "unknown"),
    [
        ({"name": "a", "sizes": [1], "any": {"b": 1}, "parts": [{"of": "a"}]}, [], set()),
        ({}, ["$: 'name' is a required property"], set()),
        ({"name": "a", "sizes": [1, "2"]}, ["$.sizes[1]: '2' is not of type 'integer'"], set()),
        ({"name": "a", "parts": [{"if": 1}], "b": 1}, [], {"parts[].if", "b"}),
    ],
)
def test_violations_and_unknown_fields(
    tmp_path: Path, value: Any, violated: list[str], unknown: set[str]
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(SCHEMA))
    (name,) = schema_names(str(tmp_path))
    assert violations(name, value) == violated
    assert unknown_fields(name, value) == unknown
    assert schema_fields(name) == {"name", "any", "parts", "parts[].of", "sizes"}
    if violated:
        with pytest.raises(AssertionError, match=r"one\n.*is "):
            check_schema(name, value)


def test_no_schemas(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no schemas in"):
        schema_names(str(tmp_path))
