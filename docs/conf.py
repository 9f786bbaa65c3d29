"""Settings of the documentation site: ``python -m sphinx -W --keep-going -b html docs out/docs``.

Nothing is fetched while it is built, and the pages load nothing from elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import harmony  # noqa: E402 (needs the path above)

project = "HARMONY"
author = "The HARMONY authors"
copyright = "The HARMONY authors, Apache-2.0"
release = version = harmony.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_pages",
    "inline_pictures",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_ext", "_static"]
language = "en"
smartquotes = False  # -- is an option and no dash

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# The docstrings are prose with `names` in single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields are described once, in the class
add_module_names = False
python_use_unqualified_type_names = True
highlight_language = "text"  # a bare block is a terminal
pygments_style = "friendly"
pygments_dark_style = "monokai"

html_theme = "furo"
html_title = "HARMONY"
html_static_path = ["_static"]
html_css_files = ["harmony.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "source_repository": "https://github.com/harmony-autoscaler/harmony/",
    "source_branch": "main",
    "source_directory": "docs/",
    "footer_icons": [],
}
html_last_updated_fmt = None  # two builds of one version are equal

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"
copybutton_here_doc_delimiter = "EOF"
