"""What every head looks at while an answer is written: the passes, the rows that are read, the few numbers kept.

Examples are read in batches; many questions on one haystack after one pass over it. The haystack's keys and values are
then computed once: the rows that are read, those of the question and of the answer, lie in the few tokens that follow
it, and several questions stand side by side in one pass over these.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from retrieval_heads.attention.capture import Reducer, capture_attention, lean_attention, stop_at_last_attention
from retrieval_heads.attention.shared_context import CachedContext, Haystack, can_share, find_haystacks
from retrieval_heads.data.encode import Encoded, check_ids, encode, filled_up
from retrieval_heads.data.example import Example
from retrieval_heads.decoding import length_batches
from retrieval_heads.heads.contribution import Contribution, DirectPath
from retrieval_heads.models.layout import head_layout, vocabulary_size
from retrieval_heads.models.modes import refuse_not_finite
from retrieval_heads.progress import progress

CELLS = 2**28
"""Most attention probabilities of one layer that are read at once: 1 GiB in float32."""

QUESTION_ROWS = 256
"""Most rows of a question. Longer ones are not questions but prompts that begin with theirs, and all rows of a long
prompt would be the whole attention matrix."""


class HeadReadout(NamedTuple):
    """What all heads of a model look at in one example.

    Attributes:
        largest: int32 `[n_layers, n_heads, answer_length]`, position of the largest key at each answer position.
        mass: float64 `[n_layers, n_heads]`, attention probability inside the needles, mean over the answer's tokens.
        query_mass: float32 `[n_layers, n_heads]`, the same over the tokens of the question, as in QRHead (Zhang et al.,
            see the book's references; without its null query), the last `QUESTION_ROWS` at most; NaN where there is no
            question.
        contribution: float32 `[n_layers, n_heads]`, mean over the answer's tokens, see `contribution.py`; NaN where
            there is no room for displaced spans, or no direct path to the logits.
    """

    largest: np.ndarray
    mass: np.ndarray
    query_mass: np.ndarray
    contribution: np.ndarray


def collect_attention(
    model: nn.Module, encoded: Mapping[int, Encoded], path: DirectPath, batch_size: int = 8, seed: int = 0,
) -> Iterator[tuple[int, HeadReadout]]:
    """What every head looks at while the answer is written, for each example with its index, in any order.

    Call it with the model in evaluation mode and without gradients. Batches are padded on the right and have no mask:
    in a causal model no real position sees what follows it. Examples on one haystack (`find_haystacks`) are not in
    batches; their numbers are the same up to rounding. `path` is the model's, and `seed` that of the displaced spans.

    Raises:
        ModelError: the attention or a contribution is NaN or infinite; the error names the first place.
    """
    indices, examples = list(encoded), list(encoded.values())
    for index, one in encoded.items():
        check_ids(one.ids, vocabulary_size(model), f"example {index}")
    haystacks, others = [], list(range(len(examples)))
    if can_share(model):
        haystacks, others = find_haystacks(examples, [question_rows(one).start for one in examples])
    for haystack in progress(haystacks, "score heads, haystacks"):
        size = _questions_at_once(head_layout(model).n_heads, examples, haystack)
        with lean_attention(model, whatever_it_was=True):  # as in the passes that are read
            prefix = CachedContext(model, [examples[haystack.members[0]].ids[: haystack.length]])
        for start in range(0, len(haystack.members), size):
            members = haystack.members[start : start + size]
            found = _read(model, [examples[place] for place in members], path, seed, prefix)
            yield from zip([indices[place] for place in members], found, strict=True)
    batches = length_batches([len(examples[place].ids) for place in others], batch_size)
    for batch in progress(batches, "score heads"):
        members = [others[place] for place in batch]
        found = _read(model, [examples[place] for place in members], path, seed)
        yield from zip([indices[place] for place in members], found, strict=True)


def _questions_at_once(n_heads: int, examples: Sequence[Encoded], haystack: Haystack) -> int:
    chosen = [examples[place] for place in haystack.members]
    longest = max(len(one.ids) for one in chosen)
    n_rows = max(one.answer_length + len(question_rows(one)) for one in chosen)
    return max(1, CELLS // (n_heads * n_rows * (longest + len(chosen) * (longest - haystack.length))))


def _read(
    model: nn.Module, chosen: Sequence[Encoded], path: DirectPath, seed: int, prefix: CachedContext | None = None,
) -> Iterator[HeadReadout]:
    """One pass over some examples, and what is read of each.

    Without a prefix they are a batch. Behind a prefix, their suffixes stand one after the other in one row, and the
    keys of a suffix follow those of the suffixes before it: its positions are shifted to other columns.
    """
    device, length = next(model.parameters()).device, 0 if prefix is None else prefix.length
    suffixes = [one.ids[length:] for one in chosen]
    shifts = np.arange(len(chosen)) * (0 if prefix is None else max(map(len, suffixes)))
    columns = [np.arange(len(one.ids)) for one in chosen]
    for positions, shift in zip(columns, shifts, strict=True):
        positions[length:] += shift
    answers, questions = _filled([one.query_rows for one in chosen]), _filled([question_rows(one) for one in chosen])
    rows = torch.tensor(np.concatenate([answers, questions], 1) - length + shifts[:, None], device=device)
    targets = torch.tensor(np.stack([one.tokens[own + 1] for one, own in zip(chosen, answers, strict=True)]))
    spans = _find_spans(chosen, columns, device, seed)
    read = _reducer(spans, answers.shape[1], Contribution(path, targets, spans.contrast))

    def read_each(probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        own = probabilities.unflatten(2, rows.shape)  # [1, n_heads, n_questions, n_rows, n_keys]
        return read(own[0].transpose(0, 1), value, layer)

    wanted, reduce = (rows, read) if prefix is None else (rows.view(1, -1), read_each)
    with capture_attention(model, wanted, reduce) as layers, stop_at_last_attention(model):
        ids = torch.tensor(filled_up(suffixes), device=device)
        if prefix is None:
            model(input_ids=ids, logits_to_keep=1, use_cache=False)
        else:
            prefix.run(ids.view(1, -1), len(suffixes), logits_to_keep=1)
    # [batch, n_layers, n_heads, n_rows] of each part; only here the device is waited for
    parts = (torch.stack([kept.to(device) for kept in part], 1).cpu().numpy() for part in zip(*layers, strict=True))
    for one, shift, (largest, mass, written) in zip(chosen, shifts, zip(*parts, strict=True), strict=True):
        if not np.isfinite(mass).all() or not (path.reason or np.isfinite(written).all()):
            refuse_not_finite(model, one.ids, "the score of the heads")
        largest = np.where(largest < length, largest, largest - shift) if shift else largest
        yield _readout(one, largest, mass, written, answers.shape[1], seed)


def _filled(ranges: Sequence[range]) -> np.ndarray:
    """int64 `[batch, longest]`, the last row of each repeated to fill up."""
    return np.array(filled_up(ranges), dtype=np.int64)


def _readout(
    one: Encoded, largest: np.ndarray, mass: np.ndarray, written: np.ndarray, n_answer: int, seed: int
) -> HeadReadout:
    """One example's part of what was read, `[n_layers, n_heads, n_rows]`; the question's rows begin at `n_answer`."""
    n, asked = one.answer_length, range(n_answer, n_answer + len(question_rows(one)))
    nothing, room = np.full(mass.shape[:2], np.nan, dtype=np.float32), displaced_spans(one, seed=seed) is not None
    return HeadReadout(
        largest[:, :, :n], mass[:, :, :n].mean(-1, dtype=np.float64),
        nothing if one.question is None else mass[:, :, asked].mean(-1),
        written[:, :, :n].mean(-1) if room else nothing,
    )


def question_rows(one: Encoded) -> range:
    """Positions of the question; the prompt's last one where there is none, as each example needs a row."""
    last = one.prompt_length - 1
    first = last if one.question is None else min(one.question, last)
    return range(max(first, one.prompt_length - QUESTION_ROWS), one.prompt_length)


class _Spans(NamedTuple):
    """The keys that are looked at beside the largest, `[batch, n_columns]`: of the needles and the displaced spans."""

    columns: torch.Tensor  # int64, their indices among the keys; filled up with columns that weigh nothing
    inside: torch.Tensor  # float32, 1 inside the needles
    contrast: torch.Tensor  # float32, the same less the average mask of the displaced spans


def _find_spans(chosen: Sequence[Encoded], places: Sequence[np.ndarray], device: torch.device, seed: int) -> _Spans:
    """The spans of examples whose positions lie in the columns `places`, int `[len(ids)]` each."""
    found = []
    for one, columns in zip(chosen, places, strict=True):
        needles, displaced = one.needle_mask(), displaced_spans(one, seed=seed)
        contrast = needles.astype(np.float64) - (0 if displaced is None else displaced)
        used = np.flatnonzero(needles | (contrast != 0))
        found.append((columns[used], needles[used], contrast[used]))
    return _Spans(*(
        pad_sequence([torch.tensor(row, dtype=dtype) for row in part], batch_first=True).to(device)
        for part, dtype in zip(zip(*found, strict=True), (torch.int64, torch.float32, torch.float32), strict=True)
    ))


def _reducer(spans: _Spans, n_answer: int, contribution: Contribution) -> Reducer:
    """Reducer to three tensors `[batch, n_heads, n_rows]`: the largest key (int32) of the first `n_answer` rows, the
    probability inside the needles of all rows, and the contribution of the first `n_answer` rows.

    Of equal keys one is taken, on a CPU the first. The values may be those of one example for the whole batch.
    """

    def reduce(probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        """What is kept of the rows of one layer."""
        # reading whole rows is what costs, so only the largest key is sought in all of them
        (batch, n_heads, n_rows, _), (_, n_kv_heads, _, size) = probabilities.shape, value.shape
        columns = spans.columns.to(probabilities.device)
        looks = probabilities.gather(3, columns[:, None, None].expand(-1, n_heads, n_rows, -1))
        values = value.expand(batch, -1, -1, -1).gather(2, columns[:, None, :, None].expand(-1, n_kv_heads, -1, size))
        mass = (looks @ spans.inside.to(looks.device)[:, None, :, None]).squeeze(-1)
        largest = probabilities[:, :, :n_answer].argmax(-1).int()
        whole = probabilities[:, :, :n_answer], value
        return largest, mass, contribution(looks[:, :, :n_answer], values, layer, whole)

    return reduce


@torch.no_grad()
def answer_attention(model: nn.Module, tokenizer: Any, example: Example) -> np.ndarray:
    """float `[n_layers, n_heads, prompt tokens]`: the largest attention that any answer position pays to each token."""
    one, before = encode(example, tokenizer), model.config._attn_implementation
    model.set_attn_implementation("eager")  # which alone hands out its weights; the text is short
    try:
        read = model(input_ids=torch.tensor([one.ids]), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(before)
    rows = torch.cat(read)[:, :, list(one.query_rows), : one.prompt_length]
    return rows.amax(2).numpy()


def tokens_of(tokenizer: Any, example: Example) -> tuple[list[str], list[int]]:
    """The prompt cut at its tokens, and 1 for each of them that lies in a needle, else 0."""
    one = encode(example, tokenizer)
    offsets = tokenizer(example.text, return_offsets_mapping=True)["offset_mapping"][: one.prompt_length]
    starts = [start for start, _ in offsets] + [len(example.prompt)]
    inside = one.needle_mask()[: one.prompt_length]
    return [example.prompt[a:b] for a, b in pairwise(starts)], inside.astype(int).tolist()


@lru_cache(maxsize=2048)  # many models are scored on the same examples
def displaced_spans(encoded: Encoded, draws: int = 32, seed: int = 0) -> np.ndarray | None:
    """Average mask of spans that have the needles' lengths and lie elsewhere in the prompt.

    Each draw places spans of the needles' lengths at random, within the prompt and disjoint from the needles and from
    one another. The draws depend on the prompt's tokens and the seed only, so the order of the examples, the model and
    the answer do not matter.

    Returns:
        float64 `[len(ids)]`: the share of the draws that cover each position; None when the prompt has no room.
    """
    content = encoded.tokens[: encoded.prompt_length].tobytes()
    rng = np.random.default_rng([seed, zlib.crc32(content)])
    lengths = sorted((end - start for start, end in encoded.needles), reverse=True)
    inside = encoded.needle_mask()
    inside[encoded.prompt_length :] = True
    free = _free_starts(lengths[0], inside) if lengths else None  # where the first can go is the same in all draws
    placed = [mask for _ in range(draws) if (mask := _place(lengths, inside, rng, free)) is not None]
    if not placed:
        return None
    covered = np.mean(placed, axis=0)
    covered.flags.writeable = False  # the cache hands the same array to every caller
    return covered


def _place(
    lengths: Sequence[int], occupied: np.ndarray, rng: np.random.Generator, free: np.ndarray | None
) -> np.ndarray | None:
    """One draw: bool mask of the placed spans, longest first; None when one of them finds no room.

    `free`: where the first span can begin.
    """
    occupied, placed = occupied.copy(), np.zeros(len(occupied), dtype=bool)
    for place, length in enumerate(lengths):
        starts = free if place == 0 else _free_starts(length, occupied)
        if not len(starts):
            return None
        start = starts[rng.integers(len(starts))]
        occupied[start : start + length] = placed[start : start + length] = True
    return placed


def _free_starts(length: int, occupied: np.ndarray) -> np.ndarray:
    """Where a span of that length can begin."""
    filled = np.concatenate(([0], np.cumsum(occupied)))
    return np.flatnonzero(filled[length:] == filled[: len(filled) - length])
