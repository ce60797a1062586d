"""A small project with one chapter, as tests of notebooks and of the book take it."""

from __future__ import annotations

from pathlib import Path

from tools.book.layout import Layout

SOURCE = '''# %% [markdown]
# # A chapter
#
# See {numref}`fig-line`.

# %% tags=["parameters", "hide-input"]
profile = "smoke"
count = 3

# %% tags=["nbval-check-output"]
print(profile, count)

# %% mystnb={"figure": {"name": "fig-line", "caption": "A line."}, "image": {"alt": "A rising line"}}
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(2, 1))
axes.plot(range(count))
plt.show()
'''
TOC = "format: jb-book\nroot: book/index\nchapters:\n- file: book/chapters/00_line\n- file: book/chapters/status\n"
CONFIG = 'title: Test\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n'


def make_project(root: Path, source: str = SOURCE) -> Layout:
    """Write its files below a folder."""
    for folder in ("notebooks", "book", "configs"):
        (root / folder).mkdir()
    for name, text in (
        ("_toc.yml", TOC), ("_config.yml", CONFIG), ("book/index.md", "# Start\n\nSee {doc}`chapters/00_line`.\n"),
        ("notebooks/00_line.py", source), ("configs/smoke.yaml", ""), ("configs/quick.yaml", ""),
    ):
        (root / name).write_text(text)
    return Layout(root)
