"""Check JSON documents against the schemas that jsm.go publishes.

The environment variable ``NATS_SCHEMAS`` names a folder with its schemas, in which ``micro/v1`` and
``jetstream/api/v1`` are. Tests with the mark :data:`needs_schemas` are skipped without it.
"""

from __future__ import annotations

import functools
import json
import os
import re
from datetime import datetime
from pathlib import Path

import jsonschema
import pytest

__all__ = ["check_schema", "needs_schemas"]

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


@functools.cache
def _validator(name: str) -> jsonschema.Draft7Validator:
    schema = json.loads(Path(_FOLDER, f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema, format_checker=_formats)


def check_schema(name: str, document: object) -> None:
    """Raise :exc:`AssertionError` unless a decoded document obeys a schema.

    ``name`` is the path of the schema in the folder, without suffix: ``micro/v1/info_response``.
    """
    problems = [
        f"{problem.json_path}: {problem.message}"
        for problem in _validator(name).iter_errors(document)
    ]
    assert not problems, "\n".join([name, *problems])
