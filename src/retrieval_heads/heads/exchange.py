"""Head scores in the JSON of Retrieval_Head (Wu et al. 2024, arXiv 2404.15574): its files can stand beside ours.

    {"0-0": [0.0, 0.034, ...], "0-1": [...], ...}

One key for each `layer-head`, both from 0, and under it the head's score on each example. Theirs is the number of hits
while the model writes its own answer, over the needle's tokens; ours the share of the answer's tokens. Levels differ,
therefore; ranks can be compared (`score_agreement`).

Published files have their oddities. Lists can differ in length, and a program that was run twice has appended its
scores to the file, so that every list holds them twice. Both leave means that can be used, and both are warned of.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from retrieval_heads.errors import ConfigError, DataError
from retrieval_heads.files import write_whole
from retrieval_heads.heads.select import select_heads
from retrieval_heads.models.layout import Head, HeadLayout
from retrieval_heads.stats.overlap import matrices, overlap
from retrieval_heads.stats.resample import NAN

TOP = (10, 20, 50)
"""How many of the best heads are compared."""


@dataclass(frozen=True, eq=False)
class ExchangedScores:
    """Head scores from a file.

    Attributes:
        scores: float32 `[n_layers, n_heads]`, mean of each head's list.
        counts: int64 `[n_layers, n_heads]`, length of each head's list.
        name: the file, or `scores` for a mapping.
    """

    scores: np.ndarray
    counts: np.ndarray
    name: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.scores, dtype=dtype, copy=copy)


def read_scores(
    source: str | Path | Mapping[str, Any], shape: HeadLayout | tuple[int, int] | None = None
) -> ExchangedScores:
    """Read scores from a file or from a mapping of the same form.

    Args:
        source: path of a JSON file, or `{"layer-head": [scores]}`.
        shape: `(n_layers, n_heads)` or the layout of the scored model; None: what the keys span.

    Raises:
        DataError: a file that cannot be read or is not such a mapping; a key that does not name a head, or a head named
            twice; a head without scores, or with some that are not finite numbers; heads missing or not in the model.

    Warns:
        UserWarning: lists of unequal lengths; lists that hold their scores twice over.
    """
    given, name = (source, "scores") if isinstance(source, Mapping) else (_load(Path(source)), str(source))
    if not isinstance(given, Mapping) or not given:
        raise DataError(
            "no scores by head", where=name, value=given, remedy='Give an object such as {"0-0": [0.1], "0-1": [0.0]}.',
        )
    lists: dict[Head, np.ndarray] = {}
    for key, values in given.items():
        head = _head(key, name)
        if head in lists:
            raise DataError("a head twice", where=f"{name}, key {key}", remedy="Keep one of the lists.")
        lists[head] = _numbers(values, f"{name}, key {key}")
    size = _size(lists, shape, name)
    scores, counts = np.zeros(size, dtype=np.float64), np.zeros(size, dtype=np.int64)
    for head, values in lists.items():
        scores[head], counts[head] = values.mean(), len(values)
    _warn_of_oddities(lists, counts, name)
    return ExchangedScores(scores.astype(np.float32), counts, name)


def write_scores(path: str | Path, scores: Any) -> None:
    """Write scores in that form, whole or not at all.

    Args:
        path: the file; an existing one is replaced, never appended to.
        scores: what `retrieval_scores` returns, whose score on each example is written; or an array
            `[n_examples, n_layers, n_heads]`, or `[n_layers, n_heads]` for one score per head.

    Raises:
        DataError: an array of another form, or with values that are not finite.
    """
    table = np.asarray(getattr(scores, "per_example", scores), dtype=np.float64)
    table = table[None] if table.ndim == 2 else table
    if table.ndim != 3 or not table.size or not np.isfinite(table).all():
        raise DataError(
            "not finite scores of examples x layers x heads", where="scores", value=table.shape,
            remedy="Give what `retrieval_scores` returns.",
        )
    content = {
        f"{layer}-{head}": table[:, layer, head].tolist() for layer, head in np.ndindex(*table.shape[1:])
    }
    write_whole(Path(path), (json.dumps(content) + "\n").encode())


def _load(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
            raise DataError("a head twice", where=f"{path}, key {twice}", remedy="Keep one of the lists.")
        return found

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except DataError:  # is a ValueError, too
        raise
    except OSError as error:
        problem, value, remedy = "the file cannot be read", error.strerror, "Check the path."
    except (ValueError, RecursionError) as error:
        problem, value, remedy = "not JSON", str(error), "Give a score file as it was written."
    raise DataError(problem, where=path, value=value, remedy=remedy)


def _head(key: Any, name: str) -> Head:
    layer, dash, head = str(key).partition("-")
    if not (dash and all(part.isascii() and part.isdecimal() for part in (layer, head))):
        raise DataError(
            "a key that names no head", where=name, value=key, remedy="Write layer-head, both from 0, as in 12-3.",
        )
    return int(layer), int(head)


def _numbers(values: Any, where: str) -> np.ndarray:
    if not isinstance(values, list | tuple) or not values:
        raise DataError("not a list of scores", where=where, value=values, remedy="Give the score on each example.")
    for place, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(
                "not a finite number", where=f"{where}, item {place}", value=value,
                remedy="Leave out the examples that could not be scored, for every head.",
            )
    return np.array(values, dtype=np.float64)


def _size(lists: Mapping[Head, Any], shape: HeadLayout | tuple[int, int] | None, name: str) -> tuple[int, int]:
    """Layers and heads, all of which have a list."""
    spanned = tuple(max(head[axis] for head in lists) + 1 for axis in (0, 1))
    size = (shape.n_layers, shape.n_heads) if isinstance(shape, HeadLayout) else shape or spanned
    if spanned[0] > size[0] or spanned[1] > size[1]:
        raise DataError(
            f"the model has {size[0]} layers of {size[1]} heads", where=name, value=f"{spanned[0]} x {spanned[1]}",
            remedy="Give the scores of this model.",
        )
    if n_missing := size[0] * size[1] - len(lists):
        missing = next(head for head in np.ndindex(*size) if head not in lists)
        raise DataError(
            f"{n_missing} of {size[0]} x {size[1]} heads have no scores", where=name, value="{}-{}".format(*missing),
            remedy="Give every head of the model a list; zeros are scores too.",
        )
    return size


def _warn_of_oddities(lists: Mapping[Head, np.ndarray], counts: np.ndarray, name: str) -> None:
    if counts.min() < counts.max():
        warnings.warn(
            f"{name}: the heads have {counts.min()} to {counts.max()} scores each; every mean is over its own",
            stacklevel=3,
        )
    halves = (np.array_split(values, 2) for values in lists.values())
    if counts.min() > 1 and counts.max() % 2 == 0 and all(np.array_equal(one, other) for one, other in halves):
        warnings.warn(
            f"{name}: the second half of every list repeats the first, as after a second run that appended its scores; "
            "the means are the same, and the counts are twice the number of examples", stacklevel=3,
        )


def score_agreement(
    first: ArrayLike, second: ArrayLike, threshold: float = 0.1, top: Iterable[int] = TOP
) -> pd.DataFrame:
    """How far two score tables `[n_layers, n_heads]` agree, each measure with its chance level.

    The tables are of one model, or of two of the same shape.

    Args:
        threshold: heads strictly above it are compared as sets.
        top: sizes of the sets of best heads. A size is left out when one of the tables has fewer heads with a score
            above 0, as the others would be taken in the order of layers.

    Returns:
        Rows `measure`, `value`, `chance` (expected for random heads), `low`, `high` (central 95% of chance) and `p`
        (chance of at least as much; NaN where there is nothing to test). `spearman` is over all heads, with the usual
        two-sided p-value; `top K` the common share of the best K; `jaccard`, `recall` (share of the first's heads that
        the second has) and `precision` (the other way round) are of the heads above the threshold. Their p-value is
        one, that of the number of common heads.

    Raises:
        ConfigError: tables of different shapes, not two-dimensional or with values that are not finite; a threshold
            that is not finite; a size below one.
    """
    one, two = matrices(first, second)
    if not np.isfinite(threshold):
        raise ConfigError("not a finite number", where="threshold", value=threshold, remedy="Use 0.1, say.")
    varied = np.ptp(one) > 0 and np.ptp(two) > 0
    rho, p = spearmanr(one, two, axis=None) if varied else (NAN, NAN)
    rows = [{"measure": "spearman", "value": float(rho), "chance": 0.0, "low": NAN, "high": NAN, "p": float(p)}]
    for k in top:
        if k < 1:
            raise ConfigError("less than one head", where="top", value=k, remedy="Give whole numbers from 1.")
        if min((one > 0).sum(), (two > 0).sum()) >= k:
            best = np.zeros((2, *one.shape))
            for mask, table in zip(best, (one, two), strict=True):
                mask[tuple(np.array(select_heads(table, k=k)).T)] = 1
            rows.append(_row(f"top {k}", "recall", overlap(*best, 0.5, n_permutations=1)))  # precision is the same
    row = overlap(one, two, threshold, n_permutations=1)
    rows += [_row(name, name, row) for name in ("jaccard", "recall", "precision")]
    return pd.DataFrame(rows)


def _row(measure: str, name: str, row: dict[str, float]) -> dict[str, float | str]:
    return {
        "measure": measure, "value": row[name], "chance": row[f"{name}_chance"], "low": row[f"{name}_chance_low"],
        "high": row[f"{name}_chance_high"], "p": row["overlap_p"],
    }
