"""Decoding and evaluation against a plain loop without cache, batch or padding, on five families."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from conftest import FAMILIES
from retrieval_heads.data.encode import encode_all
from retrieval_heads.data.example import Example
from retrieval_heads.data.task import CITATION_METRICS
from retrieval_heads.errors import ConfigError, DataError, ModelError
from retrieval_heads.evaluation import evaluate, evaluate_each, forced_exact, greedy_answers
from retrieval_heads.stats.resample import bootstrap_mean


def plain_greedy(model, ids, end: int, limit: int) -> list[int]:
    """Greedy tokens by running the whole sequence again for every token."""
    generated: list[int] = []
    while len(generated) < limit and (not generated or generated[-1] != end):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*ids, *generated]]), use_cache=False).logits
        generated.append(int(logits[0, -1].argmax()))
    return generated


@contextmanager
def only_words(model, tokenizer, end_bonus: float) -> Iterator[None]:
    """Let the model say only whole words and the end, so that what it says survives decoding and encoding again."""
    texts = {index: tokenizer.decode([index]) for index in range(len(tokenizer))}
    allowed = [
        index for index, text in texts.items()
        if text[0] == " " and text[1:].isalpha() and tokenizer.encode(text, add_special_tokens=False) == [index]
    ]
    assert len(allowed) >= 8
    bias = torch.full((len(tokenizer),), -1e4)
    bias[allowed[:8]] = 0.0
    bias[tokenizer.eos_token_id] = end_bonus
    handle = model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def scripted(model, tokens: list[int]) -> Iterator[list[int]]:
    """Let the model say `tokens`, one a forward pass, whatever it reads; yields the tokens said so far."""
    said: list[int] = []

    def say(module, inputs, logits):
        said.append(tokens[len(said)])
        return torch.nn.functional.one_hot(torch.full(logits.shape[:-1], said[-1]), logits.shape[-1]).float()

    handle = model.lm_head.register_forward_hook(say)
    try:
        yield said
    finally:
        handle.remove()


def answered(model, tokenizer, questions: int) -> tuple[list[Example], np.ndarray]:
    """Examples of different lengths and whether their answer is what the model says; every second one is not."""
    examples, truth = [], []
    for number in range(questions):
        prompt = f"Document: {'The sky is blue. ' * (number % 7)}Question: {number}? Answer:"
        said = plain_greedy(model, tokenizer(prompt)["input_ids"], tokenizer.eos_token_id, 12)
        if said[-1] != tokenizer.eos_token_id or len(said) < 2:
            continue
        words = tokenizer.decode(said[:-1]).split()
        wrong = ([*words, "Oslo"], words[:-1] or ["Oslo"], [*words[:-1], "Oslo"], ["Oslo", *words[1:]])
        right = len(examples) % 2 == 0
        answer = " ".join(words if right else wrong[len(examples) // 2 % len(wrong)])
        examples.append(Example(task="mdqa", prompt=prompt, answer=answer, meta={"id": len(examples)}))
        truth.append(right)
    return examples, np.array(truth)


@pytest.mark.parametrize("family", [*FAMILIES, "sliding"])
def test_a_batch_answers_as_the_plain_loop(family, tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("mistral", sliding_window=24) if family == "sliding" else tiny_model(family)
    answers = greedy_answers(model, tiny_tokenizer, tiny_examples, max_new_tokens=10, batch_size=3)
    assert len(answers) == len(tiny_examples)
    for example, encoded, answer in zip(tiny_examples, encode_all(tiny_examples, tiny_tokenizer), answers, strict=True):
        ids = plain_greedy(model, encoded.ids[: encoded.prompt_length], tiny_tokenizer.eos_token_id, 10)
        text = tiny_tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert answer == text.split("\n")[0].strip(), example.meta["id"]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_forced_exact_match_agree(family, tiny_model, tiny_tokenizer):
    model = tiny_model(family)
    with only_words(model, tiny_tokenizer, end_bonus=2.0):
        examples, truth = answered(model, tiny_tokenizer, questions=24)
        assert 4 <= truth.sum() < len(truth), "the trial needs right and wrong answers"
        scores = evaluate_each(model, tiny_tokenizer, examples, batch_size=5)
        assert forced_exact(model, tiny_tokenizer, examples, batch_size=5).tolist() == truth.tolist()
    assert scores["forced_exact_match"].tolist() == truth.astype(float).tolist()
    assert (scores["exact_match"] >= scores["forced_exact_match"]).all()
    assert scores["id"].tolist() == list(range(len(examples)))


def test_every_mean_has_the_bootstrap_interval_of_its_column(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    with only_words(model, tiny_tokenizer, end_bonus=2.0):
        examples, truth = answered(model, tiny_tokenizer, questions=16)
        scores = evaluate_each(model, tiny_tokenizer, examples)
        result = evaluate(model, tiny_tokenizer, examples, n_resamples=200, seed=3)
        assert result == evaluate(model, tiny_tokenizer, examples, n_resamples=200, seed=3)
    names = ("exact_match", "f1", "best_subspan_em", "forced_exact_match")
    assert set(result) == {"n", *(name + end for name in names for end in ("", "_low", "_high"))}
    assert result["n"] == len(examples)
    assert result["forced_exact_match"] == pytest.approx(truth.mean())
    for name in names:
        interval = bootstrap_mean(scores[name], n_resamples=200, seed=3)
        assert (result[name], result[f"{name}_low"], result[f"{name}_high"]) == interval
        assert 0 <= interval.low <= interval.estimate + 1e-9 <= interval.high + 2e-9 <= 1 + 3e-9


def test_citations_are_scored_without_order(tiny_model, tiny_tokenizer):
    model = tiny_model("llama")
    example = Example(task="summhay", prompt="Document 1: a. Question: which? Answer:", answer="2, 5")
    said = tiny_tokenizer.encode(" 5, 2", add_special_tokens=False)
    with scripted(model, [*said, tiny_tokenizer.eos_token_id]):
        row = evaluate_each(model, tiny_tokenizer, [example]).iloc[0]
    assert row["prediction"] == "5, 2"
    assert [row[name] for name in CITATION_METRICS] == [0.0, 1.0, 1.0, 1.0]
    assert row["forced_exact_match"] == 0.0


def test_an_answer_ends_at_the_first_newline(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama")
    script = tiny_tokenizer.encode(" sky is\n green\n", add_special_tokens=False)
    line = tiny_tokenizer.encode(" sky is\n", add_special_tokens=False)
    with scripted(model, script) as said:
        assert greedy_answers(model, tiny_tokenizer, tiny_examples[:2]) == ["sky is", "sky is"]
        assert len(said) == len(line)
    two_lines = Example(task="mine", prompt="Question: two? Answer:", answer="red\nblue")
    with scripted(model, [*script, tiny_tokenizer.eos_token_id]):
        assert greedy_answers(model, tiny_tokenizer, [two_lines], max_new_tokens=50) == ["sky is\n green"]


def test_decoding_ends_with_the_last_row_and_at_the_limit(tiny_model, tiny_tokenizer, tiny_examples):
    model, sky = tiny_model("llama"), tiny_tokenizer.encode(" sky", add_special_tokens=False)
    with scripted(model, [*sky, tiny_tokenizer.eos_token_id, *sky]) as said:
        assert greedy_answers(model, tiny_tokenizer, tiny_examples[:3]) == ["sky"] * 3
        assert len(said) == 2
    with scripted(model, sky * 100) as said:
        assert greedy_answers(model, tiny_tokenizer, tiny_examples[:3], max_new_tokens=4) == ["sky sky sky sky"] * 3
        assert len(said) == 4
    longest = max(len(item.ids) - item.prompt_length for item in encode_all(tiny_examples[:3], tiny_tokenizer))
    with scripted(model, sky * 100) as said:
        greedy_answers(model, tiny_tokenizer, tiny_examples[:3])
        assert longest <= len(said) <= longest + 8


def test_no_dropout_and_the_mode_comes_back(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama", attention_dropout=0.5)
    expected = greedy_answers(model, tiny_tokenizer, tiny_examples)
    model.train()
    model.model.layers[0].eval()
    assert greedy_answers(model, tiny_tokenizer, tiny_examples) == expected
    assert model.training
    assert not model.model.layers[0].training


def test_peft_model_answers_as_the_merged_one(tiny_model, tiny_tokenizer, tiny_examples):
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    plain = greedy_answers(tiny_model("llama"), tiny_tokenizer, tiny_examples)
    model = get_peft_model(tiny_model("llama"), settings).eval()
    adapted = greedy_answers(model, tiny_tokenizer, tiny_examples)
    assert adapted != plain
    assert adapted == greedy_answers(model.merge_and_unload(), tiny_tokenizer, tiny_examples)


def test_without_an_end_token_the_answer_alone_counts(tiny_model, tiny_tokenizer):
    tokenizer, model = copy.deepcopy(tiny_tokenizer), tiny_model("llama")
    with only_words(model, tokenizer, end_bonus=-1e4):
        ids = tokenizer("Question: 1? Answer:")["input_ids"]
        said = tokenizer.decode(plain_greedy(model, ids, tokenizer.eos_token_id, 3)).strip()
        tokenizer.eos_token = None
        examples = [
            Example(task="mdqa", prompt="Question: 1? Answer:", answer=answer) for answer in (said, f"{said} Oslo")
        ]
        assert forced_exact(model, tokenizer, examples).tolist() == [True, False]
        assert evaluate_each(model, tokenizer, examples)["forced_exact_match"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("said_end", ["<eos>", "<|im_end|>", "<|other|>", "word"])
def test_each_end_of_a_chat_model_ends_a_right_answer(tiny_model, tiny_tokenizer, said_end: str):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<|im_end|>", "<|other|>"])  # not special for the tokenizer: decoding would keep them
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    model = tiny_model("llama", vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|other|>")]
    sky = tokenizer.encode(" sky", add_special_tokens=False)
    end = sky[0] if said_end == "word" else tokenizer.convert_tokens_to_ids(said_end)
    example = Example(task="mdqa", prompt="Question: what? Answer:", answer="sky")
    for one in (example, replace(example, chat_template={"end": "<|im_end|>"})):
        with scripted(model, [*sky, end, *sky * 20]):
            row = evaluate_each(model, tokenizer, [one]).iloc[0]
        if said_end == "word":
            assert row["forced_exact_match"] == 0
            assert row["f1"] < 0.5
        else:
            assert (row["prediction"], row["f1"], row["forced_exact_match"]) == ("sky", 1, 1)


@pytest.mark.parametrize("ends", ["2", ["2", 7], [[2], [7]], 2.0, {"a": 1}, True])
def test_ends_that_are_no_token_ids_are_refused(tiny_model, tiny_tokenizer, tiny_examples, ends):
    model = tiny_model("llama")
    model.generation_config.eos_token_id = ends
    for function in (evaluate, greedy_answers, forced_exact):
        with pytest.raises(ModelError, match=r"eos_token_id: .*not token ids.*generation_config.json"):
            function(model, tiny_tokenizer, tiny_examples[:4])


def test_bad_input_is_named(tiny_model, tiny_tokenizer, tiny_examples):
    model = tiny_model("llama", max_position_embeddings=100)
    for function in (evaluate, greedy_answers, forced_exact):
        with pytest.raises(DataError, match="no examples"):
            function(model, tiny_tokenizer, [])
        with pytest.raises(DataError, match=r"example tiny-.*more than the allowed 100"):
            function(model, tiny_tokenizer, tiny_examples)
        with pytest.raises(ConfigError, match=r"batch_size.*got 0"):
            function(model, tiny_tokenizer, tiny_examples, batch_size=0, max_length=1000)
    with pytest.raises(ConfigError, match="no token to generate"):
        greedy_answers(model, tiny_tokenizer, tiny_examples, max_new_tokens=0, max_length=1000)
    with pytest.raises(ConfigError, match=r"max_new_tokens: the longest reference answer has \d+ tokens.*got 1"):
        evaluate(model, tiny_tokenizer, tiny_examples, max_new_tokens=1, max_length=1000)
    cited = Example(task="summhay", prompt="Question: which? Answer:", answer="2")
    with pytest.raises(DataError, match=r"different metrics.*'mdqa', 'summhay'"):
        evaluate(model, tiny_tokenizer, [tiny_examples[0], cited])
