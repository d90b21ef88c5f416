"""What the documentation says can be done: its programs run, its fragments and commands exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import trio_nats
import trio_nats.events
import trio_nats.testing
from tests.support.forked import forked, run_code
from tests.support.pages import PAGES, ROOT, Block, blocks
from tests.test_layers import LAYERS
from trio_nats.jetstream import Consumer, JetStream, Stream
from trio_nats.testing import NatsServer

PYTHON = [block for page in PAGES for block in blocks(page, "python")]
# What serves until it is stopped is for the tests of what it serves.
ENDLESS = re.compile(r"wait_stopped\(\)|sleep_forever\(\)")
PROGRAMS = [
    block
    for block in PYTHON
    if re.search(r"^\w+\.run\(", block.code, re.MULTILINE) and not ENDLESS.search(block.code)
]
COMMANDS = [
    (block, line)
    for page in PAGES
    for block in blocks(page, "console")
    for line in block.code.splitlines()
]

# What variables in fragments are, where their name says it.
THINGS: dict[str, type] = {
    "nc": trio_nats.Connection,
    "sub": trio_nats.Subscription,
    "jobs": trio_nats.Subscription,
    "msg": trio_nats.Msg,
    "attempt": trio_nats.ConnectAttempt,
    "server": trio_nats.Server,
    "nats_server": NatsServer,
}

JETSTREAM_THINGS: dict[str, type] = {
    "nc": trio_nats.Connection,
    "js": JetStream,
    "stream": Stream,
    "consumer": Consumer,
}
PAGE_THINGS = {"jetstream": JETSTREAM_THINGS, "consumers": JETSTREAM_THINGS}


def parsed(block: Block) -> ast.Module:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    tree = compile(block.code, str(block), "exec", flags)
    assert isinstance(tree, ast.Module)
    return tree


def test_code_blocks_are_found() -> None:
    names = {block.page.name for block in PYTHON}
    assert {"README.md", "quickstart.md", "recipes.md", "from-nats-py.md"} <= names
    assert {block.page.name for block in PROGRAMS} >= {"README.md", "quickstart.md", "anyio.md"}
    assert {block.page.name for block, _ in COMMANDS} >= {"README.md", "cli.md", "doctor.md"}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_documentation_fragments_use_existing_names(block: Block) -> None:
    """Syntax, imported names, arguments and attributes; without running what may never end."""
    faults = []
    things = PAGE_THINGS.get(block.page.stem, THINGS)
    if "trio_nats.anyio" in block.code:
        things = {"nc": pytest.importorskip("trio_nats.anyio").Connection}
    for node in ast.walk(parsed(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trio_nats"):
            module = importlib.import_module(node.module or "")
            faults += [a.name for a in node.names if not hasattr(module, a.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            thing = things.get(node.value.id)
            if thing is not None and not known_to(thing, node.attr):
                faults.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and (called := callee(node.func, things)) is not None:
            faults += wrong_arguments(node, called)
    if "import nats\n" not in block.code:
        assert faults == [], block


def known_to(thing: type, name: str) -> bool:
    return hasattr(thing, name) or name in getattr(thing, "__dataclass_fields__", ())


def callee(func: ast.expr, things: dict[str, type]) -> Callable[..., Any] | None:
    """What is called, as far as the name alone says it."""
    found: Any = None
    if isinstance(func, ast.Name):
        for module in (trio_nats, trio_nats.events, trio_nats.testing):
            found = found or getattr(module, func.id, None)
    elif isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
        found = getattr(things.get(func.value.id), func.attr, None)
    return found if callable(found) else None


def wrong_arguments(call: ast.Call, called: Callable[..., Any]) -> Iterator[str]:
    parameters = inspect.signature(called).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    for keyword in call.keywords:
        if keyword.arg not in {None, *(parameter.name for parameter in parameters)}:
            yield f"{ast.unparse(call.func)}({keyword.arg}=)"


@pytest.mark.slow
@pytest.mark.parametrize("block", PROGRAMS, ids=str)
async def test_programs_run(block: Block, nats_server: NatsServer) -> None:
    """As a reader would try them."""
    if "import nats\n" in block.code and find_spec("nats") is None:
        pytest.skip("nats-py is not installed")
    code = block.code.replace("nats://localhost:4222", nats_server.url)
    env = os.environ | {"NATS_URL": nats_server.url, "PYTHONWARNINGS": "error"}
    async with forked(run_code, code, env=env) as program:
        said = await program.rest()
        assert await program.wait() == 0, said
    assert said != ""


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=lambda part: str(part)[:60])
def test_commands_exist(block: Block, line: str) -> None:
    """Those of ``trio-nats`` have the flags that they are shown with."""
    pytest.importorskip("typer")
    from typer.main import get_command

    from trio_nats.cli.app import app

    words = shlex.split(line, comments=True)
    for start in (n for n, word in enumerate(words) if word.endswith("trio-nats")):
        name, *rest = words[start + 1 :]
        command: Any = get_command(app)
        assert name in command.commands, block
        command = command.commands[name]
        if rest and rest[0] in getattr(command, "commands", ()):
            command = command.commands[rest[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        given = {word for word in rest if re.fullmatch(r"--?[a-z].*", word)}
        assert given <= options, f"{block}: {given - options}"


def test_the_flags_of_all_commands_are_listed() -> None:
    """In the table of docs/cli.md, neither more nor fewer than there are."""
    pytest.importorskip("typer")
    from typer.main import get_command

    from trio_nats.cli.app import app

    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    table = text.partition("## Connecting")[2].partition("## ")[0]
    listed = set(re.findall(r"`(--[a-z-]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    command: Any = get_command(app)
    shared = set.intersection(*(long_names(command.commands[name]) for name in ("pub", "doctor")))
    assert listed == shared - {"--help", "--tls-first"}
    # And every command is in the other table.
    names = {name for name, one in command.commands.items() if not one.hidden}
    assert names == set(re.findall(r"^\| `([a-z]+)[ `]", text.partition("## Connecting")[0], re.M))


def long_names(command: Any) -> set[str]:
    return {opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")}


def test_the_documented_layers_are_enforced() -> None:
    """Each layer of docs/architecture.md has the modules that tests/test_layers.py knows there."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("## What imports what")[2].partition("\n### ")[0]
    table = re.findall(r"^\| [\w ]+ \| (`.*?) \|", section, re.MULTILINE)
    layers = [set(re.findall(r"`(\w+)`", cell)) for cell in table]
    assert layers == [set(components) for components in LAYERS]


def test_every_public_name_is_in_the_reference() -> None:
    """By itself, or with all of its module."""
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    named = set(re.findall(r"\.\. auto(?:class|function|data):: trio_nats\.(?:\w+\.)*(\w+)", text))
    for module in re.findall(r"\.\. automodule:: (\S+)\n(?! +:no-members:)", text):
        named |= {module.rpartition(".")[2], *importlib.import_module(module).__all__}
    assert set(trio_nats.__all__) - named == set()


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    table = (ROOT / "README.md").read_text("utf-8").partition("## Install")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)` ", table, re.M)) == set(project["optional-dependencies"])


def test_every_page_is_in_the_lists() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.stem != "index":
            assert f"\n{page.stem}\n" in index
            assert f"(docs/{page.name})" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_tests_of_the_threat_model_exist() -> None:
    """The threat model names what shows that it holds."""
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text("utf-8"))
    assert len(named) > 30
    for file, test in named:
        code = (ROOT / "tests" / file).read_text("utf-8")
        assert f"def {test}(" in code, f"{file} has no {test}"
