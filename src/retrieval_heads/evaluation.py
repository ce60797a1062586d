"""How well a model answers: batched greedy decoding, teacher-forced answers and their losses, scores with intervals.

Prompts are taken as they are and tokenised together with the reference answer, exactly as in training (`encode_all`).
Examples of similar length share a batch, which in float32 gives the answers that its examples give one by one; see
`decoding` for how, and for why the decoding loop is our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from retrieval_heads.attention.capture import lean_attention
from retrieval_heads.attention.shared_context import keeps_all_keys
from retrieval_heads.data.encode import Encoded
from retrieval_heads.data.example import Example, task_of
from retrieval_heads.decoding import answer_ends, encode_for, greedy_tokens, length_batches, make_batch
from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.models.modes import evaluation_mode, refuse_not_finite
from retrieval_heads.progress import progress
from retrieval_heads.stats.resample import RESAMPLES, bootstrap_mean

SLACK = 8
"""Tokens that an answer may take beyond the longest accepted one before decoding stops."""


def metric_names(task: str) -> tuple[str, ...]:
    """The metrics of a task; a task of the user's own is scored as a question with a short answer."""
    return task_of(task).metrics


def main_metric(task: str) -> str:
    """The metric by which the study compares runs: F1 of the tokens, or of the citations for `summhay`."""
    return task_of(task).main_metric


def evaluate(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_new_tokens: int | None = None,
    batch_size: int = 8, max_length: int | None = None, level: float = 0.95, n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float]:
    """Means of the task's metrics over the examples, each with a bootstrap interval over examples.

    Args:
        model, tokenizer: a causal language model, plain or PEFT, and its fast tokenizer.
        examples: of one task, or of tasks with the same metrics.
        max_new_tokens: longest answer in tokens; when None, `SLACK` more than the longest accepted answer.
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
        ModelError: weights or activations that are NaN or infinite; an adapter that does not change weights (prompt
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

    Paired comparisons need the rows of two models on the same examples. `forced_exact_match` is read from the
    greedy tokens, at no further cost: up to the first wrong token, greedy decoding is teacher forcing. With `losses`
    there is a column `nll`, as `answer_losses` gives it, at the cost of one short pass per batch.
    """
    if len({task_of(example.task).metrics for example in examples}) > 1:
        raise DataError(
            "tasks with different metrics", where="examples", value=sorted({example.task for example in examples}),
            remedy="Evaluate each task by itself.",
        )
    encoded = _encoded(model, tokenizer, examples, max_length)
    needed = max(len(item.ids) - item.prompt_length for item in encoded)
    if max_new_tokens is not None and max_new_tokens < needed:
        raise ConfigError(
            f"the longest reference answer has {needed} tokens with its end", where="max_new_tokens",
            value=max_new_tokens, remedy="Leave it out, or allow that many.",
        )
    ends = answer_ends(model, tokenizer, encoded)
    tokens, texts, nll = _generate(
        model, tokenizer, examples, encoded, ends, max_new_tokens, batch_size, max_length, losses,
    )
    rows = []
    for example, item, generated, prediction in zip(examples, encoded, tokens, texts, strict=True):
        target = item.ids[item.prompt_length :]
        rows.append({
            "id": example.meta.get("id", ""), "prediction": prediction,
            **task_of(example.task).score(prediction, example.answers),
            "forced_exact_match": float(_same_tokens(generated[: len(target)], target, ends)),
        })
    found = pd.DataFrame(rows)
    return found.assign(nll=nll) if losses else found


def greedy_answers(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, max_new_tokens: int | None = None,
    batch_size: int = 8, max_length: int | None = None,
) -> list[str]:
    """The model's greedy answers in the order of the examples: one line, without special tokens and outer spaces.

    An answer ends at any token that ends the model's answers (`decoding.answer_ends`), at a newline (as in the script
    of multi-document question answering; unless an accepted answer has one) or after `max_new_tokens`. Arguments and
    errors as in `evaluate`.
    """
    encoded = _encoded(model, tokenizer, examples, max_length)
    ends = answer_ends(model, tokenizer, encoded)
    return _generate(model, tokenizer, examples, encoded, ends, max_new_tokens, batch_size, max_length)[1]


def forced_exact(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, end: bool = True, batch_size: int = 8,
    max_length: int | None = None,
) -> np.ndarray:
    """bool `[n]`: given the reference answer token by token, every token is the model's most likely one, then an end.

    Any token that ends the model's answers is an end. One forward pass per batch, no decoding. Other
    arguments and errors as in `evaluate`.

    Args:
        end: whether the end-of-sequence token after the answer must also be the most likely one. A model that was not
            fine-tuned to end there continues after a right answer, which is then wrong with `end=True`.
    """
    encoded = _encoded(model, tokenizer, examples, max_length)
    exact, ends = np.zeros(len(encoded), dtype=bool), answer_ends(model, tokenizer, encoded)
    for index, target, logits in _answer_logits(model, encoded, batch_size, max_length, "forced answers"):
        wanted = len(target) if end else encoded[index].answer_length
        exact[index] = _same_tokens(logits[:wanted].argmax(dim=-1).tolist(), target[:wanted], ends)
    return exact


def answer_losses(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, batch_size: int = 8, max_length: int | None = None
) -> np.ndarray:
    """float64 `[n]`: nats per token of the reference answer and of the end that is taught, given those before it.

    One forward pass per batch, no decoding. Arguments and errors as in `evaluate`.
    """
    found = _losses(model, _encoded(model, tokenizer, examples, max_length), batch_size, max_length)
    return np.array([one.mean() for one in found])


def token_losses(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], *, batch_size: int = 8, max_length: int | None = None
) -> list[tuple[np.ndarray, float | None]]:
    """For each example the nats of every answer token, float64 `[n_tokens]`, and those of the end after it.

    The second is None where the tokenizer has no end-of-sequence token. Otherwise as `answer_losses`.
    """
    encoded = _encoded(model, tokenizer, examples, max_length)
    found = _losses(model, encoded, batch_size, max_length)
    return [(losses[: one.answer_length], float(losses[-1]) if one.end else None)
            for one, losses in zip(encoded, found, strict=True)]


def _encoded(model: nn.Module, tokenizer: Any, examples: Sequence[Example], max_length: int | None) -> list[Encoded]:
    if not examples:
        raise DataError("no examples", where="examples", remedy="Give at least one example to evaluate.")
    return encode_for(model, tokenizer, examples, max_length)


def _batches(encoded: Sequence[Encoded], batch_size: int, description: str) -> Iterable[list[int]]:
    """Indices of examples of similar length, with a progress bar."""
    if batch_size < 1:
        raise ConfigError("an empty batch", where="batch_size", value=batch_size, remedy="Use 1 or more.")
    return progress(length_batches([len(item.ids) for item in encoded], batch_size), description)


def _losses(
    model: nn.Module, encoded: Sequence[Encoded], batch_size: int, max_length: int | None,
) -> list[np.ndarray]:
    """For each example the nats of every token after its prompt, float64."""
    losses: dict[int, np.ndarray] = {}
    for index, target, logits in _answer_logits(model, encoded, batch_size, max_length, "answer losses"):
        wanted = torch.tensor(target, device=logits.device)[:, None]
        losses[index] = -logits.float().log_softmax(dim=-1).gather(1, wanted)[:, 0].double().cpu().numpy()
    return [losses[index] for index in range(len(encoded))]


@torch.no_grad()
def _answer_logits(
    model: nn.Module, encoded: Sequence[Encoded], batch_size: int, max_length: int | None, description: str,
) -> Iterator[tuple[int, tuple[int, ...], torch.Tensor]]:
    """Index, target tokens and the logits `[targets, vocabulary]` that predict them, of each example."""
    with evaluation_mode(model, max_length):
        for members in _batches(encoded, batch_size, description):
            targets = [encoded[index].ids[encoded[index].prompt_length :] for index in members]
            batch = make_batch(model, [encoded[index].ids[:-1] for index in members])
            needed = [range(last - len(target) + 1, last + 1)
                      for last, target in zip(batch.last.tolist(), targets, strict=True)]
            wanted = sorted({row for one in needed for row in one})
            with lean_attention(model):  # no square mask for a sliding window
                logits = model(
                    **batch.inputs, use_cache=False, logits_to_keep=torch.tensor(wanted, device=batch.last.device),
                ).logits
            place = {row: index for index, row in enumerate(wanted)}
            for index, target, own, found in zip(members, targets, needed, logits, strict=True):
                chosen = found[[place[row] for row in own]]
                if not chosen.amax(-1).isfinite().all():  # -inf alone is a word that the model may not write
                    refuse_not_finite(model, encoded[index].ids, "the likelihood of the answer")
                yield index, target, chosen


def _same_tokens(said: Sequence[int], target: Sequence[int], ends: frozenset[int]) -> bool:
    """Whether the tokens are those of the target, any end for its end."""
    return [-1 if token in ends else token for token in said] == [-1 if token in ends else token for token in target]


def _generate(
    model: nn.Module, tokenizer: Any, examples: Sequence[Example], encoded: Sequence[Encoded], ends: frozenset[int],
    max_new_tokens: int | None, batch_size: int, max_length: int | None, losses: bool = False,
) -> tuple[list[list[int]], list[str], list[float]]:
    """Of each example the generated ids, with the ending token, their text and, if wanted, the reference's loss."""
    accepted = [answer for example in examples for answer in example.answers]
    references = [item.ids[item.prompt_length :] for item in encoded]
    if max_new_tokens is None:
        lengths = tokenizer([f" {answer}" for answer in accepted], add_special_tokens=False)["input_ids"]
        max_new_tokens = max(map(len, [*lengths, *references])) + SLACK
    if max_new_tokens < 1:
        raise ConfigError("no token to generate", where="max_new_tokens", value=max_new_tokens, remedy="Use 1 or more.")
    one_line = not any("\n" in answer for answer in accepted)
    stop = cache(lambda token: token in ends or (one_line and "\n" in tokenizer.decode([token])))
    prompts = [item.ids[: item.prompt_length] for item in encoded]
    batches = _batches(encoded, batch_size, "greedy answers")
    together = losses and keeps_all_keys(model)
    with evaluation_mode(model, max_length):
        tokens, nll = greedy_tokens(model, prompts, batches, stop, max_new_tokens, references if together else None)
    if losses and not together:
        nll = [float(one.mean()) for one in _losses(model, encoded, batch_size, max_length)]
    return tokens, [_text(tokenizer, one, ends, one_line) for one in tokens], nll


def _text(tokenizer: Any, tokens: list[int], ends: frozenset[int], one_line: bool) -> str:
    if tokens and tokens[-1] in ends:  # which the tokenizer may not know for a special token
        tokens = tokens[:-1]
    # clean_up_tokenization_spaces would change the text ("a ." to "a.") for some tokenizers
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return (text.split("\n")[0] if one_line else text).strip()
