"""Score files of Retrieval_Head are read, written and compared; `heads` writes them of the strongest heads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from one_place import questions
from scipy.stats import hypergeom, spearmanr
from tiny_study import save_tiny_base

from retrieval_heads import forced_exact, load_model, retrieval_scores
from retrieval_heads.cli import main
from retrieval_heads.data.jsonl import read_examples, write_examples
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.heads.exchange import read_scores, score_agreement, write_scores
from retrieval_heads.models.layout import head_layout
from retrieval_heads.tables import follow, verb_tables

GOOD = {"0-0": [0.5, 1.0], "0-1": [0, 0], "1-0": [0.25, 0.25], "1-1": [0.0, 0.2]}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_means_and_counts_of_a_file_and_of_a_mapping(tmp_path):
    for source in (GOOD, write(tmp_path / "scores.json", GOOD), str(tmp_path / "scores.json")):
        found = read_scores(source, (2, 2))
        assert found.scores.dtype == np.float32
        np.testing.assert_allclose(found.scores, [[0.75, 0], [0.25, 0.1]])
        assert found.counts.tolist() == [[2, 2], [2, 2]]
    assert np.asarray(found).shape == (2, 2)


def test_our_scores_come_back_as_they_were_written(tmp_path, tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    scores = retrieval_scores(model, tiny_tokenizer, tiny_examples, kind="insight")
    path = tmp_path / "deep" / "scores.json"
    for _ in range(2):  # the second time replaces, and does not append
        write_scores(path, scores)
    found = read_scores(path, head_layout(model))
    np.testing.assert_allclose(found.scores, scores.scores, atol=1e-7)
    assert found.scores.any()
    assert (found.counts == len(tiny_examples)).all()
    assert json.loads(path.read_text())["2-3"] == scores.per_example[:, 2, 3].tolist()
    write_scores(path, scores.scores)
    np.testing.assert_array_equal(read_scores(path).scores, scores.scores)


def test_oddities_of_published_files_are_said_and_do_no_harm():
    with pytest.warns(UserWarning, match="1 to 3 scores"):
        found = read_scores(GOOD | {"0-1": [0.1, 0.2, 0.3], "1-0": [0.5]})
    np.testing.assert_allclose(found.scores, [[0.75, 0.2], [0.5, 0.1]])
    assert found.counts.tolist() == [[2, 3], [1, 2]]
    with pytest.warns(UserWarning, match="second half of every list repeats"):
        found = read_scores({head: scores * 2 for head, scores in GOOD.items()})
    np.testing.assert_allclose(found.scores, [[0.75, 0], [0.25, 0.1]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0-0": [0.1', "not JSON"), ("[1, 2]", "no scores by head"), ("{}", "no scores by head"),
        ({"layer0": [0.1]}, "layer0.*as in 12-3"),
        *(({"0-0": [0.1], name: [0.1]}, "names no head")
          for name in ("12", "12-", "-3", "a-b", "1-2-3", "1 - 2", "1--2", "")),
        ('{"0-0": [0.1], "0-0": [0.2]}', "0-0: a head twice"), ({"0-0": [0.1], "00-0": [0.1]}, "a head twice"),
        *(({"0-0": values}, "not a list of scores") for values in ([], 0.1, {"a": 1}, None)),
        ('{"0-0": [0.1, NaN]}', "item 1: not a finite number"), ('{"0-0": [1e999]}', "not a finite number"),
        ({"0-0": [True]}, "not a finite number"), ({"0-0": ["0.1"]}, "not a finite number"),
        ({key: GOOD[key] for key in ("0-0", "0-1", "1-1")}, "1 of 2 x 2 heads.*1-0"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, capsys, content, message):
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(DataError, match=message) as error:
        read_scores(path)
    assert str(path) in str(error.value)
    assert main(["compare-scores", str(path), str(path)]) == 2
    assert "error: " in capsys.readouterr().err


def test_files_that_are_none_and_other_models(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not JSON"):
        read_scores(tmp_path / "binary.json")
    for shape, message in (((1, 2), "has 1 layers of 2 heads"), ((2, 3), "2 of 2 x 3 heads.*0-2")):
        with pytest.raises(DataError, match=message):
            read_scores(GOOD, shape)


@pytest.mark.parametrize("scores", [np.zeros(3), np.full((2, 2), np.nan), np.zeros((0, 2, 2))])
def test_scores_that_are_none_are_not_written(tmp_path, scores):
    with pytest.raises(DataError, match="not finite scores"):
        write_scores(tmp_path / "scores.json", scores)
    assert not list(tmp_path.iterdir())


def test_agreement_by_hand():
    rng = np.random.default_rng(0)
    one = rng.random((6, 8))
    two = one + rng.normal(0, 0.2, one.shape).clip(-one)
    table = score_agreement(one, two, 0.7, (5, 40)).set_index("measure")
    assert table.value["spearman"] == pytest.approx(spearmanr(one.ravel(), two.ravel()).statistic)
    best = [set(np.argsort(-scores.ravel())[:5].tolist()) for scores in (one, two)]
    common = len(best[0] & best[1])
    assert table.value["top 5"] == pytest.approx(common / 5)
    assert table.chance["top 5"] == pytest.approx(5 / 48)
    assert table.p["top 5"] == pytest.approx(hypergeom(48, 5, 5).sf(common - 1))
    above = [set(np.flatnonzero(scores.ravel() > 0.7).tolist()) for scores in (one, two)]
    assert table.value["jaccard"] == pytest.approx(len(above[0] & above[1]) / len(above[0] | above[1]))
    assert table.value["recall"] == pytest.approx(len(above[0] & above[1]) / len(above[0]))
    assert table.chance["precision"] == pytest.approx(len(above[0]) / 48)
    assert table.low["jaccard"] <= table.chance["jaccard"] <= table.high["jaccard"]


def test_agreement_where_there_is_little_to_compare():
    few, none = np.zeros((4, 4)), np.zeros((4, 4))
    few[1, 2] = 0.4
    table = score_agreement(few, none, top=(1,)).set_index("measure")
    assert "top 1" not in table.index  # the best of nothing are the first in order
    assert np.isnan(table.value["spearman"])
    assert table.value["recall"] == 0
    assert np.isnan(table.value["precision"])
    for settings in ({"top": (0,)}, {"threshold": np.nan}):
        with pytest.raises(ConfigError):
            score_agreement(few, few, **settings)


def test_the_command_prints_both_files_and_each_measure(tmp_path, capsys):
    rng = np.random.default_rng(3)
    table = rng.random((12, 4, 8)) ** 4
    paths = [str(tmp_path / f"{name}.json") for name in ("one", "two")]
    write_scores(paths[0], table)
    write_scores(paths[1], np.concatenate([table[:6], table[:6]]))
    assert main(["compare-scores", *paths, "--threshold", "0.25"]) == 0
    out, err = capsys.readouterr()
    assert f"{paths[0]}: 4 layers x 8 heads, 12 scores each" in out
    assert err.startswith(f"warning: {paths[1]}: the second half of every list")
    found = score_agreement(read_scores(paths[0]), table[:6].mean(0), 0.25).set_index("measure")
    for measure, words in (("spearman", "Spearman, all heads"), ("top 10", "top 10"), ("jaccard", "jaccard, heads")):
        [line] = [line for line in out.splitlines() if words in line]
        assert f"{found.value[measure]:.3f}" in line
    write_scores(paths[1], table[:, :3])
    assert main(["compare-scores", *paths]) == 2
    assert "4 layers x 8 heads cannot be compared with 3 x 8" in capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    save_tiny_base(folder / "base")
    write_examples(folder / "own.jsonl", questions([0, 1, 2, 0]))
    return folder


def line(folder: Path, *more: object) -> list[str]:
    return ["heads", str(folder / "own.jsonl"), "--model", str(folder / "base"), "--device", "cpu", *map(str, more)]


def test_table_map_and_exchange_hold_the_scores(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(line(folder, "--kind", "insight", "--top", 3, "--out", out)) == 0
    said = capsys.readouterr().out
    model, tokenizer = load_model(folder / "base")
    scores = retrieval_scores(model, tokenizer, read_examples(folder / "own.jsonl"), kind="insight")
    table = pd.read_csv(out / "head_scores.csv")
    assert len(follow(verb_tables()["heads"]["head_scores"], table, "head_scores.csv")) == scores.scores.size
    found = table.pivot(index="layer", columns="head", values="score").to_numpy()
    np.testing.assert_allclose(found, scores.scores, atol=2e-6)
    assert table["score"].is_monotonic_decreasing
    np.testing.assert_allclose(read_scores(out / "retrieval_head.json").scores, scores.scores, atol=1e-6)
    assert (out / "head_map.png").read_bytes().startswith(b"\x89PNG")
    strongest = f"{table['layer'][0]}-{table['head'][0]}"
    assert f"\n{strongest:<10}  {table['score'][0]:5.3f}  {table['chance'][0]:6.3f}" in said
    assert sum("-" in text.split("  ")[0] for text in said.splitlines()[5:8]) == 3
    assert "insight scores of 2 x 4 heads on 4 examples" in said


def test_nothing_is_written_without_a_folder(folder: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(line(folder, "--limit", 2)) == 0
    assert "copy scores of 2 x 4 heads on 2 examples" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("more", "message"), [
    (("--top", "0"), "--top: less than one"), (("--model", "nowhere"), "hf download"),
    (("--adapter", "nowhere"), "nowhere"),
])
def test_wrong_arguments_are_one_line(folder: Path, capsys, more, message: str):
    assert main(line(folder, *more)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_scores_print_in_a_few_lines(folder: Path):
    model, tokenizer = load_model(folder / "base")
    examples = read_examples(folder / "own.jsonl")
    text = repr(retrieval_scores(model, tokenizer, [*examples, examples[0].__class__("own", "No needle.", "x")]))
    assert len(text.splitlines()) <= 5
    assert "2 layers x 4 heads" in text
    assert "4 examples used, 1 left out (no needle)" in text


def test_an_answer_can_be_right_without_its_end(folder: Path):
    model, tokenizer = load_model(folder / "base")
    [example] = read_examples(folder / "own.jsonl", limit=1)
    whole, without = (forced_exact(model, tokenizer, [example], end=end) for end in (True, False))
    assert not whole.any()  # a random model
    assert not without.any()
    # the model's own first token is a right answer of one token, which it does not end
    ids = tokenizer(example.prompt + " ", return_tensors="pt")["input_ids"][:, :-1]
    first = tokenizer.decode(model(ids).logits[0, -1].argmax())
    own = example.__class__(example.task, example.prompt, first, joint="")
    both = [forced_exact(model, tokenizer, [own], end=end).tolist() for end in (False, True)]
    assert both in ([[True], [False]], [[False], [False]])
