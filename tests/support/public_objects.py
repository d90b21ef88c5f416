"""The modules and objects of the public interface, for tests and for the reference in docs/."""

from __future__ import annotations

import importlib
import inspect
from importlib.util import find_spec

from trio_nats._constructors import NoPublicConstructor
from trio_nats.jetstream import JetStreamMsg

# The modules that users import from. Each lists its public names in ``__all__``.
PUBLIC_MODULES = tuple(
    name
    for name in (
        "trio_nats",
        "trio_nats.anyio",
        "trio_nats.errors",
        "trio_nats.events",
        "trio_nats.jetstream",
        "trio_nats.jetstream.advisories",
        "trio_nats.jetstream.events",
        "trio_nats.keyvalue",
        "trio_nats.objectstore",
        "trio_nats.services",
        "trio_nats.subjects",
        "trio_nats.testing",
    )
    if find_spec(name) is not None
)


def has_public_constructor(cls: type) -> bool:
    """Whether users create instances. If not, the constructor is not documented."""
    is_protocol = "_is_protocol" in vars(cls)
    return not isinstance(cls, NoPublicConstructor) and not is_protocol and cls is not JetStreamMsg


def public_objects() -> dict[int, object]:
    """Return the public classes and functions by their ``id``."""
    values = (
        getattr(importlib.import_module(module), name)
        for module in PUBLIC_MODULES
        for name in importlib.import_module(module).__all__
    )
    return {
        id(value): value for value in values if inspect.isclass(value) or inspect.isfunction(value)
    }
