"""The page of the book that leads from a figure to its rows, to the rows those follow from, and to the command."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from nbformat import NotebookNode

from retrieval_heads.errors import ResultError
from retrieval_heads.figures.page import table_file
from retrieval_heads.figures.verdicts import anchor
from retrieval_heads.manifest import read_manifest
from retrieval_heads.tables import all_tables
from tools.book.layout import Layout, duration
from tools.book.links import whereabouts

_ADAPTERS = "the adapters that `finetune` makes, and held-out real examples"
_ANSWERS, _PREDICTORS, _HITS = ("answers",), ("run_predictors",), ("head_hits", "head_scores")
MADE_FROM: dict[str, tuple[str, ...] | str] = {
    "pilot": "the pretrained model and real examples of the development split",
    "base": "the base models and real examples", "base_answers": "the base models and real examples",
    "examples": "the generators of `retrieval_heads.data`",
    "training": "the base models and training examples", "losses": "the base models and training examples",
    "performance": _ADAPTERS, "answers": _ADAPTERS, "lengths": _ADAPTERS, "head_scores": _ADAPTERS,
    "probe_loss": _ADAPTERS, "text_loss": f"{_ADAPTERS}, and plain text",
    "knockout": _ADAPTERS, "knockout_effects": _ADAPTERS, "knockout_area": _ADAPTERS, "patching": _ADAPTERS,
    "head_hits": _ADAPTERS, "knockout_losses": _ADAPTERS, "patching_losses": _ADAPTERS,
    "shortfall": _ANSWERS, "overlap": ("head_scores",), "controls": ("knockout", "text_loss"),
    "mean_shortfall": _ANSWERS, "training_gain": (*_ANSWERS, "base_answers"), "axis_effects": _ANSWERS,
    "size_effects": _ANSWERS, "necessity": ("knockout", "knockout_area"), "specificity": ("knockout", "text_loss"),
    "sufficiency": ("patching",), "sufficiency_equal": ("patching",), "sufficiency_against": ("patching",),
    "subsets": ("head_scores",), "strengths": ("head_scores",), "base_share": ("head_scores",),
    "base_alike": ("head_scores",),
    "run_predictors": ("head_scores", *_ANSWERS, "training", "probe_loss", "examples"),
    "correlation_runs": (*_PREDICTORS, "head_scores"), "prediction_errors": _PREDICTORS, "choice": _PREDICTORS,
    "spread": _PREDICTORS,
    "contrasts": (*_ANSWERS, "base_answers"), "strength_agreement": _HITS,
    "set_points": (*_HITS, *_ANSWERS, "probe_loss"), "set_correlation": ("set_points",),
    "loss_effects": ("knockout_losses", "patching_losses"),
    "checks": (*_ANSWERS, "base_answers", *_HITS, "knockout_losses"),
    "verdicts": ("shortfall", "mean_shortfall", "training_gain", "axis_effects", "subsets", "correlation_runs",
                 "necessity", "sufficiency", "prediction_errors", "choice", "base_alike", "spread"),
}
"""The tables that the rows of each table follow from; of rows that models make, what goes into those."""

HEAD = """# The data behind the figures

Every figure has a line below it that names the table it is drawn from. Here is what each table was made from, and by
which command, down to the rows that the models themselves have made. A verdict is followed in this way: its row on the
first page leads to the figure and the table; the table's section leads to the rows, to the tables that those follow
from, and to the command. What the columns mean is in {doc}`../reference/tables`; `NAME.json` says which settings,
versions and devices made the rows, and holds their checksum.

All tables of a profile are made by one command, `python -m retrieval_heads grid --profile PROFILE`; the commands below
make one stage, with what it needs. Times are summed over runs, several of which may run at once. Packed tables
(`.csv.gz`) are read by `pandas.read_csv` as they are.
"""

BENCHMARKS = """(made-benchmarks)=
## Measurements at full size

The tables of {doc}`08_costs`. That page has the commands; the columns are in `results/benchmarks/README.md`.
"""

_SECTION = re.compile(r'href="data\.html#(made-[a-z-]+)"')


def data_page(layout: Layout, pages: Mapping[str, NotebookNode], profiles: Iterable[str]) -> str:
    """The page as MyST Markdown, beside the chapters `pages`; of several profiles, the files of all are listed."""
    figures, profiles, lines = figures_of(pages), sorted(set(profiles)), [HEAD]
    there = {name: [line for profile in profiles for line in _files(layout, profile, name)] for name in all_tables()}
    for name in (name for name, files in there.items() if files):
        label, sources = anchor(profiles[0], name), MADE_FROM[name]
        if not isinstance(sources, str):
            sources = ", ".join(f"{{ref}}`{one} <{anchor('', one)}>`" if there[one] else f"`{one}` (not there yet)"
                                for one in sources)
        shown = ", ".join(f"{{numref}}`{figure}`" for figure in figures.get(label, ()))
        lines += [f"({label})=", f"## {name}", "", f"One row: {all_tables()[name].row}.", "", *there[name],
                  f"- Made from: {sources}", *([f"- Drawn in: {shown}"] if shown else ()),
                  f"- {{ref}}`Columns <table-{name.replace('_', '-')}>`", ""]
    return "\n".join([*lines, BENCHMARKS])


def figures_of(pages: Mapping[str, NotebookNode]) -> dict[str, list[str]]:
    """The names of the figures below which a section of the page is linked, by the label of the section."""
    found: dict[str, list[str]] = defaultdict(list)
    for page in pages.values():
        name = None
        for cell in page.cells:
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", name)
            for output in cell.get("outputs", ()) if name else ():
                text = "".join(output.get("data", {}).get("text/html", ""))
                for label in _SECTION.findall(text) if "figure-data" in text else ():
                    found[label].append(name)
    return dict(found)


def _files(layout: Layout, profile: str, table: str) -> Iterator[str]:
    """The rows and the manifest of a table of one profile, and the command; nothing where there is no such table."""
    try:
        path = table_file(profile, table)
    except ResultError:
        return
    manifest = f"{path.rpartition('/')[0]}/{table}.json"
    made = read_manifest(whereabouts(layout, manifest))
    if made is None or not whereabouts(layout, path).is_file():
        return
    # links as HTML, since Sphinx would put the files where no cell could link to them
    rows, facts = (f'<a href="../../{one}" download><code>{one.rpartition("/")[2]}</code></a>'
                   for one in (path, manifest))
    time = f", {duration(made['seconds'])} on {made['device']}" if made["seconds"] >= 1 else ""
    yield f"- Rows: {rows} ({made['rows']:,} rows, profile `{profile}`), {facts}"
    yield f"- Made by: `{all_tables()[table].command(profile)}`{time}"
