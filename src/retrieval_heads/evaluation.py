"""How well a model answers: batched greedy decoding, teacher-forced exact match, and their scores with intervals.

Prompts are taken as they are and tokenised together with the reference answer, exactly as in training (`encode_all`).
Examples of similar length share a batch, which in float32 gives the answers that its examples give one by one; see
`decoding` for how, and for why the decoding loop is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import nn

from retrieval_heads.data.encode import Encoded
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.decoding import (
    Stop,
    greedy_tokens,
    greedy_tokens_and_losses,
    keeps_all_keys,
)
from retrieval_heads.ends import answer_ends
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.forced import (
    answer_losses,
    batches_of,
    encoded_for,
    forced_exact,
    losses_of_tokens,
    means_of,
    same_tokens,
)
from retrieval_heads.models.modes import evaluation_mode
from retrieval_heads.stats.bootstrap import RESAMPLES, bootstrap_mean

__all__ = ["answer_losses", "evaluate", "evaluate_each", "forced_exact", "greedy_answers"]

SLACK = 8
"""Tokens that an answer may take beyond the longest accepted one before decoding stops."""


def evaluate(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_new_tokens: int | None = None,
    batch_size: int = 8, max_length: int | None = None, level: float = 0.95, n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Means of the task's metrics over the examples, each with a bootstrap interval over examples.

    Args:
        model, tokenizer: a causal language model, plain or PEFT, and its fast tokenizer.
        examples: of one task, or of tasks with the same metrics.
        max_new_tokens: longest answer in tokens; the longest accepted answer and `SLACK` more when None.
        batch_size: most examples decoded at a time.
        max_length: most tokens of prompt and reference answer; the model's length when None (`context_length`).
        level: coverage of the intervals.
        n_resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        `NAME`, `NAME_low`, `NAME_high`, all in [0, 1], for every name of `metric_names` and `forced_exact_match`, and
        the number of examples `n`. With one example the interval is NaN.

    Raises:
        DataError: no examples, one that is too long or cannot be tokenised, or tasks with different metrics.
        ConfigError: `max_new_tokens` too small for the reference answers, or a batch size below 1.
        ModelError: weights or activations that are NaN or infinite; an adapter that is not a change of weights (prompt
            tuning, say).
    """
    scores = evaluate_each(
        model, tokenizer, examples, max_new_tokens=max_new_tokens, batch_size=batch_size, max_length=max_length
    )
    result: dict[str, float] = {}
    for name in scores.columns.drop(["id", "prediction"]):
        mean = bootstrap_mean(scores[name], level=level, n_resamples=n_resamples, seed=seed)
        result |= {name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return result | {"n": len(scores)}


def evaluate_each(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_new_tokens: int | None = None,
    batch_size: int = 8, max_length: int | None = None, losses: bool = False,
) -> pd.DataFrame:
    """One row per example, in order: `id`, `prediction`, the task's metrics and `forced_exact_match`.

    The rows of two models on the same examples are what paired comparisons need. `forced_exact_match` is read from the
    greedy tokens, at no further cost: up to the first wrong token, greedy decoding is teacher forcing. With `losses`
    there is a column `nll`, as `answer_losses` gives it, at the cost of one short pass per batch.
    """
    if len({task_of(example.task).metrics for example in examples}) > 1:
        raise DataError(
            "tasks with different metrics", where="examples", value=sorted({example.task for example in examples}),
            remedy="Evaluate each task by itself.",
        )
    encoded = encoded_for(model, tokenizer, examples, max_length)
    needed = max(len(item.ids) - item.prompt_length for item in encoded)
    if max_new_tokens is not None and max_new_tokens < needed:
        raise ConfigError(
            f"the longest reference answer has {needed} tokens with its end", where="max_new_tokens",
            value=max_new_tokens, remedy="Leave it out, or allow that many.",
        )
    ends = answer_ends(model, tokenizer, encoded)
    tokens, nll = _greedy_tokens(
        model, tokenizer, examples, encoded, ends, max_new_tokens, batch_size, max_length, losses,
    )
    one_line, rows = _one_line(examples), []
    for example, item, generated in zip(examples, encoded, tokens, strict=True):
        prediction, target = _text(tokenizer, generated, ends, one_line), item.ids[item.prompt_length :]
        rows.append({
            "id": example.meta.get("id", ""), "prediction": prediction,
            **task_of(example.task).score(prediction, example.answers),
            "forced_exact_match": float(same_tokens(generated[: len(target)], target, ends)),
        })
    found = pd.DataFrame(rows)
    return found.assign(nll=nll) if losses else found


def greedy_answers(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_new_tokens: int | None = None,
    batch_size: int = 8, max_length: int | None = None,
) -> list[str]:
    """The model's greedy answers in the order of the examples: one line, without special tokens and outer spaces.

    An answer ends at any token that ends the model's answers (`ends.answer_ends`), at a newline (as in the script
    of multi-document question answering; unless an accepted answer has one) or after `max_new_tokens`. Arguments and
    errors as in `evaluate`.
    """
    encoded = encoded_for(model, tokenizer, examples, max_length)
    ends = answer_ends(model, tokenizer, encoded)
    tokens, _ = _greedy_tokens(model, tokenizer, examples, encoded, ends, max_new_tokens, batch_size, max_length)
    one_line = _one_line(examples)
    return [_text(tokenizer, generated, ends, one_line) for generated in tokens]


def _greedy_tokens(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], encoded: Sequence[Encoded],
    ends: frozenset[int], max_new_tokens: int | None, batch_size: int, max_length: int | None, losses: bool = False,
) -> tuple[list[list[int]], list[float]]:
    """The generated ids of every example, the ending token among them; with `losses` those of the references, too."""
    accepted = [answer for example in examples for answer in example.answers]
    if max_new_tokens is None:
        lengths = tokenizer([f" {answer}" for answer in accepted], add_special_tokens=False)["input_ids"]
        references = (len(item.ids) - item.prompt_length for item in encoded)
        max_new_tokens = max(*map(len, lengths), *references) + SLACK
    if max_new_tokens < 1:
        raise ConfigError("no token to generate", where="max_new_tokens", value=max_new_tokens, remedy="Use 1 or more.")
    stop = Stop(tokenizer, newline=_one_line(examples), ends=ends)
    prompts = [item.ids[: item.prompt_length] for item in encoded]
    batches = batches_of(encoded, batch_size, "greedy answers")
    with evaluation_mode(model, max_length):
        if not losses:
            return greedy_tokens(model, prompts, batches, stop, max_new_tokens), []
        if keeps_all_keys(model):
            references = [item.ids[item.prompt_length :] for item in encoded]
            return greedy_tokens_and_losses(model, prompts, batches, stop, max_new_tokens, references)
        tokens = greedy_tokens(model, prompts, batches, stop, max_new_tokens)
    return tokens, means_of(losses_of_tokens(model, encoded, batch_size, max_length)).tolist()


def _one_line(examples: Sequence[Example]) -> bool:
    return not any("\n" in answer for example in examples for answer in example.answers)


def _text(tokenizer: Any, tokens: list[int], ends: frozenset[int], one_line: bool) -> str:
    if tokens and tokens[-1] in ends:  # which the tokenizer may not know for a special token
        tokens = tokens[:-1]
    # clean_up_tokenization_spaces would change the text ("a ." to "a.") for some tokenizers
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return (text.split("\n")[0] if one_line else text).strip()
