"""Measure the import time of a client, without its event loop's library."""

from __future__ import annotations

import importlib
import time

from .common import Job, Meter, Run, run_client


async def no_operation(job: Job, meter: Meter) -> None:
    raise AssertionError("never run")


def run_loop(run: Run, job: Job, meter: Meter) -> None:
    """``--loop BASE:MODULE``."""
    base, _, module = job.loop.partition(":")
    importlib.import_module(base)
    begun, cpu = time.perf_counter(), time.process_time()
    importlib.import_module(module)
    meter.seconds = time.perf_counter() - begun
    meter.cpu = time.process_time() - cpu
    meter.count = meter.total = 1


if __name__ == "__main__":
    run_client(run_loop, {"import_time": no_operation})
