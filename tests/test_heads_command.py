"""`heads`: the strongest heads of a model beside chance, the same as those of `retrieval_scores`, in three files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from one_place import questions
from tiny_study import save_tiny_base

from retrieval_heads import forced_exact, load_model, retrieval_scores
from retrieval_heads.cli import main
from retrieval_heads.data.jsonl import read_examples, write_examples
from retrieval_heads.heads.exchange import read_scores
from retrieval_heads.tables import follow, verb_tables


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
