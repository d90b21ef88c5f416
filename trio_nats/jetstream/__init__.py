"""JetStream: streams that keep messages, and publishing into them.

Made with the public side of a connection only, by :meth:`Connection.jetstream`, which imports it
when it is first used.
"""

from __future__ import annotations

from .._public_modules import set_public_module
from .account import AccountInfo, AccountLimits, APIStats, Tier
from .api import PageIterator
from .consumer.config import (
    AckPolicy,
    ConsumerConfig,
    ConsumerOptions,
    DeliverPolicy,
    PriorityPolicy,
    ReplayPolicy,
)
from .consumer.consumer import Consumer, PauseState
from .consumer.info import ConsumerInfo, PriorityGroupState, SequenceInfo
from .consumer.message import JetStreamMsg, MsgMetadata
from .consumer.message_channel import Messages
from .consumer.ordered import OrderedConsumer
from .context import JetStream
from .errors import (
    AckError,
    APILevelError,
    ConsumerDeletedError,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    ErrorCode,
    FastBatchError,
    JetStreamAPIError,
    JetStreamError,
    JetStreamNotEnabledError,
    JetStreamNotEnabledForAccountError,
    MessageNotFoundError,
    NoStreamResponseError,
    PullError,
    StreamMismatchError,
    StreamNameInUseError,
    StreamNotFoundError,
    UnacknowledgedError,
    WrongLastMsgIdError,
    WrongLastSequenceError,
)
from .get.stored_message import StoredMsg
from .info import (
    ClusterInfo,
    DesiredClusterInfo,
    DesiredClusterOrigin,
    DesiredClusterStatus,
    LostMessages,
    PeerInfo,
    SourceError,
    SourceInfo,
    StreamAlternate,
    StreamInfo,
    StreamState,
)
from .publish.ack import PubAck
from .publish.atomic_batch import AtomicBatch
from .publish.fast_batch import FastBatch
from .publish.publisher import PendingAck, Publisher
from .stream import Stream
from .stream_config import (
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

__all__ = [
    "APILevelError",
    "APIStats",
    "AccountInfo",
    "AccountLimits",
    "AckError",
    "AckPolicy",
    "AtomicBatch",
    "ClusterInfo",
    "Compression",
    "Consumer",
    "ConsumerConfig",
    "ConsumerDeletedError",
    "ConsumerInfo",
    "ConsumerLimits",
    "ConsumerNameInUseError",
    "ConsumerNotFoundError",
    "ConsumerOptions",
    "DeliverPolicy",
    "DesiredClusterInfo",
    "DesiredClusterOrigin",
    "DesiredClusterStatus",
    "DiscardPolicy",
    "ErrorCode",
    "ExternalStream",
    "FastBatch",
    "FastBatchError",
    "JetStream",
    "JetStreamAPIError",
    "JetStreamError",
    "JetStreamMsg",
    "JetStreamNotEnabledError",
    "JetStreamNotEnabledForAccountError",
    "LostMessages",
    "MessageNotFoundError",
    "Messages",
    "MsgMetadata",
    "NoStreamResponseError",
    "OrderedConsumer",
    "PageIterator",
    "PauseState",
    "PeerInfo",
    "PendingAck",
    "PersistMode",
    "Placement",
    "PriorityGroupState",
    "PriorityPolicy",
    "PubAck",
    "Publisher",
    "PullError",
    "RePublish",
    "ReplayPolicy",
    "RetentionPolicy",
    "SequenceInfo",
    "SourceError",
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

set_public_module(__name__, __all__, globals())
