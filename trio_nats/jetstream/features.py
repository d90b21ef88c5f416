"""Features that need a newer server, and their API levels (ADR-44).

:data:`FEATURES` is the only list of them. Requests are checked against it, and errors are
made from it. A test compares it with the table in ``docs/compatibility.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .errors import APILevelError, ErrorCode

__all__ = ["FEATURES", "api_level_error", "level_of", "version_of"]

FEATURES: Mapping[str, int] = {
    "allow_msg_ttl": 1,
    "subject_delete_marker_ttl": 1,
    "limit_marker_ttl": 1,
    "ttl of a message": 1,
    "expect_last_subject": 1,
    "get_msg(start_time=)": 1,
    "get_msgs()": 1,
    "get_last_msgs()": 1,
    "pause_until": 1,
    "pause()": 1,
    "priority_groups": 1,
    "unpin()": 1,
    "step_down(placement=)": 1,
    "allow_atomic": 2,
    "atomic_batch()": 2,
    "allow_msg_counter": 2,
    "allow_msg_schedules": 2,
    "PersistMode.ASYNC": 2,
    "PriorityPolicy.PRIORITIZED": 2,
    "allow_batched": 4,
    "fast_batch()": 4,
    "StreamSource(consumer=)": 4,
    "AckPolicy.FLOW_CONTROL": 4,
    "reset()": 4,
    "evacuate_peer()": 5,
    "cancel_move()": 5,
}
"""The API level that each feature needs. A feature is named as users write it."""

_VERSIONS = {1: "2.11", 2: "2.12", 3: "2.12.5", 4: "2.14", 5: "2.15"}
"""The first version of each API level."""


def version_of(level: int) -> str:
    """Return the first server version that has an API level."""
    return _VERSIONS[level]


def level_of(features: Iterable[str]) -> int:
    """Return the lowest API level that has all these features; 0 if there are none."""
    return max((FEATURES[feature] for feature in features), default=0)


def api_level_error(
    features: Iterable[str], level: int | None = None, detail: str = ""
) -> APILevelError:
    """Return the error for features that the server does not have.

    :param features: some of :data:`FEATURES`. Those that the server has are left out.
    :param level: the API level of the server. Default: unknown.
    :param detail: a clause to add to the text. Default: none.
    """
    missing = [feature for feature in features if level is None or FEATURES[feature] > level]
    text = f"nats-server must be {version_of(level_of(missing))} or later for {', '.join(missing)}"
    if level is not None:
        # Any server may send any number.
        newer = version_of(max(level, 0) + 1)
        text += f", but this one is older than {newer} (API level {level})"
    return APILevelError(
        412,
        ErrorCode.REQUIRED_API_LEVEL,
        f"{text}{detail and '; '}{detail}; upgrade it, or do without",
    )
