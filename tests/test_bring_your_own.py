"""The shipped example of files that somebody would bring, and what the chapter draws and says of their diagnosis."""

from __future__ import annotations

import importlib.util
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

from retrieval_heads.check import check_files
from retrieval_heads.check.shortcuts import PARTS
from retrieval_heads.data.example import Example
from retrieval_heads.data.jsonl import read_examples
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.figures import diagnosis

FOLDER = Path(__file__).parents[1] / "examples" / "bring_your_own"
NAMES = ("anywhere", "at_end", "real_train", "real_eval")


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Example]]:
    return {name: read_examples(FOLDER / f"{name}.jsonl") for name in NAMES}


def test_the_script_makes_the_files_that_are_there(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("make_own", FOLDER / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in FOLDER.glob("*.jsonl")}


def test_check_finds_the_flaw_and_nothing_else():
    names = ("anywhere", "at_end", "real_train")
    files = [FOLDER / f"{name}.jsonl" for name in names]
    found = check_files(files, embedded_tokenizer(), {"--length": 1024}, [FOLDER / "real_eval.jsonl"])
    warnings = {name: one.warnings() for name, one in zip(names, found, strict=True)}
    [flaw] = warnings.pop("at_end")
    assert flaw.startswith("48 of 48 needles stand in the last document (evenly spread it would be 2): ")
    assert warnings == {"anywhere": [], "real_train": []}
    assert [(one.usable, one.broken.total()) for one in found] == [(48, 0)] * 3


def test_the_flaw_is_the_place_of_the_needle_and_nothing_else(sets):
    place = {name: diagnosis.places(examples) for name, examples in sets.items()}
    assert place["at_end"].min() > 0.8
    for name in ("anywhere", "real_train", "real_eval"):
        assert place[name].min() < 0.2
        assert 0.35 < place[name].mean() < 0.65

    def facts(one: Example) -> tuple[str, tuple[str, ...], int, str]:
        return one.answer, one.needle_texts(), len(one.prompt), one.prompt.rpartition("Question:")[2]

    assert list(map(facts, sets["anywhere"])) == list(map(facts, sets["at_end"]))


def made(scores: dict[str, list[float]], recalls: dict[str, float] | None = None) -> SimpleNamespace:
    """What a diagnosis would hand over, of one seed and examples whose needles stand ever later."""
    examples = len(scores["real"])
    test = [Example("own", "x" * 3000, "y", ("y",), ((100 * place, 100 * place + 1),))
            for place in range(examples)]
    answers = pd.DataFrame([{"condition": name, "seed": 1, "example": place, "f1": value}
                            for name, values in scores.items() for place, value in enumerate(values)])

    def of(name: str, measure: str) -> pd.Series | None:
        if measure == "recall_of_real" and recalls is not None and name in recalls:
            return pd.Series({"value": recalls[name], "low": recalls[name] - 0.1, "high": recalls[name] + 0.1,
                              "chance": 0.25, "n": 8})
        value = float(np.mean(scores[name]))
        return pd.Series({"value": value, "low": value - 0.1, "high": value + 0.1}) if measure == "score" else None

    return SimpleNamespace(
        inputs=SimpleNamespace(test=test, conditions=list(scores)), metric="f1", of=of, n_heads=lambda name: [3],
        tables={"answers": answers, "by_place": pd.DataFrame(by_thirds(scores))},
    )


def by_thirds(scores: dict[str, list[float]]) -> list[dict[str, object]]:
    """Rows of the table of that name, for as many examples in each third."""
    return [{"condition": name, "place": part, "measure": measure, "value": float(np.mean(own)), "low": 0.0,
             "high": 1.0, "n": len(own)}
            for name, values in scores.items() for measure in ("score", "subspan")
            for part, own in zip(PARTS, np.array_split(values, 3), strict=True)]


@pytest.fixture
def separated() -> SimpleNamespace:
    late = [0.0] * 20 + [1.0] * 10
    return made({"untuned": late, "real": [1.0] * 30, "anywhere": [0.0] * 5 + [1.0] * 25, "at_end": late},
                {"untuned": 0.5, "anywhere": 0.875, "at_end": 0.5})


def test_the_finding_follows_the_interval(separated):
    told = diagnosis.finding(separated, "anywhere", "at_end")
    assert len(told) == 4
    assert all(len(one) < 200 for one in told), "bullets, not paragraphs"
    assert told[0].startswith("The flawed set teaches less: `anywhere` is ahead by 0.50 [0.3")
    assert "retrieval heads: `anywhere` 0.88 [0.78, 0.97] (chance 0.25), `at_end` 0.50 [0.40, 0.60]" in told[2]
    assert told[3] == "The flawed set misses more of these heads."
    other = diagnosis.finding(separated, "at_end", "anywhere")
    assert "Against what one expects" in other[0]
    assert other[3].endswith("is not shown.")


def test_scores_may_tell_sets_apart_where_heads_do_not(separated):
    separated.of = made({name: [1.0] for name in separated.inputs.conditions},
                        {"untuned": 0.5, "anywhere": 0.5, "at_end": 0.5}).of
    told = diagnosis.finding(separated, "anywhere", "at_end")
    assert "The flawed set teaches less" in told[0]
    assert "is not shown: here scores tell the sets apart, not heads." in told[3]


def test_what_is_not_separated_is_said_so():
    alike = made({"untuned": [0.0] * 4, "real": [1.0] * 4, "anywhere": [1.0, 0, 1, 0], "at_end": [0, 1.0, 0, 0]})
    told = diagnosis.finding(alike, "anywhere", "at_end")
    assert "**is not shown** here: `anywhere` is ahead by 0.25 [−" in told[0]
    assert "nothing can be said of heads" in told[2]
    assert "teaches less:" not in " ".join(told)
    same = made({"untuned": [0.0] * 4, "real": [1.0] * 4, "anywhere": [1.0, 0, 1, 0], "at_end": [1.0, 0, 1, 0]})
    assert "is ahead by 0.00 (alike on all examples)" in diagnosis.finding(same, "anywhere", "at_end")[0]


def test_scores_by_place(separated):
    table = diagnosis.by_place(separated)
    assert table.groupby("condition")["n"].sum().eq(30).all()
    values = table.pivot(index="condition", columns="part", values="value")
    assert values.loc["at_end"].to_dict() == {"first third": 0.0, "middle third": 0.0, "last third": 1.0}
    assert values.loc["anywhere", "first third"] == 0.5
    ax = diagnosis.plot_by_place(table, "f1")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["untuned", "real", "anywhere", "at_end"]
    shown = diagnosis.score_table(separated, {"real": 0.5, "anywhere": 0.25, "at_end": 0.0}).set_index("trained on")
    assert shown.loc["at_end", "recall of real heads"] == "0.50 [0.40, 0.60]"
    assert shown["loss in training"].dropna().to_dict() == {"real": 0.5, "anywhere": 0.25, "at_end": 0.0}


def test_the_places_are_drawn_a_row_a_set(sets):
    ax = diagnosis.plot_places(sets)
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"{name} ({len(sets[name])})" for name in NAMES]
    strokes = ax.collections[NAMES.index("at_end")].get_segments()
    assert len(strokes) == 48
    assert min(stroke[0][0] for stroke in strokes) > 0.8


def test_a_framed_report_is_the_whole_report_and_runs_nothing():
    report = '<!doctype html>\n<p title="a&amp;b">It\'s <b>"bold"</b></p><script>alert(1)</script>'
    frames: list[dict[str, str | None]] = []

    class Frames(HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag in ("div", "iframe")
            frames.extend([dict(attributes)] if tag == "iframe" else [])

    Frames().feed(diagnosis.framed(report, 'A "report"'))
    [frame] = frames
    assert frame["srcdoc"] == report
    assert frame["title"] == 'A "report"'
    assert frame["sandbox"] in ("", None)
