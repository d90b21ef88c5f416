"""How a consumer comes to be (ADR-34 and its likes)."""

from __future__ import annotations

import secrets

import msgspec

from ..errors import ConfigurationError, NatsError
from . import wire
from .api import API
from .consumer import Consumer
from .consumer_config import (
    ConsumerConfig,
    ConsumerOptions,
    PriorityPolicy,
    check_consumer,
)
from .errors import ConsumerNameInUseError
from .info import ConsumerInfo

__all__ = ["new_name", "put_consumer", "whole_config"]


class _CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    stream_name: str
    config: ConsumerConfig
    action: str = ""


async def put_consumer(api: API, stream: str, action: str, config: ConsumerConfig) -> Consumer:
    """Create or update a consumer; ``action`` is which of them, or empty for either."""
    check_consumer(api.nc, config)
    if not (config.name or config.durable_name):
        config = msgspec.structs.replace(config, name=new_name())
    suffix = f"CONSUMER.CREATE.{stream}.{config.name or config.durable_name}"
    # So that it can be forbidden by subject. Nothing can be published to one with wildcards.
    if config.filter_subject and not {"*", ">"} & {*config.filter_subject.split(".")}:
        suffix = f"{suffix}.{config.filter_subject}"
    request = _CreateRequest(stream_name=stream, config=config, action=action)
    try:
        info = await api.request(suffix, request, ConsumerInfo, level=_level(config))
    except ConsumerNameInUseError as error:
        raise error.described(await _what_differs(api, stream, config)) from None
    return Consumer(api, stream, info.name, info)


async def _what_differs(api: API, stream: str, config: ConsumerConfig) -> str:
    name = config.name or config.durable_name
    text = f"consumer {name!r} of stream {stream!r} exists already, with another configuration"
    try:
        info = await api.request(f"CONSUMER.INFO.{stream}.{name}", None, ConsumerInfo)
    except NatsError:
        return text
    if what := wire.differences(config, info.config):
        text += f": {what}"
    return f"{text}. Update it, or use another name"


def _level(config: ConsumerConfig) -> int:
    """The API level that a server needs for all of this (ADR-44); 0 if any will do."""
    if config.priority_policy == PriorityPolicy.PRIORITIZED:
        return 2
    return int(bool(config.priority_groups) or config.pause_until is not None)


def whole_config(config: ConsumerConfig | str | None, options: ConsumerOptions) -> ConsumerConfig:
    """The configuration that was given in parts."""
    try:
        if config is None or isinstance(config, str):
            return ConsumerConfig(name=config or "", **options)
        if isinstance(config, ConsumerConfig):
            return msgspec.structs.replace(config, **options)
    except TypeError as error:
        raise ConfigurationError(f"ConsumerConfig: {error}") from None
    raise ConfigurationError(
        f"a consumer is given by a ConsumerConfig or its name, not {type(config).__name__}"
    )


def new_name() -> str:
    """A name for a consumer that nobody else has."""
    return secrets.token_hex(11)
