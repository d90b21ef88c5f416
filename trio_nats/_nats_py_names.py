"""Errors for attributes that exist in nats-py under another name."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["attribute_error"]


def attribute_error(owner: object, name: str, names: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that does not exist.

    :param owner: the object without the attribute.
    :param name: the attribute.
    :param names: attributes of nats-py, and what to use instead of each.
    """
    text = f"{type(owner).__name__!r} object has no attribute {name!r}"
    if instead := names.get(name):
        text += f"; use {instead} (see 'Coming from nats-py' in the documentation)"
    return AttributeError(text, name=name, obj=owner)
