"""Sphinx configuration. Nothing is fetched while building: see inventories/README.md."""

from __future__ import annotations

import builtins
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sphinx.addnodes import pending_xref
from sphinx.ext.napoleon import GoogleDocstring

import trio_nats.anyio
from tests.support.public_objects import PUBLIC_MODULES, has_public_constructor, public_objects
from trio_nats._public_modules import DEFINED_IN

project = "trio_nats"
author = "the trio_nats authors"
copyright = "the trio_nats authors"
version = release = trio_nats.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinxcontrib_trio",
]
exclude_patterns = ["_build", "inventories"]
# A reference that leads nowhere is a warning.
nitpicky = True
nitpick_ignore_regex = [
    # Parts of annotations that autodoc takes apart at a comma.
    ("py:.*", r".*\[.*|.* \| .*"),
    # A protocol for the type checker, in a field that is not documented.
    ("py:class", r".*\.message\.Responder"),
    # In a docstring of Trio's.
    ("py:class", "ReceiveChannel"),
]
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.inv"),
    "trio": ("https://trio.readthedocs.io/en/stable/", "inventories/trio.inv"),
    "anyio": ("https://anyio.readthedocs.io/en/stable/", "inventories/anyio.inv"),
    "msgspec": ("https://jcristharif.com/msgspec/", "inventories/msgspec.inv"),
}

# Autodoc reads the docstrings of attributes in the module that a class says it is from.
public_objects()
for cls, module in DEFINED_IN.items():
    cls.__module__ = module

html_theme = "furo"
html_title = f"trio_nats {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Sphinx 9 rewrote autodoc. sphinxcontrib-trio, which writes "async with open_nats(...) as nc",
# extends the one before.
autodoc_use_legacy_class_based = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# The docstrings of dict's methods begin with what looks like one.
autodoc_docstring_signature = False
autoclass_content = "class"
autodoc_default_options = {
    "members": True,
    # What the bases of Trio, anyio, msgspec and Python itself have is documented there.
    "inherited-members": (
        "ReceiveChannel, AsyncIterator, MutableMapping, Struct, Enum, str, tuple, Generic, "
        "Protocol, ObjectReceiveStream, ObjectSendStream, TypedAttributeProvider, Exception, "
        "BaseException"
    ),
}

# T, as a type checker needs it to tell what is generic.
TYPE_VARIABLE = re.compile(r"_?[A-Z](_co|_contra)?|ReceiveType|SendType")


def read_google_style(app, what, name, obj, options, lines):
    """Sections such as "Raises:". Not of attributes: of "None: ..." it would make a type "None"."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, what=what, name=name, obj=obj).lines()


def hide_constructor(app, what, name, obj, options, signature, return_annotation):
    """Of what users do not make themselves."""
    if what == "class" and not has_public_constructor(obj):
        return "", None
    return None


def look_up_exactly(app, doctree):
    """Resolve names in the module and class that they are written in.

    For annotations and the fields of docstrings, Sphinx takes any name that ends so: for ``bytes``
    also ``PendingLimits.bytes``, and for ``ConnectionLostError`` also that of another module.
    """
    for node in doctree.findall(pending_xref):
        if node.get("refdomain") == "py":
            node.attributes.pop("refspecific", None)


def find_public_name(app, env, node, contnode):
    """Let ``Msg``, ``Msg.respond`` and ``trio_nats.message.Msg`` lead to the same section."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or hasattr(builtins, target):
        return None
    # What has a base apart is for users the class that has it all.
    parts = target.replace("BaseConnection", "Connection").split(".")
    if TYPE_VARIABLE.fullmatch(parts[-1]):
        return contnode
    domain = env.domains["py"]
    for size in (2, 1):
        tail = ".".join(parts[-size:])
        names = [f"{module}.{tail}" for module in PUBLIC_MODULES]
        names += [name for name in domain.objects if name.endswith(f".{tail}")]
        # Outside of trio_nats.anyio, "ConnectionLostError" is not the one of that module.
        for name in sorted(names, key=lambda name: name.startswith("trio_nats.anyio.")):
            if name in domain.objects:
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", name, node, contnode
                )
    return None


def setup(app):
    app.connect("autodoc-process-docstring", read_google_style)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("doctree-read", look_up_exactly)
    # Before intersphinx, which would look for it in the documentation of others.
    app.connect("missing-reference", find_public_name, priority=400)
