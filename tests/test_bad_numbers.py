"""Token ids that a model does not have, and NaN in weights, adapters and activations: the first place is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from model_folders import make_adapter, save_model, settings
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from retrieval_heads import cli, select_heads
from retrieval_heads.data.encode import Spilled, encode_all
from retrieval_heads.errors import DataError, ModelError
from retrieval_heads.evaluation import answer_losses, evaluate, forced_exact, greedy_answers
from retrieval_heads.heads.ablate import mean_head_outputs, text_losses
from retrieval_heads.heads.scores import score_encoded, score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep, source_answers
from retrieval_heads.models.load import load_model, load_tokenizer
from retrieval_heads.training.answer_trainer import IGNORED, collate
from retrieval_heads.training.finetune import finetune

HEADS = {"none": [], "one": [(0, 1)]}
USES = {
    "scores": lambda model, *data: select_heads(score_heads(model, *data)["copy"]),
    "own answers": lambda model, *data: score_heads(model, *data, mode="generated"),
    "evaluation": evaluate, "forced": forced_exact, "losses": answer_losses, "answers": greedy_answers,
    "knock-out": lambda model, *data: knockout_sweep(model, *data, HEADS),
    "whole knock-out": lambda model, *data: knockout_sweep(model, *data, HEADS, scope="all"),
    "patch": lambda model, *data: patch_sweep(model, model, *data, HEADS),
    "source": source_answers, "means": mean_head_outputs,
    "text": lambda model, *_: text_losses(model, torch.arange(10, 50).view(2, 20), HEADS),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_is_named(tiny_model, tiny_tokenizer, tiny_examples, use, value):
    model = tiny_model("llama")
    model.model.layers[1].self_attn.k_proj.weight.data[0, 0] = value
    with pytest.raises(ModelError, match=re.escape("model.layers.1.self_attn.k_proj.weight: a weight is NaN")):
        USES[use](model, tiny_tokenizer, tiny_examples)


@pytest.mark.parametrize("name", ["v_proj", "o_proj"])
def test_a_weight_of_the_last_layer_is_named(tiny_model, tiny_tokenizer, tiny_examples, name):
    """The pass that scores heads ends before it is used, but the contribution is made of it."""
    model = tiny_model("llama")
    getattr(model.model.layers[-1].self_attn, name).weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=f"layers.2.self_attn.{name}.weight"):
        score_heads(model, tiny_tokenizer, tiny_examples)


def test_a_weight_of_an_adapter_is_named(tiny_model, tiny_tokenizer, tiny_examples):
    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.model.model.layers[2].self_attn.q_proj.lora_B["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"layers.2.self_attn.q_proj.lora_B.default.weight"):
        score_heads(model, tiny_tokenizer, tiny_examples)


@pytest.mark.parametrize("use", ["scores", "losses", "answers", "knock-out"])
def test_an_overflow_of_float16_is_named(tiny_model, tiny_tokenizer, tiny_examples, use):
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data *= 1e4
    answer_losses(model, tiny_tokenizer, tiny_examples)  # in float32 it is a model like others
    with pytest.raises(ModelError, match=r"layers.1.mlp.*activations become NaN or infinite.*float16.*bfloat16"):
        USES[use](model.half(), tiny_tokenizer, tiny_examples)


def test_means_that_are_nan_are_not_laid_to_the_model(tiny_model, tiny_tokenizer, tiny_examples):
    means = torch.full((3, 4, 12), float("nan"))
    with pytest.raises(ModelError, match="the model alone is"):
        knockout_sweep(tiny_model("llama"), tiny_tokenizer, tiny_examples, HEADS, "mean", means=means)


def test_nothing_is_run_twice_where_all_is_finite(tiny_model, tiny_tokenizer, tiny_examples):
    model, passes = tiny_model("llama"), []
    model.get_input_embeddings().register_forward_pre_hook(lambda *_: passes.append(1))
    answer_losses(model, tiny_tokenizer, tiny_examples, batch_size=len(tiny_examples))
    assert len(passes) == 1


def test_files_of_adapters_and_bases(tmp_path, tiny_model, tiny_tokenizer, tiny_examples):
    base = save_model(tmp_path / "base", tiny_model("llama"), tiny_tokenizer)
    adapter = make_adapter(base, tmp_path / "adapter", 1)
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("inf")
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="weights of the adapter are NaN or infinite"):
        load_model(base, adapter)
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    broken = save_model(tmp_path / "broken", model, tiny_tokenizer)
    with pytest.raises(ModelError, match=r"layers.1.mlp.up_proj.weight: a weight of the base is NaN"):
        finetune(broken, encode_all(tiny_examples, tiny_tokenizer), tmp_path / "out", settings())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("use", [use for use in USES if use != "text"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_token_that_no_example_has_changes_nothing(tiny_model, tiny_tokenizer, tiny_examples, family, use):
    """Not as padding either, to which nothing attends: zero times NaN would be NaN."""
    used = {token for one in encode_all(tiny_examples, tiny_tokenizer) for token in one.ids}
    model = tiny_model(family)
    expected = USES[use](model, tiny_tokenizer, tiny_examples)
    for token in {0, 1, 2, 399} - used:
        model.model.embed_tokens.weight.data[token] = float("nan")
    assert model.model.embed_tokens.weight[0].isnan().all()
    found = USES[use](model, tiny_tokenizer, tiny_examples)
    if use == "own answers":
        expected, found = ([one.scores.tolist() for one in kinds.values()] for kinds in (expected, found))
    if use == "source":
        expected, found = ([one.metrics for one in answers] for answers in (expected, found))
    if isinstance(found, list):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_training_batches_hold_no_token_of_their_own(tiny_tokenizer, tiny_examples):
    encoded = encode_all(tiny_examples, tiny_tokenizer)
    batch = collate(encoded)
    for one, ids, labels in zip(encoded, batch["input_ids"], batch["labels"], strict=True):
        assert set(ids.tolist()) == set(one.ids)
        assert ids[: len(one.ids)].tolist() == list(one.ids)
        assert labels[labels != IGNORED].tolist() == list(one.ids[one.prompt_length :])


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
