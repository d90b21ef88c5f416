"""The position of an ordered consumer, and its consumers on the server (ADR-17)."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import msgspec
import trio

from ...errors import NatsError, NoRespondersError, RequestTimeoutError
from ..api import API
from ..errors import ConsumerDeletedError, JetStreamAPIError, PullError
from .config import AckPolicy, ConsumerConfig, DeliverPolicy
from .consumer import put_consumer
from .info import ConsumerInfo
from .message import JetStreamMsg

__all__ = ["OrderedState", "passes", "pause"]

_logger = logging.getLogger("trio_nats.jetstream")

FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
UNAVAILABLE = 503
GONE = (404, 409, 503)


class OrderedState:
    """The position in the stream, and the present consumer on the server, if any."""

    def __init__(self, api: API, stream: str, prefix: str, config: ConsumerConfig) -> None:
        self.api = api
        self.stream = stream
        self.prefix = prefix
        self.name: str | None = None
        """The name of the present consumer, or ``None``."""
        self.info: ConsumerInfo | None = None
        """Its information from when it was created."""
        self.next_seq: int | None = None
        """Where the next consumer begins in the stream; ``None``: as configured."""
        self._config = config
        self._serial = 0
        self._consumer_seq = 0  # number of deliveries received from the present consumer
        self._busy = False

    def __repr__(self) -> str:
        return f"<OrderedConsumer {self.prefix!r} of stream {self.stream!r}>"

    async def ensure(self) -> str:
        """Return the name of the present consumer; create one if there is none."""
        if self.name is None:
            self._serial += 1
            consumer = await put_consumer(self.api, self.stream, "", self._next_config())
            assert consumer.info is not None
            self.name, self.info, self._consumer_seq = consumer.name, consumer.info, 0
            last_ones = self._config.deliver_policy == DeliverPolicy.LAST_PER_SUBJECT
            if self.next_seq is None and not (last_ones and consumer.info.num_pending):
                # Set it before the first message, so that a new consumer never begins later.
                self.next_seq = consumer.info.delivered.stream_seq + 1
        return self.name

    def _next_config(self) -> ConsumerConfig:
        config = msgspec.structs.replace(
            self._config,
            name=f"{self.prefix}_{self._serial}",
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
        )
        if self.next_seq is not None:
            return msgspec.structs.replace(
                config,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self.next_seq,
                opt_start_time=None,
            )
        unfiltered = not config.filter_subject and not config.filter_subjects
        if config.deliver_policy == DeliverPolicy.LAST_PER_SUBJECT and unfiltered:
            return msgspec.structs.replace(config, filter_subject=">")
        return config

    def forget(self) -> None:
        """Give up the present consumer: ask the server to delete it, without waiting."""
        name, self.name, self.info = self.name, None, None
        if name is None:
            return
        nc = self.api.nc
        try:
            # Without this, the server deletes the consumer after its inactive_threshold.
            nc.publish_nowait(
                self.api.subject(f"CONSUMER.DELETE.{self.stream}.{name}"),
                reply=nc.new_inbox(),
            )
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("consumer %r could not be deleted: %s", name, str(error))

    def follows(self, msg: JetStreamMsg) -> bool | None:
        """Whether a message is the next one; ``None`` if it is from another consumer.

        If it is, the position moves on.
        """
        try:
            metadata = msg.metadata
        except ValueError as error:
            _logger.debug("%s", str(error))
            return None
        if metadata.consumer != self.name:
            return None
        if metadata.consumer_seq != self._consumer_seq + 1:
            _logger.info(
                "consumer %r: delivery %d came after %d; continuing from sequence %s",
                self.name,
                metadata.consumer_seq,
                self._consumer_seq,
                self.next_seq,
            )
            return False
        self._consumer_seq += 1
        self.next_seq = metadata.stream_seq + 1
        return True

    @contextmanager
    def use(self) -> Generator[None, None, None]:
        """Let only one task in at a time."""
        if self._busy:
            raise trio.BusyResourceError(
                "another task is using this ordered consumer; make another one for each task"
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def passes(error: BaseException) -> bool:
    """Whether an error is temporary, so that it is worth trying again."""
    if isinstance(error, (ConsumerDeletedError, NoRespondersError, RequestTimeoutError)):
        return True
    if isinstance(error, PullError):
        return error.code in GONE
    return isinstance(error, JetStreamAPIError) and error.code == UNAVAILABLE


def pause(waits: int) -> float:
    """Return the seconds to wait before the next try, after a number of earlier waits."""
    return min(FIRST_WAIT * 2.0**waits, LONGEST_WAIT)
