"""Knock-out: each mode does what it says, at the heads and rows asked for, and nothing stays behind."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_passes import IDS, n_hooks, run
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from conftest import FAMILIES
from retrieval_heads.data.encode import encode_all
from retrieval_heads.errors import ConfigError, DataError, HeadError, ModelError
from retrieval_heads.heads.ablate import MODES, ablate_heads, mean_head_outputs
from retrieval_heads.heads.hooks import record_head_outputs
from retrieval_heads.models.layout import head_layout

HEADS = [(0, 1), (1, 0), (1, 3), (2, 2)]


def means_of(model):
    layout = head_layout(model)
    return torch.randn(layout.n_layers, layout.n_heads, layout.head_dim, generator=torch.Generator().manual_seed(3))


def with_lora(model):
    """Random adapter on q, k, v, o; both matrices non-zero, so that it matters."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                            init_lora_weights=False)
        return get_peft_model(model, config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_is_zeroing_the_columns_of_the_output_projection(tiny_model, family):
    model = tiny_model(family)
    cut = copy.deepcopy(model)
    layout = head_layout(cut)
    for layer, head in HEADS:
        columns = slice(head * layout.head_dim, (head + 1) * layout.head_dim)
        layout.attentions[layer].o_proj.weight.data[:, columns] = 0
    with ablate_heads(model, HEADS):
        ablated = run(model)
    torch.testing.assert_close(ablated, run(cut))
    assert (ablated - run(model)).abs().max() > 0.1


def test_every_head_of_a_size_unequal_to_width_over_heads_is_knocked_out(tiny_model):
    model = tiny_model("qwen3")
    layout = head_layout(model)
    assert layout.head_dim * layout.n_heads != model.config.hidden_size
    baseline = run(model)
    for layer in range(layout.n_layers):
        for head in range(layout.n_heads):
            with ablate_heads(model, [(layer, head)]), record_head_outputs(model) as outputs:
                assert (run(model) - baseline).abs().max() > 1e-3
            silent = (outputs[layer][0].abs().amax(-1) == 0).all(0)  # [n_heads]
            assert silent.nonzero().flatten().tolist() == [head]


def test_the_site_is_before_the_output_projection_mixes_the_heads(tiny_model):
    model = tiny_model("llama")
    attention, head_dim = head_layout(model).attentions[0], head_layout(model).head_dim

    def slice_after(module, args, output):
        output = output.clone()
        output[..., head_dim : 2 * head_dim] = 0
        return output

    handle = attention.o_proj.register_forward_hook(slice_after)
    sliced_after = run(model)
    handle.remove()
    with ablate_heads(model, [(0, 1)]):
        assert (run(model) - sliced_after).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_mean_writes_the_given_means_and_leaves_other_heads_alone(tiny_model, family):
    model, means = tiny_model(family), means_of(tiny_model(family))
    with record_head_outputs(model) as before:
        run(model)
    with ablate_heads(model, [(0, 1)], "mean", means=means), record_head_outputs(model) as after:
        run(model)
    assert torch.equal(after[0][:, :, 1], means[0, 1].expand(1, IDS.shape[1], -1))
    others = [0, 2, 3]
    assert torch.equal(after[0][:, :, others], before[0][:, :, others])
    assert not torch.equal(after[1], before[1])  # what follows does change


def test_means_are_those_of_the_rows_that_predict_the_answer(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    encoded = encode_all(tiny_examples, tiny_tokenizer)
    rows = {"answer": [], "all": []}
    for one in encoded:
        with record_head_outputs(model) as outputs:
            run(model, input_ids=torch.tensor([one.ids]))
        heads = torch.stack([outputs[layer][0] for layer in sorted(outputs)])  # [n_layers, n_rows, n_heads, head_dim]
        rows["answer"].append(heads[:, [*one.query_rows, one.query_rows[-1] + 1]])  # and the row that predicts <eos>
        rows["all"].append(heads[:, :-1])
    for scope, parts in rows.items():
        means = mean_head_outputs(model, tiny_tokenizer, tiny_examples, scope)
        assert means.dtype == torch.float32
        torch.testing.assert_close(means, torch.cat(parts, 1).mean(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_rows_are_even_and_differ_from_zero(tiny_model, family):
    model = tiny_model(family, attn_implementation="eager")
    with torch.no_grad(), ablate_heads(model, [(0, 1), (2, 3)], "uniform"):
        output = model(IDS, output_attentions=True)
    even = torch.ones(IDS.shape[1], IDS.shape[1]).tril() / torch.arange(1, IDS.shape[1] + 1)[:, None]
    for layer in range(3):
        is_even = [(output.attentions[layer][0, head] - even).abs().max() < 1e-6 for head in range(4)]
        assert is_even == [(layer, head) in [(0, 1), (2, 3)] for head in range(4)]
    with ablate_heads(model, [(0, 1), (2, 3)], "zero"):
        assert (run(model) - output.logits).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_uniform_output_is_the_running_mean_of_the_values_under_sdpa(tiny_model, family):
    model = tiny_model(family)
    layout, values = head_layout(model), []
    layout.attentions[0].v_proj.register_forward_hook(lambda module, args, output: values.append(output))
    with ablate_heads(model, [(0, 3)], "uniform"), record_head_outputs(model) as outputs:
        run(model)
    value = values[0].view(-1, layout.n_kv_heads, layout.head_dim)[:, 1]  # query head 3 reads key/value head 1
    expected = value.cumsum(0) / torch.arange(1, len(value) + 1)[:, None]
    torch.testing.assert_close(outputs[0][0, :, 3], expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_uniform_is_even_over_the_keys_that_window_and_padding_leave(tiny_model, implementation):
    model = tiny_model("mistral", sliding_window=5, attn_implementation=implementation)
    layout, values = head_layout(model), []
    ids, mask = IDS.repeat(2, 1), torch.ones(2, IDS.shape[1], dtype=torch.long)
    mask[1, :7] = 0  # padded on the left
    handle = layout.attentions[0].v_proj.register_forward_hook(lambda module, args, output: values.append(output))
    with ablate_heads(model, [(0, 0)], "uniform"), record_head_outputs(model) as outputs:
        run(model, input_ids=ids, attention_mask=mask)
    handle.remove()
    value = values[0].view(2, -1, layout.n_kv_heads, layout.head_dim)[:, :, 0]
    for row, first in ((0, 0), (1, 7)):
        for position in range(first, ids.shape[1]):
            seen = value[row, max(first, position - 4) : position + 1]
            torch.testing.assert_close(outputs[0][row, position, 0], seen.mean(0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_suffix_on_a_cached_prefix_gives_the_rows_of_the_whole_pass(tiny_model, family, mode):
    model, means = tiny_model(family), means_of(tiny_model(family))
    with ablate_heads(model, HEADS, mode, positions=slice(-6, None), means=means):
        whole = run(model)[:, -6:]
    cache = DynamicCache()
    run(model, input_ids=IDS[:, :-6], past_key_values=cache)
    with ablate_heads(model, HEADS, mode, means=means):
        suffix = run(model, input_ids=IDS[:, -6:], past_key_values=cache)
    torch.testing.assert_close(suffix, whole, rtol=1e-4, atol=1e-4)
    assert (run(model)[:, -6:] - whole).abs().max() > 0.01


@pytest.mark.parametrize("mode", ["zero", "uniform"])
@pytest.mark.parametrize(
    ("positions", "rows"),
    [(-1, [23]), (4, [4]), (slice(20, None), [20, 21, 22, 23]), ([2, -3], [2, 21]), (range(5, 7), [5, 6]),
     (torch.arange(24) == 9, [9]), (torch.arange(24)[None] > 21, [22, 23]), (None, list(range(24)))],
)
def test_positions_choose_the_rows(tiny_model, mode, positions, rows):
    model = tiny_model("gemma")
    with record_head_outputs(model) as before:
        run(model)
    with ablate_heads(model, [(0, 2)], mode, positions), record_head_outputs(model) as after:
        run(model)
    changed = (after[0] != before[0]).any(-1)[0]  # [n_rows, n_heads]
    expected = set(rows) - ({0} if mode == "uniform" else set())  # the first row sees one key: even already
    assert set(changed[:, 2].nonzero().flatten().tolist()) == expected
    assert not changed[:, [0, 1, 3]].any()


@pytest.mark.parametrize("positions", [24, [-25], slice(30, 40), [], torch.ones(23, dtype=torch.bool),
                                       torch.zeros(24, dtype=torch.bool), torch.ones(2, 24, dtype=torch.bool)])
def test_positions_outside_the_pass_are_refused_and_leave_no_hook(tiny_model, positions):
    model = tiny_model("llama")
    with pytest.raises(HeadError, match="positions"), ablate_heads(model, HEADS, positions=positions):
        run(model)
    assert n_hooks(model) == 0


def test_hooks_are_gone_after_an_exception(tiny_model):
    model = tiny_model("llama")
    baseline, before, inside = run(model), n_hooks(model), []

    def fail(mode):
        with ablate_heads(model, HEADS, mode, means=means_of(model)):
            inside.append(n_hooks(model))
            raise RuntimeError("in the block")

    for mode in MODES:
        with pytest.raises(RuntimeError, match="in the block"):
            fail(mode)
        assert inside[-1] > before
        assert n_hooks(model) == before
        assert torch.equal(run(model), baseline)


def test_blocks_can_be_nested(tiny_model):
    model, means = tiny_model("qwen2"), means_of(tiny_model("qwen2"))
    with ablate_heads(model, HEADS[:2]):
        outer = run(model)
        with ablate_heads(model, HEADS[2:]):
            nested = run(model)
        assert torch.equal(run(model), outer)
        with ablate_heads(model, HEADS[:2], "mean", means=means):
            inner_wins = run(model)
    with ablate_heads(model, HEADS):
        assert torch.equal(run(model), nested)
    with ablate_heads(model, HEADS[:2], "mean", means=means):
        assert torch.equal(run(model), inner_wins)


@pytest.mark.parametrize("mode", MODES)
def test_an_unmerged_adapter_gives_what_the_merged_model_gives(tiny_model, mode):
    means = means_of(tiny_model("llama"))
    model = with_lora(tiny_model("llama"))
    merged = with_lora(tiny_model("llama")).merge_and_unload()
    with ablate_heads(model, HEADS, mode, means=means), ablate_heads(merged, HEADS, mode, means=means):
        ours, theirs = run(model), run(merged)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with ablate_heads(plain := tiny_model("llama"), HEADS, mode, means=means):
        assert (ours - run(plain)).abs().max() > 0.1  # the adapter does matter
    assert (ours - run(model)).abs().max() > 0.1
    assert n_hooks(merged) == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_dtype_is_kept(tiny_model, mode):
    model = tiny_model("llama").to(torch.bfloat16)
    with ablate_heads(model, HEADS, mode, means=means_of(model)), record_head_outputs(model) as outputs:
        assert run(model).dtype == torch.bfloat16
    assert outputs[1].dtype == torch.bfloat16


def test_uniform_does_not_touch_other_heads_where_a_norm_spans_all_heads():
    config = AutoConfig.for_model(
        "olmo2", vocab_size=80, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, eos_token_id=2, attn_implementation="eager",
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        before = model(IDS, output_attentions=True).attentions[0][0]
        with ablate_heads(model, [(0, 2)], "uniform"):
            after = model(IDS, output_attentions=True).attentions[0][0]
    torch.testing.assert_close(after[2, 9, :10], torch.full((10,), 0.1))
    assert torch.equal(after[[0, 1, 3]], before[[0, 1, 3]])


def test_uniform_is_refused_where_queries_have_no_projection_of_their_own():
    config = AutoConfig.for_model(
        "phi3", vocab_size=80, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ModelError, match=r"q_proj.*zero or mean"), ablate_heads(model, [(0, 2)], "uniform"):
        pass
    with ablate_heads(model, [(0, 2)]), record_head_outputs(model) as outputs:
        run(model)
    assert not outputs[0][:, :, 2].any()


@pytest.mark.parametrize(
    ("heads", "settings", "error", "message"),
    [([(3, 0)], {}, HeadError, r"layers 0 to 2.*\(3, 0\)"), ([(0, 4)], {}, HeadError, "heads 0 to 3"),
     ([(0, -1)], {}, HeadError, r"\(0, -1\)"), ((2, 1), {}, HeadError, r"\(layer, head\) pairs.*Write \[\(6, 1\)\]"),
     (HEADS, {"mode": "gone"}, ConfigError, "zero, mean, uniform"),
     (HEADS, {"mode": "mean"}, ConfigError, "mean_head_outputs"),
     (HEADS, {"mode": "mean", "means": torch.zeros(3, 4, 11)}, HeadError, r"\[3, 4, 12\].*\[3, 4, 11\]")],
)
def test_bad_arguments_name_value_and_remedy(tiny_model, heads, settings, error, message):
    model = tiny_model("llama")
    with pytest.raises(error, match=message), ablate_heads(model, heads, **settings):
        pass
    assert n_hooks(model) == 0


def test_means_need_examples_and_a_known_scope(tiny_model, tiny_tokenizer, tiny_examples):
    with pytest.raises(DataError, match="no examples"):
        mean_head_outputs(tiny_model("llama"), tiny_tokenizer, [])
    with pytest.raises(ConfigError, match="answer, all"):
        mean_head_outputs(tiny_model("llama"), tiny_tokenizer, tiny_examples, "some")
