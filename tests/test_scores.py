"""Scores equal a brute-force computation on eager attention, and known patterns have known scores."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import FAMILIES
from retrieval_heads.data.encode import Encoded, encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import greedy_continuations
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.heads.readout import displaced_spans
from retrieval_heads.heads.scores import retrieval_scores, score_heads, span_score


def brute_force(model, encoded):
    """(copy, insight, mass, chance of insight), each [n_layers, n_heads], by loops over eager attention."""
    model.set_attn_implementation("eager")
    sums = np.zeros((4, 3, 4))
    for one in encoded:
        with torch.inference_mode():
            attentions = model(input_ids=torch.tensor([one.ids]), output_attentions=True).attentions
        inside = {place for start, end in one.needles for place in range(start, end)}
        elsewhere = displaced_spans(one)
        for layer in range(3):
            for head in range(4):
                for step in range(one.answer_length):
                    row = attentions[layer][0, head, one.prompt_length - 1 + step].tolist()
                    place = row.index(max(row))
                    same = one.ids[place] == one.ids[one.prompt_length + step]
                    mass = sum(row[where] for where in inside)
                    found = (place in inside and same, place in inside, mass, elsewhere[place])
                    sums[:, layer, head] += np.array(found, dtype=float) / one.answer_length / len(encoded)
    model.set_attn_implementation("sdpa")
    return sums


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_brute_force_with_padding_in_the_batch(tiny_model, tiny_tokenizer, tiny_examples, family):
    model = tiny_model(family, seed=0)
    found = score_heads(model, tiny_tokenizer, tiny_examples, batch_size=3)
    copied, insight, mass, chance = brute_force(model, encode_all(tiny_examples, tiny_tokenizer))
    assert copied.any()
    assert (insight > copied).any()
    np.testing.assert_allclose(found["copy"].scores, copied, atol=1e-6)
    np.testing.assert_allclose(found["insight"].scores, insight, atol=1e-6)
    np.testing.assert_allclose(found["insight"].chance, chance, atol=1e-6)
    np.testing.assert_allclose(found["copy"].mass, mass, atol=1e-6)


def test_result_is_an_array_and_says_what_it_rests_on(tiny_model, tiny_tokenizer, tiny_examples):
    bare = Example("mdqa", "Nothing to find here. Answer:", "grass")
    scores = retrieval_scores(tiny_model("llama"), tiny_tokenizer, [bare, *tiny_examples], kind="insight")
    array = np.asarray(scores)
    assert array.dtype == np.float32
    assert array.shape == scores.shape == (3, 4)
    assert scores.n_used == 5
    assert scores.used == (1, 2, 3, 4, 5)
    assert scores.dropped == {"no needle": 1}
    assert (scores.kind, scores.mode) == ("insight", "forced")
    assert scores.per_example.shape == (5, 3, 4)
    np.testing.assert_allclose(scores.per_example.mean(0), array, atol=1e-6)
    assert scores[1, 2] == array[1, 2]


def test_unmerged_adapter_scores_as_the_merged_one(tiny_model, tiny_tokenizer, tiny_examples):
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    base = tiny_model("llama")
    plain = score_heads(base, tiny_tokenizer, tiny_examples)
    adapted = get_peft_model(base, config)
    torch.manual_seed(3)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    merged = copy.deepcopy(adapted).merge_and_unload()
    ours, expected = (score_heads(model, tiny_tokenizer, tiny_examples) for model in (adapted, merged))
    for kind in ("copy", "insight"):
        np.testing.assert_allclose(ours[kind].scores, expected[kind].scores, atol=1e-6)
        np.testing.assert_allclose(ours[kind].mass, expected[kind].mass, atol=1e-5)
    assert not np.allclose(ours["insight"].mass, plain["insight"].mass, atol=1e-3)
    assert adapted.training  # get_peft_model leaves it so; scoring puts it back


def test_order_of_examples_and_batch_size_do_not_matter(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("qwen3")
    one = score_heads(model, tiny_tokenizer, tiny_examples, batch_size=1)
    other = score_heads(model, tiny_tokenizer, tiny_examples[::-1], batch_size=4)
    for kind, scores in one.items():
        np.testing.assert_allclose(scores.scores, other[kind].scores, atol=1e-7)
        np.testing.assert_allclose(scores.chance, other[kind].chance, atol=1e-7)
        np.testing.assert_allclose(scores.mass, other[kind].mass, atol=1e-6)
        np.testing.assert_array_equal(scores.per_example, other[kind].per_example[::-1])


def test_uniform_attention_has_known_mass_and_never_scores(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    scores = retrieval_scores(model, tiny_tokenizer, tiny_examples[:1], kind="insight")
    (one,) = encode_all(tiny_examples[:1], tiny_tokenizer)
    expected = np.mean([one.needle_mask().sum() / (row + 1) for row in one.query_rows])
    np.testing.assert_allclose(scores.mass, np.full((3, 4), expected), rtol=1e-5)
    assert not scores.scores.any()  # of equal keys the first is taken, and that is <bos>


def hand_made(answer=(7, 8, 9), needle=(4, 7)):
    ids = [1, 5, 5, 6, *answer, 5, 6, 5, 5, 6, *answer, 2]
    return Encoded(tuple(ids), prompt_length=12, answer_length=len(answer), needles=(needle,))


def test_a_perfect_copy_pattern_scores_one_and_a_shifted_one_only_as_insight():
    one = hand_made()
    largest = np.array([[4, 5, 6], [5, 6, 4], [0, 1, 2], [4, 5, 0]])
    weights = one.needle_mask().astype(float)
    assert span_score(largest, weights, one, "copy").tolist() == [1, 0, 0, pytest.approx(2 / 3)]
    assert span_score(largest, weights, one, "insight").tolist() == [1, 1, 0, pytest.approx(2 / 3)]


def test_chance_of_evenly_spread_attention_is_the_share_of_needle_tokens():
    # one answer token for each position of the prompt, and a head that looks at each of them once
    one = Encoded(tuple(range(40)), prompt_length=20, answer_length=20, needles=((3, 5), (9, 12)))
    chance = span_score(np.arange(20), displaced_spans(one), one, "insight")
    assert chance == pytest.approx(5 / 20)
    assert chance == pytest.approx(span_score(np.arange(20), one.needle_mask().astype(float), one, "insight"))


def test_displaced_spans_keep_the_length_within_the_prompt_and_off_the_needles():
    one = Encoded(tuple(range(60)), prompt_length=40, answer_length=20, needles=((3, 5), (9, 14)))
    for seed in range(20):
        weights = displaced_spans(one, draws=1, seed=seed)
        assert weights.sum() == 7
        assert not weights[one.needle_mask()].any()
        assert not weights[40:].any()
    assert not np.array_equal(displaced_spans(one, seed=0), displaced_spans(one, seed=1))
    np.testing.assert_array_equal(displaced_spans(one, seed=1), displaced_spans(one, seed=1))
    full = Encoded(tuple(range(12)), prompt_length=9, answer_length=2, needles=((1, 6),))
    assert displaced_spans(full) is None


def test_chance_is_nan_where_no_prompt_has_room(tiny_model, tiny_tokenizer):
    full = Example("mdqa", "The grass is green. Answer:", "green", needles=((0, 19),))
    scores = retrieval_scores(tiny_model("llama"), tiny_tokenizer, [full], kind="insight")
    assert np.isnan(scores.chance).all()
    assert np.isfinite(scores.scores).all()


def words_only(model, tokenizer):
    """Make the model answer in whole words, which any tokenisation leaves as they are."""
    words = [token for text in ("grass", "sky", "is", "The", "sun", "Harbour", "Document", "the", "Oslo", "North", "go")
             if len(token := tokenizer(f" {text}", add_special_tokens=False)["input_ids"]) == 1]
    assert len(words) > 4
    keep = torch.zeros(len(tokenizer), 1)
    keep[torch.tensor(words)[:, 0]] = 1
    model.lm_head.weight.data *= keep
    return model


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_generated_equals_forced_when_the_gold_answer_is_the_greedy_one(
    tiny_model, tiny_tokenizer, tiny_examples, family
):
    model = words_only(tiny_model(family), tiny_tokenizer)
    encoded = encode_all(tiny_examples, tiny_tokenizer)
    prompts = [one.ids[: one.prompt_length] for one in encoded]
    answers = greedy_continuations(model, prompts, tiny_tokenizer.eos_token_id, 5, batch_size=2)
    own = [
        Example(one.task, one.prompt, tiny_tokenizer.decode(answer).strip(), needles=one.needles)
        for one, answer in zip(tiny_examples, answers, strict=True)
    ]
    generated = score_heads(model, tiny_tokenizer, tiny_examples, mode="generated", max_new_tokens=5, batch_size=3)
    forced = score_heads(model, tiny_tokenizer, own)
    for kind in ("copy", "insight"):
        np.testing.assert_array_equal(generated[kind].per_example, forced[kind].per_example)
        np.testing.assert_allclose(generated[kind].mass, forced[kind].mass, atol=1e-6)
        np.testing.assert_array_equal(generated[kind].chance, forced[kind].chance)
    assert generated["insight"].scores.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_continuations_equal_decoding_without_cache_or_padding(tiny_model, family):
    overrides = {"sliding_window": 6} if family == "mistral" else {}
    model, prompts = tiny_model(family, **overrides), [[1, 9, 30, 4], [1, 8, 100, 101, 102, 7, 20, 21, 22], [1, 77]]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(7):
            with torch.inference_mode():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        expected.append(tuple(ids[len(prompt) :]))
    assert greedy_continuations(model, prompts, None, 7, batch_size=3) == expected
    assert greedy_continuations(model, prompts, None, 7, batch_size=1) == expected
    stop = expected[1][2]
    stopped = [answer[: answer.index(stop)] if stop in answer else answer for answer in expected]
    assert greedy_continuations(model, prompts, stop, 7, batch_size=2) == stopped


def test_examples_are_dropped_only_for_a_stated_reason(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    lengths = [len(one.ids) for one in encode_all(tiny_examples, tiny_tokenizer)]
    limit = sorted(lengths)[2]
    scores = retrieval_scores(model, tiny_tokenizer, tiny_examples, max_length=limit)
    assert scores.dropped == {"too long": 2}
    assert [lengths[index] <= limit for index in scores.used] == [True] * 3

    model.lm_head.weight.data.zero_()  # all logits equal: the first token, <pad>, for ever
    assert retrieval_scores(model, tiny_tokenizer, tiny_examples, mode="generated", max_new_tokens=2).n_used == 5
    ends = copy.deepcopy(tiny_tokenizer)
    ends.eos_token = "<pad>"
    with pytest.raises(DataError, match=r"no example is left .*'empty generation': 5"):
        retrieval_scores(model, ends, tiny_examples, mode="generated", max_new_tokens=2)


def test_bad_input_says_what_to_do(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama", max_position_embeddings=100)
    with pytest.raises(ConfigError, match=r"kind: unknown kind of score \(got 'cope'\)"):
        retrieval_scores(model, tiny_tokenizer, tiny_examples, kind="cope")
    with pytest.raises(ConfigError, match="mode"):
        retrieval_scores(model, tiny_tokenizer, tiny_examples, mode="free")
    with pytest.raises(ConfigError, match="batch_size"):
        retrieval_scores(model, tiny_tokenizer, tiny_examples, batch_size=0)
    with pytest.raises(DataError, match="more than the allowed 100"):
        retrieval_scores(model, tiny_tokenizer, tiny_examples)
    with pytest.raises(DataError, match="no example is left"):
        retrieval_scores(model, tiny_tokenizer, [])


def test_bfloat16_gives_nearly_the_same_scores(tiny_model, tiny_tokenizer, tiny_examples):
    one = retrieval_scores(tiny_model("llama"), tiny_tokenizer, tiny_examples, kind="insight")
    half = retrieval_scores(tiny_model("llama").bfloat16(), tiny_tokenizer, tiny_examples, kind="insight")
    np.testing.assert_allclose(half.mass, one.mass, atol=0.05)
    assert np.abs(half.scores - one.scores).mean() < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["forced", "generated"])
def test_cuda_gives_the_same_scores(tiny_model, tiny_tokenizer, tiny_examples, mode):
    model = tiny_model("qwen3")
    here = score_heads(model, tiny_tokenizer, tiny_examples, mode=mode, max_new_tokens=4)
    there = score_heads(model.cuda(), tiny_tokenizer, tiny_examples, mode=mode, max_new_tokens=4)
    for kind, scores in here.items():
        np.testing.assert_allclose(there[kind].mass, scores.mass, atol=1e-3)
        assert np.abs(there[kind].scores - scores.scores).mean() < 0.01
