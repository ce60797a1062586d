"""Questions on one haystack: one pass over it, and the numbers that each question gets alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from retrieval_heads.attention import capture, shared_context
from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.attention.shared_context import CachedContext, Haystack, find_haystacks
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.errors import ModelError
from retrieval_heads.heads import cached_prompts, readout
from retrieval_heads.heads.readout import QUESTION_ROWS, question_rows
from retrieval_heads.heads.scores import score_heads
from retrieval_heads.heads.sweeps import knockout_sweep, patch_sweep, source_answers

FACTS = {"Marta Quill": "Oslo Harbour", "Ivo Brandt": "Copper Bridge", "Lena Osei": "Port Velden"}
SETS = {"none": [], "two": [(2, 3), (0, 1)], "one": [(1, 0)], "all": [(a, b) for a in range(3) for b in range(4)]}
MODELS = {
    "llama": {}, "qwen3": {}, "adapted": {},
    "mistral": {"sliding_window": 40},  # cuts into what follows the haystack, and into the haystack
    "qwen2": {"use_sliding_window": True, "sliding_window": 30, "max_window_layers": 1, "head_dim": 8},
}


def haystack(name, facts=FACTS, size=22):
    """Examples on one haystack, a question a fact; `name` makes the haystack's tokens its own."""
    documents = [f"Document: {name} says that the grass of field {place} is green." for place in range(size)]
    for place, (subject, answer) in enumerate(facts.items(), 3):
        documents.insert(3 * place, f"Document: {subject} lives in {answer}.")
    text = "\n".join(documents)
    found = []
    for subject, answer in facts.items():
        start = text.index(f"{subject} lives in {answer}.")
        needles = ((start, start + len(f"{subject} lives in {answer}.")),)
        found.append(Example("mdqa", f"{text}\nQuestion: Where does {subject} live?\nAnswer:", answer, needles=needles))
    return found


@pytest.fixture(scope="module")
def examples(tiny_examples):
    """Two haystacks with three questions each and two examples of their own, in mixed order."""
    one, two = haystack("Ada"), haystack("Bo", dict(reversed(FACTS.items())), 25)
    return [one[0], tiny_examples[0], two[0], one[1], two[1], tiny_examples[4], one[2], two[2]]


def build(tiny_model, family, seed=0):
    if family != "adapted":
        return tiny_model(family, seed, **({"head_dim": 12} | MODELS[family]))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
        return get_peft_model(tiny_model("llama", head_dim=12), settings).eval()


def tokens_of(model):
    """A list that gets the number of tokens of each pass."""
    counts = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: counts.append(args[0].numel()))
    return counts


def apart(monkeypatch):
    """From here on no haystack is found."""
    for module in (readout, cached_prompts):
        monkeypatch.setattr(module, "find_haystacks", lambda encoded, ends: ([], list(range(len(encoded)))))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("cells", [None, 1])
def test_scores_are_those_of_separate_passes(tiny_model, tiny_tokenizer, examples, monkeypatch, family, cells):
    model = build(tiny_model, family)
    if cells:
        monkeypatch.setattr(readout, "CELLS", cells)  # one question after the other
    counts = tokens_of(model)
    together = score_heads(model, tiny_tokenizer, examples, batch_size=1)
    n_together, passes = sum(counts), len(counts)
    apart(monkeypatch)
    alone = score_heads(model, tiny_tokenizer, examples, batch_size=1)
    assert passes == (2 * (1 + 3) if cells else 2 * (1 + 1)) + 2 + 1  # the last finds the path to the logits
    assert n_together < 0.5 * (sum(counts) - n_together)
    for kind, scores in together.items():
        np.testing.assert_array_equal(scores.per_example, alone[kind].per_example)
        np.testing.assert_array_equal(scores.chance, alone[kind].chance)
        for name in ("mass", "query_mass"):
            np.testing.assert_allclose(getattr(scores, name), getattr(alone[kind], name), atol=1e-5)
        np.testing.assert_allclose(
            scores.contribution_per_example, alone[kind].contribution_per_example, atol=1e-3, rtol=1e-3
        )
    assert together["insight"].scores.any()


def test_a_model_of_another_attention_reads_as_with_sdpa(tiny_model, tiny_tokenizer, examples):
    model = build(tiny_model, "llama")
    expected = score_heads(model, tiny_tokenizer, examples)["insight"]
    model.set_attn_implementation("eager")
    found = score_heads(model, tiny_tokenizer, examples)["insight"]
    np.testing.assert_array_equal(found.per_example, expected.per_example)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", MODELS)
def test_sweeps_are_those_of_separate_prompts(tiny_model, tiny_tokenizer, examples, monkeypatch, family):
    model, source = (build(tiny_model, family, seed) for seed in (0, 1))
    counts = tokens_of(model)

    def sweeps():
        return (
            *knockout_sweep(model, tiny_tokenizer, examples, SETS, ("zero", "uniform"), sets_per_pass=3),
            *patch_sweep(model, source, tiny_tokenizer, examples, SETS),
        )

    together, n_together = sweeps(), sum(counts)
    apart(monkeypatch)
    alone = sweeps()
    assert n_together < 0.6 * (sum(counts) - n_together)
    assert [row["example"] for row in together[: 8 * len(together) // 12 : 8]] == list(range(8))
    for one, other in zip(together, alone, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-4)
        assert one | {"nll": 0} == other | {"nll": 0}
    assert len({round(row["nll"], 3) for row in together if row["example"] == 3}) > 5


def test_sweeps_on_haystacks_where_examples_share_passes(tiny_model, tiny_tokenizer, examples, monkeypatch):
    model = build(tiny_model, "qwen3")
    alone = knockout_sweep(model, tiny_tokenizer, examples, SETS)
    monkeypatch.setattr(cached_prompts, "shares_passes", lambda model: True)
    counts = tokens_of(model)
    together = knockout_sweep(model, tiny_tokenizer, examples, SETS)
    assert len(counts) == 2 * (1 + 2 * 3) + 2  # a haystack: itself and, of each question, its rest and its sets
    for one, other in zip(together, alone, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-4)


def test_a_hundred_head_sets_cost_one_pass_over_the_prompt(tiny_model, tiny_tokenizer):
    model, [example, *_] = build(tiny_model, "llama"), haystack("Ada")
    counts, heads = tokens_of(model), SETS["all"]
    sets = {str(some): some for some in itertools.islice(itertools.combinations(heads, 3), 100)}
    rows = knockout_sweep(model, tiny_tokenizer, [example], sets)
    [encoded] = encode_all([example], tiny_tokenizer)
    n_rows = len(encoded.ids) - encoded.prompt_length
    assert len(rows) == len({row["nll"] for row in rows}) == 100
    assert counts == [encoded.prompt_length - 1, *[25 * n_rows] * 4]


def test_one_cache_serves_all_questions_of_a_haystack(tiny_model, tiny_tokenizer, monkeypatch):
    model, examples, seen = build(tiny_model, "llama"), haystack("Ada"), []
    crop = shared_context.crop

    def watched(cache, length):
        seen.append((id(cache), cache.get_seq_length(), {tuple(layer.keys.shape[:2]) for layer in cache.layers}))
        crop(cache, length)

    monkeypatch.setattr(shared_context, "crop", watched)
    source_answers(model, tiny_tokenizer, examples)
    longest = max(len(one.ids) for one in encode_all(examples, tiny_tokenizer))
    assert len({cache for cache, _, _ in seen}) == 1
    assert max(length for _, length, _ in seen) <= longest
    assert set.union(*(shapes for _, _, shapes in seen)) == {(1, 2)}  # never a copy for each question


def made(*parts):
    """An example of tokens, of which the last four are question, answer and end."""
    ids = tuple(np.concatenate(parts).tolist())
    return Encoded(ids, len(ids) - 2, 1, ((3, 5),), len(ids) - 4)


def test_which_examples_are_on_one_haystack():
    rng = np.random.default_rng(0)
    one, two = rng.integers(5, 90, (2, 400))
    ends = [rng.integers(5, 90, 8) for _ in range(6)]
    found = [made(two, ends[0]), made(one, ends[1]), made(one[:300], ends[2]), made(two, ends[3]), made(one, ends[4]),
             made(one[:200], ends[5]), made(one[:200], ends[0])]
    stops = [question_rows(one).start for one in found]
    groups, others = find_haystacks(found, stops)
    # 300 common tokens are too small a part of 408, and 200 too few
    assert [(group.members, group.length) for group in groups] == [((0, 3), 400), ((1, 4), 400)]
    assert others == [2, 5, 6]
    assert find_haystacks([], []) == ([], [])
    # the same prompt twice: the common beginning ends before the first row that is wanted
    assert find_haystacks([found[0]] * 2, [404] * 2) == ([Haystack((0, 1), 404)], [])


def test_a_member_that_would_shorten_the_common_beginning_too_much_stays_out():
    rng = np.random.default_rng(1)
    base, tails = rng.integers(5, 90, 1000), rng.integers(5, 90, (4, 100))
    near = [made(base, tails[place][:10]) for place in range(3)]
    for kept, joined in ((700, False), (800, True)):
        far = made(base[:kept], rng.integers(5, 90, 1000 - kept), tails[3][:10])
        groups, others = find_haystacks([*near, far], [len(one.ids) - 4 for one in (*near, far)])
        assert (others == []) is joined
        assert len(groups) == 1
        assert kept <= groups[0].length <= kept + 1 if joined else groups[0].length >= 1000


def test_suffixes_leave_the_prefix_as_it_was_also_after_an_exception(tiny_model):
    model = build(tiny_model, "llama")
    prefix, suffixes = CachedContext(model, [range(40, 60)]), torch.tensor([[7, 8, 9, 9]])
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prefix.run(suffixes, 2)
    handle.remove()
    prefix.run(suffixes, 2)
    assert {layer.get_seq_length() for layer in prefix.cache.layers} == {20}


def test_long_questions_are_read_at_their_end():
    one = Encoded(tuple(range(1000)), 990, 5, (), 10)
    assert question_rows(one) == range(990 - QUESTION_ROWS, 990)
    assert question_rows(replace(one, question=900)) == range(900, 990)


def test_ungrouped_heads_for_kernels_without_groups_give_the_same(tiny_model, monkeypatch):
    model, ids = build(tiny_model, "qwen3"), torch.arange(40, 80)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
        seen, original = [], capture.sdpa_attention_forward

        def watched(module, query, key, *args, **kwargs):
            seen.append((query.shape[1], key.shape[1]))
            return original(module, query, key, *args, **kwargs)

        monkeypatch.setattr(capture, "sdpa_attention_forward", watched)
        for square, heads in ((False, (4, 2)), (True, (4, 4))):
            monkeypatch.setattr(capture, "_falls_to_square", lambda *_, square=square: square)
            with lean_attention(model):
                torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
            assert set(seen[-3:]) == {heads}
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_keeps_a_state_has_no_shared_prefix(tiny_model, monkeypatch):
    model = build(tiny_model, "llama")
    monkeypatch.setattr("retrieval_heads.attention.shared_context.can_share", lambda model: False)
    with pytest.raises(ModelError, match="scope `all`"):
        CachedContext(model, [[1, 2, 3]])
