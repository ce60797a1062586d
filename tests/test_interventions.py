"""What all interventions share: the order of heads, heads that are not there, long prompts, and failures in a pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_passes import IDS, n_hooks, run

from retrieval_heads.errors import DataError, HeadError
from retrieval_heads.evaluation import evaluate, forced_exact, greedy_answers
from retrieval_heads.heads.ablate import MODES, ablate_heads, mean_head_outputs
from retrieval_heads.heads.hooks import record_head_outputs
from retrieval_heads.heads.patch import patch_heads
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep, source_answers

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


def state(model) -> tuple:
    """What an intervention may leave behind: hooks, the attention implementation, evaluation mode."""
    return n_hooks(model), model.config._attn_implementation, model.training


def means_of(model):
    with record_head_outputs(model) as outputs:
        run(model)
    return torch.stack([outputs[layer][0].mean(0) for layer in range(3)])


def blocks(target, source) -> dict[str, Callable]:
    """Every way to open a block in which heads are changed, by name."""
    means = means_of(target)
    made = {mode: lambda heads, mode=mode: ablate_heads(target, heads, mode, means=means) for mode in MODES}
    made["patch"] = lambda heads: patch_heads(target, source, heads)
    made["patch once"] = lambda heads: patch_heads(target, source, heads, inputs={"input_ids": IDS})
    return made


BLOCKS = [*MODES, "patch", "patch once"]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_order_of_heads_and_repetitions_change_no_bit(tiny_model, name):
    target = tiny_model("llama")
    block, found = blocks(target, tiny_model("llama", seed=1))[name], []
    for heads in (HEADS, HEADS[::-1], [*HEADS, HEADS[0]], iter(HEADS), set(HEADS)):
        with block(heads):
            found.append(run(target))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert (found[0] - run(target)).abs().max() > 1e-3


@pytest.mark.parametrize("head", [(3, 0), (-1, 0), (0, 4), (0, -1)])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_head_outside_the_model_is_refused_before_anything_is_run(tiny_model, name, head):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    block, before = blocks(target, source)[name], (state(target), state(source))
    message = rf"heads: the model has layers 0 to 2 and heads 0 to 3 \(got \({head[0]}, {head[1]}\)\)\. Take heads"
    with pytest.raises(HeadError, match=message), block([*HEADS, head]):
        pass
    assert (state(target), state(source)) == before


def test_sweeps_refuse_a_head_outside_the_model(tiny_model, tiny_tokenizer, tiny_examples):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    for sweep in (lambda sets: knockout_sweep(target, tiny_tokenizer, tiny_examples, sets),
                  lambda sets: patch_sweep(target, source, tiny_tokenizer, tiny_examples, sets)):
        with pytest.raises(HeadError, match=r"layers 0 to 2 and heads 0 to 3 \(got \(3, 0\)\)"):
            sweep({"none": [], "bad": [(0, 0), (3, 0)]})


def calls(target, source, tokenizer, examples) -> dict[str, Callable]:
    """Every public computation on examples, by name."""
    sets = {"none": [], "some": HEADS}
    return {
        "score_heads": lambda: score_heads(target, tokenizer, examples),
        "score_heads generated": lambda: score_heads(target, tokenizer, examples, mode="generated", max_new_tokens=2),
        "evaluate": lambda: evaluate(target, tokenizer, examples, n_resamples=10),
        "greedy_answers": lambda: greedy_answers(target, tokenizer, examples, max_new_tokens=2),
        "forced_exact": lambda: forced_exact(target, tokenizer, examples),
        "mean_head_outputs": lambda: mean_head_outputs(target, tokenizer, examples),
        "knockout answer": lambda: knockout_sweep(target, tokenizer, examples, sets, ("zero", "uniform")),
        "knockout all": lambda: knockout_sweep(target, tokenizer, examples, sets, "uniform", "all"),
        "source_answers": lambda: source_answers(target, tokenizer, examples),
        "patch": lambda: patch_sweep(target, source, tokenizer, examples, sets),
        "patch from a short source": lambda: patch_sweep(source, target, tokenizer, examples, sets),
    }


CALLS = list(calls(None, None, None, None))


@pytest.mark.parametrize("name", CALLS)
def test_a_prompt_longer_than_the_model_is_one_error(tiny_model, tiny_tokenizer, tiny_examples, name):
    short, long = tiny_model("llama", max_position_embeddings=60), tiny_model("llama", seed=1)
    call = calls(short, long, tiny_tokenizer, tiny_examples)[name]
    with pytest.raises(DataError, match=r"example tiny-\d: \d+ tokens are more than the allowed 60 \(got .*\)\. Make"):
        call()


@pytest.mark.parametrize("failing", ["first pass", "later pass"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_left_behind_when_a_pass_fails(tiny_model, tiny_tokenizer, tiny_examples, name, failing):
    target, source = tiny_model("llama"), tiny_model("llama", seed=1)
    expected, before = (run(target), run(source)), (state(target), state(source))
    passes = []

    def fail(*_):
        passes.append(1)
        if len(passes) > (failing == "later pass"):
            raise MemoryError("in the middle of a pass")

    handle = target.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(MemoryError, match="in the middle"):
        calls(target, source, tiny_tokenizer, tiny_examples * 2)[name]()  # two batches
    handle.remove()
    assert (state(target), state(source)) == before
    assert torch.equal(run(target), expected[0])
    assert torch.equal(run(source), expected[1])
