"""The parts that train the base model: causal attention, optimizers, dropping of heads, and the log."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from pretrain import make_base
from pretrain.causal import IMPLEMENTATION, attention_of
from pretrain.head_dropout import head_dropout
from pretrain.optimizers import Optimizers
from pretrain.train import PretrainSettings, pretrain
from pretrain.train_log import TrainLog
from tiny_passes import n_hooks
from torch import nn

from conftest import FAMILIES
from retrieval_heads import cli, paths
from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import ModelError
from retrieval_heads.heads.hooks import record_head_outputs
from retrieval_heads.models.layout import head_layout
from retrieval_heads.stages.base import TRAIN_LOG, read_log

IDS = torch.tensor([[1, *range(40, 63)], [1, *range(80, 103)]])


def logits_of(model, **inputs):
    with torch.no_grad():
        return model(**({"input_ids": IDS} | inputs)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_attention_gives_the_logits_of_plain_sdpa(tiny_model, family):
    model = tiny_model(family)
    expected = logits_of(model)
    with attention_of(model, IMPLEMENTATION):
        assert model.config._attn_implementation == IMPLEMENTATION
        torch.testing.assert_close(logits_of(model), expected)
        # padding on the right is seen by nobody before it
        mask = torch.ones_like(IDS)
        mask[1, -6:] = 0
        torch.testing.assert_close(logits_of(model, attention_mask=mask)[1, :-6], expected[1, :-6])
    assert torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_the_attention_of_before_is_back_after_an_exception(tiny_model, before):
    model = tiny_model("llama", attn_implementation=before)
    inside = []

    def fail():
        with attention_of(model, IMPLEMENTATION):
            with attention_of(model, "sdpa"):
                inside.append(model.config._attn_implementation)
            inside.append(model.config._attn_implementation)
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    assert inside == ["sdpa", IMPLEMENTATION]
    assert model.config._attn_implementation == before


def with_gradients(model: nn.Module, value: float | None = None) -> dict[str, torch.Tensor]:
    """Give every parameter a gradient, random or of one value; returns copies of the parameters."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        if value is not None:
            parameter.grad.fill_(value)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moves(model: nn.Module, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])  # norms alone, biases too, norms of heads
def test_every_parameter_is_moved_by_exactly_one_optimizer(tiny_model, family, tied):
    model = tiny_model(family, tie_word_embeddings=tied)
    optimizers = Optimizers(model, lr=1e-2, muon_lr=1e-2, weight_decay=0.0)
    muon, adamw = optimizers._each
    held = [id(p) for each in (muon, adamw) for group in each.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}
    in_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in in_muon}
    assert len(names) == 3 * 7  # four projections of the attention and three of the MLP, in three layers
    assert all("_proj.weight" in name for name in names)
    before = with_gradients(model)
    optimizers.step(1.0)
    assert all(move.abs().max() > 0 for move in moves(model, before).values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_norms_and_biases_have_no_weight_decay(tiny_model):
    model = tiny_model("qwen2")
    for parameter in model.parameters():
        parameter.data += 0.5  # biases start at 0, where a decay would not show
    before = with_gradients(model, 0.0)
    Optimizers(model, lr=1e-2, muon_lr=3e-2, weight_decay=0.1).step(1.0)
    kept = {name for name, move in moves(model, before).items() if not move.any()}
    assert kept == {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    assert {name.split(".")[-1] for name in kept} == {"weight", "bias"}
    for name, lr in (("model.layers.0.mlp.up_proj.weight", 3e-2), ("model.embed_tokens.weight", 1e-2)):
        torch.testing.assert_close(dict(model.named_parameters())[name].detach(), before[name] * (1 - lr * 0.1))


def test_a_step_moves_in_proportion_to_its_rate_and_a_rate_of_zero_moves_nothing(tiny_model):
    found = {}
    for rate in (1.0, 0.25, 0.0):
        model = tiny_model("llama")
        before = with_gradients(model)
        Optimizers(model, lr=1e-3, muon_lr=3e-3, weight_decay=0.0).step(rate)
        found[rate] = moves(model, before)
    for name, move in found[1.0].items():
        assert not found[0.0][name].any()
        torch.testing.assert_close(found[0.25][name], move / 4, rtol=1e-2, atol=1e-6)


def test_dropping_of_heads_ends_with_its_block_also_after_an_exception(tiny_model):
    model = tiny_model("llama").train()
    expected, inside = logits_of(model), []

    def fail():
        with head_dropout(model, 0.4):
            inside.extend([n_hooks(model), logits_of(model)])
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        fail()
    assert inside[0] == head_layout(model).n_layers
    assert not torch.equal(inside[1], expected)
    assert n_hooks(model) == 0
    assert torch.equal(logits_of(model), expected)


def test_dropping_of_heads_has_no_effect_in_evaluation_mode(tiny_model):
    model = tiny_model("llama")
    expected = logits_of(model)
    with head_dropout(model, 0.4, 1.0):
        assert torch.equal(logits_of(model), expected)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_whole_heads_are_dropped_and_what_is_kept_has_the_same_mean(tiny_model, family):
    model = tiny_model(family).train()
    draws, tokens, heads = 3000, 4, 4
    ids = IDS[:1, :tokens].repeat(draws, 1)
    with record_head_outputs(model) as outputs:
        logits_of(model, input_ids=ids[:1])
        whole = outputs[0][0].clone()  # [tokens, heads, head_dim]
    torch.manual_seed(0)
    with head_dropout(model, 0.2), record_head_outputs(model) as outputs:
        logits_of(model, input_ids=ids)
        found = outputs[0].clone()  # [draws, tokens, heads, head_dim]; the first layer's input is the same in all
    factor = (found / whole).mean(dim=(1, 3))  # [draws, heads]
    torch.testing.assert_close(found, factor[:, None, :, None] * whole, rtol=1e-3, atol=1e-4)
    kept = factor > 0.5
    assert 0.15 < 1 - kept.float().mean() < 0.25
    assert kept.all(dim=1).any()
    assert (kept.sum(dim=1) < heads - 1).any()
    torch.testing.assert_close(factor.mean(dim=0), torch.ones(heads), rtol=0, atol=0.04)


def test_whole_layers_are_dropped_at_the_second_rate(tiny_model):
    model = tiny_model("llama").train()
    torch.manual_seed(0)
    with head_dropout(model, 0.0, 0.3), record_head_outputs(model) as outputs:
        logits_of(model, input_ids=IDS[:1, :3].repeat(1000, 1))
    for layer in range(3):
        silent = (outputs[layer].abs().amax(dim=(1, 3)) == 0)  # [draws, heads]
        assert torch.equal(silent.all(dim=1), silent.any(dim=1))
        assert 0.25 < silent.float().mean() < 0.35


def test_the_log_survives_its_file_and_a_resumed_part_goes_on_counting(tmp_path, capsys):
    log = TrainLog()
    assert log.end() == {"step": 0, "tokens": 0, "seconds": 0}
    for part, (seed, losses) in enumerate([(0, (2.5, 1.25)), (1, (1.123456789,))]):
        log = log if part == 0 else TrainLog(*read_log(tmp_path))
        log.settings.append({"seed": seed, "short": [0.9, 0.3]})
        start = log.end()
        for number, loss in enumerate(losses, start=1):
            log.add(start, 100 * number, 5000 * number, 7.04 * number, loss=loss)
        log.save(tmp_path)
        assert TrainLog(*read_log(tmp_path)) == log
    assert [row["step"] for row in log.rows] == [100, 200, 300]
    assert [row["tokens"] for row in log.rows] == [5000, 10_000, 15_000]
    assert [row["seconds"] for row in log.rows] == [7.0, 14.1, 21.1]
    assert [row["loss"] for row in log.rows] == [2.5, 1.25, 1.12346]
    assert [part["seed"] for part in log.settings] == [0, 1]
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.parametrize("text", [None, "{", "[]", '{"settings": []}', '{"settings": 1, "log": []}'])
def test_a_log_that_is_missing_or_broken_is_one_error(tmp_path, text):
    if text is not None:
        (tmp_path / TRAIN_LOG).write_text(text)
    with pytest.raises(ModelError, match=rf"{TRAIN_LOG}: (the base model has no|not a readable) training log.*\. \w+"):
        read_log(tmp_path)


def test_two_steps_of_training_move_the_model_and_leave_it_as_it_was_set_up(tiny_model, tmp_path):
    tokenizer, log = embedded_tokenizer(), TrainLog()
    model = tiny_model("llama", vocab_size=len(embedded_tokenizer()), initializer_range=0.02)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = PretrainSettings(steps=2, batch=2, length=256, warmup=1, workers=0, compile=False, seconds=600)
    for _ in range(2):
        pretrain(model, tokenizer, tmp_path, settings, "cpu", lambda trained: {"score": 0.5}, log)
    assert all(move.abs().max() > 0 for move in moves(model, before).values())
    assert all(torch.isfinite(parameter).all() for parameter in chain(model.parameters(), model.buffers()))
    assert n_hooks(model) == 0
    assert model.config._attn_implementation == "sdpa"
    assert [(row["step"], row["tokens"], row["score"]) for row in read_log(tmp_path)[1]] == [
        (2, 1024, 0.5), (4, 2048, 0.5)]


def test_the_verb_finds_the_tools_of_the_checkout_and_says_so_without_one(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(make_base, "train_base", lambda *given, **more: asked.append((*given, more)))
    line = ["pretrain", "--out", str(tmp_path), "--seconds", "7", "--device", "cpu", "--no-compile"]
    assert cli.main(line) == 0
    [(out, settings, device, more)] = asked
    assert (out, settings.seconds, settings.compile, device, more) == (tmp_path, 7.0, False, "cpu", {"resume": False})
    monkeypatch.setattr(paths, "checkout", lambda: None)
    assert cli.main(line) == 2
    assert "installed without them" in capsys.readouterr().err
