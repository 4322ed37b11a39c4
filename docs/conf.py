"""Sphinx: ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import bzzz  # noqa: E402 - found by the path above

project = "Bzzz"
author = "the Bzzz contributors"
copyright = author
version = release = bzzz.__version__

extensions = ["generate_reference"]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "alabaster"
html_theme_options = {
    "description": "One encrypted mesh of the machines you already own",
    "fixed_sidebar": True,
    "page_width": "70em",
}
html_static_path = []
html_show_sphinx = False
html_copy_source = False
