"""Sphinx configuration. Nothing is fetched while building: there is no intersphinx."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio_nats.errors

project = "trio_nats"
author = "the trio_nats authors"
copyright = "the trio_nats authors"
version = release = trio_nats.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]
exclude_patterns = ["_build"]
# Without intersphinx, references to Trio and the standard library stay plain text.
nitpicky = False

html_theme = "furo"
html_title = f"trio_nats {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Sphinx 9 rewrote autodoc. sphinxcontrib-trio, which writes "async with open_nats(...)", extends
# the one before.
autodoc_use_legacy_class_based = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autoclass_content = "class"


def skip_member(app, what, name, obj, skip, options):
    """Errors are documented once, in their own section, though ``trio_nats`` exports them too."""
    if what == "module" and app.env.temp_data.get("autodoc:module") == "trio_nats":
        return getattr(obj, "__module__", None) == "trio_nats.errors" or None
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
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", find_error)
