"""The NATS service API (ADR-32): services with endpoints, discovery and statistics.

Start with :meth:`Connection.add_service` or :meth:`Connection.services`.
"""

from __future__ import annotations

from .._public_modules import set_public_module
from .discovery import Services
from .endpoint import Endpoint, Handler
from .errors import ServiceError
from .group import ServiceGroup
from .request import ServiceRequest, check_reply, service_error
from .schemas import (
    EndpointInfo,
    EndpointStats,
    ServiceIdentity,
    ServiceInfo,
    ServicePing,
    ServiceStats,
)
from .service import Service, StatsHandler

__all__ = [
    "Endpoint",
    "EndpointInfo",
    "EndpointStats",
    "Handler",
    "Service",
    "ServiceError",
    "ServiceGroup",
    "ServiceIdentity",
    "ServiceInfo",
    "ServicePing",
    "ServiceRequest",
    "ServiceStats",
    "Services",
    "StatsHandler",
    "check_reply",
    "service_error",
]

set_public_module(__name__, __all__, globals())
