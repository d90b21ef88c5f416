"""Check JSON documents against the schemas that jsm.go publishes.

The environment variable ``NATS_SCHEMAS`` names a folder with its schemas, in which ``micro/v1`` and
``jetstream/api/v1`` are. Tests with the mark :data:`needs_schemas` are skipped without it. The name
of a schema is its path in that folder, without suffix: ``micro/v1/info_response``.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

__all__ = [
    "Schema",
    "check_schema",
    "needs_schemas",
    "read_schema",
    "schema_fields",
    "schema_names",
    "unknown_fields",
    "violations",
]

Schema = dict[str, Any]

_FOLDER = os.environ.get("NATS_SCHEMAS", "")

needs_schemas = pytest.mark.skipif(
    not _FOLDER, reason="NATS_SCHEMAS does not say where the JSON schemas are"
)

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_formats = jsonschema.FormatChecker(formats=())


@_formats.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    # Python reads no more than microseconds.
    datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
    return _RFC3339.fullmatch(value) is not None


def schema_names(folder: str) -> list[str]:
    """The names of all schemas in a folder, such as ``jetstream/api/v1``."""
    found = [f"{folder}/{path.stem}" for path in sorted(Path(_FOLDER, folder).glob("*.json"))]
    assert found, f"NATS_SCHEMAS: no schemas in {Path(_FOLDER, folder)}"
    return found


@functools.cache
def read_schema(name: str) -> Schema:
    schema: Schema = json.loads(Path(_FOLDER, f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return schema


@functools.cache
def _validator(name: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(read_schema(name), format_checker=_formats)


def violations(name: str, document: object) -> list[str]:
    """Return the violations of a document, each with its path: ``$.max_age: 'x' is not ...``."""
    return [
        f"{problem.json_path}: {problem.message}"
        for problem in _validator(name).iter_errors(document)
    ]


def check_schema(name: str, document: object) -> None:
    """Raise :exc:`AssertionError` unless a decoded document obeys a schema."""
    problems = violations(name, document)
    assert not problems, "\n".join([name, *problems])


def unknown_fields(name: str, document: object) -> set[str]:
    """The paths of fields that a schema does not describe, such as ``config.colour``."""
    return set(_unknown([read_schema(name)], document, ""))


def schema_fields(name: str) -> set[str]:
    """The paths of all fields that a schema describes, such as ``sources[].name``."""
    return set(_fields([read_schema(name)], ""))


def _parts(schemas: list[Schema]) -> Iterator[Schema]:
    """The schemas, and those that they are composed of."""
    for schema in schemas:
        yield schema
        for word in ("allOf", "anyOf", "oneOf"):
            yield from _parts(schema.get(word, []))


def _properties(schemas: list[Schema]) -> dict[str, list[Schema]]:
    found: dict[str, list[Schema]] = {}
    for part in _parts(schemas):
        for key, schema in part.get("properties", {}).items():
            found.setdefault(key, []).append(schema)
    return found


def _items(schemas: list[Schema]) -> list[Schema]:
    return [part["items"] for part in _parts(schemas) if "items" in part]


def _unknown(schemas: list[Schema], value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for one in value:
            yield from _unknown(_items(schemas), one, f"{path}[]")
    elif isinstance(value, dict) and (known := _properties(schemas)):  # else any are allowed
        for key, one in value.items():
            where = f"{path}.{key}".removeprefix(".")
            if key in known:
                yield from _unknown(known[key], one, where)
            else:
                yield where


def _fields(schemas: list[Schema], path: str) -> Iterator[str]:
    for key, found in _properties(schemas).items():
        where = f"{path}.{key}".removeprefix(".")
        yield where
        yield from _fields(found, where)
        yield from _fields(_items(found), f"{where}[]")
