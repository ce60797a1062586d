"""Logit contribution and attention from the question: beside a slow computation that shares no code with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import FAMILIES
from retrieval_heads.attention.capture import capture_attention
from retrieval_heads.data.encode import encode_all
from retrieval_heads.heads.contribution import Contribution, DirectPath
from retrieval_heads.heads.readout import displaced_spans
from retrieval_heads.heads.scores import score_heads


def adapted(model):
    """The model with adapters on values and outputs that do something."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["v_proj", "o_proj"], init_lora_weights=False)
    return get_peft_model(model, config).eval()


def written_by_hand(model, encoded) -> np.ndarray:
    """`[n_layers, n_heads]` of one example: eager attention, merged weights, a loop over heads, rows and keys."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.set_attn_implementation("eager")
    values = {}
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda _, args, output, at=index: values.update({at: output}))
        for index, layer in enumerate(merged.model.layers)
    ]
    with torch.no_grad():
        output = merged(input_ids=torch.tensor([encoded.ids]), output_attentions=True)
    for hook in hooks:
        hook.remove()
    config, needles, displaced = merged.config, encoded.needle_mask(), displaced_spans(encoded)
    group, size = config.num_attention_heads // config.num_key_value_heads, merged.model.layers[0].self_attn.head_dim
    scale = merged.model.norm.weight + (1 if type(merged).__name__.startswith("Gemma") else 0)
    found = np.zeros((config.num_hidden_layers, config.num_attention_heads))
    for layer, head in np.ndindex(*found.shape):
        value = values[layer][0, :, head // group * size : (head // group + 1) * size]
        weight = merged.model.layers[layer].self_attn.o_proj.weight[:, head * size : (head + 1) * size]
        for row in encoded.query_rows:
            direction = merged.get_output_embeddings().weight[encoded.ids[row + 1]] * scale
            for key in range(row + 1):
                amount = float(needles[key]) - displaced[key]
                attention = output.attentions[layer][0, head, row, key]
                found[layer, head] += amount * (attention * (direction @ (weight @ value[key]))).item()
    return found / encoded.answer_length


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [False, True])
def test_contribution_is_what_the_definition_says(tiny_model, tiny_tokenizer, tiny_examples, family, lora):
    examples = tiny_examples[:2]
    model = adapted(tiny_model(family)) if lora else tiny_model(family)
    scores = score_heads(model, tiny_tokenizer, examples)["copy"]
    by_hand = np.stack([written_by_hand(model, one) for one in encode_all(examples, tiny_tokenizer)])
    assert np.abs(by_hand).max() > 1e-4
    assert np.abs(by_hand[0] - by_hand[1]).max() > 1e-3
    np.testing.assert_allclose(scores.contribution_per_example, by_hand, atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(scores.contribution, by_hand.mean(axis=0), atol=1e-5, rtol=1e-3)


# how each family's norms store their weight, whether the final one centres, and the norm behind the attention
PLAIN, LESS_ONE = (lambda weight: weight), (lambda weight: weight + 1)
STEPS = {
    "granite": (PLAIN, False, None), "cohere": (PLAIN, True, None), "cohere2": (PLAIN, True, None),
    "olmo": (lambda weight: 1.0, True, None), "starcoder2": (PLAIN, True, None), "stablelm": (PLAIN, True, None),
    "nemotron": (LESS_ONE, True, None), "gemma3_text": (LESS_ONE, False, "post_attention_layernorm"),
    "olmo2": (PLAIN, False, "post_attention_layernorm"), "glm4": (PLAIN, False, "post_self_attn_layernorm"),
    "exaone4": (PLAIN, False, "post_attention_layernorm"),
}


@pytest.mark.parametrize("family", STEPS)
@torch.no_grad()
def test_direct_effect_through_the_norms_of_a_family(tiny_model, tiny_tokenizer, tiny_examples, family):
    """Each head alone, through the steps that the family's code has, with every division held at that of the pass."""
    given, centres, behind = STEPS[family]
    more = {"residual_multiplier": 0.3, "logits_scaling": 2.0} if family == "granite" else {}
    model = tiny_model(family, head_dim=8, **more)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases that do something
            torch.manual_seed(len(name))
            parameter += 0.5 * torch.randn_like(parameter)
    [encoded] = encode_all(tiny_examples[:1], tiny_tokenizer)
    path, row = DirectPath(model), encoded.prompt_length - 1
    assert not path.reason
    ids, target = torch.tensor([encoded.ids[: row + 1]]), torch.tensor([[encoded.ids[row + 1]]])
    heads, ones = {}, torch.ones(1, row + 1)
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args, at=index: heads.update({at: args[0][0, -1]}))
        for index, layer in enumerate(model.model.layers)
    ]
    contribution = Contribution(path, target, ones)

    def reduce(probabilities, value, layer):
        return contribution(probabilities, value, layer, (probabilities, value))

    with capture_attention(model, torch.tensor([[row]]), reduce) as found:
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    unembedding = model.get_output_embeddings().weight[target[0, 0]]
    for index, layer in enumerate(model.model.layers):
        projection, parts = layer.self_attn.o_proj, torch.diag_embed(torch.ones(4)).repeat_interleave(8, 1)
        written = projection(heads[index] * parts) - projection(torch.zeros(32))
        if behind:
            norm = getattr(layer, behind)
            written = written * given(norm.weight) / projection(heads[index]).square().mean().sqrt()
        written = written * more.get("residual_multiplier", 1.0)
        if centres:
            written = written - written.mean(-1, keepdim=True)
        by_hand = written @ (unembedding * given(getattr(model.model.norm, "weight", None)))
        assert by_hand.abs().max() > 1e-2
        torch.testing.assert_close(found[index][0, :, 0], by_hand, rtol=1e-3, atol=1e-3)


def test_without_a_linear_path_there_is_no_contribution(tiny_model, tiny_tokenizer, tiny_examples):
    scores = score_heads(tiny_model("bitnet", head_dim=8), tiny_tokenizer, tiny_examples)["copy"]
    assert np.isnan(scores.contribution).all()
    assert "between the attention and `o_proj`" in scores.contribution_reason
    assert np.isfinite(scores.scores).all()


@pytest.mark.parametrize("change", ["stream", "final"])
def test_what_is_no_step_is_found_wherever_it_stands(tiny_model, tiny_tokenizer, tiny_examples, change):
    model = tiny_model("llama")
    place = model.model.layers[1] if change == "stream" else model.model.norm
    factor = torch.linspace(0.5, 1.5, 32)
    place.register_forward_hook(lambda module, args, output: factor * output if change == "stream" else output**3)
    scores = score_heads(model, tiny_tokenizer, tiny_examples)["copy"]
    assert np.isnan(scores.contribution).all()
    assert scores.contribution_reason


def test_contribution_and_question_do_not_depend_on_the_batch(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    single, batched = (
        score_heads(model, tiny_tokenizer, tiny_examples, batch_size=size)["insight"] for size in (1, 4)
    )
    np.testing.assert_allclose(single.contribution, batched.contribution, atol=1e-6)
    np.testing.assert_allclose(single.query_mass, batched.query_mass, atol=1e-6)
    np.testing.assert_allclose(single.contribution_per_example, batched.contribution_per_example, atol=1e-6)


def test_an_example_without_question_or_room_counts_for_nothing(tiny_model, tiny_tokenizer, tiny_examples):
    model, example = tiny_model("llama"), tiny_examples[0]
    other = replace(example, prompt=example.prompt.replace("Question:", "I ask:"))
    crowded = replace(example, needles=((0, len(example.prompt)),))
    alone, without, full = (score_heads(model, tiny_tokenizer, [one])["copy"] for one in (example, other, crowded))
    assert np.isnan(without.query_mass).all()
    assert np.isfinite(without.contribution).all()
    assert np.isnan(full.contribution).all()
    assert np.isfinite(full.query_mass).all()
    together = score_heads(model, tiny_tokenizer, [other, example, crowded])["copy"]
    np.testing.assert_allclose(together.query_mass, (alone.query_mass + full.query_mass) / 2, atol=1e-6)
    np.testing.assert_allclose(together.contribution, (alone.contribution + without.contribution) / 2, atol=1e-6)
    assert np.isnan(together.contribution_per_example).all(axis=(1, 2)).tolist() == [False, False, True]


def test_question_mass_is_the_mean_attention_from_the_question(tiny_model, tiny_tokenizer, tiny_examples):
    model, example = tiny_model("llama"), tiny_examples[0]
    [encoded] = encode_all([example], tiny_tokenizer)
    assert encoded.question is not None
    text = tiny_tokenizer.decode(encoded.ids[encoded.question : encoded.prompt_length])
    assert text.strip().startswith("Question:")
    scores = score_heads(model, tiny_tokenizer, [example])["copy"]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(input_ids=torch.tensor([encoded.ids]), output_attentions=True).attentions
    rows = slice(encoded.question, encoded.prompt_length)
    by_hand = torch.stack([layer[0, :, rows] @ torch.tensor(encoded.needle_mask()).float() for layer in attentions])
    np.testing.assert_allclose(scores.query_mass, by_hand.mean(-1).numpy(), atol=1e-6)


def test_a_value_across_the_token_contributes_nothing_and_twice_the_value_twice(tiny_model):
    model = tiny_model("llama")
    layout = model.config
    probabilities = torch.rand(1, layout.num_attention_heads, 1, 3)
    size = model.model.layers[0].self_attn.head_dim
    value = torch.randn(1, layout.num_key_value_heads, 3, size)
    contribution = Contribution(DirectPath(model), torch.tensor([[7]]), torch.tensor([[1.0, 0.0, 0.0]]))
    once = contribution(probabilities, value, 0, (probabilities, value))
    torch.testing.assert_close(contribution(probabilities, 2 * value, 0, (probabilities, value)), 2 * once)
    group = layout.num_attention_heads // layout.num_key_value_heads
    wanted = (contribution.directions @ model.model.layers[0].self_attn.o_proj.weight)[0, 0].view(-1, size)
    for head in range(layout.num_attention_heads):
        across = value.clone()
        own = across[0, head // group]
        own -= (own @ wanted[head])[:, None] * wanted[head] / (wanted[head] @ wanted[head])
        nothing = contribution(probabilities, across, 0, (probabilities, across))
        assert abs(nothing[0, head, 0]) < 1e-6 < abs(once[0, head, 0])
