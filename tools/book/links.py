"""Links from a page to files of the repository: tables of results, and logs.

A chapter runs in `notebooks/`, and its links start there: `../results/report/shortfall.csv`. A page lies one folder
deeper, in the sources of the book as in the site, which gets a copy of every linked file at the same place.
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from retrieval_heads import paths
from retrieval_heads.files import write_whole
from tools.book.layout import Layout

_FILE = re.compile(r'href="((?:\.\./)+)((?:results|runs|models)/[^"#]+)"')
_PICTURE = re.compile(r'(?<!">)(<img [^>]*src="([^"]+\.svg)"[^>]*>)')
_ALONE = r'<span class="swipe">Swipe sideways, or touch to open it →</span><a class="alone" href="\2">\1</a>'
_HEADING = re.compile(r'(?<=<th class="head"><p>)[^<]*_[^<]*(?=</p></th>)')
# a parser of HTML takes ten seconds for all pages
_ARTICLE = re.compile(r"<article\b.*?</article>", re.DOTALL)
_ADDRESS = re.compile(r'<a\b[^>]*?\shref="([^"]*)"')
_LINKED = re.compile(r'<a href="(?:\.\./)+((?:results|runs|models)/[^"#]+)"[^>]*>(.*?)</a>')


def one_deeper(page: NotebookNode) -> NotebookNode:
    """A notebook that is going to lie one folder deeper than `notebooks/`; changes and returns it."""
    for data in _shown(page):
        data["text/html"] = _FILE.sub(r'href="\1../\2"', "".join(data["text/html"]))
    return page


def without_dead_links(page: NotebookNode, layout: Layout) -> NotebookNode:
    """A page that names a file without a link where the file is not here, as after `runs/` was emptied; changes it."""
    for data in _shown(page):
        data["text/html"] = _LINKED.sub(
            lambda found: found[0] if whereabouts(layout, found[1]).is_file() else found[2], "".join(data["text/html"]))
    return page


def _shown(page: NotebookNode) -> Iterator[dict[str, Any]]:
    """What cells have put out as HTML, each with its other kinds."""
    for cell in page.cells:
        yield from (output.data for output in cell.get("outputs", ()) if "text/html" in output.get("data", {}))


def whereabouts(layout: Layout, path: str) -> Path:
    """Where a linked file is: live results may have been written elsewhere than in the checkout."""
    return (paths.home() if path.startswith("runs/") else layout.root) / path


def copy_linked(layout: Layout) -> None:
    """Give the built book a copy of every file that one of its pages links to."""
    pages = [path.read_text(encoding="utf-8") for path in (layout.html / "book").rglob("*.html")]
    for path in sorted({path for page in pages for _, path in _FILE.findall(page)}):
        source, target = whereabouts(layout, path), layout.html / path
        if source.is_file():  # `dead_links` tells the others
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def open_alone(layout: Layout) -> None:
    """Make each SVG figure of the built pages a link to itself, and let it say on a phone that it can be moved."""
    for path in (layout.html / "book").rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if (changed := _PICTURE.sub(_ALONE, page)) != page:
            write_whole(path, changed.encode())


def break_headings(layout: Layout) -> None:
    """Let the long names at the head of a table go on in a new line after an underscore, not in the midst of a word."""
    for path in (layout.html / "book").rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        changed = _HEADING.sub(lambda found: found[0].replace("_", "_<wbr>"), page)
        if changed != page:
            write_whole(path, changed.encode())


def mend_code_pages(layout: Layout) -> None:
    """Take the dead links out of the pages of source code, which Sphinx makes by guess.

    It links each name back to where its module is documented, also one that is not documented there, and lists
    `builtins`, of which there is no page.
    """
    for path in (layout.html / "_modules").rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        for address, _ in dead_links(layout, path.relative_to(layout.html).with_suffix("").as_posix()):
            page = re.sub(rf'(<li>)?<a [^>]*href="{re.escape(address)}"[^>]*>[^<]*</a>(?(1)</li>)', "", page)
        write_whole(path, page.encode())


def dead_links(layout: Layout, name: str) -> Iterator[tuple[str, str]]:
    """Links of a built page to files of the site that are not there, or to places that are not in them; what is wrong.

    Sphinx checks those in the text, and none that a cell has shown.
    """
    built = layout.html / f"{name}.html"
    article = _ARTICLE.search(built.read_text(encoding="utf-8"))
    known: dict[Path, set[str]] = {}
    for href in map(html.unescape, _ADDRESS.findall(article[0]) if article else ()):
        address, _, place = href.partition("#")
        if not address or ":" in address:
            continue
        target = (built.parent / address).resolve()
        if not target.is_file():
            yield href, f"{name}: the link to {address} leads nowhere"
        elif place and target.suffix == ".html":
            if target not in known:
                known[target] = set(re.findall(r'\bid="([^"]+)"', target.read_text(encoding="utf-8")))
            if place not in known[target]:
                yield href, f"{name}: the link to {address}#{place} leads to no such place"
