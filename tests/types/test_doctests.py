"""The examples in docstrings do what they say, as far as they need no server."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import trio_nats
from trio_nats._public_modules import DEFINED_IN

# Running it is all it is for.
NOT_IMPORTED = {"trio_nats.__main__"}
# Command line and pytest plugin may need extras that are not installed.
OPTIONAL = ("trio_nats.cli", "trio_nats.testing")


def module_names() -> Iterator[str]:
    yield "trio_nats"
    for module in pkgutil.walk_packages(trio_nats.__path__, "trio_nats."):
        if module.name not in NOT_IMPORTED and not module.name.startswith(OPTIONAL):
            yield module.name


class Finder(doctest.DocTestFinder):
    """Finds public classes where they are defined, too."""

    def _from_module(self, module: ModuleType, object: object) -> bool:
        if isinstance(object, type) and object in DEFINED_IN:
            return DEFINED_IN[object] == module.__name__
        return super()._from_module(module, object)  # type: ignore[misc, no-any-return]


def examples(name: str) -> list[doctest.DocTest]:
    found = Finder().find(importlib.import_module(name), name)
    return [test for test in found if test.examples]


WITH_EXAMPLES = [name for name in module_names() if examples(name)]


def test_examples_are_found() -> None:
    assert "trio_nats" in WITH_EXAMPLES
    assert "trio_nats.headers" in WITH_EXAMPLES


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    runner = doctest.DebugRunner()
    for test in examples(name):
        runner.run(test)
        assert runner.tries >= len(test.examples)
