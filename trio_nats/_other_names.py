"""Errors for attributes that have another name in nats-py."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["no_attribute"]


def no_attribute(owner: object, name: str, names: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that does not exist.

    :param owner: the object that was asked for it.
    :param name: the attribute.
    :param names: what to use instead of the attributes that nats-py has.
    """
    text = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if instead := names.get(name):
        text += f"; use {instead} (see 'Coming from nats-py' in the documentation)"
    return AttributeError(text, name=name, obj=owner)
