"""JetStream: streams that keep messages, and publishing into them.

Made with the public side of a connection only, by :meth:`Connection.jetstream`, which imports it
when it is first used.
"""

from __future__ import annotations

from ..errors import (
    APILevelError,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    JetStreamAPIError,
    JetStreamError,
    JetStreamNotEnabledError,
    JetStreamNotEnabledForAccountError,
    MessageNotFoundError,
    NoStreamResponseError,
    StreamMismatchError,
    StreamNameInUseError,
    StreamNotFoundError,
    UnacknowledgedError,
    WrongLastMsgIdError,
    WrongLastSequenceError,
)
from .acks import PubAck
from .api import API, Paged
from .atomic import AtomicBatch
from .config import (
    Compression,
    ConsumerLimits,
    DiscardPolicy,
    ExternalStream,
    PersistMode,
    Placement,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamConsumerSource,
    StreamOptions,
    StreamSource,
    SubjectTransform,
)
from .consumer_config import (
    AckPolicy,
    ConsumerConfig,
    ConsumerOptions,
    DeliverPolicy,
    PriorityPolicy,
    ReplayPolicy,
)
from .context import JetStream
from .info import (
    AccountInfo,
    AccountLimits,
    APIStats,
    ClusterInfo,
    ConsumerInfo,
    LostMessages,
    PeerInfo,
    PriorityGroupState,
    SequenceInfo,
    SourceInfo,
    StreamAlternate,
    StreamInfo,
    StreamState,
    Tier,
)
from .messages import StoredMsg
from .publisher import PendingAck, Publisher
from .stream import Stream

__all__ = [
    "API",
    "APILevelError",
    "APIStats",
    "AccountInfo",
    "AccountLimits",
    "AckPolicy",
    "AtomicBatch",
    "ClusterInfo",
    "Compression",
    "ConsumerConfig",
    "ConsumerInfo",
    "ConsumerLimits",
    "ConsumerNameInUseError",
    "ConsumerNotFoundError",
    "ConsumerOptions",
    "DeliverPolicy",
    "DiscardPolicy",
    "ExternalStream",
    "JetStream",
    "JetStreamAPIError",
    "JetStreamError",
    "JetStreamNotEnabledError",
    "JetStreamNotEnabledForAccountError",
    "LostMessages",
    "MessageNotFoundError",
    "NoStreamResponseError",
    "Paged",
    "PeerInfo",
    "PendingAck",
    "PersistMode",
    "Placement",
    "PriorityGroupState",
    "PriorityPolicy",
    "PubAck",
    "Publisher",
    "RePublish",
    "ReplayPolicy",
    "RetentionPolicy",
    "SequenceInfo",
    "SourceInfo",
    "StorageType",
    "StoredMsg",
    "Stream",
    "StreamAlternate",
    "StreamConfig",
    "StreamConsumerSource",
    "StreamInfo",
    "StreamMismatchError",
    "StreamNameInUseError",
    "StreamNotFoundError",
    "StreamOptions",
    "StreamSource",
    "StreamState",
    "SubjectTransform",
    "Tier",
    "UnacknowledgedError",
    "WrongLastMsgIdError",
    "WrongLastSequenceError",
]
