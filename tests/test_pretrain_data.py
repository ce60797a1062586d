"""Rows for training the base model: seeded, the same for any number of workers, and with the answers marked."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pretrain.rows import RowBatches, make_row
from torch.utils.data import DataLoader

from retrieval_heads.data.tokenizer import embedded_tokenizer
from retrieval_heads.errors import DataError

LENGTH = 512


def row_of(seed: int, length: int = LENGTH, short: float = 0.5) -> np.ndarray:
    return make_row(random.Random(f"row|{seed}"), embedded_tokenizer(), length, short)


def test_the_same_stream_gives_the_same_row_and_another_one_another():
    rows = [row_of(seed) for seed in (0, 1, 0)]
    assert rows[0].shape == (2, LENGTH)
    assert rows[0].dtype == np.int32
    assert np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[1])


def test_batches_are_the_same_whatever_the_number_of_workers():
    batches = RowBatches(embedded_tokenizer(), batch=2, length=256, seed=3, total=4, shares=(1.0, 0.0))
    found = []
    for workers in (0, 1, 2):
        stream = iter(DataLoader(batches, batch_size=None, num_workers=workers))
        found.append(np.stack([np.asarray(next(stream)) for _ in range(4)]))
        del stream
    assert found[0].shape == (4, 2, 2, 256)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert len(np.unique(found[0].reshape(8, -1), axis=0)) == 8
    other = next(iter(RowBatches(embedded_tokenizer(), batch=2, length=256, seed=4, total=4, shares=(1.0, 0.0))))
    assert not np.array_equal(found[0][0], other)


@pytest.mark.parametrize("short", [0.0, 1.0])
def test_what_is_marked_is_what_follows_a_question_up_to_the_end_token(short):
    tokenizer = embedded_tokenizer()
    asks = tuple(tokenizer("Question: who?\nAnswer:", add_special_tokens=False)["input_ids"][-2:])
    assert tokenizer.decode(asks).strip() == "Answer:"
    breaks, answers = {tokenizer.bos_token_id, tokenizer.pad_token_id}, 0
    for seed in range(20):
        ids, marked = row_of(seed, short=short).tolist()
        expected, inside = [], False
        for place, token in enumerate(ids):
            # a scene that does not fit may end with a question whose answer is left out
            goes_on = inside and ids[place - 1] != tokenizer.eos_token_id
            inside = (goes_on or tuple(ids[max(0, place - 2) : place]) == asks) and token not in breaks
            expected.append(int(inside))
        assert marked == expected
        answers += ids.count(tokenizer.eos_token_id)
    assert answers > 60


def test_marked_answers_stand_in_the_documents_before_them():
    tokenizer = embedded_tokenizer()
    for seed in range(10):
        ids, marked = row_of(seed)
        ends = [place for place in np.flatnonzero(marked) if ids[place] == tokenizer.eos_token_id]
        for end in ends:
            start = end - next(back for back in range(LENGTH) if not marked[end - back - 1])
            scene = max(place for place in range(start) if ids[place] == tokenizer.bos_token_id)
            text = tokenizer.decode(ids[scene:start], skip_special_tokens=True)
            for part in tokenizer.decode(ids[start:end]).split(","):
                assert part.strip() in text


def test_rows_of_short_scenes_have_several_and_every_row_is_nearly_full():
    tokenizer = embedded_tokenizer()
    scenes = {
        short: [row_of(seed, short=short)[0].tolist().count(tokenizer.bos_token_id) for seed in range(10)]
        for short in (0.0, 1.0)
    }
    assert np.mean(scenes[1.0]) > np.mean(scenes[0.0]) + 0.5
    for seed in range(10):
        assert (row_of(seed)[0] == tokenizer.pad_token_id).mean() < 0.4


@pytest.mark.parametrize(("length", "message"), [
    (64, r"length: too short for a scene \(got 64\)\. Use \d+ or more tokens"),
    (160, r"length: the documents that the task needs are \d+ tokens .*Allow \d+ tokens more"),
])
def test_a_row_that_cannot_be_filled_is_an_error_and_no_endless_loop(length, message):
    with pytest.raises(DataError, match=message):
        [row_of(seed, length, short=1.0) for seed in range(20)]
