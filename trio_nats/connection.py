"""The public connection class: :class:`BaseConnection` with JetStream and services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn

from ._constructors import NoPublicConstructor, construct
from ._core.supervisor import Supervisor
from ._nats_py_names import attribute_error
from .connection_base import BaseConnection

if TYPE_CHECKING:
    from .jetstream import JetStream
    from .jetstream.consumer.inboxes import InboxPool
    from .services import Service, Services, StatsHandler

__all__ = ["Connection"]

_NATS_PY_NAMES = {
    "close": "the end of the 'async with' block, or nc.aclose()",
    "force_reconnect": "nc.reconnect()",
    "is_closed": "nc.state",
    "is_connected": "nc.state",
    "is_reconnecting": "nc.state",
    "jsm": "nc.jetstream()",
    "last_error": "nc.failure, or nc.events()",
    "max_payload": "nc.server_info.max_payload",
}


class Connection(BaseConnection, metaclass=NoPublicConstructor, use="open_nats()"):
    """A connection to NATS, as given by ``async with open_nats(...) as nc:``.

    You may use it from any task of the ``trio.run()`` that opened it; elsewhere its methods raise
    :exc:`RuntimeError`. Once it is closed, its methods raise :exc:`trio.ClosedResourceError`; once
    no server can be reached any more, they raise :exc:`ConnectionLostError`. An option of the
    wrong type raises :exc:`TypeError`.
    """

    def __init__(self, core_of: Callable[[Connection], Supervisor]) -> None:
        super().__init__(core_of(self))
        self._inboxes: InboxPool | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise attribute_error(self, name, _NATS_PY_NAMES)

    # --- built on top, and imported only when used -----------------------------------------------

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
        """Make a service (ADR-32), which runs for the duration of an ``async with`` block.

        .. code-block:: python

            service = nc.add_service("text", version="1.0.0")

            @service.endpoint("reverse")
            async def reverse(request: ServiceRequest) -> bytes:
                return request.data[::-1]

            async with service:
                await service.wait_stopped()

        Nothing is sent before the block is entered.

        :param name: its name, of letters, digits, ``-`` and ``_``. Instances with the same name
            share the requests.
        :param version: its semantic version, such as ``1.0.0``.
        :param description: a description for people.
        :param metadata: metadata that discovery shows, at most 128 KiB.
        :param queue: the queue group of endpoints and groups that set no other; ``None`` for no
            queue group. Default: ``q``.
        :param stats_handler: called with each :class:`~trio_nats.services.Endpoint` when statistics
            are requested. It returns a ``dict`` or struct, to be sent as the endpoint's ``data``,
            or ``None``.
        :param close_timeout: seconds that pending requests have to finish when the service stops.
            Default: 5.
        :returns: the service; see :class:`~trio_nats.services.Service`.
        :raises ConfigurationError: if an option is invalid.
        :raises InvalidSubjectError: if the queue group is not allowed.
        """
        from .services import Service

        return construct(
            Service,
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
        """Discover services (ADR-32), as in ``await nc.services().ping()``.

        Nothing is sent by this call.

        :param prefix: prefix of the discovery subjects, if those of another account are imported
            under another name. Default: ``$SRV``.
        :param timeout: seconds to wait for responses in all. Default: the connection's
            ``request_timeout``.
        :param stall: seconds without another response after which all are assumed to have arrived.
            Default: 0.3.
        :returns: an object to ask with; see :class:`~trio_nats.services.Services`.
        :raises ConfigurationError: if ``timeout`` or ``stall`` is out of range.
        :raises InvalidSubjectError: if ``prefix`` is not allowed.
        """
        from .services import Services

        return construct(Services, self, prefix=prefix, timeout=timeout, stall=stall)

    def jetstream(
        self,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
        event_prefix: str | None = None,
    ) -> JetStream:
        """Use JetStream over this connection.

        Nothing is sent by this call. Without ``domain`` and ``prefix``, those of the ``context``
        passed to :func:`~trio_nats.open_nats` apply, if any.

        :param domain: the JetStream domain, for example that of the hub when connected to a leaf
            node. Default: the domain of the server.
        :param prefix: prefix of the subjects of the JetStream API, if the API of another account is
            imported under another name. Cannot be combined with ``domain``. Default: ``$JS.API``.
        :param timeout: seconds to wait for each answer of the API. Default: 5.
        :param event_prefix: prefix of the subjects of advisories, if those of another account are
            imported under another name. Default: that of the ``context``, or ``$JS.EVENT``.
        :returns: the JetStream context; see :class:`~trio_nats.jetstream.JetStream`.
        :raises ConfigurationError: if ``domain`` and ``prefix`` are both given, ``domain`` is not a
            valid name, or ``timeout`` is out of range.
        :raises InvalidSubjectError: if ``prefix`` or ``event_prefix`` is not allowed.
        """
        from .jetstream import JetStream
        from .jetstream.consumer.inboxes import InboxPool

        if self._inboxes is None:
            self._inboxes = InboxPool(self)
        settings = self._core.settings
        if domain is None and prefix is None:
            domain, prefix = settings.jetstream_domain, settings.jetstream_prefix
        return construct(
            JetStream,
            self,
            self._inboxes,
            domain=domain,
            prefix=prefix,
            timeout=timeout,
            event_prefix=settings.jetstream_event_prefix if event_prefix is None else event_prefix,
        )
