"""Answer discovery requests: PING, INFO and STATS on ``$SRV`` (ADR-32).

The asking side is in :mod:`.discovery`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from ..connection_base import BaseConnection
from ..errors import ConnectionLostError, NatsError
from ..message import Msg
from ..subscription import Subscription
from .schemas import (
    PREFIX,
    ServiceInfo,
    ServicePing,
    ServiceStats,
    encode_stats,
    monitoring_subject,
)

__all__ = ["Monitor", "create_monitors"]

_logger = logging.getLogger("trio_nats.services")


class Monitor:
    """Answers the requests on one subject.

    :param service: the name of the service, for the log.
    :param sub: the subscription, which the caller enters and closes.
    :param answer: returns the answer to a request.
    """

    def __init__(self, service: str, sub: Subscription, answer: Callable[[], bytes]) -> None:
        self.sub = sub
        self._service = service
        self._answer = answer

    async def run(self) -> None:
        """Answer requests until the subscription has been drained.

        It also returns if the server forbids the subscription: endpoints still work.

        :raises ConnectionLostError: if the connection is gone for good.
        :raises trio.ClosedResourceError: if the connection or the subscription is closed.
        """
        try:
            async for msg in self.sub:
                if msg.reply is not None:
                    await self._respond(msg)
        except ConnectionLostError:
            raise
        except NatsError as error:
            _logger.warning(
                "service %r cannot answer discovery on %r: %s",
                self._service,
                self.sub.subject,
                str(error),
            )

    async def _respond(self, msg: Msg) -> None:
        try:
            await msg.respond(self._answer())
        except NatsError as error:
            _logger.warning(
                "service %r: no answer on %r: %s", self._service, msg.subject, str(error)
            )


def create_monitors(
    nc: BaseConnection,
    ping: ServicePing,
    info: Callable[[], ServiceInfo],
    stats: Callable[[], ServiceStats],
) -> list[Monitor]:
    """Return monitors for all subjects: of all services, of this one, and of this instance."""
    encoded_ping = msgspec.json.encode(ping)
    answers: dict[str, Callable[[], bytes]] = {
        "PING": lambda: encoded_ping,
        "INFO": lambda: msgspec.json.encode(info()),
        "STATS": lambda: encode_stats(stats()),
    }
    return [
        Monitor(ping.name, nc.subscribe(monitoring_subject(PREFIX, verb, *whose)), answer)
        for verb, answer in answers.items()
        for whose in ((None, None), (ping.name, None), (ping.name, ping.id))
    ]
