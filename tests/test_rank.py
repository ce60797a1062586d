"""`rank`: the whole verb on a tiny random model, and what it says on tables whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import save_tiny_base

from retrieval_heads import paths
from retrieval_heads.cli import main
from retrieval_heads.data.example import Example
from retrieval_heads.data.examples import make_examples
from retrieval_heads.data.jsonl import write_examples
from retrieval_heads.heads.exchange import write_scores
from retrieval_heads.rank import job
from retrieval_heads.rank.calibration import PREDICTORS, Calibration, calibration, read_calibration
from retrieval_heads.rank.decide import compared
from retrieval_heads.rank.result import Result

SETS = ("high_high", "low_low")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A tiny base, two candidate sets of 4 examples, 3 probe examples, and score files of real heads."""
    folder = tmp_path_factory.mktemp("rank")
    save_tiny_base(folder / "base")
    # called citations, so that heads are scored by where they look: a random model copies nothing
    def made(**which) -> list[Example]:
        return [replace(one, task="summhay") for one in make_examples(task="mdqa", length=256, seed=0, **which)]

    for name in (*SETS, "real"):
        write_examples(folder / f"{name}.jsonl", made(condition=name, n=4))
    probe = made(condition="real", n=3, split="probe")
    write_examples(folder / "probe.jsonl", probe)
    (folder / "bare.jsonl").write_text("".join(
        json.dumps({"task": "summhay", "prompt": one.prompt, "answer": one.answer}) + "\n" for one in probe
    ), encoding="utf-8")
    write_scores(folder / "heads.json", np.linspace(0, 1, 8).reshape(2, 4))
    return folder


def arguments(files: Path, out: Path, *more: str, sets: tuple[str, ...] = SETS, probe: str = "probe") -> list[str]:
    train = [text for name in sets for text in ("--train", f"{name}={files / name}.jsonl")]
    return ["rank", "--model", str(files / "base"), *train, "--probe", str(files / f"{probe}.jsonl"), "--examples", "3",
            "--device", "cpu", "--out", str(out), *more]


def test_the_verb_and_its_second_call(files: Path, tmp_path: Path, capsys, monkeypatch):
    out = tmp_path / "out"
    wanted = arguments(files, out, "--real-train", str(files / "real.jsonl"), "--threshold", "0")
    assert main(wanted) == 0
    first = capsys.readouterr().out
    table, found = pd.read_csv(out / "rank.csv"), json.loads((out / "rank.json").read_text(encoding="utf-8"))
    assert set(table["set"]) == {*SETS, "untuned"}
    assert set(table["predictor"]) == set(PREDICTORS)
    losses = table[table["predictor"] == "probe_loss"].set_index("set")["value"]
    measured = json.loads((out / "measured" / "adapters-low_low__s0.json").read_text(encoding="utf-8"))
    assert len(measured["losses"]) == 3
    means = [np.mean(json.loads((out / "measured" / f"adapters-low_low__s{seed}.json").read_text())["losses"])
             for seed in (0, 1, 2)]
    rows = table[(table["set"] == "low_low") & (table["predictor"] == "probe_loss")].iloc[0]
    assert (rows["value"], rows["spread"]) == pytest.approx((np.mean(means), np.std(means, ddof=1)))
    assert found["n_seeds"] == 3
    assert table[table["set"] == "untuned"]["rank"].isna().all()
    assert found["untuned"]["probe_loss"] == pytest.approx(losses.pop("untuned"))
    assert found["by"] == "probe_loss"
    assert found["order"] == list(losses.sort_values().index)
    assert found["n_train"] == {"high_high": 3, "low_low": 3}
    assert any("few probe examples (3)" in line for line in found["warnings"])
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("retrieval_heads.rank.job.finetune", None)  # whatever is made anew would fail
    monkeypatch.setattr("retrieval_heads.rank.job.load_model", None)
    assert main(wanted) == 0
    assert capsys.readouterr().out == first
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept
    assert main([*wanted, "--epochs", "2"]) == 2
    assert "another epochs" in capsys.readouterr().err
    damaged = json.dumps(measured | {"scores": [[0.1], [0.1, 0.2]]})
    (out / "measured" / "adapters-low_low__s0.json").write_text(damaged, encoding="utf-8")
    assert main(wanted) == 2
    assert "low_low__s0.json: the measurement is damaged" in capsys.readouterr().err


def test_more_seeds_and_sets_use_what_is_there(files: Path, tmp_path: Path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert main(arguments(files, out, "--seeds", "0")) == 0
    assert "one seed shows no spread" in capsys.readouterr().out
    made = []
    real = job.finetune
    monkeypatch.setattr(job, "finetune", lambda *given: made.append(given[2].name) or real(*given))
    more = arguments(files, out, "--seeds", "0", "1", sets=(*SETS, "real"))
    assert main(more) == 0
    assert sorted(made) == ["high_high__s1", "low_low__s1", "real__s0", "real__s1"]
    assert "high_high, seed 1" in capsys.readouterr().err
    assert main(arguments(files, out, "--seeds", "1")) == 0  # a part of what is there
    assert len(made) == 4
    (tmp_path / "other.jsonl").write_bytes((files / "real.jsonl").read_bytes())
    assert main([*arguments(files, out, sets=("high_high",)), "--train", f"low_low={tmp_path / 'other.jsonl'}"]) == 2
    assert "another train" in capsys.readouterr().err


def test_given_heads_and_no_tables(files: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(paths, "checkout", lambda: None)
    monkeypatch.delenv(paths.HOME_VARIABLE, raising=False)
    assert read_calibration() is None
    monkeypatch.undo()
    monkeypatch.setattr(job, "read_calibration", lambda: None)
    assert main(arguments(files, tmp_path / "out", "--real-heads", str(files / "heads.json"))) == 0
    assert "no calibration is there" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "rank.json").read_text(encoding="utf-8"))
    assert found["n_real_heads"] == 7
    assert {"recall", "cosine"} <= set(found["sets"]["low_low"])
    assert found["by"] == "probe_loss"


@pytest.mark.parametrize(("changes", "more", "message"), [
    ({"sets": ("low_low",)}, (), "one training set has no order"),
    ({"sets": ("low_low", "low_low")}, (), "given already"),
    ({"sets": ("low_low", "absent")}, (), "absent.jsonl"),
    ({"probe": "bare"}, ("--real-heads", "heads.json"), "no probe example has needles"),
    ({}, ("--real-heads", "absent.json"), "cannot be read"),
    ({}, ("--length", "20"), "tokens"),
    ({}, ("--examples", "0"), "less than one"),
    ({}, ("--threshold", "2"), "not a fraction"),
    ({}, ("--lr", "0"), "lr"),
    ({}, ("--seeds", "1", "1"), "different seeds"),
    ({}, ("--train", "untuned=x.jsonl"), "a reserved name"),
])
def test_bad_input_leaves_nothing(files: Path, tmp_path: Path, capsys, monkeypatch, changes, more, message):
    monkeypatch.chdir(files)
    assert main(arguments(files, tmp_path / "out", *more, **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else(files: Path, tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(arguments(files, tmp_path)) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def report_tables(findings: dict[str, str], spearman: dict[str, float]) -> Calibration:
    """The calibration from the report's tables with these entries, among rows that are not to be taken."""
    runs = [{"conditions": "all", "base": "all", "task": task, "given": given, "predictor": name,
             "threshold": threshold, "method": "spearman", "estimate": sign * value, "low": sign * value - 0.1,
             "high": sign * value + 0.1, "n_conditions": 14}
            for name, value in spearman.items()
            for task, threshold, sign, given in (("all", 0.1, 1, "nothing"), ("all", 0.3, -1, "nothing"),
                                                 ("mdqa", 0.1, -1, "nothing"), ("all", 0.1, -1, "probe_loss"))]
    choice = [{"candidates": "synthetic", "task": "all", "predictor": name, "regret": 1 - abs(value),
               "random_regret": 0.9, "n_choices": 24} for name, value in spearman.items()]
    errors = [{"conditions": "all", "task": task, "predictor": "recall", "reference": name, "finding": text}
              for name, finding in findings.items() for task, text in (("mdqa", "other"), ("all", finding))]
    columns = ["conditions", "task", "predictor", "reference", "finding"]
    return calibration(pd.DataFrame(runs), pd.DataFrame(choice), pd.DataFrame(errors, columns=columns))


def test_calibration_where_heads_are_no_better():
    found = report_tables({"probe_loss": "worse", "ngram_overlap": "not shown to be better", "training_loss": "better"},
                          {"probe_loss": -0.8, "recall": 0.5, "recall_few": 0.4, "training_loss": 0.3})
    assert found.heads_against_cheaper() == (
        "The ranking by heads is no better than a cheaper one: in the report, recall of the real heads was better than "
        "training loss; not shown to be better than ngram overlap; worse than probe loss."
    )
    assert found.best(PREDICTORS, few=False) == "probe_loss"
    worth = found.of("probe_loss", few=False)
    assert (worth.spearman, worth.low, worth.high) == pytest.approx((0.8, 0.7, 0.9))  # low losses promise performance
    assert "Spearman +0.80 (+0.70 to +0.90) over 14 training sets" in worth.text()
    assert "lost 0.200 against the best, a random choice 0.900 (24 choices)" in worth.text()
    assert found.of("training_loss", few=False).spearman == pytest.approx(-0.3)  # it points the wrong way
    assert "(-0.40 to -0.20) over 14 training sets, so it points the wrong way" in found.of(
        "training_loss", few=False).text()
    assert "wrong way" not in worth.text()
    assert (found.of("recall", few=False).spearman, found.of("recall", few=True).spearman) == (0.5, 0.4)
    assert found.of("base_cosine", few=False) is None


def test_calibration_where_heads_are_better():
    found = report_tables({"probe_loss": "better", "ngram_overlap": "better"}, {"probe_loss": -0.3, "recall": 0.9})
    assert found.heads_against_cheaper() == (
        "In the report, recall of the real heads predicted performance better than what is cheaper: "
        "better than probe loss, ngram overlap."
    )
    assert found.best(["probe_loss", "recall"], few=False) == "recall"
    assert found.best(["base_cosine"], few=False) is None
    assert "does not say" in report_tables({}, {"recall": 0.9}).heads_against_cheaper()


def test_committed_tables_give_a_calibration():
    table = pd.read_csv(paths.results_folder("report") / "correlation_runs.csv")
    wanted = table[(table[["conditions", "base", "task"]] == "all").all(axis=1) & (table["method"] == "spearman")
                   & (table["given"] == "nothing")
                   & (table["predictor"] == "probe_loss")]["estimate"].item()
    assert read_calibration().of("probe_loss", few=False).spearman == pytest.approx(-wanted)


def result(**changes) -> Result:
    values = pd.DataFrame({"probe_loss": [0.3, 0.1, 0.1], "recall": [0.5, 0.5, float("nan")]}, index=["a", "b", "c"])
    each = {"a": np.full(4, 0.3), "b": np.full(4, 0.1), "c": np.array([0.0, 0.2, 0.0, 0.2])}
    losses = {name: np.stack([one, one + 0.001]) for name, one in each.items()}
    given = {
        "values": values, "calibration": None, "n_probe": 4, "spread": values * 0,
        "untuned": {"probe_loss": 1.0}, "n_seeds": 2, "flaws": {"a": "", "b": "", "c": ""}, "set_warnings": {},
        "n_train": {"a": 9, "b": 9, "c": 8}, "compared": compared(losses, np.ones(4)), "n_real_heads": 2,
        "n_base_heads": 0, "real_loss": None,
        "threshold": 0.1, "length": 64, "rope_theta": 1e4, "leaked": {"a": 1, "b": 0, "c": 0},
    }
    return Result(**given | changes)


def test_ranks_order_and_warnings():
    found = result()
    assert found.ranks["probe_loss"].tolist() == [3, 1, 1]
    assert found.ranks["recall"].tolist()[:2] == [1, 1]
    assert found.known == ["probe_loss"]
    assert found.order == ["b", "c", "a"]
    [told] = found.undecided()
    assert told.startswith("b and c cannot be told apart")
    text = found.text()
    for part in ("a: 1 of the 4 probe examples share prompt, question or needle with the training set",
                 "the sets differ in size (a 9, b 9, c 8)", "few heads: 2 of the real heads",
                 "few heads: 0 of the base's heads", "0.300 (3)", "untuned", "1.000    ",
                 "Recommended order, by probe loss: b ~ c, a (~: not told apart)",
                 "c is better than a by probe loss: by 0.200 nats per token"):
        assert part in text
    assert "hardly moved" not in text
    assert "training hardly moved the model (probe loss 0.105 before, 0.100 at best)" in result(
        untuned={"probe_loss": 0.105}).text()
    assert "no real heads are known" in result(n_real_heads=None).text()
    measured = report_tables({"probe_loss": "worse"}, {"probe_loss": -0.8})
    beside = "The ranking by heads is no better than a cheaper one"
    assert beside in result(calibration=measured).text()
    assert beside not in result(calibration=measured, n_real_heads=None).text()  # no ranking by heads was made
    free = found.values.assign(ngram_overlap=[0.1, 0.9, 0.8])
    same = "The order is the same as that by overlap of word pairs, which needs no fine-tuning."
    assert same in result(calibration=measured, values=free).text()
    other = free.assign(ngram_overlap=[0.9, 0.8, 0.1])
    assert same not in result(calibration=measured, values=other).text()


def test_a_flawed_set_stands_last_whatever_its_loss():
    flaws = {"a": "", "b": "9 of 9 needles stand in the first document", "c": ""}
    found = result(flaws=flaws)
    assert found.order == ["c", "a", "b"]
    assert "by probe loss: c, a ~ b" in found.text() or "by probe loss: c, a, b" in found.text()
    assert "b last, as one place solves it" in found.text()
