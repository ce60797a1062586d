"""Bringing the pages together, building the book, and making sure that it is whole."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from docutils.nodes import make_id
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml

from retrieval_heads.figures.head_explorer import SCRIPT, vega_bundle
from retrieval_heads.files import write_whole
from retrieval_heads.notebooks import NotebookError
from retrieval_heads.notebooks.check import figures, page_problems
from retrieval_heads.notebooks.data_page import data_page
from retrieval_heads.notebooks.execute import quiet_environment
from retrieval_heads.notebooks.landing import landing, paper_rows
from retrieval_heads.notebooks.layout import OTHER_STUDIES, Layout
from retrieval_heads.notebooks.links import (
    copy_linked,
    dead_links,
    mend_code_pages,
    one_deeper,
    open_alone,
    without_dead_links,
)
from retrieval_heads.notebooks.source import differences, read_source
from retrieval_heads.notebooks.status import FILE, read_status, status_page, table_digests, write_status

LINK = 'href="'


def gather_pages(layout: Layout) -> dict[str, dict[str, Any]]:
    """Make `book/chapters/` complete: what was run here, else the page of the report, else the stored outputs.

    A page that no longer agrees with its source gives way to the next.

    Returns:
        the record of each chapter.

    Raises:
        NotebookError: a chapter that was neither run nor stored since its source changed, or that is not a page.
    """
    run, stored = read_status(layout.pages), read_status(layout.sources)
    records = {}
    for chapter in layout.chapters():
        page = layout.pages / f"{chapter}.ipynb"
        if chapter in run and run[chapter]["origin"] == "run" and page.exists():
            if not _outdated(layout, chapter, page):
                _take(layout, page)
                records[chapter] = run[chapter]
                continue
            print(f"{chapter}: the source has changed since the run; taking the outputs that come with it", flush=True)
        if not report_problems(layout, chapter):
            _take(layout, layout.report / f"{chapter}.ipynb")
            records[chapter] = read_status(layout.report)[chapter] | {"origin": "report"}
            continue
        problems = stored_problems(layout, chapter)
        if problems or chapter not in stored:
            raise NotebookError(
                problems[0] if problems else f"there is no record of it in {FILE}",
                where=f"notebooks/{chapter}.ipynb", remedy="Run `make notebooks`, or `make study`.",
            )
        _take(layout, layout.sources / f"{chapter}.ipynb")
        records[chapter] = stored[chapter] | {"origin": "stored"}
    write_status(layout.pages, records)
    pages = read_pages(layout)
    profiles = [record["profile"] for record in records.values()]
    others = {study for chapter, study in OTHER_STUDIES.items() if chapter in pages}
    write_whole(layout.pages / "data.md", data_page(layout, pages, {*profiles, *others}).encode())
    write_whole(layout.pages / "status.md", status_page(layout, layout.chapters(), records).encode())
    write_whole(layout.pages / "verdicts.md", verdicts_block(layout).encode())
    if layout.tables.is_dir():
        write_whole(layout.pages / "landing.md", landing(layout, profiles).encode())
        write_whole(layout.pages / "paper_rows.md", f"{paper_rows()}\n".encode())
    return records


def read_pages(layout: Layout) -> dict[str, NotebookNode]:
    """The chapters as the book shows them, by name."""
    return {name: nbformat.read(layout.pages / f"{name}.ipynb", as_version=4) for name in layout.chapters()}


def verdicts_block(layout: Layout) -> str:
    """What the landing page takes from the chapters: the outputs of their cells tagged `verdicts`, as they are there.

    Links to other chapters are those of a page one folder above.
    """
    found = []
    for page in read_pages(layout).values():
        for cell in page.cells:
            if "verdicts" in cell.metadata.get("tags", ()):
                shown = (output.get("data", {}) for output in cell.outputs)
                found += [_landing(data) for data in shown]
    return "\n\n".join(found) + "\n"


def _landing(data: dict[str, str]) -> str:
    """One output as text of the landing page."""
    if "text/html" in data:
        return f"<div>{data['text/html'].replace(LINK, LINK + 'chapters/')}</div>"
    return data.get("text/markdown", "")


def _take(layout: Layout, source: Path) -> None:
    """Put a notebook among the pages, with links that hold there."""
    page = nbformat.read(source, as_version=4)
    if source.parent == layout.sources:
        page = one_deeper(page)
    write_whole(layout.pages / source.name, (nbformat.writes(without_dead_links(page, layout)) + "\n").encode())


def _outdated(layout: Layout, chapter: str, page: Path) -> list[str]:
    """In which cells a page differs from the chapter's source."""
    return differences(read_source(layout.sources / f"{chapter}.py"), nbformat.read(page, as_version=4))


def report_problems(layout: Layout, chapter: str) -> list[str]:
    """What is wrong with a chapter's page of the report: none there, another source, not a page, or other tables."""
    page, record = layout.report / f"{chapter}.ipynb", read_status(layout.report).get(chapter)
    if not page.exists() or record is None:
        return ["there is no page of it in the report"]
    problems = _outdated(layout, chapter, page) + page_problems(nbformat.read(page, as_version=4), layout.root)
    now, then = table_digests(layout, chapter), record["tables"]
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    return problems + ([f"the tables {', '.join(changed)} are not those it was made from"] if changed else [])


def stored_problems(layout: Layout, chapter: str) -> list[str]:
    """What is wrong with the stored outputs of a chapter; empty when they are whole and agree with the source."""
    path = layout.sources / f"{chapter}.ipynb"
    if not path.exists():
        return ["there are no stored outputs"]
    notebook = nbformat.read(path, as_version=4)
    return differences(read_source(path.with_suffix(".py")), notebook) + page_problems(notebook, layout.root)


def build_book(layout: Layout, fresh: bool = True) -> Path:
    """Build the book with every warning an error; the path of its first page.

    Args:
        layout: the checkout.
        fresh: from nothing; otherwise only what has changed since a build of this very command is read again.

    Raises:
        NotebookError: a warning of Sphinx (such as a broken reference), or a page or picture that is missing.
    """
    gather_pages(layout)
    # what an earlier build left behind would hide that a page is missing now
    for old in (layout.html, layout.html.parent / ".doctrees") if fresh else ():
        shutil.rmtree(old, ignore_errors=True)
    # jupyter_book has no __main__; by this interpreter, not by whatever `jupyter-book` comes first on PATH
    command = [
        sys.executable, "-c", "from jupyter_book.cli.main import main; main()",
        "build", str(layout.root), "-n", "-W", "--keep-going", "-q",
    ]
    done = subprocess.run(
        command, cwd=layout.root, env=quiet_environment(), capture_output=True, text=True, check=False,
    )
    log = layout.html.parent / "book.log"
    write_whole(log, (done.stdout + done.stderr).encode())
    warnings = [
        line.strip() for line in (done.stderr + done.stdout).splitlines() if "WARNING:" in line or "ERROR:" in line
    ]
    if done.returncode or warnings:
        shown = "; ".join(line.replace(f"{layout.root}/", "") for line in warnings[:5])
        raise NotebookError(
            f"the book has faults: {shown or f'jupyter-book stopped with exit code {done.returncode}'}",
            where="book", remedy=f"Mend them; all are in {log.relative_to(layout.root)}.",
        )
    copy_linked(layout)
    write_whole(layout.html / "_static" / SCRIPT, vega_bundle().encode())
    open_alone(layout)
    mend_code_pages(layout)
    missing = html_problems(layout)
    if missing:
        raise NotebookError("; ".join(missing[:5]), where="book", remedy="Mend the page, and build the book again.")
    return layout.html / "index.html"


def html_problems(layout: Layout) -> list[str]:
    """Pages of the table of contents that were not built, figures without a picture or a text for it, and dead links.

    An exit code of zero says neither: a figure whose picture was never drawn still gets its number and caption.
    """
    site = parse_toc_yaml(layout.root / "_toc.yml")
    problems = [] if (layout.html / "index.html").exists() else ["index.html was not built"]
    for name in site:
        built = layout.html / f"{name}.html"
        if not built.exists():
            problems.append(f"{name}.html was not built")
            continue
        article = BeautifulSoup(built.read_text(encoding="utf-8"), "html.parser").find("article")
        pictures = article.find_all("img") if article else []
        for picture in pictures:
            address = picture.get("src", "")
            if not address.startswith(("http:", "https:", "data:")) and not (built.parent / address).exists():
                problems.append(f"{name}: the picture {address} is missing")
            if not picture.get("alt", "").strip():
                problems.append(f"{name}: the picture {Path(address).name} has no text for those who can't see it")
        notebook = layout.root / f"{name}.ipynb"
        wanted = figures(nbformat.read(notebook, as_version=4)) if notebook.exists() else []
        for figure in wanted:
            shown = article.find(id=make_id(figure["name"])) if article else None
            if shown is None or shown.find("img") is None:
                problems.append(f"{name}: the figure `{figure['name']}` has no picture")
        problems += dead_links(layout, name)
    modules = (path.relative_to(layout.html).with_suffix("") for path in (layout.html / "_modules").rglob("*.html"))
    return problems + [problem for name in sorted(modules) for problem in dead_links(layout, str(name))]
