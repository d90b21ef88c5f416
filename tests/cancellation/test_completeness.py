"""Every public call that can be cancelled is in the lists of calls."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

from tests.cancellation.calls import EXEMPT, GROUPS
from tests.support.public_objects import PUBLIC_MODULES

PACKAGES = ("jetstream", "keyvalue", "objectstore", "services")
ASYNC_METHODS = ("__aenter__", "__aexit__", "__anext__", "__await__")
RETURNED = ("AsyncIterator", "Awaitable", "AsyncGenerator", "AbstractAsyncContextManager")


def classes(*packages: str) -> dict[str, type]:
    """The public classes of some packages, or of all."""
    found = {}
    for path in PUBLIC_MODULES:
        if not packages or path.split(".")[1:2] in [[package] for package in packages]:
            module = importlib.import_module(path)
            for name in module.__all__:
                if inspect.isclass(one := getattr(module, name)):
                    found[name] = one
    return found


def is_asynchronous(cls: type) -> bool:
    """Whether its objects are used with ``async with``, ``async for`` or ``await``."""
    return any(inspect.isfunction(getattr(cls, name, None)) for name in ASYNC_METHODS)


def cancellable() -> Iterator[str]:
    """Yield what can be cancelled, or returns something that can be."""
    returned = {*RETURNED, *(name for name, cls in classes().items() if is_asynchronous(cls))}
    for name, cls in classes(*PACKAGES).items():
        for attribute in dir(cls):
            function = inspect.getattr_static(cls, attribute)
            if isinstance(function, (classmethod, staticmethod)):
                function = function.__func__
            is_public = not attribute.startswith("_") or attribute in ASYNC_METHODS
            if not is_public or not inspect.isfunction(function):
                continue
            # Objects that cannot be awaited or iterated over have methods that explain it.
            if function.__module__ == "trio_nats._async_with":
                continue
            result = str(inspect.signature(function).return_annotation)
            if (
                inspect.iscoroutinefunction(function)
                or attribute == "__await__"
                or result.partition("[")[0] in returned
            ):
                yield f"{name}.{attribute}"


def test_every_call_is_cancelled() -> None:
    cancelled = {
        name for group in GROUPS.values() for call in group.calls for name in call.names.split()
    }
    there = set(cancellable())
    assert len(there) > 120
    missing = there - cancelled - EXEMPT.keys()
    assert not missing, f"add them to tests/cancellation: {', '.join(sorted(missing))}"
    unknown = (cancelled | EXEMPT.keys()) - there
    assert not unknown, f"there are no such calls: {', '.join(sorted(unknown))}"
    assert not cancelled & EXEMPT.keys()
