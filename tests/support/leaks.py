"""Find leaked tasks and sockets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

__all__ = ["all_tasks", "no_leaks", "open_sockets"]

_DESCRIPTORS = "/proc/self/fd"


def all_tasks() -> Counter[str]:
    """Count the tasks of this run by name, without Trio's system tasks."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return Counter(task.name for task in _below(root))


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    is_root = task.parent_nursery is None
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            # System tasks are children of the root task only. A task further down that runs a
            # function of Trio's may be a leak.
            if not (is_root and child.name.startswith("trio.")):
                yield from _below(child)


def open_sockets() -> set[str]:
    """Return the open sockets of this process by inode, or none if the system cannot tell."""
    if not os.path.isdir(_DESCRIPTORS):
        return set()
    found = set()
    for entry in os.listdir(_DESCRIPTORS):
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{entry}")
        except OSError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


@asynccontextmanager
async def no_leaks() -> AsyncIterator[None]:
    """Assert that the block leaks no task and no socket.

    Nothing else in the process may open or close any during the block.
    """
    tasks, sockets = all_tasks(), open_sockets()
    yield
    left = all_tasks() - tasks
    assert not left, f"leaked tasks: {dict(left)}"
    open_still = open_sockets() - sockets
    assert not open_still, f"leaked sockets: {open_still}"
