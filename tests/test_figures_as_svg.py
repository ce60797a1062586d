"""Figures of the stored pages: SVG, small, in words, and readable on a dark page, judged by their pixels."""

from __future__ import annotations

import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.figures.style import ORDER, words

vl_convert = pytest.importorskip("vl_convert")

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "book" / "report").glob("*.ipynb"))
CODES = [name for name in ORDER if "_" in name]


def pictures(path: Path) -> dict[str, str]:
    """The SVG of each figure of a page, by name."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "figure" in cell.metadata.get("mystnb", {})]
    return {cell.metadata.mystnb.figure.name: "".join(output.data["image/svg+xml"]) for cell in cells
            for output in cell.outputs if "image/svg+xml" in output.get("data", {})}


def pixels(svg: str) -> np.ndarray:
    """`[height, width, 4]`: red, green, blue and opacity, as drawn on nothing."""
    return np.asarray(Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=1))).convert("RGBA"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_figures_have_a_white_ground_of_their_own_and_something_on_it(path):
    drawn = pictures(path)
    figures = [cell for cell in nbformat.read(path, as_version=4).cells if "figure" in cell.metadata.get("mystnb", {})]
    assert len(drawn) == len(figures), "a figure is not SVG"
    for name, svg in drawn.items():
        picture = pixels(svg).astype(int)
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (edge[:, 3] == 255).all(), f"{name}: a dark page would shine through"
        assert np.median(edge[:, :3]) == 255, f"{name}: the ground is not white"
        dark = (picture[..., :3].sum(-1) < 3 * 110).mean()
        assert dark > 0.002, f"{name}: there is hardly a dark pixel, so no text"


def test_a_dark_page_does_not_dim_figures():
    css = (ROOT / "book/_static/book.css").read_text()
    rule = re.search(r'html\[data-theme="dark"\] \.bd-article figure img.*?\}', css, re.DOTALL)[0]
    assert "filter: none !important" in rule
    assert "background-color: #fff !important" in rule


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_figures_have_words_instead_of_code_names(path):
    for name, svg in pictures(path).items():
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert not [text for text in texts if text in CODES], name


def test_every_condition_has_words_of_its_own():
    said = [words(name) for name in ORDER]
    assert len(set(said)) == len(ORDER)
    assert words("mid_low") == "mid needles, low haystack"
    assert words("mine") == "mine"
    assert not [text for text in said if "_" in text]
    assert len(CONDITIONS) + 2 == len(ORDER)
