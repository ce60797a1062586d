"""`diagnose`: the whole verb on a tiny random model, and what it says on parts whose answer is known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import save_tiny_base

from retrieval_heads.cli import main
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.diagnose import Request, work
from retrieval_heads.diagnose.compare import result
from retrieval_heads.diagnose.inputs import read_inputs, split
from retrieval_heads.diagnose.limits import warnings
from retrieval_heads.diagnose.sentences import heads, knockout, patching
from retrieval_heads.diagnose.verdict import performance, verdict
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.settings import UNTUNED
from retrieval_heads.tables import follow, verb_tables

TABLES = {"performance", "answers", "training", "head_scores", "overlap", "missed_heads", "knockout",
          "knockout_effects", "patching", "summary", "by_place", "place_gains"}
SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A tiny base, two training sets of unequal size, a real one, and 6 real examples, one with HTML in its prompt."""
    folder = tmp_path_factory.mktemp("diagnose")
    save_tiny_base(folder / "base")
    # called citations, so that heads are scored by where they look: a random model copies nothing
    def made(**which):
        return [replace(one, task="summhay", answer="[1]", answers=("[1]",))
                for one in make_examples(task="mdqa", length=200, seed=0, **which)]

    for name, n in (("high_high", 3), ("low_low", 2), ("real", 3)):
        write_examples(folder / f"{name}.jsonl", made(condition=name, n=n))
    held_out = made(condition="real", n=6, split="test")
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
    [one] = make_examples(task="mdqa", condition="real", length=300, seed=0, n=1)
    write_examples(files / "long.jsonl", [replace(one, task="summhay", answer="[1]", answers=("[1]",))])
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


N_TEST = 40


@pytest.fixture
def made(files: Path, tmp_path: Path):
    """Makes a result in which a set has 2 of the real run's 4 heads, and they close half of the gap in each seed.

    `score(condition, seed, head)` gives the head's score on each of the probe examples.
    """
    def make(score, seeds: tuple[int, ...] = (1,), n_probe: int = 3, able: float = 1.0):
        request = Request(str(files / "base"), {"low_low": files / "low_low.jsonl"}, files / "eval.jsonl", tmp_path,
                          real_train=files / "real.jsonl", bootstrap=400, seeds=seeds)
        inputs = read_inputs(request)
        inputs = replace(inputs, test=[inputs.test[0]] * N_TEST, probe=[inputs.probe[0]] * n_probe)

        def part(key, right: int):
            answers = [{"id": "", "prediction": "", "exact_match": 0.0, "citation_precision": 0.0,
                        "citation_recall": 0.0, "citation_f1": float(place < right),
                        "forced_exact_match": float(place < right), "answer_loss": 2.0 - (place < right),
                        "end_loss": 1.0, "answer_loss_without": 2.0} for place in range(N_TEST)]
            each = np.array([score(key.condition, key.seed, head) for head in range(8)], dtype=float)
            places = [{**key.columns, "layer": head // 4, "head": head % 4, "score": each[head].mean()}
                      for head in range(8)]
            return {"training": None, "answers": answers, "heads": places,
                    "each": each.T.reshape(n_probe, 2, 4).tolist()}

        right = {UNTUNED: 0, "real": 40, "low_low": 20}
        measured = {key: part(key, right[name]) for name in inputs.conditions for key in inputs.runs(name)}
        patched = {key: {"right": {
            "none": [[0.0] * N_TEST], "source": [[1.0] * N_TEST], "complement": [[1.0, 0.0] * (N_TEST // 2)],
            "random_complement": [[0.0] * N_TEST] * 2,
        }, "nll": {
            "none": [[3.0] * N_TEST], "source": [[1.0] * N_TEST], "complement": [[2.0] * N_TEST],
            "random_complement": [[3.0] * N_TEST] * 2,
        }, "patching": [
            {"condition": "low_low", "set": "complement", "metric": "nll", "n_heads": 2},
            {"condition": "low_low", "set": "source", "metric": "forced_exact_match", "value": able},
        ]}
            for key in inputs.runs("low_low")}
        knocked_out = {key: {"knockout": [
            {"condition": "low_low", "set": "none", "metric": "forced_exact_match", "value": able},
            {"condition": "low_low", "set": "none", "metric": "nll", "value": 1.5},
        ], "knockout_effects": [], "right": {
            "none": [[1.0] * N_TEST], "retrieval": [[float(key.seed == 1)] * N_TEST], "random": [[1.0] * N_TEST] * 2,
        }, "nll": {
            "none": [[1.5] * N_TEST], "retrieval": [[2.5] * N_TEST], "random": [[1.5] * N_TEST] * 2,
        }} for key in inputs.runs("low_low")}
        return result(inputs, measured, knocked_out, patched)

    return make


@pytest.fixture
def known(made):
    strong = {UNTUNED: 0, "real": 4, "low_low": 2}
    return made(lambda condition, seed, head: [0.5 * (head < strong[condition])] * 3)


def test_known_parts_give_known_sentences(known):
    assert performance(known, "low_low").startswith("The model trained on it scores 0.50 (0.3")
    assert verdict(known, "low_low").kind == "teaches"
    assert "It teaches the task: the loss of the gold answer -0.50 (-0.6" in performance(known, "low_low")
    assert "falls short of real examples by 0.50" in performance(known, "low_low")
    assert heads(known, "low_low") == (
        "There are 4 retrieval heads among the real run's, of which it has 50% (in all samples): a share of fewer than "
        "5 says nothing. It misses, with their scores, layer 0 head 2 (0.50 there, 0.00 here); layer 0 head 3 (0.50 "
        "there, 0.00 here). Layers and heads count from 0.")
    said = patching(known, "low_low")
    assert "Patching the 2 missing heads back changes the right answers by +0.50 (+0.3" in said
    assert "by +0.00 (the same on all examples): the missing ones give more (+0.50 (" in said
    assert "closes 50% (" in said
    said = warnings(known)
    assert any("Few retrieval heads above 0.1 (real 4, low_low 2)" in line for line in said)
    assert not any("real set itself" in line or "Training hardly" in line for line in said)
    assert not any("Few test examples" in line for line in said)
    assert any("One seed" in line for line in said)
    assert not any("without fine-tuning" in line for line in said)
    assert any("score alike for untuned, real:" in line for line in said)
    assert any("recall of the real heads was" in line and "worse than probe loss" in line for line in said)


def test_shares_of_enough_heads_are_told_beside_chance(made):
    strong = {UNTUNED: 0, "real": 8, "low_low": 4}
    found = made(lambda condition, seed, head: [0.5 * (head < strong[condition])] * 3)
    # 4 of the 8 heads, of which all are real ones: chance is 4 of 8, always
    assert heads(found, "low_low").startswith(
        "It has 50% (in all samples) of the real run's 8 retrieval heads, no more than random heads of the same "
        "layers, 50% (95% of draws: 50% to 50%); the model without fine-tuning has 0% (in all samples). 100% (in all "
        "samples) of its own 4 are among them. It misses, with their scores, layer 1 head 0 (0.50 there, 0.00 here)")


def test_losses_are_told_where_hardly_an_answer_is_right(made):
    strong = {UNTUNED: 0, "real": 6, "low_low": 2}
    few = made(lambda condition, seed, head: [0.5 * (head < strong[condition])] * 3, able=0.1)
    assert knockout(few, "low_low") == (
        "Hardly an answer is right, so losses are told: without its own retrieval heads the loss of the gold answer "
        "rises by +1.00 (the same on all examples) from 1.50 nats a token, without as many random ones by +0.00 (the "
        "same on all examples): it depends on them.")
    said = patching(few, "low_low")
    assert said.startswith("Hardly an answer is right, so losses are told: patching the 2 missing heads back lowers "
                           "the loss of the gold answer by +1.00 (the same on all examples) nats a token")
    assert "Patching them closes 50% (in all samples) of the gap to the real run (+2.00" in said
    assert "closes 50% (" in patching(made(lambda condition, seed, head: [0.5] * 3), "low_low")


def test_recall_has_an_interval_over_probe_examples(made):
    # the real run's heads are sure; of the set's, one is sure and one is seen on half of the examples, at the threshold
    def score(condition, seed, head):
        if condition == "real":
            return [0.5 * (head < 2)] * 10
        return [0.5] * 10 if head == 0 else [0.2 * (head == 1), 0.0] * 5

    found = made(score, n_probe=10)
    row = found.of("low_low", "recall_of_real")
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.5, 0.5, 1.0, 2)
    table = found.tables["missed_heads"]
    assert table[["layer", "head", "real_score", "score", "missed", "n_seeds"]].to_numpy().tolist() == [
        [0, 1, 0.5, 0.1, 1, 1]]
    precision = found.of("low_low", "precision_of_real")
    assert (precision["value"], precision["low"], precision["high"]) == (1, 1, 1)


def test_several_seeds_are_resampled_with_the_examples(made):
    # in seed 1 the set has all heads and needs none of them, in seed 2 it has half of them and needs all
    found = made(lambda condition, seed, head: [0.5 * (head < (2 if (condition, seed) == ("low_low", 2) else 4))] * 3,
                 seeds=(1, 2))
    recall, lost = found.of("low_low", "recall_of_real"), found.of("low_low", "loss_without_retrieval")
    assert (recall["value"], recall["low"], recall["high"], recall["n_seeds"]) == (0.75, 0.5, 1, 2)
    assert tuple(lost[["value", "low", "high", "n_seeds"]]) == pytest.approx((0.5, 0, 1, 2))
    over = found.of("low_low", "loss_without_retrieval_over_random")
    assert tuple(over[["value", "low", "high"]]) == pytest.approx((0.5, 0, 1))
    assert "missed in 1 of 2 seeds" in heads(found, "low_low")
    assert any("Few seeds (2)" in line for line in warnings(found))


def test_a_task_that_needs_no_training_is_said_so(known):
    summary = known.tables["summary"].copy()
    summary.loc[(summary["condition"] == UNTUNED) & (summary["measure"] == "score"), ["value", "high"]] = 0.95, 1.0
    easy = replace(known, tables={**known.tables, "summary": summary})
    assert any("scores 0.95 without fine-tuning" in line and "leave next to nothing" in line for line in warnings(easy))
