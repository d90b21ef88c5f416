"""Settings that hold for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# Coverage and a busy machine make single examples slow: that is no bug, so there is no deadline.
settings.register_profile("dev", deadline=None)
# What fails for one person fails for the next: no luck in automated runs.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
