"""The site's own parts of Sphinx: directives for `sources.py`, the reference, and links by name.

Directives: `results` shows columns and rows of a kept benchmark, `kept` all of them, `printed` what
a cell of a notebook printed; `models` the model zoo, `distances` the table of a card, `card` and
`model-cards` whole cards; `schema` a table of `setflow.schema`, `allowed` the classes that a file
may name, `command` the help of a command; `picture` runs a script, and `api` documents names.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import sources
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sources import resolve
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import setflow

# --- directives ---


class MarkdownDirective(SphinxDirective):
    """A directive whose content is the Markdown that a function returns."""

    optional_arguments = 1
    final_argument_whitespace = True
    make: ClassVar[Callable[..., str]]

    def run(self) -> list[nodes.Node]:
        try:
            text = type(self).make(*self.arguments, **self.options)
        except (ValueError, OSError, AttributeError) as error:
            raise self.error(str(error)) from error
        return parsed(self, text)


def parsed(directive: SphinxDirective, text: str) -> list[nodes.Node]:
    """Return the nodes of a Markdown text at the place of a directive."""
    source, _ = directive.get_source_info()
    place = nodes.Element()
    lines = StringList(text.splitlines(), source=source)
    directive.state.nested_parse(lines, directive.content_offset, place, match_titles=True)
    return place.children


def markdown_directive(make: Callable[..., str], *options: str) -> type[SphinxDirective]:
    """Return a directive for a function whose argument is the directive's."""
    spec = dict.fromkeys(options, directives.unchanged)
    content = {"make": staticmethod(make), "option_spec": spec}
    return type(make.__name__, (MarkdownDirective,), content)


class Api(SphinxDirective):
    """Documents the names of its content, one a line: a table of them, then each in full."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        names = [line.strip() for line in self.content if line.strip()]
        lines = ["```{eval-rst}"]
        for name in names:
            try:
                lines += [*_documented(name), ""]
            except (AttributeError, ImportError) as error:
                raise self.error(f"{name} is not there: {error}") from error
        return parsed(self, "\n".join([*lines, "```"]))


def _documented(name: str) -> list[str]:
    thing = resolve(name)
    if inspect.ismodule(thing):
        return [f".. automodule:: {name}", "   :no-members:"]
    if inspect.isclass(thing):
        return [f".. autoclass:: {name}"]
    if inspect.isroutine(thing):
        return [f".. autofunction:: {name}"]
    return [f".. autodata:: {name}", "   :no-value:"]


# --- names in docstrings ---


def name_role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None,
    content: Any = (),
) -> tuple[list[nodes.Node], list[nodes.system_message]]:  # fmt: skip
    """Show `text` as code, and as a link if it is a name that the reference documents."""
    literal = nodes.literal(rawtext, text.replace("\x00", "\\"), classes=["xref"])
    if not re.fullmatch(r"[A-Za-z_][\w.]*(?:\(\))?", text):
        return [literal], []
    env = inliner.document.settings.env
    link = optional_link(literal, env.current_document.docname)
    link["py:class"] = env.ref_context.get("py:class")
    return [link], []


def optional_link(literal: nodes.literal, docname: str) -> pending_xref:
    """Return a link to what a piece of code names, which stays code if the reference lacks it."""
    target = literal.astext().removesuffix("()")
    link = pending_xref(
        literal.rawsource, literal, refdomain="py", reftype="obj", reftarget=target, refdoc=docname,
        refexplicit=False, refwarn=False, optional=True,
    )  # fmt: skip
    link["py:module"] = "setflow"
    return link


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Link the names of the package in the text of pages: `RK4`, `setflow.data.read_jets`."""
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        inside = isinstance(literal.parent, nodes.reference | nodes.title | pending_xref)
        public = text.removeprefix("setflow.").partition("(")[0].partition(".")[0]
        named = public in setflow.__all__ or text.startswith("setflow.")
        if named and not inside and re.fullmatch(r"[\w.]+(?:\(\))?", text):
            literal.replace_self(optional_link(literal.deepcopy(), app.env.docname))


def find_public_name(
    app: Sphinx, env: Any, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Link a name to where the reference has it, though it is asked for where it is defined.

    A name in a docstring that the reference does not know stands without a link.
    """
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    target, optional = node["reftarget"], node.get("optional")
    # a docstring says what it means; a type says where it is defined
    name = target.removeprefix("setflow.") if optional else target.rpartition(".")[2]
    found = domain.find_obj(env, None, None, name, None, 1)
    found = [(full, entry) for full, entry in found if not entry.aliased]
    if len(found) == 1:
        (full, entry), doc = found[0], node["refdoc"]
        return make_refnode(app.builder, doc, entry.docname, entry.node_id, contnode, full)
    return contnode if optional else None


def show_one_signature(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Show what a function takes once, and not each of its overloads."""
    module = getattr(obj, "__module__", None) or ""
    if module.startswith("setflow"):
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        analyzer.overloads.clear()


def skip_words_of_others(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out members whose only words are inherited from torch, Lightning or Python."""
    function = getattr(obj, "fget", obj)
    if name.startswith("_") or not inspect.isfunction(function) or function.__doc__:
        return None
    owner = resolve(f"{function.__module__}.{function.__qualname__}".rpartition(".")[0])
    for base in owner.__mro__[1:]:
        if getattr(vars(base).get(name), "__doc__", None):
            return None if base.__module__.startswith("setflow") else True
    return None


def show_own_bases(app: Sphinx, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Leave out the bases that say nothing of what a class is for."""
    bases[:] = [base for base in bases if base not in (ABC, object, tuple, Protocol)]


def keep_sentences(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Undo that napoleon takes the words before a colon for the type of an attribute."""
    kind = lines[-1].removeprefix(":type: ") if lines else ""
    if what in ("attribute", "property", "data") and lines and lines[-1] != kind:
        lines[:] = [f"{kind}: {lines[0]}", *lines[1:-1]]


def link_notebook_sections(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turn Jupyter's links to the headings of a notebook, `#1.-A-title`, into those of the site."""
    if docname.startswith("notebooks/"):
        source[0] = re.sub(
            r"\]\(#([^)\s]+)\)",
            lambda match: "](#" + re.sub(r"[^\w-]", "", match[1].lower()) + ")",
            source[0],
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of it."""
    for name, make, options in (
        ("results", sources.results, ("columns", "titles", "rows")),
        ("kept", sources.kept, ()),
        ("printed", sources.printed, ("line",)),
        ("picture", sources.picture, ("alt",)),
        ("distances", sources.distances_of, ()),
        ("models", sources.model_table, ()),
        ("model-cards", sources.model_cards, ()),
        ("card", sources.card, ()),
        ("schema", sources.schema_table, ()),
        ("allowed", sources.allowed_classes, ()),
        ("command", sources.help_of, ()),
        ("folded-command", sources.folded_help_of, ()),
    ):
        app.add_directive(name, markdown_directive(make, *options))
    app.add_directive("api", Api)
    app.add_role("name", name_role)
    app.connect("missing-reference", find_public_name)
    app.connect("autodoc-before-process-signature", show_one_signature)
    app.connect("autodoc-skip-member", skip_words_of_others)
    app.connect("autodoc-process-bases", show_own_bases)
    app.connect("autodoc-process-docstring", keep_sentences, priority=900)  # behind napoleon
    app.connect("source-read", link_notebook_sections)
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
