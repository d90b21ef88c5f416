"""A stream, and what can be done with it."""

from __future__ import annotations

from .api import API
from .consumers import StreamConsumers
from .info import StreamInfo

__all__ = ["Stream"]


class Stream(StreamConsumers):
    """A stream, as :meth:`JetStream.create_stream` and :meth:`JetStream.stream` make it."""

    def __init__(self, api: API, info: StreamInfo) -> None:
        super().__init__(api, info.config.name)
        self._info = info

    @property
    def info(self) -> StreamInfo:
        """What was last heard about it."""
        return self._info

    def __repr__(self) -> str:
        return f"<Stream {self.name!r}>"
