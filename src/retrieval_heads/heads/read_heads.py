"""The passes in which the heads are read: in batches, or many questions after one pass over their haystack.

The haystack's keys and values are computed once. The rows that are read, those of the question and of the answer, lie
in the few tokens that follow it, and several questions stand side by side in one pass over these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from retrieval_heads.attention.capture import capture_attention, lean_attention, stop_at_last_attention
from retrieval_heads.attention.haystacks import Haystack, find_haystacks
from retrieval_heads.attention.shared_prefix import SharedPrefix, can_share
from retrieval_heads.data.encode import Encoded, check_ids, filled_up
from retrieval_heads.decoding import length_batches
from retrieval_heads.heads.contribution import Contribution
from retrieval_heads.heads.direct_path import DirectPath
from retrieval_heads.heads.reading import (
    Reading,
    find_spans,
    gather_layers,
    make_reading,
    question_rows,
    reader,
    row_table,
)
from retrieval_heads.models.layout import head_layout, vocabulary_size
from retrieval_heads.models.modes import refuse_not_finite
from retrieval_heads.progress import progress

CELLS = 2**28
"""Most attention probabilities of one layer that are read at once: 1 GiB in float32."""


def read_heads(
    model: nn.Module, encoded: Sequence[Encoded], path: DirectPath, batch_size: int = 8, seed: int = 0,
) -> Iterator[Reading]:
    """What every head looks at while the answer is written, one reading an example, in any order.

    Call it with the model in evaluation mode and without gradients. Batches are padded on the right and have no mask:
    in a causal model no real position sees what follows it. Examples on one haystack (`find_haystacks`) are not in
    batches; their readings are the same up to rounding. `path` is the model's, and `seed` that of the displaced spans.

    Raises:
        ModelError: the attention or a contribution is NaN or infinite; the error names the first place.
    """
    for index, one in enumerate(encoded):
        check_ids(one.ids, vocabulary_size(model), f"example {index}")
    haystacks, others = [], list(range(len(encoded)))
    if can_share(model):
        haystacks, others = find_haystacks(encoded, [question_rows(one).start for one in encoded])
    for haystack in progress(haystacks, "score heads, haystacks"):
        yield from _read_haystack(model, encoded, haystack, path, seed)
    batches = length_batches([len(encoded[index].ids) for index in others], batch_size)
    for batch in progress(batches, "score heads"):
        yield from _read_batch(model, encoded, [others[place] for place in batch], path, seed)


def _read_batch(
    model: nn.Module, encoded: Sequence[Encoded], members: list[int], path: DirectPath, seed: int
) -> Iterator[Reading]:
    device, chosen = next(model.parameters()).device, [encoded[index] for index in members]
    ids = torch.tensor(filled_up([one.ids for one in chosen]), device=device)
    answers, questions = _rows(chosen, device)
    spans = find_spans(chosen, [np.arange(len(one.ids)) for one in chosen], device, seed)
    contribution = Contribution(path, ids.gather(1, answers + 1), spans.contrast)
    reduce = reader(spans, answers.shape[1], contribution)
    rows = torch.cat([answers, questions], 1)
    with capture_attention(model, rows, reduce, with_values=True) as layers, stop_at_last_attention(model):
        model(input_ids=ids, logits_to_keep=1, use_cache=False)
    parts = zip(*gather_layers(layers, device), strict=True)
    for index, one, part in zip(members, chosen, parts, strict=True):
        _check_finite(model, one, path, part)
        yield make_reading(index, one, *part, answers.shape[1], seed)


def _read_haystack(
    model: nn.Module, encoded: Sequence[Encoded], haystack: Haystack, path: DirectPath, seed: int
) -> Iterator[Reading]:
    members = list(haystack.members)
    longest = max(len(encoded[index].ids) for index in members)
    n_rows = max(encoded[index].answer_length + len(question_rows(encoded[index])) for index in members)
    cells = head_layout(model).n_heads * n_rows * (longest + len(members) * (longest - haystack.length))
    size = max(1, CELLS // cells)
    with lean_attention(model, whatever_it_was=True):  # as in the passes that are read
        prefix = SharedPrefix(model, encoded[members[0]].ids[: haystack.length])
    for start in range(0, len(members), size):
        yield from _read_side_by_side(model, encoded, members[start : start + size], prefix, path, seed)


def _read_side_by_side(
    model: nn.Module, encoded: Sequence[Encoded], members: list[int], prefix: SharedPrefix, path: DirectPath, seed: int
) -> Iterator[Reading]:
    """Like a batch, with the suffixes one after the other in one row; the keys of a suffix follow those before it."""
    device, chosen = next(model.parameters()).device, [encoded[index] for index in members]
    suffixes = [one.ids[prefix.length :] for one in chosen]
    n_rows, n_questions = max(map(len, suffixes)), len(suffixes)
    shifts = [place * n_rows for place in range(n_questions)]
    answers, questions = _rows(chosen, torch.device("cpu"))
    rows = torch.cat([answers, questions], 1) - prefix.length + torch.tensor(shifts)[:, None]
    targets = [[one.ids[row + 1] for row in own] for one, own in zip(chosen, answers.tolist(), strict=True)]
    places = [np.arange(len(one.ids)) for one in chosen]
    for columns, shift in zip(places, shifts, strict=True):
        columns[prefix.length :] += shift
    spans = find_spans(chosen, places, device, seed)
    read = reader(spans, answers.shape[1], Contribution(path, torch.tensor(targets), spans.contrast))

    def reduce(probabilities: torch.Tensor, value: torch.Tensor, layer: int) -> tuple[torch.Tensor, ...]:
        own = probabilities.unflatten(2, rows.shape)  # [1, n_heads, n_questions, n_rows, n_keys]
        return read(own[0].transpose(0, 1), value, layer)

    wanted = rows.view(1, -1).to(device)
    with capture_attention(model, wanted, reduce, with_values=True) as layers, stop_at_last_attention(model):
        prefix.run(suffixes)
    parts = zip(*gather_layers(layers, device), strict=True)
    for index, one, shift, (largest, *others) in zip(members, chosen, shifts, parts, strict=True):
        _check_finite(model, one, path, (largest, *others))
        largest = np.where(largest < prefix.length, largest, largest - shift)  # from columns to positions
        yield make_reading(index, one, largest, *others, answers.shape[1], seed)


def _check_finite(model: nn.Module, one: Encoded, path: DirectPath, parts: Sequence[np.ndarray]) -> None:
    """Raise where the attention, or a contribution where there is a path, is not finite in some layer."""
    if not np.isfinite(parts[1]).all() or not (path.reason or np.isfinite(parts[2]).all()):
        refuse_not_finite(model, one.ids, "the score of the heads")


def _rows(chosen: Sequence[Encoded], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions that are read, of the answers and of the questions, int64 `[examples, longest]` each."""
    answers = row_table([one.query_rows for one in chosen], device)
    return answers, row_table([question_rows(one) for one in chosen], device)
