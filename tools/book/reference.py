"""The reference pages of the book, as an extension of Sphinx: made from the code each time that the book is built.

- `verb NAME`: a directive that shows a verb of the command line, as its parser is.
- `dictionary WHOSE`: a directive that shows the data dictionary of the study's tables or of those that a verb writes.
- `columns OBJECT`: a directive that shows what the columns mean that an object (`package.module.NAME`) names.
- Single backticks in docstrings: a name becomes a link where these pages have it, all else is code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pkgutil import resolve_name
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

from retrieval_heads.cli import parsers
from retrieval_heads.tables import Table, all_tables, verb_tables

WIDTH = 79
"""Characters of a line of usage: what fits a page."""

_SPECIAL = re.compile(r"([\\*_{}\[\]<>#|$~^])")
_LITERAL = re.compile(r"(`[^`]+`|\{\".*?\}|--[a-z][a-z0-9-]*|book/\w+\.md|\b[A-Za-z_]+\.(?:csv|json|html|jsonl\.gz)\b)")
_PAGE = re.compile(r"(book/\w+)\.md")
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_LINKED = ("function", "class", "exception", "data")


def directive(text: Callable[[str], Iterable[str]], headings: bool = False) -> type[SphinxDirective]:
    """A directive that stands for the MyST Markdown that `text` makes of its one argument."""
    class Made(SphinxDirective):
        required_arguments = 1

        def run(self) -> list[nodes.Node]:
            return self.parse_text_to_nodes("\n".join(text(self.arguments[0])), allow_section_headings=headings)

    return Made


def dictionary_text(whose: str) -> Iterator[str]:
    """One section a table: what a row is, and a table of its columns."""
    for table in (all_tables() if whose == "study" else verb_tables()[whose]).values():
        yield from table_text(whose, table)


def columns_text(name: str) -> Iterable[str]:
    """A table of column names and their meanings."""
    return _table("| column | meaning |", [f"| `{column}` | {_inline(meaning)} |"
                                           for column, meaning in resolve_name(name).items()])


def verb_text(name: str) -> Iterator[str]:
    """A verb as MyST Markdown."""
    parser, verbs = parsers()
    verb = verbs[name]
    [listed] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    [summary] = [action.help for action in listed._choices_actions if action.dest == name]
    yield from (f"{summary[:1].upper()}{_inline(summary[1:])}.", "")
    yield from _prose(verb.description)
    formatter = argparse.HelpFormatter(verb.prog, width=WIDTH)
    formatter.add_usage(verb.usage, verb._actions, verb._mutually_exclusive_groups, prefix="")
    yield from _block(formatter.format_help())
    yield from (f":::{{program}} {name}", ":::", "")
    for action in verb._actions:
        if not isinstance(action, argparse._HelpAction):
            yield from (f":::{{option}} {_signature(action)}", _explained(action), ":::", "")
    yield from _prose(verb.epilog)


def _signature(action: argparse.Action) -> str:
    """The names of an argument with what follows each."""
    shown = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    shown = " ".join(shown) if isinstance(shown, tuple) else shown
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    repeated = f"{shown} [{shown} ...]" if action.nargs == "+" else shown
    return ", ".join(f"{name} {repeated}" for name in action.option_strings) or repeated


def _explained(action: argparse.Action) -> str:
    """The help of an argument; whether it is needed, and its default, where the help does not say so."""
    text = _inline(action.help)
    if action.required and action.option_strings:
        return f"**required**: {text}"
    told = "default" in text or f"({action.default})" in text
    if action.default in (None, False, "") or action.default == [] or told or action.default is argparse.SUPPRESS:
        return text
    value = action.default if isinstance(action.default, str | int | float) else " ".join(map(str, action.default))
    return f"{text} (default {value})"


def table_text(whose: str, table: Table) -> Iterator[str]:
    """A table of the data dictionary as MyST Markdown, with a label for links: `table-NAME`, or `VERB-table-NAME`."""
    label = f"table-{table.name}" if whose == "study" else f"{whose}-table-{table.name}"
    yield from (f"({label.replace('_', '-')})=", f"### `{table.name}`", "", f"One row: {_inline(table.row)}.", "")
    rows = []
    for column in table.columns:
        unit = f", {column.unit}" if column.unit else ""
        may = [f", may be {what}" for what in ("empty", "absent") if getattr(column, what)]
        kind = column.type + unit + "".join(may) + (", **key**" if column.key else "")
        rows.append(f"| `{column.name}` | {kind} | {_inline(column.meaning)} |")
    yield from _table("| column | type | meaning |", rows)


def _table(head: str, rows: Sequence[str]) -> Sequence[str]:
    """A table that the style sheet sets in another way on a phone."""
    return (":::{table}", ":class: dictionary", "", head, "|---" * (head.count("|") - 1) + "|", *rows, ":::", "")


def _prose(text: str | None) -> Sequence[str]:
    """A description: several lines stand as they are."""
    return () if not text else _block(text) if "\n" in text else (_inline(text), "")


def _block(text: str) -> Sequence[str]:
    return ("```text", *text.strip("\n").splitlines(), "```", "")


def _inline(text: str) -> str:
    """Text of a help or dictionary as Markdown: options, files and JSON as code, all else letter for letter."""
    parts = _LITERAL.split(text)
    return "".join(_code(part) if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def _code(part: str) -> str:
    if page := _PAGE.fullmatch(part):
        return f"{{doc}}`/{page[1]}`"
    return part if part.startswith("`") else f"`{part}`"


def name_or_code(
    name: str, rawtext: str, text: str, line: int, inliner: Inliner, options: Any = None, content: Any = (),
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The role of single backticks."""
    if not _NAME.fullmatch(text):
        return [nodes.literal(rawtext, text)], []
    link = inliner.document.settings.env.get_domain("py").role("obj")
    return link(name, rawtext, text, line, inliner, options or {}, content)


def without_factories(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """A signature that can be read where a dataclass makes a default anew."""
    return signature and signature.replace("<factory>", "..."), returns


def link_bare_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.Element) -> nodes.Node | None:
    """The link of a name in a docstring that has no module before it, where it is the name of one thing alone."""
    if node.get("refdomain") != "py" or not str(node["reftarget"]).isidentifier():
        return None
    domain: Any = env.get_domain("py")
    found = {
        (entry.docname, entry.node_id): full for full, entry in domain.objects.items()
        if full.rpartition(".")[2] == node["reftarget"] and entry.objtype in _LINKED and not entry.aliased
    }
    if len(found) != 1:
        return None
    [((docname, place), full)] = found.items()
    return make_refnode(app.builder, node["refdoc"], docname, place, shown, full)


def without_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: object) -> None:
    """Leave out scripts that would run code in the page: none does, and declared twice they are an error on each."""
    files = context["script_files"]
    files[:] = [script for script in files if "thebe" not in f"{script.filename} {script.attributes}".lower()]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("verb", directive(verb_text))
    app.add_directive("dictionary", directive(dictionary_text, headings=True))
    app.add_directive("columns", directive(columns_text))
    app.add_role("name-or-code", name_or_code)
    app.connect("autodoc-process-signature", without_factories)
    app.connect("missing-reference", link_bare_name)
    app.connect("html-page-context", without_thebe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
