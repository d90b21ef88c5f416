"""Bound how deeply JSON from untrusted sources is nested.

Otherwise a document that is nested almost as deeply as the decoder allows could not be encoded or
shown: that raises :exc:`RecursionError`.
"""

from __future__ import annotations

__all__ = ["MAX_DEPTH", "is_shallow"]

MAX_DEPTH = 32
"""Maximum depth of nested lists and objects where any JSON is accepted."""


def is_shallow(value: object, levels: int = MAX_DEPTH) -> bool:
    """Return whether lists and objects in ``value`` are nested at most ``levels`` deep."""
    if not isinstance(value, (list, dict)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    # Most values are no containers; skip the call for them.
    return levels > 0 and all(
        is_shallow(one, levels - 1) for one in inner if isinstance(one, (list, dict))
    )
