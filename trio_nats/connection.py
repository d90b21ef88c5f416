"""The connection that users hold: :class:`BaseConnection` and what is built on top of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ._core.supervisor import Supervisor
from .connection_base import BaseConnection

if TYPE_CHECKING:
    from .jetstream import JetStream
    from .jetstream.consumer.inboxes import InboxPool
    from .services import Service, Services, StatsHandler

__all__ = ["Connection"]


class Connection(BaseConnection):
    """A connection to NATS, as given by ``async with open_nats(...) as nc:``.

    All methods may be used from any task of the ``trio.run()`` it was opened in. Once it is closed
    they raise :exc:`trio.ClosedResourceError`, and once no server can be reached any more
    :exc:`ConnectionLostError`.
    """

    def __init__(self, core_of: Callable[[Connection], Supervisor]) -> None:
        super().__init__(core_of(self))
        self._inboxes: InboxPool | None = None

    # --- built on top, and only imported when asked for: a connection needs none of it -----------

    def add_service(
        self,
        name: str,
        *,
        version: str,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        queue: str | None = "q",
        stats_handler: StatsHandler | None = None,
        close_timeout: float = 5.0,
    ) -> Service:
        """A service (ADR-32), for the length of an ``async with`` block; see :class:`Service`.

        .. code-block:: python

            service = nc.add_service("text", version="1.0.0")

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

            async with service:
                await service.wait_stopped()

        :param name: letters, digits, ``-`` and ``_``; instances with the same name share the work.
        :param version: a semantic one, such as ``1.0.0``.
        :param description: what it is, for people.
        :param metadata: shown to who asks; 128 KiB at most.
        :param queue: the queue group of its endpoints, unless they have another; ``None``: none.
        :param stats_handler: called with each :class:`Endpoint` when statistics are asked for; what
            it returns, a dict or struct, is put there as ``data``, a JSON object.
        :param close_timeout: seconds that requests under way have to finish when it is stopped.

        Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
        """
        from .services import Service

        return Service(
            self,
            name,
            version=version,
            description=description,
            metadata=metadata,
            queue=queue,
            stats_handler=stats_handler,
            close_timeout=close_timeout,
        )

    def services(
        self, *, prefix: str = "$SRV", timeout: float | None = None, stall: float = 0.3
    ) -> Services:
        """Asks what services there are: ``await nc.services().ping()``; see :class:`Services`.

        ``prefix`` is what subjects begin with where those of another account are imported under
        another name. An answer is waited for until ``stall`` seconds have passed since the last
        one, at most ``timeout`` seconds in all (the connection's ``request_timeout`` unless
        given). Raises :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
        """
        from .services import Services

        return Services(self, prefix=prefix, timeout=timeout, stall=stall)

    def jetstream(
        self,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
    ) -> JetStream:
        """JetStream: streams that keep messages; see :class:`~trio_nats.jetstream.JetStream`.

        ``domain`` is the JetStream domain to use, such as the hub's at a leaf node. ``prefix`` is
        what its API is imported under. Without either they are those of the context, if
        there is one, else ``$JS.API`` is the prefix. An answer of the API may take
        ``timeout`` seconds, 5 unless given. Nothing is sent by this. Raises
        :exc:`ConfigurationError` or :exc:`InvalidSubjectError` for what cannot be.
        """
        from .jetstream import JetStream
        from .jetstream.consumer.inboxes import InboxPool

        if self._inboxes is None:
            self._inboxes = InboxPool(self)
        if domain is None and prefix is None:
            settings = self._core.settings
            domain, prefix = settings.jetstream_domain, settings.jetstream_prefix
        return JetStream(self, self._inboxes, domain=domain, prefix=prefix, timeout=timeout)
