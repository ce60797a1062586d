"""Colours, markers and the SVG of stored pages: each look once, told apart by bad eyes, readable on a dark page."""

from __future__ import annotations

import io
import itertools
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from retrieval_heads.data.conditions import CONDITIONS
from retrieval_heads.figures.style import ORDER, colour, in_order, marker, words

SIZES = {name: one.members[0] for name, one in CONDITIONS.items() if one.sized}
"""Other numbers of examples, which look like the condition itself."""
SEVEN = {
    "real": "#0173b2", "real_limited": "#de8f05", "high_high": "#029e73", "high_low": "#d55e00",
    "low_high": "#cc78bc", "low_low": "#ca9161", "symbolic": "#56b4e9",
}
# linear RGB as dichromats see it: Machado et al. 2009, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, severity 1
SIGHT = {
    "full": np.eye(3),
    "without red": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "without green": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(tone: str, sight: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as it is seen."""
    rgb = np.array(to_rgb(tone))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(sight @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_can_be_told_apart_most_of_all_those_with_the_same_marker(sight: str) -> None:
    told_apart = [name for name in ORDER if name not in CONDITIONS or not CONDITIONS[name].sized]
    for one, other in itertools.combinations(told_apart, 2):
        distance = np.linalg.norm(lab(colour(one), SIGHT[sight]) - lab(colour(other), SIGHT[sight]))
        assert distance > (25 if marker(one) == marker(other) else 10), (one, other)


def test_every_condition_has_a_colour_that_shows_on_white() -> None:
    for name in ORDER:
        assert colour(name) != colour("unknown")
        assert lab(colour(name), SIGHT["full"])[0] < 80
        assert marker(name) != marker("unknown")


def test_another_number_of_examples_looks_like_the_condition_itself() -> None:
    assert len(SIZES) == 6
    for name, member in SIZES.items():
        assert (colour(name), marker(name)) == (colour(member), marker(member))


def test_the_first_seven_keep_their_colours_and_have_markers_of_their_own() -> None:
    assert {name: colour(name) for name in SEVEN} == SEVEN
    assert len({marker(name) for name in ("base", *SEVEN)}) == 8


def test_from_more_to_less_real_then_mixtures_then_controls() -> None:
    assert in_order(["real_short", "low_low", "mid_mid", "high_high-symbolic", "real", "base", "symbolic", "mine"]) == [
        "base", "real", "mid_mid", "low_low", "symbolic", "high_high-symbolic", "real_short", "mine",
    ]
    assert in_order(reversed(CONDITIONS)) == list(CONDITIONS)
    assert in_order(reversed(SEVEN)) == list(SEVEN)


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
    vl_convert = pytest.importorskip("vl_convert")
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
