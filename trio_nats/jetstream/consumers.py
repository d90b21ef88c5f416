"""The consumers of a stream: the half of :class:`~trio_nats.jetstream.Stream` they are."""

from __future__ import annotations

from .api import API

__all__ = ["StreamConsumers"]


class StreamConsumers:
    """The half of :class:`~trio_nats.jetstream.Stream` that deals with consumers."""

    def __init__(self, api: API, name: str) -> None:
        self._api = api
        self._name = name

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._name
