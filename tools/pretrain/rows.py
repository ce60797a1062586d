"""Rows of tokens for training the base model: scenes of all tasks and conditions, each with several questions.

Every row has its own random stream, so the data do not depend on how many workers make them. Short scenes, several to
a row, come first and more often: finding a fact among few documents is learned sooner, and reading on is then easy.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from retrieval_heads.data.examples import answer_to, build_scene, number, token_counter, write
from retrieval_heads.data.scene import Counter
from retrieval_heads.errors import DataError

REAL_SHARE = 0.65
OTHERS = ("real", "real_limited", "high_high", "high_low", "low_high", "low_low", "symbolic")
"""What the other scenes are drawn from: fixed, so that a new condition does not change the base model."""
TASK_SHARES = {"mdqa": 0.15, "musique": 0.6, "summhay": 0.25}
"""The harder tasks get more."""
COMPACT_SHARE = 0.2
"""Share of compact scenes among the long ones; short scenes are always compact."""
DOCUMENT_SHARES = (0.65, 0.85, 0.9)
"""Share of a scene's tokens for its documents: many questions to learn from, or nearly the longest context."""
SHORTEST = 150
"""Tokens at the end of a row that are worth another scene."""
QUERY_TOKENS = 22
"""Tokens of a question with its answer, roughly."""


def scene_texts(rng: random.Random, budget: int, n_queries: int, count: Counter, compact: bool = False) -> list[str]:
    """One scene as pieces of text: prompt, answer, further question, its answer, and so on."""
    task = rng.choices(tuple(TASK_SHARES), tuple(TASK_SHARES.values()))[0]
    condition = "real" if rng.random() < REAL_SHARE else rng.choice(OTHERS)
    scene = build_scene(rng, task, condition, budget, "base", count, n_queries, compact)
    numbers = number(rng, len(scene.documents))
    prompt, answer, _ = write(scene, scene.queries[0], numbers)
    pieces = [prompt, answer]
    for query in scene.queries[1:]:
        pieces += [f"Question: {query.text}\nAnswer:", answer_to(scene, query, numbers)]
    return pieces


def make_row(rng: random.Random, tokenizer: Any, length: int, short: float) -> np.ndarray:
    """One row, int32 `[2, length]`: token ids, and 1 where the token belongs to an answer.

    Args:
        rng: random stream of the row.
        tokenizer: a fast tokenizer with beginning, end and padding token.
        length: tokens a row.
        short: probability of a row of short scenes.

    Raises:
        DataError: the row is too short for any scene; it would be padding and nothing else.
    """
    if length < SHORTEST:
        raise DataError("too short for a scene", where="length", value=length, remedy=f"Use {SHORTEST} or more tokens.")
    bos, eos, backend = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.backend_tokenizer
    count = token_counter(tokenizer)
    row = np.full((2, length), tokenizer.pad_token_id, dtype=np.int32)
    row[1] = 0
    size = rng.choice((length // 3, length // 2)) if rng.random() < short else length
    position = misses = 0
    while position + SHORTEST <= length:
        try:
            budget = min(size, length - position)
            compact = budget < length or rng.random() < COMPACT_SHARE
            documents = int(budget * rng.choice(DOCUMENT_SHARES))
            n_queries = max(2, (budget - documents) // QUERY_TOKENS)
            pieces = scene_texts(rng, documents - QUERY_TOKENS, n_queries, count, compact)
        except DataError:  # a long chain in a short scene: draw another
            misses += 1
            if misses < 50:
                continue
            if position == 0:
                raise
            break
        tokens, answer = [bos], [0]
        for index, encoding in enumerate(backend.encode_batch_fast(pieces, add_special_tokens=False)):
            end = [eos] if index % 2 else []
            if len(tokens) + len(encoding.ids) + 1 > budget and index:
                break
            tokens += encoding.ids + end
            answer += [index % 2] * (len(encoding.ids) + len(end))
        taken = min(len(tokens), length - position)
        row[0, position : position + taken] = tokens[:taken]
        row[1, position : position + taken] = answer[:taken]
        position += taken
    return row


class RowBatches(IterableDataset):
    """Endless batches int32 `[batch, 2, length]`; batch k depends on `seed` and k alone.

    Args:
        tokenizer: a fast tokenizer.
        batch, length: rows a batch and tokens a row.
        seed: of the whole stream.
        total: batches of the whole training.
        shares: of rows with short scenes, at first and from half of the training on, falling in between.
    """

    def __init__(
        self, tokenizer: Any, batch: int, length: int, seed: int, total: int, shares: tuple[float, float],
    ) -> None:
        self.tokenizer = tokenizer
        self.batch, self.length, self.seed, self.total, self.shares = batch, length, seed, total, shares

    def __iter__(self) -> Iterator[np.ndarray]:
        worker = get_worker_info()
        step, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        first, last = self.shares
        while True:
            short = last + (first - last) * max(0.0, 1 - 2 * step / self.total)
            rows = [
                make_row(random.Random(f"row|{self.seed}|{step}|{i}"), self.tokenizer, self.length, short)
                for i in range(self.batch)
            ]
            yield np.stack(rows)
            step += stride
