"""What comes from data is shown in reports, figures and lines of text, and never run."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from tiny_study import save_tiny_base

from retrieval_heads.cli import main
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.figures.page import example_html, folded_examples, folded_table
from retrieval_heads.figures.style import use_style

EVIL = '"\'></td><script>alert(1)</script><svg onload=alert(2)><x-evil onclick=alert(3) href="javascript:4">'
ELEMENTS = {"script", "svg", "x-evil", "iframe", "object", "link", "a"}


class Page(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attributes}
        assert not any(value and value.strip().startswith("javascript") for _, value in attributes)

    def handle_data(self, data):
        self.text += data


def assert_shown(text: str, times: int = 1) -> None:
    page = Page(text)
    assert not page.elements & ELEMENTS
    assert not [name for name in page.attributes if name.startswith("on")]
    assert page.text.count(EVIL) >= times


def test_a_report_shows_what_prompts_answers_predictions_and_folders_hold(tmp_path: Path):
    name = "<svg onload=alert(5)>"  # a folder's name has no slash
    base = save_tiny_base(tmp_path / name)
    made = make_examples(task="mdqa", condition="real", length=200, n=4, seed=0)
    made = [replace(one, task=name, prompt=f"{one.prompt} {EVIL} Answer:", answer=EVIL, answers=(EVIL,))
            for one in made]
    write_examples(tmp_path / "a.jsonl", made[:1])
    write_examples(tmp_path / "eval.jsonl", made)
    out = tmp_path / "out"
    command = ["diagnose", "--model", str(base), "--train", f"a={tmp_path / 'a.jsonl'}", "--eval",
               str(tmp_path / "eval.jsonl"), "--epochs", "1", "--draws", "1", "--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    for path in out.glob("measured/*.json"):
        content = json.loads(path.read_text())
        for row in content["answers"]:
            row["prediction"] = EVIL
        path.write_text(json.dumps(content))
    (out / "report.html").unlink()
    assert main(command) == 0
    text = (out / "report.html").read_text()
    assert_shown(text, times=8)  # prompt, answer and two predictions of each of two examples
    assert name in html.unescape(text)


def test_examples_and_tables_of_chapters():
    one = make_examples(task="mdqa", condition="real", length=300, n=1, seed=0)[0]
    start, end = one.needles[0]
    prompt = f"{one.prompt[:start]}{EVIL}{one.prompt[start:end]}{EVIL}{one.prompt[end:-8]}{EVIL}{one.prompt[-8:]}"
    evil = replace(one, prompt=prompt, answer=EVIL, answers=(EVIL,), needles=((start, end + 2 * len(EVIL)),))
    assert_shown(example_html(evil, longest=5000), times=3)
    assert_shown(folded_examples({EVIL: evil}), times=2)
    assert_shown(folded_table(EVIL, pd.DataFrame({EVIL: [EVIL]})), times=3)


def test_names_in_figures_are_text_and_no_formulas():
    """matplotlib would read what stands between dollars as mathematics, and fail where it is none."""
    name = r"$\frac{$ <b> ${}^{"
    use_style()
    axis = plt.figure().add_subplot()
    axis.set_title(name)
    axis.plot([0, 1], label=name)
    axis.legend()
    axis.figure.canvas.draw()
    assert axis.get_legend().get_texts()[0].get_text() == name


@pytest.mark.parametrize("task", ["a\x1b[31mred", "a\x07bell", "a\rback"])
def test_control_characters_do_not_reach_the_terminal(task: str, tmp_path: Path, capsys):
    save_tiny_base(tmp_path / "base")
    one = make_examples(task="mdqa", condition="real", length=200, n=1, seed=0)[0]
    write_examples(tmp_path / "a.jsonl", [replace(one, task=task)])
    capsys.readouterr()  # the bar of transformers
    assert main(["check", str(tmp_path / "a.jsonl"), "--model", str(tmp_path / "base")]) == 0
    assert main(["check", str(tmp_path / f"{task}.jsonl"), "--model", str(tmp_path / "base")]) == 2
    out, err = capsys.readouterr()
    assert not [character for character in out + err if not character.isprintable() and character != "\n"]
    assert "\\x" in out or "\\r" in out
