"""Simulated raw tables of the pretrained study, in which it is known what holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

SYNTHETIC = ("high_high", "high_low", "low_high", "low_low", "symbolic")
RANKED = (
    "real_limited", *SYNTHETIC, "real_limited-high_high", "real_limited-low_low", "high_high-symbolic",
    "high_low-low_high", "real_quarter", "high_high_quarter",
)
TRAINED = ("real", *RANKED)
SEEDS = (1, 2, 3)
LAYERS, WIDTH = 6, 9


def answers(
    rng: np.random.Generator, levels: Mapping[str, float], *, alone: float = 0.05, seeds: Sequence[int] = SEEDS,
    n: int = 600, of_seeds: float = 0.005, task: str = "mdqa",
) -> dict[str, pd.DataFrame]:
    """The tables `answers` and `base_answers`: F1 around a level for each training set; `of_seeds` is its spread."""
    difficulty = rng.normal(0, 0.1, n)

    def rows(condition: str, seed: int, level: float) -> pd.DataFrame:
        score = np.clip(level + difficulty + rng.normal(0, 0.1, n), 0, 1)
        loss = 3 - score + rng.normal(0, 0.1, n)
        return pd.DataFrame({
            "task": task, "condition": condition, "seed": seed, "base": "smollm2", "example": np.arange(n),
            "reference": "x", "prediction": "x", "exact_match": 0.0, "score": score, "subspan": score.round(),
            "nll": loss, "nll_without": 3 + rng.normal(0, 0.1, n),
        })

    runs = [rows(name, seed, 0.3 + level + rng.normal(0, of_seeds)) for name, level in levels.items() for seed in seeds]
    theta = rows("rope", 0, 0.3 + alone).drop(columns=["seed", "reference", "prediction"])
    return {"answers": pd.concat(runs, ignore_index=True), "base_answers": theta}


def heads(
    rng: np.random.Generator, own: Mapping[str, tuple[float, float]], *, seeds: Sequence[int] = SEEDS, n: int = 200,
    alone: float = 0.2, task: str = "mdqa",
) -> dict[str, pd.DataFrame]:
    """The tables `head_scores` and `head_hits`.

    Theta alone has four heads of strength `alone`, which all runs keep. Real runs gain six heads of .5; a training set
    gains `shared` of each of these, and `other` of six further heads, given as `own[condition]`.
    """
    places = rng.permutation(LAYERS * WIDTH)
    old, good, bad = places[:4], places[4:10], places[10:16]
    hits, scores = [], []
    layer, head = np.divmod(np.arange(LAYERS * WIDTH), WIDTH)
    for condition, seed in [("rope", 0), *((name, one) for name in own for one in seeds)]:
        level = np.full(LAYERS * WIDTH, 0.002)
        level[old] = alone
        if condition != "rope":
            shared, other = own[condition]
            level[good] = 0.5 * shared + 0.002
            level[bad] = 0.5 * other + 0.002
            level = np.clip(level * np.exp(rng.normal(0, 0.02, level.size)), 0, 1)
        score = rng.binomial(5, level, (n, level.size)) / 5
        chance = rng.binomial(5, 0.002, score.shape) / 5
        example, place = np.nonzero((score > 0) | (chance > 0))
        about = {"task": task, "condition": condition, "seed": seed, "base": "smollm2", "kind": "copy",
                 "score_mode": "forced"}
        hits.append(pd.DataFrame(about | {
            "example": example, "layer": layer[place], "head": head[place], "score": score[example, place],
            "chance": chance[example, place]}))
        scores.append(pd.DataFrame(about | {
            "layer": layer, "head": head, "score": score.mean(axis=0), "chance": chance.mean(axis=0), "n_used": n}))
    return {"head_hits": pd.concat(hits, ignore_index=True), "head_scores": pd.concat(scores, ignore_index=True)}


def knockouts(
    rng: np.random.Generator, rises: Mapping[str, float], *, without: float = 0.0, gain: float = 1.0,
    conditions: Sequence[str] = ("real",), seeds: Sequence[int] = SEEDS, n: int = 150,
    counts: Sequence[int] = (3, 7, 14), of_seeds: float = 0.01, task: str = "mdqa",
) -> pd.DataFrame:
    """The table `knockout_losses`: the loss rises by `rises[set]` at the most heads, and by `without` the document."""
    difficulty, rows = rng.normal(2, 0.5, n), []
    for condition in conditions:
        for seed in seeds:
            start, alone = difficulty + rng.normal(0, 0.05, n), difficulty + gain + rng.normal(0, 0.05, n)
            start = start + rng.normal(0, of_seeds)
            about = {"task": task, "condition": condition, "seed": seed, "base": "smollm2", "example": np.arange(n)}
            rows.append(pd.DataFrame(about | {"set": "none", "k": 0, "draw": 0, "nll": start, "nll_without": alone}))
            for name, rise in rises.items():
                for k in counts:
                    size = (rise + rng.normal(0, of_seeds)) * np.log1p(k) / np.log1p(max(counts))
                    for draw in (0,) if name == "retrieval" else (1, 2):
                        own = without if name == "retrieval" else 0.0
                        rows.append(pd.DataFrame(about | {
                            "set": name, "k": k, "draw": draw, "nll": start + size + rng.normal(0, 0.05, n),
                            "nll_without": alone + own + rng.normal(0, 0.05, n)}))
    return pd.concat(rows, ignore_index=True)


def patches(
    rng: np.random.Generator, shares: Mapping[str, float], *, gap: float = 0.5, conditions: Sequence[str] = SYNTHETIC,
    seeds: Sequence[int] = SEEDS, n: int = 150, of_seeds: float = 0.01, task: str = "mdqa",
) -> pd.DataFrame:
    """The table `patching_losses`: each set of heads closes its share of the gap to the real run."""
    difficulty, rows = rng.normal(2, 0.5, n), []
    for condition in conditions:
        for seed in seeds:
            about = {"task": task, "condition": condition, "seed": seed, "base": "smollm2", "example": np.arange(n)}
            size = gap + rng.normal(0, of_seeds)
            for name, part, k, draw in [
                ("none", 0.0, 0, 0), ("source", 1.0, 0, 0), ("all", shares["all"], 54, 0),
                *((name, shares[name], k, draw) for k in (3, 7, 14) for name, draw in
                  (("retrieval", 0), ("random_layer", 1), ("random_layer", 2))),
            ]:
                loss = difficulty + size * (1 - part) + rng.normal(0, 0.05, n) + rng.normal(0, of_seeds)
                rows.append(pd.DataFrame(about | {"set": name, "k": k, "draw": draw, "nll": loss}))
    return pd.concat(rows, ignore_index=True)


def probe_losses(rng: np.random.Generator, levels: Mapping[str, float], seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """The table `probe_loss`: noise around a level for each training set."""
    rows = pd.DataFrame([(name, seed, level + rng.normal(0, 0.01)) for name, level in levels.items() for seed in seeds],
                        columns=["condition", "seed", "loss"])
    return rows.assign(task="mdqa", base="smollm2", n=200)
