"""Sphinx's settings for the site. `make site` stages its pages first: see tft_utils/course/site.py."""

import os

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

project = html_title = "Transfer from Transformers"
author = "The Transfer from Transformers authors"
project_copyright = author
language = "en"
root_doc = "index"
extensions = ["myst_nb", "sphinxcontrib.bibtex"]
highlight_language = "text"
bibtex_bibfiles = ["references.bib"]

# Notebooks are shown as they were committed: nothing runs here.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_baseurl = os.environ["TFT_SITE"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_sphinx = False
html_domain_indices = False
html_theme_options = {"source_repository": os.environ["TFT_REPOSITORY"], "footer_icons": []}
add_module_names = False
toc_object_entries = False


def _math(translator, node, block: bool):
    """A formula as MathML, which browsers draw themselves: no script, no font, no request."""
    try:
        translator.body.append(tex2mathml(node.astext(), as_block=block))
    except MathError as error:
        said = f"expected a formula that docutils reads, found {node.astext()!r}: {error}"
        raise ExtensionError(said) from error
    raise SkipNode


def _repaired(app, page, template, context, doctree):
    """Roles that Sphinx and docutils leave half said, which axe-core calls serious."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
    context["body"] = context.get("body", "").replace('<div role="list" ', "<div ")


def setup(app):
    app.connect("html-page-context", _repaired, priority=900)  # after the theme has said its own
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: _math(self, node, block=False), None),
        block_renderers=(lambda self, node: _math(self, node, block=True), None),
    )


html_math_renderer = "mathml"
