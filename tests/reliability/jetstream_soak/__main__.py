"""JetStream under faults: ``python -m tests.reliability.jetstream_soak --seconds 600 --seed 7``.

A cluster of three servers with streams, buckets and object stores of three replicas. Servers are
killed and frozen, leaders step down, and connections, which are all encrypted, are cut, reset,
delayed, half-open or fed with garbage. Clients write and read all the time, and try again
after errors. When the faults are over:

* what was acknowledged is stored exactly once, where the acknowledgement says, and what was not, at
  most once; batches are stored completely or not at all;
* pull and push consumers have received every message, ordered ones exactly once and in order;
* counters incremented by compare-and-set have the value of the confirmed increments, plus at most
  those whose outcome is unknown; watchers end with the present values; lists of keys were complete;
* objects are whole or absent, at all times;
* replies belonged to their requests;
* neither the client nor the servers keep anything that is not needed.

The same seed makes the same faults, at about the same times.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import time

import trio

from tests.reliability.jetstream_soak.run import Settings, soak


def main() -> None:
    """Run from the command line. The exit status is 1 if there are violations."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.jetstream_soak")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--settle-timeout", type=float, default=90.0)
    parser.add_argument("--batch", type=int, default=100)
    arguments = parser.parse_args()
    settings = Settings(
        seconds=arguments.seconds,
        pause=arguments.pause,
        batch=arguments.batch,
        gap=(3.0, 8.0) if arguments.seconds >= 60 else (0.5, 3.0),
        threshold=20.0,
        settle_timeout=arguments.settle_timeout,
        expiry_timeout=300.0,
    )
    show(f"seed {arguments.seed}")
    logging.disable(logging.CRITICAL)
    faulthandler.dump_traceback_later(arguments.seconds * 2 + 600, exit=True)
    report = trio.run(soak, arguments.seed, settings, show)
    show(str(report))
    for violation in report.violations:
        show(f"VIOLATION: {violation}")
    show("no violations" if not report.violations else f"{len(report.violations)} violations")
    sys.exit(1 if report.violations else 0)


def show(text: str) -> None:
    """Print at once, also into a file."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
