"""Token ids that a model does not have: the same error wherever examples meet it, and in `check` before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from retrieval_heads import cli
from retrieval_heads.data.encode import Spilled, encode_all
from retrieval_heads.errors import DataError
from retrieval_heads.evaluation import answer_losses, evaluate, forced_exact, greedy_answers
from retrieval_heads.heads.ablate import mean_head_outputs, text_losses
from retrieval_heads.heads.scores import score_encoded, score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep, source_answers
from retrieval_heads.models.load import load_tokenizer


@pytest.mark.parametrize("function", [
    evaluate, greedy_answers, forced_exact, answer_losses, score_heads, mean_head_outputs, source_answers,
    lambda *given: knockout_sweep(*given, {"none": []}), lambda *given: patch_sweep(given[0], *given, {"none": []}),
])
def test_token_ids_beyond_the_model_are_named(tiny_model, tiny_tokenizer, tiny_examples, function):
    model = tiny_model("llama", vocab_size=300)
    with pytest.raises(DataError, match=r"example tiny-0: a token id is beyond the 300 of the model \(got 3\d\d\)"):
        function(model, tiny_tokenizer, tiny_examples)


def test_a_small_head_on_a_large_embedding_has_the_ids_of_the_head(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    model.lm_head = torch.nn.Linear(32, 300, bias=False)
    with pytest.raises(DataError, match="beyond the 300 of the model"):
        forced_exact(model, tiny_tokenizer, tiny_examples)
    with pytest.raises(DataError, match="example 0: a token id is beyond the 300"):
        score_encoded(model, dict(enumerate(encode_all(tiny_examples, tiny_tokenizer))))
    with pytest.raises(DataError, match="row 0: a token id is beyond the 300"):
        text_losses(model, torch.tensor([[1, 399]]), {"none": []})


@pytest.fixture
def folder(tiny_model, tiny_tokenizer, tmp_path: Path) -> Path:
    """A model whose tokenizer has 100 ids more than it."""
    tiny_model("llama", vocab_size=300).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("nested", [False, True])
def test_a_loaded_tokenizer_knows_the_ids_of_its_model(folder: Path, tiny_examples, nested: bool):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    tokenizer = load_tokenizer(folder)
    with pytest.raises(DataError, match="example tiny-0: a token id is beyond the 300"):
        Spilled(tiny_examples, tokenizer)
    (folder / "config.json").unlink()  # a folder of a tokenizer alone
    assert len(Spilled(tiny_examples, load_tokenizer(folder))) == 5


@pytest.mark.parametrize("verb", ["check", "diagnose"])
def test_verbs_refuse_them_before_any_work(folder: Path, tmp_path: Path, capsys, verb: str):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"prompt": "The grass is green. What is green? Answer:", "answer": "grass"}) + "\n")
    out = tmp_path / "o"
    call = {"check": [str(path)], "diagnose": ["--train", f"a={path}", "--eval", str(path), "--out", str(out)]}
    assert cli.main([verb, *call[verb], "--model", str(folder), *["--n-probe", "1"] * (verb == "diagnose")]) == 2
    assert not out.exists()
    out, err = capsys.readouterr()
    assert ("beyond the 300 of the model" in out) == (verb == "check")
    assert "records are broken" in err if verb == "check" else "error" in err
