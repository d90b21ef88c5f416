"""Classes whose objects users are given refuse to be made, and say how to have one."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
from typing import is_typeddict

import msgspec
import pytest

import trio_nats
from tests.public_names import PACKAGES
from tests.support.public_objects import has_public_constructor
from trio_nats.keyvalue import KeyValue

# The public classes that users make, besides values and errors.
MADE_BY_USERS = {
    *("trio_nats.BytesCodec", "trio_nats.Headers", "trio_nats.JSONCodec"),
    *("trio_nats.MessagePackCodec", "trio_nats.TextCodec"),
    *("trio_nats.testing.NatsCluster", "trio_nats.testing.NatsServer"),
}
VALUES = (msgspec.Struct, enum.Enum, tuple, BaseException)


def is_value(cls: type) -> bool:
    return issubclass(cls, VALUES) or dataclasses.is_dataclass(cls) or is_typeddict(cls)


GIVEN = {
    f"{package}.{name}": cls
    for package in PACKAGES
    for name in importlib.import_module(package).__all__
    if isinstance(cls := getattr(importlib.import_module(package), name), type)
    if not is_value(cls) and not inspect.isabstract(cls) and "_is_protocol" not in vars(cls)
    if f"{package}.{name}" not in MADE_BY_USERS
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_class_without_a_public_constructor_refuses(name: str) -> None:
    cls = GIVEN[name]
    assert not has_public_constructor(cls)
    for arguments in [(), (1, 2)]:
        with pytest.raises(
            TypeError, match=rf"^{cls.__name__} has no public constructor; use .*[a-z]"
        ):
            cls(*arguments)


def test_the_error_says_how_to_get_a_server() -> None:
    with pytest.raises(TypeError) as caught:
        trio_nats.Connection(None)  # type: ignore[arg-type]
    assert str(caught.value) == "Connection has no public constructor; use open_nats()"


def test_a_generic_class_refuses_with_its_argument() -> None:
    with pytest.raises(TypeError, match="KeyValue has no public constructor"):
        KeyValue[bytes](None, None, None)  # type: ignore[arg-type]
