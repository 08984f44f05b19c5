"""Configuration of the documentation's site, which Sphinx builds from this folder.

``python -m sphinx -W --keep-going -n -q docs docs/_build/html`` builds it, without a network.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from dask_flame import __version__

project = "dask-flame"
author = "The dask-flame developers"
copyright = "2026, the dask-flame developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_click",
    "sphinx_copybutton",
    "outside_pages",
    "listed_pages",
    "own_members",
    "flame_tables",
]
exclude_patterns = ["_build", "_ext", "_static", "_templates", "pictures"]
# Warn of what a page does not find; the references of docstrings to Dask are checked by nobody, as
# the site is built without a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!dask_flame).*"),
    # For contributors, who read the code.
    (r"py:.*", r"dask_flame\.(backends\.redact|core\.kinds|core\.launch_config\.Packages)"),
    (r"py:.*", r"dask_flame\.(history\.boots|remote|scaling\.runner_index\.RunnerState)"),
]

myst_heading_anchors = 6  # the anchors of GitHub, which the pages link to
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # a page of the repository may begin anywhere

# For ``python -m sphinx -b linkcheck``, which needs a network.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)\b"]
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]  # its scripts add the anchors
linkcheck_retries = 3
linkcheck_timeout = 30

templates_path = ["_templates"]
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings say the types, with units
# Their callbacks derive from classes of packages that are large.
autodoc_mock_imports = ["lightning", "optuna", "torch", "transformers"]
autodoc_inherit_docstrings = False  # those of Dask refer to Dask's documentation
autodoc_member_order = "groupwise"
numpydoc_show_class_members = False  # autodoc shows them

html_theme = "sphinx_book_theme"
html_title = "dask-flame"
html_static_path = ["_static"]
html_css_files = ["flame.css"]
html_show_sourcelink = False
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field is above the list of pages
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
