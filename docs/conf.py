"""Configuration of the documentation: `make docs` builds it, with warnings as errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "docs/pictures")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from style import STYLE  # noqa: E402

import setflow  # noqa: E402

project = "setflow"
author = "The setflow developers"
project_copyright = "the setflow developers, MIT licence"
release = version = setflow.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "matplotlib.sphinxext.plot_directive",
    "myst_nb",
    "sphinx-mathjax-offline",  # the scripts of MathJax, so that formulas need no network
    "extension",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "pictures"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

# pages
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "off"  # notebooks are kept with their outputs
nb_mime_priority_overrides = [("html", "image/gif", 15)]
nb_merge_streams = True

# pictures, drawn when the site is built
plot_formats = [("png", 100)]
plot_html_show_formats = plot_html_show_source_link = False
plot_basedir = str(ROOT / "docs")
plot_rcparams, plot_apply_rcparams = STYLE, True

# the reference
default_role = "name"  # of extension.py: `name` is a link where the reference knows it
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_use_type_comments = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
toc_object_entries_show_parents = "hide"
nitpicky = True
nitpick_ignore_regex = [
    # types of others
    (r"py:.*", r"(torch|torch_geometric|numpy|matplotlib|collections|pathlib|typing)\..*"),
    (r"py:.*", r"(lightning|h5py|rich)\..*"),
    (r"py:.*", r"(Tensor|Array|abc\.ABC|os\.PathLike|types\.TracebackType)"),
    # what stands behind the public names: the resolved events, and bases without users
    (r"py:.*", r"setflow\.(sets\.events\.Events|random\.EventSeeds|process\.Process)"),
    (r"py:.*", r"setflow\.(divergence\.base\.Planned\w+|diffusion\.schedule\.BoundedSchedule)"),
    (r"py:.*", r"setflow\.(training\.processes\.PlacedBatch|model\.statistics\.SampleStatistics)"),
    (r"py:.*", r"setflow\.distributions\.frequencies\.Frequencies"),
    (r"py:.*", r"setflow\.(fitted\.Fitted|model\.saved\.SavedModel|data\.moments\.Moments)"),
    (r"py:.*", r"setflow\.(solvers\.fixed\.TimeGrid|sets\.planning\.Plan|data\.writing\.Writer)"),
    (r"py:.*", r"setflow\.training\.(signals\.StopSignals|checkpoints\.BestModel)"),
    (r"py:.*", r"setflow\.(physics\.metrics\.Measured|data\.sample\.Described|opened\.Opened)"),
    (r"py:.*", r"setflow\.sets\.angles\.Circles"),
]

# how it looks
html_theme = "furo"
html_title = f"setflow {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
pygments_style = "default"

# make linkcheck
linkcheck_timeout = 20
linkcheck_retries = 2
