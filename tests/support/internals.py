"""What tests have to know about a connection that its public interface does not tell.

No other test looks at private attributes of what users get, see ``tests/test_layers.py``. So a
change of the implementation changes this module only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trio_nats import Connection

__all__ = ["is_moving", "set_handover_limits"]


def set_handover_limits(nc: Connection, **changes: Any) -> None:
    """Set fields of the ``HandoverLimits`` that apply from the next change of servers on."""
    moves = nc._core.moves
    moves.limits = replace(moves.limits, **changes)


def is_moving(nc: Connection) -> bool:
    """Whether two connections are open, or duplicates from the old one are still filtered."""
    return nc._core.moves.handover is not None
