"""The table `head_hits`: scores by probe example, compact, from which those of the table `head_scores` follow."""

from __future__ import annotations

import numpy as np
import pandas as pd

from retrieval_heads.heads.scores import HeadScores
from retrieval_heads.keys import RunKey
from retrieval_heads.stages.detect import hit_rows
from retrieval_heads.tables import conform

KEY = RunKey("pretrained", "mdqa", "real", 1, "smollm2")


def scores(each: np.ndarray, chance: np.ndarray) -> HeadScores:
    nothing = np.zeros(each.shape[1:], dtype=np.float32)
    return HeadScores(each.mean(axis=0), np.nanmean(chance, axis=0), nothing, nothing, nothing, each, chance, each,
                      tuple(range(3, 3 + len(each))), {}, "copy", "forced")


def test_means_of_the_rows_over_all_examples_are_the_scores() -> None:
    rng = np.random.default_rng(0)
    each = (rng.random((6, 3, 4)) * (rng.random((6, 3, 4)) > 0.6)).astype(np.float32)
    chance = (0.1 * each[::-1]).astype(np.float32)
    rows = conform("head_hits", hit_rows(KEY, scores(each, chance)))
    assert len(rows) == ((each > 0) | (chance > 0)).sum() < each.size
    assert set(rows["example"]) == set(range(3, 9))  # indices in the probe set, not places among those used
    for column, values in (("score", each), ("chance", chance)):
        sums = rows.groupby(["layer", "head"])[column].sum().reindex(
            pd.MultiIndex.from_product([range(3), range(4)]), fill_value=0).to_numpy().reshape(3, 4)
        np.testing.assert_allclose(sums / 6, values.mean(axis=0), atol=1e-4)


def test_an_example_without_room_has_the_chance_level_0_and_no_row_without_a_score() -> None:
    each = np.zeros((2, 1, 2), dtype=np.float32)
    each[0, 0, 1] = 0.5
    rows = pd.DataFrame(hit_rows(KEY, scores(each, np.full_like(each, np.nan))))
    assert rows[["example", "layer", "head", "score", "chance"]].to_numpy().tolist() == [[3, 0, 1, 0.5, 0.0]]
