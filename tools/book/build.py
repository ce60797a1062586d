"""Bringing the pages together, building the book, and making sure that it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from docutils.nodes import make_id
from sphinx_external_toc.parsing import parse_toc_yaml

from retrieval_heads.figures.explorers import SCRIPT, vega_bundle
from retrieval_heads.files import write_whole
from tools.book import NotebookError
from tools.book.check import figures, page_problems
from tools.book.data_page import data_page
from tools.book.kernels import run_jupyter_book
from tools.book.landing import landing, paper_rows
from tools.book.layout import (
    OTHER_STUDIES,
    REPORT_PROFILE,
    STATUS,
    Layout,
    read_status,
    status_page,
    table_digests,
    write_status,
)
from tools.book.links import (
    break_headings,
    copy_linked,
    dead_links,
    mend_code_pages,
    one_deeper,
    open_alone,
    without_dead_links,
)
from tools.book.run import differences, quiet_environment, read_source

OF_A_SMALL_RUN = "*These are the verdicts of the small run. Those of the report stand at the head of this page.*\n\n"


def gather_pages(layout: Layout) -> dict[str, dict[str, Any]]:
    """Make `book/chapters/` complete, and return the record of each chapter.

    A page is what was run here, else the page of the report, else the stored outputs; one that no longer agrees with
    its source gives way to the next.
    """
    records = {}
    for chapter in layout.chapters():
        source, records[chapter] = _best_page(layout, chapter)
        page = nbformat.read(source, as_version=4)
        page = without_dead_links(one_deeper(page) if source.parent == layout.sources else page, layout)
        write_whole(layout.pages / source.name, (nbformat.writes(page) + "\n").encode())
    write_status(layout.pages, records)
    pages = {name: nbformat.read(layout.pages / f"{name}.ipynb", as_version=4) for name in records}
    profiles = profiles_shown(records)
    others = {study for chapter, study in OTHER_STUDIES.items() if chapter in pages}
    small = any(profile != REPORT_PROFILE for profile in profiles)
    texts = {"data": data_page(layout, pages, {*profiles, *others}), "status": status_page(records),
             "verdicts": f"{OF_A_SMALL_RUN * small}{verdicts_block(layout)}"}
    if layout.tables.is_dir():
        texts |= {"landing": landing(layout, profiles), "paper_rows": f"{paper_rows()}\n"}
    for name, text in texts.items():
        write_whole(layout.pages / f"{name}.md", text.encode())
    return records


def profiles_shown(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The profiles whose results the chapters show, a page on another study not counted: it has the same in each."""
    return [record["profile"] for chapter, record in records.items() if chapter not in OTHER_STUDIES]


def _best_page(layout: Layout, chapter: str) -> tuple[Path, dict[str, Any]]:
    """The notebook that a chapter's page is made from, and its record."""
    run, stored, page = read_status(layout.pages), read_status(layout.sources), layout.pages / f"{chapter}.ipynb"
    if chapter in run and run[chapter]["origin"] == "run" and page.exists():
        if not _differs(layout, page):
            return page, run[chapter]
        print(f"{chapter}: the source has changed since the run; taking the outputs that come with it", flush=True)
    if not report_problems(layout, chapter):
        return layout.report / page.name, read_status(layout.report)[chapter] | {"origin": "report"}
    problems = stored_problems(layout, chapter)
    if problems or chapter not in stored:
        raise NotebookError(problems[0] if problems else f"there is no record of it in {STATUS}",
                            where=f"notebooks/{chapter}.ipynb", remedy="Run `make notebooks`, or `make study`.")
    return layout.sources / page.name, stored[chapter] | {"origin": "stored"}


def verdicts_block(layout: Layout) -> str:
    """What the landing page takes from the chapters: the outputs of their cells tagged `verdicts`, as they are there.

    Links to other chapters are those of a page one folder above.
    """
    found = []
    for name in layout.chapters():
        for cell in nbformat.read(layout.pages / f"{name}.ipynb", as_version=4).cells:
            for output in cell.outputs if "verdicts" in cell.metadata.get("tags", ()) else ():
                data = output.get("data", {})
                html = data.get("text/html", "").replace('href="', 'href="chapters/')
                found.append(f"<div>{html}</div>" if html else data.get("text/markdown", ""))
    return "\n\n".join(found) + "\n"


def _differs(layout: Layout, page: Path) -> list[str]:
    """In which cells a page differs from the chapter's source."""
    return differences(read_source(layout.sources / f"{page.stem}.py"), nbformat.read(page, as_version=4))


def report_problems(layout: Layout, chapter: str) -> list[str]:
    """What is wrong with a chapter's page of the report: none there, another source, not a page, or other tables."""
    page, record = layout.report / f"{chapter}.ipynb", read_status(layout.report).get(chapter)
    if not page.exists() or record is None:
        return ["there is no page of it in the report"]
    now, then = table_digests(layout, chapter), record["tables"]
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    problems = _differs(layout, page) + page_problems(nbformat.read(page, as_version=4), layout.root)
    return problems + ([f"the tables {', '.join(changed)} are not those it was made from"] if changed else [])


def stored_problems(layout: Layout, chapter: str) -> list[str]:
    """What is wrong with the stored outputs of a chapter; empty when they are whole and agree with the source."""
    path = layout.sources / f"{chapter}.ipynb"
    if not path.exists():
        return ["there are no stored outputs"]
    return _differs(layout, path) + page_problems(nbformat.read(path, as_version=4), layout.root)


def build_book(layout: Layout, fresh: bool = True) -> Path:
    """Gather the pages and build the book of them; as `build_html`."""
    gather_pages(layout)
    return build_html(layout, fresh)


def build_html(layout: Layout, fresh: bool = True) -> Path:
    """Build the book of the pages that are gathered, with every warning an error; the path of its first page.

    Args:
        layout: the checkout.
        fresh: from nothing; otherwise only what has changed since a build of this very command is read again.

    Raises:
        NotebookError: a warning of Sphinx (such as a broken reference), or a page or picture that is missing.
    """
    # what an earlier build left behind would hide that a page is missing now
    for old in (layout.html, layout.html.parent / ".doctrees") if fresh else ():
        shutil.rmtree(old, ignore_errors=True)
    log = layout.html.parent / "book.log"
    exit_code = run_jupyter_book(["build", str(layout.root), "-n", "-W", "--keep-going", "-q"], layout.root,
                                 quiet_environment(), log)
    warnings = [line.strip() for line in log.read_text(encoding="utf-8").splitlines()
                if "WARNING:" in line or "ERROR:" in line]
    if exit_code or warnings:
        shown = "; ".join(line.replace(f"{layout.root}/", "") for line in warnings[:5])
        shown = shown or f"jupyter-book stopped with exit code {exit_code}"
        raise NotebookError(f"the book has faults: {shown}", where="book",
                            remedy=f"Mend them; all are in {log.relative_to(layout.root)}.")
    copy_linked(layout)
    write_whole(layout.html / "_static" / SCRIPT, vega_bundle().encode())
    open_alone(layout)
    break_headings(layout)
    mend_code_pages(layout)
    if missing := html_problems(layout):
        raise NotebookError("; ".join(missing[:5]), where="book", remedy="Mend the page, and build the book again.")
    return layout.html / "index.html"


def html_problems(layout: Layout) -> list[str]:
    """Pages of the table of contents that were not built, figures without a picture or a text for it, and dead links.

    An exit code of zero says neither: a figure whose picture was never drawn still gets its number and caption.
    """
    problems = [] if (layout.html / "index.html").exists() else ["index.html was not built"]
    for name in parse_toc_yaml(layout.root / "_toc.yml"):
        if not (layout.html / f"{name}.html").exists():
            problems.append(f"{name}.html was not built")
            continue
        problems += [f"{name}: {problem}" for problem in _picture_problems(layout, name)]
        problems += [problem for _, problem in dead_links(layout, name)]
    modules = sorted((layout.html / "_modules").rglob("*.html"))
    names = [str(path.relative_to(layout.html).with_suffix("")) for path in modules]
    return problems + [problem for name in names for _, problem in dead_links(layout, name)]


def _picture_problems(layout: Layout, name: str) -> Iterator[str]:
    built, notebook = layout.html / f"{name}.html", layout.root / f"{name}.ipynb"
    article = BeautifulSoup(built.read_text(encoding="utf-8"), "html.parser").find("article")
    for picture in article.find_all("img") if article else ():
        address = picture.get("src", "")
        if not address.startswith(("http:", "https:", "data:")) and not (built.parent / address).exists():
            yield f"the picture {address} is missing"
        if not picture.get("alt", "").strip():
            yield f"the picture {Path(address).name} has no text for those who can't see it"
    for figure in figures(nbformat.read(notebook, as_version=4)) if notebook.exists() else ():
        shown = article.find(id=make_id(figure["name"])) if article else None
        if shown is None or shown.find("img") is None:
            yield f"the figure `{figure['name']}` has no picture"
