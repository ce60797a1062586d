"""`diagnose`: the whole verb on a tiny random model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import cited, write_sets

from retrieval_heads.cli import main
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.diagnose import Request, work
from retrieval_heads.diagnose.inputs import split
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.settings import UNTUNED
from retrieval_heads.tables import follow, verb_tables

TABLES = {"performance", "answers", "training", "head_scores", "overlap", "missed_heads", "knockout",
          "knockout_effects", "patching", "summary", "by_place", "place_gains"}
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """As `write_sets` has them, with HTML in the prompt of one real example, and these without needles."""
    folder = tmp_path_factory.mktemp("diagnose")
    held_out = write_sets(folder)
    held_out[1] = replace(held_out[1], prompt=f"{held_out[1].prompt} {SCRIPT} Answer:")
    write_examples(folder / "eval.jsonl", held_out)
    (folder / "bare.jsonl").write_text("".join(
        json.dumps({"task": "summhay", "prompt": one.prompt, "answer": one.answer}) + "\n" for one in held_out
    ), encoding="utf-8")
    return folder


def arguments(files: Path, out: Path, *more: str, evaluation: str = "eval") -> list[str]:
    return ["diagnose", "--model", str(files / "base"), "--train", f"high_high={files / 'high_high.jsonl'}",
            "--train", f"low_low={files / 'low_low.jsonl'}", "--eval", str(files / f"{evaluation}.jsonl"),
            "--epochs", "1", "--draws", "1", "--threshold", "0.02", "--length", "256", "--device", "cpu",
            "--out", str(out), *more]


@pytest.fixture(scope="module")
def done(files: Path, tmp_path_factory) -> Path:
    """The folder of a whole diagnosis with a real training set."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(arguments(files, out, "--real-train", str(files / "real.jsonl"))) == 0
    return out


class _References(HTMLParser):
    """What a page would load from elsewhere, and its images."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.images: list[dict[str, str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        found = dict(attributes)
        if tag == "img":
            self.images.append(found)
        self.outside += [value for name, value in found.items()
                         if name in ("src", "href", "srcset", "data")
                         and not value.startswith("data:image/png;base64,")]


def test_tables_are_complete(done: Path):
    tables = {path.stem: pd.read_csv(path) for path in (done / "tables").glob("*.csv")}
    assert set(tables) >= TABLES - {"missed_heads"}  # of a random model none may be missed
    conditions = {UNTUNED, "real", "high_high", "low_low"}
    for name in ("performance", "head_scores", "knockout", "answers"):
        assert set(tables[name]["condition"]) == conditions, name
    assert set(tables["training"]["condition"]) == conditions - {UNTUNED}
    assert len(tables["head_scores"]) == 4 * 8
    assert set(tables["patching"]["condition"]) == {"high_high", "low_low"}
    assert {"none", "source", "complement", "intersection", "all"} <= set(tables["patching"]["set"])
    assert set(tables["performance"]["n"]) == {3}
    score = tables["summary"].query("measure == 'score'").set_index("condition")["value"]
    assert score.to_dict() == pytest.approx(tables["answers"].groupby("condition")["citation_f1"].mean().to_dict())


def test_tables_follow_the_dictionary(done: Path):
    known, made = verb_tables()["diagnose"], list((done / "tables").glob("*.csv"))
    assert len(made) >= len(TABLES) - 1
    for path in made:
        rows = pd.read_csv(path, dtype=object, keep_default_na=False, na_values=[""])
        assert len(follow(known[path.stem], rows, path.name))


def test_the_report_stands_alone_and_runs_nothing_of_the_data(done: Path):
    text = (done / "report.html").read_text(encoding="utf-8")
    page = _References()
    page.feed(text)
    assert page.outside == []
    assert not page.tags & {"script", "link", "iframe"}
    assert not re.search(r"url\(|@import", text)
    assert len(page.images) == 6
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert SCRIPT.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "Sets of unequal size (real 3, high_high 3, low_low 2)" in text


def test_a_second_call_makes_only_what_is_missing(files: Path, done: Path, monkeypatch, capsys):
    again = arguments(files, done, "--real-train", str(files / "real.jsonl"))
    kept = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    [part] = (done / "patching").glob("*low_low*")
    part.unlink()
    monkeypatch.setattr("retrieval_heads.diagnose.work.finetune", None)  # whatever is made anew would fail
    monkeypatch.setattr("retrieval_heads.diagnose.work.knockout_sweep", None)
    assert main(again) == 0
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == kept
    assert main([*again, "--epochs", "2"]) == 2
    assert "another epochs" in capsys.readouterr().err


def test_without_real_training_set_and_given_adapter(files: Path, done: Path, tmp_path: Path):
    [adapter] = (done / "adapters").glob("*high_high*")
    wanted = ["diagnose", "--model", str(files / "base"), "--adapter", f"mine={adapter}", "--eval",
              str(files / "eval.jsonl"), "--draws", "1", "--threshold", "0.02", "--device", "cpu", "--out",
              str(tmp_path / "out")]
    assert main(wanted) == 0
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "out" / "tables").glob("*.csv")}
    assert set(tables) == TABLES - {"patching", "training", "missed_heads"}
    assert set(tables["overlap"]["reference"]) == {UNTUNED}
    before = pd.read_csv(done / "tables" / "head_scores.csv").query("condition == 'high_high'")
    np.testing.assert_allclose(tables["head_scores"].query("condition == 'mine'")["score"], before["score"])
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No real training set" in text
    assert "short of real" not in text


def test_without_needles_only_performance(files: Path, tmp_path: Path):
    assert main(arguments(files, tmp_path / "out", evaluation="bare")) == 0
    assert {path.stem for path in (tmp_path / "out" / "tables").glob("*.csv")} == {
        "performance", "answers", "training", "summary"}
    assert "no probe example has needles" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_more_seeds_and_sets_use_what_is_there(files: Path, tmp_path: Path, monkeypatch, capsys):
    first = ["diagnose", "--model", str(files / "base"), "--train", f"low_low={files / 'low_low.jsonl'}", "--eval",
             str(files / "bare.jsonl"), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(first) == 0
    assert capsys.readouterr().err.splitlines()[:2] == [
        "run 1 of 2: untuned, seed 1: training and scoring", "run 2 of 2: low_low, seed 1: training and scoring"]
    made, real = [], work.finetune
    monkeypatch.setattr(work, "finetune", lambda *given: made.append(given[2].name) or real(*given))
    more = [*first, "--train", f"third={files / 'high_high.jsonl'}", "--seeds", "1", "2"]
    assert main([*more, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 fine-tunings" in said
    assert "3 models to score, 2 are there already" in said
    assert "leaks: none" in said
    made.clear()  # of the trial
    assert main(more) == 0
    assert len(made) == 3
    assert not any("low_low__s1" in name for name in made)
    longer = [*first, "--train", f"long={files / 'long.jsonl'}"]
    write_examples(files / "long.jsonl", cited(300, condition="real", n=1))
    assert main(longer) == 2
    assert "made for shorter examples" in capsys.readouterr().err


def test_a_dry_run_looks_for_leaks(files: Path, tmp_path: Path, capsys):
    wanted = ["diagnose", "--model", str(files / "base"), "--train", f"same={files / 'bare.jsonl'}", "--eval",
              str(files / "bare.jsonl"), "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "o"), "--dry-run"]
    assert main(wanted) == 0
    assert "leak: 6 evaluation examples share prompt, question, or needle and answer with a" in capsys.readouterr().out


def test_a_dry_run_counts_and_writes_nothing(files: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(arguments(files, out, "--real-train", str(files / "real.jsonl"), "--seeds", "1", "2", "--batch-size",
                          "2", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert "6 fine-tunings of 10 steps" in said  # 2 seeds of 2 + 1 + 2
    assert "7 models to score" in said
    assert "memory: at most" in said


@pytest.mark.parametrize(("more", "problem"), [
    (("--train", "high_high=x.jsonl"), "given already"), (("--train", "real=x.jsonl"), "reserved"),
    (("--train", "a b=x.jsonl"), "file name"), (("--real-train", "absent.jsonl"), "absent.jsonl"),
    (("--n-probe", "6"), "6 examples"), (("--length", "20"), "more than the allowed 20"),
    (("--seeds", "1", "1"), "different seeds"), (("--rank", "0"), "rank"), (("--adapter", "mine=absent"), "absent"),
])
def test_errors_name_the_place_and_leave_nothing(files: Path, tmp_path: Path, capsys, more, problem):
    assert main(arguments(files, tmp_path / "out", *more)) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(files: Path, tmp_path: Path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert main(arguments(files, tmp_path)) == 2
    assert "something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_split_is_disjoint_whole_and_spread():
    examples = list(range(10))
    probe, test = split(examples, 3, "eval")
    assert sorted(probe + test) == examples
    assert probe == [0, 3, 6]
    assert [len(part) for part in split(examples, None, "eval")] == [5, 5]
    with pytest.raises(DataError, match="do not make"):
        split(examples[:1], None, "eval")


def test_no_set_is_an_error():
    with pytest.raises(ConfigError, match="no training set"):
        Request("base", {}, Path("eval"), Path("out"))


def test_paths_may_be_texts():
    assert Request("base", {"A": "a.jsonl"}, "eval.jsonl", "out").out == Path("out")
