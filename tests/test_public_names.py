"""Check that ``tests/public_names.txt`` is up to date; see ``tests/public_names.py``."""

from __future__ import annotations

import importlib
import inspect
import pickle
import typing
from difflib import unified_diff

import pytest

from .public_names import FILE, PACKAGES, public_names


def test_the_list_of_public_names_is_up_to_date() -> None:
    listed = FILE.read_text("utf-8").splitlines()
    changes = unified_diff(listed, public_names(), "listed", "found", n=0, lineterm="")
    assert not list(changes), "write the list again: python -m tests.public_names"


@pytest.mark.parametrize("package", PACKAGES)
def test_public_classes_and_functions_are_of_the_module_they_are_imported_from(
    package: str,
) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__ in PACKAGES, name
            assert pickle.loads(pickle.dumps(value)) is value
            typing.get_type_hints(value)
