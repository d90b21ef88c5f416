"""The consumers behind an ordered consumer, one after the other (ADR-17)."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import msgspec
import trio

from ...errors import NatsError, NoRespondersError, RequestTimeoutError
from ..api import API
from ..errors import ConsumerDeletedError, JetStreamAPIError, PullError
from ..info import ConsumerInfo
from .config import AckPolicy, ConsumerConfig, DeliverPolicy
from .consumer import put_consumer
from .message import JetStreamMsg

__all__ = ["OrderedState", "passes", "pause"]

_logger = logging.getLogger("trio_nats.jetstream")

FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
UNAVAILABLE = 503
GONE = (404, 409, 503)


class OrderedState:
    """Consumers that follow on each other, and how far they have come together."""

    def __init__(self, api: API, stream: str, prefix: str, config: ConsumerConfig) -> None:
        self.api = api
        self.stream = stream
        self.prefix = prefix
        self.name: str | None = None
        """The present consumer."""
        self.info: ConsumerInfo | None = None
        """What was said of it when it was created."""
        self.next_seq: int | None = None
        """Where the next one begins in the stream; ``None``: as configured."""
        self._config = config
        self._serial = 0
        self._consumer_seq = 0  # what the present one has delivered
        self._busy = False

    def __repr__(self) -> str:
        return f"<OrderedConsumer {self.prefix!r} of stream {self.stream!r}>"

    async def ensure(self) -> str:
        """The name of a consumer that goes on behind what was handed out."""
        if self.name is None:
            self._serial += 1
            consumer = await put_consumer(self.api, self.stream, "", self._next_config())
            assert consumer.info is not None
            self.name, self.info, self._consumer_seq = consumer.name, consumer.info, 0
            last_ones = self._config.deliver_policy == DeliverPolicy.LAST_PER_SUBJECT
            if self.next_seq is None and not last_ones:
                # Even if nothing is handed out: another one must not begin later than this one.
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
        """Have another consumer next time. The present one is deleted, if that can be said."""
        name, self.name, self.info = self.name, None, None
        if name is None:
            return
        nc = self.api.nc
        try:
            # Nobody waits for the answer; without, the server does it when it was not used.
            nc.publish_nowait(
                self.api.subject(f"CONSUMER.DELETE.{self.stream}.{name}"),
                reply=nc.new_inbox(),
            )
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("consumer %r could not be deleted: %s", name, str(error))

    def follows(self, msg: JetStreamMsg) -> bool | None:
        """Whether it is the next one, which it counts as then; ``None``: it is another one's."""
        try:
            metadata = msg.metadata
        except ValueError as error:
            _logger.debug("%s", str(error))
            return None
        if metadata.consumer != self.name:
            return None
        if metadata.consumer_seq != self._consumer_seq + 1:
            _logger.info(
                "consumer %r: delivery %d came after %d; going on from %s",
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
        """For one at a time."""
        if self._busy:
            raise trio.BusyResourceError(
                "this ordered consumer is in use; make another one for another task"
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


def passes(error: BaseException) -> bool:
    """Whether it is worth another try."""
    if isinstance(error, (ConsumerDeletedError, NoRespondersError, RequestTimeoutError)):
        return True
    if isinstance(error, PullError):
        return error.code in GONE
    return isinstance(error, JetStreamAPIError) and error.code == UNAVAILABLE


def pause(waits: int) -> float:
    """Seconds until the next try, after so many of them."""
    return min(FIRST_WAIT * 2.0**waits, LONGEST_WAIT)
