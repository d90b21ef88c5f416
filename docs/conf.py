"""Sphinx configuration. Nothing is fetched while building: there is no intersphinx."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sphinx.ext.napoleon import GoogleDocstring

import trio_nats.anyio
import trio_nats.errors

project = "trio_nats"
author = "the trio_nats authors"
copyright = "the trio_nats authors"
version = release = trio_nats.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinxcontrib_trio"]
exclude_patterns = ["_build"]
# Without intersphinx, references to Trio and the standard library stay plain text.
nitpicky = False

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
autoclass_content = "class"
autodoc_default_options = {
    "members": True,
    # What the bases of Trio, anyio, msgspec and Python itself have is documented there.
    "inherited-members": (
        "ReceiveChannel, AsyncIterator, MutableMapping, Struct, Enum, str, tuple, Generic, "
        "Protocol, ObjectReceiveStream, ObjectSendStream, TypedAttributeProvider, Exception, "
        "BaseException"
    ),
    # How credentials are turned into CONNECT is nobody's business but the package's.
    "exclude-members": "prepare",
}

# Users are given these, and do not make them.
GIVEN = {
    "Connection",
    "Endpoint",
    "Events",
    "Publisher",
    "Replies",
    "Service",
    "ServiceGroup",
    "ServiceRequest",
    "Services",
    "Subscription",
    "Typed",
    "TypedMsg",
    "TypedReplies",
    "TypedRequest",
    "TypedSubscription",
}


def read_google_style(app, what, name, obj, options, lines):
    """Sections such as "Raises:". Not of attributes: of "None: ..." it would make a type "None"."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, what=what, name=name, obj=obj).lines()


def hide_constructor(app, what, name, obj, options, signature, return_annotation):
    """Of what users do not make themselves."""
    if what == "class" and name.rpartition(".")[2] in GIVEN:
        return "", None
    return None


def find_error(app, env, node, contnode):
    """Let ``NatsError`` and ``trio_nats.NatsError`` lead to that section, wherever they stand."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in trio_nats.errors.__all__:
        return None
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, "obj", f"trio_nats.errors.{name}", node, contnode
    )


def setup(app):
    app.connect("autodoc-process-docstring", read_google_style)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("missing-reference", find_error)
