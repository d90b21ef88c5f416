"""Finding tasks and sockets that outlive what they were for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

__all__ = ["all_tasks", "no_leaks", "open_sockets"]

_DESCRIPTORS = "/proc/self/fd"


def all_tasks() -> Counter[str]:
    """How many tasks of each name this run has, Trio's system tasks excepted."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return Counter(task.name for task in _below(root))


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    is_root = task.parent_nursery is None
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            # Only among the root's own children: further down, a task that runs a function of
            # Trio's does so for somebody, who may have forgotten it.
            if not (is_root and child.name.startswith("trio.")):
                yield from _below(child)


def open_sockets() -> set[str]:
    """The sockets this process has open, by inode; none where the system does not tell."""
    if not os.path.isdir(_DESCRIPTORS):
        return set()
    found = set()
    for entry in os.listdir(_DESCRIPTORS):
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{entry}")
        except OSError:
            continue  # that of the listing itself
        if target.startswith("socket:"):
            found.add(target)
    return found


@asynccontextmanager
async def no_leaks() -> AsyncIterator[None]:
    """Assert that the block leaves no task and no socket behind that was not there before.

    What the block itself shares the process with must not change during it.
    """
    tasks, sockets = all_tasks(), open_sockets()
    yield
    left = all_tasks() - tasks
    assert not left, f"tasks are left: {dict(left)}"
    open_still = open_sockets() - sockets
    assert not open_still, f"sockets are left: {open_still}"
