"""RoPE that depends on the length of the input: no result depends on the batch, on what ran before, or on the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_folders import make_adapter, save_model, settings

from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ModelError
from retrieval_heads.evaluation import answer_losses, forced_exact, greedy_answers
from retrieval_heads.heads.ablate import mean_head_outputs, text_losses
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep
from retrieval_heads.models.load import load_model
from retrieval_heads.models.modes import one_length
from retrieval_heads.training.finetune import finetune


def longrope(pairs: int) -> dict:
    return {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 100, "factor": 10.0,
            "short_factor": [1 + 0.1 * one for one in range(pairs)], "long_factor": [9.0 + one for one in range(pairs)]}


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 12.0}
KINDS = {
    "dynamic": ("llama", {"max_position_embeddings": 64, "rope_parameters": DYNAMIC}),
    "longrope": ("llama", {"rope_parameters": longrope(6)}),
    "phi3": ("phi3", {"rope_parameters": longrope(4), "head_dim": 8, "original_max_position_embeddings": 100}),
    "a kind a layer": ("gemma3_text", {"head_dim": 12, "max_position_embeddings": 64, "rope_parameters": {
        "full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
        "layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 40}),
}
LENGTH = 700


@pytest.fixture(params=KINDS)
def model(tiny_model, request):
    family, overrides = KINDS[request.param]
    return tiny_model(family, **overrides)


@pytest.fixture(scope="module")
def examples(tiny_examples, tiny_tokenizer):
    lengths = [len(one.ids) for one in encode_all(tiny_examples, tiny_tokenizer)]
    assert min(lengths) < 100 < max(lengths)  # on both sides of what the models were made for
    return tiny_examples


def read(model, tokenizer, examples, batch_size) -> dict[str, np.ndarray]:
    """What is read of each example, `[n, ...]`, in batches of this size."""
    how = {"batch_size": batch_size, "max_length": LENGTH}
    scores = score_heads(model, tokenizer, examples, **how)["copy"]
    own = score_heads(model, tokenizer, examples, mode="generated", max_new_tokens=4, **how)["insight"]
    return {
        "scores": scores.per_example, "contribution": scores.contribution_per_example, "own": own.per_example,
        "losses": answer_losses(model, tokenizer, examples, **how),
        "exact": forced_exact(model, tokenizer, examples, **how),
        "answers": np.array(greedy_answers(model, tokenizer, examples, max_new_tokens=12, **how)),
    }


def same(one, other) -> None:
    for what, values in one.items():
        if values.dtype.kind in "Ub":
            assert values.tolist() == other[what].tolist()
        else:
            np.testing.assert_allclose(values, other[what], atol=1e-4, rtol=1e-3, err_msg=what)


def test_no_result_depends_on_the_batch_or_on_what_ran_before(model, tiny_tokenizer, examples):
    together = read(model, tiny_tokenizer, examples, 8)
    same(together, read(model, tiny_tokenizer, examples, 1))
    with torch.no_grad():
        model(input_ids=torch.ones(1, 900, dtype=torch.long))
    for index in (4, 0):
        alone = read(model, tiny_tokenizer, [examples[index]], 1)
        same(alone, {what: values[index : index + 1] for what, values in together.items()})


def test_a_cached_prompt_gives_what_the_whole_pass_gives(model, tiny_tokenizer, examples):
    losses = answer_losses(model, tiny_tokenizer, examples, max_length=LENGTH)

    def nll(some, scope) -> list[float]:
        rows = knockout_sweep(model, tiny_tokenizer, some, {"none": []}, "zero", scope, max_length=LENGTH)
        return [row["nll"] for row in rows]

    text = examples[4].prompt.replace("Question:", "\nQuestion:")
    haystack = [Example("mdqa", text.replace("what?", word), "Oslo") for word in ("what?", "who?")]
    np.testing.assert_allclose(nll(examples, "answer"), losses, atol=1e-4)
    for some in (examples, haystack):
        np.testing.assert_allclose(nll(some, "answer"), nll(some, "all"), atol=1e-4)
    patched = patch_sweep(model, model, tiny_tokenizer, examples, {"all": [(1, 2)]}, max_length=LENGTH)
    np.testing.assert_allclose([row["nll"] for row in patched], losses, atol=1e-4)


def test_means_and_losses_on_text_do_not_depend_on_what_ran_before(model, tiny_tokenizer, examples):
    def read() -> list[np.ndarray]:
        means = mean_head_outputs(model, tiny_tokenizer, examples[:1], max_length=LENGTH).numpy()
        return [means, text_losses(model, torch.arange(10, 60)[None], {"none": []})["none"]]

    before = read()
    with torch.no_grad():
        model(input_ids=torch.ones(1, 900, dtype=torch.long))
    for one, other in zip(before, read(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_frequencies_are_those_of_the_length_and_then_those_of_a_new_model(tiny_model):
    model = tiny_model("llama", **KINDS["dynamic"][1])
    rotary, positions, new = model.model.rotary_emb, torch.arange(10)[None], model.model.rotary_emb.inv_freq.clone()
    expected = rotary(torch.zeros(1), torch.arange(768)[None])[0][:, :10]  # 12 x 64
    short = rotary(torch.zeros(1), positions)[0]
    with one_length(model):
        torch.testing.assert_close(rotary(torch.zeros(1), positions)[0], expected)
    assert (short - expected).abs().max() > 0.1
    torch.testing.assert_close(rotary.inv_freq, new)
    assert not rotary._forward_hooks


def test_training_has_the_loss_that_is_read(tmp_path, tiny_model, tiny_tokenizer, examples):
    base = save_model(tmp_path / "base", tiny_model("llama", **KINDS["dynamic"][1]), tiny_tokenizer)
    encoded = encode_all([examples[0], examples[4]], tiny_tokenizer)
    how = {"rope_theta": 1e4, "max_length": LENGTH}
    record = finetune(base, encoded, tmp_path / "adapter", settings(batch_size=2, **how))
    model, _ = load_model(base, **how)
    losses = answer_losses(model, tiny_tokenizer, [examples[0], examples[4]])
    sizes = [len(one.ids) - one.prompt_length for one in encoded]
    assert record["loss"][0]["loss"] == pytest.approx(np.average(losses, weights=sizes), abs=1e-3)
    tuned, _ = load_model(base, tmp_path / "adapter")
    alone = [answer_losses(tuned, tiny_tokenizer, [one])[0] for one in examples]
    np.testing.assert_allclose(answer_losses(tuned, tiny_tokenizer, examples), alone, atol=1e-4)


def test_a_dynamic_length_is_not_raised(tmp_path, tiny_model, tiny_tokenizer):
    base = save_model(tmp_path / "base", tiny_model("llama", **KINDS["dynamic"][1]), tiny_tokenizer)
    load_model(base, max_length=768)
    for make in (lambda: load_model(base, max_length=769), lambda: make_adapter(base, tmp_path / "adapter", 1)):
        with pytest.raises(ModelError, match="dynamic RoPE reaches 768 tokens"):
            make()
